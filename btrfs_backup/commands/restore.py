"""A restore: find the backup, look where it is to go, bring it there, put it in its place. Read from top to bottom."""

import itertools
import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from posixpath import basename, dirname, join
from typing import Any

from btrfs_backup.commands.streaming import Streaming
from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.model import inventory
from btrfs_backup.model import restoration as model
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.location import Location
from btrfs_backup.model.outcome import Restoration, Sent
from btrfs_backup.model.restoration import Plan, Site
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume, is_backup_name
from btrfs_backup.report.text import pace
from btrfs_backup.system import btrfs, filetools, lock, state
from btrfs_backup.system import transfer as stream
from btrfs_backup.system.folder import Folder, parent_is_to_blame
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.paths import PathInfo, examine
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.transfer import Receiver, Transferred

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
        if not settings.dry_run:
            place.clear_leftovers()
        plan = survey(settings, backup, place)
        report = Restoration(
            replace(settings.source, path=backup.folder.path).identity,
            location.identity,
            plan.name,
            backup.naming.time(plan.name),
            plan.copy,
        )
        report = replace(report, go_on=_next_backup(settings, backup, plan, report))
        if settings.dry_run:
            publish(_with_plan(backup, place, plan, report))
            return
        publish(report)
        _Restore(settings, backup, place, plan, report, publish).carry_out()


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
    chosen = model.choose(beside, wanted, folder.path)
    for name, why in beside.foreign.items():
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
    """Where it is to go. standing: of the folder in which the stage is made, or of its parent when it is MISSING.

    lock_wait: seconds to wait for a run at the folder of copies to end; another restore of the same is not waited for.
    """

    host: Host
    location: Location
    site: Site
    standing: PathInfo
    missing: bool = False
    lock_wait: float = 0.0

    @property
    def stage(self) -> Folder:
        return Folder(self.host, self.site.stage, self.standing)

    @property
    def folder(self) -> Folder:
        return Folder(self.host, self.site.folder, self.standing)

    def clear_leftovers(self) -> None:
        """Remove what a try that was killed has left. Raises Failure."""
        if not self.missing and examine(self.host, self.site.stage).exists:
            with self.locked():
                self.clear_stage()
            log.info("%s: removed what a restore that was cut off had left", self.location)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs off the folder of copies, or off the stage when that folder is in it; made when missing.

        Raises LockHeld.
        """
        folder = self.stage if self.site.inside else self.folder
        folder.create()
        try:
            with lock.lock(self.host, folder.path, self.lock_wait):
                yield
        except LockHeld:
            raise
        except BaseException:
            if self.site.inside or self.missing:
                with suppress(Failure):
                    folder.remove()
            raise

    def clear_stage(self) -> None:
        """Delete what restores make there, and the stage itself. Raises Failure."""
        below = self.stage.subvolumes_below(self.standing.mount, lambda name: model.is_leftover(name, self.site))
        for failure in self.stage.delete(below).values():
            raise failure
        self.stage.remove()

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
    place.check_absent(settings)
    held = Holdings()
    if place.site.inside:
        _check_way(backup, place.site)
    elif not place.missing:
        held = inventory.snapshots(place.folder.inventory(backup.naming))
    visible = _visible(backup, place)
    return model.decide(backup.chosen, backup.beside.complete, place.site, held, visible, settings.incremental)


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


def _with_plan(backup: Backup, place: Place, plan: Plan, report: Restoration) -> Restoration:
    report = replace(report, intended=plan.how, free=place.folder.free())
    if plan.there:
        return report
    size = stream.measure(backup.folder.estimate(plan.name, plan.parent))
    return replace(report, sent=Sent(plan.name, plan.parent, size, None))


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

    def carry_out(self) -> None:
        with self.place.locked():
            try:
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
        log.info("%s: restoring %s, %s", self.place.location, name, self.plan.how)
        if not self.plan.there:
            self.place.stage.create()
            self._receive()
        if not site.inside:
            if not self.plan.there:
                self._snapshot(self.place.stage.at(name), self.plan.copy)
                self._verify(self.place.folder)
            self.place.check_absent(self.settings)
            self._placing = True
            self._snapshot(self.plan.copy, site.destination, readonly=False)
            return
        # What was received cannot be moved into another folder; a read-only snapshot of it has its received UUID, too.
        staged = self.place.stage.at(basename(site.destination))
        copies = replace(self.place.stage, path=site.folder_in(staged))
        self._snapshot(self.place.stage.at(name), staged, readonly=False)
        copies.create()
        # They would look like snapshots that are no subvolumes.
        self.host.run(filetools.remove_stubs(copies.path), f"cannot clear the folder '{copies.path}'")
        self._snapshot(self.place.stage.at(name), copies.at(name))
        self._verify(copies)
        self._placing = True
        # Into the folder, not onto the name: mv refuses when something of that name has come there in the meantime.
        self.host.run(("mv", "--", staged, dirname(site.destination)), f"cannot move '{staged}' to its place")
        # Snapshots write out what they are taken of; this does it for the move.
        replace(self.place.stage, path=site.destination).write_out()

    def _receive(self) -> None:
        """Bring the backup into the stage. Raises Failure unless it is complete there."""
        name, stage = self.plan.name, self.place.stage
        done = self._stream()
        if self.plan.parent and parent_is_to_blame(failed := done.endings[0].failure):
            log.warning("%s: restoring %s failed: %s\n  Sending it in full.", self.place.location, name, failed)
            for failure in stage.delete([name]).values():
                raise failure
            self.plan = replace(self.plan, parent=None)
            done = self._stream()
        [ending] = done.endings
        if failed := ending.failure or ending.unwritten:
            in_full = "With '-I' it is sent in full." if self.plan.parent else ""
            raise Failure(f"restoring {name} failed: {failed.message}", failed.hint or in_full)
        if wrong := inventory.arrived(stage.show(name), self.backup.chosen, bool(self.plan.parent)):
            raise Failure(f"{name} has arrived, but {wrong}", "Nothing of it is kept. Try again, in full with '-I'.")
        [streamed] = done.streams
        self._report(sent=Sent(name, self.plan.parent, streamed.bytes, streamed.seconds))
        log.info("%s: received %s: %s", self.place.location, name, pace(streamed.bytes, streamed.seconds))

    def _stream(self) -> Transferred:
        """Raises Failure when a command cannot be started."""
        compressed_data = self._compressed_data()
        sender = self.streaming.sender(
            self.backup.folder, self.plan.name, self.plan.parent, [self.report.destination], compressed_data
        )
        how, stage = self.streaming.sending(self.host, compressed_data), self.place.stage
        return self.streaming.transfer([sender], [Receiver(stage.receiver(how), stage.writing_out)])

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
            if examine(self.host, site.stage).exists:
                self.place.clear_stage()
            if not (site.inside or self.plan.there or self.report.done):
                for failure in self.place.folder.delete([name]).values():
                    raise failure
        except Failure as failure:
            log.warning(
                "%s: '%s' could not be removed; the next try does it: %s", self.place.location, site.stage, failure
            )

    def _clear_up(self) -> None:
        try:
            if not self.plan.there:
                self.place.clear_stage()
        except Failure as failure:
            self._report(failures=(*self.report.failures, failure))
            log.error("%s: %s", self.place.location, failure)


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
