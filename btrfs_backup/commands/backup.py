"""The backup run: snapshot, send what is missing, prune. Read it from top to bottom."""

import logging
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from btrfs_backup.errors import Failure, MissingProgram, StateFileBroken, UsageError
from btrfs_backup.model import inventory, location, plan, retention, transfers
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.model.plan import Batch, Target
from btrfs_backup.report import Report, Sent, Tally, pace, plural
from btrfs_backup.settings import Settings
from btrfs_backup.system import stream
from btrfs_backup.system.endpoint import Folder, Source, Standing, examine
from btrfs_backup.system.host import Host
from btrfs_backup.system.statefile import StateFiles

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def backup(settings: Settings, report: Report, clock: Clock = datetime.now) -> None:
    """Do one run and write down in REPORT what happened.

    What concerns one destination or one deletion ends up in the report. Raises Failure when nothing could be done
    at all, LockHeld when another run is at work.
    """
    report.destinations = [Tally(each.identity) for each in settings.destinations]
    host = Host()
    source = Source(host, settings.source.path, Folder(host, settings.folder_path))
    if settings.fs_checks:
        source.check()
    _provide_folder(source.folder, create=settings.take_snapshot)
    with host.lock(source.folder.path):
        files = _load(source, report)
        if settings.take_snapshot:
            _take_snapshot(settings, source, report, files, clock())
        if files:
            _Run(settings, source, report, files).serve()


def _provide_folder(folder: Folder, create: bool) -> None:
    standing = examine(folder.host, folder.path)
    if standing.exists and not standing.is_directory:
        raise Failure(f"the snapshot folder '{folder.path}' is not a folder", "Choose another one with '-f'.")
    if not standing.exists and not create:
        raise Failure(
            f"the snapshot folder '{folder.path}' does not exist", "Take a snapshot first, or correct the option '-f'."
        )
    if not standing.exists:
        folder.create()


def _load(source: Source, report: Report) -> StateFiles | None:
    try:
        return StateFiles(source.host, source.folder.path)
    except StateFileBroken as failure:
        _fail(report.source, failure)
        return None


def _take_snapshot(settings: Settings, source: Source, report: Report, files: StateFiles | None, now: datetime) -> None:
    try:
        names = source.folder.names()
        if files:
            names += transfers.names(files.records)
        if ahead := settings.naming.ahead(now, names):
            log.warning("snapshot %s lies in the future: is the clock right? Names go on from there", ahead)
        name = settings.naming.next(now, names)
        source.snapshot(name)
    except MissingProgram:
        raise
    except Failure as failure:
        _fail(report.source, failure)
    else:
        report.snapshot = name
        log.info("%s: took snapshot %s", source.path, name)


def _fail(tally: Tally, failure: Failure) -> None:
    tally.failures.append(failure)
    log.error("%s: %s", tally.place, failure)


@dataclass
class _Visit:
    """A destination in this run. target: None until it could be looked at."""

    location: Location
    folder: Folder
    tally: Tally
    standing: Standing | None = None
    filesystem: str = ""
    holdings: Holdings = field(default_factory=Holdings)
    target: Target | None = None
    broken: bool = False


