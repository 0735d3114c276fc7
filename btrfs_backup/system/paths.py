"""Where a path stands on a host: what is there, and on which filesystem."""

import os
import re
import stat
from dataclasses import dataclass
from posixpath import join

from btrfs_backup.errors import Failure
from btrfs_backup.model import stage
from btrfs_backup.system import btrfs, hints, mounts, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.host import Host
from btrfs_backup.system.mounts import Mount
from btrfs_backup.system.process import CommandFailed, Ended


@dataclass(frozen=True)
class PathInfo:
    """A path as it was found, or its nearest existing parent folder.

    path: the path itself or that parent, without symbolic links; exists: whether it is the path itself.
    """

    path: str
    exists: bool
    is_directory: bool
    is_subvolume: bool
    mount: Mount

    @property
    def on_btrfs(self) -> bool:
        return self.mount.type == "btrfs"


def examine(host: Host, path: str) -> PathInfo:
    """Look where the absolute PATH stands. Changes nothing. Raises Failure."""
    nearest, inode, mode, closed, real = _far(host, path) if host.connection else _near(path)
    table = host.read(mounts.MOUNTINFO)
    mount = mounts.find(mounts.parse(table or ""), real)
    if not mount:
        bind = "The root of a chroot has to be a mount: 'mount --bind FOLDER FOLDER' before 'chroot FOLDER'."
        hint = bind if table else f"Is {mounts.MOUNTINFO} readable?"
        raise Failure(f"cannot find out on which filesystem '{nearest}' is", hint)
    is_directory = stat.S_ISDIR(mode)
    # Then PATH may exist all the same.
    if is_directory and closed and mount.type != "autofs":
        raise closed
    return PathInfo(
        real,
        exists=nearest == path,
        is_directory=is_directory,
        is_subvolume=mount.type == "btrfs" and inode == btrfs.SUBVOLUME_INODE,
        mount=mount,
    )


def asked(path: str) -> list[Argv]:
    """What `examine` asks another machine."""
    return [tools.look(path), tools.resolve(path), tools.read(mounts.MOUNTINFO)]


def _near(path: str) -> tuple[str, int, int, Failure | None, str]:
    """What exists of PATH on this machine: that path, its inode number and mode, why it cannot be entered, and the path
    without symbolic links. Raises Failure."""
    for nearest in tools.ancestors(path):
        try:
            closed = _closed(nearest)  # this comes first: it mounts what is mounted when it is used
            found = os.stat(nearest)
            return nearest, found.st_ino, found.st_mode, closed, os.path.realpath(nearest)
        except OSError:
            continue
        except ValueError as error:
            raise Failure(f"cannot look at {path!r}: {error}", "No file can have that name.") from None
    raise Failure(f"cannot look at '{path}'", "Is there a folder '/' at all?")


def _closed(folder: str) -> Failure | None:
    """Why FOLDER cannot be entered."""
    try:
        os.stat(join(folder, "."))
    except OSError as error:
        why = error.strerror or str(error)
        return Failure(f"cannot look at '{folder}': {why}", hints.hint(why, "", os.geteuid() == 0))
    return None


def _far(host: Host, path: str) -> tuple[str, int, int, Failure | None, str]:
    """The same on another machine."""
    ended, resolved = host.ended_together(tools.look(path), tools.resolve(path))
    looked, entered = _understood(ended, path)
    nearest = tools.ancestors(path)[-len(looked)]
    inode, _, mode = looked[0].partition(" ")
    if nearest != path:
        ended, resolved = host.ended_together(tools.look(nearest), tools.resolve(nearest))
        _, entered = _understood(ended, nearest)
    if resolved.status:
        raise CommandFailed(resolved, f"cannot resolve '{nearest}'")
    closed = None if entered else CommandFailed(ended, f"cannot look at '{path}'")
    return nearest, int(inode), int(mode, 16), closed, os.fsdecode(resolved.stdout).removesuffix("\n")


def _understood(ended: Ended, path: str) -> tuple[list[str], bool]:
    """What a look at PATH that has ENDED prints: a row for each that exists, the deepest first; and whether that could
    be entered. Raises Failure."""
    ancestors = tools.ancestors(path)
    looked = os.fsdecode(ended.stdout).split("\n")[:-1]
    # Exit status 1 is normal: some do not exist.
    if ended.status not in (0, 1) or not looked:
        raise CommandFailed(ended, f"cannot look at '{path}'")
    entered = len(looked) == len(ancestors) + 1 and looked[0] == looked[1]
    if entered:
        del looked[0]  # a folder is told twice
    if len(looked) > len(ancestors) or not all(re.fullmatch(r"\d+ [0-9a-f]+", row) for row in looked):
        raise Failure(
            f"cannot understand what 'stat' printed: {looked[0][:200]!r}",
            "A login shell must not print anything by itself when commands are run by ssh.",
        )
    return looked, entered


def is_plain(top: str, path: bytes) -> bool:
    """Whether PATH below the folder TOP on this machine leads to its end without a symbolic link."""
    at = os.fsencode(top)
    for component in path.split(b"/"):
        at = os.path.join(at, component)
        if os.path.islink(at):
            return False
    return True


def is_complete(path: str) -> bool:
    """Whether PATH is a read-only subvolume, which `btrfs receive` makes of it at last."""
    try:
        return os.lstat(path).st_ino == btrfs.SUBVOLUME_INODE and not os.access(path, os.W_OK)
    except OSError:
        return False


def entries(folder: str) -> dict[str, str]:
    """The same as `tools.entries` lists, on this machine: the kind of each entry, by its path from FOLDER.

    Raises OSError.
    """
    found: dict[str, str] = {}
    for name, kind in _kinds(folder):
        found[name] = kind
        if stage.name_of(name) and kind == stage.FOLDER:
            for attempt, its in _kinds(join(folder, name)):
                found[f"{name}/{attempt}"] = its
                if its == stage.FOLDER:
                    inside = _kinds(join(folder, name, attempt))
                    found |= {f"{name}/{attempt}/{each}": what for each, what in inside}
    return found


def _kinds(folder: str) -> list[tuple[str, str]]:
    with os.scandir(folder) as listed:
        return [(entry.name, _kind(entry)) for entry in listed]


def _kind(entry: "os.DirEntry[str]") -> str:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # it has gone
        return stage.FILE
    if not stat.S_ISDIR(found.st_mode):
        return stage.FILE
    return stage.SUBVOLUME if found.st_ino == btrfs.SUBVOLUME_INODE else stage.FOLDER
