"""The subvolume that is backed up, on a host."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from posixpath import join, split

from btrfs_backup.errors import READ_ONLY, Failure
from btrfs_backup.model.snapshot import STUB_INODE, Naming, Subvolume, is_backup_name
from btrfs_backup.system import btrfs, lock, state, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.folder import Folder, listing, look, portions
from btrfs_backup.system.host import LEARNING, Host
from btrfs_backup.system.paths import PathInfo, asked, examine


@dataclass(frozen=True)
class Source:
    """The subvolume to back up and the folder of its snapshots: absolute paths on HOST."""

    host: Host
    path: str
    folder_path: str

    def check(self, naming: Naming) -> None:
        """Raises Failure unless it is a subvolume."""
        info = self._info
        if not info.exists:
            raise Failure(f"the source '{self.path}' does not exist", "Give the path of a btrfs subvolume.")
        if not info.on_btrfs:
            raise Failure(
                f"the source '{self.path}' is not on btrfs but on {info.mount.type}",
                "Only subvolumes of a btrfs filesystem can be backed up.",
            )
        if not info.is_subvolume:
            if info.is_directory:
                self.refuse_backups(naming)
            raise Failure(
                f"the source '{self.path}' is not a btrfs subvolume",
                f"This names those there are: {self.host.typed('btrfs', 'subvolume', 'list', info.mount.point)}",
            )

    def refuse_backups(self, naming: Naming) -> None:
        """Raises Failure when it looks like a folder of backups: somebody has swapped SOURCE and DEST."""
        if backups := sorted(name for name in look(self.host, self.path).names() if name in naming):
            raise Failure(
                f"the source '{self.path}' holds what looks like backups ({backups[-1]}): are SOURCE and DEST swapped?",
                f"SOURCE comes first. If it is right all the same: {self.host.typed('mkdir', self.folder.path)}",
            )

    def check_folder(self) -> None:
        """Raises Failure unless snapshots of it can be made in its folder."""
        if self.folder.info.mount.device != self._info.mount.device:
            raise Failure(
                f"the snapshot folder '{self.folder.path}' is not on the filesystem of the source",
                "A snapshot has to be there: choose another folder with '-f', or mount what is missing.",
            )

    @cached_property
    def folder(self) -> Folder:
        """The folder of its snapshots, which need not exist. Raises Failure."""
        return look(self.host, self.folder_path)

    @cached_property
    def _info(self) -> PathInfo:
        return examine(self.host, self.path)

    def ask(self) -> None:
        """Ask another machine for what `check`, `folder` and the run lock begin with."""
        asking = (*asked(self.path), *asked(self.folder_path), *lock.asked(self.folder_path))
        self.host.ask(*([argv] for argv in asking))

    def ask_for_contents(self, listed: bool) -> None:
        """Ask for what `describe`, the names in the folder and the records take; LISTED: and its inventory."""
        records = (tools.read(join(self.folder_path, name)) for name in state.IN_TURN)
        asking = [btrfs.show(self.path), tools.entries(self.folder_path), *records]
        self.host.ask(*([argv] for argv in asking), *(listing(self.folder_path) if listed else ()), *LEARNING)

    def _lists(self) -> list[list[Argv]]:
        return [[btrfs.list_children(self.path, readonly_only=each)] for each in (False, True)]

    def nested(self) -> list[str]:
        """The writable subvolumes in it, by their paths in it. Raises Failure.

        Without snapshots: what is read-only, and what somebody made writable in the snapshot folder. A snapshot holds
        an empty folder in place of each (btrfs-subvolume(8)).
        """
        lists = [argv for [argv] in self._lists()]
        rows = btrfs.parse_list(*self.host.run_together(lists, f"cannot list the subvolumes in '{self.path}'"))
        top = self._info.mount.inside(self._info.path)
        paths = [path for path, each in rows if not each.readonly]
        inside = [path.removeprefix(f"{top}/") for path in paths if not top or path.startswith(f"{top}/")]
        return sorted(path for path in inside if not self._is_named_as_snapshot(path))

    def _is_named_as_snapshot(self, path: str) -> bool:
        """Whether PATH, which is relative to it, is in its snapshot folder and has a name of our form."""
        folder, name = split(join(self.path, path))
        return folder == self.folder.path and is_backup_name(name)

    def are_known(self, nested: Sequence[str], snapshot: str) -> bool:
        """Whether all of NESTED were there when SNAPSHOT was taken, by what stands in their place. Raises Failure."""

        def place(path: str) -> str:
            return join(self.folder.at(snapshot), path)

        for some in portions(nested, place):
            inodes = self.host.ended(("stat", "-c", "%i", "--", *map(place, some))).stdout.split()
            if inodes != [b"%d" % STUB_INODE] * len(some):
                return False
        return True

    def refuse_identity(self, subvolume: Subvolume) -> None:
        """Raises Failure when its identity is not its own: it was received, and made writable by its flag alone.

        Then all its snapshots have its received UUID, and a receiver cannot tell one from the other: it would build
        each increment upon the first backup. Older btrfs-progs and other tools do that.
        """
        if subvolume.readonly or not subvolume.received_uuid:
            return
        cure = (
            self.host.typed("btrfs", "property", "set", "-ts", self.path, "ro", "true"),
            self.host.typed("btrfs", "property", "set", "-f", "-ts", self.path, "ro", "false"),
        )
        raise Failure(
            f"the source '{self.path}' was received and made writable in a way that left it its received UUID: all its "
            "snapshots would look alike to whoever receives them",
            "Give it an identity of its own, with btrfs-progs 5.14.2 or later:\n  " + "\n  ".join(cure) + "\n"
            "  Snapshots that were taken of it before cannot be told apart, and are parents of no increment.",
        )

    def describe(self) -> Subvolume:
        """What btrfs tells of it. Raises Failure."""
        return btrfs.parse_show(self.host.run(btrfs.show(self.path), f"cannot look at '{self.path}'"))

    def with_folder(self) -> "Source":
        """It, its folder of snapshots made when it is missing. Raises Failure."""
        with self._read_only_is_a_reason():
            if self.folder.exists:
                return self
            self.folder.create()
            return replace(self)  # what is known of the folder is known no more

    def snapshot(self, name: str) -> None:
        """Make the read-only snapshot NAME. Raises Failure."""
        with self._read_only_is_a_reason():
            argv = btrfs.snapshot(self.path, self.folder.at(name))
            self.host.run(argv, f"cannot take the snapshot '{name}'", self._lists() + listing(self.folder_path))

    @contextmanager
    def _read_only_is_a_reason(self) -> Iterator[None]:
        """In a read-only subvolume the kernel speaks of a read-only filesystem."""
        try:
            yield
        except Failure as failure:
            if failure.brief == READ_ONLY and b"ro=true" in self.host.ended(btrfs.get_readonly(self.path)).stdout:
                raise Failure(
                    f"the source '{self.path}' is a read-only subvolume, as snapshots and backups are",
                    "Are SOURCE and DEST swapped? A backup is restored with '--restore'.",
                ) from None
            raise
