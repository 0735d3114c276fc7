"""Which mount a path is on, from /proc/self/mountinfo."""

import unittest

from btrfs_backup.system.mounts import Mount, find, parse

MOUNTINFO = r"""21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
43 27 0:39 / /home rw,relatime shared:1 master:2 - btrfs /dev/loop0 rw,subvolid=5,subvol=/
44 27 0:41 / /mnt/b\040b\011c\012d\134e rw,relatime - btrfs /dev/loop1 rw,subvolid=5,subvol=/
45 27 0:39 /@data /mnt/data rw,relatime - btrfs /dev/loop0 rw,subvolid=256,subvol=/@data
46 27 0:39 /@data/deep /bind rw - btrfs /dev/loop0 rw
47 27 0:50 / /over rw - btrfs /dev/loop2 rw
48 47 0:51 / /over rw - tmpfs none rw
garbage
49 27 0:51 / /cut rw -
"""


class MountsTest(unittest.TestCase):
    def test_find(self) -> None:
        mounts = parse(MOUNTINFO)
        for path, point, kind, inside in (
            ("/", "/", "ext4", ""),
            ("/home", "/home", "btrfs", ""),
            ("/home/me/snapshot", "/home", "btrfs", "me/snapshot"),
            ("/home2/me", "/", "ext4", "home2/me"),
            ("/mnt/b b\tc\nd\\e/x y", "/mnt/b b\tc\nd\\e", "btrfs", "x y"),
            ("/mnt/data", "/mnt/data", "btrfs", "@data"),
            ("/mnt/data/a/b", "/mnt/data", "btrfs", "@data/a/b"),
            ("/bind/x", "/bind", "btrfs", "@data/deep/x"),
            ("/over/x", "/over", "tmpfs", "x"),
            ("/cut", "/", "ext4", "cut"),
        ):
            with self.subTest(path):
                mount = find(mounts, path)
                assert mount
                self.assertEqual((mount.point, mount.type, mount.inside(path)), (point, kind, inside))

    def test_no_mounts(self) -> None:
        self.assertIsNone(find(parse(""), "/home"))
        self.assertIsNone(find([Mount("/mnt", "/", "btrfs")], "/home"))
