"""What changed from one snapshot or backup to another. Changes nothing."""

import os
from collections.abc import Callable

from btrfs_backup.errors import Failure
from btrfs_backup.model.changes import Changes, Comparison
from btrfs_backup.model.sendstream import BrokenStream
from btrfs_backup.model.settings import Settings
from btrfs_backup.report import terminal
from btrfs_backup.system import btrfs
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.process import Children, Command, CommandFailed
from btrfs_backup.system.ssh import Access


def diff(settings: Settings, publish: Callable[[Changes], None]) -> None:
    """Compare the two that SETTINGS name, and PUBLISH what changed. Raises Failure."""
    old, [new] = settings.source, settings.destinations
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        host = hosts.at(old)
        paths = (old.path, new.path)
        for path, shown in zip(paths, host.ended_together(*map(btrfs.show, paths)), strict=True):
            if shown.status:
                raise CommandFailed(shown, f"cannot look at '{path}'")
            if not btrfs.parse_show(os.fsdecode(shown.stdout)).readonly:
                raise Failure(f"'{path}' is writable, and may change meanwhile", "Compare snapshots or backups.")
        comparison = Comparison()
        try:
            _read(host.command(btrfs.send(new.path, old.path, data=False)), comparison, settings)
            publish(Changes(old.identity, new.identity, comparison.finish()))
        except BrokenStream as error:
            what = f"cannot understand what 'btrfs send' printed of the changes: {error}"
            raise Failure(what, btrfs.DOUBT) from None
        finally:
            terminal.clear()


def _read(command: Command, comparison: Comparison, settings: Settings) -> None:
    """Raises Failure, BrokenStream."""
    shown = settings.progress and terminal.possible()
    with open(os.devnull, "rb") as nothing, Children() as children:
        child = children.start(command, nothing.fileno(), capture=comparison.feed)
        children.wait(
            [child], (lambda: terminal.show(f"comparing, {comparison.count} files and folders")) if shown else None
        )
        if child.ended.status:
            raise CommandFailed(child.ended, "cannot compare them")
