"""Kills runs of the command at any moment, and checks that one ordinary run then brings everything right.

    sudo python3 -m tests.soak --kills 200 --seed 1 [--ssh]
    sudo python3 -m tests.soak --cuts 200 --seed 1

Half of the kills come after some time, the others at a step: a program is about to be started or has been, a state
file is about to be replaced or has been. What is killed is the command with all that it started, the command alone, or
one of the programs that it started. With --ssh the source is on an ssh host, and one of the destinations, too.
With --identity other things happen, see tests.identity.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import breaks, cuts, identity, outages
from tests.real.machine import (
    COMPLETED,
    LOCK,
    OUTSTANDING,
    TOP,
    RealTest,
    descendants,
    kill,
    names,
    on_record,
    random_file,
    sh,
    show,
    tree,
)
from tests.real.sshd import Sshd

KEEP = ("-N", "2", "-n", "3")
STEP = "BTRFS_BACKUP_TEST_STEP"  # the number of the step at which a run kills itself


# --- a run that kills itself at a step -------------------------------------------------------------------------------


class Seam:
    """Stands between the command and the machine, counts steps and kills at one of them."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.count = 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.last:
            kill_all(os.getpid())

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any, **more: Any) -> Any:
            self.step()
            result = function(*arguments, **more)
            self.step()
            return result

        return stepping


def run_to_step() -> int:
    """Run the command with the arguments of this process, up to the step that the environment names."""
    from btrfs_backup import __main__
    from btrfs_backup.system import process, state

    seam = Seam(int(os.environ[STEP]))
    for owner, name in ((process.Children, "start"), (process.Children, "wait"), (state, "replace"), (os, "replace")):
        setattr(owner, name, seam.around(getattr(owner, name)))
    return __main__.main()


def kill_all(pid: int) -> None:
    """Kill a process and all that it started, the process itself first, so that it cannot clean up."""
    below = descendants(pid)
    if pid == os.getpid():
        for each in below:
            kill(each)
    for each in (pid, *below):
        with suppress(ProcessLookupError):
            kill(each)


# --- the world in which they run -------------------------------------------------------------------------------------


class Soak:
    """A source, two destinations with something foreign in each, and what is known of them."""

    def __init__(self, test: RealTest, seed: int, ssh: bool) -> None:
        self.test = test
        self.random = random.Random(seed)
        self.source = test.source()
        self.disks = [test.disk(name, 400).path for name in ("one", "two")]
        self.options: list[str] = []
        self.places: list[object] = [self.source, *self.disks]
        self.server: Sshd | None = None
        if ssh:
            test.folder.chmod(0o755)
            self.server = Sshd(test.folder / "sshd")
            test.addCleanup(self.server.stop)
            self.options = self.server.arguments()
            self.places[0] = f"{self.server.url}{self.source}"
            self.places[1] = f"{self.server.url}{self.disks[0]}"
        self.foreign = {disk: self.add_foreign(disk) for disk in self.disks}
        self.trees: dict[str, object] = {}  # by UUID
        self.steps = 60
        self.seconds = 0.5

    def add_foreign(self, disk: Path) -> dict[str, str]:
        """What must stay as it is; UUIDs by name."""
        (disk / "notes.txt").write_text("mine")
        for name in ("20200101-000000", "mine"):
            sh("btrfs", "subvolume", "create", disk / name)
        sh("btrfs", "property", "set", "-ts", disk / "20200101-000000", "ro", "true")
        return {name: show(disk / name)["UUID"] for name in ("20200101-000000", "mine")}

    def change_source(self) -> None:
        for number in range(self.random.randint(1, 5)):
            (self.source / f"file{self.random.randrange(30)}").write_bytes(os.urandom(self.random.randrange(20_000)))
            if number == 3:
                random_file(self.source / "large", self.random.randint(1, 12))

    def arguments(self) -> list[object]:
        places = self.random.choice([self.places[1:], self.places[1:], self.places[1:2], self.places[2:]])
        some = [option for option in ("--no-shared-stream", "-I", "-s") if self.random.random() < 0.15]
        return [*self.options, *KEEP, *some, self.places[0], *places]

    def kill_a_run(self) -> str:
        """Start a run and kill it; what was done, for a message."""
        arguments = self.arguments()
        if self.random.random() < 0.5:
            step = self.random.randint(1, self.steps)
            self.start(arguments, step=step).wait(60)
            return f"at step {step} of {' '.join(map(str, arguments))}"
        delay = self.random.uniform(0.1, self.seconds)
        whom = self.random.choice(["all", "all", "command", "child"])
        command = self.start(arguments)
        time.sleep(delay)
        if whom == "all":
            kill_all(command.pid)
        elif whom == "command":
            kill(command.pid)
        elif below := descendants(command.pid):
            with suppress(ProcessLookupError):
                kill(self.random.choice(below))
        command.wait(60)
        return f"{whom} after {delay:.2f} s of {' '.join(map(str, arguments))}"

    def start(self, arguments: list[object], step: int = 0) -> "subprocess.Popen[str]":
        module = "tests.soak" if step else "btrfs_backup"
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(TOP), **({STEP: str(step)} if step else {})},
            start_new_session=True,
        )

    def heal(self) -> None:
        """One ordinary run; then all has to be right."""
        began = time.monotonic()
        self.test.backup(*self.options, *KEEP, *self.places)
        self.seconds = (time.monotonic() - began) * 1.2
        snapshots = self.source / "snapshot"
        taken = names(snapshots)
        self.test.assertLessEqual(len(taken), 2)
        self.test.assertEqual(on_record(snapshots), {})
        self.test.assertEqual(
            {entry.name for entry in snapshots.iterdir()},
            {*taken, OUTSTANDING, COMPLETED, LOCK},
        )
        for disk in self.disks:
            self.check_disk(disk, taken)

    def check_disk(self, disk: Path, taken: list[str]) -> None:
        foreign = self.foreign[disk]
        self.test.assertEqual((disk / "notes.txt").read_text(), "mine")
        self.test.assertEqual(list(disk.glob(".*")), [], "stages are left")
        self.test.assertEqual({name: show(disk / name)["UUID"] for name in foreign}, foreign)
        backups = [name for name in names(disk) if name not in (*foreign, "notes.txt")]
        self.test.assertLessEqual(set(taken), set(backups))
        self.test.assertLessEqual(len(backups), 3)
        for name in backups:
            backup = show(disk / name)
            self.test.assertEqual(backup["Flags"], "readonly", f"{disk / name}")
            self.test.assertNotEqual(backup["Received UUID"], "-")
            if name in taken:
                self.test.assertEqual(backup["Received UUID"], show(self.source / "snapshot" / name)["UUID"])
            snapshot = self.source / "snapshot" / name
            # One that a killed run has taken may be gone from the source before anybody saw what is in it.
            if snapshot.exists() or backup["Received UUID"] in self.trees:
                wanted = self.content(snapshot, backup["Received UUID"])
                self.test.assertEqual(self.content(disk / name, backup["UUID"]), wanted, f"{disk / name}")

    def content(self, path: Path, uuid: str) -> object:
        """What is in a read-only subvolume, read once."""
        if uuid not in self.trees:
            self.trees[uuid] = tree(path)
        return self.trees[uuid]


