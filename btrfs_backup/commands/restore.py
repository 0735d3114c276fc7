"""A restore: find the backup, look where it is to go, bring it there, put it in its place. Read from top to bottom."""

import itertools
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from posixpath import basename, dirname, join
from typing import Any

from btrfs_backup.commands import streaming
from btrfs_backup.commands.streaming import Streaming
from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.model import cutter, inventory, records
from btrfs_backup.model import restoration as model
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.location import Location
from btrfs_backup.model.outcome import Restoration, Sent
from btrfs_backup.model.restoration import Plan, Site
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume, is_backup_name
from btrfs_backup.model.stage import Stage
from btrfs_backup.report.text import pace, size
from btrfs_backup.system import btrfs, lock, stages, state
from btrfs_backup.system import transfer as stream
from btrfs_backup.system.folder import Folder, parent_is_to_blame
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.paths import PathInfo, examine
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.stages import Attempt
from btrfs_backup.system.transfer import Transferred

log = logging.getLogger(__name__)

Publish = Callable[[Restoration], None]


def restore(settings: Settings, publish: Publish) -> None:
    """Make the destination of the backup, and PUBLISH what came of it so far.

    Raises Failure when it could not be done: then nothing of it is left. Raises LockHeld when another run is at work.
    """
    [location] = settings.destinations
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        backup = find_backup(settings, hosts.at(settings.source))
        place = find_place(settings, hosts.at(location), location)
        left = place.leftovers(backup.chosen.name)
        try:
            place.check_absent(settings)
        except Failure:
            if not settings.dry_run:
                place.clear([each for each in left if _has_served(each, backup)])
            raise
        plan = survey(settings, backup, place)
        resumed = _resumed(left, backup, place, plan)
        _tell_of_laggards(backup, plan)
        report = Restoration(
            replace(settings.source, path=backup.folder.path).identity,
            location.identity,
            plan.name,
            backup.naming.time(plan.name),
            plan.copy,
        )
        report = replace(report, go_on=_next_backup(settings, backup, plan, report))
        if settings.dry_run:
            publish(_with_plan(backup, place, plan, report, resumed))
            return
        publish(report)
        foreign = place.clear([each for each in left if each != resumed])
        _Restore(settings, backup, place, plan, report, publish).carry_out(foreign, resumed)


# --- the backup ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backup:
    """The backup to restore, one of those that FOLDER has under names of NAMING.

    beside: all that can be sent from there. own: the folder is the snapshot folder of a source.
    """

    chosen: Subvolume
    folder: Folder
    naming: Naming
    beside: Holdings
    own: bool

    @property
    def path(self) -> str:
        return self.folder.at(self.chosen.name)

    @property
    def far(self) -> bool:
        """Whether it is on another machine."""
        return self.folder.host.connection is not None


def find_backup(settings: Settings, host: Host) -> Backup:
    """The backup that SOURCE is, or the newest one in it. Raises Failure."""
    standing = _standing_of_source(settings, host)
    wanted = basename(standing.path) if is_backup_name(basename(standing.path)) else ""
    if wanted and not standing.is_subvolume:
        raise Failure(f"'{standing.path}' is not a subvolume, so it is no backup", "Its files can be copied: cp -a")
    naming = model.naming_of(wanted, settings.naming) if wanted else settings.naming
    if wanted:
        standing = examine(host, dirname(standing.path))
    folder = Folder(host, standing.path, standing)
    entries = folder.names()
    held = folder.inventory(naming)
    if not held.names:
        raise model.no_backups(folder.path, naming, entries)
    own = not state.NAMES.isdisjoint(entries)
    beside = model.restorable(held, snapshots=own or bool(wanted))
    now = datetime.now()
    chosen = model.choose(beside, wanted, folder.path, naming, now)
    ahead = dict.fromkeys(naming.ahead(beside.complete, now), "it lies in the future")
    for name, why in {**beside.foreign, **ahead}.items():
        if not wanted and name > chosen.name:
            log.warning("%s: passing over %s: %s", folder.path, name, why)
    return Backup(chosen, folder, naming, beside, own or not chosen.received_uuid)


