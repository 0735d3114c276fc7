"""One stream from a sender to one or several receivers."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from btrfs_backup.errors import Failure
from btrfs_backup.model.sendstream import BrokenStream
from btrfs_backup.system.pipes import Chain, Outlet
from btrfs_backup.system.process import Children, Command, CommandFailed, Ended


@dataclass(frozen=True)
class Receiver:
    """command: what reads the stream. checked: it cannot tell a broken stream, so that is done on the way to it."""

    command: Command
    checked: bool = False


@dataclass(frozen=True)
class Transferred:
    """How a transfer went. failures: for each receiver what went wrong, or None."""

    bytes: int
    seconds: float
    failures: tuple[Failure | None, ...]


def transfer(sender: Command, receivers: Sequence[Receiver], trying: str) -> Transferred:
    """Give each of the RECEIVERS all that SENDER writes, and wait for all of them.

    The text of each failure begins with TRYING. Raises Failure when one of the commands cannot be started.
    """
    started = time.monotonic()
    outlets = [Outlet() for _ in receivers]
    checked = [number for number, receiver in enumerate(receivers) if receiver.checked]
    unchecked = [number for number, receiver in enumerate(receivers) if not receiver.checked]
    in_order = [outlets[number] for number in (*unchecked, *checked)]
    with Chain(in_order, len(checked)) as chain, Children() as children:
        ends = [
            children.start(receiver.command, outlet.pipe.reader, on_end=outlet.leave)
            for receiver, outlet in zip(receivers, outlets, strict=True)
        ]
        with open(os.devnull, "rb") as nothing:
            send = children.start(sender, nothing.fileno(), chain.inlet.writer)
        chain.open()
        children.wait()
    failures = [
        _failure(trying, send.ended, end.ended, outlet.left_early, chain.broken_stream if receiver.checked else None)
        for receiver, end, outlet in zip(receivers, ends, outlets, strict=True)
    ]
    return Transferred(chain.moved, time.monotonic() - started, tuple(failures))


def cause(send: Ended, receive: Ended, left_early: bool) -> Ended | None:
    """Which of the two made a transfer fail, or None when both ended well.

    A receiver that left early failed by itself, whatever became of the sender. Of those that came to the end of the
    stream, one that died of SIGPIPE is a victim of the one behind it.
    """
    failed = [stage for stage in ((receive,) if left_early else (send, receive)) if stage.status]
    return next((stage for stage in failed if not stage.died_of_broken_pipe), failed[0] if failed else None)


def _failure(
    trying: str, send: Ended, receive: Ended, left_early: bool, broken_stream: BrokenStream | None
) -> Failure | None:
    # A sender whose stream was found broken is cut off for that.
    if broken_stream and (not send.status or send.died_of_broken_pipe):
        return Failure(f"{trying}: the stream is broken: {broken_stream}", "The next run sends it again.")
    if failed := cause(send, receive, left_early):
        return CommandFailed(failed, trying)
    if left_early:
        return Failure(
            f"{trying}: {receive.command.title} ended before it had read the whole stream",
            "It has to read its standard input to the end, and to exit with another status than 0 when it fails.",
        )
    return None
