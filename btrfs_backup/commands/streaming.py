"""How the streams of a run are made and moved, as its options and the machines allow."""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from btrfs_backup.errors import Failure
from btrfs_backup.model import cutter
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.gate import Expected
from btrfs_backup.model.plan import Batch
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.report import terminal
from btrfs_backup.system import transfer as stream
from btrfs_backup.system.folder import Folder, Sending
from btrfs_backup.system.host import Host
from btrfs_backup.system.stages import Attempt
from btrfs_backup.system.transfer import Cutting, Receiver, Sender, Transferred

log = logging.getLogger(__name__)

# Bytes, or what moves in so many seconds if that is more, of a part; and after which a disk is made to write, so that
# parts count. Twice the latter and one part may have to be sent again: 64 MiB or 3 seconds' worth through ssh, 1 GiB or
# 10 seconds' worth here, with what is on its way. Measured through ssh on one machine, 2 GB at 180 MB/s: without the
# seconds it took 1.20 of the time.
_SLOW_PART, _SLOW_WRITE, _SLOW_SECONDS = 16 << 20, 16 << 20, 1.0
_PART, _WRITE, _SECONDS = 640 << 20, 128 << 20, 6.0


class Taker(Protocol):
    """The place that a stream goes to."""

    @property
    def takes_compressed_data(self) -> bool:
        """Whether it can read send protocol 2. Raises Failure."""


class Streaming:
    """The options of a run that concern its streams, and what each host was found to have."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._compressions: dict[Host, str] = {}
        self._sizes: dict[str, int | None] = {}  # of the streams that wait
        self._unfit: set[str] = set()  # those of which it was told that they cannot take compressed data

    def sending(self, host: Host, compressed_data: bool) -> Sending:
        """How a stream is made at its end on HOST. Raises Failure when that cannot be reached."""
        return Sending(self._settings.btrfs_debug, self._compression(host), compressed_data)

    def compressed_data(self, source: Host, takers: Mapping[str, Taker], ahead: Sequence[Checkpoint]) -> bool:
        """Whether the compressed data of the filesystem of SOURCE can be sent as it is, and all TAKERS can take it.

        What is wrong with one of these machines will be told when it is really needed.
        """
        if not self._settings.compressed_data or (ahead and ahead[-1].version < 2):
            return False
        try:
            unfit = [name for name, taker in takers.items() if not taker.takes_compressed_data]
            if len(unfit) == len(takers) or not source.can_send_compressed_data:
                return False
        except Failure:
            return False
        if new := [each for each in unfit if each not in self._unfit]:
            self._unfit.update(new)
            log.info(
                "%s: cannot take compressed data as it is, and all that share the stream get it decompressed; "
                "'--no-shared-stream' gives each one its own",
                ", ".join(new),
            )
        return not unfit

    def sender(
        self,
        folder: Folder,
        snapshot: Subvolume,
        parent: Subvolume | None,
        destinations: Sequence[str],
        compressed_data: bool,
        plain: Callable[[bytes], bool],
        cutting: Cutting | None = None,
        waiting: Sequence[Batch] = (),
    ) -> Sender:
        """What writes the stream of a snapshot, with progress when that is wanted and can be shown. Raises Failure.

        PLAIN: see Expected. WAITING: what is to be sent behind it.
        """
        name, base = snapshot.name, parent.name if parent else None
        how = self.sending(folder.host, compressed_data)
        pipeline = folder.sender(name, base, how, cutting.ahead if cutting else None)
        expected = None
        if folder.host.connection:
            upon = parent.stream_uuid if parent else ""
            expected = Expected(os.fsencode(name), snapshot.stream_uuid, upon, plain)
        shown = self._settings.progress and terminal.possible()
        estimate = folder.estimate(name, base)
        if not shown:
            return Sender(pipeline, estimate, expected=expected)
        unknown = tuple(
            (folder.estimate(each.snapshot, each.parent), partial(self._sizes.__setitem__, each.snapshot))
            for each in waiting
            if each.snapshot not in self._sizes
        )

        def sizes() -> list[int | None]:
            return [self._sizes.get(each.snapshot) for each in waiting]

        watch = terminal.Progress(name, tuple(destinations), sizes)
        return Sender(pipeline, estimate, watch=watch, waiting=unknown, expected=expected)

    def transfer(
        self, senders: Iterable[Sender], receivers: Sequence[Receiver], judged: bool, cutting: Cutting | None
    ) -> Transferred:
        """Move streams as fast as is permitted; JUDGED when they come from another machine.

        Raises Failure like `stream.transfer`.
        """
        try:
            return stream.transfer(senders, receivers, self._settings.rate_limit, judged, cutting)
        finally:
            terminal.clear()

    def cutting(
        self, hosts: Sequence[Host], far: bool, checkpoints: Sequence[Checkpoint] = (), upon: str = ""
    ) -> Cutting:
        """How a stream is cut that goes to HOSTS, on from CHECKPOINTS; FAR when it comes from another machine.

        UPON: see Cutter.
        """
        slow = far or any(host.connection for host in hosts)
        salt = cutter.salt(time.time(), secrets.token_hex(4))
        if slow:
            return Cutting(_SLOW_PART, _SLOW_SECONDS, salt, tuple(checkpoints), far, _SLOW_SECONDS, upon)
        return Cutting(_PART, _SECONDS, salt, tuple(checkpoints), far, upon=upon)

    def _compression(self, host: Host) -> str:
        """How streams are compressed on their way from or to HOST. Raises Failure when it cannot be reached."""
        method = self._settings.compress
        if method == "no" or not host.connection:
            return "no"
        if host not in self._compressions:
            lacking = next((where.name for where in (Host(), host) if not where.has(method)), None)
            if lacking:
                log.warning("no program '%s' on %s: streams are not compressed between there and here", method, lacking)
            self._compressions[host] = "no" if lacking else method
        return self._compressions[host]


def receiver(attempt: Attempt, how: Sending, cutting: Cutting | None) -> Receiver:
    """What reads streams into an ATTEMPT. Raises Failure."""
    there, pipeline = attempt.folder, attempt.receiver(how)
    # On another machine that goes with what is asked for there next.
    write_out = None if there.host.connection else there.writing_out
    if not cutting:
        return Receiver(pipeline, write_out)
    unwritten = _SLOW_WRITE if cutting.limit == _SLOW_PART else _WRITE
    return Receiver(pipeline, write_out, early=attempt.marking(cutting.salt), unwritten=unwritten)
