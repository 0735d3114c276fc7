"""How two trees differ, and how what find, sha256sum and getfattr print becomes records."""

import os
import random
import unittest
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from btrfs_backup.errors import Failure
from btrfs_backup.model.manifest import DEVICE, FACTS, SHA256, XATTRS, Comparison, Difference, compare, parse, record
from btrfs_backup.system import tools, trees
from btrfs_backup.system.host import Host
from btrfs_backup.system.trees import Spool

ONE, TWO = b"1" * 64, b"2" * 64
TIME, LATER = b"1795502877.9575071500", b"1795502877.9575071510"


def facts(words: bytes, size: bytes = b"-", target: bytes = b"", time: bytes = TIME) -> list[bytes]:
    """WORDS: type, mode, owner and links."""
    return [*words.split(b" "), time, size, target]


def folder(path: bytes, words: bytes = b"d 755 0:0 -", time: bytes = TIME) -> list[bytes]:
    return [record(path, FACTS, *facts(words, time=time))]


def file(
    path: bytes, words: bytes = b"f 644 0:0 1", size: bytes = b"3", time: bytes = TIME, sha256: bytes = ONE
) -> list[bytes]:
    data = [record(path, SHA256, sha256)] if sha256 else []
    return [record(path, FACTS, *facts(words, size, time=time)), *data]


def device(path: bytes, numbers: bytes) -> list[bytes]:
    return [record(path, DEVICE, numbers), record(path, FACTS, *facts(b"c 600 0:0 1"))]


def link(path: bytes, target: bytes) -> list[bytes]:
    return [record(path, FACTS, *facts(b"l 777 0:0 1", target=target))]


