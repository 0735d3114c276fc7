"""The places of a restore, as they are found: that of the backup, and that of the subvolume which is made of it."""

import itertools
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from posixpath import basename, dirname, join

from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.model import cutter, inventory, restoration
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.location import Location
from btrfs_backup.model.restoration import Plan, Site
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume, is_backup_name
from btrfs_backup.model.stage import Stage
from btrfs_backup.system import lock, stages, state
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host
from btrfs_backup.system.paths import PathInfo, examine

log = logging.getLogger(__name__)

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
    naming = restoration.naming_of(wanted, settings.naming) if wanted else settings.naming
    if wanted:
        standing = examine(host, dirname(standing.path))
    folder = Folder(host, standing.path, standing)
    entries = folder.names()
    held = folder.inventory(naming)
    if not held.names:
        raise restoration.no_backups(folder.path, naming, entries)
    own = not state.NAMES.isdisjoint(entries)
    beside = restoration.restorable(held, snapshots=own or bool(wanted))
    now = datetime.now()
    chosen = restoration.choose(beside, wanted, folder.path, naming, now)
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
            "Is the disk mounted? Stored streams are restored with 'btrfs receive': see '--manual restore'.",
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
    def takes_compressed_data(self) -> bool:
        """Whether it can read send protocol 2. Raises Failure."""
        return self.host.can_receive_compressed_data

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

    def held(self, parent: str, backup: Backup) -> Subvolume:
        """The PARENT here: in the folder of copies, or the backup itself. Raises Failure."""
        return backup.chosen if parent == backup.chosen.name else self.folder.show(parent)

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
        names = (f"{path}.old{number or ''}" for number in itertools.chain([0], itertools.count(2)))
        away = next(name for name in names if not examine(self.host, name).exists)
        what_to_do = f"Move it away: {self.host.typed('mv', path, away)}"
        if f"{source.path}/".startswith(f"{path}/") and replace(source, path=path) == self.location:
            moved = replace(source, path=away + source.path[len(path) :])
            what_to_do += f"\n  The backup is then {shlex.quote(moved.identity)}"
        raise Failure(f"the destination '{self.location}' exists, and nothing is overwritten", what_to_do)


def find_place(settings: Settings, host: Host, location: Location) -> Place:
    """Where the destination and the copies are to be. Creates nothing. Raises Failure."""
    existing = examine(host, location.path)
    if existing.exists and existing.mount.point == existing.path:
        raise Failure(
            f"the destination '{location}' exists: it is a mount point",
            "Mount the top of its filesystem elsewhere, and restore to a new name there:\n"
            f"  {host.typed('mount', '-o', 'subvolid=5', 'DEVICE', '/mnt')}",
        )
    site = restoration.site(location.path, settings.snapshot_folder)
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


def plan(settings: Settings, backup: Backup, place: Place) -> Plan:
    """What has to be done to bring BACKUP to PLACE. Changes nothing. Raises Failure when it cannot be done."""
    held = Holdings()
    if place.site.inside:
        _check_way(backup, place.site)
    elif not place.missing:
        held = _believed(backup, place.folder, inventory.snapshots(place.folder.inventory(backup.naming)))
    # Whether a receiver there can build upon the backup itself.
    here, there = place.standing, backup.folder.info
    visible = backup.folder.host == place.host and _same_filesystem(place.host, there, here)
    visible = visible and here.mount.shows(there.mount.inside(backup.path))
    return restoration.decide(backup.chosen, backup.beside.complete, place.site, held, visible, settings.incremental)


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


def resumed(left: Sequence[Stage], backup: Backup, place: Place, plan: Plan) -> Stage | None:
    """The stage among those LEFT that the restore can go on with. Raises Failure."""
    for each in [] if plan.there else left:
        known = cutter.checkpoints(each.subvolumes, backup.far)
        if known and not each.foreign:
            origin = cutter.beginning(each.subvolumes, known[-1])
            wanted = place.held(plan.parent, backup).uuid if plan.parent else ""
            return each if origin == wanted else None
    return None
