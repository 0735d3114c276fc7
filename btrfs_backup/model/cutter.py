"""A stream that is handed over in parts, so that a transfer which is cut off can go on."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from btrfs_backup.model.sendstream import (
    FRAME_HEAD,
    Attribute,
    Beginning,
    Command,
    Piece,
    Walker,
    frame,
    is_whole,
    uuid_bytes,
    uuid_text,
)
from btrfs_backup.model.snapshot import Subvolume

_CLONE, _END = int(Command.CLONE), int(Command.END)
_SPECIAL = frozenset(map(int, (Command.HEADER, Command.SUBVOL, Command.SNAPSHOT, Command.CLONE, Command.END)))
_EARLY = frozenset(map(int, Command)) - _SPECIAL
_DIGEST = 32  # hexadecimal digits of a hash that are kept


@dataclass(frozen=True)
class Part:
    """A subvolume that holds a stream up to a border between two frames, as far as it was handed over: a checkpoint.

    Its name tells where it begins, so it proves what its predecessor holds. offset: bytes of the stream before it;
    proof: a hash of these; salt: of the attempt, so that no two parts that may differ have one received UUID.
    far: the stream comes from another machine, which can hash nothing but bytes. Then the proof is that of all bytes
    since the attempt began. Otherwise it is that of the first command and of the heads of all frames, which hold their
    CRC-32C. version: of the protocol.
    """

    offset: int
    proof: str
    salt: str
    far: bool = False
    version: int = 1

    @property
    def name(self) -> str:
        return f"{'far' if self.far else 'part'}{self.version}-{self.offset}-{self.proof}-{self.salt}"

    @property
    def uuid(self) -> str:
        """The received UUID that it gets."""
        return _uuid_of(self.name)

    @classmethod
    def named(cls, name: str) -> "Part | None":
        match = re.fullmatch(r"(part|far)(\d)-(\d{1,20})-([0-9a-f]{32})-([0-9a-f]{16})", name, re.ASCII)
        return cls(int(match[3]), match[4], match[5], match[1] == "far", int(match[2])) if match else None

    @property
    def since(self) -> int:
        """When the attempt began, in seconds since 1970."""
        return int(self.salt[:8], 16)


def _uuid_of(name: str) -> str:
    """The UUID under which a stream hands over a subvolume of ours that has that name nowhere else."""
    return uuid_text(sha256(name.encode()).digest()[:16])


def base(salt: str) -> str:
    """The name of a snapshot of the parent: where others have the received UUID of that, it has one of its own."""
    return f"base-{salt}"


def is_base(name: str) -> bool:
    """Whether that is the NAME of one."""
    return bool(re.fullmatch(r"base-[0-9a-f]{16}", name, re.ASCII))


def mark(salt: str, number: int) -> str:
    """The name of an empty subvolume that is made whenever all that was received before has been written to the disk.

    The transfer with that SALT made NUMBER of them before.
    """
    return f"written-{salt}-{number}"


def salt_of_mark(name: str) -> str:
    """Empty when it is none."""
    match = re.fullmatch(r"written-([0-9a-f]{16})-\d{1,9}", name, re.ASCII)
    return match[1] if match else ""


def is_ours(name: str) -> bool:
    """Whether a subvolume of that NAME is in a stage for the sake of going on."""
    return bool(Part.named(name) or salt_of_mark(name) or is_base(name))


@dataclass(frozen=True)
class Checkpoint:
    """A place in a stream where a cut-off transfer can go on. source: the UUID of the subvolume that holds what is
    before it. head: bytes of the stream before its first part; version: of its protocol.

    ranges: of a stream from another machine, lengths and proofs of all that is between the two, in that order.
    """

    offset: int
    proof: str
    source: str
    version: int = 1
    head: int = 0
    ranges: tuple[tuple[int, str], ...] = ()


def checkpoints(found: Iterable[Subvolume], far: bool = False) -> list[Checkpoint]:
    """Those that the subvolumes FOUND in the stages of a transfer are good for, in the order of the stream.

    A part is believed when it is whole and the next one, whose name tells where it ends, was begun before the disk was
    last made to write in that transfer, and could. Between the last two marks it did that. The numbers of subvolumes
    grow. Seen: to take a snapshot is silent about data that could not be written, and the kernel tells that once.
    It was not changed since then, as far as that is known.
    """
    found = list(found)
    written = {each.name: _written(found, part.salt) for each in found if (part := Part.named(each.name))}
    parts = {each.uuid: (each, part) for each in found if (part := Part.named(each.name)) and part.far == far}
    borders = {}
    for each, part in parts.values():
        before, its = parts.get(each.parent_uuid, (each, part))
        unchanged = (before.changed_transid or 0) <= (each.made_transid or 1 << 64)
        believed = _is_whole(before, its) and each.id < written[each.name] and unchanged
        if believed and its.offset < part.offset:
            head, ranges = _ranges(before.uuid, part, parts)
            borders[part.offset, part.proof] = Checkpoint(
                part.offset, part.proof, before.uuid, part.version, head, ranges
            )
    return [borders[key] for key in sorted(borders)]


def _written(found: Sequence[Subvolume], salt: str) -> int:
    """What has a lower number, and is of the transfer with that SALT, is on the disk."""
    marks = sorted(each.id for each in found if salt_of_mark(each.name) == salt)
    return marks[-2] if len(marks) > 1 else 0


def _is_whole(each: Subvolume, part: Part) -> bool:
    return each.readonly and each.received_uuid == part.uuid


def _ranges(
    uuid: str, border: Part, parts: Mapping[str, tuple[Subvolume, Part]]
) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Where the first part of the chain that ends in that UUID begins, and what attempts have made of it."""
    ranges: list[tuple[int, str]] = []
    begun = border
    while uuid in parts:
        each, part = parts[uuid]
        before = parts.get(each.parent_uuid)
        if not before or before[1].salt != part.salt:
            ranges.insert(0, (border.offset - part.offset, border.proof))
            border = part
        if part.offset >= begun.offset:
            break
        begun, uuid = part, each.parent_uuid
    return begun.offset, tuple(ranges)