def soak(test: RealTest, kills: int, seed: int, ssh: bool, tell: Callable[[str], object] = lambda line: None) -> None:
    """Raises AssertionError, with the number of the kill and what was done, when something was not brought right."""
    world = Soak(test, seed, ssh)
    world.heal()
    for number in range(1, kills + 1):
        world.change_source()
        done = world.kill_a_run()
        tell(f"{number}: {done}")
        with test.subTest(seed=seed, kill=number, done=done):
            world.heal()


class Run(RealTest):
    """What `python3 -m tests.soak` does; no test of its own."""

    kills, cuts, breaks, outages, acts, seed, ssh = 0, 0, 0, 0, 0, 0, False

    def runTest(self) -> None:  # noqa: N802  # unittest's name
        def tell(line: str) -> None:
            print(line, file=sys.stderr)

        if self.cuts:
            cuts.soak(self, self.cuts, self.seed, tell)
        elif self.breaks:
            tell(f"{breaks.soak(self, self.breaks, self.seed, tell)} runs did not end well")
        elif self.outages:
            outages.soak(self, self.outages, self.seed, tell)
        elif self.acts:
            identity.soak(self, self.acts, self.seed, tell)
        else:
            soak(self, self.kills, self.seed, self.ssh, tell)


def main() -> int:
    if STEP in os.environ:
        return run_to_step()
    if identity.CLOCK in os.environ:
        return identity.run_with_wrong_clock()
    parser = argparse.ArgumentParser(description="kill runs at any moment, and check that the next one heals")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=0, help="cut so many transfers instead, see tests/cuts.py")
    parser.add_argument("--breaks", type=int, default=0, help="break so many connections, see tests/breaks.py")
    parser.add_argument("--outages", type=int, default=0, help="cut off the power so often, see tests/outages.py")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ssh", action="store_true", help="source and one destination on an ssh host")
    parser.add_argument("--identity", action="store_true", help="no kills, but two sources, three disks and people")
    parser.add_argument("--acts", type=int, default=300, help="of people, each followed by a run")
    options = parser.parse_args()
    Run.acts = options.acts if options.identity else 0
    Run.breaks, Run.outages = options.breaks, options.outages
    Run.kills, Run.cuts, Run.seed, Run.ssh = options.kills, options.cuts, options.seed, options.ssh
    from unittest import TextTestRunner

    return 0 if TextTestRunner(failfast=True).run(Run()).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
