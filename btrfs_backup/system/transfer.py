"""Streams, one after the other, from their senders to one or several receivers."""

import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from btrfs_backup.errors import Failure
from btrfs_backup.model.arrival import Ending, Streamed
from btrfs_backup.model.cutter import Checkpoint, Cutter
from btrfs_backup.model.gate import Expected, Gate
from btrfs_backup.model.sendstream import Measure
from btrfs_backup.system.pipes import FAR_PIPE, HASH_LINE, IN_A_WHILE, LARGEST_PIPE, Chain, Outlet, Pipe, is_small
from btrfs_backup.system.process import Child, Children, Command, CommandFailed, Ended, Pipeline, lacking

_LONG = 5.0  # seconds after which no further stream is begun: what has arrived is to be verified and recorded
_HELD_UP, _IN_BETWEEN = 4.0, 1.5  # seconds that one receiver may hold up others, and for which it may take a bit
_FULL, _STARVED = 0.75, 0.125  # shares of a pipe
_FAR_SLOWER = 8
_FILES_OF_TRANSFER, _FILES_OF_RECEIVER = 20, 12  # that are open at the same time; seen: 13, and 7 to 10


@dataclass(frozen=True)
class Moving:
    """A stream on its way. moved: bytes so far; delivered: those that each receiver has read; size: of the whole
    stream, None as long as it is not known; arrived: all of it has been read, and the disks still write; begun: bytes
    that the receiver had before."""

    moved: int
    delivered: tuple[int, ...]
    seconds: float
    size: int | None
    arrived: bool
    begun: int = 0


@dataclass(frozen=True)
class Cutting:
    """The way to cut the first stream of a transfer, so that it can go on when it is cut off.

    limit: bytes of a part, or what moves in that many seconds if that is more; those that follow have at most as many.
    between_writes: seconds, at least, between two times that a disk is made to write. checkpoints, far, upon: see
    Cutter.
    """

    limit: int
    seconds: float
    salt: str
    checkpoints: tuple[Checkpoint, ...] = ()
    far: bool = False
    between_writes: float = 0.0
    upon: str = ""

    @property
    def ahead(self) -> Checkpoint | None:
        """Where a stream from another machine goes on."""
        return self.checkpoints[-1] if self.far and self.checkpoints else None

    def cutter(self) -> Cutter:
        return Cutter(self.limit, self.salt, self.checkpoints, self.far, self.upon)


@dataclass(frozen=True)
class Sender:
    """The source of one stream.

    pipeline: what writes the stream. estimate: writes it without its data, to learn the size. begin: is called when its
    stream begins to be moved, watch: a few times a second from then on. waiting: the estimates of streams that come
    behind it, each with what is called when their size is known. expected: what may come from another machine; None
    when it is from this one.
    """

    pipeline: Pipeline
    estimate: Command | None = None
    begin: Callable[[], None] = lambda: None
    watch: Callable[[Moving], None] | None = None
    waiting: Sequence[tuple[Command, Callable[[int | None], None]]] = ()
    expected: Expected | None = None


@dataclass(frozen=True)
class Receiver:
    """The target of streams.

    pipeline: what reads the streams. checked: it cannot tell a broken stream, so that is done on the way to it.

    write_out: gives what has the disk write what was made of them, and waits for that; raises Failure when its host
    cannot be reached any more. early: the same while the stream goes on, after so many bytes that are UNWRITTEN.
    """

    pipeline: Pipeline
    write_out: Callable[[], Command] | None = None
    checked: bool = False
    early: Callable[[], Command] | None = None
    unwritten: int = 128 << 20


@dataclass(frozen=True)
class Transferred:
    """The outcome of a transfer.

    streams: one for each sender whose stream was begun; endings: one for each receiver. unproved: the stream is not the
    one that was cut off; the checkpoints that it does agree with.
    """

    streams: tuple[Streamed, ...]
    endings: tuple[Ending, ...]
    unproved: tuple[Checkpoint, ...] | None = None


