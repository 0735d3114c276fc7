"""The only file that knows the command lines of btrfs-progs and what they print. No I/O here."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

from btrfs_backup.errors import Failure
from btrfs_backup.model.snapshot import STUB_INODE, Subvolume

Argv = tuple[str, ...]

NOT_PERMITTED = "Operation not permitted"
# What to say when it does not do what it says.
DOUBT = "Is the program 'btrfs' in PATH the one of btrfs-progs?"

# Inode number of the root of every subvolume (BTRFS_FIRST_FREE_OBJECTID).
SUBVOLUME_INODE = 256


def snapshot(subvolume: str, path: str, readonly: bool = True) -> Argv:
    return ("btrfs", "subvolume", "snapshot", *(["-r"] if readonly else []), subvolume, path)


def create(path: str) -> Argv:
    return ("btrfs", "subvolume", "create", path)


def send(path: str, parent: str | None, debug: bool = False, compressed: bool = False, data: bool = True) -> Argv:
    """COMPRESSED sends compressed extents as they are, which takes protocol 2; without DATA only their sizes."""
    options = [
        *(["-vv"] if debug else []),
        *(["--proto", "2", "--compressed-data"] if compressed else []),
        *([] if data else ["-q", "--no-data"]),
        *(["-p", parent] if parent else []),
    ]
    return ("btrfs", "send", *options, path)


BEGINNING = 512  # bytes of a stream, in which its first command is


def receive(folder: str, debug: bool) -> Argv:
    """Receives into FOLDER, confined to it: a stream may name any path (cmds/receive.c; -C is chroot(2))."""
    return ("btrfs", "receive", "-C", *(["-vv"] if debug else []), folder)


def delete(paths: Sequence[str], commit: bool = True) -> Argv:
    """Deletes what it can, goes on past errors; with COMMIT it waits for that which frees the names and the space."""
    return ("btrfs", "subvolume", "delete", *(["-c"] if commit else []), *paths)


def delete_by_id(number: int | str, mount_point: str) -> Argv:
    """Deletes the subvolume itself, whatever its path leads to by now.

    The mount point has to be the root of a subvolume; that of a bind mount of a folder is none.
    """
    return ("btrfs", "subvolume", "delete", "-i", str(number), mount_point)


# What a server declines that deletes its backups itself; does nothing elsewhere.
PROBE_DELETE: Argv = ("btrfs", "subvolume", "delete", "--help")


def sync(folder: str) -> Argv:
    """Waits until all subvolumes deleted so far on the filesystem of FOLDER are really gone."""
    return ("btrfs", "subvolume", "sync", folder)


def commit(folder: str) -> Argv:
    """Commits what was changed on the filesystem of FOLDER. Seen: it is silent about data that could not be written."""
    return ("btrfs", "filesystem", "sync", folder)


def make_writable(path: str, force: bool) -> Argv:
    """FORCE is needed for received subvolumes since btrfs-progs 5.14.2, and not known before."""
    return ("btrfs", "property", "set", *(["-f"] if force else []), "-ts", path, "ro", "false")


def get_readonly(path: str) -> Argv:
    """Prints `ro=true` or `ro=false`; unlike `list` and `show` it needs no rights."""
    return ("btrfs", "property", "get", "-ts", path, "ro")


def show(path: str) -> Argv:
    return ("btrfs", "subvolume", "show", path)


def list_children(folder: str, readonly_only: bool = False) -> Argv:
    """Lists the subvolumes directly below the subvolume that FOLDER is in, with their UUIDs and when they were made."""
    return ("btrfs", "subvolume", "list", "-o", "-c", "-u", "-q", "-R", *(["-r"] if readonly_only else []), folder)


def list_all(folder: str) -> Argv:
    """Lists all subvolumes of the filesystem of FOLDER, in the same form; their paths do not tell where they are."""
    return ("btrfs", "subvolume", "list", "-c", "-u", "-q", "-R", folder)


def resolve_id(number: int | str, mount_point: str) -> Argv:
    """Prints the path of a subvolume from the top of its filesystem."""
    return ("btrfs", "inspect-internal", "subvolid-resolve", str(number), mount_point)


def resolve_inode(number: int | str, subvolume: str) -> Argv:
    """Prints the paths of an inode in a subvolume, each with that of the subvolume in front."""
    return ("btrfs", "inspect-internal", "inode-resolve", str(number), subvolume)


def filesystem_show(mount_point: str) -> Argv:
    return ("btrfs", "filesystem", "show", mount_point)


def filesystem_among(fsid: str, uuids: Sequence[str]) -> str | None:
    """Which of UUIDS has the filesystem of which `stat -f -c %i` prints FSID; None when that is not known.

    fs/btrfs/super.c, btrfs_statfs: 64 bits, the halves of the UUID by exclusive or, and that with the subvolume's id.
    """
    if not re.fullmatch("[0-9a-f]{1,16}", fsid):
        return None
    # Without the lower half, where the id is.
    wanted = int(fsid, 16) >> 32
    words = {uuid: uuid.replace("-", "") for uuid in uuids if re.fullmatch(_UUID, uuid) and uuid != "-"}
    found = [uuid for uuid, word in words.items() if int(word[:8], 16) ^ int(word[16:24], 16) == wanted]
    return found[0] if len(found) == 1 else None


def usage(path: str) -> Argv:
    """How the filesystem of PATH is used, in bytes; needs no rights."""
    return ("btrfs", "filesystem", "usage", "-b", path)


def parse_usage(text: str) -> int | None:
    """Bytes that are free for data in what usage prints, None when it does not tell."""
    match = re.search(r"^[ \t]*Free \(estimated\):[ \t]*(\d+)", text, re.MULTILINE | re.ASCII)
    return int(match[1]) if match else None


def du(path: str) -> Argv:
    """How much data is below PATH, and how much of that nothing else holds, in bytes."""
    return ("btrfs", "filesystem", "du", "--raw", "-s", path)


def parse_du(text: str) -> int:
    """Bytes that nothing else holds. Raises Failure when the text is not of the expected form."""
    if not (match := re.search(r"^ *\d+ +(\d+) +(?:\d+|-) ", text, re.MULTILINE | re.ASCII)):
        raise _not_understood("filesystem du", text)
    return int(match[1])


VERSION: Argv = ("btrfs", "--version")
# Highest protocol that `btrfs send` of the running kernel can write (Linux >= 5.10).
STREAM_VERSION = "/sys/fs/btrfs/features/send_stream_version"
# With protocol 2 receivers before 6.0.2 could lose data, and before 6.2 could corrupt zstd (btrfs-progs CHANGES).
COMPRESSED_SENDER, COMPRESSED_RECEIVER = (6, 0), (6, 2)


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor number in what VERSION prints, (0, 0) when there are none."""
    match = re.search(r"\bv(\d+)\.(\d+)", text, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 0)


