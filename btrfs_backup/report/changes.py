"""What changed from one snapshot to another, for people. Pure."""

from collections import Counter
from collections.abc import Iterator

from btrfs_backup.model.changes import KINDS, Changes
from btrfs_backup.model.outcome import plural
from btrfs_backup.report.text import printable, size


def changed(found: Changes) -> Iterator[str]:
    """A line for each change, the totals, and the folders with most of the data."""
    for each in found.changes:
        path = " -> ".join(printable(path) for path in (each.before, each.path) if path)
        yield f"{each.what:8}  {size(each.bytes) if each.bytes else '':>8}  {path}"
    yield from [""] if found.changes else []
    times = Counter(each.what for each in found.changes)
    kinds = ", ".join(f"{times[each]} {each}" for each in KINDS if times[each])
    data = f"; {size(found.bytes)} of data" if found.bytes else ""
    yield f"{plural(len(found.changes), 'change')}: {kinds}{data}" if found.changes else "no changes"
    yield from (f"{size(count):>18}  in {printable(folder)}" for folder, count in found.folders)
