"""Lets people and runs of two sources work on three disks and an ssh host, and checks what is believed and deleted.

    sudo python3 -m tests.soak --identity --acts 300 --seed 1

The disks take turns at two places, one of which is reached by ssh. Before each run somebody does what people do: they
rename, copy, edit and delete snapshots and backups, swap disks, restore, roll back, set the clock. During some runs a
disk is swapped, another run works, or the run is killed. After each: whatever looks like a backup holds what its
snapshot held; nothing is gone that somebody made or that is the other source's; and one more ordinary run brings all
right, once that is out of the way of which it says so.
"""

import json
import os
import random
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.real.machine import RealTest, descendants, is_readonly, kill, sh, start_command, tree
from tests.real.sshd import Sshd
from tests.real.test_identity import set_writable

CLOCK = "BTRFS_BACKUP_TEST_CLOCK"  # hours by which the clock of a run is wrong
_HOURS = (0, 0, 0, 2, -2, 24 * 3, -24 * 2, 24 * 400)
_STAMP = re.compile(r"(b-)?\d{8}-\d{6}")
_ROW = re.compile(r"^ID \d+ .* received_uuid (\S+) +uuid (\S+) path (.+)$", re.MULTILINE)
_IN_THE_WAY = re.compile(r"cannot send \S+: '(\S+)' is in the way")


def run_with_wrong_clock() -> int:
    """Run the command with the arguments of this process, at the time that the environment tells."""
    from btrfs_backup import __main__
    from btrfs_backup.commands import run

    wrong = timedelta(hours=int(os.environ[CLOCK]))
    run.Real.__init__.__defaults__ = (lambda: datetime.now() + wrong,)  # type: ignore[attr-defined]
    return __main__.main()


@dataclass(frozen=True)
class Source:
    """A subvolume that is backed up, the folder of its snapshots, and those of its backups on whatever disk."""

    path: Path
    snapshots: Path
    options: tuple[str, ...]
    folders: tuple[str, ...]


class Subvolume(NamedTuple):
    path: Path
    uuid: str
    received: str

    @property
    def stream(self) -> str:
        return self.uuid if self.received == "-" else self.received

    @property
    def is_named(self) -> bool:
        """Whether it has the name of a snapshot, and is in no stage."""
        return bool(_STAMP.fullmatch(self.path.name)) and ".receiving" not in str(self.path)


