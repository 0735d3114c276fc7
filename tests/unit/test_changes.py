"""What a stream without data tells of the changes between two snapshots."""

import random
import unittest
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from btrfs_backup.model.changes import ADDED, CHANGED, METADATA, REMOVED, RENAMED, Change, Changes, Comparison
from btrfs_backup.model.sendstream import BrokenStream
from tests.unit.test_sendstream import END, HEADER, INCREMENT, command
from tests.unit.test_sendstream import number as u64

TOP = 256
Places = frozenset[tuple[int, bytes]]


@dataclass(frozen=True)
class Item:
    """A file or folder of a tree. names: the number of each folder that it is in, and its name there."""

    names: Places = frozenset()
    data: object = None
    rest: object = None
    folder: bool = False


Items = Mapping[int, Item]


def path(items: Items, place: tuple[int, bytes]) -> str:
    names = [place[1]]
    while place[0] != TOP:
        [place] = items[place[0]].names
        names.append(place[1])
    return b"/".join(reversed(names)).decode(errors="surrogateescape")


def expected(old: Items, new: Items) -> set[tuple[str, str, str]]:
    """What is to be found of two trees: (what, path, path before)."""

    def would(place: tuple[int, bytes]) -> str:
        """Where that of the old tree is in the new one, or would be."""
        folder = "" if place[0] == TOP else path(new, *new[place[0]].names) if place[0] in new else ""
        if place[0] != TOP and place[0] not in new:
            folder = would(*old[place[0]].names)
        return f"{folder}/{place[1].decode(errors='surrogateescape')}".lstrip("/")

    found: set[tuple[str, str, str]] = set()
    removed: dict[str, tuple[str, bool]] = {}
    gone = [(number, place) for number, each in old.items() for place in each.names]
    for number, place in gone:
        lost = place not in new[number].names if number in new else True
        renamed = number in new and (new[number].names - old[number].names)
        if lost and not renamed:
            lives = place[0] == TOP or place[0] in new
            if lives or not removed.get(would(place), ("", False))[1]:
                removed[would(place)] = path(old, place), lives
            found.add((REMOVED, path(old, place), ""))
    for number, each in new.items():
        before = old.get(number, Item())
        came = each.names - before.names
        if number not in old or (came and not before.names - each.names):
            for place in came:
                there = path(new, place)
                if there in removed:
                    found.discard((REMOVED, removed[there][0], ""))
                found.add((CHANGED if there in removed else ADDED, there, ""))
        elif came:
            [was], [came_to] = before.names - each.names, came
            found.add((RENAMED, path(new, came_to), path(old, was)))
        if number in old and not (came and before.names - each.names):
            [where] = [path(new, place) for place in each.names - came][:1] or ["."]
            if each.data != before.data:
                found.add((CHANGED, where, ""))
            elif each.rest != before.rest:
                found.add((METADATA, where, ""))
    return found


def told(changes: "list[Change]") -> set[tuple[str, str, str]]:
    return {(each.what, each.path, each.before) for each in changes}


def compared(*commands: bytes, piece: int = 7) -> list[Change]:
    stream = b"".join((HEADER, INCREMENT.frame(), *commands, END))
    comparison = Comparison()
    for start in range(0, len(stream), piece):
        comparison.feed(stream[start : start + piece])
    return comparison.finish()


def extent(path: bytes, size: int = 10) -> bytes:
    return command("UPDATE_EXTENT", PATH=path, FILE_OFFSET=u64(0), SIZE=u64(size))


def rename(path: bytes, to: bytes) -> bytes:
    return command("RENAME", PATH=path, PATH_TO=to)


def make(path: bytes, kind: str = "MKFILE") -> bytes:
    return command(kind, PATH=path, INO=u64(300))


def times(path: bytes) -> bytes:
    return command("UTIMES", PATH=path, ATIME=bytes(12), MTIME=bytes(12), CTIME=bytes(12))


def unlink(path: bytes) -> bytes:
    return command("UNLINK", PATH=path)


MODE = command("CHMOD", PATH=b"f", MODE=u64(0o600))


