"""The data extents of subvolumes on this machine, and who holds them, by ioctls of btrfs (linux/btrfs.h). Root only."""

import fcntl
import struct
from array import array
from collections.abc import Iterator

from btrfs_backup.model.sizes import extent

_TREE_SEARCH, _LOGICAL_INO = 0xC0709411, 0xC038943B  # BTRFS_IOC_TREE_SEARCH_V2, BTRFS_IOC_LOGICAL_INO_V2
_TOP, _ROOT_TREE, _ROOT_BACKREF = 5, 1, 144  # BTRFS_FS_TREE_OBJECTID, BTRFS_ROOT_TREE_OBJECTID, BTRFS_ROOT_BACKREF_KEY
_FIRST, _EXTENT_DATA = 256, 108  # BTRFS_FIRST_FREE_OBJECTID, BTRFS_EXTENT_DATA_KEY
_ROOM = 1 << 18  # bytes for items
_LAST = (1 << 64) - 1
_SEARCH = struct.Struct("=7Q4L4QQ")  # struct btrfs_ioctl_search_args_v2
_HEADER = struct.Struct("=QQQLL")  # struct btrfs_ioctl_search_header
_PLACE = struct.Struct("<QQ")  # disk_bytenr and disk_num_bytes of struct btrfs_file_extent_item
_TYPE_AT, _PLACE_AT = 20, 21  # where these are in it; the type is 0 for what is in the item itself
_IGNORE_OFFSET = 1  # any part of the extent counts
_HOLDERS, _MOST_HOLDERS = 1 << 12, 1 << 24  # bytes for what is told of the holders of an extent


def of(folder: int, subvolume: int) -> Iterator[list[int]]:
    """The data extents of the SUBVOLUME of that number, some at a time. FOLDER: a descriptor. Raises OSError."""
    for buffer, items in _items(folder, subvolume, _FIRST << 72 | _EXTENT_DATA << 64, _EXTENT_DATA):
        places = (_PLACE.unpack_from(buffer, at + _PLACE_AT) for _, at in items if buffer[at + _TYPE_AT])
        yield [extent(where, size) for where, size in places if where]  # without holes


def subvolumes(folder: int) -> set[int]:
    """The numbers of all subvolumes of the filesystem, without those that are being deleted. Raises OSError."""
    found = {_TOP}
    for _, items in _items(folder, _ROOT_TREE, _FIRST << 72 | _ROOT_BACKREF << 64, _ROOT_BACKREF):
        found.update(number for number, _ in items)
    return found


def _items(folder: int, tree: int, first: int, wanted: int) -> Iterator[tuple[bytearray, list[tuple[int, int]]]]:
    """The items in a TREE from that key on which are of the type WANTED, some at a time: a buffer, and of each item
    the number that its key begins with, and where it is in there. Raises OSError."""
    buffer = bytearray(_SEARCH.size + _ROOM)
    while True:
        key = (first >> 72, _LAST, first & _LAST, _LAST, 0, _LAST, first >> 64 & 255, wanted)
        _SEARCH.pack_into(buffer, 0, tree, *key, _LAST >> 32, 0, 0, 0, 0, 0, _ROOM)
        fcntl.ioctl(folder, _TREE_SEARCH, buffer)
        count = _SEARCH.unpack_from(buffer)[9]
        if not count:
            return
        found, at = [], _SEARCH.size
        for _ in range(count):
            _, number, offset, kind, length = _HEADER.unpack_from(buffer, at)
            at += _HEADER.size
            if kind == wanted:
                found.append((number, at))
            at += length
        yield buffer, found
        first = (number << 72 | kind << 64 | offset) + 1


def holders(folder: int, start: int) -> set[int] | None:
    """The numbers of the subvolumes that hold the extent at START; None for too many. Raises OSError."""
    for room in (_HOLDERS, _MOST_HOLDERS):
        told = array("Q", bytes(room))  # struct btrfs_data_container
        address, _ = told.buffer_info()
        asked = struct.pack("=7Q", start, room, 0, 0, 0, _IGNORE_OFFSET, address)
        fcntl.ioctl(folder, _LOGICAL_INO, asked)
        _, _, count, missed = struct.unpack_from("=4L", told)
        if not missed:
            return set(told[4 : 2 + count : 3])  # behind the inode and the offset of each
    return None
