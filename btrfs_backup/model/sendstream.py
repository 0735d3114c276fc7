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
_END = 21
# Far above what the kernel makes (64 KiB; 144 KiB in version 2), far below what a misplaced header would say.
_LONGEST = 4 << 20
_STRAY = "there is something in it that is not of its format"


class BrokenStream(ValueError):
    """What is wrong with a stream, for the user."""


class Checker:
    """Checks a stream that comes in pieces.

    A `btrfs send` that was stopped and continued starts again in the middle of its stream and exits with 0: whoever
    stores a stream unread has to check it.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._headed = False
        self._ended = False

    def feed(self, piece: bytes) -> None:
        """Take the next PIECE of the stream. Raises BrokenStream."""
        for command, _ in self._frames(piece):
            self._ended = command == _END

    def finish(self) -> None:
        """The stream is over. Raises BrokenStream when it is not whole."""
        if not self._ended:
            raise BrokenStream("it breaks off before its end")
        if self._rest:
            raise BrokenStream(_STRAY)

    def _frames(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        """The commands that are whole by now, each with its attributes."""
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
            if crc32c(_FRAME.pack(length, command, 0) + stream[body:end]) != crc:
                raise BrokenStream("a checksum in it is wrong")
            yield command, stream[body:end]
            at = end
        self._rest = stream[at:]
