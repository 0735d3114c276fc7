"""The marks of transfers at their destinations."""

import unittest

from btrfs_backup.cli import parser as cli
from btrfs_backup.model import mark


class Marks(unittest.TestCase):
    def test_there_and_back(self) -> None:
        for name in ("20261124-120000", "a.b-20261124-120000", ".x.receiving-20261124-120000", "a\nb"):
            with self.subTest(name):
                self.assertEqual(mark.marked(mark.mark(name)), name)

    def test_length(self) -> None:
        """It has to be the name of a file, of 255 bytes at most."""
        self.assertLessEqual(len(mark.mark("x" * cli.LONGEST_PREFIX + "20261124-120000")), 255)

    def test_no_marks(self) -> None:
        good = mark.mark("20261124-120000")
        for entry in ("", "20261124-120000", good[1:], good + "x", good.upper(), "..receiving"[1:], ".receiving"):
            with self.subTest(entry):
                self.assertIsNone(mark.marked(entry))


if __name__ == "__main__":
    unittest.main()