class CompareTest(unittest.TestCase):
    def differences(self, snapshot: list[bytes], backup: list[bytes]) -> list[tuple[str, str]]:
        found = compare("N", sorted(snapshot), sorted(backup)).differences
        return [(each.path, each.what) for each in found]

    def test_equal(self) -> None:
        tree = [*folder(b""), *file(b"a"), *file(b"b\n", sha256=TWO), *device(b"null", b"1:3"), *link(b"l", b"a")]
        tree.append(record(b"a", XATTRS, b"user.x", b"", b"user.y", b"ff"))
        self.assertEqual(compare("N", sorted(tree), sorted(tree)), Comparison("N", 2, 6, ()))
        self.assertEqual(compare("N", [], []), Comparison("N", 0, 0, ()))

    def test_of_one_path(self) -> None:
        table: list[tuple[list[bytes], list[bytes], list[str]]] = [
            (file(b"x"), [], ["it is missing"]),
            ([], file(b"x"), ["it is not in the snapshot"]),
            (file(b"x"), folder(b"x"), ["folder instead of file"]),
            (file(b"x"), link(b"x", b"/"), ["symbolic link instead of file"]),
            (folder(b"x"), folder(b"x", b"d 1755 0:0 -"), ["mode 1755 instead of 755"]),
            (file(b"x"), file(b"x", b"f 644 0:7 1"), ["owner 0:7 instead of 0:0"]),
            (file(b"x"), file(b"x", b"f 644 0:0 2"), ["hard links 2 instead of 1"]),
            (file(b"x"), file(b"x", sha256=TWO), ["its data differs"]),
            # That the data differs goes without saying.
            (file(b"x"), file(b"x", size=b"4", sha256=TWO), ["size 4 instead of 3"]),
            (device(b"x", b"1:3"), device(b"x", b"1:5"), ["device 1:5 instead of 1:3"]),
            (link(b"x", b"a\nb"), link(b"x", b"\xff"), ["target \udcff instead of a\nb"]),
            (
                file(b"x"),
                file(b"x", b"f 600 1:0 1", time=LATER, sha256=TWO),
                [
                    "mode 600 instead of 644",
                    "owner 1:0 instead of 0:0",
                    "modified 2026-11-24T06:47:57.957507151Z instead of 2026-11-24T06:47:57.957507150Z",
                    "its data differs",
                ],
            ),
        ]
        for snapshot, backup, wanted in table:
            with self.subTest(wanted=wanted):
                self.assertEqual(self.differences(snapshot, backup), [("x", what) for what in wanted])

    def test_folder_that_btrfs_leaves(self) -> None:
        for path, words in ((b"o257-7-0", "btrfs left"), (b"a/o257-7-0", "snapshot"), (b"o257-7", "snapshot")):
            [(_, what)] = self.differences([], folder(path))
            self.assertIn(words, what)
        self.assertEqual(self.differences([], file(b"o257-7-0")), [("o257-7-0", "it is not in the snapshot")])

    def test_data_that_was_not_read_is_never_equal(self) -> None:
        unread = file(b"x", sha256=b"")
        ours, theirs = (f"its data could not be read in the {side}" for side in ("snapshot", "backup"))
        for snapshot, backup, wanted in (
            (unread, file(b"x"), [ours]),
            (file(b"x"), unread, [theirs]),
            (unread, unread, [ours, theirs]),
        ):
            with self.subTest(wanted=wanted):
                self.assertEqual(self.differences(snapshot, backup), [("x", what) for what in wanted])
                self.assertEqual(compare("N", snapshot, backup).files, 0)

    def test_what_was_not_listed_is_not_compared(self) -> None:
        """Whatever sha256sum says."""
        self.assertEqual(self.differences([*file(b"x"), record(b"y", SHA256, ONE)], file(b"x")), [])

    def test_time_of_the_top(self) -> None:
        """It alone is not kept by send and receive."""
        for path, count in ((b"", 0), (b"x", 1)):
            later = folder(path, time=LATER)
            self.assertEqual(len(self.differences(folder(path), later)), count)
        self.assertEqual(self.differences(folder(b""), folder(b"", b"d 700 0:0 -"))[0][0], "")

    def test_times_beyond_the_calendar(self) -> None:
        for seconds, text in (
            (b"-1.5000000000", "1969-12-31T23:59:59.500000000Z"),
            (b"999999999999.0", "@999999999999"),
        ):
            [(_, what)] = self.differences(file(b"x"), file(b"x", time=seconds))
            self.assertTrue(what.startswith(f"modified {text} instead of"), what)

    def test_extended_attributes(self) -> None:
        ours = [*file(b"x"), record(b"x", XATTRS, b"user.a", b"00", b"user.b", b"01")]
        theirs = [*file(b"x"), record(b"x", XATTRS, b"user.b", b"02", b"user.\xff", b"")]
        wanted = ["user.a is missing", "user.b differs", "user.\udcff is not in the snapshot"]
        self.assertEqual(self.differences(ours, theirs), [("x", f"extended attribute {what}") for what in wanted])
        self.assertEqual(self.differences(ours, file(b"x"))[1], ("x", "extended attribute user.b is missing"))

    def test_extended_attributes_that_do_not_count(self) -> None:
        table: list[tuple[tuple[bytes, ...], tuple[bytes, ...], int]] = [
            ((b"btrfs.compression", b"00"), (), 0),
            ((b"btrfs.compression", b"00"), (b"btrfs.compression", b"01"), 0),
            ((), (b"security.selinux", b"00"), 0),
            ((b"security.selinux", b"00"), (), 0),
            ((b"security.selinux", b"00"), (b"security.selinux", b"01"), 1),
            ((b"security.capability", b"00"), (), 1),
        ]
        for ours, theirs, count in table:
            with self.subTest(ours=ours, theirs=theirs):
                trees = ([*file(b"x"), *([record(b"x", XATTRS, *each)] if each else [])] for each in (ours, theirs))
                self.assertEqual(len(self.differences(*trees)), count)

    def test_order_is_that_of_bytes(self) -> None:
        """A difference in one place does not hide or make others."""
        paths = [b"", b"a", b"a b", b"a/b", b"a0", b"\xff", "ß".encode(), b"\n", b"\x01"]
        whole = [each for path in paths for each in file(path)]
        for path in paths:
            with self.subTest(path=path):
                without = [each for each in whole if not each.startswith(path + b"\0")]
                name = path.decode(errors="surrogateescape")
                self.assertEqual(self.differences(whole, without), [(name, "it is missing")])
                self.assertEqual(self.differences(without, whole), [(name, "it is not in the snapshot")])

    def test_random_trees(self) -> None:
        """Against a comparison of plain dictionaries."""
        dice = random.Random(3)
        for _ in range(200):
            ours, theirs = ({bytes([dice.randrange(1, 12)]): dice.choice((ONE, TWO)) for _ in range(8)} for _ in "xx")
            wanted = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
            found = self.differences(
                *([each for path, data in tree.items() for each in file(path, sha256=data)] for tree in (ours, theirs))
            )
            self.assertEqual([path.encode() for path, _ in found], sorted(wanted))


