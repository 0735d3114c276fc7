"""The terminal: what was asked for goes to stdout, and one line on stderr tells how a transfer gets on."""

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from btrfs_backup.errors import Failure
from btrfs_backup.report.text import size

if TYPE_CHECKING:
    from btrfs_backup.system.transfer import Moving

_LAG = 4_000_000  # bytes that a destination may be behind another one before it is worth telling
_RECENT = 3.0  # seconds for which the rate is told
_AT_LINE_START = "\r"
# The terminal cuts what does not fit any more. The cursor waits at the beginning of the line: when the terminal gets
# narrower, many put the rest of the line below it, and all of that is cleared.
_NO_WRAP, _WRAP, _CLEAR_BELOW = "\x1b[?7l", "\x1b[?7h", "\x1b[J"

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
        _write(f"{_AT_LINE_START}{_CLEAR_BELOW}")
        _shown = False


def show(line: str) -> None:
    """Put LINE in place of the one that is shown."""
    global _shown
    with suppress(OSError):
        # The last column stays free: what clears the rest of the line would begin there. Some terminals have 0 columns.
        line = line[: (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1]
    _write(f"{_AT_LINE_START}{_NO_WRAP}{line}{_WRAP}{_CLEAR_BELOW}{_AT_LINE_START}")
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
    """Shows a transfer. name: of the snapshot; destinations: in the order of the receivers.

    waiting: gives the sizes of the streams that come behind it, as far as they are known.
    """

    def __init__(
        self, name: str, destinations: tuple[str, ...], waiting: Callable[[], Sequence[int | None]] = lambda: ()
    ) -> None:
        self._name = name
        self._destinations = destinations
        self._waiting = waiting
        self._rate = Rate()

    def __call__(self, moving: "Moving") -> None:
        rate = self._rate(moving.seconds, max(0, moving.moved - moving.begun))
        delivered = dict(zip(self._destinations, moving.delivered, strict=True))
        where = f"{self._name} to {_places(delivered)}"
        show(progress_line(where, moving.moved, rate, moving.size, moving.arrived, self._waiting()))


def _places(delivered: Mapping[str, int]) -> str:
    """The destinations; one that is behind the others with the bytes that it has taken."""
    ahead = max(delivered.values(), default=0)
    return ", ".join(
        f"{place} (at {size(count)})" if ahead - count > _LAG else place for place, count in delivered.items()
    )


def harmless(text: str) -> str:
    """TEXT without what plays with a terminal: names and other machines' words may hold anything. Colours stay."""
    return re.sub(r"\x1b(?!\[3?[0-3]m)|[^\n\t\x1b -~\xa0-\U0010ffff]", lambda odd: repr(odd[0])[1:-1], text)


def progress_line(
    what: str, moved: int, rate: float, total: int | None, arrived: bool = False, waiting: Sequence[int | None] = ()
) -> str:
    """How the transfer of WHAT gets on: first what a narrow terminal has to show.

    moved: bytes so far, of TOTAL if that is known; rate: bytes a second. arrived: all has been taken, and disks still
    write. waiting: the sizes of what comes behind it, None where they are not known.
    """
    if arrived:
        return f"{size(moved)} are being written to disk: {what}"
    # What is still to come is an estimate: the data may be compressed.
    parts = [f"{min(99, moved * 100 // total)} % of {size(total)}" if total else size(moved), f"{size(rate)}/s"]
    if total and total > moved and rate >= 1:
        parts.append(f"{_duration((total - moved) / rate)} left")
        known = [each for each in waiting if each is not None]
        if waiting and len(known) == len(waiting):
            parts.append(f"{_duration((total - moved + sum(known)) / rate)} for all {len(waiting) + 1}")
    return f"{', '.join(parts)}: {what}"


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
