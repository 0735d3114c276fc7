"""The backup run: snapshot, send what is missing, prune. Read it from top to bottom."""

import logging
from collections.abc import Callable
from datetime import datetime

from btrfs_backup.commands.outset import enlist, forgotten, open_source
from btrfs_backup.commands.prune import prune
from btrfs_backup.commands.visit import Visit, fail, occupied
from btrfs_backup.errors import Failure, MissingProgram, StateFileBroken
from btrfs_backup.model import inventory, plan, retention
from btrfs_backup.model import records as transfers
from btrfs_backup.model.plan import Lineage
from btrfs_backup.model.settings import Settings
from btrfs_backup.report.outcome import Report, Tally
from btrfs_backup.system import files
from btrfs_backup.system.btrfs import DOUBT
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.paths import Standing, examine
from btrfs_backup.system.process import CommandFailed
from btrfs_backup.system.source import Source
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.statefile import StateFiles

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


def backup(settings: Settings, report: Report, clock: Clock = datetime.now) -> None:
    """Do one run and write down in REPORT what happened.

    What concerns one destination or one deletion ends up in the report. Raises Failure when nothing could be done
    at all, LockHeld when another run is at work.
    """
    report.destinations = [Tally(each.identity) for each in settings.destinations]
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        source, standing = open_source(settings, hosts)
        if not standing.exists:
            source.create_folder()
            standing = examine(source.host, source.folder.path)
        with files.lock(source.host, source.folder.path, settings.lock_wait):
            state = _load(source, report)
            if settings.take_snapshot:
                _take_snapshot(settings, source, report, state, clock())
            if state:
                _Run(settings, source, standing, report, state, hosts).serve()


def _load(source: Source, report: Report) -> StateFiles | None:
    try:
        return StateFiles(source.host, source.folder.path)
    except StateFileBroken as failure:
        fail(report.source, failure)
        return None


def _take_snapshot(settings: Settings, source: Source, report: Report, state: StateFiles | None, now: datetime) -> None:
    try:
        there = source.folder.names()
        names = [*there, *(transfers.names(state.records) if state else ())]
        if ahead := settings.naming.ahead(now, names):
            log.warning("snapshot %s lies in the future: is the clock right? Names go on from there", ahead)
        name = settings.naming.next(now, names)
        source.snapshot(name)
    except MissingProgram:
        raise
    except Failure as failure:
        if isinstance(failure, CommandFailed) and failure.lacks_rights:
            raise  # whoever may not do this may do nothing else
        fail(report.source, failure)
    else:
        report.snapshot = name
        log.info("%s: took snapshot %s", settings.source, name)
        _name_nested(source, settings.naming.newest(there))


def _name_nested(source: Source, before: str | None) -> None:
    """BEFORE: the snapshot before this one. Of what was there then a user has been warned."""
    try:
        nested = source.nested()
        known = before is not None and source.are_known(nested, before)
    except Failure as failure:
        log.debug("cannot look for nested subvolumes: %s", failure)
        return
    if nested:
        some = ", ".join(nested[:3]) + (f" and {len(nested) - 3} more" if len(nested) > 3 else "")
        log.log(
            logging.INFO if known else logging.WARNING,
            "%s: nested subvolumes are in no snapshot, and need backups of their own: %s",
            source.path,
            some,
        )


