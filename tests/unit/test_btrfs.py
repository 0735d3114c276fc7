"""The command lines of btrfs-progs, and what is read from what they print."""

import unittest

from btrfs_backup.errors import Failure
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.system import btrfs

ONE, TWO, THREE = (f"{digit * 8}-0000-0000-0000-{digit * 12}" for digit in "123")
PAD = " " * 36


def row(path: str, uuid: str = ONE, parent: str = f"-{PAD}", received: str = f"-{PAD}") -> str:
    return f"ID 257 gen 7 top level 5 parent_uuid {parent} received_uuid {received} uuid {uuid} path {path}\n"


class CommandLines(unittest.TestCase):
    def test_table(self) -> None:
        for argv, line in (
            (btrfs.snapshot("/home", "/home/s/1"), "btrfs subvolume snapshot -r /home /home/s/1"),
            (btrfs.send("/s/2", None, False), "btrfs send /s/2"),
            (btrfs.send("/s/2", "/s/1", True), "btrfs send -vv -p /s/1 /s/2"),
            (btrfs.receive("/b", False), "btrfs receive /b"),
            (btrfs.receive("/b", True), "btrfs receive -vv /b"),
            (btrfs.delete(["/b/1", "/b/2"]), "btrfs subvolume delete -c /b/1 /b/2"),
            (btrfs.sync("/b"), "btrfs subvolume sync /b"),
            (btrfs.make_writable("/b/1", False), "btrfs property set -ts /b/1 ro false"),
            (btrfs.make_writable("/b/1", True), "btrfs property set -f -ts /b/1 ro false"),
            (btrfs.show("/b/1"), "btrfs subvolume show /b/1"),
            (btrfs.list_children("/b"), "btrfs subvolume list -o -u -q -R /b"),
            (btrfs.list_children("/b", readonly_only=True), "btrfs subvolume list -o -u -q -R -r /b"),
            (btrfs.filesystem_show("/mnt"), "btrfs filesystem show /mnt"),
        ):
            self.assertEqual(" ".join(argv), line)

    def test_paths_stay_whole(self) -> None:
        self.assertEqual(btrfs.send("/a b/'x'", None, False)[-1], "/a b/'x'")


class List(unittest.TestCase):
    def test_rows(self) -> None:
        text = row("home") + row("home/snap shot/20260101-000000", TWO, ONE, THREE)
        self.assertEqual(
            btrfs.parse_list(text),
            [
                ("home", Subvolume("home", ONE, readonly=False)),
                ("home/snap shot/20260101-000000", Subvolume("20260101-000000", TWO, ONE, THREE, readonly=False)),
            ],
        )

    def test_nothing(self) -> None:
        self.assertEqual(btrfs.parse_list(""), [])

    def test_newlines_belong_to_the_path(self) -> None:
        paths = ["a\nb", "c\nID 5 gen 5 top level 5 path x", "d\n"]
        text = "".join(row(path) for path in paths)
        self.assertEqual([path for path, _ in btrfs.parse_list(text)], paths)

    def test_an_imitated_row_shows_twice(self) -> None:
        text = row("20260101-000000", ONE) + row("x\n" + row("20260101-000000", TWO).removesuffix("\n"))
        self.assertEqual([path for path, _ in btrfs.parse_list(text)], ["20260101-000000", "x", "20260101-000000"])

    def test_what_is_not_understood(self) -> None:
        for text in (
            "usage: btrfs\n",
            "\n",
            "ID 5 gen\n",
            "ID x gen 7 top level 5\n",
            row("a").replace("uuid", "guid"),
        ):
            with self.subTest(text), self.assertRaises(Failure) as caught:
                btrfs.parse_list(text)
            self.assertIn("cannot understand what 'btrfs subvolume list' printed", str(caught.exception))


class Show(unittest.TestCase):
    TEXT = (
        "home/snapshot/20260101-000000\n\tName: \t\t\t20260101-000000\n\tUUID: \t\t\t{one}\n"
        "\tParent UUID: \t\t{two}\n\tReceived UUID: \t\t-\n\tCreation time: \t\t2026-11-23 23:54:51 +0000\n"
        "\tFlags: \t\t\t{flags}\n\tSend transid: \t\t0\n\tSnapshot(s):\n{snapshots}"
    )

    def text(self, flags: str = "readonly", snapshots: str = "") -> str:
        return self.TEXT.format(one=ONE, two=TWO, flags=flags, snapshots=snapshots)

    def test_fields(self) -> None:
        self.assertEqual(btrfs.parse_show(self.text()), Subvolume("20260101-000000", ONE, TWO, "", readonly=True))
        self.assertFalse(btrfs.parse_show(self.text(flags="-")).readonly)

    def test_names_of_snapshots_cannot_speak(self) -> None:
        text = self.text(flags="-", snapshots=f"\t\t\t\tx\n\tUUID: \t{THREE}\n\tFlags: \treadonly\n")
        self.assertEqual(btrfs.parse_show(text), Subvolume("20260101-000000", ONE, TWO, "", readonly=False))

    def test_what_is_not_understood(self) -> None:
        for text in ("", "ERROR", self.text().replace("\tFlags:", "\tFlaggen:"), "\tUUID: x\n"):
            with self.subTest(text), self.assertRaises(Failure):
                btrfs.parse_show(text)


class Filesystem(unittest.TestCase):
    def test_uuid(self) -> None:
        self.assertEqual(btrfs.parse_filesystem_uuid(f"Label: none  uuid: {ONE}\n\tTotal devices 1\n"), ONE)
        self.assertEqual(btrfs.parse_filesystem_uuid(f"Label: 'uuid: x'  uuid: {ONE}\n"), ONE)
        with self.assertRaises(Failure):
            btrfs.parse_filesystem_uuid("ERROR: not a valid btrfs filesystem\n")
