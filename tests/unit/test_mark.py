"""The marks of transfers at their destinations."""

import unittest

from btrfs_backup import cli
from btrfs_backup.model import mark

BOOT = "32eccaf0-88cf-4267-8a87-6d38640fad2e"
MOUNTING = f"{BOOT}-3189782"


class Marks(unittest.TestCase):
    def test_there_and_back(self) -> None:
        for name in ("20261124-120000", "a.b-20261124-120000", f".{MOUNTING}.receiving-20261124-120000", "a\nb"):
            for mounting in (MOUNTING, mark.UNKNOWN):
                with self.subTest(name, mounting=mounting):
                    self.assertEqual(mark.marked(mark.mark(name, mounting)), (name, mounting))

    def test_length(self) -> None:
        """It has to be the name of a file, of 255 bytes at most; an inode number has 20 digits at most."""
        name = "x" * cli.LONGEST_PREFIX + "20261124-120000"
        self.assertLessEqual(len(mark.mark(name, mark.mounting(BOOT, "9" * 20))), 255)

    def test_no_marks(self) -> None:
        good = mark.mark("20261124-120000", MOUNTING)
        for entry in (
            "",
            "20261124-120000",
            good[1:],
            good + "x",
            good.upper(),
            f"..{MOUNTING}",
            f".{MOUNTING}.receiving",
        ):
            with self.subTest(entry):
                self.assertIsNone(mark.marked(entry))

    def test_mountings(self) -> None:
        self.assertEqual(mark.mounting(BOOT, "3189782"), MOUNTING)
        for boot, number in (("", ""), (BOOT, ""), ("", "1"), (mark.UNKNOWN, "1"), (BOOT, "../1"), ("../x", "1")):
            with self.subTest(boot=boot, number=number):
                self.assertEqual(mark.mounting(boot, number), mark.UNKNOWN)


if __name__ == "__main__":
    unittest.main()
