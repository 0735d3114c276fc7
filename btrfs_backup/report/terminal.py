"""The terminal: what was asked for goes to stdout, and one line on stderr tells how a transfer gets on."""

import os
import re
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from btrfs_backup.errors import Failure
from btrfs_backup.report.text import size

if TYPE_CHECKING:
    from btrfs_backup.system.transfer import Moving

_LAG = 4_000_000  # bytes that a destination may be behind another one before it is worth telling
_RECENT = 3.0  # seconds for which the rate is told
_AT_LINE_START, _CLEAR_LINE = "\r", "\x1b[K"
# The terminal cuts what does not fit, however it is resized.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"

_shown = False


def open_closed_streams() -> None:
    """Open the standard streams that our caller has closed on nothing, or files of ours would take their numbers."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, open(number, mode))  # noqa: SIM115


def drop_unwritten() -> None:
    """Drop what could not be written: Python would try again when it ends, say so, and change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def possible() -> bool:
    """Whether there is a terminal that can show it."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def clear() -> None:
    """Take the line away, so that a message can be printed."""
    global _shown
    if _shown:
        _write(f"{_AT_LINE_START}{_CLEAR_LINE}")
        _shown = False


def show(line: str) -> None:
    """Put LINE in place of the one that is shown."""
    global _shown
    _write(f"{_AT_LINE_START}{_NO_WRAP}{line}{_WRAP}{_CLEAR_LINE}")
    _shown = True


def _write(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone ends no run
        sys.stderr.write(text)
        sys.stderr.flush()


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
        rate = self._rate(moving.seconds, max(0, moving.moved - moving.begun))
        delivered = dict(zip(self._destinations, moving.delivered, strict=True))
        show(progress_line(self._name, moving.moved, rate, moving.size, delivered, moving.arrived))


def harmless(text: str) -> str:
    """TEXT without what plays with a terminal: names and other machines' words may hold anything. Colours stay."""
    return re.sub(r"\x1b(?!\[3?[0-3]m)|[^\n\t\x1b -~\xa0-\U0010ffff]", lambda odd: repr(odd[0])[1:-1], text)


def progress_line(
    name: str, moved: int, rate: float, total: int | None, delivered: Mapping[str, int], arrived: bool = False
) -> str:
    """How a transfer of NAME gets on. moved: bytes so far, of TOTAL if that is known; rate: bytes a second.

    delivered: bytes that each destination has taken; one that lags behind the others is named. arrived: all of them
    have taken all, and their disks still write.
    """
    line = f"{name}: {size(moved)}"
    if arrived:
        return f"{line}, being written to disk"
    if total:
        # What is still to come is an estimate: the data may be compressed.
        line += f" of {size(total)} ({min(99, moved * 100 // total)} %)"
    line += f", {size(rate)}/s"
    if total and total > moved and rate >= 1:
        line += f", {_duration((total - moved) / rate)} left"
    ahead = max(delivered.values(), default=0)
    behind = [f"{place} at {size(count)}" for place, count in delivered.items() if ahead - count > _LAG]
    return line + (f"; behind: {', '.join(behind)}" if behind else "")


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def in_colour(stream: TextIO) -> bool:
    """Whether STREAM shows colours, and they are wanted (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(text: str) -> None:
    """Print TEXT. Raises Failure when nobody can read it."""
    clear()
    try:
        print(harmless(text), flush=True)
    except OSError as error:
        drop_unwritten()
        what_to_do = "Is its reader gone, or the disk full?"
        raise Failure(f"cannot print on the standard output: {error.strerror}", what_to_do) from None
