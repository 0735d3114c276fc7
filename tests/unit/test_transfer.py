"""What is told by the numbers of transactions in a stream, in the source and at a destination."""

import unittest

from btrfs_backup.model.sendstream import Beginning
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.system.transfer import Streamed


class FitsTest(unittest.TestCase):
    def test_parent(self) -> None:
        """It fits when it was not changed since it was sent, or not at all since it was made."""
        table = (
            # last changed, as the stream says; made; the number that the copy has; whether it fits
            (8, 8, 8, True),
            (5, 8, 5, True),
            (46, 8, 46, True),  # changed, then sent
            (46, 8, 8, False),  # sent, then changed
            (9, 8, 8, False),
            (46, None, 8, False),
            (8, 8, 14, True),  # the copy came from another copy
            (5, 8, 14, True),
            (46, 8, 14, False),
            (46, 8, None, True),  # older programs do not tell
        )
        for changed, made, sent, wanted in table:
            with self.subTest(changed=changed, made=made, sent=sent):
                stream = Streamed(0, 0.0, Beginning(b"x", "x", 50, "parent", changed))
                self.assertIs(stream.fits(Subvolume("parent", "parent", made_transid=made), sent), wanted)


if __name__ == "__main__":
    unittest.main()