def _standing_of_source(settings: Settings, host: Host) -> PathInfo:
    standing = examine(host, settings.source.path)
    if not standing.exists:
        raise Failure(
            f"the backup '{settings.source}' does not exist",
            "SOURCE is a backup, or a folder of backups. Is the disk mounted?",
        )
    if not standing.is_directory:
        raise Failure(f"'{settings.source}' is not a folder", "SOURCE is a backup, or a folder of backups.")
    if settings.fs_checks and not standing.on_btrfs:
        raise Failure(
            f"'{settings.source}' is not on btrfs but on {standing.mount.type}",
            "Is the disk mounted? Stored streams are restored with 'btrfs receive', as the README explains.",
        )
    return standing


# --- the place where it is to go -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The place of a restored subvolume and of its copy.

    standing: of the folder in which the stage is made, or of its parent when it is MISSING.

    lock_wait: seconds to wait for a run at the folder of copies to end; another restore of the same is not waited for.
    """

    host: Host
    location: Location
    site: Site
    standing: PathInfo
    missing: bool = False
    lock_wait: float = 0.0

    @property
    def home(self) -> Folder:
        """The folder in which the stage is made: beside the destination, or that of the copies."""
        path = dirname(self.site.destination) if self.site.inside else self.site.folder
        return Folder(self.host, path, replace(self.standing, path=path, exists=True))

    @property
    def folder(self) -> Folder:
        return Folder(self.host, self.site.folder, self.standing)

    def leftovers(self, name: str) -> list[Stage]:
        """The stages of tries to restore NAME. Raises Failure, LockHeld when one is alive."""
        return [] if self.missing else stages.left(self.home, self.staged_as(name))

    def clear(self, leftovers: Sequence[Stage]) -> frozenset[str]:
        """Remove LEFTOVERS; the names of those that are something else. Raises Failure."""
        foreign = set()
        for left in leftovers:
            if left.foreign:
                log.warning("%s: leaving %s alone: %s", self.location, self.home.at(left.entry), left.foreign)
                foreign.add(left.entry)
                continue
            stages.clear(self.home, left)
            log.info("%s: removed what a restore that was cut off had left", self.location)
        return frozenset(foreign)

    def staged_as(self, name: str) -> str:
        """What the stage is called after: the destination, or the backup NAME beside the other copies."""
        return basename(self.site.destination) if self.site.inside else name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs off the folder of copies, unless that is in the destination; made when missing.

        Raises LockHeld.
        """
        if self.site.inside:
            yield
            return
        self.folder.create()
        try:
            with lock.lock(self.host, self.folder.path, self.lock_wait):
                yield
        except LockHeld:
            raise
        except BaseException:
            if self.missing:
                with suppress(Failure):
                    for argv in (("rm", "-f", "--", self.folder.at(lock.LOCK)), ("rmdir", "--", self.folder.path)):
                        self.host.ended(argv)
            raise

    def check_absent(self, settings: Settings) -> None:
        """Raises Failure when the destination exists."""
        standing = examine(self.host, self.site.destination)
        if not standing.exists:
            return
        path, source = self.location.path, settings.source
        away = next(name for name in _old_names(path) if not examine(self.host, name).exists)
        what_to_do = f"Move it away: {self.host.typed('mv', path, away)}"
        if f"{source.path}/".startswith(f"{path}/") and replace(source, path=path) == self.location:
            moved = replace(source, path=away + source.path[len(path) :])
            what_to_do += f"\n  The backup is then {shlex.quote(moved.identity)}"
        raise Failure(f"the destination '{self.location}' exists, and nothing is overwritten", what_to_do)


def _old_names(path: str) -> Iterator[str]:
    """What could be called what has been at PATH so far."""
    yield f"{path}.old"
    yield from (f"{path}.old{number}" for number in itertools.count(2))


