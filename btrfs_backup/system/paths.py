"""Where a path stands on a host: what is there, and on which filesystem."""

import os
import re
import stat
from dataclasses import dataclass

from btrfs_backup.errors import Failure
from btrfs_backup.system import btrfs, mounts, tools
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
    ended, resolved = host.ended_together(tools.look(path), tools.resolve(path))
    looked, entered = _understood(ended, path)
    nearest = tools.ancestors(path)[-len(looked)]
    inode, _, mode = looked[0].partition(" ")
    if nearest != path:
        ended, resolved = host.ended_together(tools.look(nearest), tools.resolve(nearest))
        _, entered = _understood(ended, nearest)
    if resolved.status:
        raise CommandFailed(resolved, f"cannot resolve '{nearest}'")
    real = os.fsdecode(resolved.stdout).removesuffix("\n")
    table = host.read(mounts.MOUNTINFO)
    mount = mounts.find(mounts.parse(table or ""), real)
    if not mount:
        bind = "The root of a chroot has to be a mount: 'mount --bind FOLDER FOLDER' before 'chroot FOLDER'."
        hint = bind if table else f"Is {mounts.MOUNTINFO} readable?"
        raise Failure(f"cannot find out on which filesystem '{nearest}' is", hint)
    is_directory = stat.S_ISDIR(int(mode, 16))
    # Then PATH may exist all the same.
    if is_directory and not entered and mount.type != "autofs":
        raise CommandFailed(ended, f"cannot look at '{path}'")
    return PathInfo(
        real,
        exists=nearest == path,
        is_directory=is_directory,
        is_subvolume=mount.type == "btrfs" and inode == str(btrfs.SUBVOLUME_INODE),
        mount=mount,
    )


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
