"""One line on the terminal that tells how a transfer gets on, and is gone when it is over."""

import os
import sys
from collections import deque

from btrfs_backup.report import progress_line
from btrfs_backup.system.stream import Moving

_RECENT = 3.0  # seconds for which the rate is told
_AT_LINE_START, _CLEAR_LINE = "\r", "\x1b[K"
# The terminal cuts what does not fit, however it is resized.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"

_shown = False


def possible() -> bool:
    """Whether there is a terminal that can show it."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def clear() -> None:
    """Take the line away, so that a message can be printed."""
    global _shown
    if _shown:
        sys.stderr.write(f"{_AT_LINE_START}{_CLEAR_LINE}")
        sys.stderr.flush()
        _shown = False


class Progress:
    """Shows a transfer. name: of the snapshot; destinations: in the order of the receivers."""

    def __init__(self, name: str, destinations: tuple[str, ...]) -> None:
        self._name = name
        self._destinations = destinations
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def __call__(self, moving: Moving) -> None:
        global _shown
        self._seen.append((moving.seconds, moving.moved))
        while len(self._seen) > 2 and moving.seconds - self._seen[0][0] > _RECENT:
            self._seen.popleft()
        (since, before), (now, moved) = self._seen[0], self._seen[-1]
        rate = (moved - before) / (now - since) if now > since else 0.0
        delivered = dict(zip(self._destinations, moving.delivered, strict=True))
        line = progress_line(self._name, moving.moved, rate, moving.size, delivered)
        sys.stderr.write(f"{_AT_LINE_START}{_NO_WRAP}{line}{_WRAP}{_CLEAR_LINE}")
        sys.stderr.flush()
        _shown = True
