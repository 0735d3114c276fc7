"""Snapshots on their way to destinations: on record before, verified after."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from btrfs_backup.commands.streaming import Streaming
from btrfs_backup.commands.visit import Visit
from btrfs_backup.errors import Failure
from btrfs_backup.model import plan
from btrfs_backup.model import records as transfers
from btrfs_backup.model.plan import Batch, Snapshots
from btrfs_backup.model.settings import Settings
from btrfs_backup.report.outcome import Sent
from btrfs_backup.report.text import pace
from btrfs_backup.system.folder import Sending, Shell, parent_is_to_blame
from btrfs_backup.system.source import Source
from btrfs_backup.system.statefile import StateFiles
from btrfs_backup.system.transfer import Ending, Receiver, Sender, Streamed, Transferred

log = logging.getLogger(__name__)


class Delivery:
    """snapshots: what the source has."""

    def __init__(self, settings: Settings, source: Source, snapshots: Snapshots, state: StateFiles) -> None:
        self.settings = settings
        self.naming = settings.naming
        self.source = source
        self.snapshots = snapshots
        self.state = state
        self.streaming = Streaming(settings)

    def send(self, batches: Sequence[Batch], visits: Sequence[Visit]) -> None:
        """Record that they begin, stream, verify, record that they ended. A destination that failed is broken."""
        before = self.state.records.outstanding
        ready: list[tuple[Visit, Receiver]] = []
        done = Transferred((), ())
        try:
            for each in visits:
                with each.failing_alone():
                    # Before anything is recorded: it may be what fills the disk of the source, too.
                    each.make_room([batch.snapshot for batch in batches])
            self._begin(batches, visits)
            compressed_data = self._compressed_data(visits)
            for each in [one for one in visits if not one.broken]:
                with each.failing_alone():
                    each.mark([batch.snapshot for batch in batches])
                    how = self.streaming.sending(each.host, compressed_data)
                    ready.append((each, self._receiver(each, batches[0], how)))
            if ready:
                done = self._stream(batches, ready, compressed_data)
        except Failure as failure:
            for each in visits:
                if not each.broken:
                    each.fail(failure)
        endings = _as_written([each for each, _ in ready], done.endings)
        for each in visits:
            with each.failing_alone():
                if each.broken:
                    self._settle(each, (), batches[0], before)
                else:
                    self._conclude(each, batches, done.streams, endings[each.identity], before)

    def _begin(self, batches: Sequence[Batch], visits: Sequence[Visit]) -> None:
        outstanding = self.state.records.outstanding
        for batch in batches:
            for each in visits:
                outstanding = transfers.begin(outstanding, each.identity, batch.snapshot, batch.parent)
        self.state.save_outstanding(outstanding)

    def _conclude(
        self,
        each: Visit,
        batches: Sequence[Batch],
        streams: Sequence[Streamed],
        ending: Ending,
        before: transfers.Outstanding,
    ) -> None:
        """Find out how far those BATCHES got at a destination that were streamed, and record it. Raises Failure."""
        assert each.target
        names = [] if ending.unwritten else [batch.snapshot for batch in batches]  # or they keep their marks
        try:
            count, failure = each.outcome(
                batches[: len(streams)], ending.failure, ending.unwritten, self.snapshots, self.naming
            )
        except Failure:
            # All of them stay on record. What there is of them is on disk; the next run will see what that is.
            each.unmark_if_possible(names)
            raise
        for batch, streamed in zip(batches[:count], streams, strict=False):
            each.target = plan.served(each.target, batch.snapshot)
            each.tally.sent.append(Sent(batch.snapshot, batch.parent, streamed.bytes, streamed.seconds))
            log.info("%s: sent %s: %s", each.identity, batch.snapshot, pace(streamed.bytes, streamed.seconds))
        failing = batches[count] if failure else None
        blamed = failing and not ending.unwritten and parent_is_to_blame(ending.failure)
        useless = failing.parent if failing and blamed and each.unmoved() else None
        # It is told before anything is recorded, which may fail, too.
        if useless:
            log.warning("%s: %s\n  Trying another parent, or a full transfer.", each.identity, failure)
            each.target = plan.without_parent(each.target, useless)
        elif failure:
            each.fail(failure)
        if failing:
            each.clear_away(failing.snapshot, self.snapshots, names)
        else:
            each.unmark(names)
        if isinstance(each.place, Shell):
            # In this order: what was delivered there must not be forgotten, or it would be sent again.
            self.state.save_completed(each.delivered(self.state.records, self.naming))
        self._settle(each, batches[:count], None if useless else failing, before)

    def _settle(
        self, each: Visit, arrived: Sequence[Batch], failed: Batch | None, before: transfers.Outstanding
    ) -> None:
        outstanding = self.state.records.outstanding
        names = [batch.snapshot for batch in arrived]
        failing = (failed.snapshot, failed.parent) if failed else None
        self.state.save_outstanding(transfers.settled(outstanding, before, each.identity, names, failing))

    def _receiver(self, each: Visit, batch: Batch, how: Sending) -> Receiver:
        """What takes the streams from BATCH on. Raises Failure when its host cannot be reached."""
        if isinstance(each.place, Shell):
            prefix, source = self.naming.prefix, self.settings.source.identity
            command = each.place.receiver(batch.snapshot, batch.parent, prefix, source)
            return Receiver((command,), checked=True)
        return Receiver(each.place.receiver(how), each.place.writing_out)

    def _compressed_data(self, visits: Sequence[Visit]) -> bool:
        """Whether the source can send the compressed data of its filesystem as it is, and all VISITS can take it."""
        try:
            return (
                self.settings.compressed_data
                and all(each.takes_compressed_data() for each in visits)
                and self.source.host.can_send_compressed_data
            )
        except Failure:
            return False  # what is wrong will be told when it is really needed

    def _stream(
        self, batches: Sequence[Batch], ready: Sequence[tuple[Visit, Receiver]], compressed_data: bool
    ) -> Transferred:
        destinations = [each.identity for each, _ in ready]
        senders = (self._sender(batch, destinations, compressed_data) for batch in batches)
        return self.streaming.transfer(senders, [receiver for _, receiver in ready])

    def _sender(self, batch: Batch, destinations: Sequence[str], compressed_data: bool) -> Sender:
        def tell() -> None:
            how = f"on top of {batch.parent}" if batch.parent else "in full"
            for each in destinations:
                log.info("%s: sending %s %s", each, batch.snapshot, how)

        folder = self.source.folder
        sender = self.streaming.sender(folder, batch.snapshot, batch.parent, destinations, compressed_data)
        return replace(sender, begin=tell)


def _as_written(visits: Sequence[Visit], endings: Sequence[Ending]) -> dict[str, Ending]:
    """The ENDINGS, by destination, with all reasons why the data may not be on disk.

    What one on the same filesystem was told counts for all: the kernel tells it once.
    """
    told = {
        (each.host, each.filesystem): end.unwritten for each, end in zip(visits, endings, strict=False) if end.unwritten
    }
    return {
        each.identity: replace(
            end,
            unwritten=end.unwritten
            or (told.get((each.host, each.filesystem)) if each.filesystem else None)
            or each.mounted_anew(),
        )
        for each, end in zip(visits, endings, strict=False)
    }
