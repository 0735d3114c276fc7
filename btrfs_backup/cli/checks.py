"""What cannot be asked for, or not together. Pure."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from posixpath import basename

from btrfs_backup.cli.argfiles import Written
from btrfs_backup.errors import UsageError
from btrfs_backup.model import retention
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import is_backup_name

RESTORE_EXAMPLE = "btrfs-backup --restore /mnt/usb/home /home"
COPY_EXAMPLE = "btrfs-backup --copy /mnt/usb/home /mnt/new/home"
DIFF_EXAMPLE = "btrfs-backup --diff /mnt/usb/home/20261123-042459 /mnt/usb/home/20261124-042501"


# Other names of options, which are not like ours.
_OTHER_NAMES = {"-V": "--version", "--keep": "--num-backups", "--bwlimit": "--rate-limit", "list": "--status"}

_ALONE = "It stands alone in its line, a comment too. For what is really called so use the command line."
# What is hardly a value or a location in a file: a pattern, what it looks like, and what to do.
_ODD_IN_FILES = (
    ("[\"'].*", "begins with a quote, which would be a part of it", "Files need no quotes: leave them out."),
    (r"(.*\s)?#.*", "seems to hold a comment", _ALONE),
    (r".*\s(/|~|@|-\S|ssh://|shell://).*", "seems to hold several things", _ALONE),
    (r"~[\w.-]*(/.*)?|.*\$[\w{(].*", "needs a shell, which replaces '~' and '$'", "Write in full what is meant."),
)


def near_option(unknown: str, options: Iterable[str]) -> str:
    """The one of OPTIONS that was perhaps meant by an UNKNOWN one, or nothing."""
    from difflib import get_close_matches

    word = unknown.partition("=")[0]
    name = word.lstrip("-").replace("_", "-").lower()
    names = [option[2:] for option in options if option.startswith("--")]
    begun = [each for each in names if len(name) > 1 and each.startswith(name)]
    near = begun or get_close_matches(name, names, 1) or [each for each in names if len(name) > 3 and name in each]
    return _OTHER_NAMES.get(word) or (f"--{near[0]}" if near else "")


def check_value(option: str, value: str = "") -> None:
    """Raises UsageError when the VALUE of an OPTION, as a line of a file has it, was hardly meant as it is."""
    option, _, joined = option.partition("=")
    if option != "--ssh-opt" and (odd := _first(value or joined, _ODD_IN_FILES)):
        raise UsageError(f"'{value or joined}' is taken for the value of '{option}', and {odd[0]}", odd[1])


def check_words(
    words: Sequence[str], policy: bool, verify: bool, options: Iterable[str], exists: Callable[[str], bool]
) -> None:
    """Raises UsageError when one of WORDS, which are to be SOURCE and each DEST, was hardly meant as one.

    policy, verify: whether options that it may belong to were given. A number alone may be a folder.
    """
    for number, word in enumerate(words):
        odd = [(r"~[\w.-]*(/.*)?", "begins with '~', which only a shell replaces", "Write the whole path.")]
        if policy:
            odd.append(("[0-9]+[hdwmy],?", "looks like a part of KEEP", 'Put KEEP in quotes, as in -n "7d 4w".'))
        if verify:
            odd.append(("all", "stands behind '--verify'", "Write '--verify=all'."))
        odd_unless_there: list[tuple[str, str, str]] = []
        if number == 0 or isinstance(word, Written):
            key = re.split(r"[\s=:]", word)[0]
            option = _OTHER_NAMES.get(key, f"--{key.replace('_', '-')}")
            pattern = r"[\w-]+(\s*=|\s*:(?!/)|\s|$).*" if isinstance(word, Written) else r"[\w-]+"
            if option in options:
                odd_unless_there.append((pattern, "looks like an option", f"Is '{option}' meant?"))
            odd_unless_there.append(("backup|run|create", "looks like a command", "Leave it out: a backup needs none."))
        in_file = _ODD_IN_FILES if isinstance(word, Written) and not word.startswith("shell://") else ()
        if in_file:
            setting = "An option begins with dashes, a SOURCE or DEST stands alone in its line."
            odd_unless_there.append((r"[\w-]+\s*(=|:(?!/)).*|[;\[].*", "looks like a setting", setting))
        found = _first(word, odd) or _first(word, (*odd_unless_there, *in_file))
        if found and (_first(word, odd) or not exists(word)):
            own = "" if _first(word, in_file) else f" For a local folder of that name write './{word}'."
            raise UsageError(f"'{word}' is taken for a SOURCE or DEST, and {found[0]}", f"{found[1]}{own}")


def _first(text: str, table: Iterable[tuple[str, str, str]]) -> tuple[str, str] | None:
    """What TABLE says about TEXT: what the first pattern that it matches means, and what to do."""
    return next(((what, hint) for pattern, what, hint in table if re.fullmatch(pattern, text, re.DOTALL)), None)


def warnings(settings: Settings) -> list[str]:
    """What is odd in what was asked for, and is done all the same."""
    sent = [] if settings.status or settings.verify or not settings.transfer else settings.destinations
    advice = "put $BTRFS_BACKUP_SNAPSHOT into the name, and the whole argument in single quotes"
    return [f"{each}: each stream overwrites the one before: {advice}" for each in sent if settings.overwrites(each)]


def check(settings: Settings) -> None:
    """Raises UsageError when what was asked for makes no sense."""
    if not settings.snapshot_folder:
        raise UsageError("the snapshot folder '' is empty", "Give '-f' a name or an absolute path.")
    if settings.source.scheme is Scheme.SHELL:
        raise UsageError(
            f"SOURCE cannot be a shell command, as '{settings.source}' is",
            "'btrfs receive' restores stored streams: see '--manual restore'."
            if settings.restore
            else "A subvolume is meant: its path, or ssh://[USER@]HOST[:PORT]/PATH.",
        )
    _check_task(settings)
    if settings.serve or settings.prune:
        _check_keeper(settings, "--serve" if settings.serve else "--prune")
        return
    if settings.restore or settings.diff:
        _check_unused(settings, "--restore" if settings.restore else "--diff")
        _check_restore(settings) if settings.restore else _check_diff(settings)
        return
    if settings.verify:
        _check_verification(settings)
    if settings.copy:
        _check_unused(settings, "--copy")
        strange = [each for each in settings.destinations if each.scheme is Scheme.SHELL]
        if strange or not settings.destinations:
            which = f"not '{strange[0]}'" if strange else "and none is given"
            raise UsageError(f"'--copy' needs folders to copy to, {which}", f"Example: {COPY_EXAMPLE}")
    if settings.find:
        from btrfs_backup.model.versions import Wanted

        Wanted.read(settings.find, settings.source.path)
        _check_unused(settings, "--find")
    if settings.remove_locks and not settings.destinations and not settings.locked_dests:
        raise UsageError("'--remove-locks' needs a DEST", "Name those whose records are to be dropped.")
    folder = replace(settings.source, path=settings.folder_path)
    for destination in settings.destinations:
        if destination in (folder, settings.source):
            what = "the snapshot folder of the source" if destination == folder else "the source itself"
            raise UsageError(
                f"the destination '{destination}' is {what}",
                "Backups belong in a folder of their own, best on another disk.",
            )


def _check_task(settings: Settings) -> None:
    """Each of these does something of its own."""
    tasks = {"--status": settings.status, "--verify": bool(settings.verify), "--restore": settings.restore}
    tasks |= {"--prune": settings.prune, "--serve": settings.serve, "--diff": settings.diff}
    tasks |= {"--find": bool(settings.find), "--copy": settings.copy and not settings.verify}
    given = [f"'{option}'" for option, wanted in tasks.items() if wanted]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be used together", "Run one after the other.")
    if settings.dry_run and (settings.status or settings.verify or settings.diff or settings.find):
        raise UsageError(f"{given[0]} changes nothing anyway", "Leave out '--dry-run'.")
    if settings.max_age is not None and not settings.status:
        raise UsageError("'--max-age' belongs to '--status'", "Add '--status', or leave it out.")
    if settings.sizes and not (settings.status or (settings.dry_run and not given)):
        what = "'--sizes' belongs to '--status', or to the '--dry-run' of a backup"
        raise UsageError(what, "Add one of these, or leave it out.")


def _check_keeper(settings: Settings, option: str) -> None:
    """It works on one folder of backups on this machine."""
    if settings.source.scheme is not Scheme.LOCAL or settings.destinations:
        strange = [each for each in (settings.source, *settings.destinations) if each.scheme is not Scheme.LOCAL]
        which = f"not '{(strange or settings.destinations)[0]}'"
        raise UsageError(f"'{option}' takes one folder on this machine, {which}", "Run it where the backups are kept.")
    if settings.prune and settings.keep_backups == retention.KEEP_ALL:
        raise UsageError(
            "'--prune' needs to know what to keep", "Example: btrfs-backup --prune -n '7d 4w 12m' /srv/laptop"
        )


def _check_unused(settings: Settings, task: str) -> None:
    """What concerns backups alone."""
    pointless = {
        "-N": settings.keep_snapshots != retention.KEEP_ALL,
        "-n": settings.keep_backups != retention.KEEP_ALL and task != "--copy",
        "-S": not settings.take_snapshot,
        "-T": not settings.transfer,
        "--locked-dests": settings.locked_dests,
        "--remove-locks": settings.remove_locks,
        "--skip-absent-dests": settings.skip_absent and task not in ("--find", "--copy"),
        "-f": settings.snapshot_folder != "snapshot" and task == "--copy",
    }
    if given := [f"'{option}'" for option, is_given in pointless.items() if is_given]:
        raise UsageError(
            f"{', '.join(given)} cannot be used with '{task}'",
            "Leave it out: nothing is taken or pruned.",
        )


def _check_diff(settings: Settings) -> None:
    if len(settings.destinations) != 1:
        which = "more are" if settings.destinations else "one is"
        raise UsageError(f"'--diff' compares two snapshots or backups, and {which} given", f"Example: {DIFF_EXAMPLE}")
    old, [new] = settings.source, settings.destinations
    if old == new:
        raise UsageError(f"'{old}' is given twice", "'--diff' compares two snapshots or backups.")
    if replace(new, path=old.path) != old:
        raise UsageError(
            f"'{old}' and '{new}' are not on one machine",
            "'--diff' compares two that are; '--verify' compares a backup with its snapshot.",
        )


def _check_restore(settings: Settings) -> None:
    if len(settings.destinations) != 1:
        which = "several are" if settings.destinations else "none is"
        raise UsageError(f"'--restore' makes one subvolume DEST, and {which} given", f"Example: {RESTORE_EXAMPLE}")
    [destination] = settings.destinations
    if destination.scheme is Scheme.SHELL:
        raise UsageError(
            f"DEST cannot be a shell command with '--restore', as '{destination}' is", "It is the subvolume to create."
        )
    if settings.restores_inside:
        return
    if destination.path == "/":
        raise UsageError(
            f"'{destination}', the root folder of a running system, cannot be replaced",
            "Start a rescue system, mount the disk there and restore to it: see '--manual restore'.",
        )
    if is_backup_name(basename(destination.path)):
        raise UsageError(
            f"the name of '{destination}' is one of a snapshot",
            "A writable subvolume of such a name looks like a backup that was cut off. Choose another name.",
        )


def _check_verification(settings: Settings) -> None:
    if settings.remove_locks:
        raise UsageError("'--verify' changes nothing, and '--remove-locks' does", "Use one after the other.")
    if not settings.destinations:
        raise UsageError("'--verify' needs a DEST", "Name those whose backups are to be compared with their snapshots.")
    if all(each.scheme is Scheme.SHELL for each in settings.destinations):
        raise UsageError(
            "'--verify' cannot verify a shell command",
            "What it did with the streams cannot be read; each stream was checked on its way to it.",
        )
