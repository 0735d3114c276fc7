"""What one invocation was asked to do."""

from dataclasses import dataclass
from datetime import timedelta
from posixpath import join

from btrfs_backup.model.location import Location, normalise
from btrfs_backup.model.retention import Policy
from btrfs_backup.model.snapshot import Naming


@dataclass(frozen=True)
class Settings:
    source: Location
    destinations: tuple[Location, ...]
    snapshot_folder: str
    naming: Naming
    keep_snapshots: Policy
    keep_backups: Policy
    take_snapshot: bool
    transfer: bool
    incremental: bool
    sync: bool
    convert_rw: bool
    remove_locks: bool
    locked_dests: bool
    adopt: bool
    skip_absent: bool
    lock_wait: float  # seconds
    fs_checks: bool
    verbosity: str
    progress: bool
    btrfs_debug: bool
    ssh_options: tuple[str, ...]
    ssh_sudo: bool
    shared_stream: bool
    compressed_data: bool
    compress: str  # a method of system.compression, or "no"
    rate_limit: int  # bytes a second for each stream; 0: none
    dry_run: bool
    status: bool  # instead of a backup
    max_age: timedelta | None  # of the newest complete backup at each destination
    json: bool
    restore: bool  # instead of a backup: the one DEST is to be made of the backup SOURCE
    verify: str  # instead of a backup: which backups to compare with their snapshots, "newest" or "all"; or ""

    @property
    def folder_path(self) -> str:
        """The snapshot folder as an absolute path on the source's host."""
        return normalise(join(self.source.path, self.snapshot_folder))
