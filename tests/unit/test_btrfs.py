"""Command lines of btrfs-progs, and what they print."""

import unittest
from datetime import datetime, timezone

from btrfs_backup.errors import Failure
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.system import btrfs

NAME = "20260101-000000"
FOLDER = "home/snapshot"
HOME = "4bbfdc06-3df5-1c45-8711-28b296aa7fa6"
OWN = "48697ee6-48ae-c944-8376-86d01b5b8504"
RECEIVED = "6f1c7b0e-6d1b-4a43-9d07-5a3b1f4a9f11"
FAKE = "00000000-1111-2222-3333-444444444444"
WHEN = datetime(2026, 11, 23, 23, 54, 51, tzinfo=timezone.utc)


class FilesystemAmong(unittest.TestCase):
    def test_which_one(self) -> None:
        one, other = "0cb7e400-a5d3-469f-9cc8-ff82778f5ec2", "0dd62186-0447-449a-8fcc-60fb0acc3e51"
        twin = "0cb7e400-a5d3-469f-9cc8-ff82ffffffff"
        upper = 0x0CB7E400 ^ 0x9CC8FF82
        table: dict[str, tuple[str, list[str], str | None]] = {
            "of two": (f"{upper:08x}12345678", [one, other, "features"], one),
            "none": (f"{upper:08x}12345678", [other], None),
            "not to be told": (f"{upper:08x}12345678", [one, twin], None),
            "no answer": ("", [one], None),
            "other words": ("stat: no", [one], None),
        }
        for what, (fsid, uuids, wanted) in table.items():
            with self.subTest(what):
                self.assertEqual(btrfs.filesystem_among(fsid, uuids), wanted)


class VersionTest(unittest.TestCase):
    def test_versions(self) -> None:
        table = {
            "btrfs-progs v6.2 \n": (6, 2),
            "btrfs-progs v6.14\n-EXPERIMENTAL -INJECT +LZO\n": (6, 14),
            "btrfs-progs v5.16.2": (5, 16),
            "btrfs-progs v10.0-rc1": (10, 0),
            "something else": (0, 0),
            "": (0, 0),
        }
        for text, version in table.items():
            self.assertEqual(btrfs.parse_version(text), version, text)
        self.assertTrue((6, 0) < btrfs.COMPRESSED_RECEIVER <= btrfs.parse_version("btrfs-progs v6.2"))


class ParentTest(unittest.TestCase):
    def test_blames_parent(self) -> None:
        for words, wanted in (
            ("ERROR: cannot find parent subvolume", True),
            ("ERROR: parent subvol is not reachable from inside the root subvol", True),
            ("It seems that you have changed your default subvolume or you specify other subvolume to\nmount", True),
            ("ERROR: cannot open /usb//20260101-000000/file: No such file or directory", True),
            ("ERROR: rmdir o257-7-0 failed: Directory not empty", True),
            ("ERROR: creating subvolume x failed: File exists", False),
            ("ERROR: writing to o257 failed: No space left on device", False),
            ("", False),
        ):
            self.assertEqual(btrfs.blames_parent(words), wanted, words)


