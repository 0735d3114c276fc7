"""Incremental backups of btrfs subvolumes."""

import sys

__version__ = "1.0.0"

# Said here, where any Python can still read it.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("error: btrfs-backup needs Python 3.10 or later; this is " + sys.version.split()[0])
