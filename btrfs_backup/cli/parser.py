"""The command line: argv -> Settings, and every option with its help."""

import argparse
import codecs
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import timedelta
from itertools import groupby
from os.path import join, lexists
from typing import Any, NoReturn

from btrfs_backup import __version__
from btrfs_backup.cli import argfiles, checks, helptext, manual
from btrfs_backup.errors import UsageError
from btrfs_backup.model import location, retention
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming

LONGEST_PREFIX = 170  # bytes; the stage of a backup has a longer name (see model.stage), which has 255 at most

_DESCRIPTION = """\
Takes a read-only snapshot of the btrfs subvolume SOURCE, sends it and every other snapshot that is missing to each
DEST (incrementally where possible), and deletes the snapshots and backups that are not to be kept. A transfer that
fails is recorded: its snapshot is not deleted, and the next run with that DEST sends it.
"""

_EPILOG = """\
KEEP is a number (the latest so many), or a policy such as "3 24h 7d 4w 12m 5y": the latest 3, and the newest of each
of the last 24 hours, 7 days, 4 weeks, 12 months and 5 years that have any. 'all' or 0 keeps everything. The newest
one is never deleted.

@FILE stands for the arguments in FILE: in each line one option with its value, or one SOURCE or DEST. Values are
taken as they are: without quotes, and '~' and '$HOME' mean nothing. Options are not abbreviated. Blank lines and lines
that begin with # do not count. @OTHER includes another file, relative to the folder of FILE; every other relative path
starts at the current folder, as on the command line.

exit status: 0 all done; 1 nothing could be done; 2 wrong usage; 3 another run works on the same snapshot folder;
10 something failed (a destination, a deletion, the state file) or differs; 128+N ended by signal N.

examples:
  btrfs-backup /home /mnt/usb/home
  btrfs-backup -N 5 -n "7d 4w 12m" -p home- /home /mnt/usb ssh://root@nas/home
  btrfs-backup ssh://root@server/srv /mnt/usb/server
  btrfs-backup --restore /mnt/usb/home /home
  btrfs-backup --status /home
  btrfs-backup --verify /home /mnt/usb/home
  btrfs-backup --find letters/tax.odt /home /mnt/usb/home
  btrfs-backup --copy /mnt/usb/home /mnt/new/home
  btrfs-backup --prune -n "7d 4w 12m" /srv/backups/laptop
  btrfs-backup /home 'shell://zstd > /mnt/box/$BTRFS_BACKUP_SNAPSHOT.btrfs.zst'
"""