@lacking("cannot move a stream")
def transfer(
    senders: Iterable[Sender],
    receivers: Sequence[Receiver],
    rate: int = 0,
    judged: bool = False,
    cutting: Cutting | None = None,
) -> Transferred:
    """Give each of the RECEIVERS all that the SENDERS write, have it on disk, and wait for all of that.

    One stream is moved when the sender of the one before has ended well, so the receivers have to take several streams
    one after the other, as `btrfs receive` does. No further one is begun when it takes long, or when it is large and
    CUTTING is wanted. rate: bytes a second at most, 0 for no limit. judged: the senders expect something.

    Raises Failure when one of the commands cannot be started.
    """
    most = FAR_PIPE if cutting and cutting.far else LARGEST_PIPE
    ends = _ends(receivers, most)
    outlets = [end.outlet for end in sorted(ends, key=lambda end: end.checked)]
    checked, looked_at = sum(end.checked for end in ends), judged or cutting is not None
    flows: list[_Flow] = []
    with Chain(outlets, checked, rate, looked_at, most) as chain, Children() as children:
        for end in ends:
            end.start(children)
        chain.open()

        def tick(arrived: bool = False) -> None:
            for end in ends:
                end.tick(flows[-1].between_writes if flows else 0)
            if cutting and len(flows) == 1 and not arrived:
                _let_go(ends, flows[0].started)
            if flows:
                flows[-1].tell([end.outlet.delivered for end in ends], arrived)

        waiting = (
            _Flow(sender, chain.inlet(), children, None if number else cutting) for number, sender in enumerate(senders)
        )
        for flow in _in_turn(waiting, cutting.limit if cutting else None):
            flow.begin([end.outlet.delivered for end in ends])
            flows.append(flow)
            chain.take(flow.inlet)
            children.wait(flow.children, tick)
        chain.end()
        children.wait([child for end in ends for child in end.children], tick)
        children.wait([child for end in ends for child in end.write_out()], partial(tick, arrived=True))
    return _transferred(flows, ends, chain)


def _transferred(flows: Sequence["_Flow"], ends: Sequence["_End"], chain: Chain) -> Transferred:
    """What came of it, when all is over."""
    sends = [ended for flow in flows for ended in _ended(flow.children)]
    untils = [*(flow.started for flow in flows[1:]), time.monotonic()]
    return Transferred(
        tuple(flow.streamed(until) for flow, until in zip(flows, untils, strict=False)),
        tuple(end.ending(sends, chain) for end in ends),
        tuple(chain.unproved.proved) if chain.unproved else None,
    )


