"""What changed from one snapshot to another, by the stream between the two without its data. Pure.

`btrfs send` turns the first into the second step by step, and the paths in its commands are those of that moment. On
its way it gives names such as o257-7-0, and renames one thing several times: here all that it touches is followed to
its end. Of what it does not touch nothing is known, nor held in memory.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from btrfs_backup.model.sendstream import Attribute, BrokenStream, Command, Found, Walker

ADDED, REMOVED, RENAMED, CHANGED, METADATA = KINDS = ("added", "removed", "renamed", "changed", "metadata")

_MAKE = frozenset(
    (Command.MKFILE, Command.MKDIR, Command.MKNOD, Command.MKFIFO, Command.MKSOCK, Command.SYMLINK),
)
_REMOVE = frozenset((Command.UNLINK, Command.RMDIR))
# Where each has the number of bytes that it changes. Holes are told like data; where only the size changes, none is.
_WRITE: Mapping[int, Attribute | None] = {
    Command.UPDATE_EXTENT: Attribute.SIZE,
    Command.CLONE: Attribute.CLONE_LEN,
    Command.TRUNCATE: None,
}
# The kernel sends the mode and the owner of what is not new only where they have changed. It sends times also where a
# file was only read.
_DESCRIBE = frozenset(
    (Command.SET_XATTR, Command.REMOVE_XATTR, Command.CHMOD, Command.CHOWN, Command.FILEATTR, Command.ENABLE_VERITY)
)
_SKIPPED = frozenset((Command.HEADER, Command.SNAPSHOT, Command.UTIMES, Command.END))
# What a removed folder with a nested subvolume in it becomes (fs/btrfs/send.c, gen_unique_name).
_LEFT = re.compile(rb"o\d+-\d+-\d+")
_SHARE = 10  # a folder counts from the tenth part of all bytes on
_TOP = "."
_DEEPEST = 4096  # no path has more names


@dataclass(frozen=True)
class Change:
    """A difference between two snapshots: one of KINDS.

    path: in the second one, or in the first when it was removed; before: in the first, when it was renamed. bytes:
    that were written to it.
    """

    what: str
    path: str
    before: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Changes:
    """All that changed from the snapshot OLD to NEW, in the order of paths."""

    old: str
    new: str
    changes: Sequence[Change] = ()
    failed: bool = False

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.changes)

    @property
    def folders(self) -> list[tuple[str, int]]:
        """The folders with most of the bytes, each without those below it that are listed, largest first."""
        held: dict[str, int] = defaultdict(int)
        for each in self.changes:
            folder = _folder(each.path)
            held[folder] += each.bytes
            while folder != _TOP and _folder(folder) not in held:
                folder = _folder(folder)
                held[folder] = 0
        found, least = [], max(1, self.bytes / _SHARE)
        for folder in sorted(held, key=_depth, reverse=True):
            if held[folder] >= least:
                found.append((folder, held[folder]))
            elif folder != _TOP:
                held[_folder(folder)] += held[folder]
        return sorted(found, key=lambda each: (-each[1], each[0]))


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or _TOP


def _depth(folder: str) -> int:
    return -1 if folder == _TOP else folder.count("/")


@dataclass(eq=False, slots=True)
class _Node:
    """A file or folder that a stream touches.

    home: its folder in the first snapshot and its name there, None when it is new; one with several names is known
    by each of them as another one. names: the same as it stands. entries: of a folder, as far as they were touched;
    None: there is nothing of that name any more.
    """

    home: "tuple[_Node, bytes] | None" = None
    names: "dict[tuple[_Node, bytes], None]" = field(default_factory=dict)
    entries: "dict[bytes, _Node | None]" = field(default_factory=dict)
    new: bool = False
    bytes: int = 0
    written: bool = False
    described: bool = False


class Comparison:
    """Takes the stream of an increment without its data, in pieces, and tells what it changes."""

    def __init__(self) -> None:
        self._walker = Walker()
        self._top = _Node()
        self._nodes = [self._top]
        self._parked: set[bytes] = set()  # names in between that were given by renaming

    @property
    def count(self) -> int:
        """Files and folders that were touched so far."""
        return len(self._nodes) - 1

    def feed(self, piece: bytes) -> None:
        """Take the next PIECE of the stream. Raises BrokenStream."""
        for command, start, end in self._walker.feed(piece):
            if command not in _SKIPPED:
                self._follow(command, self._walker.attributes(start, end))

    def finish(self) -> list[Change]:
        """What the whole stream changes. Raises BrokenStream when it is not whole."""
        self._walker.finish()
        for name in self._parked:
            each = self._top.entries[name]
            if each and not each.new and each.home != (self._top, name):
                each.names.clear()
        found = [(node, *change) for node in self._nodes for change in self._changes(node)]
        removed: dict[str, _Node] = {}
        # Of two that would have the same place, the one whose folder is still there comes last, and counts.
        for node, path, change in sorted(found, key=lambda each: _is_homeless(each[0]), reverse=True):
            if change.what == REMOVED:
                removed[path] = node
        replaced = set()
        for number, (node, path, change) in enumerate(found):
            if change.what == ADDED and path in removed:
                # Such as what an editor saved.
                found[number] = node, path, Change(CHANGED, path, bytes=change.bytes)
                replaced.add(removed[path])
        left = (change for node, _, change in found if change.what != REMOVED or node not in replaced)
        return sorted(left, key=lambda each: (each.path, each.what))

    def _follow(self, command: int, found: Found) -> None:
        path = self._walker.value(Attribute.PATH, found)
        if command in _MAKE:
            node = _Node(new=True)
            self._nodes.append(node)
            self._enter(node, path)
        elif command == Command.RENAME:
            node, to = self._leave(path), self._walker.value(Attribute.PATH_TO, found)
            self._enter(node, to)
            if _LEFT.fullmatch(to):
                self._parked.add(to)
        elif command == Command.LINK:
            self._enter(self._at(self._walker.value(Attribute.PATH_LINK, found)), path)
            self._parked.discard(path)
        elif command in _REMOVE:
            self._leave(path)
        elif command in _WRITE:
            node = self._at(path)
            node.written = True
            node.bytes += self._walker.integer(_WRITE[command] or 0, found)
        elif command in _DESCRIBE:
            self._at(path).described = True
        else:
            raise BrokenStream("there is something in it that a stream without data does not have")

    def _at(self, path: bytes) -> _Node:
        """What has the PATH at this moment. Raises BrokenStream."""
        node = self._top
        for name in path.split(b"/") if path else ():
            if name not in node.entries and not node.new:
                home = node, name
                node.entries[name] = child = _Node(home, {home: None})
                self._nodes.append(child)
            if not (found := node.entries.get(name)):
                raise BrokenStream(f"it changes {path[:500]!r}, which is not there")
            node = found
        return node

    def _enter(self, node: _Node, path: bytes) -> None:
        folder, _, name = path.rpartition(b"/")
        place = self._at(folder)
        if there := place.entries.get(name):
            del there.names[place, name]
        place.entries[name] = node
        node.names[place, name] = None

    def _leave(self, path: bytes) -> _Node:
        folder, _, name = path.rpartition(b"/")
        node, place = self._at(path), self._at(folder)
        if node is place:
            raise BrokenStream(f"it changes {path[:500]!r}, which is not there")
        place.entries[name] = None
        del node.names[place, name]
        return node

    def _changes(self, node: _Node) -> Iterator[tuple[str, Change]]:
        """The changes of NODE, each with its place in the second snapshot, or that which it would have there."""
        if node is self._top and node.described:
            yield _TOP, Change(METADATA, _TOP)
        added = [_path(each, _now) for each in node.names if each != node.home]
        if node.home and node.home not in node.names:
            before = _path(node.home, _first)
            if added:
                yield added[0], Change(RENAMED, added[0], before, node.bytes)
                del added[0]
            else:
                yield _path(node.home, _now), Change(REMOVED, before)
        elif node.home and (node.written or node.described):
            path = _path(node.home, _now)
            yield path, Change(CHANGED if node.written else METADATA, path, bytes=node.bytes)
        for number, path in enumerate(added):
            yield path, Change(ADDED, path, bytes=0 if node.home or number else node.bytes)


def _is_homeless(node: _Node) -> bool:
    """Whether the folder that it was in is gone, too."""
    return bool(node.home and node.home[0].home and not node.home[0].names)


Place = tuple[_Node, bytes]


def _first(node: _Node) -> Place | None:
    return node.home


def _now(node: _Node) -> Place | None:
    return next(iter(node.names), node.home)


def _path(place: Place, above: Callable[[_Node], Place | None]) -> str:
    names: list[bytes] = []
    step: Place | None = place
    while step:
        node, name = step
        names.append(name)
        step = above(node)
        if len(names) > _DEEPEST:
            raise BrokenStream("it puts a folder into itself")
    return b"/".join(reversed(names)).decode(errors="surrogateescape")