class World:
    """All there is, and what is known of it.

    mounted: the disk at each place. held: whose the snapshot with that UUID is, and what it held when last looked at.
    proved: UUIDs of what is right, or not made by runs. made, spoiled: what people made, and what they changed that
    looks like a backup all the same. said: by the last run.
    """

    def __init__(self, test: RealTest, seed: int) -> None:
        self.test, self.random, self.count, self.clock, self.said = test, random.Random(seed), 0, 0, ""
        test.folder.chmod(0o755)
        self.server = Sshd(test.folder / "sshd")
        test.addCleanup(self.server.stop)
        self.pool = test.disk("pool", 600).path
        self.disks = [test.disk(name, 400).path for name in ("red", "green", "blue")]
        self.places = [test.folder / name for name in ("front", "back")]
        self.mounted: dict[Path, Path] = {}
        for place in self.places:
            place.mkdir()
            test.addCleanup(sh, "umount", "-l", place, check=False)
            self.mount(place, self.away())
        prefix, own = self.random.choice(["", "b-"]), self.random.choice(["backups", "backups", "other"])
        folders = self.random.choice([("backups",), ("backups", "second")])
        self.sources = [
            self.source("a", self.pool / "taken", "", folders),
            self.source("b", self.pool / "b" / "snapshot", prefix, (own,)),
        ]
        self.held: dict[str, tuple[Source, object]] = {}
        self.proved, self.spoiled = set[str](), set[str]()
        self.made: dict[str, object] = {}

    def source(self, name: str, snapshots: Path, prefix: str, folders: tuple[str, ...]) -> Source:
        keep = ("-N", self.random.choice("23"), "-n", self.random.choice("234"))
        options = (*keep, "-f", str(snapshots), "-p", prefix)
        return Source(self.test.subvolume(self.pool / name), snapshots, options, folders)

    def look(self) -> dict[str, Subvolume]:
        """All subvolumes, by UUID."""
        return {
            uuid: Subvolume(top / path, uuid, received)
            for top in (self.pool, *self.disks)
            for received, uuid, path in _ROW.findall(sh("btrfs", "subvolume", "list", "-u", "-R", top))
        }

    def uuid(self, path: Path) -> str:
        return next(uuid for uuid, each in self.look().items() if each.path == path)

    # --- what people do ---

    def act(self) -> str:
        """One of the acts; what it was, for a message."""
        self.count += 1
        acts = (self.rename, self.copy, self.edit, self.edit, self.edit, self.delete, self.swap, self.restore)
        act = self.random.choice([*acts, self.roll_back, self.set_clock])
        done = f"{act.__name__} {act()}"
        self.proved.update(self.look())
        return done

    def somewhere(self) -> list[Path]:
        """The snapshots or backups in a folder that nobody made by hand, sorted; mostly there are some."""
        folders: dict[Path, list[Path]] = {}
        for uuid, each in self.look().items():
            if each.is_named and uuid not in self.made and uuid not in self.spoiled:
                folders.setdefault(each.path.parent, []).append(each.path)
        return sorted(folders[self.random.choice(sorted(folders))]) if folders else []

    def name_beside(self, path: Path) -> Path:
        """A name in the folder of PATH: one of somebody's own, or of a snapshot."""
        if self.random.random() < 0.6:
            return path.with_name(f"mine-{self.count}")
        source = self.random.choice(self.sources)
        some = [each.path.name for each in self.look().values() if each.path.parent == source.snapshots]
        return path.with_name(self.random.choice(sorted([*some, f"{source.options[-1]}20260301-{self.count:06}"])))

    def rename(self) -> object:
        """To another name; what has that one gets the old name."""
        path = self.random.choice(self.somewhere())
        new, between = self.name_beside(path), path.with_name("between")
        path.rename(between)
        if new.exists():
            new.rename(path)
        between.rename(new)
        return self.made_by_hand(new, not _STAMP.fullmatch(new.name))

    def copy(self) -> object:
        path, writable = self.random.choice(self.somewhere()), self.random.random() < 0.5
        if (new := self.name_beside(path)).exists():
            return None
        sh("btrfs", "subvolume", "snapshot", *([] if writable else ["-r"]), path, new)
        if writable:
            (new / "mine").write_text("work")
        return self.made_by_hand(new, writable or not _STAMP.fullmatch(new.name))

    def made_by_hand(self, path: Path, is_theirs: bool = True) -> Path:
        if is_theirs:
            self.made[self.uuid(path)] = tree(path)
        return path

    def edit(self) -> object:
        """Through writable and back; btrfs-progs of today forget where a backup came from, older ones do not."""
        path = self.somewhere()[-1]
        today = self.random.random() < 0.4
        for readonly in ("false", "true"):
            if today:
                sh("btrfs", "property", "set", "-f", "-ts", path, "ro", readonly)
            else:
                set_writable(path, readonly == "false")
            if readonly == "false":
                (path / f"edit{self.count}").write_text("made by hand")
        if path.parent == self.sources[0].snapshots:
            self.roll_back(path)
        if not path.is_relative_to(self.pool):
            self.spoiled.add(self.uuid(self.made_by_hand(path, today)))
        return f"{path}{'' if today else ' by an older program'}"

    def delete(self) -> object:
        path = self.random.choice(self.somewhere())
        sh("btrfs", "subvolume", "delete", path)
        return path

    def swap(self) -> object:
        self.mount(place := self.random.choice(self.places), self.away())
        return f"{place.name} {self.mounted[place].name}"

    def away(self) -> Path:
        return next(disk for disk in self.disks if disk not in self.mounted.values())

    def mount(self, place: Path, disk: Path) -> None:
        if place in self.mounted:
            sh("umount", "-l", place)
        sh("mount", "--bind", disk, place)
        self.mounted[place] = disk

    def restore(self) -> object:
        """Of a backup of the first source, in place of that."""
        source, folder = self.sources[0], self.places[0] / "backups"
        good = [each for each in self.look().values() if each.uuid in self.proved - self.spoiled and each.is_named]
        good = [each for each in good if each.path.parent == self.real(folder) and each.stream in self.held]
        if not (ours := [each.path.name for each in good if self.held[each.stream][0] == source]):
            return None
        name, new = self.random.choice(sorted(ours)), self.pool / "new"
        result = self.test.run_command("--restore", "-f", source.snapshots, folder / name, new)
        if result.status:
            self.test.assertIn("in the way of the read-only copy", result.err)
            return f"{folder / name}, which was in the way"
        self.test.assertEqual(tree(new), tree(folder / name), result)
        self.replace()
        return folder / name

    def roll_back(self, path: Path | None = None) -> object:
        some = [each.path for each in self.look().values() if each.path.parent == self.sources[0].snapshots]
        path = path or self.random.choice(sorted(some))
        sh("btrfs", "subvolume", "snapshot", path, self.pool / "new")
        self.replace()
        return path

    def replace(self) -> None:
        """The first source is what is new."""
        sh("btrfs", "subvolume", "delete", self.sources[0].path)
        (self.pool / "new").rename(self.sources[0].path)

    def set_clock(self) -> object:
        self.clock = self.random.choice(_HOURS)
        return f"{self.clock} h"

    # --- runs ---

    def arguments(self, source: Source, some: bool) -> list[str]:
        """Of a run; SOME: perhaps not to all destinations, or from the ssh host."""
        places = [f"{self.places[0]}/{name}" for name in source.folders]
        places += [f"{self.server.url}{self.places[1]}/{source.folders[0]}"]
        if some and self.random.random() < 0.3:
            places = [self.random.choice(places)]
        here = f"{self.server.url}{source.path}" if some and self.random.random() < 0.2 else str(source.path)
        return [*self.server.arguments(), *source.options, here, *places]

    def start(self, arguments: list[str], clock: int = 0) -> "subprocess.Popen[str]":
        how = {"env": {CLOCK: str(clock)}, "module": "tests.soak"} if clock else {}
        return start_command(*arguments, start_new_session=True, **how)  # type: ignore[arg-type]

    def run(self, sources: list[Source]) -> str:
        """A run of SOURCES, to which that of a second run is added, with what happens meanwhile; what that was."""
        how = self.random.choice(["", "", "swap", "kill", "second", "second"])
        if how == "second":
            sources.append(self.random.choice(self.sources))
        before = self.look()
        for source in sources:
            for size in self.random.choices((100, 5000, 20_000, 3_000_000), k=3):
                (source.path / f"file{self.random.randrange(9)}").write_bytes(os.urandom(size))
        arguments = [self.arguments(source, True) for source in sources]
        runs = [self.start(each, self.clock) for each in arguments]
        moment, place, disk = self.random.uniform(0.1, 1.5), self.random.choice(self.places), self.away()

        def disturb() -> None:
            if how == "swap":
                self.mount(place, disk)
            for each in (runs[0].pid, *descendants(runs[0].pid)) if how == "kill" else ():
                kill(each)

        timer = threading.Timer(moment if how else 0, disturb)
        timer.start()
        self.said = "".join([each.communicate(timeout=120)[1] for each in runs])
        timer.join()
        self.test.assertNotIn("Traceback", self.said)
        allowed = {0, 10, *{"kill": [-9], "second": [3]}.get(how, [])}
        self.test.assertLessEqual({run.returncode for run in runs}, allowed, self.said)
        self.check(sources, before)
        own = (" ".join(word for word in each if not word.startswith("--ssh-opt")) for each in arguments)
        told = " and ".join(f"{run.returncode} of {words}" for run, words in zip(runs, own, strict=True))
        return f"{told} {how}".replace(str(self.test.folder), "").replace(self.server.url, "ssh:/")

    # --- what has to hold ---

    def check(self, sources: list[Source], before: dict[str, Subvolume]) -> None:
        """Behind runs of SOURCES."""
        now = self.look()
        for each in now.values():
            source = next((source for source in self.sources if each.path.parent == source.snapshots), None)
            if source and is_readonly(each.path):
                self.held[each.uuid] = self.held[each.stream] = (source, tree(each.path))
        for each in (before[uuid] for uuid in before.keys() - now.keys()):
            self.test.assertNotIn(each.uuid, self.made, f"{each.path}\n{self.said}")
            if each.is_named and each.stream in self.held:
                self.test.assertIn(self.held[each.stream][0], sources, f"{each.path}\n{self.said}")
        for uuid, content in self.made.items():
            self.test.assertEqual(tree(now[uuid].path), content, self.said)
        for each in now.values():
            new = each.is_named and each.received in self.held and each.uuid not in self.proved
            if new and not each.path.is_relative_to(self.pool) and is_readonly(each.path):
                self.test.assertEqual(tree(each.path), self.held[each.received][1], f"{each.path}\n{self.said}")
                self.proved.add(each.uuid)

    def heal(self, sources: list[Source]) -> None:
        """One more ordinary run of SOURCES, once that is out of the way of which the first says that it is."""
        for source in dict.fromkeys(sources):
            before, arguments = self.look(), self.arguments(source, False)
            for again in (False, True):
                run = self.start(arguments)
                self.said = run.communicate(timeout=120)[1]
                self.check([source], before)
                blocked = _IN_THE_WAY.findall(self.said)
                if again or not blocked:
                    break
                for path in map(self.real, blocked):
                    self.count += 1
                    path.rename(path.with_name(f"mine-{self.count}"))
            self.test.assertEqual(run.returncode, 0, self.said)
            self.check_status(source, arguments)

    def real(self, location: object) -> Path:
        """The path of what is at LOCATION, on the disk that is there."""
        path = Path(re.sub(r"^ssh://[^/]*", "", str(location)))
        place = next(each for each in self.places if path.is_relative_to(each))
        return self.mounted[place] / path.relative_to(place)

    def check_status(self, source: Source, arguments: list[str]) -> None:
        """Nothing is owed, and what is called complete was proved, where its snapshot is known."""
        told = json.loads(self.start(["--status", "--json", *arguments]).communicate(timeout=120)[0])
        self.test.assertEqual([each["owed"] for each in told["destinations"]], [[]] * len(told["destinations"]))
        for row in told["snapshots"]:
            for place, state in row["destinations"].items():
                if state == "complete" and (source.snapshots / row["name"]).exists():
                    self.test.assertIn(self.uuid(self.real(place) / row["name"]), self.proved, self.said)


def soak(test: RealTest, acts: int, seed: int, tell: Callable[[str], object] = lambda line: None) -> None:
    """Raises AssertionError, with the seed and what was done, when something did not hold."""
    done, world = list[str](), World(test, seed)
    world.heal(world.sources)
    for number in range(1, acts + 1):
        sources = [world.random.choice(world.sources)]
        try:
            for each in (world.act, partial(world.run, sources)):
                done += [f"{number}: {each()}"]
                tell(done[-1])
            world.heal(sources)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(done[-6:])) from error
