"""One line on the terminal that tells how a transfer gets on, and is gone when it is over."""

import os
import sys
from collections import deque
from typing import TYPE_CHECKING

from btrfs_backup.report import progress_line

if TYPE_CHECKING:
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


def show(line: str) -> None:
    """Put LINE in place of the one that is shown."""
    global _shown
    sys.stderr.write(f"{_AT_LINE_START}{_NO_WRAP}{line}{_WRAP}{_CLEAR_LINE}")
    sys.stderr.flush()
    _shown = True


class Rate:
    """Bytes a second of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def __call__(self, seconds: float, moved: int) -> float:
        """MOVED: bytes within SECONDS from the start."""
        self._seen.append((seconds, moved))
        while len(self._seen) > 2 and seconds - self._seen[0][0] > _RECENT:
            self._seen.popleft()
        since, before = self._seen[0]
        return (moved - before) / (seconds - since) if seconds > since else 0.0


class Progress:
    """Shows a transfer. name: of the snapshot; destinations: in the order of the receivers."""

    def __init__(self, name: str, destinations: tuple[str, ...]) -> None:
        self._name = name
        self._destinations = destinations
        self._rate = Rate()

    def __call__(self, moving: "Moving") -> None:
        rate = self._rate(moving.seconds, moving.moved)
        delivered = dict(zip(self._destinations, moving.delivered, strict=True))
        show(progress_line(self._name, moving.moved, rate, moving.size, delivered, moving.arrived))
