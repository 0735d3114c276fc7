"""What may come in from another machine: its streams are judged frame by frame before a receiver sees them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from btrfs_backup.model.sendstream import (
    Attribute,
    Beginning,
    BrokenStream,
    Command,
    Found,
    Piece,
    Walker,
    uuid_bytes,
    uuid_text,
)

# What each command of a transfer has to have, and after a bar what it may have besides.
_SHAPES = """
    SUBVOL PATH UUID CTRANSID
    SNAPSHOT PATH UUID CTRANSID CLONE_UUID CLONE_CTRANSID
    MKFILE PATH INO
    MKDIR PATH INO
    MKNOD PATH INO RDEV MODE
    MKFIFO PATH INO | RDEV MODE
    MKSOCK PATH INO | RDEV MODE
    SYMLINK PATH INO PATH_LINK
    RENAME PATH PATH_TO
    LINK PATH PATH_LINK
    UNLINK PATH
    RMDIR PATH
    SET_XATTR PATH XATTR_NAME XATTR_DATA
    REMOVE_XATTR PATH XATTR_NAME
    WRITE PATH FILE_OFFSET DATA
    CLONE PATH FILE_OFFSET CLONE_LEN CLONE_UUID CLONE_CTRANSID CLONE_PATH CLONE_OFFSET
    TRUNCATE PATH SIZE
    CHMOD PATH MODE
    CHOWN PATH UID GID
    UTIMES PATH ATIME MTIME CTIME | OTIME
    END
    FALLOCATE PATH FALLOCATE_MODE FILE_OFFSET SIZE
    FILEATTR PATH FILEATTR
    ENCODED_WRITE PATH FILE_OFFSET UNENCODED_FILE_LEN UNENCODED_LEN UNENCODED_OFFSET DATA | COMPRESSION ENCRYPTION
    ENABLE_VERITY PATH VERITY_ALGORITHM VERITY_BLOCK_SIZE VERITY_SALT_DATA VERITY_SIG_DATA
