"""Reads all that snapshots and backups hold, several of them at the same time, by the file tools of their hosts."""

import heapq
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from btrfs_backup.errors import Failure
from btrfs_backup.model.manifest import FACTS, FILE
from btrfs_backup.system import filetools
from btrfs_backup.system.filetools import Argv, Parser
from btrfs_backup.system.host import Host
from btrfs_backup.system.process import Child, Children, CommandFailed, lacking
from btrfs_backup.system.spool import Spool

_SSH_FAILED = 255


@dataclass(frozen=True)
class Reading:
    """How far it has got. listed: entries that were found in all trees; files, bytes: of that tree whose data takes
    longest, with what was read of it so far; None as long as they are not known."""

    seconds: float
    listed: int
    files: int | None = None
    bytes: int = 0
    all_files: int = 0
    all_bytes: int = 0


Watch = Callable[[Reading], None]


class Tree:
    """The files below the folder TOP on HOST, which do not change. SCOPE ends its temporary files.

    failure: why it could not be read. unread: why the data of some files could not be read.
    """

    def __init__(self, host: Host, top: str, scope: ExitStack) -> None:
        self.host = host
        self.top = top
        self.failure: Failure | None = None
        self.unread: Failure | None = None
        self.listed = 0
        self.hashed = 0  # files
        self._bytes = array("q", [0])  # in the first so many files, in the order of find
        self._entries, self._checksums, self._attributes = (Spool(scope) for _ in range(3))

    def records(self, attributes: bool) -> Iterator[bytes]:
        """What was read, as model.manifest has it, sorted by paths; with the extended ATTRIBUTES or without.

        Raises Failure.
        """
        if not attributes:
            return heapq.merge(self._entries, self._checksums)
        if self.host.connection:
            return heapq.merge(self._entries, self._checksums, self._attributes)
        return heapq.merge(self._with_attributes(), self._checksums)

    @property
    def all_files(self) -> int:
        return len(self._bytes) - 1

    @property
    def all_bytes(self) -> int:
        return self._bytes[-1]

    @property
    def hashed_bytes(self) -> int:
        return self._bytes[min(self.hashed, self.all_files)]

    def add_entry(self, record: bytes) -> None:
        """Raises ValueError when the first one is not the top itself."""
        path, kind, facts, *_ = record.split(b"\0")
        if path and not self.listed:
            raise ValueError
        self._entries.add(record)
        self.listed += 1
        if kind == FACTS and facts.startswith(FILE):
            self._bytes.append(self.all_bytes + int(facts.split(b" ")[5]))

    def add_checksum(self, record: bytes) -> None:
        self._checksums.add(record)
        self.hashed += 1

    def add_attributes(self, record: bytes) -> None:
        self._attributes.add(record)

    def _with_attributes(self) -> Iterator[bytes]:
        """Here they are simply asked for. Raises Failure."""
        for record in self._entries:
            yield record
            path, kind, *_ = record.split(b"\0")
            if kind == FACTS and (attributes := _attributes(os.path.join(os.fsencode(self.top), path))):
                yield filetools.attributes_record(path, attributes)


def _attributes(path: bytes) -> dict[bytes, bytes]:
    """The extended attributes of PATH, in hexadecimal digits."""
    try:
        return {
            os.fsencode(name): os.getxattr(path, name, follow_symlinks=False).hex().encode()
            for name in os.listxattr(path, follow_symlinks=False)
        }
    except OSError as error:
        raise Failure(
            f"cannot read the extended attributes of {os.fsdecode(path)!r}: {error.strerror}",
            "When the disk has errors, 'dmesg' tells.",
        ) from None


def can_list_attributes(host: Host) -> bool:
    """Whether extended attributes can be read there. Raises Failure when it cannot be reached."""
    return not host.connection or host.can_run(filetools.PROBE_ATTRIBUTES)


