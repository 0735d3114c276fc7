"""What one invocation was asked to do; the defaults are those of the command line."""

from dataclasses import dataclass
from datetime import timedelta
from posixpath import join

from btrfs_backup.model.location import Location, Scheme, normalise, overwrites_itself
from btrfs_backup.model.retention import KEEP_ALL, Policy
from btrfs_backup.model.snapshot import Naming, inside

_UNPREFIXED = Naming()


@dataclass(frozen=True)
class Settings:
    """The request of one invocation."""

    source: Location
    destinations: tuple[Location, ...] = ()
    snapshot_folder: str = "snapshot"
    naming: Naming = _UNPREFIXED
    keep_snapshots: Policy = KEEP_ALL
    keep_backups: Policy = KEEP_ALL
    take_snapshot: bool = True
    transfer: bool = True
    incremental: bool = True
    sync: bool = False
    convert_rw: bool = False
    remove_locks: bool = False
    locked_dests: bool = False
    adopt: bool = False  # backups that cannot be proved to be of this source
    skip_absent: bool = False
    lock_wait: float = 0.0  # seconds
    fs_checks: bool = True
    verbosity: str = "info"
    progress: bool = True
    btrfs_debug: bool = False
    ssh_options: tuple[str, ...] = ()
    ssh_sudo: bool = False
    shared_stream: bool = True
    compressed_data: bool = True
    compress: str = "no"  # a method of system.compression, or "no"
    rate_limit: int = 0  # bytes a second for each stream; 0: none
    dry_run: bool = False
    status: bool = False  # instead of a backup
    sizes: bool = False  # with status or dry_run: how much space each snapshot and backup takes up
    max_age: timedelta | None = None  # of the newest complete backup at each destination
    json: bool = False
    restore: bool = False  # instead of a backup: the one DEST is to be made of the backup SOURCE
    diff: bool = False  # instead of a backup: what changed from the snapshot or backup SOURCE to the one DEST
    find: str = ""  # instead of a backup: the path of a file or folder, of which versions are looked for; or ""
    copy: bool = False  # instead of a backup: the backups in the folder SOURCE are to be copied
    prune: bool = False  # instead of a backup: the backups in the folder SOURCE
    serve: bool = False  # instead of a backup: a client of the folder SOURCE
    verify: str = ""  # instead of a backup: which backups to compare with their snapshots, "newest" or "all"; or ""

    @property
    def restores_inside(self) -> bool:
        """Whether one file or folder of a backup is to be brought back."""
        return self.restore and bool(inside(self.source.path))

    @property
    def far(self) -> bool:
        """Whether the source is on another machine."""
        return self.source.scheme is Scheme.SSH

    @property
    def folder_path(self) -> str:
        """The snapshot folder as an absolute path on the source's host."""
        return normalise(join(self.source.path, self.snapshot_folder))

    def overwrites(self, destination: Location) -> bool:
        """Whether what DESTINATION gets takes the place of what it builds upon."""
        return self.incremental and overwrites_itself(destination.command)
