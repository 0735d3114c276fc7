"""Hands streams of bytes on through pipes, to one reader or to several.

    inlets -> [stage] -> pipe -> [stage] -> ...
                 |                  |
               outlet             outlet

Each stage is a thread. The first one takes what comes out of one inlet after the other. Where nobody has to look at
the data, the kernel moves and shares its pages (splice(2), tee(2)) and nothing is copied. A reader that is gone drops
out, and the others go on.
"""

import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType

from btrfs_backup.model.cutter import Checkpoint, Cutter, Unproved
from btrfs_backup.model.gate import Gate
from btrfs_backup.model.sendstream import Beginning, BrokenStream, Checker, Piece, beginning

# The sender reads ahead while the receiver commits. Measured: a full backup takes 0.7 of the time of a shell pipe with
# 64 MiB, and 0.9 with 1 MiB, which is what users without CAP_SYS_RESOURCE get (/proc/sys/fs/pipe-max-size).
_PIPE_SIZES = tuple(1 << power for power in range(26, 15, -1))
LARGEST_PIPE = _PIPE_SIZES[0]
# What has come from another machine, and is in pipes when all is cut off, has to come again.
FAR_PIPE = 4 << 20
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_PIECE = 1 << 20  # bytes read at once where the data is looked at
_LEAST = 4096  # bytes read at once where only the heads of large frames are
_LARGE = 16 << 10  # bytes of a frame that are worth a system call of their own
_SMALL = 4 << 20  # bytes that a stream has at most which is small
SOON, IN_A_WHILE = 0.2, 2.0  # seconds within which it has ended, while its receiver is idle or busy
_GLANCE = 200  # milliseconds between looks at whether the process at the other end has ended
_LONGEST_HEAD = 4096  # bytes, far above those of a header and a first command
_MANY = 1 << 30  # more than a pipe holds
HASH_LINE = 68  # bytes that sha256sum(1) prints of its standard input
_LIBC = ctypes.CDLL(None, use_errno=True)


class Pipe:
    """A pipe between two processes, or a process and this one. reader, writer: file descriptors, -1 when closed.

    moved, drained: bytes that our stages wrote to it, and took out of it. beginning: the first command of what
    comes out of it; gate: what may come out of it, when that is judged; cutter: what makes parts of that;
    ahead: where a stream from another machine goes on.
    broken: one of them found that nobody reads from it any more.
    abandoned: the process at the other end, which used it with us, has ended. Some process that it has left behind
    may still hold that end open, so the state of the pipe alone does not tell.
    """

    def __init__(self, most: int = LARGEST_PIPE) -> None:
        """MOST: bytes that it holds."""
        self.reader, self.writer = os.pipe()
        self.moved = 0
        self.drained = 0
        self.beginning: Beginning | None = None
        self.gate: Gate | None = None
        self.cutter: Cutter | None = None
        self.ahead: Checkpoint | None = None
        self.looking = _LEAST  # bytes that are read at once
        self.broken = False
        self.abandoned = False
        for size in [each for each in _PIPE_SIZES if each <= most]:
            with suppress(OSError):
                fcntl.fcntl(self.writer, _F_SETPIPE_SZ, size)
                break

    def abandon(self) -> None:
        self.abandoned = True

    def unread(self) -> int:
        """Bytes that nobody has read yet."""
        return int(struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))[0])

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.close_reader()
        self.close_writer()


class Outlet:
    """The pipe that one receiver reads. Our copy of its reading end stays open until the receiver has ended, to see
    what it left unread: whoever writes to a pipe believes that what fits into it has arrived.
    """

    def __init__(self, most: int = LARGEST_PIPE) -> None:
        self.pipe = Pipe(most)
        self._unread = 0
        os.set_blocking(self.pipe.writer, False)

    def leave(self) -> None:
        """The receiver has ended. What a stage writes from now on counts as broken, what it wrote before is unread."""
        self.pipe.abandon()
        if self.pipe.reader >= 0:
            self._unread = self.pipe.unread()
            self.pipe.close_reader()

    @property
    def fill(self) -> float:
        """The share of it that is full."""
        return self.pipe.unread() / _room(self.pipe) if self.pipe.reader >= 0 else 0.0

    @property
    def delivered(self) -> int:
        """Bytes that the receiver has read so far."""
        return self.pipe.moved - (self.pipe.unread() if self.pipe.reader >= 0 else self._unread)

    @property
    def left_early(self) -> bool:
        """Whether it ended before it had read the whole stream."""
        return self.pipe.broken or self._unread > 0


