"""The command line: argv -> Settings, and all help text."""

import argparse
import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

from btrfs_backup import __version__
from btrfs_backup.cli import argfiles, checks
from btrfs_backup.errors import UsageError
from btrfs_backup.model import location, retention
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming

LONGEST_PREFIX = 170  # bytes; a transfer is marked by a longer name (see model.mark), which has 255 at most

_DESCRIPTION = """\
Takes a read-only snapshot of the btrfs subvolume SOURCE, sends it and whatever else is missing to each DEST
(incrementally where possible), and deletes the snapshots and backups that are not to be kept. A transfer that fails
is remembered, protected from deletion and made up for by the next run with that destination.
"""

_EPILOG = """\
KEEP is a number (the latest so many), or a policy such as "3 24h 7d 4w 12m 5y": the latest 3, and the newest of each
of the last 24 hours, 7 days, 4 weeks, 12 months and 5 years that have any. 'all' or 0 keeps everything. The newest
one is never deleted.

@FILE stands for the arguments in FILE: in each line one option with its value, or one SOURCE or DEST. Values are
taken as they are, without quotes; blank lines and lines that begin with # do not count; @OTHER includes another file.

exit status: 0 all done; 1 nothing could be done; 2 wrong usage; 3 another run works on the same snapshot folder;
10 something failed (a destination, a deletion, the state file) or differs; 128+N ended by signal N.

examples:
  btrfs-backup /home /mnt/usb/home
  btrfs-backup -N 5 -n "7d 4w 12m" -p home- /home /mnt/usb/backups ssh://root@nas/backups
  btrfs-backup ssh://root@server/srv /mnt/usb/server
  btrfs-backup --restore /mnt/usb/home /home
  btrfs-backup --status /home
  btrfs-backup --verify /home /mnt/usb/home
  btrfs-backup /home 'shell://gpg -e -r me > /mnt/box/$BTRFS_BACKUP_SNAPSHOT.btrfs.gpg'
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub("ignored explicit argument (.*)", r"\1 cannot be given with it", message, flags=re.DOTALL)
        raise UsageError(message, f"'{self.prog} --help' explains the options.")


def parser() -> argparse.ArgumentParser:
    """The parser of everything but @FILE."""
    parser = _Parser(
        prog="btrfs-backup",
        usage="%(prog)s [options] SOURCE [DEST ...]\n       %(prog)s [options] --restore BACKUP DEST",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    _add_places(parser)
    _add_retention(parser)
    _add_snapshots(parser)
    _add_transfers(parser)
    _add_looking(parser)
    _add_restore(parser)
    _add_verification(parser)
    _add_ssh(parser)
    _add_display(parser)
    _add_miscellaneous(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("source and destinations")
    # Optional for argparse, whose message would ask for a DEST as well.
    group.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="the subvolume to back up: its path, or ssh://[USER@]HOST[:PORT]/PATH",
    )
    group.add_argument(
        "destinations",
        metavar="DEST",
        nargs="*",
        help="a folder on btrfs that holds backups, made when it does not exist: its path, or "
        "ssh://[USER@]HOST[:PORT]/PATH; or shell://COMMAND, which gets each stream on its standard input. "
        "Without any DEST snapshots are taken and pruned only",
    )
    group.add_argument(
        "--locked-dests",
        action="store_true",
        help="add every destination that the record of failed transfers names, but for shell commands",
    )
    group.add_argument(
        "--skip-absent-dests",
        action="store_true",
        help="a destination that is not there (disk not plugged in, host down) is reported, but is no failure",
    )


def _add_retention(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to keep")
    group.add_argument(
        "-N",
        "--num-snapshots",
        metavar="KEEP",
        type=_policy,
        default=retention.KEEP_ALL,
        help="which snapshots to keep at the source (default: all)",
    )
    group.add_argument(
        "-n",
        "--num-backups",
        metavar="KEEP",
        type=_policy,
        default=retention.KEEP_ALL,
        help="which backups to keep at each destination (default: all); not for shell://",
    )
    group.add_argument(
        "--latest-only",
        action="store_const",
        dest="num_snapshots",
        const=retention.Policy(latest=1),
        help="deprecated: same as -N 1",
    )


def _add_snapshots(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("snapshots")
    group.add_argument("-S", "--no-snapshot", action="store_true", help="take no snapshot, transfer the existing ones")
    group.add_argument(
        "-f",
        "--snapshot-folder",
        metavar="DIR",
        default="snapshot",
        help="where the snapshots are: relative to SOURCE, or absolute (default: snapshot)",
    )
    group.add_argument(
        "-p",
        "--snapshot-prefix",
        metavar="PREFIX",
        type=_prefix,
        default="",
        help="what the names of the snapshots begin with, before YYYYMMDD-HHMMSS (default: nothing)",
    )


def _add_transfers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("transfers")
    group.add_argument("-T", "--no-transfer", action="store_true", help="transfer nothing")
    group.add_argument(
        "-I", "--no-incremental", action="store_true", help="always send in full, never only the difference"
    )
    group.add_argument(
        "--rate-limit",
        metavar="RATE",
        type=_rate,
        default=0,
        help="send at most RATE bytes a second in each stream, e.g. 500k, 20M, 1G (thousands, millions, ...)",
    )
    group.add_argument(
        "--compress",
        metavar="METHOD",
        choices=("zstd", "lz4", "gzip", "no"),
        default="no",
        help="compress streams that cross ssh, when both sides have the program: zstd, lz4, gzip or no (default)",
    )
    group.add_argument(
        "--no-compressed-data",
        action="store_true",
        help="do not send the compressed data of a filesystem as it is (send protocol 2), also where both sides could",
    )
    group.add_argument(
        "--no-shared-stream",
        action="store_true",
        help="read the source once for each destination, instead of once for all that need the same step",
    )
    group.add_argument(
        "--remove-locks",
        action="store_true",
        help="drop the records of failed transfers to the given destinations, and of what was delivered there: "
        "for a destination that is gone for good",
    )


def _add_looking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("looking")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="do nothing: print what would be taken, sent and deleted, and why the others stay",
    )
    group.add_argument(
        "--status",
        action="store_true",
        help="do nothing: print what is where, of every snapshot and every DEST; without a DEST, of those on record",
    )
    group.add_argument(
        "--max-age",
        metavar="AGE",
        type=_age,
        help="with --status: exit with 10 when the newest complete backup of a DEST is older, e.g. 26h or 2d",
    )
    group.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout; the README describes its fields"
    )


def _add_restore(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("restore")
    group.add_argument(
        "--restore",
        action="store_true",
        help="make the new, writable subvolume DEST of the backup SOURCE, or of the newest complete one in the folder "
        "SOURCE. A read-only copy goes to its snapshot folder (-f, relative to DEST here), so that the next backup of "
        "DEST is incremental",
    )


def _add_verification(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("verification")
    # Two options without a value: argparse would take the SOURCE behind `--verify` for an optional one.
    group.add_argument(
        "--verify",
        action="store_const",
        const="newest",
        default="",
        help="do no backup, and change nothing: compare the newest backup at each DEST with its snapshot, by content; "
        "print what differs, and then exit with 10",
    )
    group.add_argument(
        "--verify=all", dest="verify", action="store_const", const="all", help="the same for all backups"
    )


def _add_ssh(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ssh")
    group.add_argument(
        "--ssh-opt",
        metavar="OPT",
        action="append",
        default=[],
        help="pass '-o OPT' to ssh, e.g. --ssh-opt IdentityFile=/root/backup_key; may be given several times",
    )
    group.add_argument(
        "--ssh-sudo", action="store_true", help="run the commands on ssh hosts under sudo, without a password"
    )


def _add_display(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages")
    group.add_argument(
        "-v",
        "--verbosity",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what to tell at least (default: info)",
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="no progress; only warnings and errors: a good run prints nothing"
    )
    group.add_argument("-P", "--no-progress", action="store_true", help="no progress display")
    group.add_argument(
        "-d",
        "--btrfs-debug",
        action="store_true",
        help="run btrfs send and receive with -vv and show what they print",
    )


def _add_miscellaneous(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other options")
    group.add_argument(
        "-s", "--sync", action="store_true", help="wait until deleted subvolumes are really gone, and their space free"
    )
    group.add_argument(
        "-w",
        "--convert-rw",
        action="store_true",
        help="make a snapshot writable before deleting it: needed by users other than root "
        "(with the mount option user_subvol_rm_allowed)",
    )
    group.add_argument(
        "--skip-fs-checks",
        action="store_true",
        help="do not check that SOURCE is a subvolume and that DEST is on btrfs",
    )
    group.add_argument(
        "--lock-wait",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="how long to wait when another run works on the same snapshot folder (default: 0)",
    )
    group.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=("bash", "zsh", "fish"),
        help="print the script that completes options in a shell: bash, zsh or fish",
    )
    group.add_argument("--print-man", action="store_true", help="print the manual page")
    group.add_argument("-h", "--help", action="help", help="print this help and exit")
    group.add_argument("--version", action="version", version=f"btrfs-backup {__version__}")


def parse(argv: Sequence[str]) -> Settings:
    """What ARGV (without the program's name) asks for; @FILE arguments are read.

    Raises UsageError, and SystemExit when it asks only for something to be printed; Failure when it cannot be.
    """
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""  # somebody has deleted it; absolute paths do not need it
    arguments = parser().parse_intermixed_args(_without_double_dash(argfiles.expand(argv, _read, cwd)))
    if arguments.print_completion or arguments.print_man:
        from btrfs_backup.cli import completion, manpage
        from btrfs_backup.report import terminal

        shell = arguments.print_completion
        text = completion.script(parser(), shell) if shell else manpage.page(parser(), __version__)
        terminal.line(text.removesuffix("\n"))
        raise SystemExit(0)
    if arguments.source is None:
        example = checks.RESTORE_EXAMPLE if arguments.restore else "btrfs-backup /home /mnt/usb/home"
        raise UsageError("no SOURCE is given", f"Example: {example}; see 'btrfs-backup --help'.")
    policy = (arguments.num_snapshots, arguments.num_backups) != (retention.KEEP_ALL, retention.KEEP_ALL)
    checks.check_words([arguments.source, *arguments.destinations], policy, bool(arguments.verify))
    destinations = dict.fromkeys(location.parse(spelling, cwd) for spelling in arguments.destinations)
    settings = Settings(
        source=location.parse(arguments.source, cwd),
        destinations=tuple(destinations),
        snapshot_folder=arguments.snapshot_folder,
        naming=Naming(arguments.snapshot_prefix),
        keep_snapshots=arguments.num_snapshots,
        keep_backups=arguments.num_backups,
        take_snapshot=not arguments.no_snapshot,
        transfer=not arguments.no_transfer,
        incremental=not arguments.no_incremental,
        sync=arguments.sync,
        convert_rw=arguments.convert_rw,
        remove_locks=arguments.remove_locks,
        locked_dests=arguments.locked_dests,
        skip_absent=arguments.skip_absent_dests,
        lock_wait=arguments.lock_wait,
        fs_checks=not arguments.skip_fs_checks,
        verbosity="warning" if arguments.quiet and arguments.verbosity != "error" else arguments.verbosity,
        progress=not (arguments.quiet or arguments.no_progress),
        btrfs_debug=arguments.btrfs_debug,
        ssh_options=tuple(arguments.ssh_opt),
        ssh_sudo=arguments.ssh_sudo,
        shared_stream=not arguments.no_shared_stream,
        compressed_data=not arguments.no_compressed_data,
        compress=arguments.compress,
        rate_limit=arguments.rate_limit,
        dry_run=arguments.dry_run,
        status=arguments.status,
        max_age=arguments.max_age,
        json=arguments.json,
        restore=arguments.restore,
        verify=arguments.verify,
    )
    checks.check(settings)
    return settings


def _without_double_dash(argv: Sequence[str]) -> list[str]:
    """What follows `--` is a location even when it begins with a dash; parse_intermixed_args does not know that."""
    end = argv.index("--") if "--" in argv else len(argv)
    locations = [f"./{each}" if each.startswith("-") else each for each in argv[end + 1 :]]
    return [*argv[:end], *locations]


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read())


def _policy(text: str) -> retention.Policy:
    try:
        return retention.parse(text)
    except ValueError as error:
        # A shell has taken them away; what still has some is from a file.
        quoted = "; an @FILE needs no quotes" if re.search("[\"']", text) else ""
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a KEEP policy: {error} (examples: 5, all, '3 24h 7d 4w 12m 5y'{quoted})"
        ) from None


def _rate(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([kmg]?)", text, re.IGNORECASE)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of bytes a second (examples: 500k, 20M, 1G)")
    return int(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()]


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not an age (examples: 90m, 26h, 2d, 1w)")
    unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]
    return timedelta(**{unit: int(match[1])})


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds (examples: 0.5, 60, 3600)")
    return float(text)


def _prefix(text: str) -> str:
    if "/" in text or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot begin a file name: it holds '/' or a control character")
    if (size := len(os.fsencode(text))) > LONGEST_PREFIX:
        raise argparse.ArgumentTypeError(f"it has {size} bytes, and names have room for {LONGEST_PREFIX}")
    return text
