"""The only file that knows the command lines of find, stat, sha256sum and getfattr, and what they print. No I/O here.

A parser takes what was printed between separators and returns a record of model.manifest; it raises ValueError when
the text is not of the expected form.
"""

import re
from collections.abc import Callable, Sequence

from btrfs_backup.model.manifest import DEVICE, FACTS, SHA256, XATTRS, record
from btrfs_backup.model.snapshot import STUB_INODE

Argv = tuple[str, ...]
Parser = Callable[[Sequence[bytes], str], bytes]

# Of folders neither links nor size tell anything. %P is the path below the top.
_LINE = r"%P\0facts\0%y %m %U %G {links} {size} %T@\0%l\0"
_FOLDER, _OTHER = _LINE.format(links="-", size="-"), _LINE.format(links="%n", size="%s")
# In as many fields; find does not know these numbers.
_DEVICE = r"%n\0device\0%t:%T\0\0"
LISTED_FIELDS = 4

_ATTRIBUTES = ("getfattr", "-d", "-m", "-", "-e", "hex", "-h", "--absolute-names", "--")
# Whether there is a getfattr that knows the options.
PROBE_ATTRIBUTES: Argv = (*_ATTRIBUTES, "/")

_FACTS = re.compile(rb"\S [0-7]+ \d+ \d+ (?:- -|\d+ \d+) -?\d+(?:\.\d+)?")
_CHECKSUM = re.compile(rb"([0-9a-f]{64}) [ *](.+)", re.DOTALL)


def tree(top: str, *what: str) -> Argv:
    """find in the folder TOP, without the stubs of nested subvolumes, which are not sent."""
    return ("find", f"{top}/", "-xdev", "-type", "d", "-inum", str(STUB_INODE), "-prune", "-o", *what)


def remove_stubs(folder: str) -> Argv:
    """Removes the stubs in FOLDER that have the name of a snapshot, with whatever prefix; those below it stay."""
    stamp = "[0-9]" * 8 + "-" + "[0-9]" * 6
    stubs = ("-type", "d", "-inum", str(STUB_INODE), "-name", f"*{stamp}")
    return ("find", f"{folder}/", "-mindepth", "1", "-maxdepth", "1", *stubs, "-exec", "rmdir", "--", "{}", ";")


def list_entries(top: str) -> Argv:
    """Lists all but the data and the extended attributes."""
    stat = ("(", "-type", "b", "-o", "-type", "c", ")", "-exec", "stat", "--printf", _DEVICE, "{}", "+")
    return tree(top, "-type", "d", "-printf", _FOLDER, "-o", "-printf", _OTHER, *stat)


def list_checksums(top: str) -> Argv:
    # With -z names are printed as they are.
    return tree(top, "-type", "f", "-exec", "sha256sum", "-z", "--", "{}", "+")


def list_attributes(top: str) -> Argv:
    # By way of find, so that under sudo it needs no rule of its own.
    return tree(top, "-exec", *_ATTRIBUTES, "{}", "+")


def parse_entry(fields: Sequence[bytes], top: str) -> bytes:
    path, kind, values, target = fields
    if kind == DEVICE:
        return record(_below(path, top), DEVICE, values)
    if kind != FACTS or not _FACTS.fullmatch(values):
        raise ValueError
    return record(path, FACTS, values, target)


def parse_checksum(fields: Sequence[bytes], top: str) -> bytes:
    match = _CHECKSUM.fullmatch(fields[0])
    if not match:
        raise ValueError
    return record(_below(match[2], top), SHA256, match[1])


def parse_attributes(paragraph: Sequence[bytes], top: str) -> bytes:
    """Of one path: `# file: PATH`, and a line for each attribute. Special characters in names are octal."""
    first, *lines = paragraph[0].split(b"\n")
    attributes: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b"=")
        if not re.fullmatch(rb"0x[0-9a-f]*", value):
            raise ValueError
        attributes[_unquote(name)] = value[2:]
    if not first.startswith(b"# file: ") or not attributes:
        raise ValueError
    return attributes_record(_below(_unquote(first[8:]), top), attributes)


def attributes_record(path: bytes, attributes: dict[bytes, bytes]) -> bytes:
    """ATTRIBUTES: hexadecimal values by name."""
    return record(path, XATTRS, *(word for item in sorted(attributes.items()) for word in item))


def _unquote(name: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name)


def _below(path: bytes, top: str) -> bytes:
    folder = f"{top}/".encode("utf-8", "surrogateescape")
    if not path.startswith(folder):
        raise ValueError
    return path[len(folder) :]