class ArgvTest(unittest.TestCase):
    def test_argv(self) -> None:
        """Exactly these commands are run."""
        table: list[tuple[btrfs.Argv, str]] = [
            (btrfs.snapshot("/home", "/home/snapshot/N"), "btrfs subvolume snapshot -r /home /home/snapshot/N"),
            (btrfs.snapshot("/s/N", "/home", readonly=False), "btrfs subvolume snapshot /s/N /home"),
            (btrfs.send("/s/N", None, False), "btrfs send /s/N"),
            (btrfs.send("/s/N", "/s/P", False), "btrfs send -p /s/P /s/N"),
            (btrfs.send("/s/N", None, True), "btrfs send -vv /s/N"),
            (btrfs.send("/s/N", "/s/P", True), "btrfs send -vv -p /s/P /s/N"),
            (btrfs.send("/s/N", None, compressed=True), "btrfs send --proto 2 --compressed-data /s/N"),
            (btrfs.send("/s/N", "/s/P", data=False), "btrfs send -q --no-data -p /s/P /s/N"),
            (btrfs.receive("/b", False), "btrfs receive -C /b"),
            (btrfs.receive("/b", True), "btrfs receive -C -vv /b"),
            (btrfs.delete(["/b/N"]), "btrfs subvolume delete -c /b/N"),
            (btrfs.delete(["/b/N", "/b/M"]), "btrfs subvolume delete -c /b/N /b/M"),
            (btrfs.delete(["/b/N"], commit=False), "btrfs subvolume delete /b/N"),
            (btrfs.delete_by_id(257, "/b"), "btrfs subvolume delete -i 257 /b"),
            (btrfs.sync("/b"), "btrfs subvolume sync /b"),
            (btrfs.make_writable("/b/N", force=False), "btrfs property set -ts /b/N ro false"),
            (btrfs.make_writable("/b/N", force=True), "btrfs property set -f -ts /b/N ro false"),
            (btrfs.show("/b/N"), "btrfs subvolume show /b/N"),
            (btrfs.commit("/b"), "btrfs filesystem sync /b"),
            (btrfs.get_readonly("/b/N"), "btrfs property get -ts /b/N ro"),
            (btrfs.list_children("/b"), "btrfs subvolume list -o -c -u -q -R /b"),
            (btrfs.list_children("/b", readonly_only=True), "btrfs subvolume list -o -c -u -q -R -r /b"),
            (btrfs.filesystem_show("/"), "btrfs filesystem show /"),
        ]
        for argv, wanted in table:
            with self.subTest(wanted):
                self.assertEqual(argv, tuple(wanted.split()))

    def test_inode_of_a_subvolume(self) -> None:
        """The number that the root of every subvolume has."""
        self.assertEqual(btrfs.SUBVOLUME_INODE, 256)

    def test_a_path_is_one_argument(self) -> None:
        """Blanks, quotes and newlines in it are nobody's business."""
        path = '/my disk/it\'s\n"x" $HOME'
        for argv in (
            btrfs.snapshot(path, path),
            btrfs.send(path, path, False),
            btrfs.receive(path, False),
            btrfs.delete([path, path]),
            btrfs.delete_by_id(257, path),
            btrfs.sync(path),
            btrfs.make_writable(path, force=True),
            btrfs.show(path),
            btrfs.list_children(path),
            btrfs.filesystem_show(path),
        ):
            with self.subTest(argv=argv):
                self.assertIn(path, argv)
                self.assertEqual({word for word in argv if " " in word or "\n" in word}, {path})


def row(path: str, uuid: str = OWN, parent: str = HOME, received: str = "-", number: int = 257) -> str:
    """A row as btrfs-progs prints it: the received UUID is padded when there is none."""
    padded = received.ljust(36)
    return f"ID {number} gen 7 top level 256 parent_uuid {parent} received_uuid {padded} uuid {uuid} path {path}\n"


def entry(name: str, uuid: str = OWN, parent: str = HOME, received: str = "", number: int = 257) -> Subvolume:
    return Subvolume(name, uuid, parent, received, readonly=False, id=number)