# The groups of the help: the spellings of each option or argument, with the name of its value, and what it does.
_OPTIONS = {
    "source and destinations": {
        "SOURCE": "the subvolume to back up: its path, or ssh://[USER@]HOST[:PORT]/PATH",
        "DEST": "a folder on btrfs that holds backups, made when it does not exist: its path, or "
        "ssh://[USER@]HOST[:PORT]/PATH; or shell://COMMAND, which gets each stream on its standard input. "
        "Without any DEST snapshots are taken and pruned only",
        "--adopt": "count the backups at each DEST that cannot be proved to be of this source as its own from then on",
        "--locked-dests": "add every destination that has a failed transfer on record, except shell commands",
        "--skip-absent-dests": "no failure when a DEST is not there (disk not plugged in, host down)",
    },
    "what to keep": {
        "-N --num-snapshots KEEP": "which snapshots to keep at SOURCE (default: all)",
        "-n --num-backups KEEP": "which backups to keep at each DEST (default: all); not for shell://",
        "--latest-only": "deprecated: same as -N 1",
    },
    "snapshots": {
        "-S --no-snapshot": "take no snapshot, transfer the existing ones",
        "-f --snapshot-folder DIR": "where the snapshots are: relative to SOURCE, or absolute (default: snapshot)",
        "-p --snapshot-prefix PREFIX": "what their names begin with, before YYYYMMDD-HHMMSS (default: nothing)",
    },
    "transfers": {
        "-T --no-transfer": "transfer nothing",
        "-I --no-incremental": "always send in full, never only the difference",
        "--rate-limit RATE": "send at most RATE bytes a second in each stream, e.g. 500k, 20M or 20MiB",
        "--compress METHOD": "compress streams that cross ssh, when both sides can: zstd, lz4, gzip or no (default)",
        "--no-compressed-data": "do not send compressed data as the filesystem has it (send protocol 2)",
        "--no-shared-stream": "read the source once for each DEST, instead of once for all that need the same",
        "--remove-locks": "drop the records of failed transfers and of deliveries to each DEST, which is gone for good",
    },
    "instead of a backup": {
        "--dry-run": "do nothing: print what would be taken, sent and deleted, and why the others stay",
        "--status": "print which snapshot is at which DEST, or at those on record when no DEST is given",
        "--sizes": "with --status or --dry-run: print how much space only each snapshot or backup holds, and how much "
        "deleting those that KEEP does not keep frees; this reads which data each one has, and may take long",
        "--max-age AGE": "with --status: exit 10 if the newest backup of a DEST is older, e.g. 26h or 2d",
        # Two options without a value: argparse would take the SOURCE behind `--verify` for an optional one.
        "--verify": "compare the newest backup at each DEST with its snapshot, by content; exit 10 if they differ",
        "--verify=all": "the same for all backups",
        "--restore": "make the new, writable subvolume DEST of the backup SOURCE, or of the newest one in the folder "
        "SOURCE; a read-only copy goes to its snapshot folder (-f, relative to DEST), for increments later on",
        "--copy": "copy the backups in the folder SOURCE, with their history, to each DEST, such as a new disk; "
        "SOURCE is not written to",
        "--find PATH": "print which versions of a file or folder the snapshots and each DEST have; PATH is relative to "
        "SOURCE, and may hold * ? [ ]",
        "--diff": "print what changed from the snapshot or backup SOURCE to DEST, another one on the same filesystem",
    },
    "on a machine that keeps backups": {
        "--prune": "delete the backups in the folder SOURCE that -n does not keep, judged by when each one arrived "
        "there; no source is needed",
        "--serve": "let a client put backups into the folder SOURCE and look at them, and nothing else: for "
        "'command=' in authorized_keys; see '--manual server'",
    },
    "ssh": {
        "--ssh-opt OPT": "pass '-o OPT' to ssh, e.g. IdentityFile=/root/backup_key; may be given several times",
        "--ssh-sudo": "run the commands on ssh hosts under sudo, without a password",
    },
    "messages": {
        "-v --verbosity LEVEL": "what to tell at least: debug, info (default), warning or error",
        "-q --quiet": "no progress; only warnings and errors: a good run prints nothing",
        "-P --no-progress": "no progress display",
        "--json": "print one JSON document on stdout; '--manual json' describes its fields",
        "-d --btrfs-debug": "run btrfs send and receive with -vv and show what they print",
    },
    "other options": {
        "-s --sync": "wait until deleted subvolumes are really gone, and their space free",
        "-w --convert-rw": "make a snapshot writable before deleting it, for users other than root (with the mount "
        "option user_subvol_rm_allowed)",
        "--skip-fs-checks": "do not check that SOURCE is a subvolume and that DEST is on btrfs",
        "--lock-wait SECONDS": "how long to wait when another run works on the same snapshot folder (default: 0)",
        "--print-completion SHELL": "print the script that completes options in a shell: bash, zsh or fish",
        "--print-man": "print the manual page",
        "--manual CHAPTER": "print a chapter of the manual, or the list of its chapters when none is given",
        "-h": "print a short help and exit",
        "--help": "print this help and exit",
        "--version": "print the version and exit",
    },
}


class _Parser(argparse.ArgumentParser):
    """The parser of the command line; an error is a UsageError."""

    def error(self, message: str) -> NoReturn:
        message = re.sub("ignored explicit argument (.*)", r"\1 cannot be given with it", message, flags=re.DOTALL)
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        near = checks.near_option(unknown[1], self._option_string_actions) if unknown else ""
        meant = f"Is '{near}' meant? " if near else ""
        raise UsageError(message, f"{meant}'{self.prog} --help' explains the options.")

    def format_help(self) -> str:
        import shutil

        return helptext.text(self, min(max(shutil.get_terminal_size().columns, 40), 120))


