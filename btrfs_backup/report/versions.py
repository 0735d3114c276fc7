"""The versions of a file or folder, for people. Pure."""

from collections.abc import Iterator
from datetime import datetime

from btrfs_backup.model.versions import Versions
from btrfs_backup.report.text import printable, size


def listed(about: Versions) -> Iterator[str]:
    """The places, and two lines for each version: what it is, and where one can be copied from."""
    names = ["source", *map(str, range(1, len(about.looks)))]
    yield from (f"{name}: {printable(look.place)}" for name, look in zip(names, about.looks, strict=True))
    width = max((len(each.first) for each in about.all), default=0)
    yield from ["", f"{'from':{width}}  {'to':{width}}  {'size':>8}  modified             where"]
    for each in about.all:
        last = each.last if each.last != each.first else ""
        amount = "folder" if each.found.is_folder else size(each.found.size)
        modified = datetime.fromtimestamp(each.found.modified // 10**9)
        where = ", ".join(names[number] for number in each.places)
        yield f"{each.first:{width}}  {last:{width}}  {amount:>8}  {modified:%Y-%m-%d %H:%M:%S}  {where}"
        yield f"    {printable(each.copy)}{f' ({printable(each.note)})' if each.note else ''}"