def find_place(settings: Settings, host: Host, location: Location) -> Place:
    """Where the destination and the copies are to be. Creates nothing. Raises Failure."""
    existing = examine(host, location.path)
    if existing.exists and existing.mount.point == existing.path:
        raise Failure(
            f"the destination '{location}' exists: it is a mount point",
            "Mount the top of its filesystem elsewhere, and restore to a new name there:\n"
            f"  {host.typed('mount', '-o', 'subvolid=5', 'DEVICE', '/mnt')}",
        )
    site = model.site(location.path, settings.snapshot_folder)
    beside = _parent(settings, host, location.path, "the destination")
    destination = join(beside.path, basename(location.path))
    if site.inside:
        return Place(host, location, Site(destination, site.folder_in(destination)), beside)
    standing = examine(host, site.folder)
    if standing.exists and not standing.is_directory:
        raise Failure(f"the snapshot folder '{site.folder}' is not a folder", "Choose another one with '-f'.")
    missing = not standing.exists
    if missing:
        standing = _parent(settings, host, site.folder, "the snapshot folder")
    if not _same_filesystem(host, standing, beside):
        raise Failure(
            f"the snapshot folder '{site.folder}' is not on the filesystem of the destination",
            "Choose another one with '-f'; the read-only copy shares its data with the destination.",
        )
    folder = join(standing.path, basename(site.folder)) if missing else standing.path
    return Place(host, location, Site(destination, folder), standing, missing, settings.lock_wait)


def _parent(settings: Settings, host: Host, path: str, what: str) -> PathInfo:
    """The folder that PATH is to be made in. Raises Failure."""
    folder = dirname(path)
    standing = examine(host, folder)
    if not standing.exists or not standing.is_directory:
        raise Failure(
            f"the folder '{folder}', in which {what} is to be, does not exist",
            f"Mount the disk, correct the path, or make it: {host.typed('mkdir', '-p', folder)}",
        )
    if settings.fs_checks and not standing.on_btrfs:
        raise Failure(
            f"the folder '{folder}', in which {what} is to be, is not on btrfs but on {standing.mount.type}",
            "Is the disk mounted? Subvolumes can be made on a btrfs filesystem only.",
        )
    return standing


def _same_filesystem(host: Host, one: PathInfo, other: PathInfo) -> bool:
    if one.mount.point == other.mount.point:
        return True
    return Folder(host, one.path, one).filesystem() == Folder(host, other.path, other).filesystem()


# --- what is to be done ----------------------------------------------------------------------------------------------


def survey(settings: Settings, backup: Backup, place: Place) -> Plan:
    """What has to be done to bring BACKUP to PLACE. Changes nothing. Raises Failure when it cannot be done."""
    held = Holdings()
    if place.site.inside:
        _check_way(backup, place.site)
    elif not place.missing:
        held = _believed(backup, place.folder, inventory.snapshots(place.folder.inventory(backup.naming)))
    visible = _visible(backup, place)
    return model.decide(backup.chosen, backup.beside.complete, place.site, held, visible, settings.incremental)


def _believed(backup: Backup, there: Folder, held: Holdings) -> Holdings:
    """What is HELD THERE, where the snapshot of the backup's name counts only if nobody changed it. Raises Failure."""
    name = backup.chosen.name
    if name not in held.complete or held.complete[name].uuid == backup.chosen.uuid:
        return held
    copy = there.show_parent(name)
    if not copy.was_changed or copy.changed_transid == backup.folder.show(name).sent_transid:
        return held
    others = {each: its for each, its in held.complete.items() if each != name}
    return replace(held, complete=others, foreign={**held.foreign, name: "it was changed after it was sent"})


def _check_way(backup: Backup, site: Site) -> None:
    """Raises Failure when the backup holds something else than a folder where the copy is to go."""
    wanted = site.folder_in(backup.path)
    standing = examine(backup.folder.host, wanted)
    if not standing.is_directory or not f"{wanted}/".startswith(f"{standing.path}/"):
        raise Failure(
            f"the read-only copy cannot go to '{site.folder}': in the backup, a file or a link is there",
            "Choose another snapshot folder with '-f'.",
        )


def _visible(backup: Backup, place: Place) -> bool:
    """Whether a receiver at PLACE can build upon the backup itself."""
    if backup.folder.host != place.host or not _same_filesystem(place.host, backup.folder.info, place.standing):
        return False
    return place.standing.mount.shows(backup.folder.info.mount.inside(backup.path))


def _resumed(left: Sequence[Stage], backup: Backup, place: Place, plan: Plan) -> Stage | None:
    """The stage among those LEFT that the restore can go on with. Raises Failure."""
    for each in [] if plan.there else left:
        known = cutter.checkpoints(each.subvolumes, backup.far)
        if known and not each.foreign:
            origin = cutter.beginning(each.subvolumes, known[-1])
            wanted = _held_at(plan.parent, backup, place).uuid if plan.parent else ""
            return each if origin == wanted else None
    return None


