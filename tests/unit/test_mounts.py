"""Which filesystem a path is on."""

import unittest

from btrfs_backup.system.mounts import Mount, find, parse

ROOT = Mount("/", "/", "ext4", "8:1")
HOME = Mount("/home", "/@home", "btrfs", "0:30")
HOME2 = Mount("/home2", "/", "xfs")
DEEP = Mount("/home/anna/usb", "/", "btrfs")


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


class FindTest(unittest.TestCase):
    def test_deepest(self) -> None:
        mounts = [ROOT, HOME2, DEEP, HOME]
        table = {
            "/": ROOT,
            "/etc": ROOT,
            "/home": HOME,
            "/home/anna": HOME,
            "/home/anna/usb": DEEP,
            "/home/anna/usb/x/y": DEEP,
            "/home/anna/usb2": HOME,
            "/home2": HOME2,
            "/home2/anna": HOME2,
            "/home3": ROOT,
            "/hom": ROOT,
            "/homes/x": ROOT,
            "/x/home": ROOT,
            "/home\n": ROOT,
        }
        for path, wanted in table.items():
            for order in (mounts, mounts[::-1]):
                with self.subTest(path=path, order=order):
                    self.assertEqual(find(order, path), wanted)

    def test_overmounts(self) -> None:
        """Of several at one point the last is seen."""
        later = Mount("/home", "/", "tmpfs")
        self.assertEqual(find([ROOT, HOME, later], "/home/anna"), later)
        self.assertEqual(find([ROOT, later, HOME], "/home/anna"), HOME)
        self.assertEqual(find([ROOT, HOME, later, DEEP], "/home/anna"), later)
        self.assertEqual(find([Mount("/", "/", "rootfs"), ROOT], "/etc"), ROOT)

    def test_no_mount(self) -> None:
        self.assertIsNone(find([], "/"))
        self.assertIsNone(find([HOME], "/"))
        self.assertIsNone(find([HOME], "/home2"))


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
        mounts = parse(line("/", "/@", "btrfs") + line(r"/my\040disk", r"/@back\040ups", "btrfs", "shared:7"))
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
