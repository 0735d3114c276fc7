"""The format of what `btrfs send` writes (Linux, fs/btrfs/send.h), one walker of its frames, and what is built on that.

All numbers are little-endian. A stream is a header (the magic, u32 version), then frames, the last one END. A frame is
u32 length of what follows, u16 command, u32 CRC-32C of the whole frame with this field as zero, then attributes: u16
type, u16 length, value. From version 2 on, DATA has no length and is the last one.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

_MAGIC = b"btrfs-stream\0"
_HEADER = struct.Struct(f"<{len(_MAGIC)}sI")
_FRAME = struct.Struct("<IHI")
FRAME_HEAD = _FRAME.size
_ATTRIBUTE = struct.Struct("<HH")

Command = IntEnum(
    "Command",
    """HEADER SUBVOL SNAPSHOT MKFILE MKDIR MKNOD MKFIFO MKSOCK SYMLINK RENAME LINK UNLINK RMDIR SET_XATTR REMOVE_XATTR
    WRITE CLONE TRUNCATE CHMOD CHOWN UTIMES END UPDATE_EXTENT FALLOCATE FILEATTR ENCODED_WRITE ENABLE_VERITY""",
    start=0,
)
Attribute = IntEnum(
    "Attribute",
    """UUID CTRANSID INO SIZE MODE UID GID RDEV CTIME MTIME ATIME OTIME XATTR_NAME XATTR_DATA PATH PATH_TO PATH_LINK
    FILE_OFFSET DATA CLONE_UUID CLONE_CTRANSID CLONE_PATH CLONE_OFFSET CLONE_LEN FALLOCATE_MODE FILEATTR
    UNENCODED_FILE_LEN UNENCODED_LEN UNENCODED_OFFSET COMPRESSION ENCRYPTION VERITY_ALGORITHM VERITY_BLOCK_SIZE
    VERITY_SALT_DATA VERITY_SIG_DATA""",
)
# By version: the last command, and the most bytes behind the head of a frame. The kernel makes 64 KiB at most, and
# from version 2 on 144 KiB where a page has 4 KiB, more where pages are larger.
_BOUNDS = {1: (22, 64 << 10), 2: (25, 1 << 20), 3: (26, 1 << 20)}

# Of the value of each attribute, by its number; 0 where it is free.
_LENGTHS = [0, 16, *[8] * 7, *[12] * 4, *[0] * 5, 8, 0, 16, 8, 0, 8, 8, 4, *[8] * 4, 4, 4, 1, 4, 0, 0]
_HEADER_COMMAND, _END, _DATA = int(Command.HEADER), int(Command.END), int(Attribute.DATA)
_STRAY = "there is something in it that is not of its format"

Piece = bytes | memoryview
Found = dict[int, tuple[int, int]]


class BrokenStream(ValueError):
    """A stream is broken; its text says how, for the user. midway: it is not just that it breaks off."""

    def __init__(self, message: str, midway: bool = True) -> None:
        super().__init__(message)
        self.midway = midway


class Walker:
    """Finds the frames of STREAMS streams, one behind the other, that come in pieces.

    EARLY: commands whose frames are found as soon as their heads are there; they may end behind the buffer.
    buffer: holds the frames that are being found, `base` being the place of its first byte in what came in.
    lacking: bytes of the last frame, found early, that are still to come.
    version: of the stream; number: of frames before the one that was found last, from the header on.
    """

    def __init__(self, streams: int = 1, early: frozenset[int] = frozenset()) -> None:
        self.buffer = b""
        self.base = 0
        self.lacking = 0
        self.version = 0
        self.number = -1
        self._streams = streams
        self._early = early
        self._headed = False
        self._whole = 0  # bytes of buffer that are frames which were found

    def feed(self, piece: Piece) -> Iterator[tuple[int, int, int]]:
        """Take the next PIECE: (command, start, end in buffer) of each frame that is whole by then, the header as a
        command of its own. To be iterated to the end. Raises BrokenStream.
        """
        rest = self.buffer[self._whole :]
        self.buffer = buffer = rest + piece if rest or isinstance(piece, memoryview) else piece
        self.base += self._whole
        unpack, behind_head, size, early = _FRAME.unpack_from, FRAME_HEAD, len(buffer), self._early
        self._whole = at = min(self.lacking, size)
        self.lacking -= at
        last, longest = _BOUNDS.get(self.version, (0, 0))
        while at < size:
            if not self._headed:
                if not self._streams:
                    raise BrokenStream(f"{_STRAY}, behind frame {self.number}")
                if size - at < _HEADER.size:
                    break
                last, longest = self._read_header(at)
                command, end = _HEADER_COMMAND, at + _HEADER.size
            else:
                if size - at < behind_head:
                    break
                length, command, _ = unpack(buffer, at)
                if length > longest or not 0 < command <= last:
                    raise BrokenStream(f"{_STRAY}, behind frame {self.number}")
                end = at + behind_head + length
                if end > size and command not in early:
                    break
                if command == _END:
                    self._headed = False
                    self._streams -= 1
            self.number += 1
            yield command, at, end
            at = end
            self._whole = min(end, size)
        self.lacking += max(0, at - size)

    def skip(self, count: int) -> None:
        """COUNT of the bytes that are lacking have gone by."""
        self.lacking -= count
        self.base += count

    def finish(self) -> None:
        """The streams are over. Raises BrokenStream when they are not whole."""
        if self._streams or self._headed or self.lacking:
            raise BrokenStream("it breaks off before its end", midway=False)

    def attributes(self, start: int, end: int) -> Found:
        """Of the frame there: where the value of each is, by its type. Raises BrokenStream."""
        buffer, found = self.buffer, Found()
        at, unpack, unbounded = start + FRAME_HEAD, _ATTRIBUTE.unpack_from, self.version > 1
        while at < end:
            # Data without a length, and its type, can be shorter than the head of others.
            short = int.from_bytes(buffer[at : at + 2], "little") if end - at > 1 else 0
            kind, length = unpack(buffer, at) if end - at >= _ATTRIBUTE.size else (short, 0)
            behind = at + _ATTRIBUTE.size + length
            if kind == _DATA and unbounded:
                at, behind = at - 2, end
            if behind > end or kind in found or not 0 < kind < len(_LENGTHS) or _LENGTHS[kind] not in (0, length):
                raise BrokenStream("an attribute in it is malformed")
            found[kind] = at + _ATTRIBUTE.size, behind
            at = behind
        return found

    def value(self, kind: int, found: Found) -> bytes:
        """Of the attribute of that KIND; empty where it is not among those FOUND."""
        first, last = found.get(kind, (0, 0))
        return self.buffer[first:last]

    def integer(self, kind: int, found: Found) -> int:
        return int.from_bytes(self.value(kind, found), "little")

    def _read_header(self, at: int) -> tuple[int, int]:
        magic, self.version = _HEADER.unpack_from(self.buffer, at)
        if magic != _MAGIC:
            raise BrokenStream("it does not begin like the output of 'btrfs send'")
        if self.version not in _BOUNDS:
            raise BrokenStream(f"it is of version {self.version}, which is not known here")
        self._headed = True
        return _BOUNDS[self.version]


class Checker:
    """Checks a stream that comes in pieces and is to be stored.

    A `btrfs send` that was stopped and continued starts again in the middle of its stream and exits with 0. Then the
    beginning of the stream comes again. It holds the UUID of the snapshot, so nothing in that can look the same.
    """

    def __init__(self) -> None:
        self._walker = Walker()
        self._beginning = b""  # header and first frame
        self._tail = b""  # of what came before, as much as may be a part of the beginning

    def feed(self, piece: bytes) -> None:
        """Take the next PIECE of the stream. Raises BrokenStream."""
        searched = self._tail + piece
        for command, start, end in self._walker.feed(piece):
            if command != Command.HEADER and not self._beginning:
                first = self._walker.buffer[start:end]
                if command not in (Command.SUBVOL, Command.SNAPSHOT) or not is_whole(first):
                    raise BrokenStream("its first command is damaged")
                self._beginning = searched[: self._walker.base + end]
                searched = searched[1:]
        if self._beginning:
            if self._beginning in searched:
                raise BrokenStream("it begins again in the middle")
            searched = searched[1 - len(self._beginning) :]
        self._tail = searched

    def finish(self) -> None:
        """The stream is over. Raises BrokenStream when it is not whole."""
        self._walker.finish()


class Measure:
    """Tells the size of a stream from the same stream without file data (`btrfs send --no-data`), in pieces.

    There the kernel puts UPDATE_EXTENT in place of the data, with its SIZE (Linux, fs/btrfs/send.c,
    send_update_extent). Seen: 9,437,184 bytes of data that way, and a real stream of 9,444,196 bytes.
    """

    def __init__(self) -> None:
        self._walker = Walker()
        self._size = 0
        self._failed = False

    @property
    def size(self) -> int | None:
        """Bytes of the whole stream, or None when it is not known, or not yet."""
        try:
            self._walker.finish()
        except BrokenStream:
            return None
        return None if self._failed else self._size

    def feed(self, piece: bytes) -> None:
        """Take the next PIECE of the stream without data. What is broken has no size."""
        if self._failed:
            return
        try:
            for command, start, end in self._walker.feed(piece):
                self._size += end - start
                if command == Command.UPDATE_EXTENT:
                    self._size += self._walker.integer(Attribute.SIZE, self._walker.attributes(start, end))
        except BrokenStream:
            self._failed = True


@dataclass(frozen=True)
class Beginning:
    """The first command of a stream: the subvolume that is to be made. UUIDs as 36 characters.

    parent: what a receiver builds upon: it looks for that received UUID first, then for that UUID; empty when it is
    a full stream. parent_transid: the `Send transid` that the parent has, if it is what the stream supposes.
    """

    name: bytes
    uuid: str
    transid: int
    parent: str = ""
    parent_transid: int = 0

    @classmethod
    def read(cls, walker: Walker, found: Found) -> "Beginning":
        """Of a SUBVOL or SNAPSHOT with these attributes. Raises BrokenStream."""
        name, uuid, parent = (
            walker.value(kind, found) for kind in (Attribute.PATH, Attribute.UUID, Attribute.CLONE_UUID)
        )
        if not name or not uuid:
            raise BrokenStream("its first command is damaged")
        transid, parent_transid = (
            walker.integer(kind, found) for kind in (Attribute.CTRANSID, Attribute.CLONE_CTRANSID)
        )
        return cls(name, uuid_text(uuid), transid, uuid_text(parent) if parent else "", parent_transid)

    def frame(self) -> bytes:
        values = {Attribute.PATH: self.name, Attribute.UUID: uuid_bytes(self.uuid)}
        values[Attribute.CTRANSID] = self.transid.to_bytes(8, "little")
        if self.parent:
            values[Attribute.CLONE_UUID] = uuid_bytes(self.parent)
            values[Attribute.CLONE_CTRANSID] = self.parent_transid.to_bytes(8, "little")
        attributes = b"".join(_ATTRIBUTE.pack(kind, len(value)) + value for kind, value in values.items())
        return frame(Command.SNAPSHOT if self.parent else Command.SUBVOL, attributes)


def is_whole(text: bytes) -> bool:
    """Whether TEXT is a frame as the kernel makes it."""
    _, command, _ = _FRAME.unpack_from(text)
    return text == frame(command, text[FRAME_HEAD:])


def frame(command: int, attributes: bytes = b"") -> bytes:
    """A frame as the kernel makes it."""
    crc, table = 0, _crc_table()
    for byte in _FRAME.pack(len(attributes), command, 0) + attributes:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return _FRAME.pack(len(attributes), command, crc) + attributes


@cache
def _crc_table() -> list[int]:
    """Of CRC-32C (Castagnoli), which btrfs begins with 0 and does not invert."""
    table = list(range(256))
    for _ in range(8):
        table = [each >> 1 ^ (0x82F63B78 if each & 1 else 0) for each in table]
    return table


def uuid_text(uuid: bytes) -> str:
    text = uuid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid_bytes(uuid: str) -> bytes:
    return bytes.fromhex(uuid.replace("-", ""))


def beginning(piece: bytes) -> Beginning | None:
    """The first command of the stream that begins with PIECE; None when that is not whole. Raises BrokenStream."""
    walker = Walker()
    for command, start, end in walker.feed(piece):
        if command in (Command.SUBVOL, Command.SNAPSHOT):
            return Beginning.read(walker, walker.attributes(start, end))
        if command != Command.HEADER:
            raise BrokenStream("its first command is not one that begins a subvolume")
    return None
