"""Reads all that snapshots and backups hold, several of them at the same time, by the file tools of their hosts."""

import errno
import heapq
import marshal
import os
import resource
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import IO

from btrfs_backup.errors import Failure
from btrfs_backup.model.manifest import FACTS, FILE, SHA256, SIZE, XATTRS, parse, record
from btrfs_backup.system import signals, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.host import Host
from btrfs_backup.system.process import Children, CommandFailed, lacking

_SSH_FAILED = 255
_LONGEST = 16 << 20  # bytes of an item; what goes on is none
_IN_MEMORY = 8 << 20  # bytes that are held before they go to the temporary file
_FILES_OF_READING, _FILES_OF_TREE = 6, 9  # that are open at the same time; of a tree here 5
_LEFT_FREE = 20  # the share of the disk with the temporary file that is left free is one in so many
_BLOCK = 500  # records that are read from there at once


class Spool:
    """Records that are added in any order and read in that of their bytes, as often as wanted.

    What does not fit into memory is in sorted runs of one temporary file, which SCOPE ends.
    """

    def __init__(self, scope: ExitStack, in_memory: int = _IN_MEMORY) -> None:
        self._scope = scope
        self._in_memory = in_memory
        self._file: IO[bytes] | None = None
        self._runs: list[list[tuple[int, int]]] = []  # their blocks: size, and position in the file
        self._records: list[bytes] = []
        self._held = 0

    def add(self, record: bytes) -> None:
        """Raises Failure when there is no room for it."""
        self._records.append(record)
        self._held += len(record)
        if self._held <= self._in_memory:
            return
        self._records.sort()
        self._runs.append([])
        try:
            if not self._file:
                self._file = self._scope.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
            room = os.fstatvfs(self._file.fileno())
            if room.f_bavail < room.f_blocks // _LEFT_FREE:
                # Others need it, too; and another machine may print as much as it likes.
                raise OSError(errno.ENOSPC, "nearly all of that disk is full")
            for start in range(0, len(self._records), _BLOCK):
                block = marshal.dumps(self._records[start : start + _BLOCK])
                self._runs[-1].append((len(block), self._file.tell()))
                while block:
                    block = block[self._file.write(block) :]
        except OSError as error:
            raise Failure(
                f"cannot write a temporary file in '{tempfile.gettempdir()}': {error.strerror}",
                "Another folder can be named by TMPDIR in the environment.",
            ) from None
        self._records, self._held = [], 0

    def __iter__(self) -> Iterator[bytes]:
        self._records.sort()
        for each in heapq.merge(*map(self._read, self._runs), self._records):
            signals.check()  # there may be millions
            yield each

    def _read(self, run: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        assert self._file
        for size, position in run:
            yield from marshal.loads(os.pread(self._file.fileno(), size, position))


@dataclass(eq=False)
class Tree:
    """The files below the folder TOP on HOST, which do not change.

    attributes: whether the extended ones are wanted. records: what was read, as model.manifest has it. failure: why it
    could not be read. unread: why the data of some files could not be read. listed: entries that were found; hashed:
    files whose data was read. sizes: bytes in the first so many files, in the order of find.
    """

    host: Host
    top: str
    attributes: bool
    records: Spool
    failure: Failure | None = None
    unread: Failure | None = None
    listed: int = 0
    hashed: int = 0
    sizes: "array[int]" = field(default_factory=lambda: array("q", [0]))

    @property
    def hashed_bytes(self) -> int:
        return self.sizes[min(self.hashed, len(self.sizes) - 1)]

    def add(self, entry: bytes) -> None:
        """Add a record. Raises Failure when there is no room for it."""
        self.records.add(entry)
        path, kind, *values = entry.split(b"\0")
        if kind == SHA256:
            self.hashed += 1
        elif kind == FACTS:
            self.listed += 1
            if values[0] == FILE:
                self.sizes.append(self.sizes[-1] + int(values[SIZE]))
            if self.attributes and not self.host.connection and (attributes := self._attributes(path)):
                self.records.add(record(path, XATTRS, *chain.from_iterable(sorted(attributes.items()))))

    def _attributes(self, path: bytes) -> dict[bytes, bytes]:
        """The extended attributes of PATH, in hexadecimal digits. Here they are simply asked for."""
        where = os.path.join(os.fsencode(self.top), path)
        try:
            return {
                os.fsencode(name): os.getxattr(where, name, follow_symlinks=False).hex().encode()
                for name in os.listxattr(where, follow_symlinks=False)
            }
        except OSError as error:
            self.failure = Failure(
                f"cannot read the extended attributes of {os.fsdecode(where)!r}: {error.strerror}",
                "When the disk has errors, 'dmesg' tells.",
            )
            return {}


def most() -> int:
    """How many trees can be read at the same time; each takes some of the files that a process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(2, (limit - len(os.listdir("/proc/self/fd")) - _FILES_OF_READING) // _FILES_OF_TREE)


def read(trees: Sequence[Tree], watch: Callable[[bool], None] | None = None) -> None:
    """Read all TREES at the same time. What goes wrong is noted in each of them.

    watch: is called a few times a second, and told whether the data is being read, all else being known.
    Raises Failure when there is no room for temporary files.
    """
    entries = [(each, tools.ENTRIES, b"\0") for each in trees]
    attributes = [(each, tools.ATTRIBUTES, b"\n\n") for each in trees if each.attributes and each.host.connection]
    _run([*entries, *attributes], (lambda: watch(False)) if watch else None)
    _run(
        [(each, tools.CHECKSUMS, b"\0") for each in trees if not each.failure], (lambda: watch(True)) if watch else None
    )


def _run(lists: Iterable[tuple[Tree, Argv, bytes]], tick: Callable[[], None] | None) -> None:
    """Have find list something of each tree, and take in the items, with what ends them."""
    with lacking("cannot read files"), ExitStack() as pipes, Children() as children:
        started = []
        for tree, what, end in lists:
            # The command may wait for the end of its stdin, which comes when we end, however that is. Each has one of
            # its own: ssh makes it non-blocking.
            reader, writer = os.pipe()
            pipes.callback(os.close, writer)
            intake = _Intake(tree, end)
            try:
                command = tree.host.command(tools.find(tree.top, what))
                started.append((intake, children.start(command, reader, capture=intake.feed)))
            except Failure as failure:
                tree.failure = failure
            finally:
                os.close(reader)
        children.wait([child for _, child in started], tick)
        for intake, child in started:
            ended = child.ended
            if ended.status and intake.tree.hashed and ended.status != _SSH_FAILED:
                intake.tree.unread = CommandFailed(ended, f"cannot read all of '{intake.tree.top}'")
            elif ended.status:
                intake.tree.failure = CommandFailed(ended, f"cannot read '{intake.tree.top}'")
            elif intake.rest:
                intake.tree.failure = Failure(
                    f"cannot understand what '{ended.command.title}' printed: {os.fsdecode(intake.rest[:200])!r}",
                    "A login shell must not print anything by itself when commands are run by ssh.",
                )


@dataclass
class _Intake:
    """Makes records of what is printed of TREE, in items with an END. rest: what none could be made of, or not yet."""

    tree: Tree
    end: bytes
    rest: bytes = b""
    closed: bool = False

    def feed(self, piece: bytes) -> None:
        if self.closed:
            return
        self.closed = True  # also when there is no room
        *items, self.rest = (self.rest + piece).split(self.end)
        for item in items:
            try:
                entry = parse(item, self.tree.top)
            except ValueError:
                self.rest = item + self.end
                return
            self.tree.add(entry)
        self.closed = len(self.rest) > _LONGEST
