"""A restore: the backup is received where it is to go, and put in its place."""

import logging
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from posixpath import basename, dirname, join

from btrfs_backup.commands import places, streaming
from btrfs_backup.commands.places import Backup, Place
from btrfs_backup.commands.streaming import Streaming
from btrfs_backup.errors import Failure
from btrfs_backup.model import cutter, records, restoration
from btrfs_backup.model.arrival import Flaw, Found, Streamed
from btrfs_backup.model.outcome import Restoration, Sent
from btrfs_backup.model.restoration import Arrival, Plan, Progress, Receive
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.stage import Stage
from btrfs_backup.report.text import pace, size
from btrfs_backup.system import btrfs, stages, state, transfer
from btrfs_backup.system.folder import Folder, parent_is_to_blame
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.paths import examine
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.stages import Attempt
from btrfs_backup.system.transfer import Transferred

log = logging.getLogger(__name__)

Publish = Callable[[Restoration], None]


def restore(settings: Settings, publish: Publish) -> None:
    """Make the destination of the backup, and PUBLISH what came of it so far.

    Raises Failure when it could not be done: then nothing of it is left. Raises LockHeld when another run is at work.
    """
    [location] = settings.destinations
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        backup = places.find_backup(settings, hosts.at(settings.source))
        place = places.find_place(settings, hosts.at(location), location)
        name, far = backup.chosen.name, backup.far
        left = place.leftovers(name)
        try:
            place.check_absent(settings)
        except Failure:
            if not settings.dry_run:
                place.clear([each for each in left if restoration.has_served(each, name, far)])
            raise
        plan = places.plan(settings, backup, place)
        resumed = places.resumed(left, backup, place, plan)
        _tell_of_laggards(backup, plan)
        report = _report(settings, backup, plan)
        if settings.dry_run:
            publish(_supposed(backup, place, plan, report, resumed))
            return
        publish(report)
        foreign = place.clear([each for each in left if each != resumed])
        with place.locked(), ExitStack() as scope:
            now, attempt = restoration.begin(plan, report, resumed, far), None
            if now.receive:
                opened = stages.opened(place.home, place.staged_as(name), foreign, resumed, now.receive.useless)
                attempt = scope.enter_context(opened)
            _Restore(settings, backup, place, plan, attempt, Streaming(settings)).carry_out(now, publish)


def _supposed(backup: Backup, place: Place, plan: Plan, report: Restoration, resumed: Stage | None) -> Restoration:
    """REPORT, as far as it is known before."""
    sent = None
    if step := restoration.begin(plan, report, resumed, backup.far).receive:
        size = transfer.measure(backup.folder.estimate(plan.name, step.parent))
        sent = Sent(plan.name, step.parent, size, None, step.ahead[-1].offset if step.ahead else 0)
    return replace(report, intended=plan.how, free=place.folder.free(), sent=sent)


def _report(settings: Settings, backup: Backup, plan: Plan) -> Restoration:
    [location] = settings.destinations
    source = replace(settings.source, path=backup.folder.path).identity
    # A folder of snapshots, or one on the same disk, is hardly where backups go.
    goes_to = "DEST" if backup.own or plan.parent == plan.name else source
    prefix = backup.naming.prefix
    go_on = restoration.next_backup(settings, prefix, goes_to, location.identity)
    return Restoration(source, location.identity, plan.name, backup.naming.time(plan.name), plan.copy, go_on=go_on)


def _tell_of_laggards(backup: Backup, plan: Plan) -> None:
    """Name the destinations that have not got the snapshot that is restored: their parents stay behind."""
    there = backup.folder
    if not backup.own or plan.site.folder == there.path:
        return
    known, _ = state.read(there.host, there.path, aside=False)
    for fact in sorted(known):
        if fact.kind == records.NEWEST and fact.snapshot in backup.beside.complete and fact.snapshot < plan.name:
            log.warning(
                "%s: its newest backup is %s, which stays behind in '%s': its next backup would be sent in full\n"
                "  To go on with increments, restore with '-f %s', and use that option in the next backups, too.",
                fact.destination,
                fact.snapshot,
                there.path,
                shlex.quote(there.path),
            )


