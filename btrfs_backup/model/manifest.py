"""What a tree of files holds, as records, and how two trees differ.

A record is a path, a kind and values, with NUL in between, the one byte that none of them can hold. In the order of
their bytes, the records of one path follow one another:

    device  numbers of a device node
    facts   type mode user group links size mtime (with blanks in between), target of a symbolic link
    sha256  of the data of a file
    xattrs  name, value in hexadecimal digits, name, value, ...
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

DEVICE, FACTS, SHA256, XATTRS = b"device", b"facts", b"sha256", b"xattrs"
FILE, FOLDER = b"f", b"d"

_TYPES = {
    b"f": "file",
    b"d": "folder",
    b"l": "symbolic link",
    b"p": "named pipe",
    b"s": "socket",
    b"b": "block device",
    b"c": "character device",
}
# Seen: btrfs send leaves a deleted folder under such a name when a subvolume was in it whose number is higher than the
# inode numbers.
_LEFTOVER = re.compile(rb"o\d+-\d+-\d+")
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Difference:
    """path: below the backup, empty for the backup itself; not always UTF-8 (surrogates stand for other bytes)."""

    path: str
    what: str


@dataclass(frozen=True)
class Comparison:
    """How a backup of a snapshot compares with it. files, bytes: whose data was read on both sides."""

    snapshot: str
    files: int
    bytes: int
    differences: tuple[Difference, ...]


class _Facts(NamedTuple):
    type: bytes
    mode: bytes
    user: bytes
    group: bytes
    links: bytes
    size: bytes
    modified: bytes


class _Entry(NamedTuple):
    """All that is known of a path: the values of each kind."""

    path: bytes
    records: list[bytes]

    def values(self, kind: bytes) -> Sequence[bytes]:
        """Those of KIND, none when there is no such record."""
        for record in self.records:
            if record.startswith(kind, len(self.path) + 1):
                return record.split(b"\0")[2:]
        return ()

    @property
    def facts(self) -> _Facts:
        return _Facts(*self.values(FACTS)[0].split(b" "))


def record(path: bytes, kind: bytes, *values: bytes) -> bytes:
    return b"\0".join((path, kind, *values))


def compare(name: str, snapshot: Iterable[bytes], backup: Iterable[bytes]) -> Comparison:
    """Compare two trees by their sorted records, each of which is held no longer than needed."""
    differences: list[Difference] = []
    files = size = 0
    for ours, theirs in _pairs(_entries(snapshot), _entries(backup)):
        entry = ours or theirs
        differences += [Difference(_text(entry.path), what) for what in _differences(ours, theirs)] if entry else []
        if ours and theirs and ours.values(SHA256) and theirs.values(SHA256):
            files += 1
            size += int(ours.facts.size)
    return Comparison(name, files, size, tuple(differences))


def _entries(records: Iterable[bytes]) -> Iterator[_Entry]:
    for path, group in groupby(records, lambda record: record.partition(b"\0")[0]):
        entry = _Entry(path, list(group))
        if entry.values(FACTS):
            yield entry


def _pairs(ours: Iterator[_Entry], theirs: Iterator[_Entry]) -> Iterator[tuple[_Entry | None, _Entry | None]]:
    """What both have under the same path, side by side, and what only one of them has."""
    one, other = next(ours, None), next(theirs, None)
    while one or other:
        if not other or (one and one.path < other.path):
            yield one, None
            one = next(ours, None)
        elif not one or other.path < one.path:
            yield None, other
            other = next(theirs, None)
        else:
            yield one, other
            one, other = next(ours, None), next(theirs, None)


def _differences(ours: _Entry | None, theirs: _Entry | None) -> Iterator[str]:
    if not theirs:
        yield "it is missing"
    elif not ours:
        left = theirs.facts.type == FOLDER and _LEFTOVER.fullmatch(theirs.path)
        yield "it is not in the snapshot" + (", where it was deleted; btrfs left an empty folder" if left else "")
    elif ours.records != theirs.records or not ours.values(SHA256):
        yield from _of_one_path(ours, theirs)


def _of_one_path(ours: _Entry, theirs: _Entry) -> Iterator[str]:
    wanted, found = ours.facts, theirs.facts
    if wanted.type != found.type:
        yield f"{_type(found)} instead of {_type(wanted)}"
        return
    yield from _unlike("mode", found.mode, wanted.mode)
    yield from _unlike("owner", found.user + b":" + found.group, wanted.user + b":" + wanted.group)
    yield from _unlike("hard links", found.links, wanted.links)
    # Seen: what btrfs receive does in the topmost folder may change its time after it was set.
    if ours.path and wanted.modified != found.modified:
        yield f"modified {_moment(found.modified)} instead of {_moment(wanted.modified)}"
    yield from _unlike("target", *(b"".join(each.values(FACTS)[1:]) for each in (theirs, ours)))
    yield from _unlike("device", *(b"".join(each.values(DEVICE)) for each in (theirs, ours)))
    if wanted.type == FILE:
        yield from _unlike("size", found.size, wanted.size)
        yield from _of_data(ours, theirs)
    yield from _of_attributes(ours.values(XATTRS), theirs.values(XATTRS))


def _unlike(what: str, found: bytes, wanted: bytes) -> Iterator[str]:
    if found != wanted:
        yield f"{what} {_text(found)} instead of {_text(wanted)}"


def _of_data(ours: _Entry, theirs: _Entry) -> Iterator[str]:
    wanted, found = ours.values(SHA256), theirs.values(SHA256)
    if not wanted:
        yield "its data could not be read in the snapshot"
    if not found:
        yield "its data could not be read in the backup"
    # With another size it goes without saying.
    if wanted and found and wanted != found and ours.facts.size == theirs.facts.size:
        yield "its data differs"


def _of_attributes(ours: Sequence[bytes], theirs: Sequence[bytes]) -> Iterator[str]:
    wanted, found = (dict(zip(each[::2], each[1::2], strict=True)) for each in (ours, theirs))
    for name in sorted(filter(lambda name: _counts(name, wanted, found), wanted.keys() | found.keys())):
        attribute = f"extended attribute {_text(name)}"
        if name not in found:
            yield f"{attribute} is missing"
        elif name not in wanted:
            yield f"{attribute} is not in the snapshot"
        elif found[name] != wanted[name]:
            yield f"{attribute} differs"


def _counts(name: bytes, *sides: dict[bytes, bytes]) -> bool:
    """Not what tells how data is stored, such as btrfs.compression, which files get from their folder; nor a label of
    SELinux where one side has none: the kernel makes one up where SELinux is in use.
    """
    return not name.startswith(b"btrfs.") and (name != b"security.selinux" or all(name in each for each in sides))


def _type(facts: _Facts) -> str:
    return _TYPES.get(facts.type, _text(facts.type))


def _moment(seconds: bytes) -> str:
    """Seconds since 1970 with a fraction, as ISO 8601 with nanoseconds."""
    whole, _, fraction = _text(seconds).partition(".")
    try:
        return f"{(_EPOCH + timedelta(seconds=int(whole))).isoformat()}.{fraction[:9]}Z"
    except (ValueError, OverflowError):
        return f"@{whole}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
