"""What a tree of files holds, as records, and how two trees differ.

A record is a path, a kind and values, with NUL in between, the one byte that none of them can hold. In the order of
their bytes, the records of one path follow one another:

    device  numbers of a device node
    facts   type, mode, user:group, hard links, mtime, size, target of a symbolic link
    sha256  of the data of a file
    xattrs  name, value in hexadecimal digits, name, value, ...
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, groupby, repeat

DEVICE, FACTS, SHA256, XATTRS = b"device", b"facts", b"sha256", b"xattrs"
FILE, FOLDER = b"f", b"d"
SIZE = 5  # the index of that fact
_TYPE_NAMES = ("file", "folder", "symbolic link", "named pipe", "socket", "block device", "character device")
_TYPES = dict(zip("fdlpsbc", _TYPE_NAMES, strict=True))
# Seen: btrfs send leaves a deleted folder under such a name when a subvolume was in it whose number is higher than the
# inode numbers.
_LEFTOVER = re.compile(rb"o\d+-\d+-\d+")
_WORDS = ("type", "mode", "owner", "hard links", "modified", "size", "target")  # for the facts
# What find, stat and sha256sum print.
_ITEM = re.compile(
    rb"(?P<facts>\S [0-7]+ \d+:\d+ (?:-|\d+) -?\d+(?:\.\d+)? (?:-|\d+)) (?P<path>.*?)//(?P<target>.*)"
    rb"|(?:(?P<device>[0-9a-f]+:[0-9a-f]+) |(?P<sha256>[0-9a-f]{64}) [ *])(?P<where>.+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Difference:
    """One difference between a backup and its snapshot.

    path: below the backup, empty for the backup itself; not always UTF-8 (surrogates stand for other bytes).
    """

    path: str
    what: str


@dataclass(frozen=True)
class Comparison:
    """The comparison of a backup with its snapshot. files, bytes: whose data was read on both sides."""

    snapshot: str
    files: int
    bytes: int
    differences: tuple[Difference, ...]


# All that is known of a path: the values of each kind.
_Entry = Mapping[bytes, Sequence[bytes]]


def record(path: bytes, kind: bytes, *values: bytes) -> bytes:
    return b"\0".join((path, kind, *values))


def parse(item: bytes, top: str) -> bytes:
    """The record of an ITEM: what find, stat and sha256sum print up to a NUL, and getfattr up to an empty line.

    Raises ValueError when it is not of the expected form.
    """
    if item.startswith(b"# file: "):
        return _parse_attributes(item, top)
    if not (found := _ITEM.fullmatch(item)):
        raise ValueError
    if found["facts"]:
        return record(found["path"], FACTS, *found["facts"].split(b" "), found["target"])
    numbers = found["device"]
    return record(_below(found["where"], top), *((DEVICE, numbers) if numbers else (SHA256, found["sha256"])))


def _parse_attributes(paragraph: bytes, top: str) -> bytes:
    """Of one path: `# file: PATH`, and a line for each attribute. Special characters in names are octal."""
    first, *lines = paragraph.split(b"\n")
    attributes: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b"=")
        if not re.fullmatch(rb"0x[0-9a-f]*", value):
            raise ValueError
        attributes[_unquote(name)] = value[2:]
    if not attributes:
        raise ValueError
    return record(_below(_unquote(first[8:]), top), XATTRS, *chain.from_iterable(sorted(attributes.items())))


def _unquote(name: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name)


def _below(path: bytes, top: str) -> bytes:
    folder = f"{top}/".encode("utf-8", "surrogateescape")
    if not path.startswith(folder):
        raise ValueError
    return path[len(folder) :]


def compare(name: str, snapshot: Iterable[bytes], backup: Iterable[bytes], attributes: bool = True) -> Comparison:
    """Compare two trees by their sorted records, none of which is kept. ATTRIBUTES: the extended ones, too."""
    differences: list[Difference] = []
    files = size = 0
    records = heapq.merge(zip(snapshot, repeat(0)), zip(backup, repeat(1)))
    for path, group in groupby(records, lambda each: each[0].partition(b"\0")[0]):
        sides: tuple[dict[bytes, Sequence[bytes]], ...] = ({}, {})
        for each, side in group:
            _, kind, *values = each.split(b"\0")
            if attributes or kind != XATTRS:
                sides[side][kind] = values
        ours, theirs = (entry if FACTS in entry else {} for entry in sides)  # what was not listed is not compared
        differences += [Difference(_text(path), what) for what in _differences(path, ours, theirs)]
        if SHA256 in ours and SHA256 in theirs:
            files += 1
            size += int(ours[FACTS][SIZE])
    return Comparison(name, files, size, tuple(differences))


def _differences(path: bytes, ours: _Entry, theirs: _Entry) -> Iterator[str]:
    if ours and not theirs:
        yield "it is missing"
    elif theirs and not ours:
        left = theirs[FACTS][0] == FOLDER and _LEFTOVER.fullmatch(path)
        yield "it is not in the snapshot" + (", where it was deleted; btrfs left an empty folder" if left else "")
    elif ours != theirs or (ours and SHA256 not in ours):
        yield from _of_one_path(path, ours, theirs)


def _of_one_path(path: bytes, ours: _Entry, theirs: _Entry) -> Iterator[str]:
    devices = ("device", b"".join(theirs.get(DEVICE, ())), b"".join(ours.get(DEVICE, ())))
    for what, found, wanted in (*zip(_WORDS, theirs[FACTS], ours[FACTS], strict=True), devices):
        # Seen: what btrfs receive does in the topmost folder may change its time after it was set.
        if found == wanted or (what == "modified" and not path):
            continue
        if what == "type":
            yield " instead of ".join(_TYPES.get(_text(each), _text(each)) for each in (found, wanted))
            return
        as_text = _moment if what == "modified" else _text
        yield f"{what} {as_text(found)} instead of {as_text(wanted)}"
    if ours[FACTS][0] == FILE:
        for side, entry in (("snapshot", ours), ("backup", theirs)):
            if SHA256 not in entry:
                yield f"its data could not be read in the {side}"
        # With another size it goes without saying.
        data_differs = SHA256 in ours and SHA256 in theirs and ours[SHA256] != theirs[SHA256]
        if data_differs and ours[FACTS][SIZE] == theirs[FACTS][SIZE]:
            yield "its data differs"
    yield from _of_attributes(ours.get(XATTRS, ()), theirs.get(XATTRS, ()))


def _of_attributes(ours: Sequence[bytes], theirs: Sequence[bytes]) -> Iterator[str]:
    wanted, found = (dict(zip(each[::2], each[1::2], strict=True)) for each in (ours, theirs))
    for name in sorted(wanted.keys() | found.keys()):
        # They tell how data is stored, such as btrfs.compression, and files get them from their folder. A label of
        # SELinux is made up by the kernel where SELinux is in use.
        if name.startswith(b"btrfs.") or (name == b"security.selinux" and name not in wanted.keys() & found.keys()):
            continue
        attribute = f"extended attribute {_text(name)}"
        if name not in found:
            yield f"{attribute} is missing"
        elif name not in wanted:
            yield f"{attribute} is not in the snapshot"
        elif found[name] != wanted[name]:
            yield f"{attribute} differs"


def _moment(seconds: bytes) -> str:
    """Seconds since 1970 with a fraction, as ISO 8601 with nanoseconds."""
    whole, _, fraction = _text(seconds).partition(".")
    try:
        return f"{(datetime(1970, 1, 1) + timedelta(seconds=int(whole))).isoformat()}.{fraction[:9]}Z"
    except (ValueError, OverflowError):
        return f"@{whole}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