def parser() -> argparse.ArgumentParser:
    """The parser of everything but @FILE. Each value has the name and the default of its field in Settings, if any.

    An option without a value turns its field to the opposite of the default.
    """
    parser = _Parser(
        prog="btrfs-backup",
        usage="%(prog)s [options] SOURCE [DEST ...]\n       %(prog)s [options] --restore BACKUP DEST\n"
        "       %(prog)s [options] --diff OLD NEW",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    defaults = {each.name: each.default for each in fields(Settings) if each.name != "source"}
    more = _how()
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for spelling, text in options.items():
            names = [word for word in spelling.split() if word.startswith("-")]
            value = spelling.split()[-1]
            last = names[-1] if names else value
            field = last.removeprefix("--no-").lstrip("-").replace("-", "_")
            how: dict[str, Any] = {"help": text, "dest": field, **more.get(last, {})}
            how.setdefault("default", defaults.get(how["dest"]))
            if value not in names:
                how["metavar"] = value
            elif "action" not in how:
                how = {"action": "store_const", "const": not how["default"], **how}
            group.add_argument(*names or [how.pop("dest")], **how)
    return parser


def _how() -> dict[str, dict[str, Any]]:
    """What argparse has to know beyond the table, of each option and argument by its last spelling."""
    return {
        # Optional for argparse, whose message would ask for a DEST as well.
        "SOURCE": {"dest": "source", "nargs": "?"},
        "DEST": {"dest": "destinations", "nargs": "*"},
        "--skip-absent-dests": {"dest": "skip_absent"},
        "--num-snapshots": {"dest": "keep_snapshots", "type": _policy},
        "--num-backups": {"dest": "keep_backups", "type": _policy},
        "--latest-only": {"dest": "keep_snapshots", "const": retention.Policy(latest=1)},
        "--no-snapshot": {"dest": "take_snapshot"},
        "--snapshot-prefix": {"dest": "naming", "type": _naming},
        "--rate-limit": {"type": _rate},
        "--compress": {"choices": ("zstd", "lz4", "gzip", "no")},
        "--max-age": {"type": _age},
        "--verify": {"const": "newest"},
        "--verify=all": {"dest": "verify", "const": "all"},
        "--ssh-opt": {"dest": "ssh_options", "action": "append", "default": []},
        "--verbosity": {"choices": ("debug", "info", "warning", "error")},
        "--skip-fs-checks": {"dest": "fs_checks"},
        "--lock-wait": {"type": _seconds},
        "--print-completion": {"choices": ("bash", "zsh", "fish")},
        "--manual": {"nargs": "?", "const": manual.CONTENTS, "choices": (manual.CONTENTS, *manual.CHAPTERS)},
        "-h": {"action": "version", "version": helptext.SHORT},
        "--help": {"action": "help"},
        "--version": {"action": "version", "version": f"btrfs-backup {__version__}"},
    }


def parse(argv: Sequence[str]) -> Settings:
    """What ARGV (without the program's name) asks for; @FILE arguments are read.

    Raises UsageError, and SystemExit when it asks only for something to be printed; Failure when it cannot be.
    """
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""  # it was deleted
    argv = argfiles.expand(argv, _read, cwd)
    desk = parser()
    _check_lines(desk, argv)
    try:
        arguments = desk.parse_intermixed_args(_without_double_dash(argv))
        if arguments.print_completion or arguments.print_man:
            _print(desk, arguments.print_completion)
        if arguments.manual:
            manual.show(arguments.manual)
            raise SystemExit(0)
        settings = _settings(arguments, cwd, desk)
        checks.check(settings)
    except UsageError as error:
        where = " and ".join(dict.fromkeys(_lines_about(error.message, desk, argv, cwd)))
        raise UsageError(f"{where}: {error.message}" if where else error.message, error.hint) from None
    return settings


def _check_lines(desk: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Raises UsageError when an option from a file is abbreviated, or wrong by itself."""
    desk.allow_abbrev = False
    for origin, line in groupby(argv, lambda each: getattr(each, "origin", "")):
        words = list(line)
        if "--" in words:
            break
        if origin and words[0].startswith("-"):
            try:
                checks.check_value(*words)
                desk.parse_args(words)
            except UsageError as error:
                raise UsageError(f"{origin}: {error.message}", error.hint) from None
    desk.allow_abbrev = True


def _lines_about(message: str, desk: argparse.ArgumentParser, argv: Sequence[str], cwd: str) -> Iterator[str]:
    """The file and line of each of ARGV, where it is from a file, that MESSAGE has in quotes."""
    options = desk._option_string_actions
    for each in argv:
        if isinstance(each, argfiles.Written):
            option = options.get(each.partition("=")[0]) or options.get(each[:2])
            spellings = option.option_strings if option else [each]
            with suppress(UsageError):
                spellings = [*spellings, location.parse(each, cwd).identity]
            if any(f"'{spelling}'" in message for spelling in spellings):
                yield each.origin


def _settings(arguments: argparse.Namespace, cwd: str, desk: argparse.ArgumentParser) -> Settings:
    if arguments.source is None:
        examples = ((arguments.restore, checks.RESTORE_EXAMPLE), (arguments.diff, checks.DIFF_EXAMPLE))
        example = next((each for given, each in examples if given), "btrfs-backup /home /mnt/usb/home")
        raise UsageError("no SOURCE is given", f"Example: {example}; see 'btrfs-backup --help'.")
    words = (arguments.source, *arguments.destinations)
    policy = (arguments.keep_snapshots, arguments.keep_backups) != (retention.KEEP_ALL, retention.KEEP_ALL)
    options = desk._option_string_actions
    checks.check_words(words, policy, bool(arguments.verify), options, lambda path: lexists(join(cwd, path)))
    quiet = arguments.quiet
    values = {
        **vars(arguments),
        "source": location.parse(words[0], cwd),
        "destinations": tuple(dict.fromkeys(location.parse(word, cwd) for word in words[1:])),
        "ssh_options": tuple(arguments.ssh_options),
        "verbosity": "warning" if quiet and arguments.verbosity != "error" else arguments.verbosity,
        "progress": arguments.progress and not quiet,
    }
    return Settings(**{each.name: values[each.name] for each in fields(Settings)})


def _print(desk: argparse.ArgumentParser, shell: str | None) -> NoReturn:
    """Print the completion for SHELL, or the manual page."""
    from btrfs_backup.cli import completion, manpage
    from btrfs_backup.report import terminal

    text = completion.script(desk, shell) if shell else manpage.page(desk, __version__, manual.in_man_page())
    terminal.line(text.removesuffix("\n"))
    raise SystemExit(0)


def _without_double_dash(argv: Sequence[str]) -> list[str]:
    """What follows `--` is a location even when it begins with a dash; parse_intermixed_args does not know that."""
    end = argv.index("--") if "--" in argv else len(argv)
    locations = [f"./{each}" if each.startswith("-") else each for each in argv[end + 1 :]]
    return [*argv[:end], *locations]


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read().removeprefix(codecs.BOM_UTF8))


def _policy(text: str) -> retention.Policy:
    try:
        return retention.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a KEEP policy: {error} (examples: 5, all, '3 24h 7d 4w 12m 5y')"
        ) from None


def _rate(text: str) -> int:
    examples = "(examples: 500k, 20M, 1G)"
    number, unit, binary = _parts(
        r"([0-9]{1,12}) ?(?:([kmgKMG])(i?)B?)?(?:/s)?", text, f"a number of bytes a second {examples}"
    )
    rate = int(number) * int((1024 if binary else 1000) ** " KMG".index((unit or " ").upper()))
    if rate < 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is only {rate} bytes a second {examples}")
    return rate


def _age(text: str) -> timedelta:
    number, unit = _parts(r"([0-9]{1,6})([mhdw])", text, "an age (examples: 90m, 26h, 2d, 1w)")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[unit]: int(number)})


def _seconds(text: str) -> float:
    pattern = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
    return float(_parts(pattern, text, "a number of seconds (examples: 0.5, 60, 3600)")[0])


def _parts(pattern: str, text: str, what: str) -> tuple[str, ...]:
    """The groups of PATTERN in TEXT, which has to be WHAT."""
    if not (match := re.fullmatch(pattern, text)):
        raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
    return match.groups()


def _naming(prefix: str) -> Naming:
    if "/" in prefix or any(ord(character) < 32 or ord(character) == 127 for character in prefix):
        raise argparse.ArgumentTypeError(f"{prefix!r} cannot begin a file name: it holds '/' or a control character")
    if (size := len(os.fsencode(prefix))) > LONGEST_PREFIX:
        raise argparse.ArgumentTypeError(f"it has {size} bytes, and names have room for {LONGEST_PREFIX}")
    return Naming(prefix)
