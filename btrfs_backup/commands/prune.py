"""Retention in a folder of backups without their source, judged by when each one arrived there.

Names tell what the source says. Who forges them evicts nothing.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from btrfs_backup.commands import destination
from btrfs_backup.errors import Failure
from btrfs_backup.model import inventory, retention
from btrfs_backup.model.outcome import Outcome, Report
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.system import folder
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host

log = logging.getLogger(__name__)

_AHEAD = timedelta(hours=1)


def prune(settings: Settings, publish: Callable[[Report], None]) -> None:
    """Delete the backups that are not to be kept, and PUBLISH what came of it. Raises Failure when nothing is done."""
    place, now = settings.source.identity, datetime.now()
    there = destination.keeping(Host(), settings.source)
    held = inventory.backups(there.inventory(settings.naming), {})
    for name, why in held.foreign.items():
        log.info("%s: leaving %s alone: %s", place, name, why)
    arrived = {name: _arrived(there, each) for name, each in held.complete.items()}
    order = sorted(arrived, key=lambda name: (arrived[name], held.complete[name].made_transid or 0, name))
    ahead = [name for name in order if arrived[name] - now > _AHEAD]
    alive = {name: (f"being received by {holder}",) for name, holder in held.under_way.items()}
    times = {name: arrived[name] for name in order}
    verdict = retention.decide_by_time(settings.keep_backups, times, ahead, alive)
    failures: dict[str, Failure] = {}
    if verdict.dropped and not settings.dry_run:
        done = destination.delete(there, [held.complete[name] for name in verdict.dropped], settings)
        failures = {**done.failures, **({"": done.unfinished} if done.unfinished else {})}
    for failure in dict.fromkeys(failures.values()):
        log.error("%s: %s", place, failure)
    gone = tuple(name for name in verdict.dropped if name not in failures)
    if gone and not settings.dry_run:
        log.info("%s: deleted %s", place, ", ".join(gone))
    kept = {each.name: each.because for each in verdict.kept} | {
        name: () for name in verdict.dropped if name in failures
    }
    told = tuple(dict.fromkeys(failures.values()))
    publish(Report(Outcome(place, deleted=gone, kept=kept, failures=told)))


def _arrived(there: Folder, backup: Subvolume) -> datetime:
    """When BACKUP was published. Raises Failure when that is not known."""
    uuid, made = folder.made_at(there.at(backup.name))
    if uuid != backup.uuid:
        raise Failure(f"another subvolume has the name '{there.at(backup.name)}' by now", "Run it again.")
    return datetime.fromtimestamp(made)
