"""Measure how much space snapshots and backups take up. Changes nothing."""

import os
from collections.abc import Callable, Collection, Sequence

from btrfs_backup.model.settings import Settings
from btrfs_backup.model.sizes import Extents, Sizes, start
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.world import Weigh
from btrfs_backup.report import terminal
from btrfs_backup.system import btrfs, extents, signals
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.process import lacking

Show = Callable[[str], None]
_MANY = 1000  # extents between two looks at the terminal


def measure(there: Folder, step: Weigh, settings: Settings) -> Sizes:
    """The sizes of what STEP names in the folder THERE. Raises Failure."""
    shown = settings.progress and terminal.possible()
    show = terminal.show if shown else lambda line: None
    held, going = step.subvolumes, step.going
    try:
        if not held:
            return Sizes()
        if there.host.connection:
            return _there(there, held, going, show)
        with lacking(f"cannot read which data is shared in '{there.path}'"):
            return _here(there, held, going, show)
    finally:
        terminal.clear()


def _here(there: Folder, held: Sequence[Subvolume], going: Collection[str], show: Show) -> Sizes:
    """By the extents of all of them, less those that something else on the filesystem holds. Raises OSError."""
    names = {each.id: each.name for each in held}
    found = Extents([each.id for each in held if each.name in going])
    descriptor = os.open(there.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, name in names.items():
            for some in extents.of(descriptor, number):
                signals.check()
                found.add(number, some)
                show(f"measuring, {len(found)} extents: {there.at(name)}")
        others = extents.subvolumes(descriptor) - names.keys()
        for count, each in enumerate(found.candidates()):
            if count % _MANY == 0:
                signals.check()
                show(f"measuring, {count} of {len(found)} extents: {there.path}")
            holders = extents.holders(descriptor, start(each))
            if holders is None or not others.isdisjoint(holders):
                found.keep(each)
    finally:
        os.close(descriptor)
    return found.sizes(names)


def _there(there: Folder, held: Sequence[Subvolume], going: Collection[str], show: Show) -> Sizes:
    """By what btrfs tells of each on another machine. Raises Failure."""
    alone = {}
    for number, each in enumerate(held, 1):
        path = there.at(each.name)
        show(f"measuring {number} of {len(held)}: {path}")
        alone[each.name] = btrfs.parse_du(there.host.run(btrfs.du(path), f"cannot measure '{path}'"))
    freed = sum(alone[name] for name in alone if name in going)
    return Sizes(alone, sum(name in going for name in alone), freed, more=True, more_freed=True)
