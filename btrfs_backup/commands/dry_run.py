"""What a run would do, found out by the same functions, without doing it. Writes nothing and needs no lock."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from btrfs_backup.commands.outset import enlist, forgotten, open_source
from btrfs_backup.commands.visit import Visit, fail, occupied
from btrfs_backup.errors import Failure, StateFileBroken
from btrfs_backup.model import inventory, plan, retention
from btrfs_backup.model import records as transfers
from btrfs_backup.model.plan import Batch, Lineage, Snapshots
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.report.outcome import Report, Sent, Tally
from btrfs_backup.system import transfer as stream
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.paths import Standing
from btrfs_backup.system.source import Source
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.statefile import StateFiles

log = logging.getLogger(__name__)


def dry_run(settings: Settings, report: Report, clock: Callable[[], datetime] = datetime.now) -> None:
    """Write down in REPORT what a run would come to if every step succeeded. Raises Failure like a run."""
    report.destinations = [Tally(each.identity) for each in settings.destinations]
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        source, standing = open_source(settings, hosts)
        try:
            records = StateFiles(source.host, source.folder.path).records if standing.exists else Records({}, {})
        except StateFileBroken as failure:
            fail(report.source, failure)
            return
        _DryRun(settings, source, standing, report, records, hosts).run(clock())


class _DryRun:
    """The world as it would be: snapshots, records and destinations change as the run would change them."""

    def __init__(
        self, settings: Settings, source: Source, standing: Standing, report: Report, records: Records, hosts: Hosts
    ) -> None:
        self.settings = settings
        self.naming = settings.naming
        self.source = source
        self.report = report
        self.there = inventory.snapshots(source.folder.look(self.naming, standing, names_suffice=True)).complete
        self.snapshots: Snapshots = dict(self.there)
        self.names = source.folder.names() if standing.exists else []
        self.records = records
        self.hosts = hosts
        self.visits: list[Visit] = []

    def run(self, now: datetime) -> None:
        if self.settings.take_snapshot:
            self._take_snapshot(now)
        self.visits = enlist(self.settings, self.hosts, self.records, self.report)
        if self.settings.remove_locks:
            self.records = forgotten(self.settings, self.visits, self.records)
        if self.settings.transfer or self.settings.keep_backups != retention.KEEP_ALL:
            for each in self.visits:
                self._look(each)
        if self.settings.transfer:
            self._transfer()
        for each in self.visits:
            self._note_delivered(each)
            _judge(each.tally, each.verdict(self.settings))
        protected = transfers.reasons(self.records)
        _judge(
            self.report.source,
            retention.decide(self.settings.keep_snapshots, self.naming, self.snapshots, protected),
        )

    def _take_snapshot(self, now: datetime) -> None:
        name = self.naming.next(now, [*self.names, *transfers.names(self.records)])
        self.report.snapshot = name
        self.snapshots = {**self.snapshots, name: Subvolume(name, "", self.source.describe().uuid)}

    def _look(self, each: Visit) -> None:
        try:
            each.look(self.settings, self.snapshots, self.records)
            each.tally.cleared = [
                *each.leftovers(self.snapshots),
                *(name for name in each.holdings.partial if each.target and name in each.target.missing),
            ]
            if isinstance(each.place, Folder) and each.standing:
                each.tally.free = each.place.free(each.standing)
            outstanding = transfers.reconcile(self.records.outstanding, self.naming, each.identity, ())
        except Failure as failure:
            each.give_up(failure, self.settings)
            newest = self.naming.newest(self.snapshots)
            outstanding = self.records.outstanding
            if newest and self.settings.transfer:
                outstanding = transfers.unreachable(outstanding, each.identity, newest)
            each.tally.outstanding = transfers.owed(outstanding, self.naming, each.identity)
        self.records = Records(outstanding, self.records.completed)

    def _transfer(self) -> None:
        targets = [each.target for each in self.visits if each.target]
        if any(target.missing for target in targets):
            lineage = Lineage(self.source.describe(), self.snapshots) if self.settings.incremental else None
            for batch in _batches(targets, lineage, self.settings.shared_stream):
                sent = Sent(batch.snapshot, batch.parent, self._estimate(batch), None)
                for each in self.visits:
                    if each.target and each.identity in batch.destinations:
                        each.target = plan.served(each.target, batch.snapshot)
                        each.tally.sent.append(sent)
        for each in self.visits:
            for name, why in (each.target.occupied if each.target else {}).items():
                each.fail(occupied(each.identity, name, why))
                outstanding = transfers.begin(self.records.outstanding, each.identity, name, None)
                self.records = Records(outstanding, self.records.completed)
                each.tally.outstanding.append(name)

    def _estimate(self, batch: Batch) -> int | None:
        """Bytes of its stream; None for what does not exist yet."""
        if batch.snapshot not in self.there or (batch.parent and batch.parent not in self.there):
            return None
        return stream.measure(self.source.folder.estimate(batch.snapshot, batch.parent))

    def _note_delivered(self, each: Visit) -> None:
        if each.target:
            self.records = Records(self.records.outstanding, each.delivered(self.records, self.naming))


def _batches(targets: Sequence[plan.Target], lineage: Lineage | None, shared: bool) -> Iterator[Batch]:
    """All that is missing, as the run would send it if every transfer succeeded."""
    left = list(targets)
    while batch := plan.next_batch(left, lineage, shared):
        yield batch
        left = plan.after(batch, left)


def _judge(tally: Tally, verdict: retention.Verdict) -> None:
    if verdict.kept or verdict.dropped:
        tally.deleted = list(verdict.dropped)
        tally.kept = {kept.name: list(kept.because) for kept in verdict.kept}