def _has_served(left: Stage, backup: Backup) -> bool:
    """Whether that is of no use any more when the destination is there: it was restored after all.

    When only parts are in it, somebody else has made the destination.
    """
    arrived = any(each.name == backup.chosen.name and each.readonly for each in left.subvolumes)
    return arrived or not cutter.checkpoints(left.subvolumes, backup.far)


def _held_at(parent: str, backup: Backup, place: Place) -> Subvolume:
    """The PARENT at the destination: in the folder of copies, or the backup itself. Raises Failure."""
    return backup.chosen if parent == backup.chosen.name else place.folder.show(parent)


def _with_plan(backup: Backup, place: Place, plan: Plan, report: Restoration, resumed: Stage | None) -> Restoration:
    report = replace(report, intended=plan.how, free=place.folder.free())
    if plan.there:
        return report
    size = stream.measure(backup.folder.estimate(plan.name, plan.parent))
    known = cutter.checkpoints(resumed.subvolumes, backup.far) if resumed else []
    return replace(report, sent=Sent(plan.name, plan.parent, size, None, known[-1].offset if known else 0))


# --- doing it --------------------------------------------------------------------------------------------------------


class _Restore:
    """Carries out a plan."""

    def __init__(
        self,
        settings: Settings,
        backup: Backup,
        place: Place,
        plan: Plan,
        report: Restoration,
        publish: Publish,
    ) -> None:
        self.settings = settings
        self.backup = backup
        self.place = place
        self.host = place.host
        self.plan = plan
        self.report = report
        self._publish = publish
        self.streaming = Streaming(settings)
        self._placing = False
        self._attempt: Attempt | None = None
        self._ahead: Sequence[Checkpoint] = ()
        self._keeps_parts = False

    def carry_out(self, foreign: frozenset[str], resumed: Stage | None) -> None:
        """FOREIGN: what is in the place of stages and is none; RESUMED: the stage to go on with."""
        name = self.plan.name
        with self.place.locked(), ExitStack() as scope:
            try:
                if not self.plan.there:
                    earlier = resumed.subvolumes if resumed else ()
                    self._ahead = cutter.checkpoints(earlier, self.backup.far)
                    useless = cutter.useless(earlier, self._ahead[-1]) if self._ahead else []
                    staged_as = self.place.staged_as(name)
                    opened = stages.opened(self.place.home, staged_as, foreign, resumed, useless)
                    self._attempt = scope.enter_context(opened)
                self._bring()
                self._report(done=True)
                self._clear_up()
            except BaseException:
                self._undo()
                raise

    def _report(self, **changes: Any) -> None:
        self.report = replace(self.report, **changes)
        self._publish(self.report)

    def _bring(self) -> None:
        """The destination comes last and in one step, so that it is there with its copy, or not at all."""
        site, name = self.plan.site, self.plan.name
        on = f", on from {size(self._ahead[-1].offset)}" if self._ahead else ""
        log.info("%s: restoring %s, %s%s", self.place.location, name, self.plan.how, on)
        if self._attempt:
            self._receive(self._attempt)
        if not site.inside:
            if self._attempt:
                self._attempt.publish([name])
                self._verify(self.place.folder)
            self.place.check_absent(self.settings)
            self._placing = True
            self._snapshot(self.plan.copy, site.destination, readonly=False)
            return
        # What was received cannot be moved into another folder; a read-only snapshot of it has its received UUID, too.
        assert self._attempt
        received = join(self._attempt.path, name)
        staged = join(self._attempt.path, basename(site.destination))
        copies = replace(self.place.home, path=site.folder_in(staged))
        self._snapshot(received, staged, readonly=False)
        copies.create()
        # They would look like snapshots that are no subvolumes.
        self.host.run(btrfs.remove_stubs(copies.path), f"cannot clear the folder '{copies.path}'")
        self._snapshot(received, copies.at(name))
        self._verify(copies)
        self._placing = True
        # Into the folder, not onto the name: mv refuses when something of that name has come there in the meantime.
        self.host.run(("mv", "--", staged, dirname(site.destination)), f"cannot move '{staged}' to its place")
        # Snapshots write out what they are taken of; this does it for the move.
        self.place.home.write_out()

    def _receive(self, attempt: Attempt) -> None:
        """Bring the backup into the stage. Raises Failure unless it is complete there."""
        name = self.plan.name
        done = self._stream(attempt)
        if done.unproved is not None:
            what = "the stream is not the one that was cut off; it is sent from its beginning"
            log.warning("%s: %s", self.place.location, what)
            self._ahead = done.unproved
            self._delete(cutter.useless(self._earlier, self._ahead[-1]) if self._ahead else self._earlier)
            done = self._stream(attempt)
        if self.plan.parent and (wrong := self._unusable(attempt, done)):
            log.warning("%s: restoring %s failed: %s\n  Sending it in full.", self.place.location, name, wrong)
            found, _ = attempt.contents()
            self._delete([*self._earlier, *found.values()])
            self._ahead = ()
            self.plan = replace(self.plan, parent=None)
            done = self._stream(attempt)
        [ending] = done.endings
        if failed := ending.failure or ending.unwritten or attempt.remounted():
            in_full = "With '-I' it is sent in full." if self.plan.parent else ""
            self._keeps_parts = not ending.spoiled
            raise Failure(f"restoring {name} failed: {failed.message}", failed.hint or in_full)
        self._keeps_parts = False
        if wrong := self._wrong(attempt, done):
            raise Failure(f"{name} has arrived, but {wrong}", "Nothing of it is kept. Try again, in full with '-I'.")
        [streamed] = done.streams
        begun = streamed.resumed_from
        self._report(sent=Sent(name, self.plan.parent, streamed.bytes, streamed.seconds, begun))
        log.info("%s: received %s: %s", self.place.location, name, pace(streamed.bytes - begun, streamed.seconds))

    def _unusable(self, attempt: Attempt, done: Transferred) -> Failure | str:
        """Why the parent of the increment is of no use, or nothing. Raises Failure."""
        [ending] = done.endings
        if ending.failure:
            return ending.failure if parent_is_to_blame(ending.failure) else ""
        return self._wrong(attempt, done) or self._changed(done)

    @property
    def _earlier(self) -> Sequence[Subvolume]:
        """What was in the stage before."""
        return self._attempt.earlier.subvolumes if self._attempt and self._attempt.earlier else ()

    def _delete(self, staged: Sequence[Subvolume]) -> None:
        """Raises Failure."""
        for failure in self.place.home.delete(staged).values():
            raise failure

    def _wrong(self, attempt: Attempt, done: Transferred) -> str:
        """What is wrong with what has come; empty when nothing is. Raises Failure."""
        name, parent, [streamed] = self.plan.name, self.plan.parent, done.streams
        found, other = attempt.contents()
        parts = [each for each in found if cutter.is_ours(each)] if streamed.cut else []
        if wrong := stages.holds_only([*parts, name], found, other):
            return wrong
        if name not in found:
            return "it is not there"
        entry = found[name]
        if streamed.cut:
            origin = cutter.origin(entry, [*self._earlier, *(found[each] for each in parts)])
            entry = replace(entry, parent_uuid=origin)
        return inventory.received(entry, self.backup.chosen, self._held(parent).uuid if parent else "")

    def _held(self, parent: str) -> Subvolume:
        return _held_at(parent, self.backup, self.place)

    def _changed(self, done: Transferred) -> str:
        parent, [stream] = self.plan.parent, done.streams
        if not parent or parent == self.plan.name:
            return ""
        held = self.place.folder.show_parent(parent)
        if not held.was_changed and stream.fits(self.backup.beside.complete[parent], held.sent_transid):
            return ""
        return f"{parent}, which it builds upon, was changed after it was sent"

    def _stream(self, attempt: Attempt) -> Transferred:
        """Raises Failure when a command cannot be started."""
        compressed_data = self._compressed_data() and not (self._ahead and self._ahead[-1].version < 2)
        cutting = self.streaming.cutting([self.host], self.backup.far, self._ahead)
        self._keeps_parts = True
        backup, name = self.backup, self.plan.parent
        parent = {**backup.beside.complete, backup.chosen.name: backup.chosen}[name] if name else None

        there = backup.folder if name == backup.chosen.name else self.place.folder
        plain = there.plain(name) if name and backup.far else lambda path: True
        sender = self.streaming.sender(
            backup.folder, backup.chosen, parent, [self.report.destination], compressed_data, plain, cutting
        )
        how = self.streaming.sending(self.host, compressed_data)
        receiver = streaming.receiver(attempt, how, cutting)
        return self.streaming.transfer([sender], [receiver], backup.far, cutting)

    def _compressed_data(self) -> bool:
        """Whether the compressed data of the filesystem can be sent as it is."""
        try:
            return (
                self.settings.compressed_data
                and self.host.can_receive_compressed_data
                and self.backup.folder.host.can_send_compressed_data
            )
        except Failure:
            return False  # what is wrong will be told when it is really needed

    def _snapshot(self, subvolume: str, path: str, readonly: bool = True) -> None:
        self.host.run(btrfs.snapshot(subvolume, path, readonly), f"cannot make the snapshot '{path}'")

    def _verify(self, copies: Folder) -> None:
        """Raises Failure unless the copy can take the place of the snapshot that was backed up."""
        copy = copies.show(self.plan.name)
        if not copy.readonly or copy.stream_uuid != self.backup.chosen.stream_uuid:
            raise Failure(
                f"the read-only copy of {self.plan.name} has not kept its received UUID",
                btrfs.DOUBT,
            )

    def _undo(self) -> None:
        """Remove what was made; nothing of it may be taken for a backup, or for what was to be restored."""
        site, name = self.plan.site, self.plan.name
        try:
            # A signal may have come right after the last step.
            self._report(done=self._placing and examine(self.host, site.destination).exists)
            self._remove_attempt()
            if not (site.inside or self.plan.there or self.report.done):
                held = self.place.home.listed()
                for failure in self.place.home.delete([held[name]] if name in held else []).values():
                    raise failure
        except Failure as failure:
            log.warning("%s: not all could be removed; the next try does it: %s", self.place.location, failure)

    def _remove_attempt(self) -> None:
        """Remove the stage with what is in it, except for parts that are of use. Raises Failure."""
        if self._attempt:
            found, _ = self._attempt.contents()
            parts = cutter.checkpoints([*self._earlier, *found.values()], self.backup.far) if self._keeps_parts else []
            if parts:
                kept = size(parts[-1].offset)
                log.info("%s: %s of it are kept; the same command goes on behind them", self.place.location, kept)
                return
            self._attempt.remove(list(found.values()), commit=not self.report.done)

    def _clear_up(self) -> None:
        try:
            self._remove_attempt()
        except Failure as failure:
            self._report(failures=(*self.report.failures, failure))
            log.error("%s: %s", self.place.location, failure)


