"""A run: the loop, and who acts in it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from btrfs_backup.commands import destination
from btrfs_backup.commands.destination import Endpoint, Reception
from btrfs_backup.commands.streaming import Streaming
from btrfs_backup.errors import Failure, MissingProgram
from btrfs_backup.model import cutter, records, world
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.outcome import Sent
from btrfs_backup.model.plan import Batch
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.sizes import Sizes
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.world import (
    Came,
    Clear,
    Delete,
    Deleted,
    Delivery,
    List,
    Listed,
    Look,
    Measure,
    Seen,
    Send,
    Step,
    Take,
    Taken,
    Weigh,
    World,
)
from btrfs_backup.report.text import form, pace, size
from btrfs_backup.system import hints, state, transfer
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.lock import lock
from btrfs_backup.system.process import CommandFailed
from btrfs_backup.system.source import Source
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.transfer import Cutting, Sender

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


class Actor(Protocol):
    """The one who carries out the steps of a run."""

    def begin(self) -> World:
        """The world as it is found. Raises Failure when nothing can be done, LockHeld when another run is at work."""

    def save(self, known: Records) -> Failure | None:
        """Have what is KNOWN on record; why that was not possible."""

    def perform(self, step: Step, now: World) -> Came:
        """What comes of STEP. Raises Failure when nothing can be done at all."""


def run(actor: Actor, watch: Callable[[World], None]) -> None:
    """Go on step by step until all is done. WATCH is given the world whenever it has changed.

    Raises Failure when nothing could be done at all.
    """

    def kept(changed: World) -> World:
        if failure := actor.save(changed.records):
            changed = changed.not_saved(failure)
        watch(changed)
        return changed

    now = kept(actor.begin())
    while step := now.next_step():
        now = kept(now.begun(step))
        if now.step:
            now = kept(now.after(step, actor.perform(step, now)))


class Real:
    """Carries out a run. SCOPE holds the run lock and the connections."""

    def __init__(self, settings: Settings, scope: ExitStack, clock: Clock = datetime.now) -> None:
        self.settings = settings
        self._scope = scope
        self._clock = clock
        self._hosts = scope.enter_context(Hosts(Access(settings.ssh_options, settings.ssh_sudo)))
        self._endpoints: dict[str, Endpoint] = {}
        self._streaming = Streaming(settings)
        self._saved: Records = records.NONE

    def begin(self) -> World:
        self._source = open_source(self.settings, self._hosts)
        if not self._looks_only:
            self._source = self._source.with_folder()
            there = self._source.folder
            self._scope.enter_context(lock(there.host, there.path, self.settings.lock_wait))
        return self._found()

    @property
    def _looks_only(self) -> bool:
        return self.settings.status or self.settings.dry_run

    def _found(self) -> World:
        there = self._source.folder
        if there.exists:
            self._source.ask_for_contents(listed=self._looks_only or not self.settings.take_snapshot)
        try:
            self._subvolume: Subvolume | Failure = self._described()
        except MissingProgram:
            raise
        except Failure as failure:
            self._subvolume = failure  # a snapshot can be taken all the same
        else:
            if not self.settings.status:
                self._source.refuse_identity(self._subvolume)
        entries = frozenset(there.names())
        self._saved, broken = (
            state.read(there.host, there.path, not self._looks_only) if there.exists else (records.NONE, ())
        )
        if not there.exists and self.settings.status:
            broken = (no_folder(there),)
        if self.settings.transfer and not self._looks_only:
            there.host.learn(self.settings.compressed_data)
        found = world.begin(self.settings, self._clock(), entries, self._saved, broken)
        return replace(found, most=transfer.most_receivers())

    def save(self, known: Records) -> Failure | None:
        if self._looks_only or known == self._saved:
            return None
        try:
            state.write(self._source.host, self._source.folder.path, known, self._saved)
        except Failure as failure:
            return failure
        self._saved = known
        return None

    def perform(self, step: Step, now: World) -> Came:
        match step:
            case Take():
                return self._take(step)
            case List():
                return self._list()
            case Look(destinations):
                return self._look_at(destinations, now)
            case Clear(name):
                try:
                    self._endpoints[name].clear(step, now.at(name))
                except Failure as failure:
                    return failure
                return None
            case Send():
                with ExitStack() as scope:
                    return self._send(step, now, scope)
            case Measure(_, batch):
                return self._estimate(batch, now)
            case Weigh():
                return self._weigh(step)
            case Delete("", _, judged):
                return destination.delete(self._source.folder, judged, self.settings)
            case Delete(name):
                return self._endpoints[name].delete(step)

    # --- taking and looking ---

    def _take(self, step: Take) -> Taken | Failure:
        source = self._source
        try:
            source.snapshot(step.name)
        except MissingProgram:
            raise
        except Failure as failure:
            if isinstance(failure, CommandFailed) and failure.lacks_rights:
                raise  # whoever may not do this may do nothing else
            return failure
        try:
            nested = tuple(source.nested())
            return Taken(nested, step.before is not None and source.are_known(nested, step.before))
        except Failure as failure:
            log.debug("cannot look for nested subvolumes: %s", failure)
            return Taken()

    def _list(self) -> Listed | Failure:
        try:
            held = self._source.folder.inventory(self.settings.naming, names_suffice=True)
            return self._subvolume if isinstance(self._subvolume, Failure) else Listed(self._subvolume, held)
        except Failure as failure:
            return failure

    def _described(self) -> Subvolume:
        """What btrfs tells of the source, nothing when one may not ask. Raises Failure."""
        try:
            return self._source.describe()
        except CommandFailed as failure:
            if failure.lacks_rights or hints.wants_rights(failure.ended.said):
                return Subvolume("", "")
            raise

    def _look_at(self, names: Sequence[str], now: World) -> dict[str, Seen | Failure]:
        """What is at the destinations NAMES: at several machines at the same time, and here while those answer."""
        for name in names:
            destination.ask(now.at(name).location, self._hosts, self.settings.transfer and not self._looks_only)
        return {name: self._look(name, now) for name in sorted(names, key=lambda name: now.at(name).location.is_far)}

    def _look(self, name: str, now: World) -> Seen | Failure:
        try:
            found = destination.find(now.at(name).location, self._hosts, self.settings, now.records)
            self._endpoints[name] = found
            return found.seen(self._source.folder)
        except Failure as failure:
            return failure

    # --- sending ---

    def _send(self, step: Send, now: World, scope: ExitStack) -> Mapping[str, Delivery]:
        now = replace(now, snapshots={**now.snapshots, **self._received_parent(step.batches[0], now)})
        ahead = cutter.checkpoints(step.resumed.subvolumes, self.settings.far) if step.resumed else []
        takes = {each: self._endpoints[each] for each in step.destinations}
        compressed_data = self._streaming.compressed_data(self._source.host, takes, ahead)
        came: dict[str, Delivery] = {}
        ready: dict[str, Reception] = {}
        for name in step.destinations:
            try:
                how = self._streaming.sending(self._endpoints[name].host, compressed_data)
                ready[name] = self._endpoints[name].ready(step, now, how, scope)
            except Failure as failure:
                came[name] = Delivery(failure=failure)
        if not ready:
            return came
        cutting = self._cutting(list(ready.values()), ahead)
        coming = now.coming(step)
        senders = (
            self._sender(number, coming, ready, now, compressed_data, None if number else cutting)
            for number in range(len(step.batches))
        )
        try:
            receivers = [each.receiver(cutting) for each in ready.values()]
            done = self._streaming.transfer(senders, receivers, self.settings.far, cutting)
        except Failure as failure:
            for each in ready.values():
                each.cancel()
            return came | dict.fromkeys(ready, Delivery(failure=failure))
        for each in ready.values():
            each.ask_for_proof()
        for (name, reception), end in zip(ready.items(), done.endings, strict=True):
            ending = replace(end, unwritten=end.unwritten or reception.written_out())
            came[name] = reception.arrived(done, ending)
            for number, sent in enumerate(came[name].arrived):
                # Those behind the first one are small, and were begun without a message.
                what = f"{sent.snapshot} {form(sent.parent)}" if number else sent.snapshot
                moved = (sent.bytes or 0) - sent.resumed_from
                log.info("%s: sent %s: %s", name, what, pace(moved, sent.seconds or 0))
        return came

    def _received_parent(self, batch: Batch, now: World) -> Mapping[str, Subvolume]:
        """The parent of BATCH if it was itself received, with what tells whether it was changed since."""
        parent = now.snapshots[batch.parent] if batch.parent else None
        if not parent or not parent.received_uuid:
            return {}
        with suppress(Failure):
            return {parent.name: replace(self._source.folder.show(parent.name), name=parent.name)}
        return {}

    def _cutting(self, ready: Sequence[Reception], ahead: Sequence[Checkpoint]) -> Cutting | None:
        """How the first stream is cut; not when that is of no use."""
        if not all(each.keeps_parts for each in ready):
            return None
        return self._streaming.cutting([each.host for each in ready], self.settings.far, ahead, ready[0].upon)

    def _sender(
        self,
        number: int,
        coming: Sequence[Batch],
        ready: Mapping[str, Reception],
        now: World,
        compressed_data: bool,
        cutting: Cutting | None,
    ) -> Sender:
        """The sender of that NUMBER among those COMING."""
        batch = coming[number]

        def tell() -> None:
            how = form(batch.parent)
            if cutting and cutting.checkpoints:
                how += f", on from {size(cutting.checkpoints[-1].offset)}"
            level = logging.DEBUG if number else logging.INFO
            for each in ready:
                why = now.in_full_because(each) if not batch.parent else ""
                log.log(level, "%s: sending %s %s%s", each, batch.snapshot, how, f", because {why}" if why else "")

        there = self._source.folder
        snapshot = now.snapshots[batch.snapshot]
        parent = now.snapshots[batch.parent] if batch.parent else None

        def plain(path: bytes) -> bool:
            return all(each.plain(path) for each in ready.values())

        waiting = coming[number + 1 :]
        sender = self._streaming.sender(there, snapshot, parent, list(ready), compressed_data, plain, cutting, waiting)
        return replace(sender, begin=tell)

    def _estimate(self, batch: Batch, now: World) -> int | None:
        """Bytes of its stream; None for what does not exist yet."""
        if now.taken and now.taken in (batch.snapshot, batch.parent):
            return None
        return transfer.measure(self._source.folder.estimate(batch.snapshot, batch.parent))

    def _weigh(self, step: Weigh) -> Sizes | Failure:
        try:
            if step.destination:
                return self._endpoints[step.destination].weigh(step)
            return destination.weigh(self._source.folder, step, self.settings)
        except Failure as failure:
            return failure


class Supposed(Real):
    """Looks like Real, and supposes of everything else that it went well: a dry run."""

    def perform(self, step: Step, now: World) -> Came:
        match step:
            case Take():
                return Taken()
            case List():
                return self._listed(self._list(), now.taken)
            case Look() | Measure() | Weigh():
                return super().perform(step, now)
            case Clear():
                return None
            case Send(batches):
                ahead = cutter.checkpoints(step.resumed.subvolumes, self.settings.far) if step.resumed else []
                begun = ahead[-1].offset if ahead else 0
                sent = tuple(
                    Sent(each.snapshot, each.parent, self._estimate(each, now), None, begun) for each in batches
                )
                there = tuple(Subvolume(each.snapshot, each.snapshot) for each in sent)
                why = {each: "" if sent[0].parent else now.in_full_because(each) for each in step.destinations}
                return {
                    each: Delivery((replace(sent[0], because=because), *sent[1:]), there)
                    for each, because in why.items()
                }
            case Delete("", _, _):
                return Deleted()
            case Delete(name):
                return self._declined(name, step)

    def _declined(self, name: str, step: Delete) -> Deleted:
        return self._endpoints[name].would_delete(step)

    def _listed(self, listed: Listed | Failure, taken: str | None) -> Listed | Failure:
        """LISTED, and the snapshot that would be TAKEN."""
        if not taken or isinstance(listed, Failure):
            return listed
        imagined = {**listed.folder.subvolumes, taken: Subvolume(taken, "", listed.subvolume.uuid)}
        return replace(listed, folder=replace(listed.folder, subvolumes=imagined))


def no_folder(there: Folder) -> Failure:
    """The folder of the snapshots is not THERE."""
    return Failure(
        f"the snapshot folder '{there.path}' does not exist", "Take a snapshot first, or correct the option '-f'."
    )


def open_source(settings: Settings, hosts: Hosts) -> Source:
    """The source, checked, with its snapshot folder, which a run may have to make. Raises Failure."""
    host = hosts.at(settings.source)
    if settings.copy:
        return Source(host, settings.source.path, destination.keeping(host, settings.source).path)
    source = Source(host, settings.source.path, settings.folder_path)
    source.ask()
    if settings.fs_checks:
        source.check(settings.naming)
    there = source.folder
    if there.exists and not there.info.is_directory:
        raise Failure(f"the snapshot folder '{there.path}' is not a folder", "Choose another one with '-f'.")
    if not there.exists and settings.fs_checks:
        source.refuse_backups(settings.naming)
    # Who watches the backups has to hear of a folder that is misspelled or not mounted.
    needed = settings.verify or settings.find or not settings.take_snapshot
    needed = needed or (settings.status and not settings.destinations)
    if not there.exists and needed:
        raise no_folder(there)
    if settings.take_snapshot and settings.fs_checks:
        source.check_folder()
    return source
