"""Signals that ask the program to end: noted when they come, raised where it waits.

A handler that raises does so anywhere, also where Python drops exceptions; then the signal is lost.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from btrfs_backup.errors import Interrupted

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNHEARD = 5.0  # seconds after which the program counts as stuck where it does not listen, say on a dead disk


class _Notes:
    """The signals that have come, in their order. heard: how many of them were raised.

    reader: readable when one has come, -1 outside the scope of `noted`.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.heard = 0
        self.reader = -1
        self._oldest_unheard = 0.0

    @property
    def unheard(self) -> bool:
        return len(self.signals) > self.heard

    def add(self, number: int, frame: FrameType | None) -> None:
        """The handler. When the one before was not heard for long, this one ends the program."""
        now = time.monotonic()
        if not self.unheard:
            self._oldest_unheard = now
        elif now - self._oldest_unheard > _UNHEARD:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signals.append(number)


_notes = _Notes()


def end_at_once() -> None:
    """Have Ctrl-C simply end the program, as other signals do: before a run there is nothing to clear up."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def noted() -> Iterator[None]:
    """The scope in which signals are noted. What our caller ignores (nohup) stays ignored."""
    global _notes
    _notes = _Notes()
    _notes.reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    ours = [each for each in _ENDING if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, _notes.add) for each in ours}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        os.close(_notes.reader)
        _notes.reader = -1


def check() -> None:
    """Raises Interrupted, for the first that came, when one has come since the last time."""
    if not _notes.unheard:
        return
    # In this order: one that comes in between is not heard yet, and needs no waking.
    _notes.heard = len(_notes.signals)
    with suppress(BlockingIOError):
        os.read(_notes.reader, 1 << 16)
    raise Interrupted(_notes.signals[0])


def unheard() -> int:
    """The signal that came first when one has come that was not raised; otherwise 0."""
    return _notes.signals[0] if _notes.unheard else 0


def waker() -> list[int]:
    """What can be read when a signal has come: a descriptor, none outside the scope."""
    return [_notes.reader] if _notes.reader >= 0 else []


def wait(descriptors: list[int], seconds: float | None = None) -> bool:
    """Wait until one of DESCRIPTORS can be read, for SECONDS at most if given. Returns whether one can.

    Raises Interrupted when a signal comes, or has come.
    """
    check()
    poll = select.poll()
    for each in (*descriptors, *waker()):
        poll.register(each, select.POLLIN)
    ready = poll.poll(None if seconds is None else max(0.0, seconds * 1000))
    check()
    return any(each in descriptors for each, _ in ready)
