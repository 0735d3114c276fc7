"""The world of a run: an immutable value that knows what is where, and decides which step is next.

    argv -> Settings -> World -> next step -> acted -> World after it -> ... -> Report

Whoever acts (see commands.run) hands back what came of a step, failures among it, as a value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from btrfs_backup.errors import DISK_FULL, READ_ONLY, Absent, Declined, Failure, UsageError
from btrfs_backup.model import cutter, inventory, location, plan, records, retention
from btrfs_backup.model.inventory import Holdings, Inventory
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.model.outcome import Outcome, Report, Sent, plural, span
from btrfs_backup.model.plan import Batch, Lineage, Snapshots, Target
from btrfs_backup.model.records import Records
from btrfs_backup.model.retention import Verdict
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.sizes import Sizes
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.model.stage import Stage

# --- steps, and what comes of them -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Take:
    """Take the snapshot NAME. before: the newest one that is there."""

    name: str
    before: str | None


@dataclass(frozen=True)
class Taken:
    """A snapshot was taken. nested: writable subvolumes in the source, which it does not hold; known: all of them were
    there when the snapshot before it was taken."""

    nested: tuple[str, ...] = ()
    known: bool = False


@dataclass(frozen=True)
class List:
    """List the snapshots that there are."""


@dataclass(frozen=True)
class Listed:
    """The list of a source: the SUBVOLUME that is backed up, and the content of the FOLDER of its snapshots."""

    subvolume: Subvolume
    folder: Inventory


@dataclass(frozen=True)
class Look:
    """Look at DESTINATIONS."""

    destinations: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """A look at a destination.

    filesystem: the UUID of its filesystem, empty for a shell command; listed: it can be looked into.
    beside_source: it is on the filesystem of the source. free, label: bytes that are free there, and the label of the
    filesystem, where that was asked. prunes: its host deletes backups by itself, and not for others.
    inside: the machine, and the path in the filesystem; empty when it does not exist, and for a shell command.
    """

    filesystem: str = ""
    inventory: Inventory = field(default_factory=Inventory)
    listed: bool = True
    beside_source: bool = False
    free: int | None = None
    label: str = ""
    prunes: bool = False
    inside: str = ""


@dataclass(frozen=True)
class Clear:
    """Delete at DESTINATION what is left of transfers of NAMES that were cut off, and their STAGES."""

    destination: str
    names: tuple[str, ...]
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Send:
    """Send BATCHES, all of which go to the same destinations, one behind the other.

    resumed: the stage that holds a part of the only one, to go on with.
    """

    batches: tuple[Batch, ...]
    resumed: Stage | None = None

    @property
    def destinations(self) -> tuple[str, ...]:
        return self.batches[0].destinations


@dataclass(frozen=True)
class Delivery:
    """The outcome of a Send at one destination.

    arrived: the first so many of its batches; published: what they are there.
    failure: what went wrong with the next one; blames_parent: its parent is of no use there; mistakes_parent: another
    subvolume was taken for it.
    unknown: it is not known what is there, so that all of them may be.
    left: the stage that could not be gone on with, because the stream is another one; without what is of no use, when
    some of it is.
    let_go: it held up the others. What it has got is in its stage, for a stream of its own.
    """

    arrived: tuple[Sent, ...] = ()
    published: tuple[Subvolume, ...] = ()
    failure: Failure | None = None
    blames_parent: bool = False
    mistakes_parent: bool = False
    unknown: bool = False
    left: Stage | None = None
    let_go: bool = False


@dataclass(frozen=True)
class Delete:
    """Delete what the VERDICT drops, at a destination or, when that is empty, at the source: those SUBVOLUMES."""

    destination: str
    verdict: Verdict
    subvolumes: tuple[Subvolume, ...]


@dataclass(frozen=True)
class Deleted:
    """The outcome of a Delete. failures: names of what could not be deleted, with the reasons.

    unfinished: why it is not known whether what was deleted is really gone.
    """

    failures: Mapping[str, Failure] = field(default_factory=dict)
    unfinished: Failure | None = None


@dataclass(frozen=True)
class Measure:
    """Find out how many bytes the stream of a BATCH has, of which DESTINATION has a part."""

    destination: str
    batch: Batch


@dataclass(frozen=True)
class Weigh:
    """Find out how much space SUBVOLUMES at a destination, or at the source when that is empty, take up.

    going: names of those that are to be deleted; leaning: some of these share data with what is to be sent before.
    """

    destination: str
    subvolumes: tuple[Subvolume, ...]
    going: frozenset[str]
    leaning: bool = False


Step = Take | List | Look | Clear | Send | Delete | Measure | Weigh
# What comes of each of them, in this order.
Came = Taken | Listed | Mapping[str, "Seen | Failure"] | Mapping[str, Delivery] | Deleted | Failure | int | None | Sizes


@dataclass(frozen=True)
class Message:
    """Something to tell at once. level: debug, info, warning or error; place: what it is about."""

    level: str
    place: str
    what: str | Failure


# Stages that hold a part of a snapshot, by its name, with the parent of that stream.
Parts = Mapping[str, tuple[Stage, str | None]]

# --- the world -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Destination:
    """A destination in a run. target: what it lacks, None until it was looked at; looked: that was tried.

    broken: something failed, so that nothing more is sent there. stages: those that are left of our transfers;
    parts: those of them that hold one; sizes: of the streams of these, as far as they were asked for, None where that
    cannot be told.
    strangers: backups there that cannot be proved to be of this source.
    slow: it held up others in a shared stream. It gets its own when they have got all, and is looked at before.
    """

    location: Location
    outcome: Outcome
    looked: bool = False
    seen: Seen = field(default_factory=Seen)
    holdings: Holdings = field(default_factory=Holdings)
    target: Target | None = None
    broken: bool = False
    stages: tuple[Stage, ...] = ()
    parts: Parts = field(default_factory=dict)
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    strangers: frozenset[str] = frozenset()
    slow: bool = False

    @property
    def identity(self) -> str:
        return self.location.identity


@dataclass(frozen=True)
class World:
    """The state of a run: all that is known, and the outcome so far.

    entries: all names in the folder of the snapshots; subvolume: what is backed up; snapshots: those there are of it,
    both as soon as they are LISTED.
    source: what came of the run there; taken: the snapshot that was taken.
    records: what is true of outstanding and delivered snapshots; before: the same when the current step began.
    step: the one that was begun last, None when it is not to be carried out; done: it has been.
    ended: nothing more can be done. unsaved: the records could not be written. frozen: nothing is deleted at the
    source, since not all that is needed is on record.
    messages: everything that was to be told so far. most: destinations that can share a stream.
    """

    settings: Settings
    moment: datetime
    entries: frozenset[str]
    source: Outcome
    records: Records
    listed: bool = False
    subvolume: Subvolume = field(default_factory=lambda: Subvolume("", ""))
    snapshots: Snapshots = field(default_factory=dict)
    before: Records = frozenset()
    destinations: tuple[Destination, ...] = ()
    took: bool = False
    taken: str | None = None
    step: Step | None = None
    done: bool = False
    ended: bool = False
    unsaved: Failure | None = None
    frozen: bool = False
    messages: tuple[Message, ...] = ()
    most: int = 1 << 16

    @property
    def naming(self) -> Naming:
        return self.settings.naming

    # --- which step is next ---

    def next_step(self) -> Step | None:
        """The step that is to be carried out next; None when all is done."""
        if self.settings.take_snapshot and not self.took and not self.settings.status:
            names = [*self.entries, *(each.snapshot for each in self.records)]
            return Take(self.naming.next(self.moment, names), self.naming.newest(self.entries, self.moment))
        if not self.listed:
            return List()
        if self.ended:
            return None
        settings = self.settings
        unlooked = tuple(each.identity for each in self.destinations if not (each.looked or each.slow))
        if unlooked and (settings.transfer or settings.status or settings.keep_backups != retention.KEEP_ALL):
            return Look(unlooked)
        return next(self._sizes() if settings.status else self._steps(), None)

    def _sizes(self) -> Iterator[Step]:
        for each in self.destinations:
            for name, (_, parent) in each.parts.items():
                if name not in each.sizes:
                    yield Measure(each.identity, Batch(name, parent, (each.identity,)))
        yield from self._weighings()

    def _weighings(self) -> Iterator[Step]:
        if not self.settings.sizes:
            return
        for each in self.destinations:
            if each.target and each.seen.listed and each.outcome.sizes is None:
                yield self._weigh(each.identity, each.holdings.complete, self.verdict_at(each), each.outcome.sent)
        if self.source.sizes is None:
            yield self._weigh("", self.snapshots, self.verdict())

    def _weigh(self, destination: str, held: Snapshots, verdict: Verdict, sent: Sequence[Sent] = ()) -> Weigh:
        """What a dry run supposes to be SENT there, or taken, cannot be measured; it shares data with its parent."""
        supposed = {self.taken, *(each.snapshot for each in sent)}
        there = tuple(each for name, each in held.items() if name not in supposed)
        going, parents = {each.name for each in there}.intersection(verdict.dropped), {each.parent for each in sent}
        return Weigh(destination, there, frozenset(going - parents), not going.isdisjoint(parents))

    def _steps(self) -> Iterator[Step]:
        for each in self.destinations:
            stages = tuple(left for left in each.stages if left.name not in each.parts)
            ours = {*self.snapshots, *(left.name for left in stages)} - each.parts.keys()
            parts = tuple(name for name in each.holdings.partial if name in ours)
            if (parts or stages) and not each.broken:
                yield Clear(each.identity, parts, stages)
        if self.settings.transfer:
            lineage = Lineage(self.subvolume, self.snapshots) if self.settings.incremental else None
            lacking = [each for each in self.destinations if each.target and each.target.missing and not each.broken]
            together = [each for each in lacking if not each.slow]
            slow = tuple(each.identity for each in self.destinations if each.slow and not (each.looked or each.broken))
            if slow and not together:
                yield Look(slow)
            waiting = [self._apart(each.target) for each in (together or lacking[:1]) if each.target][: self.most]
            # What comes from another machine is judged by what its parent holds, which has to be there before.
            most = 1 if self.settings.far else plan.AT_ONCE
            if batches := plan.next_batches(waiting, lineage, self.settings.shared_stream, most):
                yield Send(batches)
            for target in waiting:
                name = target.missing[0]
                stage, parent = self.at(target.destination).parts[name]
                yield Send((Batch(name, parent, (target.destination,), parent in target.named),), stage)
        yield from self._weighings()
        for each in self.destinations:
            # Also where a transfer failed: that frees space.
            if each.target and each.seen.listed and each.outcome.kept is None:
                verdict = self.verdict_at(each)
                judged = tuple(each.holdings.complete[name] for name in verdict.dropped)
                yield Delete(each.identity, verdict, judged)
        if not self.frozen and self.source.kept is None:
            verdict = self.verdict()
            yield Delete("", verdict, tuple(self.snapshots[name] for name in verdict.dropped))

    def _apart(self, target: Target) -> Target:
        """TARGET, with what a receiver there could take for something else on the filesystem."""
        each, names = self.at(target.destination), frozenset(self.snapshots)
        here, elsewhere = each.seen.filesystem, each.seen.inventory.elsewhere
        alone = bool(here) and any(other.seen.filesystem == here for other in self.destinations if other != each)
        if not alone:
            names = frozenset(name for name in names if self.snapshots[name].stream_uuid in elsewhere)
        return replace(target, named=target.named | names, alone=alone)

    def coming(self, step: Send) -> tuple[Batch, ...]:
        """All that goes to the destinations of STEP from it on; what is behind it as if nothing of it were there."""
        targets = [target for each in step.destinations if (target := self.at(each).target)]
        for batch in step.batches:
            targets = plan.after(batch, targets)
        targets = [replace(target, partial=frozenset(), one_by_one=False) for target in targets]
        lineage = Lineage(self.subvolume, self.snapshots) if self.settings.incremental else None
        return (*step.batches, *plan.next_batches(targets, lineage))

    def verdict_at(self, each: Destination) -> Verdict:
        """Which backups retention keeps at a destination, and why."""
        common = each.target.common if each.target else frozenset()
        protected = {}
        if newest := self.naming.newest(common, self.moment):
            protected[newest] = ["newest that the source has, too"]
        held = common.union(each.holdings.complete) - each.strangers
        return retention.decide(self.settings.keep_backups, self.naming, held, protected, self.moment)

    def verdict(self) -> Verdict:
        """Which snapshots retention keeps at the source, and why."""
        protected = records.reasons(self.records)
        if self.unsaved:
            # Some of that is not on record, and nobody but this run knows it.
            for each in self.destinations:
                for name in each.target.owed if each.target else ():
                    protected.setdefault(name, []).append(f"needed by {each.identity}")
        return retention.decide(self.settings.keep_snapshots, self.naming, self.snapshots, protected, self.moment)

    def in_full_because(self, destination: str) -> str:
        """Why the next snapshot is sent in full to DESTINATION, which has backups; empty when it has none."""
        each = self.at(destination)
        target = each.target or Target(destination)
        delivered = () if each.seen.listed else records.last_delivered(self.records, destination)
        if not (each.holdings.complete or delivered):
            return ""
        if not self.settings.incremental:
            return "of '-I'"
        if delivered and not target.common:
            return f"the snapshot that was delivered last, {max(delivered)}, is gone at the source"
        if not target.common:
            count = len(each.holdings.complete)
            which = "the backup there is not" if count == 1 else f"none of the {count} backups there is"
            return f"{which} of a snapshot that the source has"
        if not target.parents:
            return "no backup there can be used as its parent"
        return "the snapshots on both sides share their UUIDs with others"

    # --- a step, from beginning to end ---

    def begun(self, step: Step) -> "World":
        """The world when STEP begins. What it tells on record has to be saved before it is carried out."""
        world = replace(self, step=step, done=False, before=self.records)
        match step:
            case Clear(destination, names, _):
                for name in names:
                    world = world._telling("info", destination, f"deleting {name}, a transfer that was cut off")
            case Send(batches):
                begun = self.records
                for batch in batches:
                    for destination in batch.destinations:
                        begun = records.begin(begun, destination, batch.snapshot, batch.parent)
                world = replace(world, records=begun)
            case Delete(destination, verdict, _):
                place = destination or self.source.place
                reasons = (f"keeping {kept.name}: {', '.join(kept.because)}" for kept in verdict.kept)
                world = replace(world, messages=(*self.messages, *(Message("debug", place, what) for what in reasons)))
        return world

    def not_saved(self, failure: Failure) -> "World":
        """The records could not be written. A step for which they have to be is not carried out.

        On a read-only filesystem it is: perhaps the kernel made it so because the disk fails, and what is on it should
        be saved. Nothing can be deleted there either. A full one has to be freed.
        """
        world = replace(self, unsaved=failure, frozen=self.frozen or failure.brief != DISK_FULL)
        if failure.brief == READ_ONLY:
            return world._failing("", failure)
        if world.frozen and not self.frozen and self.settings.keep_snapshots != retention.KEEP_ALL:
            what = "no snapshot is deleted: the records do not tell all that is needed"
            world = world._telling("warning", self.source.place, what)
        told = Failure(failure.message, failure.hint, failure.brief and f"source: {failure.brief}")
        match self.step:
            case Send(batches) as step:
                for destination in step.destinations:
                    world = world._failing(destination, told)
                    if not self.done:
                        own = (batches[0].snapshot, batches[0].parent)
                        kept = records.settled(world.records, self.before, destination, (), own)
                        world = replace(world, step=None, records=kept)
            case Clear(destination, _, _) | Delete(destination, _, _):
                world = world._failing(destination, told)
            case _:
                world = world._failing("", told)
        return world

    def after(self, step: Step, outcome: Came) -> "World":
        """The world after STEP, of which that OUTCOME came. Raises Failure when nothing can be done without it."""
        return replace(self._after(step, outcome), done=True)

    def _after(self, step: Step, outcome: Came) -> "World":
        match step, outcome:
            case Take(name), Taken() | Failure():
                return self._took(name, outcome)
            case List(), Listed() | Failure():
                return self._listed(outcome)
            case Look(), dict():
                world = self
                for destination, seen in outcome.items():
                    world = world._looked(destination, seen)
                # --status shows them as they are, and not as a run would have them.
                return replace(world, records=self.records) if self.settings.status else world
            case Clear(destination, names, stages), Failure() | None:
                return self._cleared(destination, names, stages, outcome)
            case Send(), dict():
                world = self
                for destination, delivery in outcome.items():
                    world = world._sent(step, destination, delivery)
                return world
            case Delete(), Deleted():
                return self._deleted(step, outcome)
            case Measure(destination, batch), int() | None:
                return self._changing(
                    destination, lambda each: replace(each, sizes={**each.sizes, batch.snapshot: outcome})
                )
            case Weigh(destination), Sizes() | Failure():
                world, sizes = self, outcome
                if isinstance(sizes, Failure):
                    world, sizes = self._failing(destination, sizes, broken=False), Sizes()
                sizes = replace(sizes, more_freed=sizes.more_freed or step.leaning)
                return world._changing_outcome(destination, lambda its: replace(its, sizes=sizes))
        raise TypeError(f"{outcome!r} cannot come of {step!r}")

    # --- taking ---

    def _took(self, name: str, outcome: Taken | Failure) -> "World":
        world = replace(self, took=True)
        if isinstance(outcome, Failure):
            return world._failing("", outcome)
        world = replace(world, taken=name)._telling("info", self.source.place, f"took snapshot {name}")
        if nested := outcome.nested:
            some = ", ".join(nested[:3]) + (f" and {len(nested) - 3} more" if len(nested) > 3 else "")
            what = f"nested subvolumes are in no snapshot, and need backups of their own: {some}"
            world = world._telling("info" if outcome.known else "warning", self.settings.source.path, what)
        return world

    def _listed(self, outcome: Listed | Failure) -> "World":
        world = replace(self, listed=True)
        if isinstance(outcome, Failure):
            if not self.taken:
                raise outcome
            return replace(world, ended=True)._failing("", outcome)
        held = inventory.snapshots(outcome.folder)
        world = replace(world, subvolume=outcome.subvolume, snapshots=held.complete)
        ahead = self.naming.ahead(held.complete, self.moment)
        foreign = [_Odd(f"leaving {name} alone: {why}", ((name, why),)) for name, why in held.foreign.items()]
        world = world._finding(self.settings.folder_path, "", [*_ahead(ahead), *foreign])
        if self.taken and self.taken not in held.complete:
            why = held.foreign.get(self.taken, "it is not there")
            failure = Failure(
                f"the snapshot {self.taken} cannot be used as one: {why}",
                "Is the program 'btrfs' in PATH the one of btrfs-progs?",
            )
            world = replace(world, taken=None)._failing("", failure)
        if self.settings.take_snapshot and not world.taken and not world.snapshots and not self.settings.status:
            place = self.settings.folder_path
            raise Failure(f"there is no snapshot in '{place}' either", "Nothing is sent or pruned without one.")
        return world

    # --- looking ---

    def _looked(self, destination: str, seen: Seen | Failure) -> "World":
        if isinstance(seen, Failure):
            return self._unseen(destination, seen)
        others = [each for each in self.destinations if each.looked and each.identity != destination]
        same = [each for each in others if (each.seen.filesystem, each.seen.inside) == (seen.filesystem, seen.inside)]
        if seen.inside and same and not self.settings.status:
            what = f"it is the same folder as {same[0].identity}, by another path, and is not served twice"
            world = self._changing(destination, lambda each: replace(each, looked=True))
            return world._failing(destination, Failure(what, "Name it once."))
        if not seen.listed:
            delivered = records.last_delivered(self.records, destination)
            target = plan.unlisted_target(destination, delivered, self.snapshots, self.naming, self.moment)
            world = self._changing(destination, lambda each: replace(each, looked=True, seen=seen, target=target))
            return world._reconciled(target)
        world, stages = self, seen.inventory.stages
        recorded = records.owed(self.records, self.naming, destination)
        old = not records.is_staged(self.records, destination, seen.filesystem)
        holdings = inventory.backups(seen.inventory, self.snapshots, recorded, old)
        strangers = plan.strangers(holdings.complete, self.snapshots, records.backups(self.records))
        if self.settings.adopt and strangers:
            adopted = f"adopted {plural(len(strangers), 'backup')}: {span(sorted(strangers))}"
            world, strangers = world._telling("info", destination, adopted), frozenset()
        target, parts = self._lacking(destination, seen, holdings, strangers)
        known = {*self.snapshots, *recorded}
        left = tuple(
            each
            for each in stages
            if each.name in known and not (each.foreign or each.holder or inventory.is_of_another(each, self.snapshots))
        )
        here = self.at(destination)
        outcome = replace(here.outcome, free=seen.free)
        looked = Destination(
            here.location, outcome, True, seen, holdings, target, False, left, parts, {}, strangers, here.slow
        )
        world = world._changing(destination, lambda each: looked)
        for level, what in self._remarks(looked, target):
            world = world._telling(level, destination, what)
        world = world._finding(destination, seen.filesystem, self._oddities(looked, target))
        if self.settings.transfer and not self.settings.status:
            for name, holder in target.under_way.items():
                world = world._failing(destination, _under_way(name, holder), broken=False)
            for name, why in target.occupied.items():
                world = world._failing(destination, occupied(destination, name, why), broken=False)
        return world._reconciled(target)

    def _unseen(self, destination: str, failure: Failure) -> "World":
        """DESTINATION could not be looked at; when it is absent, that may be no failure."""
        world = self._changing(destination, lambda each: replace(each, looked=True))
        if isinstance(failure, Absent) and self.settings.skip_absent:
            world = world._changing_outcome(destination, lambda outcome: replace(outcome, absent=True))
            world = world._telling("info", destination, f"skipped: {failure.message}")
        else:
            world = world._failing(destination, failure)
        newest = self.naming.newest(self.snapshots, self.moment)
        known = records.of(self.records, destination, records.NEWEST, records.BACKUP, records.OWED)
        if newest and known and self.settings.transfer:
            world = replace(world, records=records.unreachable(self.records, destination, newest))
        return world

    def _lacking(
        self, destination: str, seen: Seen, holdings: Holdings, strangers: frozenset[str]
    ) -> tuple[Target, Parts]:
        """What DESTINATION lacks, and those stages that hold a part of it."""
        ours = {name: each for name, each in holdings.complete.items() if name not in strangers}
        own, keep = replace(holdings, complete=ours), self.settings.keep_backups
        target = plan.target(destination, own, self.snapshots, self.naming, keep, self.moment)
        target = plan.newer_only(target) if seen.prunes else target
        parts = self._parts(target, ours, seen.inventory.stages)
        taken = holdings.complete.keys() | holdings.foreign.keys() | holdings.under_way.keys()
        target = plan.going_on(target, parts.keys() - taken)
        return target, {name: parts[name] for name in target.partial}

    def _parts(self, target: Target, held: Snapshots, stages: Sequence[Stage]) -> Parts:
        """Those STAGES that hold a part that TARGET, which HELD those backups, can go on with, with its parent."""
        names, found = {each.uuid: name for name, each in held.items()}, {}
        for stage in stages:
            known = cutter.checkpoints(stage.subvolumes, self.settings.far)
            strange = stage.foreign or stage.holder or inventory.is_of_another(stage, self.snapshots)
            if not known or strange or stage.name not in self.snapshots:
                continue
            origin = cutter.beginning(stage.subvolumes, known[-1])
            parent = names.get(origin)
            if not origin or (parent in target.parents and self.settings.incremental):
                found[stage.name] = stage, parent
        return found

    def _remarks(self, each: Destination, target: Target) -> Iterator[tuple[str, str]]:
        """What is worth telling of what a destination holds."""
        if each.seen.beside_source:
            # Whoever has backups there has been warned.
            known = records.filesystems(self.records, each.identity)
            what = "on the same filesystem as the source: that is no protection against a dead disk"
            yield "info" if known else "warning", what
        told = records.told(self.records, each.identity, each.seen.filesystem, records.OTHER)
        if strangers := [
            name for name in sorted(each.strangers) if (name, each.holdings.complete[name].uuid) not in told
        ]:
            yield (
                "warning",
                f"{plural(len(strangers), 'backup')} there cannot be proved to be of this source, and '-n' neither "
                f"counts nor deletes {'it' if len(strangers) == 1 else 'them'}: {span(strangers)}\n"
                "  Of another source? Then use another folder or a prefix ('-p'). Of this one, whose records were "
                "lost? Then '--adopt' counts them from then on.",
            )
        on_record = records.last_delivered(self.records, each.identity, each.seen.filesystem)
        delivered = self.naming.newest(on_record, self.moment)
        if delivered in self.snapshots and delivered in target.missing and delivered not in each.holdings.partial:
            yield "warning", f"{delivered} was delivered there, and somebody has deleted it"
        owed = records.owed(self.records, self.naming, each.identity)
        if found := [name for name in owed if name in each.holdings.complete]:
            yield "info", f"on record as outstanding, and complete there: {span(found)}"

    def _oddities(self, each: Destination, target: Target) -> Iterator["_Odd"]:
        """What is odd about what a destination holds, and will be in each run until somebody does something."""
        for left in each.seen.inventory.stages:
            if left.foreign:
                yield _Odd(f"leaving {left.entry} alone: {left.foreign}", ((left.name, left.foreign),))
            elif not left.holder and inventory.is_of_another(left, self.snapshots):
                why = "it is of another source, whose transfer was cut off"
                what = f"leaving {left.entry} alone: {why}; the next run of that goes on or deletes it"
                yield _Odd(f"{what}\n  If there is none any more: {_deletion(each, left)}", ((left.name, why),))
        for name, why in each.holdings.foreign.items():
            if name not in target.occupied:
                yield _Odd(f"leaving {name} alone: {why}", ((name, why),))
        yield from _ahead(
            self.naming.ahead(each.holdings.complete.keys() - self.snapshots.keys() - each.strangers, self.moment)
        )
        for name in each.holdings.partial:
            if name not in self.snapshots and name not in {left.name for left in each.stages}:
                why = "it is a transfer that was cut off, and the source does not have that snapshot"
                yield _Odd(f"leaving {name} alone: {why}; to delete it: {_deletion_of(each, name)}", ((name, why),))

    def _finding(self, place: str, filesystem: str, odd: Iterable["_Odd"]) -> "World":
        """Something lasting is ODD at a place. It is warned of once, and whenever somebody asks how things stand."""
        world, told, found = self, records.told(self.records, place, filesystem), set()
        for each in odd:
            known = told.issuperset(each.about) and not self.settings.status
            world = world._telling("info" if known else "warning", place, each.what)
            found |= {*each.about}
        return replace(world, records=records.tell(world.records, place, filesystem, self.naming, found))

    def _reconciled(self, target: Target) -> "World":
        """The records agree with what was seen of a destination."""
        begun = frozenset(records.Fact(records.OWED, target.destination, name) for name in target.under_way)
        lacking = (*target.missing, *target.under_way)
        known = records.reconcile(self.records | begun, self.naming, target.destination, lacking)
        filesystem = self.at(target.destination).seen.filesystem
        known = records.blocked(known, target.destination, filesystem, self.naming, target.occupied)
        return replace(self, records=known)._delivered(target.destination)._staged(target.destination)

    def _staged(self, destination: str) -> "World":
        """When nothing of an older version is left there, all that has a name at a destination is whole."""
        each = self.at(destination)
        if each.seen.listed and not each.holdings.partial:
            return replace(self, records=records.staged(self.records, destination, each.seen.filesystem))
        return self

    def _delivered(self, destination: str) -> "World":
        """The newest snapshot that a destination has is on record."""
        each = self.at(destination)
        target = each.target or Target(destination)
        # What a shell command got is known from nothing else.
        had = frozenset() if each.seen.listed else records.last_delivered(self.records, destination)
        newest = plan.to_record(target, target.common | had, self.naming, self.moment)
        known = records.delivered(self.records, destination, each.seen.filesystem, self.naming, newest)
        if each.seen.listed and each.target:
            held = each.holdings.complete.items()
            ours = {its.uuid: name for name, its in held if name not in each.strangers}
            others = {its.uuid: name for name, its in held if name in each.strangers}
            disk = (destination, each.seen.filesystem)
            known = records.holds(known, *disk, self.naming, ours, others)
        return replace(self, records=known)

    # --- clearing, sending, deleting ---

    def _cleared(
        self, destination: str, names: tuple[str, ...], stages: tuple[Stage, ...], failure: Failure | None
    ) -> "World":
        if failure:
            return self._failing(destination, failure)

        def cleared(each: Destination) -> Destination:
            left = tuple(name for name in each.holdings.partial if name not in names)
            outcome = replace(each.outcome, cleared=(*each.outcome.cleared, *names))
            holdings, gone = replace(each.holdings, partial=left), set(stages)
            remaining = tuple(stage for stage in each.stages if stage not in gone)
            return replace(each, holdings=holdings, outcome=outcome, stages=remaining)

        return self._changing(destination, cleared)._staged(destination)

    def _sent(self, step: Send, destination: str, delivery: Delivery) -> "World":
        if delivery.let_go:
            what = "it is far slower than the others; it gets the rest by itself when they have got all"
            world = self._telling("info", destination, what)
            return world._changing(
                destination,
                lambda each: replace(each, slow=True, looked=False, target=None, stages=(), parts={}),
            )
        count = len(delivery.arrived)

        def served(each: Destination) -> Destination:
            target = each.target or Target(destination)
            for batch in step.batches[:count]:
                target = plan.served(target, batch.snapshot)
            complete = {**each.holdings.complete, **{its.name: its for its in delivery.published}}
            outcome = replace(each.outcome, sent=(*each.outcome.sent, *delivery.arrived))
            holdings = replace(each.holdings, complete=complete)
            each = replace(each, target=target, holdings=holdings, outcome=outcome)
            if mistaken:
                each = replace(each, target=replace(target, named=frozenset(self.snapshots)))
            elif useless:
                each = replace(each, target=plan.without_parent(target, useless))
            return _with_left(each, step.resumed, None) if step.resumed and (count or useless) else each

        failing = step.batches[count] if delivery.failure and count < len(step.batches) else None
        useless = failing.parent if failing and delivery.blames_parent else None
        mistaken = bool(failing and delivery.mistakes_parent and not failing.named)
        world = self._changing(destination, served)
        if step.resumed and delivery.left and delivery.failure:
            tried, left = step.resumed, delivery.left
            world = world._telling("warning", destination, delivery.failure)
            world = world._changing(destination, lambda each: _with_left(each, tried, left))
        elif mistaken:
            what = f"{delivery.failure}\n  Sending it again, so that the parent is named by its UUID there."
            world = world._telling("info", destination, what)
        elif useless and delivery.failure:
            what = f"{delivery.failure}\n  Trying another parent, or a full transfer."
            world = world._telling("warning", destination, what)
        elif delivery.failure:
            world = world._failing(destination, delivery.failure)
        if not delivery.unknown:
            arrived = [each.snapshot for each in delivery.arrived]
            failed = (failing.snapshot, failing.parent) if failing and not (useless or delivery.left) else None
            known = records.settled(world.records, self.before, destination, arrived, failed)
            world = replace(world, records=known)
        return world._delivered(destination)._overwriting(destination)

    def _overwriting(self, destination: str) -> "World":
        """A shell command that has got a stream, and would overwrite that with the next one, gets no more."""
        each = self.at(destination)
        sent, missing = each.outcome.sent, each.target.missing if each.target else ()
        if not (sent and missing and self.settings.overwrites(each.location)) or each.broken:
            return self
        what = f"{missing[0]} is not sent: it would overwrite {sent[-1].snapshot}, which it builds upon"
        return self._failing(destination, Failure(what, _OVERWRITING))

    def _deleted(self, step: Delete, outcome: Deleted) -> "World":
        dropped = tuple(name for name in step.verdict.dropped if name not in outcome.failures)
        kept: dict[str, tuple[str, ...]] = {each.name: each.because for each in step.verdict.kept}
        kept |= {name: (str(why),) if isinstance(why, Declined) else () for name, why in outcome.failures.items()}
        world = self._changing_outcome(step.destination, lambda its: replace(its, deleted=dropped, kept=kept))
        if step.destination:
            gone = set(dropped)
            world = world._changing(step.destination, lambda each: _without(each, gone))._delivered(step.destination)
        else:
            left = {name: each for name, each in self.snapshots.items() if name not in dropped}
            world = replace(world, snapshots=left)
        if dropped:
            place = step.destination or self.source.place
            world = world._telling("info", place, f"deleted {', '.join(dropped)}")
        if outcome.unfinished:
            world = world._failing(step.destination, outcome.unfinished)
        for failure in dict.fromkeys(outcome.failures.values()):
            if isinstance(failure, Declined):
                told = f"{failure}: it does not delete by order of others; '-n' only tells what is sent there"
                world = world._telling("info", step.destination, told)
                continue
            count = sum(1 for each in outcome.failures.values() if each is failure)
            message = f"{plural(count, 'deletion')} failed: {failure.message}"
            world = world._failing(step.destination, Failure(message, failure.hint, failure.brief))
        return world

    # --- what came of it ---

    def report(self) -> Report:
        """What came of the run so far."""
        return Report(
            self.source,
            self.taken,
            tuple(replace(each.outcome, outstanding=self._outstanding(each)) for each in self.destinations),
        )

    def _outstanding(self, each: Destination) -> tuple[str, ...]:
        planned = each.target.owed if each.target and self.settings.transfer else frozenset()
        # One that is not there any more cannot be sent, whoever lacks it.
        lacking = planned.intersection(self.snapshots)
        return tuple(sorted(lacking.union(records.owed(self.records, self.naming, each.identity))))

    # --- small changes ---

    @property
    def can_go_on(self) -> bool:
        """Whether the transfer of the current step, if it is one, goes on in the next run when it is cut off now."""
        sent_to = self.step.destinations if isinstance(self.step, Send) and not self.done else ()
        return any(self.at(each).seen.listed for each in sent_to)

    def at(self, destination: str) -> Destination:
        """The destination of that identity."""
        return next(each for each in self.destinations if each.identity == destination)

    def _changing(self, destination: str, change: Callable[[Destination], Destination]) -> "World":
        changed = (change(each) if each.identity == destination else each for each in self.destinations)
        return replace(self, destinations=tuple(changed))

    def _changing_outcome(self, destination: str, change: Callable[[Outcome], Outcome]) -> "World":
        """DESTINATION: empty for the source."""
        if not destination:
            return replace(self, source=change(self.source))
        return self._changing(destination, lambda each: replace(each, outcome=change(each.outcome)))

    def _telling(self, level: str, place: str, what: str | Failure) -> "World":
        return replace(self, messages=(*self.messages, Message(level, place, what)))

    def _failing(self, destination: str, failure: Failure, broken: bool = True) -> "World":
        """Something failed at DESTINATION, or at the source when that is empty. What was told is not told again."""
        place = destination or self.source.place
        known = self.at(destination).outcome.failures if destination else self.source.failures
        world = self
        if not any(str(failure) == str(told) for told in known):
            world = self._changing_outcome(
                destination, lambda outcome: replace(outcome, failures=(*outcome.failures, failure))
            )._telling("error", place, failure)
        if destination and broken:
            world = world._changing(destination, lambda each: replace(each, broken=True))
        return world


_OVERWRITING = (
    "Put $BTRFS_BACKUP_SNAPSHOT into the name, and the whole argument in single quotes. If that file does not hold the "
    "stream, begin the command with ': $BTRFS_BACKUP_SNAPSHOT;'."
)


def _without(each: Destination, names: set[str]) -> Destination:
    left = {name: its for name, its in each.holdings.complete.items() if name not in names}
    target = replace(each.target, common=each.target.common - names) if each.target else None
    return replace(each, holdings=replace(each.holdings, complete=left), target=target)


def _deletion_of(each: Destination, name: str) -> str:
    """The command that deletes what a transfer of NAME has left at a destination."""
    left = next((left for left in each.seen.inventory.stages if left.name == name and left.attempts), None)
    return _deletion(each, left) if left else f"btrfs subvolume delete {each.location.path}/{name}"


def _deletion(each: Destination, left: Stage) -> str:
    """The command that deletes a stage that was LEFT at a destination."""
    stage = f"{each.location.path}/{left.entry}"
    return f"btrfs subvolume delete {stage}/*/*; rm -r {stage}" if left.subvolumes else f"rm -r {stage}"


def _under_way(name: str, holder: str) -> Failure:
    return Failure(
        f"{name} is being received there already, by {holder}",
        "Wait until that has ended; the next run sends what is still missing.",
    )


def _with_left(each: Destination, tried: Stage, left: Stage | None) -> Destination:
    """What a destination looks like when that is LEFT of the stage that was TRIED; None: it is gone."""
    parts = {name: its for name, its in each.parts.items() if name != tried.name}
    if left and left.subvolumes != tried.subvolumes:
        parts[left.name] = left, each.parts[left.name][1]
    target = replace(each.target, partial=frozenset(parts)) if each.target else None
    stages = tuple(filter(None, (left if stage == tried else stage for stage in each.stages)))
    partial = tuple(name for name in each.holdings.partial if left or name != tried.name)
    return replace(each, stages=stages, parts=parts, target=target, holdings=replace(each.holdings, partial=partial))


@dataclass(frozen=True)
class _Odd:
    """A remark about something odd that lasts. about: snapshots, with what is odd about each."""

    what: str
    about: tuple[tuple[str, str], ...]


def _ahead(names: Sequence[str]) -> list[_Odd]:
    if not names:
        return []
    verb, them = ("lies", "it is") if len(names) == 1 else ("lie", "they are")
    what = (
        f"{span(names)} {verb} in the future: is the clock right? What '-N' and '-n' keep is decided as if {them} not "
        "there\n  If the clock was wrong then, rename or delete what has such a name."
    )
    return [_Odd(what, tuple((name, "it lies in the future") for name in names))]


def occupied(place: str, name: str, why: str) -> Failure:
    """A snapshot cannot be sent since something else has its name."""
    return Failure(f"cannot send {name}: '{place}/{name}' is in the way: {why}", "Rename or delete it, then run again.")


# --- how it begins ---------------------------------------------------------------------------------------------------


def begin(
    settings: Settings,
    moment: datetime,
    entries: frozenset[str],
    known: Records,
    broken: tuple[Failure, ...] = (),
) -> World:
    """The world when a run begins. ENTRIES: of the folder of snapshots; KNOWN: the records.

    broken: why some of these could not be read. Then nothing is deleted at the source.
    """
    world = World(settings, moment, entries, Outcome(settings.source.identity), known, frozen=bool(broken))
    for failure in broken:
        world = world._failing("", failure)
    wanted = dict.fromkeys(settings.destinations)
    if settings.locked_dests or (settings.status and not wanted):
        kinds = (records.OWED, records.PARENT, records.BLOCKED, *([records.NEWEST] if settings.status else []))
        for recorded in records.destinations(known, settings.naming, *kinds):
            place = _recorded(recorded, settings)
            if isinstance(place, Failure):
                world = world._failing("", place)
            else:
                wanted[place] = None
    if settings.max_age is not None and not wanted:
        raise Failure("'--max-age' has no backup to judge: no destination is on record", "Name the destinations.")
    world = replace(world, destinations=tuple(Destination(each, Outcome(each.identity)) for each in wanted))
    return _forgetting(world) if settings.remove_locks else world


def _recorded(recorded: str, settings: Settings) -> Location | Failure:
    """The destination that stands in the records. They are only a file: no command is run because one stands there."""
    correct = f"Correct it with an editor: {settings.folder_path}/.outstanding_transfers"
    try:
        place = location.parse(recorded, "/")
    except UsageError as error:
        return Failure(f"the records name something that is no destination: {error.message}", correct)
    if place.scheme is Scheme.SHELL and place not in settings.destinations and not settings.status:
        return Failure(
            f"'--locked-dests' runs no shell command that only the records name: {place}",
            "Name it as a DEST if it is yours. Or have it forgotten: name it, with '-S -T --remove-locks'.\n"
            f"  The records: {settings.folder_path}/.outstanding_transfers",
        )
    if place.scheme is Scheme.LOCAL and not recorded.startswith("/"):
        return Failure(f"the records name something that is no destination: '{recorded}' is not absolute", correct)
    return place


def _forgetting(world: World) -> World:
    """The records hold nothing of the destinations."""
    for each in world.destinations:
        left = records.forget(world.records, world.naming, [each.identity])
        if left == world.records:
            what = "nothing is on record of it: is it spelled as in the backups?"
            world = world._telling("warning", each.identity, what)
        else:
            world = replace(world, records=left)._telling("info", each.identity, "dropped what was on record of it")
    return world