# A dash where there is none.
_UUID = "-|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ROW_START = re.compile(
    rf"^ID (\d+) gen \d+(?: cgen (\d+))? top level \d+ "
    rf"parent_uuid ({_UUID}) +received_uuid ({_UUID}) +uuid ({_UUID}) path ",
    re.MULTILINE | re.ASCII,
)


def parse_list(text: str, readonly: str = "") -> list[tuple[str, Subvolume]]:
    """What list_children prints, of all and of those READONLY: (path from the top of the filesystem, subvolume).

    Raises Failure when it is not of the expected form.
    """
    readonly_paths = {path for path, _ in _rows(readonly)}
    return [
        (path, replace(each, name=path.rpartition("/")[2], readonly=path in readonly_paths))
        for path, each in _rows(text)
    ]


def rows_below(text: str, start: str) -> str:
    """Those rows of a list whose paths begin with START. Raises Failure."""
    starts = [match.start() for match in _ROW_START.finditer(text)]
    rows = (text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=False))
    return "".join(row for row, (path, _) in zip(rows, _rows(text), strict=True) if path.startswith(start))


def _rows(text: str) -> list[tuple[str, Subvolume]]:
    """The path in each row of a list, and the subvolume without its name."""
    starts = list(_ROW_START.finditer(text))
    if text and not (starts and starts[0].start() == 0):
        raise _not_understood("subvolume list", text)
    # A path can hold newlines: it goes on until the next line that begins like a row.
    ends = [start.start() for start in starts[1:]] + [len(text)]
    rows = []
    for start, end in zip(starts, ends, strict=False):
        number, made, *uuids = start.groups()
        parent, received, uuid = map(_uuid, uuids)
        found = Subvolume("", uuid, parent, received, id=int(number), made_transid=_number(made or ""))
        rows.append((text[start.end() : end].removesuffix("\n"), found))
    return rows


