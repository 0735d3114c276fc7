"""The mark of a transfer at its destination: an empty folder beside the backup, from before the transfer until all of
that is on disk.

A filesystem keeps the order of such changes: when a backup looks complete after its machine has gone down, and there is
no mark, then it is complete. As long as there is one, it is not believed, whatever happened: that something could not
be written is told only once by the kernel, to whoever asks first (syncfs(2)).
"""

import re

_MARK = re.compile(r"\.(.+)\.receiving", re.DOTALL)


def mark(name: str) -> str:
    """For the backup NAME."""
    return f".{name}.receiving"


def marked(entry: str) -> str | None:
    """The backup of a mark, None when ENTRY is none."""
    found = _MARK.fullmatch(entry)
    return found[1] if found else None