class ListTest(unittest.TestCase):
    def test_nothing(self) -> None:
        self.assertEqual(btrfs.parse_list(""), [])

    def test_real_row(self) -> None:
        text = (
            "ID 257 gen 7 top level 256 parent_uuid 4bbfdc06-3df5-1c45-8711-28b296aa7fa6 "
            "received_uuid -                                    uuid 48697ee6-48ae-c944-8376-86d01b5b8504 "
            "path home/snapshot/20260101-000000\n"
        )
        wanted = [(f"{FOLDER}/{NAME}", Subvolume(NAME, OWN, HOME, "", readonly=False, id=257))]
        self.assertEqual(btrfs.parse_list(text), wanted)
        self.assertEqual(btrfs.parse_list(text.removesuffix("\n")), wanted)

    def test_when_it_was_made(self) -> None:
        """Each subvolume has the transaction in which it was made, when the list tells that."""
        text = row("a").replace(" top level", " cgen 42 top level", 1) + row("b")
        self.assertEqual([each.made_transid for _, each in btrfs.parse_list(text)], [42, None])

    def test_uuids(self) -> None:
        """A dash stands for none."""
        text = row("a", parent="-".ljust(36)) + row("b", received=RECEIVED) + row("c", parent="-", uuid="-")
        self.assertEqual(
            btrfs.parse_list(text),
            [("a", entry("a", parent="")), ("b", entry("b", received=RECEIVED)), ("c", entry("c", "", ""))],
        )

    def test_numbers(self) -> None:
        """Each subvolume has the number by which it is deleted."""
        text = row("a", number=256) + row("b", number=1000000)
        self.assertEqual([each.id for _, each in btrfs.parse_list(text)], [256, 1000000])

    def test_read_only(self) -> None:
        """Those that the second list has, by their whole paths."""
        text = row("x/a") + row("y/a") + row("b")
        found = btrfs.parse_list(text, row("y/a"))
        self.assertEqual({path: each.readonly for path, each in found}, {"x/a": False, "y/a": True, "b": False})

    def test_paths(self) -> None:
        """The path is the rest of the row, whatever is in it; the name is its last part."""
        names = (
            "x",
            "a b",
            " a ",
            "it's",
            "ä\udcff",
            "path",
            "uuid - path y",
            "-",
            "a\tb",
            "\\n",
            "x\r",
            "a\u2028b",
            "\x0c",
        )
        for name in names:
            for folder in ("", "home/", "a b/path /"):
                with self.subTest(name=name, folder=folder):
                    self.assertEqual(
                        btrfs.parse_list(row(folder + name) + row("next")),
                        [(folder + name, entry(name)), ("next", entry("next"))],
                    )

    def test_newlines_in_foreign_paths(self) -> None:
        """Such a path goes on in the next line; what is around it is not disturbed."""
        for name in (
            "a\nb",
            "\n",
            "a\n",
            "\n\na\n\n",
            "a\nID 5",
            "a\nID 257 gen 7 top level 256 path b",
            f"a\n {row('b')}",
        ):
            with self.subTest(name=name):
                text = row(f"{FOLDER}/{NAME}") + row(f"{FOLDER}/{name}", uuid=FAKE) + row("last", uuid=RECEIVED)
                found = btrfs.parse_list(text)
                self.assertEqual([path for path, _ in found], [f"{FOLDER}/{NAME}", f"{FOLDER}/{name}", "last"])
                self.assertEqual([each.uuid for _, each in found], [OWN, FAKE, RECEIVED])

    def test_foreign_path_that_imitates_a_row(self) -> None:
        """It cannot be told from a row: its victim is listed twice, which is the sign not to trust either."""
        ours = f"{FOLDER}/{NAME}"
        hostile = "x\n" + row(ours, uuid=FAKE, received=FAKE).removesuffix("\n")
        for text in (row(ours) + row(hostile), row(hostile) + row(ours)):
            with self.subTest(text=text):
                found = btrfs.parse_list(text)
                self.assertEqual(sorted(path for path, _ in found), sorted([ours, ours, "x"]))
                self.assertEqual({each.uuid for path, each in found if path == ours}, {OWN, FAKE})

    def test_many_rows(self) -> None:
        names = [f"202601{day:02}-{hour:02}0000" for day in range(1, 29) for hour in range(24)]
        found = btrfs.parse_list("".join(row(f"{FOLDER}/{name}") for name in names))
        self.assertEqual([each.name for _, each in found], names)
        self.assertFalse(any(each.readonly for _, each in found))

    def test_garbage(self) -> None:
        """Anything before the first row means that this is not the program that is known."""
        whole = row("x")
        texts = (
            "garbage\n",
            "\n",
            " ",
            "\n" + whole,
            " " + whole,
            "warning: x\n" + whole,
            "ID 257 gen 7 top level 256 path x\n",
            "ID 257 gen 7 top level 256 uuid x path x\n",
            whole.replace("gen 7 ", ""),
            whole.replace("ID 257", "ID \u0662"),
            whole.replace(OWN, OWN.upper()),
            whole.replace("parent_uuid", "Parent_uuid"),
            whole.replace(" path x\n", ""),
            "ID\tgen\ttop level\tpath\n",
        )
        for text in texts:
            with self.subTest(text=text), self.assertRaises(Failure) as caught:
                btrfs.parse_list(text)
            with self.subTest(text=text):
                self.assertIn("cannot understand what 'btrfs subvolume list' printed: ", caught.exception.message)
                self.assertIn("btrfs-progs", caught.exception.hint)

    def test_garbage_is_quoted_in_part(self) -> None:
        with self.assertRaises(Failure) as caught:
            btrfs.parse_list("\x1b[2J" + "x" * 100_000)
        self.assertLess(len(caught.exception.message), 400)
        self.assertNotIn("\x1b", caught.exception.message)