@dataclass(frozen=True)
class _Restore:
    """Carries out a plan. attempt: what the backup is received into; None when it is there already."""

    settings: Settings
    backup: Backup
    place: Place
    plan: Plan
    attempt: Attempt | None
    streaming: Streaming

    def carry_out(self, now: Progress, publish: Publish) -> None:
        """Raises Failure; then nothing of it is left."""
        ahead = now.receive.ahead if now.receive else ()
        on = f", on from {size(ahead[-1].offset)}" if ahead else ""
        log.info("%s: restoring %s, %s%s", self.place.location, self.plan.name, self.plan.how, on)
        try:
            while self.attempt and now.receive and not now.failure:
                now = now.after(now.receive, self._receive(now.receive, now, self.attempt))
                publish(now.report)
            if now.failure:
                raise now.failure
            staged = self._prepare()
            now = replace(now, placing=True)
            self._finish(staged)
            now = replace(now, report=replace(now.report, done=True))
            publish(now.report)
            self._clear_up(now, publish)
        except BaseException:
            self._undo(now, publish)
            raise

    # --- receiving ---

    def _receive(self, step: Receive, now: Progress, attempt: Attempt) -> Arrival:
        if step.because:
            log.warning("%s: %s", self.place.location, step.because)
            for failure in self.place.home.delete(step.useless).values():
                raise failure
        done = self._stream(step, attempt)
        [streamed], [ending] = done.streams, done.endings
        begun = streamed.resumed_from
        sent = Sent(self.plan.name, step.parent, streamed.bytes, streamed.seconds, begun)
        if failed := ending.failure or ending.unwritten or attempt.remounted():
            blames = step.parent is not None and parent_is_to_blame(ending.failure)
            found = tuple(attempt.contents().subvolumes.values()) if blames else ()
            return Arrival(sent, failed, blames, ending.spoiled, done.unproved, found=found)
        held = attempt.contents()
        flaw = self._flaw(step, streamed, held)
        if not flaw:
            moved = pace(streamed.bytes - begun, streamed.seconds)
            log.info("%s: received %s: %s", self.place.location, self.plan.name, moved)
        what, mistaken = (flaw.what, flaw.mistaken) if flaw else ("", False)
        return Arrival(sent, wrong=what, mistaken=mistaken, found=tuple(held.subvolumes.values()))

    def _flaw(self, step: Receive, stream: Streamed, found: Found) -> Flaw | None:
        """What is wrong with what was FOUND. Raises Failure."""
        if strange := found.strange([self.plan.name], stream.cut):
            return Flaw(strange)
        flaw = found.flaw(self.backup.chosen, self._upon(step), stream.cut)
        changed = "" if flaw else self._changed(step.parent, stream)
        return Flaw(changed, True) if changed else flaw

    def _upon(self, step: Receive) -> str:
        """The UUID of the parent at the destination, empty when there is none. Raises Failure."""
        return self.place.held(step.parent, self.backup).uuid if step.parent else ""

    def _changed(self, parent: str | None, stream: Streamed) -> str:
        if not parent or parent == self.plan.name:
            return ""
        held, sent = self.place.folder.show_parent(parent), self.backup.folder.show(parent)
        if not held.was_changed and stream.fits(sent, held.sent_transid):
            return ""
        return f"{parent}, which it builds upon, was changed after it was sent"

    def _stream(self, step: Receive, attempt: Attempt) -> Transferred:
        """Raises Failure when a command cannot be started."""
        backup, name, host = self.backup, step.parent, self.place.host
        takers = {self.place.location.identity: self.place}
        compressed_data = self.streaming.compressed_data(backup.folder.host, takers, step.ahead)
        cutting = self.streaming.cutting([host], backup.far, step.ahead, self._upon(step) if step.named else "")
        parent = {**backup.beside.complete, backup.chosen.name: backup.chosen}[name] if name else None
        there = backup.folder if name == backup.chosen.name else self.place.folder
        plain = there.plain(name) if name and backup.far else lambda path: True
        destinations = [self.place.location.identity]
        sender = self.streaming.sender(
            backup.folder, backup.chosen, parent, destinations, compressed_data, plain, cutting
        )
        receiver = streaming.receiver(attempt, self.streaming.sending(host, compressed_data), cutting)
        return self.streaming.transfer([sender], [receiver], backup.far, cutting)

    # --- making and removing ---

    def _prepare(self) -> str:
        """Make everything but the destination; the path from which it comes. Raises Failure."""
        site, name = self.plan.site, self.plan.name
        if self.attempt and site.inside:
            # What was received cannot be moved into another folder; a read-only snapshot of it has its received UUID.
            received, staged = (join(self.attempt.path, each) for each in (name, basename(site.destination)))
            copies = replace(self.place.home, path=site.folder_in(staged))
            self._snapshot(received, staged, readonly=False)
            copies.create()
            # They would look like snapshots that are no subvolumes.
            self.place.host.run(btrfs.remove_stubs(copies.path), f"cannot clear the folder '{copies.path}'")
            self._snapshot(received, copies.at(name))
            self._verify(copies)
            return staged
        if self.attempt:
            self.attempt.publish([name])
            self._verify(self.place.folder)
        self.place.check_absent(self.settings)
        return self.plan.copy

    def _finish(self, staged: str) -> None:
        """Make the destination, in one step, so that it is there with its copy, or not at all. Raises Failure."""
        destination = self.plan.site.destination
        if not self.plan.site.inside:
            self._snapshot(staged, destination, readonly=False)
            return
        # Into the folder, not onto the name: mv refuses when something of that name has come there in the meantime.
        self.place.host.run(("mv", "--", staged, dirname(destination)), f"cannot move '{staged}' to its place")
        # Snapshots write out what they are taken of; this does it for the move.
        self.place.home.write_out()

    def _snapshot(self, subvolume: str, path: str, readonly: bool = True) -> None:
        self.place.host.run(btrfs.snapshot(subvolume, path, readonly), f"cannot make the snapshot '{path}'")

    def _verify(self, copies: Folder) -> None:
        """Raises Failure unless the copy can take the place of the snapshot that was backed up."""
        copy = copies.show(self.plan.name)
        if not copy.readonly or copy.stream_uuid != self.backup.chosen.stream_uuid:
            raise Failure(f"the read-only copy of {self.plan.name} has not kept its received UUID", btrfs.DOUBT)

    def _undo(self, now: Progress, publish: Publish) -> None:
        """Remove what was made; nothing of it may be taken for a backup, or for what was to be restored."""
        home, name = self.place.home, self.plan.name
        try:
            # A signal may have come right after the last step.
            done = now.placing and examine(home.host, self.plan.site.destination).exists
            publish(replace(now.report, done=done))
            self._remove_attempt(now, done)
            if self.attempt and not (self.plan.site.inside or done):
                held = home.listed()
                for failure in home.delete([held[name]] if name in held else []).values():
                    raise failure
        except Failure as failure:
            log.warning("%s: not all could be removed; the next try does it: %s", self.place.location, failure)

    def _clear_up(self, now: Progress, publish: Publish) -> None:
        try:
            self._remove_attempt(now, done=True)
        except Failure as failure:
            publish(replace(now.report, failures=(failure,)))
            log.error("%s: %s", self.place.location, failure)

    def _remove_attempt(self, now: Progress, done: bool) -> None:
        """Remove the stage with what is in it, except for parts that are of use. Raises Failure."""
        if self.attempt:
            found = list(self.attempt.contents().subvolumes.values())
            parts = cutter.checkpoints([*now.earlier, *found], self.backup.far) if now.keeps_parts else []
            if parts:
                kept = size(parts[-1].offset)
                log.info("%s: %s of it are kept; the same command goes on behind them", self.place.location, kept)
                return
            self.attempt.remove(found, commit=not done)
