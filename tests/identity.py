"""Lets people and runs of two sources work on three disks and an ssh host, and checks what is believed and deleted.

    sudo python3 -m tests.soak --identity --acts 300 --seed 1

The disks take turns at two places, one of which is reached by ssh. Before each run somebody does what people do: they
rename, copy, edit and delete snapshots and backups, swap disks, restore, roll back, set the clock. During some runs a
disk is swapped, another run works, or the run is killed. After each: whatever has the name and the UUID of a backup
holds what its snapshot held; nothing is gone that somebody made or that is the other source's; and one more ordinary
run brings everything right, once that is out of the way of which it says so.
"""

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.real.machine import TOP, RealTest, descendants, is_readonly, kill, names, sh, tree
from tests.real.sshd import Sshd
from tests.real.test_identity import set_writable

CLOCK = "BTRFS_BACKUP_TEST_CLOCK"  # seconds by which the clock of a run is wrong
STAMP = re.compile(r"(b-)?\d{8}-\d{6}")
_ROW = re.compile(r"^ID \d+ .* received_uuid (\S+) +uuid (\S+) path (.+)$", re.MULTILINE)
_IN_THE_WAY = re.compile(r"cannot send (\S+): '(\S+)' is in the way")
_HOURS = (0, 0, 0, 2, -2, 24 * 3, -24 * 2, 24 * 400)


def run_with_wrong_clock() -> int:
    """Run the command with the arguments of this process, at the time that the environment tells."""
    from btrfs_backup import __main__
    from btrfs_backup.commands import run

    wrong = timedelta(seconds=int(os.environ[CLOCK]))
    run.Real.__init__.__defaults__ = (lambda: datetime.now() + wrong,)  # type: ignore[attr-defined]
    return __main__.main()


@dataclass
class Source:
    """A subvolume that is backed up, and the folder of its snapshots."""

    path: Path
    snapshots: Path
    options: list[str]
    prefix: str
    folders: list[str]  # of its backups, on whatever disk
    keep: list[str] = field(default_factory=list)


def entries(folder: Path) -> list[str]:
    return names(folder) if folder.is_dir() else []


class Found(dict[str, tuple[str, str]]):
    """The subvolumes of a filesystem, path and received UUID by UUID."""

    def __init__(self, top: Path) -> None:
        rows = _ROW.findall(sh("btrfs", "subvolume", "list", "-u", "-R", top))
        super().__init__({uuid: (path, received) for received, uuid, path in rows})