def shown(
    name: str = NAME,
    uuid: str = OWN,
    parent: str = HOME,
    received: str = "-",
    flags: str = "readonly",
    tail: str = "",
    when: str = "-",
    transid: int = 0,
) -> str:
    """What btrfs-progs shows of a subvolume; TAIL: its snapshots; WHEN: it was received; TRANSID: of its original."""
    return (
        f"home/snapshot/{name}\n"
        f"\tName: \t\t\t{name}\n"
        f"\tUUID: \t\t\t{uuid}\n"
        f"\tParent UUID: \t\t{parent}\n"
        f"\tReceived UUID: \t\t{received}\n"
        "\tCreation time: \t\t2026-11-23 23:54:51 +0000\n"
        "\tSubvolume ID: \t\t257\n"
        "\tGeneration: \t\t7\n"
        "\tGen at creation: \t7\n"
        "\tParent ID: \t\t256\n"
        "\tTop level ID: \t\t256\n"
        f"\tFlags: \t\t\t{flags}\n"
        f"\tSend transid: \t\t{transid}\n"
        "\tSend time: \t\t2026-11-23 23:54:51 +0000\n"
        "\tReceive transid: \t0\n"
        f"\tReceive time: \t\t{when}\n"
        f"\tSnapshot(s):\n{tail}"
    )


def shown_as(
    name: str,
    uuid: str,
    parent: str,
    received: str,
    readonly: bool,
    received_at: datetime | None = None,
    id: int = 257,
    sent_transid: int | None = None,
    received_transid: int | None = None,
) -> Subvolume:
    return Subvolume(name, uuid, parent, received, readonly, received_at, "", id, sent_transid, 7, received_transid)


