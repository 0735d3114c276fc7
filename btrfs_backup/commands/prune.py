"""Delete what retention lets go."""

import logging

from btrfs_backup.commands.visit import fail
from btrfs_backup.errors import Failure
from btrfs_backup.model import retention
from btrfs_backup.model.settings import Settings
from btrfs_backup.report.outcome import Tally
from btrfs_backup.report.text import plural
from btrfs_backup.system.folder import Folder

log = logging.getLogger(__name__)


def prune(folder: Folder, tally: Tally, verdict: retention.Verdict, settings: Settings) -> None:
    """Carry out VERDICT in FOLDER, and write down in TALLY what came of it; failures, too."""
    for kept in verdict.kept:
        log.debug("%s: keeping %s: %s", tally.place, kept.name, ", ".join(kept.because))
    failures = folder.delete(verdict.dropped, settings.convert_rw)
    tally.deleted = [name for name in verdict.dropped if name not in failures]
    tally.kept = {kept.name: list(kept.because) for kept in verdict.kept} | {name: [] for name in failures}
    if tally.deleted:
        log.info("%s: deleted %s", tally.place, ", ".join(tally.deleted))
        _sync(folder, tally, settings)
    for failure in dict.fromkeys(failures.values()):
        count = sum(1 for each in failures.values() if each is failure)
        message = f"{plural(count, 'deletion')} failed: {failure.message}"
        fail(tally, Failure(message, failure.hint, failure.brief))


def _sync(folder: Folder, tally: Tally, settings: Settings) -> None:
    try:
        if settings.sync:
            folder.sync()
    except Failure as failure:
        fail(tally, failure)
