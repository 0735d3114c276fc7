"""What was asked for goes to stdout."""

import os
import sys

from btrfs_backup.errors import Failure
from btrfs_backup.report import harmless
from btrfs_backup.system import progress


def in_colour() -> bool:
    """Whether stdout shows colours, and they are wanted (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(text: str) -> None:
    """Print TEXT. Raises Failure when nobody can read it."""
    progress.clear()
    try:
        print(harmless(text), flush=True)
    except OSError as error:
        # Python would try again at the end, and say so.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        what_to_do = "Is its reader gone, or the disk full?"
        raise Failure(f"cannot print on the standard output: {error.strerror}", what_to_do) from None