class FileToolsTest(unittest.TestCase):
    def test_argv(self) -> None:
        """The commands begin with find, so that a sudoers file need not list others, and leave out stubs."""
        for what in (tools.ENTRIES, tools.CHECKSUMS, tools.ATTRIBUTES):
            with self.subTest(what):
                argv = tools.find("/b/N", what)
                self.assertEqual(" ".join(argv[:9]), "find /b/N/ -xdev -type d -inum 2 -prune -o")
        self.assertRegex(" ".join(tools.CHECKSUMS), r"^-type f -exec sh -c .*sha256sum -z -- .* sh \{\} \+$")

    def test_entries(self) -> None:
        words = b"f 4644 0:1000 2 -631152000.2500000000 17"
        table: list[tuple[bytes, bytes]] = [
            (words + b" a\nb//", record(b"a\nb", FACTS, *words.split(b" "), b"")),
            (words + b" f 4644//", record(b"f 4644", FACTS, *words.split(b" "), b"")),
            (
                b"d 755 0:0 - " + TIME + b" - //",
                record(b"", FACTS, b"d", b"755", b"0:0", b"-", TIME, b"-", b""),
            ),
            (
                b"l 777 0:0 1 " + TIME + b" - l///\xff//x",
                record(b"l", FACTS, b"l", b"777", b"0:0", b"1", TIME, b"-", b"/\xff//x"),
            ),
            (b"1:3 /b/N/dev/null", record(b"dev/null", DEVICE, b"1:3")),
        ]
        for item, wanted in table:
            with self.subTest(item=item):
                self.assertEqual(parse(item, "/b/N"), wanted)

    def test_checksums(self) -> None:
        for path in (b"x", b"new\nline", b" *x", b"\xff\\"):
            printed = ONE + b"  /b/N\xff/" + path
            self.assertEqual(parse(printed, "/b/N\udcff"), record(path, SHA256, ONE))

    def test_attributes(self) -> None:
        table: dict[bytes, bytes] = {
            b"# file: /b/N/x\nuser.b=0x31\nuser.a=0x": record(b"x", XATTRS, b"user.a", b"", b"user.b", b"31"),
            b"# file: /b/N/\nuser.a=0x0a": record(b"", XATTRS, b"user.a", b"0a"),
            b"# file: /b/N/new\\012line\\134\nuser.\\075\\134\xff=0xff": record(
                b"new\nline\\", XATTRS, b"user.=\\\xff", b"ff"
            ),
        }
        for paragraph, wanted in table.items():
            with self.subTest(paragraph=paragraph):
                self.assertEqual(parse(paragraph, "/b/N"), wanted)

    def test_what_cannot_be_understood(self) -> None:
        good = b"d 755 0:0 - " + TIME + b" - "
        for printed in (
            b"Welcome\n" + good + b"//",
            good + b"x",
            b"d 755 0:0 - - x//",
            b"d 755 0:0 1 1 " + TIME + b" x//",
            b"1:3 /b/N2/x",
            b"Welcome\n1:3 /b/N/x",
            ONE[1:] + b"  /b/N/x",
            b"Welcome\n" + ONE + b"  /b/N/x",
            ONE + b"  /b/x",
            b"",
            b"# file: /b/N/x",
            b"# file: /b/N/x\nuser.a=text",
            b"# file: /b/N2/x\nuser.a=0x00",
            b"Welcome\n# file: /b/N/x\nuser.a=0x00",
        ):
            with self.subTest(printed=printed), self.assertRaises(ValueError):
                parse(printed, "/b/N")


