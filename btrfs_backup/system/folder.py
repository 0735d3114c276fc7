"""Where streams come from and go to: a folder of snapshots or backups on a host, and a shell command."""

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from posixpath import basename, join, relpath

from btrfs_backup.errors import Failure
from btrfs_backup.model import mark
from btrfs_backup.model.inventory import Inventory
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.system import btrfs, ssh
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.host import Host
from btrfs_backup.system.mounts import Mount
from btrfs_backup.system.paths import Standing
from btrfs_backup.system.process import Command, CommandFailed, Pipeline

# A login shell gets a command line as one argument, of 128 KiB at most (execve(2), MAX_ARG_STRLEN).
_LONGEST_LINE = 120_000
_BOOT_ID = "/proc/sys/kernel/random/boot_id"  # random(4)
# It has a folder for each filesystem that is mounted. Seen: each mounting gets a new inode number; with a second mount
# of the same filesystem, and a remount, it stays.
_MOUNTED = "/sys/fs/btrfs"
_FS_INFO = 0x8400941F  # BTRFS_IOC_FS_INFO: what it tells has 1024 bytes, the UUID from the 16th on


@dataclass(frozen=True)
class Sending:
    """How a stream is made. compress: method on the way through ssh, or "no"; compressed_data: send protocol 2."""

    debug: bool = False
    compress: str = "no"
    compressed_data: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder that holds snapshots or backups. path: absolute, on HOST."""

    host: Host
    path: str

    def at(self, name: str) -> str:
        return join(self.path, name)

    def free(self, standing: Standing) -> int | None:
        """Bytes that are free on its filesystem, None when that cannot be told. Raises Failure."""
        ended = self.host.ended(btrfs.usage(standing.path))
        return None if ended.status else btrfs.parse_usage(os.fsdecode(ended.stdout))

    def create(self) -> None:
        """Make it, with its parents. Raises Failure."""
        self.host.run(("mkdir", "-p", "--", self.path), f"cannot create the folder '{self.path}'")

    def remove(self) -> None:
        """Remove it; it has to be empty. Raises Failure."""
        self.host.run(("rmdir", "--", self.path), f"cannot remove the folder '{self.path}'")

    def filesystem(self, standing: Standing) -> str:
        """UUID of the filesystem that it is on. Raises Failure."""
        known = self._identified(standing.path) if self.host.connection else _filesystem_here(standing.path)
        if known:
            return known
        # Works for mount points only, and when no other mount of btrfs is covered. Seen: it overlooks one while other
        # filesystems are mounted and unmounted.
        argv = btrfs.filesystem_show(standing.mount.point)
        ended = self.host.ended(argv)
        trying = f"cannot identify the filesystem of '{self.path}'"
        printed = self.host.run(argv, trying) if ended.status else os.fsdecode(ended.stdout)
        return btrfs.parse_filesystem_uuid(printed)

    def _identified(self, path: str) -> str | None:
        """UUID of the filesystem of PATH among those that are mounted. Raises Failure."""
        mounted = ("find", _MOUNTED + "/", "-mindepth", "1", "-maxdepth", "1", "-name", "*-*-*-*-*")
        fsid, found = self.host.ended_together(("stat", "-f", "-c", "%i", "--", path), mounted)
        uuids = [basename(each) for each in os.fsdecode(found.stdout).split()]
        return btrfs.filesystem_among(os.fsdecode(fsid.stdout).strip(), uuids)

    def look(self, naming: Naming, standing: Standing, names_suffice: bool = False) -> Inventory:
        """What it holds under names of NAMING. Raises Failure.

        The number of processes does not depend on how much that is, but for what seems to be cut off. When
        NAMES_SUFFICE, a user without the right to list subvolumes gets them without UUIDs, one process for each.
        """
        if not standing.exists:
            return Inventory(exists=False)
        lists = [btrfs.list_children(self.path), btrfs.list_children(self.path, readonly_only=True)]
        endings = self.host.ended_together(self._find(), *lists)
        without_rights = names_suffice and endings[1].status and btrfs.NOT_PERMITTED in endings[1].said
        for ended in endings[:1] if without_rights else endings:
            if ended.status:
                raise CommandFailed(ended, f"cannot list what is in '{self.path}'")
        found, listed, readonly = (os.fsdecode(ended.stdout) for ended in endings)
        entries = _entries(found)
        ours = {name: is_subvolume for name, is_subvolume in entries.items() if name in naming}
        if without_rights:
            subvolumes = {name: self._without_uuids(name) for name in ours if ours[name]}
        else:
            subvolumes = _subvolumes(btrfs.parse_list(listed, readonly), standing.mount.inside(standing.path))
        if unlisted := sorted(name for name, is_subvolume in ours.items() if is_subvolume and name not in subvolumes):
            raise Failure(
                f"'{self.at(unlisted[0])}' is a subvolume, but 'btrfs subvolume list' does not show it once",
                "Look at it with 'btrfs subvolume show'; delete or rename it if it is not yours.",
            )
        return Inventory(
            subvolumes={name: self._looked_at(subvolumes[name]) for name in sorted(ours) if ours[name]},
            others=frozenset(name for name in ours if not ours[name]),
            marks=frozenset(name for name in map(mark.marked, entries) if name and name in naming),
        )

    def _without_uuids(self, name: str) -> Subvolume:
        trying = f"cannot ask whether '{self.at(name)}' is read-only"
        return Subvolume(name, "", readonly="ro=true" in self.host.run(btrfs.get_readonly(self.at(name)), trying))

    def names(self) -> list[str]:
        """The names of all its entries. Raises Failure."""
        return list(self._entries())

    def _entries(self) -> dict[str, bool]:
        return _entries(self.host.run(self._find(), f"cannot list '{self.path}'"))

    def subvolumes_below(self, mount: Mount, wanted: Callable[[str], bool]) -> list[str]:
        """The subvolumes in it whose names are WANTED, each behind those in it, as paths from here. Raises Failure.

        MOUNT: the one it is on; its own path has to be without symbolic links.
        """
        found = []
        for name in [name for name, is_subvolume in self._entries().items() if is_subvolume and wanted(name)]:
            listed = self.host.run(btrfs.list_children(self.at(name)), f"cannot list what is in '{self.at(name)}'")
            inside = mount.inside(self.path)
            below = [path for path, _ in btrfs.parse_list(listed) if path.startswith(f"{join(inside, name)}/")]
            found += [*(relpath(path, inside) for path in below), name]
        return found

    def _find(self) -> Argv:
        # Names may hold newlines, hence -print0; the path of a subvolume comes twice. The slash follows a link.
        inode = str(btrfs.SUBVOLUME_INODE)
        test = ("-inum", inode, "-print0", "-print0", "-o", "-print0")
        return ("find", self.path + "/", "-mindepth", "1", "-maxdepth", "1", *test)

    def _looked_at(self, entry: Subvolume) -> Subvolume:
        """ENTRY as it is shown when it is listed as writable: on this it depends whether it is deleted."""
        if entry.readonly or not entry.uuid:
            return entry
        return replace(self.show(entry.name), name=entry.name, parent_received_uuid=entry.parent_received_uuid)

    def show(self, name: str) -> Subvolume:
        """What btrfs tells of the subvolume NAME in it. Raises Failure."""
        printed = self.host.run(btrfs.show(self.at(name)), f"cannot look at '{self.at(name)}'")
        return btrfs.parse_show(printed)

    def mounting(self, filesystem: str) -> str:
        """What is another one whenever the FILESYSTEM, by its UUID, is mounted anew. Raises Failure."""
        asked = (("cat", "--", _BOOT_ID), ("stat", "-c", "%i", "--", f"{_MOUNTED}/{filesystem}"))
        return " ".join(os.fsdecode(ended.stdout).strip() for ended in self.host.ended_together(*asked))

    def mark(self, names: Sequence[str]) -> None:
        """Mark the backups NAMES as not known to be on disk. Raises Failure.

        The folder has to exist: when it is gone, so is its disk.
        """
        for some in portions(names, self._mark):
            self.host.run(("mkdir", "--", *map(self._mark, some)), f"cannot mark a transfer in '{self.path}'")

    def unmark(self, names: Sequence[str]) -> None:
        """Remove the marks of NAMES, and have that on disk: a power cut must not bring them back. Raises Failure."""
        trying = f"cannot remove the mark of a transfer in '{self.path}'"
        for some in portions(names, self._mark):
            self.host.run(("rmdir", "--", *map(self._mark, some)), trying)
        if names:
            self.write_out()

    def _mark(self, name: str) -> str:
        return self.at(mark.mark(name))

    def writing_out(self) -> Command:
        """What has all that its filesystem holds on disk. Raises Failure."""
        return self.host.command(self._writing_out())

    def write_out(self) -> None:
        """Have all that its filesystem holds on disk. Raises Failure."""
        self.host.run(self._writing_out(), f"cannot write out the filesystem of '{self.path}'")

    def _writing_out(self) -> Argv:
        # Without that, a backup whose machine loses its power within half a minute is read-only and has its received
        # UUID afterwards, and lacks data. It fails when data could not be written since (syncfs(2)).
        return ("sync", "-f", "--", self.path)

    def delete(self, names: Sequence[str], convert_rw: bool = False) -> dict[str, Failure]:
        """Delete the subvolumes NAMES; what could not be deleted, with the reason."""
        failures: dict[str, Failure] = {}
        # One by one when they are made writable: nobody may find several left half-way.
        for some in [[name] for name in names] if convert_rw else portions(names, self.at):
            try:
                for name in some if convert_rw else ():
                    self._make_writable(name)
                self.host.run(btrfs.delete([self.at(name) for name in some]), f"cannot delete in '{self.path}'")
            except Failure as failure:
                failures |= dict.fromkeys(self._still_there(some), failure)
        supposed = [name for name in names if name not in failures]
        undone = f"'btrfs subvolume delete' did not fail, but what it deleted is still there, in '{self.path}'"
        return failures | dict.fromkeys(self._still_there(supposed), Failure(undone, btrfs.DOUBT))

    def sync(self) -> None:
        """Wait until deleted subvolumes are really gone. Raises Failure.

        Seen: the kernel begins with them up to half a minute later, but at once behind a commit.
        """
        for argv in (btrfs.commit(self.path), btrfs.sync(self.path)):
            self.host.run(argv, f"cannot wait for deleted subvolumes in '{self.path}'")

    def _make_writable(self, name: str) -> None:
        trying = f"cannot make '{self.at(name)}' writable"
        try:
            self.host.run(btrfs.make_writable(self.at(name), force=False), trying)
        except Failure:
            self.host.run(btrfs.make_writable(self.at(name), force=True), trying)

    def _still_there(self, names: Sequence[str]) -> list[str]:
        if not names:
            return []
        try:
            entries = self.names()
        except Failure:
            return list(names)
        return [name for name in names if name in entries]

    def sender(self, name: str, parent: str | None, how: Sending) -> Pipeline:
        """What writes the stream of the snapshot NAME on top of PARENT. Raises Failure."""
        argv = btrfs.send(self.at(name), self._parent(parent), how.debug, how.compressed_data)
        return self.host.sender(argv, how.compress, how.debug)

    def estimate(self, name: str, parent: str | None) -> Command:
        """What writes the same stream without the data. Raises Failure."""
        return self.host.command(btrfs.send(self.at(name), self._parent(parent), data=False))

    def receiver(self, how: Sending) -> Pipeline:
        """What reads a stream and makes a backup of it. Raises Failure."""
        return self.host.receiver(btrfs.receive(self.path, how.debug), how.compress, how.debug)

    def _parent(self, name: str | None) -> str | None:
        return self.at(name) if name else None


def _filesystem_here(path: str) -> str | None:
    """UUID of the filesystem of PATH on this machine, None when the kernel does not tell (linux/btrfs.h)."""
    told = bytearray(1024)
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.ioctl(descriptor, _FS_INFO, told)
        finally:
            os.close(descriptor)
    digits = told[16:32].hex()
    groups = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(groups) if any(told[16:32]) else None


def _entries(found: str) -> dict[str, bool]:
    """Every entry in what Folder._find prints, and whether it is a subvolume."""
    counts = Counter(found.split("\0")[:-1])
    return {basename(path): count == 2 for path, count in counts.items()}


def _subvolumes(rows: Sequence[tuple[str, Subvolume]], inside: str) -> dict[str, Subvolume]:
    """By name those of ROWS, (path, subvolume), that are in the folder INSIDE its filesystem.

    Without those that are listed more than once: a foreign subvolume may have a name that imitates a row.
    """
    times = Counter(path for path, _ in rows)
    received = {each.uuid: each.received_uuid for _, each in rows}
    return {
        # Asked for only of those that are writable.
        each.name: each if each.readonly else replace(each, parent_received_uuid=received.get(each.parent_uuid, ""))
        for path, each in rows
        if path == join(inside, each.name) and times[path] == 1
    }


def portions(names: Sequence[str], path: Callable[[str], str]) -> list[list[str]]:
    """NAMES in as few portions as command lines can take, in which each one stands with its PATH."""
    portions: list[list[str]] = []
    room = 0
    for name in names:
        length = len(os.fsencode(ssh.quote(path(name)))) + 1
        room -= length
        if room < 0:
            portions.append([])
            room = _LONGEST_LINE - length
        portions[-1].append(name)
    return portions


def parent_is_to_blame(failed: Failure | None) -> bool:
    """Whether it was the receiver of an increment that FAILED, and for want of its parent."""
    if not isinstance(failed, CommandFailed) or not failed.ended.command.title.startswith("btrfs receive"):
        return False
    return btrfs.blames_parent(failed.ended.said)


@dataclass(frozen=True)
class Shell:
    """A shell command on this machine that takes streams, one at each start. It cannot be looked into."""

    host: Host
    command: str

    def receiver(self, snapshot: str, parent: str | None, prefix: str, source: str) -> Command:
        """What takes the stream of SNAPSHOT; it finds in its environment what it gets."""
        env = {
            "BTRFS_BACKUP_SNAPSHOT": snapshot,
            "BTRFS_BACKUP_PARENT": parent or "",
            "BTRFS_BACKUP_PREFIX": prefix,
            "BTRFS_BACKUP_SOURCE": source,
        }
        # In our session: it may have to ask for a passphrase.
        return Command(("sh", "-c", self.command), title="the shell command", own_session=False, env=env)
