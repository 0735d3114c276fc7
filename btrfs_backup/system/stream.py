"""Streams, one after the other, from their senders to one or several receivers."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from btrfs_backup.errors import Failure
from btrfs_backup.model.sendstream import Measure
from btrfs_backup.system.pipes import Chain, Outlet, Pipe
from btrfs_backup.system.process import Child, Children, Command, CommandFailed, Ended, Pipeline


@dataclass(frozen=True)
class Moving:
    """A stream on its way. moved: bytes so far; delivered: those that each receiver has read; size: of the whole
    stream, None as long as it is not known."""

    moved: int
    delivered: tuple[int, ...]
    seconds: float
    size: int | None


@dataclass(frozen=True)
class Sender:
    """pipeline: what writes the stream. estimate: writes it without its data, to learn the size. watch: is called a
    few times a second."""

    pipeline: Pipeline
    estimate: Command | None = None
    watch: Callable[[Moving], None] | None = None


@dataclass(frozen=True)
class Receiver:
    """pipeline: what reads the streams. checked: it cannot tell a broken stream, so that is done on the way to it."""

    pipeline: Pipeline
    checked: bool = False


@dataclass(frozen=True)
class Streamed:
    """What went through, and how long it took."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Transferred:
    """How a transfer went. streams: one for each sender that was started.

    failures: for each receiver what went wrong with the last stream that it got, or None.
    """

    streams: tuple[Streamed, ...]
    failures: tuple[Failure | None, ...]


def transfer(senders: Iterable[Sender], receivers: Sequence[Receiver], rate: int = 0) -> Transferred:
    """Give each of the RECEIVERS all that the SENDERS write, and wait for all of them.

    One sender is started when the one before has ended well, so the receivers have to take several streams one after
    the other, as `btrfs receive` does. rate: bytes a second at most, 0 for no limit. Raises Failure when one of the
    commands cannot be started.
    """
    outlets = [Outlet() for _ in receivers]
    checked = [number for number, receiver in enumerate(receivers) if receiver.checked]
    unchecked = [number for number, receiver in enumerate(receivers) if not receiver.checked]
    in_order = [outlets[number] for number in (*unchecked, *checked)]
    flows: list[_Flow] = []
    with Chain(in_order, len(checked), rate) as chain, Children() as children:
        ends = [
            _start(children, receiver.pipeline, outlet.pipe.reader, None, on_first_end=outlet.leave, tied=True)
            for receiver, outlet in zip(receivers, outlets, strict=True)
        ]
        chain.open()
        for sender in senders:
            flows.append(_Flow(sender, chain.inlet(), children, outlets))
            children.wait(flows[-1].children, flows[-1].tick)
            if not flows[-1].ended_well:
                break
        chain.end()
        children.wait([child for end in ends for child in end], flows[-1].tick if flows else None)
    sends = [ended for flow in flows for ended in _ended(flow.children)]
    failures = [
        _failure(sends, _ended(end), outlet, chain, receiver.checked)
        for receiver, end, outlet in zip(receivers, ends, outlets, strict=True)
    ]
    untils = [*(flow.started for flow in flows[1:]), time.monotonic()]
    streams = [Streamed(flow.inlet.drained, until - flow.started) for flow, until in zip(flows, untils, strict=False)]
    return Transferred(tuple(streams), tuple(failures))


class _Flow:
    """One of the streams of a transfer, from the moment that its sender is started."""

    def __init__(self, sender: Sender, inlet: Pipe, children: Children, outlets: Sequence[Outlet]) -> None:
        self.inlet = inlet
        self.started = time.monotonic()
        self._watch = sender.watch
        self._outlets = outlets
        self._delivered_before = [outlet.delivered for outlet in outlets]
        self._measure = Measure()
        with open(os.devnull, "rb") as nothing:
            try:
                self.children = _start(
                    children, sender.pipeline, nothing.fileno(), inlet.writer, on_last_end=inlet.abandon
                )
            finally:
                # As long as we hold the end, the stream has none.
                inlet.close_writer()
            if sender.estimate:
                children.start(sender.estimate, nothing.fileno(), capture=self._measure.feed)

    @property
    def tick(self) -> Callable[[], None] | None:
        return self._tell if self._watch else None

    @property
    def ended_well(self) -> bool:
        """As far as can be told: one in front of a compressor on another machine has no exit status, but words."""
        return not any(stage.status or _complains(stage) for stage in _ended(self.children))

    def _tell(self) -> None:
        assert self._watch
        delivered = tuple(
            max(0, outlet.delivered - before)
            for outlet, before in zip(self._outlets, self._delivered_before, strict=True)
        )
        self._watch(Moving(self.inlet.drained, delivered, time.monotonic() - self.started, self._measure.size))


def measure(estimate: Command) -> int | None:
    """Bytes of the stream that ESTIMATE writes without its data; None when that cannot be told. Raises Failure."""
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


def _failure(
    send: Sequence[Ended], receive: Sequence[Ended], outlet: Outlet, chain: Chain, checked: bool
) -> Failure | None:
    sent = all(not stage.status or stage.died_of_broken_pipe for stage in send)
    broken = chain.broken_stream if checked else None
    # A sender whose stream is found broken in the middle is cut off for that, whatever it says of it; a stream that
    # breaks off may do so because of the sender.
    if broken and (broken.midway or sent):
        return Failure(f"the stream is broken: {broken}", "The next run sends it again.")
    if chain.fault:
        return Failure(f"the stream was cut off here: {chain.fault}", "The next run sends it again.")
    if failed := cause(send, receive, outlet.left_early):
        return CommandFailed(failed)
    if outlet.left_early:
        return Failure(
            f"{receive[0].command.title} ended before it had read the whole stream",
            "It has to read its standard input to the end, and to exit with another status than 0 when it fails.",
        )
    return None
