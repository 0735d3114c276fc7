"""One destination in a run: looked at, served, cleared up."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model import inventory, plan, retention
from btrfs_backup.model import records as transfers
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.model.plan import Batch, Snapshots, Target
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.report.outcome import Tally
from btrfs_backup.report.text import plural, span
from btrfs_backup.system.folder import Folder, Shell
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.paths import Standing, examine

log = logging.getLogger(__name__)


@dataclass
class Visit:
    """target: None until it could be looked at. filesystem: its UUID, empty for a shell command.

    marks: names of what is marked there (see model.mark). mounting: of its filesystem, when something was last marked.
    strangers: backups there that may be of another source.
    broken: something failed, so that it gets nothing more in this run.
    """

    location: Location
    place: Folder | Shell
    tally: Tally
    standing: Standing | None = None
    filesystem: str = ""
    holdings: Holdings = field(default_factory=Holdings)
    target: Target | None = None
    marks: frozenset[str] = frozenset()
    mounting: str = ""
    strangers: frozenset[str] = frozenset()
    broken: bool = False

    @property
    def identity(self) -> str:
        return self.location.identity

    @property
    def host(self) -> Host:
        return self.place.host

    def fail(self, failure: Failure) -> None:
        self.broken = True
        fail(self.tally, failure)

    def give_up(self, failure: Failure, settings: Settings) -> None:
        """It could not be looked at."""
        self.broken = True
        give_up(self.tally, failure, settings)

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """A failure in this scope is this destination's own."""
        try:
            yield
        except Failure as failure:
            self.fail(failure)

    def look(self, settings: Settings, snapshots: Snapshots, records: Records) -> None:
        """Find out what it holds and lacks; changes nothing. Raises Failure."""
        if isinstance(self.place, Shell):
            delivered = transfers.last_delivered(records.completed, self.identity)
            self.target = plan.unlisted_target(self.identity, delivered, snapshots, settings.naming)
            return
        self.standing, self.filesystem = stand(self.place, self.identity, settings, records)
        recorded = transfers.owed(records.outstanding, settings.naming, self.identity)
        seen = self.place.look(settings.naming, self.standing)
        self.marks = seen.marks
        self.holdings = inventory.backups(seen, snapshots, recorded)
        self.target = plan.target(self.identity, self.holdings, snapshots, settings.naming, settings.keep_backups)
        self._beware_of_strangers(self.target, snapshots, settings.naming, records)
        self._tell_what_is_left_alone(self.place, self.target, snapshots)

    def survey(self, settings: Settings, snapshots: Snapshots, records: Records) -> None:
        """Look, and clear up what it does not need. Raises Failure."""
        self.look(settings, snapshots, records)
        if isinstance(self.place, Shell):
            return
        self._settle_marks(self.place, snapshots)
        recorded = transfers.owed(records.outstanding, settings.naming, self.identity)
        if found := [name for name in recorded if name in self.holdings.complete]:
            log.info("%s: on record as outstanding, and complete there: %s", self.identity, span(found))
        for name in self.leftovers(snapshots):
            self._delete_partial(self.place, name)

    def leftovers(self, snapshots: Snapshots) -> list[str]:
        """What cut-off transfers left there of snapshots that are not to be sent again."""
        return plan.leftovers(self.target, self.holdings, snapshots) if self.target else []

    def verdict(self, settings: Settings) -> retention.Verdict:
        """Which backups retention keeps there, and why; empty when it cannot be looked into."""
        if not self.target or isinstance(self.place, Shell):
            return retention.Verdict((), ())
        held = self.target.common.union(self.holdings.complete)
        common = settings.naming.newest(self.target.common)
        protected = {name: ["perhaps of another source"] for name in self.strangers}
        if common:
            protected[common] = ["newest that the source has, too"]
        return retention.decide(settings.keep_backups, settings.naming, held, protected)

    def _settle_marks(self, place: Folder, snapshots: Snapshots) -> None:
        """Remove the marks of what is not there. Raises Failure.

        What is there keeps its mark until it is deleted, and sent again. Of what is not ours to send, another source's
        run may just have begun to.
        """
        self._unmark(place, [name for name in self.marks if name in snapshots and name not in self.holdings.partial])

    def _unmark(self, place: Folder, names: Sequence[str]) -> None:
        place.unmark(sorted(self.marks.intersection(names)))
        self.marks = self.marks.difference(names)

    def delivered(self, records: Records, naming: Naming) -> transfers.Completed:
        """What is to be on record of what it has got."""
        assert self.target
        newest = naming.newest(self.target.common)
        return transfers.delivered(records.completed, self.identity, self.filesystem, naming, newest)

    def make_room(self, snapshots: Sequence[str]) -> None:
        """Create the folder when it is missing; delete what cut-off transfers of SNAPSHOTS left. Raises Failure."""
        if isinstance(self.place, Shell):
            return
        assert self.standing
        if not self.standing.exists:
            self.place.create()
            self.standing = examine(self.place.host, self.place.path)
            log.info("%s: created", self.identity)
        for name in snapshots:
            if name in self.holdings.partial:
                self._delete_partial(self.place, name)

    def mark(self, snapshots: Sequence[str]) -> None:
        """Mark them as not known to be on disk. Raises Failure."""
        if isinstance(self.place, Folder):
            self.mounting = self.place.mounting(self.filesystem)
            self.place.mark(snapshots)

    def unmark(self, snapshots: Sequence[str]) -> None:
        """They are on disk, or not there. Raises Failure."""
        if isinstance(self.place, Folder):
            self.place.unmark(snapshots)

    def mounted_anew(self) -> Failure | None:
        """What to say when its filesystem may not be what it was when something was last marked, but mounted anew.

        Then nobody knows what of that was on disk.
        """
        try:
            if not isinstance(self.place, Folder) or self.place.mounting(self.filesystem) == self.mounting:
                return None
        except Failure as failure:
            return failure
        return Failure("its filesystem was mounted anew while data came in", "The next run sends it again.")

    def takes_compressed_data(self) -> bool:
        """Whether it can read send protocol 2; who restores what a shell command stored may not. Raises Failure."""
        return isinstance(self.place, Folder) and self.host.can_receive_compressed_data

    def outcome(
        self,
        batches: Sequence[Batch],
        failed: Failure | None,
        unwritten: Failure | None,
        snapshots: Snapshots,
        naming: Naming,
    ) -> tuple[int, Failure | None]:
        """How many of BATCHES, all of which were sent, arrived, and what went wrong with the one behind these.

        failed: what made their transfer end early; unwritten: why they may not be on disk. Raises Failure when it
        cannot be told what is at the destination.
        """
        try:
            if unwritten:
                raise _failed_to_send(batches, unwritten) if batches else unwritten
            count, wrong = self._verify(batches, snapshots, naming)
        except Failure as blind:
            if not failed or len(batches) > 1:
                raise _failed_to_send(batches, failed) if failed else blind from None
            count, wrong = 0, blind.message
        if failed:
            # When all of them look well, it was the last one.
            count = min(count, len(batches) - 1)
            return count, _failed_to_send(batches[count : count + 1], failed)
        if not wrong:
            return count, None
        name = batches[count].snapshot
        look = self.host.typed("btrfs", "subvolume", "show", f"{self.location.path}/{name}")
        return count, Failure(f"{name} has arrived, but {wrong}", f"Look at it: {look}")

    def _verify(self, batches: Sequence[Batch], snapshots: Snapshots, naming: Naming) -> tuple[int, str]:
        """How many of BATCHES, from the first on, are complete backups, and what is wrong with the next one."""
        if isinstance(self.place, Shell):
            return len(batches), ""  # the streams were checked on their way
        held = self._look_for(self.place, [batch.snapshot for batch in batches], naming)
        for number, batch in enumerate(batches):
            entry, snapshot = held.get(batch.snapshot), snapshots[batch.snapshot]
            wrong = inventory.arrived(entry, snapshot, bool(batch.parent)) if entry else "it is not there"
            if wrong:
                return number, wrong
        return len(batches), ""

    def _look_for(self, place: Folder, names: Sequence[str], naming: Naming) -> Mapping[str, Subvolume]:
        """What is there under NAMES, and maybe more. Raises Failure."""
        assert self.standing
        if len(names) == 1:
            return {name: place.show(name) for name in names}
        return place.look(naming, self.standing).subvolumes

    def unmoved(self) -> bool:
        """Whether its disk is still where it was seen."""
        try:
            return isinstance(self.place, Folder) and examine(self.place.host, self.place.path) == self.standing
        except Failure:
            return False

    def clear_away(self, snapshot: str, snapshots: Snapshots, marked: Sequence[str]) -> None:
        """Delete what a failed transfer left, so that its space is free, and the marks of all that were MARKED for it.

        When that fails, the next run does it.
        """
        if isinstance(self.place, Shell):
            return
        with self._if_possible():
            left = self.place.show(snapshot)
            if inventory.judge(left, snapshots[snapshot], begun=True)[0] is inventory.State.PARTIAL:
                self.place.delete([snapshot])
        self.unmark_if_possible(marked)

    def unmark_if_possible(self, snapshots: Sequence[str]) -> None:
        """Like `unmark`; when that fails, the next run sends them again."""
        with self._if_possible():
            self.unmark(snapshots)

    @contextmanager
    def _if_possible(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            log.debug("%s: left as it is: %s", self.identity, failure)

    def _beware_of_strangers(self, target: Target, snapshots: Snapshots, naming: Naming, records: Records) -> None:
        """When the source was mistaken, retention must not delete them. From the first backup on record they count."""
        delivered = naming.newest(transfers.last_delivered(records.completed, self.identity, self.filesystem))
        self.strangers = plan.strangers(target, self.holdings, delivered)
        if self.strangers:
            log.warning(
                "%s: its %s may be of another source: no snapshot here is among them\n"
                "  Are they? Then use another folder or a prefix ('-p'): '-n' deletes them, too, once a backup of this "
                "source is there.",
                self.identity,
                plural(len(self.strangers), "backup"),
            )
        if delivered in snapshots and delivered in target.missing and delivered not in self.holdings.partial:
            log.warning("%s: %s was delivered there, and somebody has deleted it", self.identity, delivered)

    def _tell_what_is_left_alone(self, place: Folder, target: Target, snapshots: Snapshots) -> None:
        for name, why in self.holdings.foreign.items():
            if name not in target.occupied:
                log.warning("%s: leaving %s alone: %s", self.identity, name, why)
        for name in self.holdings.partial:
            if name not in snapshots:
                log.warning(
                    "%s: leaving %s alone: it is a transfer that was cut off, and the source does not have that "
                    "snapshot; to delete it: %s",
                    self.identity,
                    name,
                    place.host.typed("btrfs", "subvolume", "delete", place.at(name)),
                )

    def _delete_partial(self, place: Folder, name: str) -> None:
        log.info("%s: deleting %s, a transfer that was cut off", self.identity, name)
        for failure in place.delete([name]).values():
            raise failure
        self._unmark(place, [name])


def _failed_to_send(batches: Sequence[Batch], failed: Failure) -> Failure:
    span = " to ".join(dict.fromkeys((batches[0].snapshot, batches[-1].snapshot)))
    return Failure(f"sending {span} failed: {failed.message}", failed.hint, failed.brief)


def stand(place: Folder, identity: str, settings: Settings, records: Records) -> tuple[Standing, str]:
    """Where a destination stands, which need not exist, and the UUID of its filesystem, empty when that is no btrfs.

    Raises Failure unless backups can be put there, Absent when its disk is missing. Creates nothing.
    """
    standing = examine(place.host, place.path)
    filesystem = place.filesystem(standing) if standing.on_btrfs else ""
    known = records.completed.get(identity, {})
    if known and filesystem not in known and (standing.mount.point == "/" or not standing.on_btrfs):
        here = "the root filesystem" if standing.mount.point == "/" else standing.mount.type
        hint = "Mount it."
        if standing.on_btrfs:
            hint += " If backups shall go to the root filesystem from now on, use '--remove-locks' once."
        raise Absent(f"the disk is absent: the folder is on {here}, and backups went to another filesystem", hint)
    _check_standing(standing, settings.fs_checks)
    return standing, filesystem


def _check_standing(standing: Standing, fs_checks: bool) -> None:
    if fs_checks and not standing.on_btrfs:
        kind = standing.mount.type
        # A run owes it snapshots, whether it was meant or not.
        hint = (
            "Is the disk mounted? A destination has to be a folder on a btrfs filesystem.\n"
            "  If it was mistyped: a run with it as the only DEST and '-S -T --remove-locks' forgets what it is owed."
        )
        if kind == "autofs":
            raise Absent("the disk is absent: nothing could be mounted when the folder was used", "Mount it by hand.")
        if standing.exists:
            raise Failure(f"it is not on btrfs but on {kind}", hint)
        raise Absent(f"the folder does not exist, and would be on {kind} instead of btrfs", hint)
    if standing.exists and not standing.is_directory:
        raise Failure("it is not a folder", "Give the path of a folder, or move away what is there.")


def fail(tally: Tally, failure: Failure) -> None:
    """Something failed at that place: told at once, and counted. What has been told is not told again."""
    if any(str(failure) == str(told) for told in tally.failures):
        return
    tally.failures.append(failure)
    log.error("%s: %s", tally.place, failure)


def give_up(tally: Tally, failure: Failure, settings: Settings) -> None:
    """That place could not be looked at; when it is absent, that may be no failure."""
    if isinstance(failure, Absent) and settings.skip_absent:
        tally.absent = True
        log.info("%s: skipped: %s", tally.place, failure.message)
    else:
        fail(tally, failure)


def occupied(place: str, name: str, why: str) -> Failure:
    """A snapshot cannot be sent since something else has its name."""
    return Failure(f"cannot send {name}: '{place}/{name}' is in the way: {why}", "Rename or delete it, then run again.")


def visit(location: Location, hosts: Hosts, tally: Tally) -> Visit:
    """The destination at LOCATION, not looked at yet."""
    if location.scheme is Scheme.SHELL:
        return Visit(location, Shell(hosts.at(location), location.command), tally)
    return Visit(location, Folder(hosts.at(location), location.path), tally)