def begun(found: Iterable[Subvolume]) -> datetime | None:
    """When the first of the parts FOUND was begun, in local time."""
    times = [part.since for each in found if (part := Part.named(each.name))]
    return datetime.fromtimestamp(min(times)) if times else None


def useless(found: Sequence[Subvolume], kept: Checkpoint) -> list[Subvolume]:
    """Those of all FOUND in the stage of a transfer that are not needed to go on from the checkpoint KEPT."""
    by_uuid = {each.uuid: each for each in found}
    needed, uuid = set(), kept.source
    while uuid in by_uuid and uuid not in needed:
        needed.add(uuid)
        uuid = by_uuid[uuid].parent_uuid
    witness = [each for each in found if each.parent_uuid == kept.source and Part.named(each.name)][:1]
    parts = [part for each in [*witness, *map(by_uuid.__getitem__, needed)] if (part := Part.named(each.name))]
    for salt in {part.salt for part in parts}:
        marks = sorted((each for each in found if salt_of_mark(each.name) == salt), key=lambda each: each.id)
        needed |= {each.uuid for each in marks[-2:]}
    return [each for each in found if each.uuid not in needed and each not in witness]


def origin(entry: Subvolume, found: Iterable[Subvolume]) -> str:
    """The UUID of what the first of the parts FOUND was built upon that lead to ENTRY; empty for a full stream."""
    found = list(found)
    parts = {each.uuid: (each, part) for each in found if (part := Part.named(each.name))}
    parent, before = entry.parent_uuid, 1 << 70
    while parent in parts:
        each, part = parts[parent]
        if not _is_whole(each, part) or part.offset >= before:
            break
        parent, before = each.parent_uuid, part.offset
    bases = (each for each in found if is_base(each.name) and each.received_uuid == _uuid_of(each.name))
    return next((each.parent_uuid for each in bases if each.uuid == parent and each.readonly), parent)