def parse_show(text: str) -> Subvolume:
    """What show prints. Raises Failure when the text is not of the expected form."""
    identities, transids = "UUID|Parent UUID|Received UUID", "Gen at creation|Send transid|Receive transid"
    wanted = f"Name|{identities}|Subvolume ID|Flags|{transids}|Receive time"
    fields = re.findall(rf"^\t({wanted}):[ \t]*(.*)$", text, re.MULTILINE)
    # The names of its snapshots come last and may look like anything: of each field the first counts.
    found = dict(reversed(fields))
    uuids = [found.get(field, "") for field in ("UUID", "Parent UUID", "Received UUID")]
    if "Flags" not in found or not all(re.fullmatch(_UUID, each) for each in uuids):
        raise _not_understood("subvolume show", text)
    uuid, parent, received = map(_uuid, uuids)
    return Subvolume(
        found.get("Name", ""),
        uuid,
        parent,
        received,
        readonly="readonly" in found["Flags"].split(),
        # Seen: `btrfs property set -f ... ro false` clears the received UUID and leaves this.
        received_at=_time(found.get("Receive time", "-")),
        id=_number(found.get("Subvolume ID", "")) or 0,
        # btrfs-progs 5.10 does not tell it; 0 in what was not received.
        sent_transid=_number(found.get("Send transid", "")) or None,
        made_transid=_number(found.get("Gen at creation", "")),
        received_transid=_number(found.get("Receive transid", "")) or None,
    )


def parse_filesystem_uuid(text: str) -> str:
    """The UUID in what filesystem_show prints. Raises Failure when there is none."""
    match = re.search(r"uuid: ([-0-9a-f]{36})$", text, re.MULTILINE | re.ASCII)
    if not match:
        raise _not_understood("filesystem show", text)
    return match[1]


def remove_stubs(folder: str) -> Argv:
    """Removes the stubs in FOLDER that have the name of a snapshot, with whatever prefix; those below it stay."""
    stamp = "[0-9]" * 8 + "-" + "[0-9]" * 6
    stubs = ("-type", "d", "-inum", str(STUB_INODE), "-name", f"*{stamp}")
    return ("find", f"{folder}/", "-mindepth", "1", "-maxdepth", "1", *stubs, "-exec", "rmdir", "--", "{}", ";")


_PARENT_TROUBLE = re.compile(
    # That it cannot be found or reached (cmds/receive.c, process_snapshot).
    "cannot find parent subvol|parent subvol(ume)? is not reachable|changed your default"
    # Seen: somebody has changed it, and what the increment builds upon is not there.
    "|^ERROR: .*(No such file or directory|Not a directory|Is a directory|Directory not empty)",
    re.MULTILINE,
)


def blames_parent(stderr: str) -> bool:
    """Whether `btrfs receive` says that it cannot use the parent of an increment."""
    return bool(_PARENT_TROUBLE.search(stderr))


def _time(word: str) -> datetime | None:
    """Such as `2026-11-24 07:57:41 +0000`; None for a dash. What cannot be read counts as long ago."""
    try:
        return datetime.strptime(word.strip(), "%Y-%m-%d %H:%M:%S %z") if word != "-" else None
    except ValueError:
        return datetime.fromtimestamp(0, timezone.utc)


def _number(word: str) -> int | None:
    return int(word) if re.fullmatch("[0-9]+", word) else None


def _uuid(word: str) -> str:
    return "" if word == "-" else word


def _not_understood(what: str, text: str) -> Failure:
    return Failure(
        f"cannot understand what 'btrfs {what}' printed: {text[:200]!r}",
        DOUBT,
    )