class Chain:
    """The stages that lead from one inlet after the other to OUTLETS, and the pipes between them.

    checked: how many of the outlets, from the end, get what has been checked on the way (see sendstream.Checker).
    looked_at: the streams of the inlets may have gates and cutters. rate: bytes a second that go through at most;
    0: as fast as it goes. most: bytes in each pipe. unproved: the stream does not go on where it was cut off.
    Leaving the scope closes everything and waits for the stages: the processes at its ends must be gone by then.
    """

    def __init__(
        self, outlets: Sequence[Outlet], checked: int, rate: int = 0, looked_at: bool = False, most: int = LARGEST_PIPE
    ) -> None:
        self._most = most
        self.unproved: Unproved | None = None
        self.broken_stream: BrokenStream | None = None
        self.refused: BrokenStream | None = None  # why a gate let no more of a stream through
        self.fault: Exception | None = None  # what made a stage give up
        self._pipes = [outlet.pipe for outlet in outlets]
        self._threads: list[threading.Thread] = []
        self._rate = rate
        self._inlets: SimpleQueue[Pipe | None] = SimpleQueue()
        try:
            self._build(outlets, checked, looked_at)
        except OSError:
            self._close()
            raise

    def _build(self, outlets: Sequence[Outlet], checked: int, looked_at: bool) -> None:
        source: Iterable[Pipe] = map(_with_head, iter(self._inlets.get, None))
        if looked_at and len(outlets) == 1 and not (checked or self._rate):
            self._add(self._look_at, source, outlets[0].pipe)
            return
        if looked_at:
            source = self._add(self._look_at, source, self._pipe())
        if self._rate:
            source = self._add(self._limit, source, self._pipe())
        for number, outlet in enumerate(outlets):
            if number == len(outlets) - checked:
                source = self._add(self._check, source, self._pipe())
            onward = [] if number == len(outlets) - 1 else [self._pipe()]
            source = self._add(self._share, source, outlet.pipe, *onward)

    def __enter__(self) -> "Chain":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A signal may have come when only some of the stages had begun; these must not wait for the others.
        for pipe in self._pipes:
            pipe.abandon()
        self.end()
        for thread in self._threads:
            if thread.ident:
                thread.join()
        self._close()

    def _close(self) -> None:
        for pipe in self._pipes:
            pipe.close()

    def open(self) -> None:
        """Let it flow, the processes that read being there: a thread must not run while they are started.

        Raises OSError.
        """
        for thread in self._threads:
            try:
                thread.start()
            except RuntimeError:  # Python does not tell why
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def inlet(self) -> Pipe:
        """A pipe for a stream. Its writing end is to be closed here when somebody else has it."""
        pipe = Pipe(self._most)
        self._pipes.append(pipe)
        return pipe

    def take(self, inlet: Pipe) -> None:
        """Move what comes out of INLET, behind those taken before."""
        self._inlets.put(inlet)

    def end(self) -> None:
        """No further stream comes."""
        self._inlets.put(None)

    def _pipe(self) -> Pipe:
        """One between two stages."""
        pipe = Pipe(self._most)
        os.set_blocking(pipe.writer, False)
        self._pipes.append(pipe)
        return pipe

    def _add(self, stage: Callable[..., None], sources: Iterable[Pipe], *targets: Pipe) -> list[Pipe]:
        """Have STAGE move what comes out of SOURCES, one after the other, to TARGETS; returns the last of these."""

        def run() -> None:
            # Signals are for the main thread, which knows how to end the run.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            for source in sources:
                try:
                    if not (self.fault or self.refused or self.unproved):
                        stage(source, *targets)
                except Exception as error:
                    self.fault = error
                finally:
                    # Also when nobody is left to read it: then its writer is not to wait for ever.
                    source.close_reader()
            for target in targets:
                target.close_writer()

        self._threads.append(threading.Thread(target=run, daemon=True))
        return [targets[-1]]

    def _share(self, source: Pipe, *targets: Pipe) -> None:
        while readable := [target for target in targets if not target.broken]:
            if not _wait(source, readable):
                return
            if len(readable) == 1:
                source.drained += _splice(source, readable[0])
            elif moved := _tee(source, readable[0]):
                _splice_all(source, readable[1], moved)
                source.drained += moved

    def _limit(self, source: Pipe, target: Pipe) -> None:
        """A twentieth of a second's worth at a time; what was not used is lost except for a tenth of a second."""
        due = time.monotonic()
        while not target.broken and _wait(source, [target]):
            moved = _splice(source, target, max(1, self._rate // 20))
            source.drained += moved
            due = max(due, time.monotonic() - 0.1) + moved / self._rate
            time.sleep(max(0.0, due - time.monotonic()))

    def _look_at(self, source: Pipe, target: Pipe) -> None:
        """Hand on what the gate lets through, in parts."""
        os.set_blocking(source.reader, False)
        source.looking = _PIECE if source.gate else _LEAST
        taken: list[bytes] = []
        if source.cutter and not source.cutter.needed:
            small, taken = _looked_ahead(source)
            source.cutter = None if small else source.cutter
        try:
            for piece in taken:
                _hand_on(source, target, piece)
            if not (source.gate or source.cutter):
                self._share(source, target)
                return
            if source.ahead:
                _hand_on(source, target, _proved_head(source, source.ahead))
            while not target.broken and (piece := _next_piece(source, target)):
                _hand_on(source, target, piece)
        except EOFError:
            pass  # whoever writes it has failed, and tells why
        except Unproved as error:
            self.unproved = error
        except BrokenStream as error:
            if source.ahead:
                self.unproved = Unproved()
            elif source.gate:
                self.refused = error
            else:
                self.fault = error

    def _check(self, source: Pipe, target: Pipe) -> None:
        checker = Checker()
        try:
            while not target.broken:
                if not _wait(source, []):
                    checker.finish()
                    return
                piece = os.read(source.reader, _PIECE)
                source.drained += len(piece)
                checker.feed(piece)
                _write_all(target, piece)
        except BrokenStream as error:
            self.broken_stream = error


def is_small(source: Pipe, within: float) -> bool:
    """Whether all that comes out of SOURCE is in it WITHIN that many seconds."""
    until = time.monotonic() + within
    most = min(_SMALL, _room(source))
    while not (source.abandoned or _poll(source.reader, select.POLLIN, 0) & select.POLLHUP):
        if source.unread() >= most or time.monotonic() > until:
            return False
        time.sleep(0.002)
    return source.unread() < _SMALL


def _looked_ahead(source: Pipe) -> tuple[bool, list[bytes]]:
    """Whether the stream that comes out of SOURCE is small, and what of it had to be taken out to see that."""
    until, taken = time.monotonic() + SOON, list[bytes]()
    while not is_small(source, 0):
        size = sum(map(len, taken)) + source.unread()
        if size >= _SMALL or time.monotonic() > until:
            return False, taken
        if source.unread() >= _room(source):
            taken.append(_read(source, _PIECE))
        else:
            time.sleep(0.002)
    return sum(map(len, taken)) + source.unread() < _SMALL, taken


def _room(pipe: Pipe) -> int:
    """Bytes that PIPE holds for certain: some of it can stay empty when it takes no more."""
    return int(fcntl.fcntl(pipe.reader, _F_GETPIPE_SZ) * 3 // 4)


def _next_piece(source: Pipe, target: Pipe) -> bytes:
    """What is to be looked at next, empty at the end; what need not be goes from SOURCE to TARGET before."""
    cutter = source.cutter
    while cutter and not source.gate and cutter.unseen >= _LARGE and not target.broken and _wait(source, []):
        moved = _drop(source, cutter.unseen) if cutter.dropping else _splice(source, target, cutter.unseen)
        cutter.skip(moved)
        source.drained += moved
        if not moved:
            _wait_for_room(target)
    return _read(source, source.looking)


def _read(source: Pipe, count: int) -> bytes:
    """The next bytes of SOURCE, COUNT at most, empty at its end."""
    while True:
        try:
            piece = os.read(source.reader, count)
        except BlockingIOError:
            if _wait(source, []):
                continue
            piece = b""
        source.drained += len(piece)
        return piece


def _hand_on(source: Pipe, target: Pipe, piece: Piece) -> None:
    """Raises BrokenStream, Unproved."""
    passed = source.gate.feed(piece) if source.gate else piece
    if not source.cutter:
        _write_all(target, passed)
        return
    for each in source.cutter.feed(passed):
        _write_all(target, each)
    large = source.cutter.unseen >= _LARGE and not source.gate
    source.looking = _LEAST if large else min(source.looking * 2, _PIECE)


def _proved_head(source: Pipe, ahead: Checkpoint) -> bytes:
    """The beginning of a stream from another machine, which goes on at the checkpoint AHEAD.

    Between the two come the hashes of what it left out (see Folder.sender). Raises Unproved, EOFError when it ends
    before: that proves nothing.
    """
    head = _read_exactly(source, ahead.head)
    for _, proof in ahead.ranges:
        if _read_exactly(source, HASH_LINE)[: len(proof)] != proof.encode():
            raise Unproved
    return head


def _read_exactly(source: Pipe, count: int) -> bytes:
    text = b""
    while len(text) < count:
        if not (piece := _read(source, count - len(text))):
            raise EOFError
        text += piece
    return text


def _with_head(source: Pipe) -> Pipe:
    """SOURCE, when it is known how what comes out of it begins, all of which is still there."""
    scratch = Pipe()
    os.set_blocking(scratch.writer, False)
    seen = -1
    try:
        while source.beginning is None and _wait(source, []):
            over = source.abandoned
            head = os.read(scratch.reader, copied) if (copied := _tee(source, scratch, _LONGEST_HEAD)) else b""
            source.beginning = beginning(head)
            if len(head) == _LONGEST_HEAD or (over and len(head) == seen):
                break
            seen = len(head)
            if source.beginning is None:
                time.sleep(0.001)
    except (OSError, BrokenStream):
        pass  # then it is not known; whoever reads it finds out what is wrong with it
    finally:
        scratch.close_reader()
        scratch.close_writer()
    return source


def _wait(source: Pipe, targets: Sequence[Pipe]) -> bool:
    """Wait until there is something in SOURCE, and room in one of the TARGETS or none of them is of use.

    Returns False at the end of SOURCE.
    """
    while not (events := _poll(source.reader, select.POLLIN)):
        if source.abandoned and not _poll(source.reader, select.POLLIN, 0):
            return False
    if not events & select.POLLIN:
        return False
    for target in targets:
        _wait_for_room(target)
    return True


def _wait_for_room(target: Pipe) -> None:
    """Wait until TARGET takes more, or is found broken."""
    while not target.broken and not (events := _poll(target.writer, select.POLLOUT)) & select.POLLOUT:
        target.broken = target.abandoned or bool(events)


def _poll(descriptor: int, event: int, milliseconds: int = _GLANCE) -> int:
    poll = select.poll()
    poll.register(descriptor, event)
    return sum(events for _, events in poll.poll(milliseconds))


def _splice(source: Pipe, target: Pipe, count: int = _MANY) -> int:
    """Move bytes from SOURCE, which has some; how many, 0 when TARGET is full or broken."""
    try:
        moved = os.splice(source.reader, target.writer, count)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        target.broken = True
        return 0
    return _wrote(target, moved)


def _drop(source: Pipe, count: int) -> int:
    """Take bytes out of SOURCE, which has some; how many."""
    return len(os.read(source.reader, min(count, _PIECE)))


def _tee(source: Pipe, target: Pipe, count: int = _MANY) -> int:
    """Copy bytes to TARGET and leave them in SOURCE; returns like _splice."""
    copied = int(_LIBC.tee(source.reader, target.writer, ctypes.c_size_t(count), 0))
    if copied >= 0:
        return _wrote(target, copied)
    number = ctypes.get_errno()
    target.broken = number == errno.EPIPE
    if number not in (errno.EPIPE, errno.EINTR, errno.EAGAIN):
        raise OSError(number, os.strerror(number))
    return 0


def _splice_all(source: Pipe, target: Pipe, count: int) -> None:
    """Move just COUNT bytes, which are there, or drop them when TARGET is broken."""
    while count:
        _wait_for_room(target)
        if target.broken:
            count -= len(os.read(source.reader, min(count, _PIECE)))
        else:
            count -= _splice(source, target, count)


def _write_all(target: Pipe, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest and not target.broken:
        try:
            rest = rest[_wrote(target, os.write(target.writer, rest)) :]
        except BlockingIOError:
            _wait_for_room(target)
        except BrokenPipeError:
            target.broken = True


def _wrote(target: Pipe, count: int) -> int:
    """COUNT bytes were written to TARGET: in vain, when its receiver had ended before."""
    target.moved += count
    target.broken = target.broken or target.abandoned
    return count