class ShowTest(unittest.TestCase):
    def test_fields(self) -> None:
        table: list[tuple[str, Subvolume]] = [
            (shown(), shown_as(NAME, OWN, HOME, "", True)),
            (shown(flags="-"), shown_as(NAME, OWN, HOME, "", False)),
            (shown(flags=""), shown_as(NAME, OWN, HOME, "", False)),
            (shown(flags="readonly other"), shown_as(NAME, OWN, HOME, "", True)),
            (shown(flags="notreadonly"), shown_as(NAME, OWN, HOME, "", False)),
            (shown(parent="-"), shown_as(NAME, OWN, "", "", True)),
            (shown(parent="-", received=RECEIVED), shown_as(NAME, OWN, "", RECEIVED, True)),
            (shown(received=RECEIVED), shown_as(NAME, OWN, HOME, RECEIVED, True)),
            (shown(uuid="-", parent="-", name="<FS_TREE>", flags="-"), shown_as("<FS_TREE>", "", "", "", False)),
            (shown(name="a b"), shown_as("a b", OWN, HOME, "", True)),
            (shown(tail="\t\t\t\thome/snapshot/x\n"), shown_as(NAME, OWN, HOME, "", True)),
            (
                shown(flags="-", when="2026-11-23 23:54:51 +0000"),
                shown_as(NAME, OWN, HOME, "", False, received_at=WHEN),
            ),
            (shown().replace("\tReceive time: \t\t-\n", ""), shown_as(NAME, OWN, HOME, "", True)),
            (shown(received=RECEIVED, transid=4711), shown_as(NAME, OWN, HOME, RECEIVED, True, sent_transid=4711)),
            (shown(transid=0), shown_as(NAME, OWN, HOME, "", True, sent_transid=None)),
            (
                shown(received=RECEIVED).replace("Receive transid: \t0", "Receive transid: \t6"),
                shown_as(NAME, OWN, HOME, RECEIVED, True, received_transid=6),
            ),
            # As btrfs-progs 5.10 shows it.
            (shown().replace("\tSend transid: \t\t0\n", ""), shown_as(NAME, OWN, HOME, "", True)),
            (
                shown().replace("Subvolume ID: \t\t257", "Subvolume ID: \t\t5"),
                shown_as(NAME, OWN, HOME, "", True, id=5),
            ),
            (shown().replace("\tSubvolume ID: \t\t257\n", ""), shown_as(NAME, OWN, HOME, "", True, id=0)),
        ]
        for text, wanted in table:
            with self.subTest(wanted=wanted):
                self.assertEqual(btrfs.parse_show(text), wanted)

    def test_hostile_names_of_snapshots(self) -> None:
        """The snapshots come last and may be called anything: what was said first counts."""
        lies = (
            f"\tUUID: \t\t\t{FAKE}\n",
            f"\tParent UUID: \t\t{FAKE}\n",
            f"\tReceived UUID: \t\t{FAKE}\n",
            "\tFlags: \t\t\t-\n",
            "\tName: \t\t\tfake\n",
            "\tSubvolume ID: \t\t9\n",
            "\tSend transid: \t\t9\n",
            "\tGen at creation: \t9\n",
            "\tReceive transid: \t9\n",
        )
        truth = shown_as(NAME, OWN, HOME, "", True)
        for lie in (*lies, "".join(lies), "".join(lies) * 3):
            with self.subTest(lie=lie):
                self.assertEqual(btrfs.parse_show(shown(tail=f"\t\t\t\thome/snapshot/x\n{lie}")), truth)
        writable = shown(flags="-", tail="\t\t\t\tx\n\tFlags: \t\t\treadonly\n")
        self.assertFalse(btrfs.parse_show(writable).readonly)

    def test_garbage(self) -> None:
        whole = shown()
        texts = (
            "",
            "\n",
            "garbage",
            whole.replace("\t", " "),
            whole.replace("\tUUID:", "\tuuid:"),
            whole.replace("\tParent UUID:", "\tParent:"),
            whole.replace("\tReceived UUID:", "\tReceived:"),
            whole.replace("\tFlags:", "\tFlag:"),
            whole.partition("\tFlags:")[0],
            f"\tUUID: {OWN}\n",
        )
        for text in texts:
            with self.subTest(text=text), self.assertRaises(Failure) as caught:
                btrfs.parse_show(text)
            with self.subTest(text=text):
                self.assertIn("btrfs subvolume show", caught.exception.message)
                self.assertIn("btrfs-progs", caught.exception.hint)


class FilesystemTest(unittest.TestCase):
    TABLE = (
        "Label: none  uuid: {}\n\tTotal devices 1 FS bytes used 144.00KiB\n"
        "\tdevid    1 size 200.00MiB used 88.00MiB path /dev/loop0\n\n",
        "Label: 'backup'  uuid: {}\n\tTotal devices 2 FS bytes used 144.00KiB\n",
        "Label: none  uuid: {}",
        f"Label: 'uuid: {FAKE}'  uuid: {{}}\n\tTotal devices 1\n",
        "warning: a device is missing\nLabel: none  uuid: {}\n",
    )

    def test_uuid(self) -> None:
        for text in self.TABLE:
            with self.subTest(text=text):
                self.assertEqual(btrfs.parse_filesystem_uuid(text.format(OWN)), OWN)

    def test_garbage(self) -> None:
        for text in (
            "",
            "garbage",
            "Label: none\n",
            "Label: none  uuid: 1-2\n",
            f"uuid: {OWN}x\n",
            f"uuid: {OWN.upper()}\n",
        ):
            with self.subTest(text=text), self.assertRaises(Failure) as caught:
                btrfs.parse_filesystem_uuid(text)
            with self.subTest(text=text):
                self.assertIn("btrfs filesystem show", caught.exception.message)


if __name__ == "__main__":
    unittest.main()
