"""Which filesystem a path is on."""

import unittest

from btrfs_backup.system.mounts import Mount, find, parse

ROOT = Mount("/", "/", "ext4", "8:1")
HOME = Mount("/home", "/@home", "btrfs", "0:30")


def line(point: str, root: str = "/", kind: str = "btrfs", optional: str = "") -> str:
    optional = f" {optional}" if optional else ""
    return f"36 35 0:30 {root} {point} rw,noatime{optional} - {kind} /dev/sdb1 rw,subvol=/@home\n"


class ParseTest(unittest.TestCase):
    def test_lines(self) -> None:
        text = (
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
            "25 22 0:22 / /proc rw,nosuid - proc proc rw\n"
            "36 22 0:30 /@home /home rw,noatime shared:5 - btrfs /dev/sdb1 rw,subvolid=256,subvol=/@home\n"
        )
        self.assertEqual(parse(text), [ROOT, Mount("/proc", "/", "proc", "0:22"), HOME])
        self.assertEqual(parse(text.removesuffix("\n")), [ROOT, Mount("/proc", "/", "proc", "0:22"), HOME])

    def test_optional_fields(self) -> None:
        """There may be none, one or several before the dash."""
        for optional in ("", "shared:1", "master:2", "shared:1 master:2 propagate_from:3 unbindable", "new-kind:1"):
            with self.subTest(optional=optional):
                self.assertEqual(parse(line("/home", "/@home", optional=optional)), [HOME])

    def test_escapes(self) -> None:
        """Blank, tab, newline and backslash are octal; what looks like an escape behind a backslash is none."""
        table = {
            r"/my\040disk": "/my disk",
            r"/\040\040": "/  ",
            r"/a\011b": "/a\tb",
            r"/a\012b": "/a\nb",
            r"/a\134b": "/a\\b",
            r"/a\134040b": r"/a\040b",
            r"/a\134134": r"/a\134",
            r"/a\043b": "/a#b",
            r"/a\04": r"/a\04",
            r"/a\089": r"/a\089",
            "/ä\udcff": "/ä\udcff",
            "/-": "/-",
            "/a\u2028b": "/a\u2028b",
        }
        for written, meant in table.items():
            with self.subTest(written=written):
                self.assertEqual(parse(line(written)), [Mount(meant, "/", "btrfs", "0:30")])
                self.assertEqual(parse(line("/x", root=written)), [Mount("/x", meant, "btrfs", "0:30")])

    def test_dashes_elsewhere(self) -> None:
        """The separator is looked for behind the six fixed fields, and the first one counts."""
        text = "36 35 0:30 - /x - - btrfs - -\n36 35 0:30 / - rw shared:1 - btrfs - rw\n"
        self.assertEqual(parse(text), [Mount("/x", "-", "btrfs", "0:30"), Mount("-", "/", "btrfs", "0:30")])

    def test_other_lines_are_left_out(self) -> None:
        for text in (
            "",
            "\n",
            "garbage\n",
            "36 35 0:30 / /x rw btrfs /dev/sdb1 rw\n",
            "36 35 0:30 / /x rw -\n",
            "- - -\n",
        ):
            with self.subTest(text=text):
                self.assertEqual(parse(text), [])
                self.assertEqual(parse(text + line("/home", "/@home")), [HOME])

    def test_order_is_that_of_the_file(self) -> None:
        self.assertEqual([each.point for each in parse(line("/b") + line("/a") + line("/b"))], ["/b", "/a", "/b"])


def tree(*rows: tuple[int, int, str]) -> list[Mount]:
    """Mounts of ROWS (id, parent, point)."""
    return [Mount(point, "/", "btrfs", "0:30", number, parent) for number, parent, point in rows]


