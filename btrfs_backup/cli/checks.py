"""What cannot be asked for, or not together. Pure."""

import re
from collections.abc import Sequence
from dataclasses import replace
from posixpath import basename

from btrfs_backup.errors import UsageError
from btrfs_backup.model import retention
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import is_backup_name

RESTORE_EXAMPLE = "btrfs-backup --restore /mnt/usb/home /home"


def check_words(locations: Sequence[str], policy: bool, verify: bool) -> None:
    """Raises UsageError when one of LOCATIONS, as they were typed, was hardly meant as one.

    policy, verify: whether options that it may belong to were given. A number alone may be a folder.
    """
    for word in locations:
        if policy and re.fullmatch("[0-9]+[hdwmy],?", word):
            raise UsageError(
                f"'{word}' is taken for a SOURCE or DEST, and looks like a part of KEEP",
                f"""Put KEEP in quotes, as in -n "7d 4w". For a local folder of that name write './{word}'.""",
            )
        if verify and word == "all":
            raise UsageError(
                "'all' is taken for a SOURCE or DEST behind '--verify'",
                "Write '--verify=all'. For a local folder of that name write './all'.",
            )


def check(settings: Settings) -> None:
    """Raises UsageError when what was asked for makes no sense."""
    if not settings.snapshot_folder:
        raise UsageError("the snapshot folder is empty", "Give '-f' a name or an absolute path.")
    if settings.source.scheme is Scheme.SHELL:
        raise UsageError(
            "SOURCE cannot be a shell command",
            "'btrfs receive' restores stored streams, as the README explains."
            if settings.restore
            else "A subvolume is meant: its path, or ssh://[USER@]HOST[:PORT]/PATH.",
        )
    _check_task(settings)
    if settings.restore:
        _check_restore(settings)
        return
    if settings.verify:
        _check_verification(settings)
    if settings.remove_locks and not settings.destinations and not settings.locked_dests:
        raise UsageError("'--remove-locks' needs a DEST", "Name those whose records are to be dropped.")
    folder = replace(settings.source, path=settings.folder_path)
    for destination in settings.destinations:
        if destination == folder:
            raise UsageError(
                f"the destination '{destination}' is the snapshot folder of the source",
                "Backups belong in a folder of their own, best on another disk.",
            )
        if destination == settings.source:
            raise UsageError(
                f"the destination '{destination}' is the source itself",
                "Backups belong in a folder of their own, best on another disk.",
            )


def _check_task(settings: Settings) -> None:
    """Each of these does something of its own."""
    tasks = {"--status": settings.status, "--verify": bool(settings.verify), "--restore": settings.restore}
    given = [f"'{option}'" for option, wanted in tasks.items() if wanted]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be used together", "Run one after the other.")
    if settings.dry_run and (settings.status or settings.verify):
        raise UsageError(f"{given[0]} changes nothing anyway", "Leave out '--dry-run'.")
    if settings.max_age is not None and not settings.status:
        raise UsageError("'--max-age' belongs to '--status'", "Add '--status', or leave it out.")


def _check_restore(settings: Settings) -> None:
    if len(settings.destinations) != 1:
        which = "several are" if settings.destinations else "none is"
        raise UsageError(f"'--restore' makes one subvolume DEST, and {which} given", f"Example: {RESTORE_EXAMPLE}")
    pointless = {
        "-N": settings.keep_snapshots != retention.KEEP_ALL,
        "-n": settings.keep_backups != retention.KEEP_ALL,
        "-S": not settings.take_snapshot,
        "-T": not settings.transfer,
        "--locked-dests": settings.locked_dests,
        "--remove-locks": settings.remove_locks,
        "--skip-absent-dests": settings.skip_absent,
    }
    if given := [f"'{option}'" for option, is_given in pointless.items() if is_given]:
        raise UsageError(
            f"{', '.join(given)} cannot be used with '--restore'",
            "Leave it out: nothing is taken or pruned.",
        )
    [destination] = settings.destinations
    if destination.scheme is Scheme.SHELL:
        raise UsageError("DEST cannot be a shell command with '--restore'", "It is the subvolume to create.")
    if destination.path == "/":
        raise UsageError(
            "the root folder of a running system cannot be made anew",
            "Start a rescue system, mount the disk there and restore to it; the README tells how.",
        )
    if is_backup_name(basename(destination.path)):
        raise UsageError(
            f"the name of DEST, '{basename(destination.path)}', is one of a snapshot",
            "A writable subvolume of such a name looks like a backup that was cut off. Choose another name.",
        )


def _check_verification(settings: Settings) -> None:
    if settings.remove_locks:
        raise UsageError("'--verify' changes nothing, and '--remove-locks' does", "Use one after the other.")
    if not settings.destinations:
        raise UsageError("'--verify' needs a DEST", "Name those whose backups are to be compared with their snapshots.")
    if all(each.scheme is Scheme.SHELL for each in settings.destinations):
        raise UsageError(
            "a shell command cannot be verified",
            "What it did with the streams cannot be read; each stream was checked on its way to it.",
        )
