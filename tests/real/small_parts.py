"""Runs the program so that it cuts streams into parts that are small enough for tests, and waits as little."""

import sys

from btrfs_backup.__main__ import main
from btrfs_backup.commands import streaming
from btrfs_backup.system import pipes, process, transfer

PART = 2 << 20  # bytes
PIPE = 1 << 20

if __name__ == "__main__":
    streaming._PART = streaming._SLOW_PART = PART
    streaming._SECONDS = streaming._SLOW_SECONDS = 0.0
    streaming._SLOW_WRITE = streaming._WRITE = PART // 2
    process._TICK = 0.03
    pipes._SMALL = 512 << 10
    transfer.LARGEST_PIPE = PIPE
    transfer._HELD_UP = 6.0
    sys.exit(main())
