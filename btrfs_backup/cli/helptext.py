"""The texts of -h and --help; the long one is made from the parser. Pure."""

import argparse
import textwrap
from collections.abc import Iterator
from itertools import groupby

from btrfs_backup.cli.options import groups

# For one screen of 24 lines.
SHORT = """\
usage: btrfs-backup [options] SOURCE [DEST ...]
       btrfs-backup [options] --restore BACKUP DEST

Takes a snapshot of the subvolume SOURCE and sends what is missing to each DEST.

  -n KEEP       which backups to keep at each DEST (default: all)
  -N KEEP       which snapshots to keep at SOURCE (default: all)
  -p PREFIX     what the names of the snapshots begin with
  -q            print nothing but warnings and errors
  --dry-run     print what would be done, and do nothing
  --status      print which snapshot is where
  --verify      compare the newest backups with their snapshots
  --restore     make a subvolume of a backup
  @FILE         read arguments from FILE

examples:
  btrfs-backup -N 5 -n "7d 4w 12m" /home /mnt/usb/home ssh://root@nas/home
  btrfs-backup --status /home
  btrfs-backup --restore /mnt/usb/home /home

'btrfs-backup --help' explains all options.
"""


def text(parser: argparse.ArgumentParser, width: int) -> str:
    """All of the help, in lines of at most WIDTH columns except for what is indented in the epilog."""
    column = min(32, width * 2 // 5)
    lines = ["usage: " + (parser.usage or "") % {"prog": parser.prog}, *_flowed(parser.description or "", width)]
    for title, options in groups(parser):
        lines += ["", f"{title}:"]
        for option in options:
            value = f"[={option.value}]" if option.optional else f" {option.value}" if option.value else ""
            head = f"  {', '.join(option.names)}{value}" if option.names else f"  {option.value}"
            if len(head) > column - 2:
                lines.append(head)
                head = ""
            lines += _wrapped(option.help, width, f"{head:{column}}", " " * column)
    return "\n".join([*lines, *_flowed(parser.epilog or "", width)]) + "\n"


def _flowed(text: str, width: int) -> Iterator[str]:
    """The lines of TEXT, each paragraph behind an empty one; what is indented stays as it is."""
    for paragraph in text.strip().split("\n\n"):
        yield ""
        for indented, group in groupby(paragraph.split("\n"), lambda line: line.startswith(" ")):
            lines = list(group)
            yield from lines if indented else _wrapped(" ".join(lines), width)


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> list[str]:
    """TEXT in lines that begin with FIRST and OTHERS; words such as options and URLs stay whole."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
