"""A stream that is handed over in parts, so that a transfer which is cut off can go on."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from btrfs_backup.model.sendstream import (
    FRAME_HEAD,
    Attribute,
    Beginning,
    Command,
    Piece,
    Walker,
    frame,
    uuid_bytes,
    uuid_text,
)
from btrfs_backup.model.snapshot import Subvolume

_CLONE, _END = int(Command.CLONE), int(Command.END)


@dataclass(frozen=True)
class Part:
    """A subvolume that holds a stream up to a border between two frames, as far as it was handed over: a checkpoint.

    Its name tells where it begins, so it proves what its predecessor holds. offset: bytes of the stream before it;
    proof: a hash of these (the first command, and the heads of all frames, which hold their CRC-32C);
    salt: of the attempt, so that no two parts that may differ have one received UUID.
    """

    offset: int
    proof: str
    salt: str

    @property
    def name(self) -> str:
        return f"part-{self.offset}-{self.proof}-{self.salt}"

    @property
    def uuid(self) -> str:
        """The received UUID that it gets."""
        return uuid_text(sha256(self.name.encode()).digest()[:16])

    @classmethod
    def named(cls, name: str) -> "Part | None":
        match = re.fullmatch(r"part-(\d{1,20})-([0-9a-f]{32})-([0-9a-f]{8})", name, re.ASCII)
        return cls(int(match[1]), match[2], match[3]) if match else None


@dataclass(frozen=True)
class Checkpoint:
    """A place in a stream where a cut-off transfer can go on. source: the UUID of the subvolume that holds what is
    before it."""

    offset: int
    proof: str
    source: str


def checkpoints(found: Iterable[Subvolume]) -> list[Checkpoint]:
    """Those that the subvolumes FOUND in the stages of a transfer are good for, in the order of the stream.

    A part is believed when it is whole and the next one has been begun, whose name tells where it ends. Then it is on
    disk as well: to take a snapshot writes out the data of what it is taken of.
    """
    parts = {each.uuid: (each, part) for each in found if (part := Part.named(each.name))}
    borders = {}
    for each, part in parts.values():
        before, its = parts.get(each.parent_uuid, (each, part))
        if before.readonly and before.received_uuid == its.uuid and its.offset < part.offset:
            borders[part.offset, part.proof] = Checkpoint(part.offset, part.proof, before.uuid)
    return [borders[key] for key in sorted(borders)]


class Unproved(ValueError):
    """The stream is another one than the checkpoint was made of. proved: the checkpoints that it does agree with."""

    def __init__(self, proved: Sequence[Checkpoint]) -> None:
        super().__init__("the stream is not the one that was cut off")
        self.proved = proved


class Cutter:
    """Hands a stream over as a chain of complete streams, each a part of it, as one `btrfs receive` takes them.

    Part k + 1 is a snapshot of part k; the last one is an empty snapshot under the true name. limit: bytes of the
    stream in a part, may be changed at any time. salt: 8 hexadecimal digits that no other attempt has. part: the one
    that is being made. CHECKPOINTS: nothing of what is before the last one is handed over, and it goes on there.
    """

    def __init__(self, limit: int, salt: str, checkpoints: Sequence[Checkpoint] = ()) -> None:
        self.limit = limit
        self.part: Part | None = None
        self._salt = salt
        self._ahead = list(checkpoints)
        self._proved: list[Checkpoint] = []
        self._walker = Walker()
        self._hash = sha256()
        self._heads: list[bytes] = []  # what the hash has not taken yet
        self._header = b""
        self._true: Beginning | None = None

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """Take the next PIECE: what is to be handed over in its place. Raises BrokenStream, Unproved."""
        walker, handed, end = self._walker, 0, 0  # handed: up to there the buffer is done with
        for command, start, end in walker.feed(piece):
            before, kept = self._treat(command, start, end)
            if before or not kept:
                if handed < start:
                    yield memoryview(walker.buffer)[handed:start]
                if before:
                    yield before
                handed = start if kept else end
        if handed < end:
            yield memoryview(walker.buffer)[handed:end]
        self._proof()

    def finish(self) -> None:
        """The stream is over. Raises BrokenStream when it is not whole."""
        self._walker.finish()

    def _treat(self, command: int, start: int, end: int) -> tuple[bytes, bool]:
        """What is to go before the frame there, and whether that goes on itself."""
        walker, offset, before, kept = self._walker, self._walker.base + start, b"", True
        if self._true is None:
            head = walker.buffer[start:end]
            self._heads.append(head)
            if command == Command.HEADER:
                self._header = head
            else:
                self._true = Beginning.read(walker, walker.attributes(start, end))
            return b"", False
        if self._ahead and self._is_held(offset, command):
            kept = False
        elif self.part is None or (offset - self.part.offset + end - start > self.limit and command != _END):
            before = self._border(self._true, offset)
        if command == _CLONE and kept and self.part:
            first, last = walker.attributes(start, end).get(Attribute.CLONE_UUID, (0, 0))
            if walker.buffer[first:last] == uuid_bytes(self._true.uuid):
                body = walker.buffer[start + FRAME_HEAD : first] + uuid_bytes(self.part.uuid) + walker.buffer[last:end]
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
        elif self._proved:
            source, transid = self._proved[-1].source, true.transid
        self.part = Part(offset, self._proof(), self._salt)
        begun = Beginning(self.part.name.encode(), self.part.uuid, true.transid, source, transid)
        return ended + self._header + begun.frame()

    def _proof(self) -> str:
        self._hash.update(b"".join(self._heads))
        self._heads.clear()
        return self._hash.hexdigest()[:32]
