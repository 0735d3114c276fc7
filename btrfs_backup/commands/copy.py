"""Copy a folder of backups, with their history, to other places. The folder is not written to, and nothing is recorded.

It is a run whose snapshots are those backups. What is sent has their received UUIDs, so the copies are backups of the
same source, and may go on as such.
"""

import logging
from contextlib import ExitStack
from dataclasses import replace

from btrfs_backup.commands.run import Real, Supposed, open_source
from btrfs_backup.errors import Failure
from btrfs_backup.model import inventory, records, world
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.world import Listed, World
from btrfs_backup.system import transfer

log = logging.getLogger(__name__)


class Copy(Real):
    """Carries out a copy."""

    def __init__(self, settings: Settings, scope: ExitStack) -> None:
        super().__init__(replace(settings, take_snapshot=False, snapshot_folder="."), scope)

    def begin(self) -> World:
        self._source = open_source(self.settings, self._hosts)
        entries = frozenset(self._source.folder.names())
        found = world.begin(self.settings, self._clock(), entries, records.NONE)
        return replace(found, most=transfer.most_receivers())

    def save(self, known: Records) -> Failure | None:
        return None

    def _list(self) -> Listed | Failure:
        try:
            held = self._source.folder.inventory(self.settings.naming)
        except Failure as failure:
            return failure
        backups = inventory.backups(held, {})
        for name, why in backups.foreign.items():
            log.warning("%s: %s is not copied: %s", self.settings.source, name, why)
        if not backups.complete:
            hint = "A folder of backups is meant; '-p' tells what their names begin with."
            return Failure(f"there is no complete backup in '{self.settings.source}'", hint)
        return Listed(Subvolume("", ""), replace(held, subvolumes=backups.complete, others=frozenset(), stages=()))


class SupposedCopy(Copy, Supposed):
    """Looks like Copy, and supposes of everything else that it went well: a dry run."""