def salt(now: float, token: str) -> str:
    """What no other attempt has. NOW: seconds since 1970; TOKEN: eight hexadecimal digits."""
    return f"{int(now) & 0xFFFFFFFF:08x}{token}"


def beginning(found: Iterable[Subvolume], known: Checkpoint) -> str:
    """Like `origin`, of a checkpoint that is KNOWN from those FOUND."""
    return origin(Subvolume("", "", known.source), found)


class Unproved(ValueError):
    """The stream is another one than the checkpoint was made of. proved: the checkpoints that it does agree with."""

    def __init__(self, proved: Sequence[Checkpoint] = ()) -> None:
        super().__init__("the stream is not the one that was cut off")
        self.proved = proved


class Cutter:
    """Hands a stream over as a chain of complete streams, each a part of it, as one `btrfs receive` takes them.

    Part k + 1 is a snapshot of part k; the last one is an empty snapshot under the true name. limit: bytes of the
    stream in a part, may be changed at any time. salt: see the function `salt`. part: the one that is being made.
    CHECKPOINTS: nothing of what is before the last one is handed over, and it goes on there; of a FAR stream it is the
    only one, has been proved, and only what is before its head and behind it comes in.
    UPON: the UUID of the parent there, when a receiver could take another subvolume for it. It looks for the data that
    it clones by received UUIDs only, so that a snapshot of the parent which has one of its own comes first.
    dropping: what comes in is before the last checkpoint.
    """

    def __init__(
        self, limit: int, salt: str, checkpoints: Sequence[Checkpoint] = (), far: bool = False, upon: str = ""
    ) -> None:
        self.limit = limit
        self.part: Part | None = None
        self.dropping = bool(checkpoints) and not far
        self._salt = salt
        self._far = far
        self._upon = upon
        self._ahead = [] if far else list(checkpoints)
        self._proved = list(checkpoints) if far else []
        self._shift = 0  # bytes of the stream that did not come in
        # A hash of all bytes has to see them all.
        self._walker = Walker(early=frozenset() if far else _EARLY)
        self._hash = sha256()
        self._heads: list[bytes] = []  # what the hash has not taken yet
        self._header = b""
        self._true: Beginning | None = None
        self._checked = not (far and checkpoints)  # the first frame behind the checkpoint is one

    @property
    def needed(self) -> bool:
        """Whether the stream has to go through it however small it is."""
        return bool(self._ahead or self._proved or self._upon)

    @property
    def resumed_from(self) -> int:
        """Bytes of the stream that the receiver had before; 0 as long as that is not proved."""
        return self._proved[-1].offset if self._proved and not self._ahead else 0

    @property
    def unseen(self) -> int:
        """How many of the next bytes need not be looked at. They are to be handed over, or dropped when it does so."""
        return self._walker.lacking

    def skip(self, count: int) -> None:
        """COUNT bytes that need not be looked at have gone by."""
        self._walker.skip(count)

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """Take the next PIECE: what is to be handed over in its place. Raises BrokenStream, Unproved."""
        walker = self._walker
        end = min(walker.lacking, len(piece))
        handed, hashed = end if self.dropping else 0, 0  # up to there the buffer is done with
        until = self._until
        for command, start, end in walker.feed(piece):
            if command not in _SPECIAL and walker.base + end <= until:
                self._heads.append(walker.buffer[start : start + FRAME_HEAD])
                continue
            if self._true is None:
                self._begin(command, start, end)
                handed = hashed = end
                continue
            if self._far:
                self._hash.update(memoryview(walker.buffer)[hashed:start])
                hashed = start
            before, kept = self._treat(command, start, end)
            until = self._until
            if before or not kept:
                if handed < start:
                    yield memoryview(walker.buffer)[handed:start]
                if before:
                    yield before
                handed = start if kept else end
        if handed < end:
            yield memoryview(walker.buffer)[handed:end]
        if self._far:
            self._hash.update(memoryview(walker.buffer)[hashed:end])
        self._proof()

    def finish(self) -> None:
        """The stream is over. Raises BrokenStream when it is not whole."""
        self._walker.finish()

    @property
    def _until(self) -> int:
        """What ends before that, of all that came in, goes into the part that is being made, as it is."""
        return self.part.offset + self.limit - self._shift if self.part and not self._ahead else -1

    def _begin(self, command: int, start: int, end: int) -> None:
        walker = self._walker
        head = walker.buffer[start:end]
        self._heads.append(head)
        if command == Command.HEADER:
            self._header = head
            return
        self._true = Beginning.read(walker, walker.attributes(start, end))
        if self._far:
            self._heads.clear()
            if self._proved:
                self._shift = self._proved[-1].offset - walker.base - end

    def _treat(self, command: int, start: int, end: int) -> tuple[bytes, bool]:
        """What is to go before the frame there, and whether that goes on itself."""
        walker, offset, before, kept = self._walker, self._walker.base + start + self._shift, b"", True
        assert self._true
        if not self._checked:
            if not is_whole(walker.buffer[start:end]):
                raise Unproved
            self._checked = True
        if self._ahead and self._is_held(offset, command):
            kept = False
        elif self.part is None or (offset - self.part.offset + end - start > self.limit and command != _END):
            before = self._border(self._true, offset)
        self.dropping = not kept
        if command == _CLONE and kept and self.part:
            first, last = walker.attributes(start, end).get(Attribute.CLONE_UUID, (0, 0))
            sources = {self._true.uuid: self.part.uuid}
            if self._upon:
                sources[self._true.parent] = _uuid_of(base(self._salt))
            if source := sources.get(uuid_text(walker.buffer[first:last])):
                body = walker.buffer[start + FRAME_HEAD : first] + uuid_bytes(source) + walker.buffer[last:end]
                before, kept = before + frame(Command.CLONE, body), False
        elif command == _END and kept and self.part:
            true = replace(self._true, parent=self.part.uuid, parent_transid=self._true.transid)
            before += frame(Command.END) + self._header + true.frame()
        self._heads.append(walker.buffer[start : start + FRAME_HEAD])
        return before, kept

    def _is_held(self, offset: int, command: int) -> bool:
        """Whether the frame at OFFSET is before the last checkpoint. Raises Unproved."""
        while self._ahead and self._ahead[0].offset <= offset:
            checkpoint = self._ahead.pop(0)
            if (checkpoint.offset, checkpoint.proof) == (offset, self._proof()):
                self._proved.append(checkpoint)
        if command == Command.END if self._ahead else not self._proved or self._proved[-1].offset < offset:
            raise Unproved(self._proved)
        return bool(self._ahead)

    def _border(self, true: Beginning, offset: int) -> bytes:
        """The end of the part that is being made, if there is one, and the beginning of the next one."""
        source, transid, ended = true.parent, true.parent_transid, b""
        if self.part:
            source, transid, ended = self.part.uuid, true.transid, frame(Command.END)
        elif self._upon:
            name = base(self._salt)
            copy = Beginning(name.encode(), _uuid_of(name), true.transid, self._upon, true.parent_transid)
            source, transid, ended = copy.uuid, true.transid, self._header + copy.frame() + frame(Command.END)
        if self._proved and not self.part:
            source, transid = self._proved[-1].source, true.transid
        proof = self._proved[-1].proof if self._far and self._proved and not self.part else self._proof()
        self.part = Part(offset, proof, self._salt, self._far, self._walker.version)
        begun = Beginning(self.part.name.encode(), self.part.uuid, true.transid, source, transid)
        return ended + self._header + begun.frame()

    def _proof(self) -> str:
        if not self._far:
            self._hash.update(b"".join(self._heads))
        self._heads.clear()
        return self._hash.hexdigest()[:_DIGEST]
