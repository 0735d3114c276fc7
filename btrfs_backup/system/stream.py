"""One stream from a sender to a receiver."""

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass

from btrfs_backup.system.process import Children, Command, CommandFailed, Ended

_F_SETPIPE_SZ = 1031
PIPE_SIZE = 1024 * 1024


@dataclass(frozen=True)
class Transferred:
    bytes: int
    seconds: float


def transfer(sender: Command, receiver: Command, trying: str) -> Transferred:
    """Connect SENDER to RECEIVER by a kernel pipe and wait for both.

    Raises CommandFailed, with the words of the stage that caused the failure, its text beginning with TRYING.
    """
    started = time.monotonic()
    with Children() as children:
        read_end, write_end = _pipe()
        try:
            receive = children.start(receiver, stdin=read_end)
            with open(os.devnull, "rb") as nothing:
                send = children.start(sender, stdin=nothing.fileno(), stdout=write_end)
        finally:
            # As long as we hold an end, neither side would notice that the other one is gone.
            os.close(read_end)
            os.close(write_end)
        children.wait()
    if failed := cause([send.ended, receive.ended]):
        raise CommandFailed(failed, trying)
    return Transferred(send.ended.written, time.monotonic() - started)


def cause(stages: list[Ended]) -> Ended | None:
    """The stage of a pipeline that made it fail, or None when all went well.

    A stage that died of SIGPIPE is a victim of one behind it; of the others the first failed on its own.
    """
    failed = [stage for stage in stages if stage.status]
    return next((stage for stage in failed if not stage.died_of_broken_pipe), failed[0] if failed else None)


def _pipe() -> tuple[int, int]:
    """A pipe as large as permitted, up to PIPE_SIZE: the sender reads ahead while the receiver commits."""
    read_end, write_end = os.pipe()
    with suppress(OSError):
        fcntl.fcntl(write_end, _F_SETPIPE_SZ, PIPE_SIZE)
    return read_end, write_end
