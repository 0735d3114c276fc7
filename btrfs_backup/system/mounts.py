"""Which filesystem a path is on, read from /proc/self/mountinfo."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from posixpath import join, relpath

MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True)
class Mount:
    """A mounted filesystem.

    point: where it is mounted; root: which folder of the filesystem is seen there; type: e.g. btrfs.

    device: numbers that are the same for all mounts of one filesystem. id, parent: of this mount, and of the one that
    it is mounted on; the parent of the topmost one is not listed, or is that itself.
    """

    point: str
    root: str
    type: str
    device: str = ""
    id: int = field(default=0, compare=False)
    parent: int = field(default=0, compare=False)

    def inside(self, path: str) -> str:
        """The absolute PATH below the mount point as a path from the top of the filesystem, without leading slash."""
        return join(self.root, relpath(path, self.point)).removesuffix("/.").lstrip("/")

    def shows(self, path: str) -> bool:
        """Whether PATH, from the top of the filesystem without leading slash, can be seen below the mount point."""
        return f"/{path}/".startswith(f"{self.root.rstrip('/')}/")


def parse(text: str) -> list[Mount]:
    """The mounts in the order of the file (proc_pid_mountinfo(5)); lines that are not of its form are left out."""
    mounts = []
    for line in text.split("\n"):
        fields = line.split(" ")
        if "-" in fields[6:] and len(fields) > (dash := fields.index("-", 6)) + 1:
            ids = [int(field) for field in fields[:2] if field.isdecimal()]
            if len(ids) == 2:
                mounts.append(Mount(_unescape(fields[4]), _unescape(fields[3]), fields[dash + 1], fields[2], *ids))
    return mounts


def find(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The mount that the absolute PATH (without symbolic links) is on: found like the kernel does, from the root on.

    Others whose points are on the way may be covered by it, or by what it is mounted on.
    """
    ids = {mount.id for mount in mounts}
    # Compared by whole components: /home is no prefix of /home2.
    above = [mount for mount in mounts if f"{path}/".startswith(f"{mount.point.rstrip('/')}/")]
    found = None
    on = [mount for mount in above if mount.parent == mount.id or mount.parent not in ids]
    while on:
        found = min(reversed(on), key=lambda mount: len(mount.point))
        on = [mount for mount in above if mount.parent == found.id != mount.id]
    return found


def _unescape(field: str) -> str:
    """Blank, tab, newline and backslash are written as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
