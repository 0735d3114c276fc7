"""What a run does at a destination: a folder of backups, or a shell command."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model import inventory, records
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.model.outcome import Sent
from btrfs_backup.model.plan import Batch
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.world import Deleted, Delivery, Seen
from btrfs_backup.system import folder
from btrfs_backup.system.folder import Folder, Sending, Shell, parent_is_to_blame
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.paths import PathInfo
from btrfs_backup.system.transfer import Ending, Receiver, Streamed

log = logging.getLogger(__name__)


class Reception(Protocol):
    """A destination that is ready for the streams of a Send. disk: what is the same for all on one filesystem."""

    @property
    def receiver(self) -> Receiver: ...
    @property
    def disk(self) -> object: ...
    def arrived(self, streams: Sequence[Streamed], ending: Ending) -> Delivery:
        """What came of the STREAMS there, and of those that were not begun. Whatever else is there is cleared away."""

    def cancel(self) -> None:
        """Nothing was sent after all."""


class Endpoint(Protocol):
    """A destination that was found."""

    @property
    def host(self) -> Host: ...
    @property
    def takes_compressed_data(self) -> bool:
        """Whether it can read send protocol 2. Raises Failure."""

    def seen(self, source: Folder) -> Seen:
        """What it holds; SOURCE: the folder of the snapshots. Changes nothing. Raises Failure."""

    def clear(self, names: Sequence[str]) -> None:
        """Delete what is left of transfers of NAMES. Raises Failure."""

    def ready(self, batches: Sequence[Batch], snapshots: Mapping[str, Subvolume], how: Sending) -> Reception:
        """Make it ready for BATCHES. Raises Failure."""

    def delete(self, names: Sequence[str]) -> Deleted:
        """Delete the backups NAMES."""


def find(location: Location, hosts: Hosts, settings: Settings, known: Records) -> Endpoint:
    """The destination at LOCATION. Changes nothing.

    Raises Failure unless backups can be put there, Absent when its disk is missing.
    """
    host = hosts.at(location)
    if location.scheme is Scheme.SHELL:
        return ShellCommand(location, Shell(host, location.command), settings)
    there, filesystem = stand(host, location, settings, known)
    return BackupFolder(location, there, filesystem, settings)


def stand(host: Host, location: Location, settings: Settings, known: Records) -> tuple[Folder, str]:
    """The folder at LOCATION, which need not exist, and the UUID of its filesystem, empty when that is no btrfs.

    Raises like `find`.
    """
    there = folder.look(host, location.path)
    filesystem = there.filesystem() if there.info.on_btrfs else ""
    disks, mount = records.filesystems(known, location.identity), there.info.mount
    if disks and filesystem not in disks and (mount.point == "/" or not there.info.on_btrfs):
        here = "the root filesystem" if mount.point == "/" else mount.type
        hint = "Mount it."
        if there.info.on_btrfs:
            hint += " If backups shall go to the root filesystem from now on, use '--remove-locks' once."
        raise Absent(f"the disk is absent: the folder is on {here}, and backups went to another filesystem", hint)
    _check(there.info, settings.fs_checks)
    return there, filesystem


def _check(info: PathInfo, fs_checks: bool) -> None:
    if fs_checks and not info.on_btrfs:
        kind = info.mount.type
        hint = "Is the disk mounted? A destination has to be a folder on a btrfs filesystem."
        if info.exists:
            raise Failure(f"it is not on btrfs but on {kind}", hint)
        raise Absent(f"the folder does not exist, and would be on {kind} instead of btrfs", hint)
    if info.exists and not info.is_directory:
        raise Failure("it is not a folder", "Give the path of a folder, or move away what is there.")


# --- a folder --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BackupFolder:
    """A folder of backups. filesystem: the UUID of that which it is on."""

    location: Location
    folder: Folder
    filesystem: str
    settings: Settings

    @property
    def host(self) -> Host:
        return self.folder.host

    @property
    def takes_compressed_data(self) -> bool:
        return self.host.can_receive_compressed_data

    def seen(self, source: Folder) -> Seen:
        here, there = (self.host, self.folder.info.mount.device), (source.host, source.info.mount.device)
        return Seen(
            self.filesystem,
            self.folder.inventory(self.settings.naming),
            beside_source=here == there,
            free=self.folder.free() if self.settings.dry_run else None,
        )

    def clear(self, names: Sequence[str]) -> None:
        for failure in self.folder.delete(names).values():
            raise failure
        marks = self.folder.inventory(self.settings.naming).marks
        self.folder.unmark(sorted(marks.intersection(names)))

    def ready(self, batches: Sequence[Batch], snapshots: Mapping[str, Subvolume], how: Sending) -> "FolderReception":
        there = self.folder.created()
        if not self.folder.exists:
            log.info("%s: created", self.location)
        mounting = there.mounting(self.filesystem)
        there.mark([batch.snapshot for batch in batches])
        return FolderReception(
            self, there, batches, snapshots, mounting, Receiver(there.receiver(how), there.writing_out)
        )

    def delete(self, names: Sequence[str]) -> Deleted:
        return delete(self.folder, names, self.settings)


@dataclass(frozen=True)
class FolderReception:
    """The reception of BATCHES of SNAPSHOTS in a folder. mounting: of its filesystem, when it began."""

    at: BackupFolder
    folder: Folder
    batches: Sequence[Batch]
    snapshots: Mapping[str, Subvolume]
    mounting: str
    receiver: Receiver

    @property
    def disk(self) -> object:
        return self.at.host, self.at.filesystem

    @property
    def _names(self) -> list[str]:
        return [batch.snapshot for batch in self.batches]

    def cancel(self) -> None:
        self._unmark_if_possible(self._names)

    def arrived(self, streams: Sequence[Streamed], ending: Ending) -> Delivery:
        unwritten = ending.unwritten or self._mounted_anew()
        sent = self.batches[: len(streams)]
        names = [] if unwritten else self._names  # or they keep their marks
        try:
            count, failure = self._outcome(sent, ending.failure, unwritten)
        except Failure as blind:
            # All of them stay on record. What there is of them is on disk; the next run sees what that is.
            self._unmark_if_possible(names)
            return Delivery(failure=blind, unknown=True)
        arrived = tuple(
            Sent(batch.snapshot, batch.parent, streamed.bytes, streamed.seconds)
            for batch, streamed in zip(sent[:count], streams, strict=False)
        )
        failing = self.batches[count] if failure else None
        blamed = bool(failing and not unwritten and parent_is_to_blame(ending.failure) and self._unmoved())
        if failing:
            self._clear_away(failing.snapshot, names)
        else:
            try:
                self.folder.unmark(names)
            except Failure as stuck:
                failure = stuck
        return Delivery(arrived, failure, blamed)

    def _mounted_anew(self) -> Failure | None:
        """What to say when its filesystem may not be what it was when the transfer began, but mounted anew.

        Then nobody knows what of that was on disk.
        """
        try:
            if self.folder.mounting(self.at.filesystem) == self.mounting:
                return None
        except Failure as failure:
            return failure
        return Failure("its filesystem was mounted anew while data came in", "The next run sends it again.")

    def _outcome(
        self, sent: Sequence[Batch], failed: Failure | None, unwritten: Failure | None
    ) -> tuple[int, Failure | None]:
        """How many of those SENT arrived, and what went wrong with the one behind these.

        failed: what made their transfer end early; unwritten: why they may not be on disk. Raises Failure when it
        cannot be told what is at the destination.
        """
        try:
            if unwritten:
                raise _failed_to_send(sent, unwritten) if sent else unwritten
            count, wrong = self._verified(sent)
        except Failure as blind:
            if not failed or len(sent) > 1:
                raise _failed_to_send(sent, failed) if failed else blind from None
            count, wrong = 0, blind.message
        if failed:
            # When all of them look well, it was the last one.
            count = min(count, len(sent) - 1)
            return count, _failed_to_send(sent[count : count + 1], failed)
        if not wrong:
            return count, None
        name = sent[count].snapshot
        look = self.at.host.typed("btrfs", "subvolume", "show", f"{self.at.location.path}/{name}")
        return count, Failure(f"{name} has arrived, but {wrong}", f"Look at it: {look}")

    def _verified(self, sent: Sequence[Batch]) -> tuple[int, str]:
        """How many of those SENT, from the first on, are complete backups, and what is wrong with the next one."""
        held: Mapping[str, Subvolume]
        if len(sent) == 1:
            held = {batch.snapshot: self.folder.show(batch.snapshot) for batch in sent}
        else:
            held = self.folder.inventory(self.at.settings.naming).subvolumes
        for number, batch in enumerate(sent):
            entry, snapshot = held.get(batch.snapshot), self.snapshots[batch.snapshot]
            wrong = inventory.arrived(entry, snapshot, bool(batch.parent)) if entry else "it is not there"
            if wrong:
                return number, wrong
        return len(sent), ""

    def _unmoved(self) -> bool:
        """Whether its disk is still where it was seen."""
        try:
            return folder.look(self.folder.host, self.folder.path) == self.folder
        except Failure:
            return False

    def _clear_away(self, snapshot: str, marked: Sequence[str]) -> None:
        """Delete what a failed transfer left, so that its space is free, and the marks of all that were MARKED for it.

        When that fails, the next run does it.
        """
        with self._if_possible():
            left = self.folder.show(snapshot)
            if inventory.judge(left, self.snapshots[snapshot], begun=True)[0] is inventory.State.PARTIAL:
                self.folder.delete([snapshot])
        self._unmark_if_possible(marked)

    def _unmark_if_possible(self, names: Sequence[str]) -> None:
        with self._if_possible():
            self.folder.unmark(names)

    @contextmanager
    def _if_possible(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            log.debug("%s: left as it is: %s", self.at.location, failure)


def delete(there: Folder, names: Sequence[str], settings: Settings) -> Deleted:
    """Delete the subvolumes NAMES in a folder."""
    failures = there.delete(names, settings.convert_rw)
    try:
        if settings.sync and len(failures) < len(names):
            there.sync()
    except Failure as failure:
        return Deleted(failures, failure)
    return Deleted(failures)


def _failed_to_send(batches: Sequence[Batch], failed: Failure) -> Failure:
    names = " to ".join(dict.fromkeys((batches[0].snapshot, batches[-1].snapshot)))
    return Failure(f"sending {names} failed: {failed.message}", failed.hint, failed.brief)


# --- a shell command -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShellCommand:
    """A shell command that is given each stream. It cannot be looked into."""

    location: Location
    shell: Shell
    settings: Settings

    @property
    def host(self) -> Host:
        return self.shell.host

    @property
    def takes_compressed_data(self) -> bool:
        return False  # who restores what it stored may not be able to read it

    def seen(self, source: Folder) -> Seen:
        return Seen(listed=False)

    def clear(self, names: Sequence[str]) -> None:
        return None

    def ready(self, batches: Sequence[Batch], snapshots: Mapping[str, Subvolume], how: Sending) -> "ShellReception":
        [batch] = batches
        prefix, source = self.settings.naming.prefix, self.settings.source.identity
        command = self.shell.receiver(batch.snapshot, batch.parent, prefix, source)
        return ShellReception(batch, Receiver((command,), checked=True), self.location)

    def delete(self, names: Sequence[str]) -> Deleted:
        return Deleted()


@dataclass(frozen=True)
class ShellReception:
    """The stream of a BATCH on its way into a shell command, checked on the way."""

    batch: Batch
    receiver: Receiver
    disk: object

    def cancel(self) -> None:
        return None

    def arrived(self, streams: Sequence[Streamed], ending: Ending) -> Delivery:
        if failed := ending.failure or ending.unwritten:
            return Delivery(failure=_failed_to_send([self.batch], failed))
        sent = (Sent(self.batch.snapshot, self.batch.parent, each.bytes, each.seconds) for each in streams)
        return Delivery(tuple(sent))
