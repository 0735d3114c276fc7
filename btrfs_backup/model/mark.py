"""The mark of a transfer at its destination: an empty folder beside the backup, from before the transfer until all of
that is on disk.

A filesystem keeps the order of such changes: when a backup looks complete after its machine has gone down, and there is
no mark, then it is complete. It tells which mounting of the filesystem it was: as long as that lasts, all can be had on
disk; when the machine has gone down since, or the disk was pulled out, it may be lost.
"""

import re

UNKNOWN = "unknown"  # it never lasts
_MOUNTING = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9]+"
_MARK = re.compile(rf"\.(.+)\.({_MOUNTING}|{UNKNOWN})\.receiving", re.DOTALL)


def mark(name: str, mounting: str) -> str:
    """For the backup NAME, received while its filesystem has that MOUNTING."""
    return f".{name}.{mounting}.receiving"


def marked(entry: str) -> tuple[str, str] | None:
    """The backup and the mounting of a mark, None when ENTRY is none."""
    found = _MARK.fullmatch(entry)
    return (found[1], found[2]) if found else None


def mounting(boot: str, number: str) -> str:
    """Of a filesystem: by the boot id of its machine, and a NUMBER that is another one for each mounting.

    UNKNOWN when what was read is of another form.
    """
    both = f"{boot}-{number}"
    return both if re.fullmatch(_MOUNTING, both) else UNKNOWN
