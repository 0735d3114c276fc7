"""The marks of transfers at their destinations."""

import unittest

from btrfs_backup.model import mark

BOOT = "32eccaf0-88cf-4267-8a87-6d38640fad2e"


class Marks(unittest.TestCase):
    def test_there_and_back(self) -> None:
        for name in ("20261124-120000", "a.b-20261124-120000", f".{BOOT}.receiving-20261124-120000", "a\nb"):
            for boot in (BOOT, mark.UNKNOWN):
                with self.subTest(name, boot=boot):
                    self.assertEqual(mark.marked(mark.mark(name, boot)), (name, boot))

    def test_no_marks(self) -> None:
        good = mark.mark("20261124-120000", BOOT)
        for entry in ("", "20261124-120000", good[1:], good + "x", good.upper(), f"..{BOOT}", f".{BOOT}.receiving"):
            with self.subTest(entry):
                self.assertIsNone(mark.marked(entry))

    def test_boot_ids(self) -> None:
        for read, wanted in ((BOOT, BOOT), ("", mark.UNKNOWN), ("../x", mark.UNKNOWN), (mark.UNKNOWN, mark.UNKNOWN)):
            self.assertEqual(mark.valid(read), wanted)


if __name__ == "__main__":
    unittest.main()