class World:
    """All there is, and what is known of it.

    mounted: the disk at each place. held: what the snapshot with that UUID held when it was looked at last, and whose
    it is. proved: UUIDs of backups with the right content. made: what people made, by UUID: its disk and content.
    spoiled: what they changed and what looks like a backup all the same.
    """

    def __init__(self, test: RealTest, seed: int) -> None:
        self.test, self.random, self.count = test, random.Random(seed), 0
        test.folder.chmod(0o755)
        self.server = Sshd(test.folder / "sshd")
        test.addCleanup(self.server.stop)
        self.pool = test.disk("pool", 600).path
        self.disks = [test.disk(name, 400).path for name in ("red", "green", "blue")]
        self.places = [test.folder / name for name in ("front", "back")]
        self.mounted: dict[Path, Path] = {}
        for place, disk in zip(self.places, self.disks, strict=False):
            place.mkdir()
            test.addCleanup(sh, "umount", "-l", place, check=False)
            self.mount(place, disk)
        prefix = self.random.choice(["", "b-"])
        folders = [["backups"], self.random.choice([["backups"], ["backups"], ["other"]])]
        folders[0] += ["second"] if self.random.random() < 0.4 else []
        self.sources = [
            Source(self.pool / "a", self.pool / "taken", ["-f", str(self.pool / "taken")], "", folders[0]),
            Source(self.pool / "b", self.pool / "b" / "snapshot", ["-p", prefix], prefix, folders[1]),
        ]
        for source in self.sources:
            test.subvolume(source.path)
            source.keep = ["-N", self.random.choice("23"), "-n", self.random.choice("234")]
        self.clock = 0
        self.held: dict[str, tuple[Source, object]] = {}
        self.proved: set[str] = set()
        self.spoiled: set[str] = set()
        self.made: dict[str, tuple[Path, object]] = {}
        self.said = ""

    def mount(self, place: Path, disk: Path) -> None:
        if place in self.mounted:
            sh("umount", "-l", place)
        sh("mount", "--bind", disk, place)
        self.mounted[place] = disk

    # --- what people do ---

    def act(self) -> str:
        """One of the acts; what it was, for a message."""
        self.count += 1
        acts = (self.rename, self.copy, self.edit, self.delete, self.swap, self.restore, self.roll_back, self.set_clock)
        act = self.random.choice([*acts, self.block, self.edit, self.edit])
        done = f"{act.__name__} {act()}"
        # Whatever came of it, no run has made it.
        self.proved.update(*map(Found, self.disks))
        return done

    def somewhere(self, newest: bool = False) -> Path | None:
        """A snapshot or backup that nobody made by hand; the NEWEST in its folder."""
        folders = [source.snapshots for source in self.sources]
        folders += [disk / name for disk in self.disks for source in self.sources for name in source.folders]
        found = {top / path: uuid for top in (self.pool, *self.disks) for uuid, (path, _) in Found(top).items()}
        mine = {path for path, uuid in found.items() if uuid in self.made or uuid in self.spoiled}
        usable = [
            [folder / name for name in entries(folder) if STAMP.fullmatch(name) and folder / name not in mine]
            for folder in folders
        ]
        some = self.random.choice([some for some in usable if some] or [[]])
        return self.pick(some[-1:] if newest else some)

    def pick(self, some: list[Path]) -> Path | None:
        return self.random.choice(some) if some else None

    def top(self, path: Path) -> Path:
        return next(each for each in (self.pool, *self.disks) if path.is_relative_to(each))

    def make(self, path: Path) -> None:
        """PATH is what somebody made."""
        self.made[self.uuid(path)] = (self.top(path), tree(path))

    def uuid(self, path: Path) -> str:
        top = self.top(path)
        return next(uuid for uuid, (found, _) in Found(top).items() if top / found == path)

    def free_name(self, beside: Path, of_ours: bool) -> Path:
        """A name in the same folder that is free, perhaps OF OUR form."""
        if not of_ours:
            return beside.with_name(f"mine-{self.count}")
        source = self.random.choice(self.sources)
        stamps = [*entries(source.snapshots), f"{source.prefix}20260301-{self.count:06}"]
        return beside.with_name(next(each for each in self.random.sample(stamps, len(stamps)) if STAMP.fullmatch(each)))

    def rename(self) -> object:
        path = self.somewhere()
        if not path or (new := self.free_name(path, self.random.random() < 0.4)) == path:
            return None
        if new.exists():
            between = path.with_name("between")
            new.rename(between)
            path.rename(new)
            between.rename(path)
            return f"swapped {path} {new}"
        path.rename(new)
        if not STAMP.fullmatch(new.name):
            self.make(new)
        return f"{path} {new.name}"

    def copy(self) -> object:
        path, writable = self.somewhere(), self.random.random() < 0.5
        if not path or (new := self.free_name(path, self.random.random() < 0.4)).exists():
            return None
        sh("btrfs", "subvolume", "snapshot", *([] if writable else ["-r"]), path, new)
        if writable:
            (new / "mine").write_text("work")
        if writable or not STAMP.fullmatch(new.name):
            self.make(new)
        return f"{path} {new.name}{' writable' if writable else ''}"

    def edit(self) -> object:
        """Through writable and back; btrfs-progs of today forget where a backup came from, older ones do not."""
        path, today = self.somewhere(newest=True), self.random.random() < 0.4
        if not path or not is_readonly(path):
            return None
        for writable in (True, False):
            if today:
                sh("btrfs", "property", "set", "-f", "-ts", path, "ro", str(not writable).lower())
            else:
                set_writable(path, writable)
            if writable:
                (path / f"edit{self.count}").write_text("made by hand")
        if not path.is_relative_to(self.pool):
            if today:
                self.make(path)
            else:
                self.spoiled.add(self.uuid(path))
        if path.parent == self.sources[0].snapshots:
            self.roll_back(path)
        return f"{path}{'' if today else ' by an older program'}"

    def delete(self) -> object:
        if path := self.somewhere():
            sh("btrfs", "subvolume", "delete", path)
        return path

    def swap(self) -> object:
        place = self.random.choice(self.places)
        self.mount(place, self.away())
        return f"{place.name} {self.mounted[place].name}"

    def away(self) -> Path:
        return next(disk for disk in self.disks if disk not in self.mounted.values())

    def restore(self) -> object:
        """Of a backup of the first source, in place of that."""
        source, folder = self.sources[0], self.places[0] / "backups"
        named = [name for name in entries(folder) if STAMP.fullmatch(name)]
        ours = [name for name in named if self.is_whole(self.real(f"{folder}/{name}"), source)]
        if not ours:
            return None
        name, new = self.random.choice(ours), self.pool / f"restored{self.count}"
        expected = tree(folder / name)
        result = self.test.run_command("--restore", *source.options, folder / name, new)
        if result.status == 0:
            self.test.assertEqual(tree(new), expected, result)
            self.replace(source, new)
        else:
            # A snapshot of that name is there, and is another one.
            self.test.assertIn("in the way of the read-only copy", result.err)
        return f"{folder / name} {result.status}"

    def is_whole(self, path: Path, source: Source) -> bool:
        uuid, received = self.uuid(path), Found(path)
        return uuid in self.proved - self.spoiled and self.held.get(received[uuid][1], [None])[0] is source

    def roll_back(self, path: Path | None = None) -> object:
        source = self.sources[0]
        path = path or self.pick([source.snapshots / name for name in entries(source.snapshots)])
        if path:
            sh("btrfs", "subvolume", "snapshot", path, self.pool / "new")
            self.replace(source, self.pool / "new")
        return path

    def replace(self, source: Source, new: Path) -> None:
        source.path.rename(self.pool / "old")
        new.rename(source.path)
        sh("btrfs", "subvolume", "delete", self.pool / "old")

    def set_clock(self) -> object:
        self.clock = self.random.choice(_HOURS)
        return f"{self.clock} h"

    def block(self) -> object:
        """Something of somebody's in the place of a stage."""
        source, disk = self.random.choice(self.sources), self.random.choice(self.disks)
        folder, taken = disk / source.folders[0], entries(source.snapshots)
        if not taken or not folder.is_dir():
            return None
        stage = folder / f".{self.random.choice(taken)}.receiving"
        stage.mkdir(exist_ok=True)
        (stage / "mine").write_text("precious")
        return stage

    # --- runs ---

    def arguments(self, source: Source, some: bool) -> list[str]:
        places = [f"{self.places[0]}/{name}" for name in source.folders]
        places += [f"{self.server.url}{self.places[1]}/{source.folders[0]}"]
        if some and self.random.random() < 0.3:
            places = [self.random.choice(places)]
        here = f"{self.server.url}{source.path}" if some and self.random.random() < 0.2 else str(source.path)
        return [*self.server.arguments(), *source.options, here, *places]

    def start(self, arguments: list[str], clock: int = 0) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-S", "-m", "tests.soak" if clock else "btrfs_backup", *arguments],
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TOP), **({CLOCK: str(clock * 3600)} if clock else {})},
            start_new_session=True,
        )

    def change(self, source: Source) -> None:
        for number in range(self.random.randint(1, 3)):
            size = self.random.choice((100, 20_000, 3_000_000)) if number else 5000
            (source.path / f"file{self.random.randrange(9)}").write_bytes(os.urandom(size))

    def run(self, sources: list[Source]) -> str:
        """A run of SOURCES, to which that of a second run is added, with what happens meanwhile; what that was."""
        how = self.random.choice(["", "", "swap", "kill", "second", "second"])
        if how == "second":
            sources.append(self.random.choice(self.sources))
        before = {top: Found(top) for top in (self.pool, *self.disks)}
        for source in sources:
            self.change(source)
        arguments = [[*source.keep, *self.arguments(source, True)] for source in sources]
        runs = [self.start(each, self.clock) for each in arguments]
        moment, meanwhile = self.random.uniform(0.1, 1.5), self.meanwhile(how, runs[0].pid)
        delay = threading.Timer(moment if how else 0, meanwhile)
        delay.start()
        ends = [each.communicate(timeout=120) for each in runs]
        delay.join()
        self.said = "".join(err for _, err in ends)
        self.test.assertNotIn("Traceback", self.said)
        for run in runs:
            allowed = {0, 10} | ({-9} if how == "kill" else set()) | ({3} if how == "second" else set())
            self.test.assertIn(run.returncode, allowed, self.said)
        self.check(sources, before)
        told = " and ".join(
            f"{run.returncode} of {self.brief(each)}" for run, each in zip(runs, arguments, strict=True)
        )
        return f"{told}, {how}"

    def brief(self, arguments: list[str]) -> str:
        own = " ".join(each for each in arguments if not each.startswith("--ssh-opt"))
        return own.replace(str(self.test.folder), "").replace(self.server.url, "ssh:/")

    def meanwhile(self, how: str, pid: int) -> Callable[[], None]:
        place, disk = self.random.choice(self.places), self.away()

        def disturb() -> None:
            if how == "swap":
                self.mount(place, disk)
            if how == "kill":
                for each in (pid, *descendants(pid)):
                    kill(each)

        return disturb

    # --- what has to hold ---

    def check(self, sources: list[Source], before: dict[Path, Found]) -> None:
        """Behind runs of SOURCES."""
        now = {top: Found(top) for top in before}
        self.look_at_snapshots(now[self.pool])
        for top, found in before.items():
            for uuid in found.keys() - now[top].keys():
                path, received = found[uuid]
                self.test.assertNotIn(uuid, self.made, f"{top}/{path}\n{self.said}")
                owner = self.held.get(uuid if top == self.pool else received)
                if owner and ".receiving" not in path:
                    self.test.assertIn(owner[0].path, [each.path for each in sources], f"{top}/{path}\n{self.said}")
        for uuid, (top, content) in self.made.items():
            self.test.assertEqual(tree(top / now[top][uuid][0]), content, self.said)
        for disk in self.disks:
            for path in disk.glob("*/.*.receiving/mine"):
                self.test.assertEqual(path.read_text(), "precious")
            for uuid, (path, received) in now[disk].items():
                self.prove(disk / path, uuid, received)

    def look_at_snapshots(self, found: Found) -> None:
        for uuid, (path, received) in found.items():
            for source in self.sources:
                if (self.pool / path).parent == source.snapshots and is_readonly(self.pool / path):
                    self.held[uuid] = self.held[uuid if received == "-" else received] = (
                        source,
                        tree(self.pool / path),
                    )

    def prove(self, path: Path, uuid: str, received: str) -> None:
        """What has the name of a backup holds what its snapshot held when it was sent."""
        if uuid in self.proved or uuid in self.made or received == "-" or ".receiving" in str(path):
            return
        if is_readonly(path) and received in self.held:
            self.test.assertEqual(tree(path), self.held[received][1], f"{path}\n{self.said}")
            self.proved.add(uuid)

    def heal(self, sources: list[Source]) -> None:
        """One more ordinary run of SOURCES, once that is out of the way of which the first says that it is."""
        for source in {id(each): each for each in sources}.values():
            before = {top: Found(top) for top in (self.pool, *self.disks)}
            arguments = [*source.keep, *self.arguments(source, False)]
            for attempt in range(2):
                run = self.start(arguments)
                self.said = run.communicate(timeout=120)[1]
                self.check([source], before)
                blocked = _IN_THE_WAY.findall(self.said)
                if attempt or not blocked:
                    break
                for _, place in blocked:
                    self.count += 1
                    self.real(place).rename(self.free_name(self.real(place), False))
            self.test.assertEqual(run.returncode, 0, self.said)
            self.check_status(source, arguments)

    def real(self, location: str) -> Path:
        """The path of what is at LOCATION, on the disk that is there."""
        path = Path(re.sub(r"^ssh://[^/]*", "", location))
        place = next(each for each in self.places if path.is_relative_to(each))
        return self.mounted[place] / path.relative_to(place)

    def check_status(self, source: Source, arguments: list[str]) -> None:
        out, err = self.start(["--status", "--json", *arguments]).communicate(timeout=120)
        told: dict[str, Any] = json.loads(out)
        self.test.assertEqual([each["owed"] for each in told["destinations"]], [[]] * len(told["destinations"]), err)
        for row in told["snapshots"]:
            for place, state in row["destinations"].items():
                if state == "complete":
                    path = self.real(place) / row["name"]
                    uuid = self.uuid(path)
                    snapshot = source.snapshots / row["name"]
                    self.test.assertTrue(uuid in self.proved or not snapshot.exists(), f"{path}\n{self.said}")


def soak(test: RealTest, acts: int, seed: int, tell: Callable[[str], object] = lambda line: None) -> None:
    """Raises AssertionError, with the seed and what was done, when something did not hold."""
    done: list[str] = []
    world = World(test, seed)
    world.heal(world.sources)
    for number in range(1, acts + 1):
        try:
            done += [f"{number}: {world.act()}"]
            sources = [world.random.choice(world.sources)]
            tell(done[-1])
            done += [f"{number}: {world.run(sources)}"]
            tell(done[-1])
            world.heal(sources)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(done[-6:])) from error