class _Run:
    """What is done under the run lock, after the snapshot."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        standing: Standing,
        report: Report,
        state: StateFiles,
        hosts: Hosts,
    ) -> None:
        self.settings = settings
        self.naming = settings.naming
        self.source = source
        self.standing = standing  # of the snapshot folder
        self.report = report
        self.state = state
        self.hosts = hosts
        self.visits: list[Visit] = []

    def serve(self) -> None:
        try:
            self.snapshots = self._look_at_source()
            self._refuse_to_do_nothing()
            self._enlist_destinations()
        except Failure as failure:
            if not self.report.snapshot:
                raise  # nothing at all could be done
            fail(self.report.source, failure)
            return
        if self.settings.transfer or self.settings.keep_backups != retention.KEEP_ALL:
            for each in self.visits:
                self._survey(each)
        self._warn_of_a_common_fate()
        try:
            if self.settings.transfer:
                self._transfer()
        finally:
            for each in self.visits:
                if each.target:
                    with each.failing_alone():
                        self.state.save_completed(each.delivered(self.state.records, self.naming))
            self._count_outstanding()
            if self.state.read_only:
                fail(self.report.source, self.state.read_only)
        for each in self.visits:
            self._prune_destination(each)
        self._prune_source()

    def _refuse_to_do_nothing(self) -> None:
        """Raises Failure when the first snapshot could not be taken."""
        if self.settings.take_snapshot and not self.report.snapshot and not self.snapshots:
            folder = self.source.folder.path
            raise Failure(f"there is no snapshot in '{folder}' either", "Nothing is sent or pruned without one.")

    # --- inventories ---

    def _look_at_source(self) -> plan.Snapshots:
        folder = self.source.folder
        held = inventory.snapshots(folder.look(self.naming, self.standing, names_suffice=True))
        for name, why in held.foreign.items():
            log.warning("%s: leaving %s alone: %s", folder.path, name, why)
        if self.report.snapshot and self.report.snapshot not in held.complete:
            why = held.foreign.get(self.report.snapshot, "it is not there")
            fail(
                self.report.source, Failure(f"the snapshot {self.report.snapshot} cannot be used as one: {why}", DOUBT)
            )
            self.report.snapshot = None
        return held.complete

    def _enlist_destinations(self) -> None:
        self.visits = enlist(self.settings, self.hosts, self.state.records, self.report)
        if self.settings.remove_locks:
            for each in self.visits:
                if forgotten(self.settings, [each], self.state.records) == self.state.records:
                    log.warning("%s: nothing is on record of it: is it spelled as in the backups?", each.identity)
                else:
                    log.info("%s: dropped what was on record of it", each.identity)
            records = forgotten(self.settings, self.visits, self.state.records)
            self.state.save_outstanding(records.outstanding)
            self.state.save_completed(records.completed)

    def _survey(self, each: Visit) -> None:
        """Look at a destination and reconcile the records with what is there."""
        try:
            each.survey(self.settings, self.snapshots, self.state.records)
            assert each.target
            outstanding = self.state.records.outstanding
            self.state.save_outstanding(transfers.reconcile(outstanding, self.naming, each.identity, each.target.owed))
            self.state.save_completed(each.delivered(self.state.records, self.naming))
        except Failure as failure:
            each.give_up(failure, self.settings)
            with each.failing_alone():
                self._owe_newest(each)

    def _warn_of_a_common_fate(self) -> None:
        here = (self.source.host, self.standing.mount.device)
        for each in self.visits:
            if each.standing and (each.host, each.standing.mount.device) == here:
                # Whoever has backups there has been warned.
                level = logging.INFO if each.identity in self.state.records.completed else logging.WARNING
                words = "%s: on the same filesystem as the source: that is no protection against a dead disk"
                log.log(level, words, each.identity)

    def _owe_newest(self, each: Visit) -> None:
        """Remember a destination that could not be looked at."""
        newest = self.naming.newest(self.snapshots)
        if newest and self.settings.transfer:
            outstanding = self.state.records.outstanding
            self.state.save_outstanding(transfers.unreachable(outstanding, each.identity, newest))

    # --- transfers ---

    def _transfer(self) -> None:
        targets = [each.target for each in self.visits if each.target]
        if any(target.missing for target in targets):
            self._send_what_is_missing()
        for each in self.visits:
            self._tell_occupied(each)

    def _send_what_is_missing(self) -> None:
        try:
            lineage = Lineage(self.source.describe(), self.snapshots) if self.settings.incremental else None
        except Failure as failure:
            fail(self.report.source, failure)
            return
        # A run that has nothing to send spends most of its time on starting.
        from btrfs_backup.commands.delivery import Delivery
        from btrfs_backup.system.transfer import most_receivers

        delivery = Delivery(self.settings, self.source, self.snapshots, self.state)
        while batches := plan.next_batches(
            [each.target for each in self.visits if each.target and not each.broken],
            lineage,
            self.settings.shared_stream,
        ):
            together = [each for each in self.visits if each.identity in batches[0].destinations]
            delivery.send(batches, together[: most_receivers()])

    def _count_outstanding(self) -> None:
        for each in self.visits:
            recorded = transfers.owed(self.state.records.outstanding, self.naming, each.identity)
            planned = each.target.owed if each.target and self.settings.transfer else frozenset()
            each.tally.outstanding = sorted(planned.union(recorded))

    def _tell_occupied(self, each: Visit) -> None:
        for name, why in (each.target.occupied if each.target else {}).items():
            each.fail(occupied(each.identity, name, why))
            if why == inventory.CHANGED:
                continue  # on record it would be taken for a transfer that was cut off before its last step
            with each.failing_alone():
                outstanding = self.state.records.outstanding
                self.state.save_outstanding(transfers.begin(outstanding, each.identity, name, None))

    # --- retention ---

    def _prune_destination(self, each: Visit) -> None:
        """A destination is pruned although a transfer failed: that frees space."""
        if not each.target or not isinstance(each.place, Folder):
            return
        prune(each.place, each.tally, each.verdict(self.settings), self.settings)

    def _prune_source(self) -> None:
        protected = transfers.reasons(self.state.records)
        if self.state.full:
            self._protect_what_was_not_recorded(protected)
        elif self.state.incomplete:
            if self.settings.keep_snapshots != retention.KEEP_ALL:
                log.warning(
                    "%s: no snapshot is deleted: the records do not tell all that is needed", self.settings.source
                )
            return
        verdict = retention.decide(self.settings.keep_snapshots, self.naming, self.snapshots, protected)
        prune(self.source.folder, self.report.source, verdict, self.settings)

    def _protect_what_was_not_recorded(self, protected: dict[str, list[str]]) -> None:
        """On a full disk no record can be written before something is deleted; this run still knows what is needed."""
        for each in self.visits:
            target = each.target or plan.Target(each.identity)
            common = self.naming.newest(target.common)
            for name in target.owed.union([common] if common else ()):
                protected.setdefault(name, []).append(f"needed by {each.identity}")
