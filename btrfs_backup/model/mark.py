"""The mark of a transfer at its destination: an empty folder beside the backup, from before the transfer until all of
that is on disk.

A filesystem keeps the order of such changes: when a backup looks complete after its machine has gone down, and there is
no mark, then it is complete. It holds the boot id of that machine, which tells whether it has gone down since.
"""

import re

UNKNOWN = "unknown"
_MARK = re.compile(rf"\.(.+)\.([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|{UNKNOWN})\.receiving", re.DOTALL)


def mark(name: str, boot: str) -> str:
    """For the backup NAME on a machine with that BOOT id (random(4)), or UNKNOWN."""
    return f".{name}.{boot}.receiving"


def marked(entry: str) -> tuple[str, str] | None:
    """The backup and the boot id of a mark, None when ENTRY is none."""
    found = _MARK.fullmatch(entry)
    return (found[1], found[2]) if found else None


def valid(boot: str) -> str:
    """What was read as a boot id, or UNKNOWN."""
    return boot if boot != UNKNOWN and _MARK.fullmatch(mark("x", boot)) else UNKNOWN
