"""The format of what `btrfs send` writes (Linux, fs/btrfs/send.h): a header, then frames, the last one END.

All numbers are little-endian. Header: the magic, u32 version. Frame: u32 length of what follows, u16 command, u32
CRC-32C of the whole frame with this field as zero, then attributes.
"""

import struct
from collections.abc import Iterator

from btrfs_backup.model.crc32c import crc32c

_MAGIC = b"btrfs-stream\0"
_HEADER = struct.Struct(f"<{len(_MAGIC)}sI")
_FRAME = struct.Struct("<IHI")
_SNAPSHOT = 2
_END = 21
_UPDATE_EXTENT = 22
_SIZE = 4
_CLONE_CTRANSID = 21
_ATTRIBUTE = struct.Struct("<HH")  # type, length of the value that follows
# Far above what the kernel makes (64 KiB; 144 KiB in version 2), far below what a misplaced header would say.
_LONGEST = 4 << 20
_STRAY = "there is something in it that is not of its format"


class BrokenStream(ValueError):
    """What is wrong with a stream, for the user. midway: it is not just that it breaks off."""

    def __init__(self, message: str, midway: bool = True) -> None:
        super().__init__(message)
        self.midway = midway


class Checker:
    """Checks a stream that comes in pieces.

    A `btrfs send` that was stopped and continued starts again in the middle of its stream and exits with 0: whoever
    stores a stream unread has to check it.
    """

    def __init__(self, checksums: bool = True) -> None:
        self._checksums = checksums
        self._rest = b""
        self._headed = False
        self._ended = False

    def feed(self, piece: bytes) -> None:
        """Take the next PIECE of the stream. Raises BrokenStream."""
        for _ in self.frames(piece):
            pass

    def finish(self) -> None:
        """The stream is over. Raises BrokenStream when it is not whole."""
        if not self._ended:
            raise BrokenStream("it breaks off before its end", midway=False)
        if self._rest:
            raise BrokenStream(_STRAY)

    def frames(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """Take the next PIECE; the commands that are whole by now, each with its attributes. Raises BrokenStream."""
        stream = self._rest + piece
        at = 0
        if not self._headed:
            if len(stream) < _HEADER.size:
                self._rest = stream
                return
            if _HEADER.unpack_from(stream)[0] != _MAGIC:
                raise BrokenStream("it does not begin like the output of 'btrfs send'")
            self._headed, at = True, _HEADER.size
        while len(stream) - at >= _FRAME.size:
            length, command, crc = _FRAME.unpack_from(stream, at)
            if length > _LONGEST or self._ended:
                raise BrokenStream(_STRAY)
            body, end = at + _FRAME.size, at + _FRAME.size + length
            if end > len(stream):
                break
            if self._checksums and crc32c(_FRAME.pack(length, command, 0) + stream[body:end]) != crc:
                raise BrokenStream("a checksum in it is wrong")
            self._ended = command == _END
            yield command, stream[body:end]
            at = end
        self._rest = stream[at:]


class Measure:
    """Tells the size of a stream from the same stream without file data (`btrfs send --no-data`), in pieces.

    There the kernel puts UPDATE_EXTENT in place of the data, with its SIZE (Linux, fs/btrfs/send.c,
    send_update_extent). Seen: 9,437,184 bytes of data that way, and a real stream of 9,444,196 bytes.
    """

    def __init__(self) -> None:
        self._stream = Checker(checksums=False)
        self._size = _HEADER.size
        self._failed = False

    @property
    def size(self) -> int | None:
        """Bytes of the whole stream, or None when it is not known, or not yet."""
        try:
            self._stream.finish()
        except BrokenStream:
            return None
        return None if self._failed else self._size

    def feed(self, piece: bytes) -> None:
        """Take the next PIECE of the stream without data. What is broken has no size."""
        try:
            for command, attributes in self._stream.frames(piece):
                self._size += _FRAME.size + len(attributes)
                if command == _UPDATE_EXTENT:
                    self._size += _extent(attributes)
        except (BrokenStream, struct.error):
            self._failed = True


def _extent(attributes: bytes) -> int:
    at = 0
    while at < len(attributes):
        kind, length = _ATTRIBUTE.unpack_from(attributes, at)
        at += _ATTRIBUTE.size
        if kind == _SIZE:
            return int.from_bytes(attributes[at : at + length], "little")
        at += length
    return 0


_LONGEST_HEAD = 4096  # bytes, far above a name and its numbers


def is_whole_head(beginning: bytes) -> bool:
    """Whether the BEGINNING of a stream holds its first command, or that will never be known."""
    at = _HEADER.size
    if len(beginning) >= _LONGEST_HEAD or (len(beginning) >= at and not beginning.startswith(_MAGIC)):
        return True
    return (
        len(beginning) >= at + _FRAME.size and len(beginning) >= at + _FRAME.size + _FRAME.unpack_from(beginning, at)[0]
    )


def built_on(beginning: bytes) -> int | None:
    """The transaction in which the parent of a stream was last changed, from the BEGINNING of the stream.

    None when that is not known, or it is a full one. `btrfs receive` does not look at it.
    """
    at = _HEADER.size + _FRAME.size
    if not beginning.startswith(_MAGIC) or len(beginning) < at:
        return None
    length, command, _ = _FRAME.unpack_from(beginning, _HEADER.size)
    attributes = beginning[at : at + length]
    if command != _SNAPSHOT or len(attributes) < length:
        return None
    place = 0
    while place + _ATTRIBUTE.size <= length:
        kind, size = _ATTRIBUTE.unpack_from(attributes, place)
        place += _ATTRIBUTE.size
        if kind == _CLONE_CTRANSID:
            return int.from_bytes(attributes[place : place + size], "little")
        place += size
    return None