class SpoolTest(unittest.TestCase):
    def test_sorted_as_often_as_wanted(self) -> None:
        """Whether it fits into memory or not."""
        dice = random.Random(5)
        records = [dice.randbytes(dice.randrange(20)) for _ in range(2000)]
        for in_memory in (10, 1000, 1 << 20):
            with self.subTest(in_memory=in_memory), ExitStack() as scope:
                spool = Spool(scope, in_memory)
                for each in records:
                    spool.add(each)
                for _ in range(2):
                    self.assertTrue(list(spool) == sorted(records), "not sorted")  # and not all of them in a message

    def test_no_room(self) -> None:
        with ExitStack() as scope, open("/dev/full", "r+b", buffering=0) as full:
            spool = Spool(scope, 10)
            with (
                mock.patch("tempfile.TemporaryFile", return_value=full),
                self.assertRaisesRegex(Failure, "cannot write a temporary file in '.*': No space left on device"),
            ):
                spool.add(bytes(1 << 20))

    def test_a_disk_that_is_nearly_full(self) -> None:
        """It is not filled by what another machine prints."""
        nearly = SimpleNamespace(f_bavail=49, f_blocks=1000)
        with (
            ExitStack() as scope,
            mock.patch.object(os, "fstatvfs", return_value=nearly),
            self.assertRaisesRegex(Failure, "cannot write a temporary file in '.*': nearly all of that disk is full"),
        ):
            Spool(scope, 10).add(bytes(1 << 20))

    def test_descriptors(self) -> None:
        """However much there is, one is enough."""
        with ExitStack() as scope:
            before = len(list(Path("/proc/self/fd").iterdir()))
            spool = Spool(scope, 10)
            for number in range(200):
                spool.add(b"%020d" % number)
            self.assertEqual(len(list(Path("/proc/self/fd").iterdir())), before + 1)
            self.assertEqual(len(list(spool)), 200)


class TreeTest(unittest.TestCase):
    def test_attributes_cannot_be_read(self) -> None:
        with ExitStack() as scope:
            tree = trees.Tree(Host(), "/no", True, Spool(scope))
            tree.add(file(b"such")[0])
            words = "cannot read the extended attributes of '/no/such': No such file or directory"
            self.assertIn(words, str(tree.failure))

    def test_what_never_ends_is_no_item(self) -> None:
        """It is not collected."""
        with ExitStack() as scope:
            intake = trees._Intake(trees.Tree(Host(), "/b", False, Spool(scope)), b"\0")
            for _ in range(40):
                intake.feed(bytes([7]) * (1 << 20))
            self.assertLessEqual(len(intake.rest), 17 << 20)
            intake.feed(b"\0" + ONE + b"  /b/x\0")
            self.assertEqual((intake.tree.hashed, intake.rest[:1]), (0, b"\7"))


class ValuesTest(unittest.TestCase):
    def test_what_a_document_can_be_made_of(self) -> None:
        [difference] = compare("N", file(b"a/\xff"), []).differences
        self.assertEqual(difference, Difference("a/\udcff", "it is missing"))


if __name__ == "__main__":
    unittest.main()