def most_receivers() -> int:
    """How many receivers one transfer can have; each takes some of the files that a process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (limit - len(os.listdir("/proc/self/fd")) - _FILES_OF_TRANSFER) // _FILES_OF_RECEIVER)


def _ends(receivers: Sequence[Receiver], most: int) -> list["_End"]:
    """MOST: bytes in each pipe. Raises OSError; then all pipes are closed."""
    ends: list[_End] = []
    try:
        for receiver in receivers:
            ends.append(_End(receiver, most))
    except OSError:
        for end in ends:
            end.outlet.pipe.close()
        raise
    return ends


@dataclass(frozen=True)
class HoldUp:
    """A time SINCE when a receiver holds up others, seen at LAST; in between, its own pipe may take a bit.

    delivered: bytes that it had got at the beginning; rate: bytes a second that the fastest of the others had got
    until then.
    """

    since: float
    last: float
    delivered: int
    rate: float

    def is_enough(self, now: float, delivered: int) -> bool:
        """Whether the others go on without it, when NOW so many bytes have been DELIVERED to it: it is far slower.

        If it is only somewhat slower, reading the source once is worth more.
        """
        lasted = now - self.since
        return lasted > _HELD_UP and (delivered - self.delivered) / lasted * _FAR_SLOWER < self.rate


def _let_go(ends: Sequence["_End"], started: float) -> None:
    """Let those go that hold up others in a stream that STARTED then; parts of what they have got stay there."""
    now = time.monotonic()
    taking = [end for end in ends if end.is_taking]
    for end in taking:
        waiting = [other for other in taking if other is not end and other.outlet.fill < _STARVED]
        if not waiting or end.outlet.fill < _FULL:
            end.hold_up = end.hold_up if end.hold_up and now - end.hold_up.last < _IN_BETWEEN else None
        elif not end.hold_up:
            fastest = max(other.outlet.delivered for other in waiting)
            end.hold_up = HoldUp(now, now, end.outlet.delivered, fastest / max(now - started, 0.1))
        elif end.hold_up.is_enough(now, end.outlet.delivered):
            end.let_go()
        else:
            end.hold_up = replace(end.hold_up, last=now)


def _in_turn(flows: Iterator["_Flow"], most: int | None) -> Iterator["_Flow"]:
    """FLOWS, the next one when the one before has ended well, up to the first behind that with more bytes than MOST.

    From the second one on, another is started ahead, since starting a sender takes longer than a small stream itself.
    When it is not wanted after all, it is dropped, and no receiver has seen anything of it.
    """
    since = time.monotonic()
    flow, ahead = next(flows, None), None
    while flow:
        yield flow
        if not flow.ended_well or time.monotonic() - since > _LONG:
            break
        flow, ahead = ahead or next(flows, None), next(flows, None)
        if flow and most is not None and not flow.has_at_most(most):
            flow.drop()
            break
    if ahead:
        ahead.drop()


class _Flow:
    """One of the streams of a transfer. Its sender is started at once, and waits until its stream is moved."""

    def __init__(self, sender: Sender, inlet: Pipe, children: Children, cutting: Cutting | None) -> None:
        self.inlet = inlet
        self._cutting = cutting
        self.started = math.inf
        self._sender = sender
        self._starter = children
        self._delivered_before: Sequence[int] = ()
        self._measure = Measure()
        self._measuring: Iterator[None] = iter(())
        inlet.gate = Gate([sender.expected]) if sender.expected else None
        inlet.cutter = cutting.cutter() if cutting else None
        inlet.ahead = cutting.ahead if cutting else None
        with open(os.devnull, "rb") as nothing:
            try:
                self.children = _start(
                    children, sender.pipeline, nothing.fileno(), inlet.writer, on_last_end=inlet.abandon
                )
            finally:
                # As long as we hold the end, the stream has none.
                inlet.close_writer()

    def begin(self, delivered: Sequence[int]) -> None:
        """It is moved from now on; DELIVERED: what each receiver has read of those before."""
        self.started = time.monotonic()
        self._delivered_before = delivered
        self._sender.begin()
        if self._sender.estimate and self._sender.watch:
            self._measuring = self._measured(self._sender.estimate)

    def _measured(self, estimate: Command) -> Iterator[None]:
        """Measure the stream, and then those that wait, one after the other; goes on when it is asked for the next."""
        for command, measure, learn in (
            (estimate, self._measure, None),
            *((command, Measure(), learn) for command, learn in self._sender.waiting),
        ):
            with open(os.devnull, "rb") as nothing:
                child = self._starter.start(command, nothing.fileno(), capture=measure.feed)
            while child.running:
                yield
            if learn:
                learn(measure.size)

    def drop(self) -> None:
        self.inlet.close_reader()

    def has_at_most(self, count: int) -> bool:
        """Whether the stream, which waits, has at most COUNT bytes."""
        if is_small(self.inlet, IN_A_WHILE):
            return True
        with suppress(Failure):
            size = measure(self._sender.estimate) if self._sender.estimate else None
            return size is not None and size <= count
        return False

    @property
    def ended_well(self) -> bool:
        """As far as is known: one in front of a compressor on another machine has no exit status, but words."""
        return not any(stage.status or _complains(stage) for stage in _ended(self.children))

    def tell(self, delivered: Sequence[int], arrived: bool) -> None:
        """DELIVERED: what each receiver has read so far, with the streams before."""
        begun = self._resumed_from
        own = (max(0, count - before) + begun for count, before in zip(delivered, self._delivered_before, strict=True))
        seconds = time.monotonic() - self.started
        with suppress(Failure):  # what is only shown stops nothing
            next(self._measuring, None)
        if self._sender.watch:
            self._sender.watch(Moving(self._moved, tuple(own), seconds, self._measure.size, arrived, begun))
        if self._cutting and self.inlet.cutter:
            self.inlet.cutter.limit = max(self._cutting.limit, int(self._rate * self._cutting.seconds))

    @property
    def between_writes(self) -> int:
        """Bytes, at least, between two times that a disk is made to write so that they count."""
        return int(self._rate * self._cutting.between_writes) if self._cutting else 0

    @property
    def _rate(self) -> float:
        """Bytes a second."""
        return (self._moved - self._resumed_from) / max(time.monotonic() - self.started, 1.0)

    def streamed(self, until: float) -> Streamed:
        """What has gone through UNTIL then."""
        cut = self.inlet.cutter is not None
        return Streamed(self._moved, until - self.started, self.inlet.beginning, cut, self._resumed_from)

    @property
    def _moved(self) -> int:
        """Bytes of the stream up to where it is."""
        if ahead := self.inlet.ahead:
            # What it left out, and the hashes of that.
            return max(0, self.inlet.drained + ahead.offset - ahead.head - HASH_LINE * len(ahead.ranges))
        return self.inlet.drained

    @property
    def _resumed_from(self) -> int:
        return self.inlet.cutter.resumed_from if self.inlet.cutter else 0


class _End:
    """The receiving end of a transfer: a receiver, the pipe that it reads, and the disk that it writes to."""

    def __init__(self, receiver: Receiver, most: int) -> None:
        self.checked = receiver.checked
        self.outlet = Outlet(most)
        self.children: list[Child] = []
        self._receiver = receiver
        self._writings: list[Child] = []
        self._unreachable: Failure | None = None
        self._given_up = False
        self._gone = False
        self.hold_up: HoldUp | None = None
        self._written = 0  # bytes that had been delivered when the disk was last made to write

    def start(self, children: Children) -> None:
        self._starter = children
        reader = self.outlet.pipe.reader
        self.children = _start(
            children, self._receiver.pipeline, reader, None, on_first_end=self.outlet.leave, tied=True
        )

    def tick(self, least: int) -> None:
        """Have the disk write while the stream goes on, or it has to do all of that at the end. LEAST: bytes before.

        When it cannot, the rest of the stream, which may take hours, is of no use.
        """
        if any(each.running for each in self._writings):
            return
        if self.unwritten():
            self._given_up = self._end_children() or self._given_up
        elif self.outlet.delivered - self._written > max(self._receiver.unwritten, least):
            self.write_out(self._receiver.early)

    def _end_children(self) -> bool:
        """Whether there were any to be ended."""
        running = [each for each in self.children if each.running]
        for child in running:
            child.signal(signal.SIGTERM)
        return bool(running)

    @property
    def is_taking(self) -> bool:
        """Whether it takes the stream still."""
        return not (self._gone or self._given_up) and any(each.running for each in self.children)

    def let_go(self) -> None:
        """Have the others go on without it."""
        self._gone = True
        self.outlet.pipe.abandon()
        self._end_children()

    def ending(self, sends: Sequence[Ended], chain: Chain) -> Ending:
        """What came of it, when all is over. SENDS: how the senders ended."""
        failure = None if self._gone else self._failure(sends, chain)
        return Ending(failure, self.unwritten(), bool(chain.refused or chain.fault), self._gone)

    def write_out(self, how: Callable[[], Command] | None = None) -> list[Child]:
        """Have the disk write all that has been received so far; what does that, with those that are still at it."""
        how = how or self._receiver.write_out
        if not how or self._unreachable:
            return self._writings
        self._writings = [each for each in self._writings if each.running or each.ended.status]
        self._written = self.outlet.delivered
        try:
            command = how()
        except Failure as failure:
            self._unreachable = failure
            return self._writings
        with open(os.devnull, "rb") as nothing:
            self._writings.append(self._starter.start(command, nothing.fileno()))
        return self._writings

    def unwritten(self) -> Failure | None:
        """Why what it got may not be on its disk, when all is over. The kernel tells once what it could not write."""
        if self._unreachable:
            return self._unreachable
        failed = next((ended for ended in _ended(self._writings) if ended.status), None)
        return CommandFailed(failed, "cannot write out the filesystem") if failed else None

    def _failure(self, send: Sequence[Ended], chain: Chain) -> Failure | None:
        """What went wrong with the last stream that it got, when all is over. SEND: how the senders ended."""
        if self._given_up:
            return None  # what it got is not on its disk, and that is all there is to tell
        receive = _ended(self.children)
        all_sent = all(not stage.status or stage.died_of_broken_pipe for stage in send)
        broken = chain.broken_stream if self.checked else None
        # A sender whose stream is found broken in the middle is cut off for that, whatever it says of it; a stream
        # that breaks off may do so because of the sender.
        if broken and (broken.midway or all_sent):
            return Failure(f"the stream is broken: {broken}", "The next run sends it again.")
        if chain.refused:
            return Failure(
                f"what the other machine sent was refused: {chain.refused}",
                "No btrfs send makes such a stream. Is that machine what it seems to be? A login shell must not print "
                "anything by itself when commands are run by ssh.",
            )
        if chain.unproved:
            return Failure(str(chain.unproved), "It is sent from its beginning.")
        if chain.fault:
            return Failure(f"the stream was cut off here: {chain.fault}", "The next run sends it again.")
        if failed := cause(send, receive, self.outlet.left_early):
            return CommandFailed(failed)
        if self.outlet.left_early:
            return Failure(
                f"{receive[0].command.title} ended before it had read the whole stream",
                "It has to read its standard input to the end, and to exit with another status than 0 when it fails.",
            )
        return None


def measure(estimate: Command) -> int | None:
    """Bytes of the stream that ESTIMATE writes without its data; None when that is not known. Raises Failure."""
    size = Measure()
    with open(os.devnull, "rb") as nothing, Children() as children:
        child = children.start(estimate, nothing.fileno(), capture=size.feed)
        children.wait([child])
        return None if child.ended.status else size.size


def cause(send: Sequence[Ended], receive: Sequence[Ended], left_early: bool) -> Ended | None:
    """Which command made a transfer fail, or None when all ended well.

    A receiver that left early failed by itself, whatever became of the sender. Of those that came to the end of the
    stream, one that died of SIGPIPE is a victim of the one behind it. A sender in front of a compressor on another
    machine has no exit status that we could see, but it has words.
    """
    failed = [stage for stage in (receive if left_early else (*send, *receive)) if stage.status]
    first = next((stage for stage in failed if not stage.died_of_broken_pipe), failed[0] if failed else None)
    if first in receive and not left_early:
        return next(filter(_complains, send), first)
    return first


def _complains(stage: Ended) -> bool:
    return bool(stage.spoken) and not stage.command.logged


def _start(
    children: Children,
    pipeline: Pipeline,
    stdin: int,
    stdout: int | None,
    on_first_end: Callable[[], None] = lambda: None,
    on_last_end: Callable[[], None] = lambda: None,
    tied: bool = False,
) -> list[Child]:
    """Start the commands of PIPELINE with pipes between them; tell when the first and the last of them end."""
    started = []
    with ExitStack() as ours:
        for number, command in enumerate(pipeline):
            between = None if number == len(pipeline) - 1 else Pipe()
            if between:
                ours.callback(between.close_reader)
                ours.callback(between.close_writer)

            def on_end(first: bool = number == 0, last: bool = between is None) -> None:
                if first:
                    on_first_end()
                if last:
                    on_last_end()

            started.append(
                children.start(command, stdin, between.writer if between else stdout, on_end=on_end, tied=tied)
            )
            stdin = between.reader if between else stdin
    return started


def _ended(children: Sequence[Child]) -> list[Ended]:
    return [child.ended for child in children]