class Single(unittest.TestCase):
    def test_table(self) -> None:
        """As btrfs-progs 6.2 and Linux 6.18 write it."""
        new = (make(b"o300-9-0"), rename(b"o300-9-0", b"d/new"), extent(b"d/new", 5))
        table: tuple[tuple[str, tuple[bytes, ...], list[Change]], ...] = (
            ("nothing", (times(b""), times(b"f")), []),
            ("new", new, [Change(ADDED, "d/new", bytes=5)]),
            ("written", (extent(b"f", 3), extent(b"f", 4)), [Change(CHANGED, "f", bytes=7)]),
            ("cut", (command("TRUNCATE", PATH=b"f", SIZE=u64(1)),), [Change(CHANGED, "f")]),
            ("mode", (MODE, times(b"f")), [Change(METADATA, "f")]),
            ("mode of the top", (command("CHMOD", PATH=b"", MODE=u64(1)),), [Change(METADATA, ".")]),
            ("mode and data", (extent(b"f", 3), MODE), [Change(CHANGED, "f", bytes=3)]),
            ("a file is renamed", (command("LINK", PATH=b"g", PATH_LINK=b"f"), unlink(b"f"), times(b"g")),
             [Change(RENAMED, "g", "f")]),
            ("a second name", (command("LINK", PATH=b"g", PATH_LINK=b"f"),), [Change(ADDED, "g")]),
            ("a folder is renamed", (rename(b"d", b"e"), extent(b"e/f", 2)),
             [Change(RENAMED, "e", "d"), Change(CHANGED, "e/f", bytes=2)]),
            ("swapped", (rename(b"a", b"o257-7-0"), rename(b"b", b"a"), rename(b"o257-7-0", b"b")),
             [Change(RENAMED, "a", "b"), Change(RENAMED, "b", "a")]),
            ("there and back", (rename(b"a", b"b"), rename(b"b", b"a")), []),
            ("in a new folder", (make(b"n", "MKDIR"), rename(b"a", b"n/a")),
             [Change(ADDED, "n"), Change(RENAMED, "n/a", "a")]),
            ("a folder is removed",
             (rename(b"d", b"o257-7-0"), unlink(b"o257-7-0/x"), command("RMDIR", PATH=b"o257-7-0")),
             [Change(REMOVED, "d"), Change(REMOVED, "d/x")]),
            ("and left", (rename(b"d", b"o257-7-0"),), [Change(REMOVED, "d")]),
            ("saved by an editor", (unlink(b"f"), make(b"o300-9-0"), rename(b"o300-9-0", b"f"), extent(b"f", 9)),
             [Change(CHANGED, "f", bytes=9)]),
            ("also in a folder that is renamed", (rename(b"d", b"e"), unlink(b"e/f"), make(b"e/f")),
             [Change(RENAMED, "e", "d"), Change(CHANGED, "e/f")]),
            ("a copy of a folder takes its place",
             (rename(b"d", b"o257-7-0"), make(b"d", "MKDIR"), make(b"d/x"), unlink(b"o257-7-0/x"),
              command("RMDIR", PATH=b"o257-7-0")),
             [Change(CHANGED, "d"), Change(CHANGED, "d/x")]),
            ("made and removed", (make(b"t"), unlink(b"t")), []),
            ("not UTF-8", (make(b"\xff\n"),), [Change(ADDED, "\udcff\n")]),
        )  # fmt: skip
        for what, commands, wanted in table:
            with self.subTest(what):
                self.assertEqual(compared(*commands), wanted)

    def test_a_long_path(self) -> None:
        long = b"/".join([b"d"] * 2000)
        self.assertEqual([each.path for each in compared(extent(long))], [long.decode()])

    def test_forged(self) -> None:
        """What makes no sense ends it."""
        loop = (make(b"a", "MKDIR"), command("LINK", PATH=b"a/b", PATH_LINK=b"a"), unlink(b"a"))
        data = command("WRITE", PATH=b"f", FILE_OFFSET=u64(0), DATA=b"x")
        table = (
            ((unlink(b"f"), extent(b"f")), "it changes b'f', which is not there"),
            ((rename(b"a", b"a/b"),), "it changes b'a', which is not there"),
            ((unlink(b""),), "it changes b'', which is not there"),
            ((make(b"a"), extent(b"a/b")), "it changes b'a/b', which is not there"),
            (loop, "it puts a folder into itself"),
            ((data,), "there is something in it that a stream without data does not have"),
        )
        for commands, why in table:
            with self.subTest(why), self.assertRaises(BrokenStream) as caught:
                compared(*commands)
            self.assertEqual(str(caught.exception), why)
        comparison = Comparison()
        comparison.feed(HEADER)
        with self.assertRaises(BrokenStream):
            comparison.finish()