def _tell_of_laggards(backup: Backup, plan: Plan) -> None:
    """Name the destinations that have not got the snapshot that is restored: their parents stay behind."""
    there = backup.folder
    if not backup.own or plan.site.folder == there.path:
        return
    known, _ = state.read(there.host, there.path, aside=False)
    for fact in sorted(known):
        if fact.kind == records.NEWEST and fact.snapshot in backup.beside.complete and fact.snapshot < plan.name:
            log.warning(
                "%s: its newest backup is %s, which stays behind in '%s': its next backup would be sent in full\n"
                "  To go on with increments, restore with '-f %s', and use that option in the next backups, too.",
                fact.destination,
                fact.snapshot,
                there.path,
                shlex.quote(there.path),
            )


def _next_backup(settings: Settings, backup: Backup, plan: Plan, report: Restoration) -> str:
    """The command that makes the next backup of what is restored, on top of this one."""
    prefix, folder = backup.naming.prefix, settings.snapshot_folder
    # A folder of snapshots, or one on the same disk, is hardly where backups go.
    elsewhere = backup.own or plan.parent == plan.name
    return shlex.join(
        [
            "btrfs-backup",
            *(["-p", prefix] if prefix else []),
            *(["-f", folder] if folder != "snapshot" else []),
            *(word for option in settings.ssh_options for word in ("--ssh-opt", option)),
            *(["--ssh-sudo"] if settings.ssh_sudo else []),
            report.destination,
            "DEST" if elsewhere else report.source,
        ]
    )