"""
# These have an empty path where they are for the subvolume itself.
_ON_TOP = frozenset(
    (Command.SET_XATTR, Command.REMOVE_XATTR, Command.CHMOD, Command.CHOWN, Command.UTIMES, Command.FILEATTR)
)
# The only ones of which more than their paths is judged.
_SPECIAL = frozenset((Command.SUBVOL, Command.SNAPSHOT, Command.CLONE, Command.ENCODED_WRITE))
_OUTSIDE = frozenset((b"", b".", b".."))
_UNENCODED = (Attribute.UNENCODED_FILE_LEN, Attribute.UNENCODED_LEN, Attribute.UNENCODED_OFFSET)
_ANY_NUMBER = 1 << 62  # of streams
_MOST_UNENCODED = 1 << 20  # bytes of an extent that was compressed; the kernel makes 128 KiB at most


@dataclass(frozen=True)
class Expected:
    """The stream that a Gate lets through: of which subvolume, and upon which parent (see Beginning).

    plain: tells whether a path in the parent leads to its end without a symlink on its way. `btrfs receive` follows
    those when it clones from the parent, also out of the folder that -C confines it to. others: gives the same for what
    has another UUID, or raises BrokenStream; None where nothing may be cloned from that.
    """

    name: bytes
    uuid: str
    parent: str
    plain: Callable[[bytes], bool]
    others: Callable[[str], Callable[[bytes], bool]] | None = None


class Gate:
    """Lets the EXPECTED streams of another machine through, frame by frame, and nothing else.

    admit: where it is not known before which streams come, tells what is expected when one begins, or raises
    BrokenStream; then any number may come.
    begun: the first command of each stream that has passed. What a frame does within the new subvolume is not judged:
    `btrfs receive` follows symlinks there, and -C is what confines it.
    """

    def __init__(self, expected: Sequence[Expected], admit: Callable[[Beginning], Expected] | None = None) -> None:
        self.begun: list[Beginning] = []
        self._expected = list(expected)
        self._admit = admit
        self._walker = Walker(_ANY_NUMBER if admit else len(expected))
        self._shapes = _shapes()
        self._fresh = False  # the header of a stream has passed, and nothing else of it
        self._plain: tuple[bytes, bytes] | None = None  # the UUID and the path there that was found plain last
        self._released = self._judging = 0  # bytes of what is in the walker

    def feed(self, piece: Piece) -> memoryview:
        """Take the next PIECE: what may go on. Raises BrokenStream, and nothing of the frame it names has gone on."""
        walker, passed, self._released = self._walker, 0, 0
        for command, start, passed in walker.feed(piece):
            self._judging = start
            if not command:
                self._fresh = True  # a header
                continue
            found = Found()
            try:
                found = walker.attributes(start, passed)
                self._judge(command, found)
            except BrokenStream as error:
                what = f"{Command(command).name} {walker.value(Attribute.PATH, found)[:500]!r}"
                raise BrokenStream(f"frame {walker.number} is refused: {what}: {error}") from None
        return memoryview(walker.buffer)[self._released : passed]

    def release(self) -> memoryview:
        """All that may go on before the frame that is being judged, and has not gone on."""
        released, self._released = self._released, self._judging
        return memoryview(self._walker.buffer)[released : self._judging]

    def finish(self) -> None:
        """The streams are over. Raises BrokenStream when they are not whole."""
        self._walker.finish()

    def _judge(self, command: int, found: Found) -> None:
        walker = self._walker
        shape = self._shapes.get(command)
        if not (shape and shape.required <= found.keys() <= shape.allowed):
            raise BrokenStream("such a command, with these attributes, is in no transfer")
        for kind in shape.paths:
            path = walker.value(kind, found)
            if b"\0" in path or (not _OUTSIDE.isdisjoint(path.split(b"/")) and (path or command not in _ON_TOP)):
                raise BrokenStream(f"{path[:500]!r} may lead out of the subvolume")
        if not self._fresh and command not in _SPECIAL:
            return
        if self._fresh or command in (Command.SUBVOL, Command.SNAPSHOT):
            self._begin(Beginning.read(walker, found) if self._fresh else None)
        elif command == Command.CLONE:
            self._judge_clone(walker.value(Attribute.CLONE_UUID, found), walker.value(Attribute.CLONE_PATH, found))
        else:
            # Where `btrfs receive` has to decompress, it allocates and reads as much of its memory as these say.
            length, whole, offset = (walker.integer(kind, found) for kind in _UNENCODED)
            if offset + length > whole or whole > _MOST_UNENCODED:
                raise BrokenStream("the lengths in it are out of bounds")

    def _begin(self, beginning: Beginning | None) -> None:
        if beginning and self._admit:
            self._expected.append(self._admit(beginning))
        expected = self._expected[len(self.begun) - (not self._fresh)]
        wanted = expected.name, expected.uuid, expected.parent
        if not beginning or (beginning.name, beginning.uuid, beginning.parent) != wanted:
            raise BrokenStream(f"it makes something else than {expected.name!r} as it is expected")
        self.begun.append(beginning)
        self._fresh, self._plain = False, None

    def _judge_clone(self, source: bytes, path: bytes) -> None:
        expected = self._expected[len(self.begun) - 1]
        if source == uuid_bytes(expected.uuid):
            return
        if expected.parent and source == uuid_bytes(expected.parent):
            plain = expected.plain
        elif expected.others:
            plain = expected.others(uuid_text(source))
        else:
            raise BrokenStream("it takes data from another subvolume than itself and its parent")
        if (source, path) != self._plain and not plain(path):
            raise BrokenStream(f"{path[:500]!r} leads through a symlink in the parent")
        self._plain = source, path


@dataclass(frozen=True)
class _Shape:
    """The attributes of a command: those that it has to have, may have, and those that are paths in the subvolume."""

    required: frozenset[int]
    allowed: frozenset[int]
    paths: tuple[int, ...]


@cache
def _shapes() -> dict[int, _Shape]:
    shapes = {}
    for line in _SHAPES.strip().splitlines():
        (command, *names), optional = (each.split() for each in f"{line}|".split("|")[:2])
        required = frozenset(Attribute[name] for name in names)
        paths = [Attribute.PATH, Attribute.PATH_TO, Attribute.CLONE_PATH]
        if command == "LINK":  # that of a symlink is its target, which is anything
            paths.append(Attribute.PATH_LINK)
        allowed = required | {Attribute[name] for name in optional}
        shapes[int(Command[command])] = _Shape(
            required, allowed, tuple(int(each) for each in paths if each in required)
        )
    return shapes