class Folders(unittest.TestCase):
    def test_those_with_most_of_the_bytes(self) -> None:
        """What is too little for a folder counts in the one above."""
        sizes = {"a/b/large": 60, "a/b/c/small": 5, "a/other": 6, "x/y": 9, "top": 20}
        changes = Changes("1", "2", [Change(ADDED, path, bytes=size) for path, size in sizes.items()])
        self.assertEqual(changes.bytes, 100)
        self.assertEqual(changes.folders, [("a/b", 65), (".", 35)])
        self.assertEqual(Changes("1", "2", [Change(REMOVED, "a/b/c")]).folders, [])

    def test_many(self) -> None:
        """What has to be done does not grow with the number of changes times that of folders."""
        sums = []

        class Counted(Changes):
            @property
            def bytes(self) -> int:
                sums.append(1)
                return super().bytes

        self.assertEqual(len(Counted("1", "2", [Change(ADDED, f"{n}/x", bytes=1) for n in range(100)]).folders), 1)
        self.assertEqual(len(sums), 1)


@dataclass
class Receiver:
    """A tree that is changed by the commands of a stream, as a receiver would, and the commands."""

    items: dict[int, Item]
    next: int
    commands: list[bytes] = field(default_factory=list)

    def paths(self) -> dict[int, bytes]:
        return {each: path(self.items, *its.names).encode() for each, its in self.items.items() if its.names}

    def place(self, target: bytes) -> tuple[int, bytes]:
        folder, _, name = target.rpartition(b"/")
        numbers = {each: number for number, each in self.paths().items()}
        return (numbers[folder] if folder else TOP), name

    def put(self, number: int, target: bytes) -> None:
        self.items[number] = replace(self.items[number], names=frozenset({self.place(target)}))

    def act(self, dice: random.Random) -> None:
        """One random step, of which each name may be one in between."""
        paths = self.paths()
        folders = [b"", *(paths[number] + b"/" for number in paths if self.items[number].folder)]
        free = dice.choice(folders) + dice.choice([b"o%d-1-0" % dice.randrange(99), bytes([dice.randrange(97, 103)])])
        act = dice.choice(["make", "folder", "rename", "rename", "remove", "write", "describe"])
        if act in ("make", "folder") and free not in paths.values():
            self.commands.append(make(free, "MKFILE" if act == "make" else "MKDIR"))
            self.items[self.next] = Item(folder=act == "folder")
            self.put(self.next, free)
            self.next += 1
        elif paths and act not in ("make", "folder"):
            self.change(act, dice.choice(list(paths)), free, dice)

    def change(self, act: str, number: int, free: bytes, dice: random.Random) -> None:
        paths = self.paths()
        own, its = paths[number], self.items[number]
        if act == "rename" and free not in paths.values() and not (free + b"/").startswith(own + b"/"):
            self.commands.append(rename(own, free))
            self.put(number, free)
        elif act == "remove" and not any(each.startswith(own + b"/") for each in paths.values()):
            self.commands.append(command("RMDIR" if its.folder else "UNLINK", PATH=own))
            del self.items[number]
        elif act == "write" and not its.folder:
            self.commands.append(extent(own))
            self.items[number] = replace(its, data=dice.random())
        elif act == "describe":
            self.commands.append(command("CHMOD", PATH=own, MODE=bytes(8)))
            self.items[number] = replace(its, rest=dice.random())

    def rename_those_in_between(self, dice: random.Random) -> None:
        for each, its in self.paths().items():
            if b"-" in its.rpartition(b"/")[2]:
                self.change("rename", each, b"n%d" % self.next, dice)
                self.next += 1


class Histories(unittest.TestCase):
    def test_at_random(self) -> None:
        """Whatever way leads from one tree to the other, that is what is found."""
        for seed in range(1500):
            dice = random.Random(seed)
            receiver = Receiver({}, TOP + 1)
            for _ in range(dice.randrange(20)):
                receiver.act(dice)
            receiver.rename_those_in_between(dice)
            old, receiver.commands = dict(receiver.items), []
            for _ in range(dice.randrange(30)):
                receiver.act(dice)
            receiver.rename_those_in_between(dice)
            with self.subTest(seed=seed):
                wanted = expected(old, receiver.items)
                self.assertEqual(told(compared(*receiver.commands, piece=1 << 20)), wanted)


if __name__ == "__main__":
    unittest.main()