class _Run:
    """What is done under the run lock, after the snapshot."""

    def __init__(self, settings: Settings, source: Source, report: Report, files: StateFiles) -> None:
        self.settings = settings
        self.naming = settings.naming
        self.source = source
        self.report = report
        self.files = files
        self.visits: list[_Visit] = []

    def serve(self) -> None:
        try:
            self.plan_source = self._look_at_source()
            self._enlist_destinations()
        except Failure as failure:
            if not self.report.snapshot:
                raise  # nothing at all could be done
            _fail(self.report.source, failure)
            return
        if self.settings.transfer or self.settings.keep_backups != retention.KEEP_ALL:
            for visit in self.visits:
                self._guarded(visit, self._survey)
                if visit.broken:
                    self._guarded(visit, self._owe_newest)
        try:
            if self.settings.transfer:
                self._transfer()
        finally:
            self._count_outstanding()
        for visit in self.visits:
            self._guarded(visit, self._prune_destination)
        self._prune_source()

    # --- inventories ---

    def _look_at_source(self) -> plan.Source:
        folder = self.source.folder
        held = inventory.snapshots(folder.look(self.naming, examine(folder.host, folder.path)))
        for name, why in held.foreign.items():
            log.warning("%s: leaving %s alone: %s", folder.path, name, why)
        return plan.Source(self.source.describe(), held.complete)

    def _enlist_destinations(self) -> None:
        """The destinations that were typed, then those that the records name."""
        wanted = dict.fromkeys(self.settings.destinations)
        if self.settings.locked_dests:
            wanted |= dict.fromkeys(self._locked_destinations())
        tallies = {tally.place: tally for tally in self.report.destinations}
        for each in wanted:
            tally = tallies.get(each.identity, Tally(each.identity))
            self.visits.append(_Visit(each, Folder(self.source.host, each.path), tally))
        self.report.destinations = [visit.tally for visit in self.visits]
        if self.settings.remove_locks:
            identities = [each.identity for each in wanted]
            records = self.files.records
            self.files.save_outstanding(transfers.drop(records.outstanding, self.naming, identities))
            self.files.save_completed(transfers.forget(records.completed, self.naming, identities))

    def _locked_destinations(self) -> Iterator[Location]:
        for recorded in transfers.locked_destinations(self.files.records.outstanding, self.naming):
            try:
                yield location.parse(recorded, "/")
            except UsageError as error:
                _fail(self.report.source, Failure(f"the records name a destination that is none: {error.message}"))

    def _survey(self, visit: _Visit) -> None:
        """Look at a destination and reconcile the records with what is there."""
        visit.standing = self._check(visit)
        seen = visit.folder.look(self.naming, visit.standing)
        visit.holdings = inventory.backups(seen, self.plan_source.snapshots)
        visit.target = plan.target(
            visit.location.identity, visit.holdings, self.plan_source, self.naming, self.settings.keep_backups
        )
        self._settle_leftovers(visit)
        outstanding = self.files.records.outstanding
        self.files.save_outstanding(
            transfers.reconcile(outstanding, self.naming, visit.location.identity, visit.target.owed)
        )
        self._note_delivered(visit)

    def _check(self, visit: _Visit) -> Standing:
        """Raises Failure unless backups can be put there. Creates nothing."""
        if visit.location.scheme is not Scheme.LOCAL:
            raise Failure(f"{visit.location.scheme.value}:// is not supported yet")
        standing = examine(visit.folder.host, visit.folder.path)
        if self.settings.fs_checks and not standing.on_btrfs:
            raise Failure(
                f"it is not on btrfs but on {standing.mount.type}",
                "Is the disk mounted? A destination has to be a folder on a btrfs filesystem.",
            )
        if standing.exists and not standing.is_directory:
            raise Failure("it is not a folder")
        visit.filesystem = visit.folder.filesystem(standing)
        known = self.files.records.completed.get(visit.location.identity, {})
        if known and visit.filesystem not in known and standing.mount.point == "/":
            raise Failure(
                "the disk is absent: the folder is on the root filesystem, and backups went to another one",
                "Mount it. If backups shall go to the root filesystem from now on, use '--remove-locks' once.",
            )
        return standing

    def _settle_leftovers(self, visit: _Visit) -> None:
        """Deal with what is there under our names and is neither a backup nor in the way of one."""
        assert visit.target
        for name, why in visit.holdings.foreign.items():
            if name not in visit.target.occupied:
                log.warning("%s: leaving %s alone: %s", visit.tally.place, name, why)
        for name in visit.holdings.partial:
            if name not in self.plan_source.snapshots:
                log.warning(
                    "%s: leaving %s alone: it is a transfer that was cut off, and the source does not have that "
                    "snapshot; to delete it: btrfs subvolume delete %s",
                    visit.tally.place,
                    name,
                    shlex.quote(visit.folder.at(name)),
                )
        for name in plan.leftovers(visit.target, visit.holdings, self.plan_source):
            self._delete_partial(name, visit)

    def _delete_partial(self, name: str, visit: _Visit) -> None:
        log.info("%s: deleting %s, a transfer that was cut off", visit.tally.place, name)
        for failure in visit.folder.delete([name]).values():
            raise failure

    def _note_delivered(self, visit: _Visit) -> None:
        assert visit.target
        newest = self.naming.newest(visit.target.common)
        completed = self.files.records.completed
        self.files.save_completed(
            transfers.delivered(completed, visit.location.identity, visit.filesystem, self.naming, newest)
        )

    def _owe_newest(self, visit: _Visit) -> None:
        """Remember a destination that could not be looked at."""
        newest = self.naming.newest(self.plan_source.snapshots)
        if newest and self.settings.transfer:
            outstanding = self.files.records.outstanding
            self.files.save_outstanding(transfers.unreachable(outstanding, visit.location.identity, newest))

    # --- transfers ---

    def _transfer(self) -> None:
        while batch := plan.next_batch(
            [visit.target for visit in self.visits if visit.target and not visit.broken],
            self.plan_source,
            self.settings.incremental,
        ):
            for visit in self.visits:
                if visit.location.identity in batch.destinations:
                    self._send(batch, visit)
        for visit in self.visits:
            self._guarded(visit, self._tell_occupied)

    def _count_outstanding(self) -> None:
        for visit in self.visits:
            recorded = transfers.owed(self.files.records.outstanding, self.naming, visit.location.identity)
            planned = visit.target.owed if visit.target and self.settings.transfer else frozenset()
            visit.tally.outstanding = sorted(planned.union(recorded))

    def _send(self, batch: Batch, visit: _Visit) -> None:
        destination = visit.location.identity
        try:
            self.files.save_outstanding(
                transfers.begin(self.files.records.outstanding, destination, batch.snapshot, batch.parent)
            )
            self._make_room(batch, visit)
            self._stream(batch, visit)
            self.files.save_outstanding(transfers.end(self.files.records.outstanding, destination, batch.snapshot))
            assert visit.target
            visit.target = plan.served(visit.target, batch.snapshot)
            self._note_delivered(visit)
        except Failure as failure:
            visit.broken = True
            _fail(visit.tally, failure)
            self._clear_away(batch.snapshot, visit)

    def _make_room(self, batch: Batch, visit: _Visit) -> None:
        """Create the destination when it is missing; delete what a transfer that was cut off left under the name."""
        assert visit.standing
        if not visit.standing.exists:
            visit.folder.create()
            visit.standing = examine(visit.folder.host, visit.folder.path)
            log.info("%s: created", visit.tally.place)
        if batch.snapshot in visit.holdings.partial:
            self._delete_partial(batch.snapshot, visit)

    def _stream(self, batch: Batch, visit: _Visit) -> None:
        """Send and receive one snapshot and check what has arrived. Raises Failure."""
        how = f"on top of {batch.parent}" if batch.parent else "in full"
        log.info("%s: sending %s %s", visit.tally.place, batch.snapshot, how)
        done = stream.transfer(
            self.source.folder.sender(batch.snapshot, batch.parent, self.settings.btrfs_debug),
            visit.folder.receiver(self.settings.btrfs_debug),
            f"sending {batch.snapshot} failed",
        )
        snapshot = self.plan_source.snapshots[batch.snapshot]
        if wrong := inventory.arrived(visit.folder.show(batch.snapshot), snapshot, bool(batch.parent)):
            path = shlex.quote(visit.folder.at(batch.snapshot))
            raise Failure(f"{batch.snapshot} has arrived, but {wrong}", f"Look at it: btrfs subvolume show {path}")
        visit.tally.sent.append(Sent(batch.snapshot, batch.parent, done.bytes, done.seconds))
        log.info("%s: sent %s: %s", visit.tally.place, batch.snapshot, pace(done.bytes, done.seconds))

    def _clear_away(self, name: str, visit: _Visit) -> None:
        """Delete what a failed transfer left, so that its space is free; when that fails, the next run does it."""
        try:
            snapshot = self.plan_source.snapshots[name]
            if inventory.judge(visit.folder.show(name), snapshot)[0] is inventory.State.PARTIAL:
                visit.folder.delete([name])
        except Failure as failure:
            log.debug("%s: nothing to clear away: %s", visit.tally.place, failure)

    def _tell_occupied(self, visit: _Visit) -> None:
        for name, why in (visit.target.occupied if visit.target else {}).items():
            path = visit.folder.at(name)
            _fail(
                visit.tally,
                Failure(f"cannot send {name}: '{path}' is in the way: {why}", "Rename or delete it, then run again."),
            )
            outstanding = self.files.records.outstanding
            self.files.save_outstanding(transfers.begin(outstanding, visit.location.identity, name, None))

    # --- retention ---

    def _prune_destination(self, visit: _Visit) -> None:
        """A destination is pruned although a transfer failed: that frees space."""
        if not visit.target:
            return
        held = visit.target.common.union(visit.holdings.complete)
        common = self.naming.newest(visit.target.common)
        protected = {common: ["newest that the source has, too"]} if common else {}
        verdict = retention.decide(self.settings.keep_backups, self.naming, held, protected)
        self._delete(visit.folder, visit.tally, verdict)

    def _prune_source(self) -> None:
        protected = transfers.reasons(self.files.records)
        verdict = retention.decide(self.settings.keep_snapshots, self.naming, self.plan_source.snapshots, protected)
        self._delete(self.source.folder, self.report.source, verdict)

    def _delete(self, folder: Folder, tally: Tally, verdict: retention.Verdict) -> None:
        for kept in verdict.kept:
            log.debug("%s: keeping %s: %s", tally.place, kept.name, ", ".join(kept.because))
        failures = folder.delete(verdict.dropped, self.settings.convert_rw)
        tally.deleted = [name for name in verdict.dropped if name not in failures]
        tally.kept = sorted({kept.name for kept in verdict.kept}.union(failures))
        if tally.deleted:
            log.info("%s: deleted %s", tally.place, ", ".join(tally.deleted))
            self._sync(folder, tally)
        for failure in dict.fromkeys(failures.values()):
            count = sum(1 for each in failures.values() if each is failure)
            _fail(tally, Failure(f"{plural(count, 'deletion')} failed: {failure.message}", failure.hint))

    def _sync(self, folder: Folder, tally: Tally) -> None:
        try:
            if self.settings.sync:
                folder.sync()
        except Failure as failure:
            _fail(tally, failure)

    def _guarded(self, visit: _Visit, step: Callable[[_Visit], None]) -> None:
        """A failure of one destination is its own."""
        try:
            step(visit)
        except Failure as failure:
            visit.broken = True
            _fail(visit.tally, failure)