class FindTest(unittest.TestCase):
    def test_deepest(self) -> None:
        mounts = tree((1, 0, "/"), (3, 1, "/home2"), (4, 2, "/home/anna/usb"), (2, 1, "/home"))
        root, home2, deep, home = mounts
        table = {
            "/": root,
            "/etc": root,
            "/home": home,
            "/home/anna": home,
            "/home/anna/usb": deep,
            "/home/anna/usb/x/y": deep,
            "/home/anna/usb2": home,
            "/home2": home2,
            "/home2/anna": home2,
            "/home3": root,
            "/hom": root,
            "/homes/x": root,
            "/x/home": root,
            "/home\n": root,
        }
        for path, wanted in table.items():
            for order in (mounts, mounts[::-1]):
                with self.subTest(path=path, order=order):
                    self.assertEqual(find(order, path), wanted)

    def test_what_is_covered_is_not_seen(self) -> None:
        table: dict[str, tuple[list[Mount], str, int]] = {
            "one on the other": (tree((1, 0, "/"), (2, 1, "/usb"), (3, 2, "/usb")), "/usb/x", 3),
            "in another order": (tree((3, 2, "/usb"), (2, 1, "/usb"), (1, 0, "/")), "/usb", 3),
            "below a later one": (tree((1, 0, "/"), (2, 1, "/mnt/usb"), (3, 1, "/mnt")), "/mnt/usb/x", 3),
            "below a later one on its parent": (
                tree((1, 0, "/"), (2, 1, "/mnt"), (3, 2, "/mnt/a/b"), (4, 2, "/mnt")),
                "/mnt/a/b",
                4,
            ),
            "and once more there": (
                tree((1, 0, "/"), (2, 1, "/mnt/usb"), (3, 1, "/mnt"), (4, 3, "/mnt/usb")),
                "/mnt/usb",
                4,
            ),
            "a root over the first one": (tree((1, 1, "/"), (2, 1, "/"), (3, 2, "/usb")), "/usb", 3),
            "a chroot on a part": (tree((7, 5, "/usr"), (8, 5, "/usr/lib"), (9, 7, "/usr/lib/x")), "/usr/lib/x", 9),
        }
        for what, (mounts, path, wanted) in table.items():
            with self.subTest(what):
                found = find(mounts, path)
                assert found
                self.assertEqual(found.id, wanted)

    def test_no_mount(self) -> None:
        self.assertIsNone(find([], "/"))
        home = tree((2, 1, "/home"))
        self.assertIsNone(find(home, "/"))
        self.assertIsNone(find(home, "/home2"))


class InsideTest(unittest.TestCase):
    def test_path_from_the_top_of_the_filesystem(self) -> None:
        """Subvolumes and bind mounts show a part of the filesystem; `btrfs subvolume list` counts from its top."""
        table: list[tuple[str, str, str, str]] = [
            # mount point, root, path, the path inside
            ("/", "/", "/", ""),
            ("/", "/", "/a", "a"),
            ("/", "/", "/a/b", "a/b"),
            ("/", "/@", "/", "@"),
            ("/", "/@", "/a/b", "@/a/b"),
            ("/mnt", "/", "/mnt", ""),
            ("/mnt", "/", "/mnt/a", "a"),
            ("/home", "/@home", "/home", "@home"),
            ("/home", "/@home", "/home/anna", "@home/anna"),
            ("/home", "/vol/@home/deep", "/home", "vol/@home/deep"),
            ("/srv/bind", "/@home/anna/files", "/srv/bind/backup", "@home/anna/files/backup"),
            ("/mnt", "/", "/mnt/a b\nc", "a b\nc"),
            ("/mnt", "/", "/mnt/...", "..."),
            ("/mnt", "/.hidden.", "/mnt", ".hidden."),
        ]
        for point, root, path, wanted in table:
            with self.subTest(point=point, root=root, path=path):
                self.assertEqual(Mount(point, root, "btrfs").inside(path), wanted)

    def test_whole_way(self) -> None:
        """From the kernel's table to the path inside, through an escaped mount point."""
        disk = line(r"/my\040disk", r"/@back\040ups", "btrfs", "shared:7").replace("36 35", "37 36")
        mounts = parse(line("/", "/@", "btrfs") + disk)
        mount = find(mounts, "/my disk/home")
        assert mount
        self.assertEqual(mount.inside("/my disk/home"), "@back ups/home")

    def test_what_it_shows(self) -> None:
        table: list[tuple[str, str, bool]] = [
            # root of the mount, path from the top of the filesystem, whether it can be seen
            ("/", "", True),
            ("/", "a/b", True),
            ("/@", "@", True),
            ("/@", "@/a", True),
            ("/@", "@2", False),
            ("/@", "", False),
            ("/@home/anna", "@home", False),
            ("/@home/anna", "@home/anna/snapshot", True),
        ]
        for root, path, wanted in table:
            with self.subTest(root=root, path=path):
                self.assertIs(Mount("/mnt", root, "btrfs").shows(path), wanted)


if __name__ == "__main__":
    unittest.main()
