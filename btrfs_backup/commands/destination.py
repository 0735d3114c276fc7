"""What a run does at a destination: a folder of backups, or a shell command."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from btrfs_backup.commands import streaming
from btrfs_backup.errors import Absent, Declined, Failure
from btrfs_backup.model import cutter, inventory, records
from btrfs_backup.model.arrival import Arrival, Ending, Found, Streamed, Verdict, failed_to_send
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.model.outcome import Sent
from btrfs_backup.model.plan import Batch
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.sizes import Sizes
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import Stage
from btrfs_backup.model.world import Clear, Delete, Deleted, Delivery, Destination, Seen, Send, Weigh, World
from btrfs_backup.report.text import size
from btrfs_backup.system import folder, signals, stages
from btrfs_backup.system.folder import Folder, Sending, Shell, parent_is_to_blame
from btrfs_backup.system.host import LEARNING, Host, Hosts
from btrfs_backup.system.paths import PathInfo
from btrfs_backup.system.process import Command, CommandFailed
from btrfs_backup.system.stages import Attempt
from btrfs_backup.system.transfer import Cutting, Receiver, Transferred

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds for the receiver of a dead run to end
_GLANCE = 0.5
_DECLINED = Declined("pruned over there")


class Reception(Protocol):
    """A destination that is ready for the streams of a Send."""

    def receiver(self, cutting: Cutting | None) -> Receiver:
        """What takes the streams, of which the first is cut like that. Raises Failure."""

    @property
    def host(self) -> Host: ...
    @property
    def upon(self) -> str:
        """The UUID of the parent there, when it has to be named by that."""

    @property
    def keeps_parts(self) -> bool:
        """Whether what has arrived of a stream that is cut off can be of use."""

    def ask_for_proof(self) -> None:
        """Ask another machine for what `written_out` and `arrived` are going to want of it."""

    def written_out(self) -> Failure | None:
        """Why what has arrived on another machine may not be on its disk; here, the transfer has written it out."""

    def arrived(self, done: Transferred, ending: Ending) -> Delivery:
        """What came of the streams there; nothing else of them is left, except for parts that are of use."""

    def cancel(self) -> None:
        """Nothing was sent after all."""

    @property
    def plain(self) -> Callable[[bytes], bool]:
        """Tells whether a path in the parent there leads to its end without a symbolic link."""


class Endpoint(Protocol):
    """A destination that was found."""

    @property
    def host(self) -> Host: ...
    @property
    def takes_compressed_data(self) -> bool:
        """Whether it can read send protocol 2. Raises Failure."""

    def seen(self, source: Folder) -> Seen:
        """What it holds; SOURCE: the folder of the snapshots. Changes nothing. Raises Failure."""

    def clear(self, step: Clear, known: Destination) -> None:
        """Delete what is left of transfers that were cut off. Raises Failure."""

    def ready(self, step: Send, now: World, how: Sending, scope: ExitStack) -> Reception:
        """Make it ready for what is sent, as long as the SCOPE lasts. Raises Failure."""

    def delete(self, step: Delete) -> Deleted:
        """Delete backups."""

    def would_delete(self, step: Delete) -> Deleted:
        """What comes of it, as far as that is known. Raises Failure."""

    def weigh(self, step: Weigh) -> Sizes:
        """How much space backups take up. Raises Failure."""


def find(location: Location, hosts: Hosts, settings: Settings, known: Records) -> Endpoint:
    """The destination at LOCATION. Changes nothing.

    Raises Failure unless backups can be put there, Absent when its disk is missing.
    """
    host = hosts.at(location)
    if location.scheme is Scheme.SHELL:
        return ShellCommand(location, Shell(host, location.command), settings)
    there, filesystem = stand(host, location, settings, known)
    return BackupFolder(location, there, filesystem, settings)


def ask(location: Location, hosts: Hosts, learning: bool) -> None:
    """Ask another machine for what `find` and a look at the destination take; LEARNING: and see Host.learn."""
    if location.scheme is Scheme.SSH:
        hosts.at(location).ask(*folder.asking(location.path), *(LEARNING if learning else ()))


def keeping(host: Host, location: Location) -> Folder:
    """The folder of backups at LOCATION, which is not a destination. Raises Failure."""
    there = folder.look(host, location.path)
    if not (there.exists and there.info.is_directory and there.info.on_btrfs):
        raise Failure(f"'{location}' is not a folder on btrfs", "Is the disk mounted, and the path right?")
    return there


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
            hint += " If backups are to go to the root filesystem from now on, use '--remove-locks' once."
        raise Absent(f"the disk is absent: the folder is on {here}, and backups went to another filesystem", hint)
    _check(there.info, settings.fs_checks)
    return there, filesystem


def _check(info: PathInfo, fs_checks: bool) -> None:
    if fs_checks and not info.on_btrfs:
        kind = info.mount.type
        hint = "Is the disk mounted? A destination has to be a folder on a btrfs filesystem."
        if kind == "autofs":
            raise Absent("the disk is absent: nothing could be mounted when the folder was used", "Mount it by hand.")
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
        held = self.folder.inventory(self.settings.naming)
        patience = 0 if self.settings.status or self.settings.dry_run else _PATIENCE
        while patience > 0 and any(each.holder for each in held.stages):
            # The receiver of a run that is dead ends as soon as it has read what was left.
            signals.wait([], _GLANCE)
            patience -= _GLANCE
            held = self.folder.inventory(self.settings.naming)
        here, there = (self.host, self.folder.info.mount.device), (source.host, source.info.mount.device)
        free = self.folder.free() if self.settings.dry_run else None
        prunes = self.folder.declines_deletion
        if self.settings.transfer and not (self.settings.status or self.settings.dry_run):
            self.host.learn(self.settings.compressed_data)
        label = self.folder.label(self.filesystem) if self.settings.status else ""
        # A filesystem on another machine may have the same UUID, being a copy.
        top = self.location.host
        inside = f"{top}/{self.folder.info.mount.inside(self.folder.info.path)}" if self.folder.exists else ""
        return Seen(self.filesystem, held, True, here == there, free, label, prunes, inside)

    def clear(self, step: Clear, known: Destination) -> None:
        held = known.seen.inventory.subvolumes
        for failure in self.folder.delete([held[name] for name in step.names if name in held]).values():
            raise failure
        for left in step.stages:
            stages.clear(self.folder, left)

    def ready(self, step: Send, now: World, how: Sending, scope: ExitStack) -> "FolderReception":
        there = self.folder.created()
        known = now.at(self.location.identity)
        if not (self.folder.exists or known.outcome.sent):
            log.info("%s: created", self.location)
        name = step.batches[0].snapshot
        stream_uuid = now.snapshots[name].stream_uuid
        left = (each for each in known.seen.inventory.stages if each.name == name)
        taken = frozenset(each.entry for each in left if each.foreign or not each.is_of(stream_uuid))
        earlier = step.resumed.subvolumes if step.resumed else ()
        ahead = cutter.checkpoints(earlier, self.settings.far)
        useless = cutter.useless(earlier, ahead[-1]) if ahead else []
        opened = stages.opened(there, name, taken, step.resumed, useless, stream_uuid)
        attempt = scope.enter_context(opened)
        parent = step.batches[0].parent
        plain = there.plain(parent) if parent and self.settings.far else lambda path: True
        reception = FolderReception(self, attempt, step.batches, now.snapshots, known.holdings.complete, how, plain)
        if attempt.mounting[0] != self.filesystem:
            reception.cancel()
            raise Failure("another filesystem is mounted there than when it was looked at", "Run it again.")
        return reception

    def delete(self, step: Delete) -> Deleted:
        if step.subvolumes:
            self.folder.ask_before_deletion()
        try:
            if step.subvolumes and self.folder.filesystem() != self.filesystem:
                raise Failure("another filesystem is mounted there than when it was looked at", "Run it again.")
        except Failure as failure:
            return Deleted({each.name: failure for each in step.subvolumes})
        return delete(self.folder, step.subvolumes, self.settings)

    def would_delete(self, step: Delete) -> Deleted:
        if step.subvolumes and self.folder.declines_deletion:
            return Deleted(dict.fromkeys((each.name for each in step.subvolumes), _DECLINED))
        return Deleted()

    def weigh(self, step: Weigh) -> Sizes:
        return weigh(self.folder, step, self.settings)


@dataclass(frozen=True)
class FolderReception:
    """The reception of BATCHES of SNAPSHOTS in a stage of a folder that HELD those backups before."""

    at: BackupFolder
    attempt: Attempt
    batches: Sequence[Batch]
    snapshots: Mapping[str, Subvolume]
    held: Mapping[str, Subvolume]
    how: Sending
    plain: Callable[[bytes], bool]

    def receiver(self, cutting: Cutting | None) -> Receiver:
        return streaming.receiver(self.attempt, self.how, cutting)

    @property
    def host(self) -> Host:
        return self.at.host

    @property
    def upon(self) -> str:
        [first, *_] = self.batches
        return self.held[first.parent].uuid if first.named and first.parent else ""

    @property
    def keeps_parts(self) -> bool:
        return True

    def cancel(self) -> None:
        with self._if_possible():
            if self.attempt.earlier:
                self.attempt.leave()
            else:
                self.attempt.remove((), commit=False)

    def ask_for_proof(self) -> None:
        if self.host.connection:
            self.attempt.ask_for_proof(self.batches[0].parent if self.batches[0].parent in self.held else None)

    def written_out(self) -> Failure | None:
        try:
            if self.host.connection:
                self.attempt.folder.write_out()
        except Failure as failure:
            return failure
        return None

    def arrived(self, done: Transferred, ending: Ending) -> Delivery:
        if done.unproved is not None and self.attempt.earlier and ending.failure:
            return self._unproved(self.attempt.earlier, done.unproved, ending.failure)
        ending = replace(ending, unwritten=ending.unwritten or self.attempt.remounted())
        if ending.let_go and not ending.unwritten:
            return Delivery(let_go=True)
        arrival = self._arrival(done.streams, ending)
        verdict = arrival.verdict()
        found = {} if isinstance(arrival.found, Failure) else arrival.found.subvolumes
        delivery = self._published(verdict, done.streams, found)
        if delivery.failure and verdict.stays:
            what = f"{size(verdict.kept.offset)} of it are" if verdict.kept else "What has arrived of it is"
            kept = f"{what} kept there, and the next run goes on behind that."
            return replace(delivery, failure=_hinting(delivery.failure, kept))
        try:
            self.attempt.remove(list(found.values()), commit=delivery.failure is not None)
        except Failure as stuck:
            if not delivery.failure:
                return replace(delivery, failure=stuck)
            log.debug("%s: left as it is: %s", self.at.location, stuck)
        return delivery

    def _arrival(self, streams: Sequence[Streamed], ending: Ending) -> Arrival:
        """What there is to be judged when the STREAMS are over."""
        found: Found | Failure
        parents: Mapping[str, Subvolume] = {}
        try:
            found = self.attempt.contents()
            upon = {batch.parent for batch in self.batches[: len(streams)] if batch.parent in self.held}
            there = self.attempt.folder
            parents = {each: there.show_parent(each) for each in upon if each and each not in found.subvolumes}
        except Failure as unknown:
            found = unknown
        return Arrival(
            self.batches,
            streams,
            ending,
            self.snapshots,
            self.held,
            found,
            parents,
            parent_is_to_blame(ending.failure),
            self.at.settings.far,
        )

    def _published(self, verdict: Verdict, streams: Sequence[Streamed], found: Mapping[str, Subvolume]) -> Delivery:
        """The delivery of those that have arrived by the VERDICT, when they have their names."""
        arrived = self.batches[: verdict.count]
        names = [batch.snapshot for batch in arrived]
        try:
            rest = [each for name, each in found.items() if not (name in names or cutter.is_ours(name))]
            if names and rest:
                # Perhaps they have filled the disk.
                self.attempt.folder.delete(rest)
            there = self.attempt.publish(names) if names else {}
        except Failure as stuck:
            return Delivery(failure=stuck, unknown=True)
        for name in names:
            own = there.get(name)
            if (
                not own
                or own.parent_uuid != found[name].uuid
                or inventory.received(own, self.snapshots[name], found[name].uuid)
            ):
                wrong = f"{name} has arrived, but '{self.attempt.folder.at(name)}' is not what was published there"
                return Delivery(failure=Failure(wrong, "Does somebody else work in that folder?"), unknown=True)
        sent = tuple(
            Sent(batch.snapshot, batch.parent, streamed.bytes, streamed.seconds, streamed.resumed_from)
            for batch, streamed in zip(arrived, streams, strict=False)
        )
        published = tuple(there[name] for name in names)
        return Delivery(sent, published, verdict.failure, verdict.blames_parent, verdict.mistakes_parent)

    def _unproved(self, earlier: Stage, proved: Sequence[Checkpoint], failure: Failure) -> Delivery:
        """The stream is another one than EARLIER has parts of, except for those PROVED."""
        gone = cutter.useless(earlier.subvolumes, proved[-1]) if proved else []
        with self._if_possible():
            found = self.attempt.contents()
            self.attempt.folder.delete([*gone, *found.subvolumes.values()])
        left = tuple(each for each in earlier.subvolumes if each not in gone)
        attempts = (*earlier.attempts, self.attempt.name)
        return Delivery(failure=failure, left=replace(earlier, subvolumes=left, attempts=attempts))

    @contextmanager
    def _if_possible(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            log.debug("%s: left as it is: %s", self.at.location, failure)


def weigh(there: Folder, step: Weigh, settings: Settings) -> Sizes:
    """How much space what STEP names takes up in the folder THERE. Raises Failure."""
    from btrfs_backup.commands.sizes import measure  # few runs need it

    return measure(there, step, settings)


def delete(there: Folder, judged: Sequence[Subvolume], settings: Settings) -> Deleted:
    """Delete the subvolumes that were JUDGED in a folder."""
    failures = {
        name: _DECLINED if isinstance(failure, CommandFailed) and failure.declined else failure
        for name, failure in there.delete(judged, settings.convert_rw).items()
    }
    try:
        if settings.sync and len(failures) < len(judged):
            there.sync()
    except Failure as failure:
        return Deleted(failures, failure)
    return Deleted(failures)


def _hinting(failure: Failure, more: str) -> Failure:
    return Failure(failure.message, "\n  ".join(filter(None, (failure.hint, more))), failure.brief)


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

    def clear(self, step: Clear, known: Destination) -> None:
        return None

    def ready(self, step: Send, now: World, how: Sending, scope: ExitStack) -> "ShellReception":
        [batch] = step.batches
        prefix, source = self.settings.naming.prefix, self.settings.source.identity
        command = self.shell.receiver(batch.snapshot, batch.parent, prefix, source)
        return ShellReception(batch, command, self.host)

    def delete(self, step: Delete) -> Deleted:
        return Deleted()

    would_delete = delete

    def weigh(self, step: Weigh) -> Sizes:
        return Sizes()


@dataclass(frozen=True)
class ShellReception:
    """The stream of a BATCH on its way into a shell command, checked on the way."""

    batch: Batch
    command: Command
    host: Host
    plain: Callable[[bytes], bool] = lambda path: True
    upon: str = ""

    def receiver(self, cutting: Cutting | None) -> Receiver:
        return Receiver((self.command,), checked=True)

    @property
    def keeps_parts(self) -> bool:
        return False

    def cancel(self) -> None:
        return None

    ask_for_proof = cancel

    def written_out(self) -> Failure | None:
        return None

    def arrived(self, done: Transferred, ending: Ending) -> Delivery:
        if failed := ending.failure or ending.unwritten:
            return Delivery(failure=failed_to_send([self.batch], failed))
        sent = (Sent(self.batch.snapshot, self.batch.parent, each.bytes, each.seconds) for each in done.streams)
        return Delivery(tuple(sent))