def read(trees: Sequence[Tree], with_attributes: Sequence[Tree], watch: Watch | None = None) -> None:
    """Read all TREES at the same time, WITH_ATTRIBUTES where wanted. What goes wrong is noted in each of them.

    watch: is called a few times a second. Raises Failure when there is no room for temporary files.
    """
    started = time.monotonic()

    def listing() -> Reading:
        return Reading(time.monotonic() - started, sum(each.listed for each in trees))

    def hashing() -> Reading:
        last = max(whole, key=lambda each: each.all_bytes - each.hashed_bytes)
        return Reading(
            time.monotonic() - began,
            sum(each.listed for each in trees),
            last.hashed,
            last.hashed_bytes,
            last.all_files,
            last.all_bytes,
        )

    _run([_Job(each, filetools.list_entries, _ENTRIES, each.add_entry) for each in trees], listing, watch)
    whole = [each for each in trees if not each.failure]
    began = time.monotonic()
    jobs = [_Job(each, filetools.list_checksums, _CHECKSUMS, each.add_checksum, in_part=True) for each in whole]
    remote = [each for each in whole if each.host.connection and each in with_attributes]
    jobs += [_Job(each, filetools.list_attributes, _ATTRIBUTES, each.add_attributes) for each in remote]
    if jobs:
        _run(jobs, hashing, watch)


# Of each list: what ends its parts, how many of them make a record, how they are understood.
_ENTRIES = (b"\0", filetools.LISTED_FIELDS, filetools.parse_entry)
_CHECKSUMS = (b"\0", 1, filetools.parse_checksum)
_ATTRIBUTES = (b"\n\n", 1, filetools.parse_attributes)


class _Job:
    """One list of a tree: a command that prints it, and the records that are made of that.

    in_part: it is of use as far as it goes.
    """

    def __init__(
        self,
        tree: Tree,
        argv: Callable[[str], Argv],
        form: tuple[bytes, int, Parser],
        add: Callable[[bytes], None],
        in_part: bool = False,
    ) -> None:
        self.tree = tree
        self._argv = argv(tree.top)
        self._end, self._size, self._parse = form
        self._add = add
        self._in_part = in_part
        self.child: Child | None = None
        self._parts: list[bytes] = []
        self._rest = b""
        self._records = 0
        self._garbage: bytes | None = None

    def start(self, children: Children, nothing: int) -> None:
        try:
            self.child = children.start(self.tree.host.command(self._argv), nothing, capture=self._feed)
        except Failure as failure:
            self.tree.failure = failure

    def finish(self) -> None:
        """It has ended: note in the tree what went wrong."""
        if not self.child:
            return
        ended = self.child.ended
        if ended.status and self._in_part and self._records and ended.status != _SSH_FAILED:
            self.tree.unread = CommandFailed(ended, f"cannot read all of '{self.tree.top}'")
        elif ended.status:
            self.tree.failure = CommandFailed(ended, f"cannot read '{self.tree.top}'")
        elif self._garbage is not None or self._parts or self._rest:
            garbage = self._garbage or b"".join((*self._parts, self._rest))
            self.tree.failure = Failure(
                f"cannot understand what '{self.child.command.title}' printed: {os.fsdecode(garbage[:200])!r}",
                "A login shell must not print anything by itself when commands are run by ssh.",
            )

    def _feed(self, piece: bytes) -> None:
        if self._garbage is not None:
            return
        *parts, self._rest = (self._rest + piece).split(self._end)
        self._parts += parts
        whole = len(self._parts) - len(self._parts) % self._size
        for start in range(0, whole, self._size):
            part = self._parts[start : start + self._size]
            try:
                self._add(self._parse(part, self.tree.top))
            except ValueError:
                self._garbage = self._end.join(part)
                return
            self._records += 1
        del self._parts[:whole]


def _run(jobs: Sequence[_Job], reading: Callable[[], Reading], watch: Watch | None) -> None:
    with lacking("cannot read files"), open(os.devnull, "rb") as nothing, Children() as children:
        for job in jobs:
            job.start(children, nothing.fileno())
        children.wait([job.child for job in jobs if job.child], (lambda: watch(reading())) if watch else None)
        for job in jobs:
            job.finish()
