"""One stream from a sender to one or several receivers."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from btrfs_backup.errors import Failure
from btrfs_backup.model.sendstream import Measure
from btrfs_backup.system.pipes import Chain, Outlet, Pipe
from btrfs_backup.system.process import Child, Children, Command, CommandFailed, Ended, Pipeline


@dataclass(frozen=True)
class Receiver:
    """pipeline: what reads the stream. checked: it cannot tell a broken stream, so that is done on the way to it."""

    pipeline: Pipeline
    checked: bool = False


@dataclass(frozen=True)
class Moving:
    """A transfer on its way. moved: bytes so far; delivered: those that each receiver has read; size: of the whole
    stream, None as long as it is not known."""

    moved: int
    delivered: tuple[int, ...]
    seconds: float
    size: int | None


@dataclass(frozen=True)
class Transferred:
    """How a transfer went. failures: for each receiver what went wrong, or None."""

    bytes: int
    seconds: float
    failures: tuple[Failure | None, ...]


def transfer(
    sender: Pipeline,
    receivers: Sequence[Receiver],
    trying: str,
    rate: int = 0,
    estimate: Command | None = None,
    watch: Callable[[Moving], None] | None = None,
) -> Transferred:
    """Give each of the RECEIVERS all that SENDER writes, and wait for all of them.

    The text of each failure begins with TRYING. rate: bytes a second at most, 0 for no limit. estimate: writes the
    stream without its data, to learn the size. watch: is called a few times a second. Raises Failure when one of the
    commands cannot be started.
    """
    started = time.monotonic()
    outlets = [Outlet() for _ in receivers]
    measure = Measure()
    checked = [number for number, receiver in enumerate(receivers) if receiver.checked]
    unchecked = [number for number, receiver in enumerate(receivers) if not receiver.checked]
    in_order = [outlets[number] for number in (*unchecked, *checked)]

    def tell() -> None:
        if watch:
            delivered = tuple(outlet.delivered for outlet in outlets)
            watch(Moving(chain.moved, delivered, time.monotonic() - started, measure.size))

    with Chain(in_order, len(checked), rate) as chain, Children() as children:
        ends = [
            _start(children, receiver.pipeline, outlet.pipe.reader, None, on_first_end=outlet.leave, tied=True)
            for receiver, outlet in zip(receivers, outlets, strict=True)
        ]
        with open(os.devnull, "rb") as nothing:
            sends = _start(children, sender, nothing.fileno(), chain.inlet.writer, on_last_end=chain.inlet.abandon)
            if estimate:
                children.start(estimate, nothing.fileno(), capture=measure.feed, aside=True)
        chain.open()
        children.wait(tell if watch else None)
    failures = [
        _failure(trying, _ended(sends), _ended(end), outlet, chain, receiver.checked)
        for receiver, end, outlet in zip(receivers, ends, outlets, strict=True)
    ]
    return Transferred(chain.moved, time.monotonic() - started, tuple(failures))


def cause(send: Sequence[Ended], receive: Sequence[Ended], left_early: bool) -> Ended | None:
    """Which command made a transfer fail, or None when all ended well.

    A receiver that left early failed by itself, whatever became of the sender. Of those that came to the end of the
    stream, one that died of SIGPIPE is a victim of the one behind it. A sender in front of a compressor on another
    machine has no exit status that we could see, but it has words.
    """
    failed = [stage for stage in (receive if left_early else (*send, *receive)) if stage.status]
    first = next((stage for stage in failed if not stage.died_of_broken_pipe), failed[0] if failed else None)
    if first in receive and not left_early:
        return next((stage for stage in send if stage.spoken and not stage.command.logged), first)
    return first


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
    trying: str, send: Sequence[Ended], receive: Sequence[Ended], outlet: Outlet, chain: Chain, checked: bool
) -> Failure | None:
    sent = all(not stage.status or stage.died_of_broken_pipe for stage in send)
    broken = chain.broken_stream if checked else None
    # A sender whose stream is found broken in the middle is cut off for that, whatever it says of it; a stream that
    # breaks off may do so because of the sender.
    if broken and (broken.midway or sent):
        return Failure(f"{trying}: the stream is broken: {broken}", "The next run sends it again.")
    if failed := cause(send, receive, outlet.left_early):
        return CommandFailed(failed, trying)
    if outlet.left_early:
        return Failure(
            f"{trying}: {receive[0].command.title} ended before it had read the whole stream",
            "It has to read its standard input to the end, and to exit with another status than 0 when it fails.",
        )
    return Failure(f"{trying}: the stream was cut off here: {chain.fault}") if chain.fault else None
