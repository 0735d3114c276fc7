"""An imagined source with imagined disks, on which the product's own loop runs, and on which anything may fail.

What must never happen is checked where it would happen: in the steps.
"""

import random
import unittest
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import SimpleNamespace

from btrfs_backup.cli import parser as cli
from btrfs_backup.commands.run import Supposed, run
from btrfs_backup.errors import DISK_FULL, READ_ONLY, Absent, Failure, Interrupted
from btrfs_backup.model import cutter, inventory, location, plan, retention, stage, world
from btrfs_backup.model.cutter import Part
from btrfs_backup.model.inventory import Holdings, Inventory
from btrfs_backup.model.outcome import Outcome, Report, Sent
from btrfs_backup.model.records import BLOCKED, NEWEST, OWED, PARENT, STAGED, Fact, Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.model.stage import Stage
from btrfs_backup.model.world import (
    Came,
    Clear,
    Delete,
    Deleted,
    Delivery,
    List,
    Listed,
    Look,
    Seen,
    Send,
    Step,
    Take,
    Taken,
    World,
)
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.ssh import Access

NAMING = Naming("home-")
HOME = Subvolume("home", "uuid-home", readonly=False)
POLICIES = [retention.parse(text) for text in ("all", "1", "1", "2", "3", "2 3h", "1 2d", "3h 2d 1w", "5 1m")]
BASE = cli.parse(["-p", NAMING.prefix, "/home"])
SHELL = "shell://store"
# What somebody else's runs have on record.
THEIRS = frozenset({Fact(OWED, "/one", "srv-20200101-000000"), Fact(NEWEST, "/one", "srv-20200101-000000", "one-1")})


@dataclass
class Disk:
    """A filesystem at a destination: what is under names of our form there."""

    filesystem: str
    held: dict[str, Subvolume] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    stages: dict[str, Stage] = field(default_factory=dict)  # of what was cut off, by its name

    def seen(self) -> Inventory:
        stages = tuple(self.stages[name] for name in sorted(self.stages))
        return Inventory(dict(sorted(self.held.items())), frozenset(self.files), stages)

    def leave(self, batch: plan.Batch, parent: str, token: int) -> None:
        """Leave what is cut off, or when there is a TOKEN a part of it that is built upon the PARENT of that UUID."""
        name = batch.snapshot
        old = self.stages.get(name)
        held = (*(old.subvolumes if old else ()), *(parts(parent, token) if token else ()))
        self.stages[name] = Stage(stage.entry(name), name, ("host-1-01234567",), held)

    def holdings(self, snapshots: plan.Snapshots) -> Holdings:
        return inventory.backups(self.seen(), snapshots, old=False)


def parts(parent: str, token: int) -> tuple[Subvolume, ...]:
    """A part that is whole and written, built upon the PARENT of that UUID, and the next one, which is not whole."""
    one, two = (Part(offset, f"{offset:032}", f"{token:016x}") for offset in (78, 100))
    first = Subvolume(one.name, f"part-{token}", parent, one.uuid, id=1)
    marks = (Subvolume(cutter.mark(one.salt, each), f"mark-{each}-{token}", id=each) for each in (3, 4))
    return first, Subvolume(two.name, f"next-{token}", first.uuid, readonly=False, id=2), *marks


class Universe:
    """What outlives a run. disks: those that take turns at each destination; shell: what a command has received;
    file: the records on disk."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.time = datetime(2026, 10, 20) + timedelta(minutes=self.dice.randrange(100_000))
        self.serial = 0
        self.snapshots: dict[str, Subvolume] = {}
        self.file: Records = THEIRS
        self.received: set[str] = set()  # UUIDs of all backups that were ever made
        count = self.dice.randint(1, 2)
        self.disks = {
            f"/{place}": [Disk(f"{place}-{number}") for number in range(self.dice.choice((1, 1, 2)))]
            for place in ("one", "two", "three")[:count]
        }
        self.mounted = {place: disks[0] for place, disks in self.disks.items()}
        self.shell: list[str] | None = [] if self.dice.random() < 0.3 else None
        self.keep_snapshots = self.dice.choice(POLICIES)
        self.keep_backups = self.dice.choice(POLICIES)

    def uuid(self) -> str:
        self.serial += 1
        return f"uuid-{self.serial}"

    @property
    def places(self) -> list[str]:
        return [*self.disks, *([SHELL] if self.shell is not None else [])]

    @property
    def usable(self) -> dict[str, Subvolume]:
        """The snapshots that can be sent, in the order of names."""
        return {name: each for name, each in sorted(self.snapshots.items()) if each.readonly}

    def pass_time(self) -> None:
        self.time += timedelta(seconds=self.dice.choice((0, 1, 1800, 3600, 86400, 40 * 86400)))
        for place, disks in self.disks.items():
            self.mounted[place] = self.dice.choice(disks)

    def meddle(self) -> None:
        """Something foreign appears under one of our names, a backup is changed or deleted, or the way is cleared."""
        place = self.dice.choice(list(self.disks))
        disk = self.mounted[place]
        name = self.dice.choice([*self.snapshots, NAMING.name(self.time), "home-20000101-000000"])
        free = name not in disk.held and name not in disk.files
        kind = self.dice.randrange(7)
        if kind == 0 and free:
            disk.files.add(name)
        elif kind == 1 and free:
            received = self.dice.choice(("", "somebody else's"))
            disk.held[name] = Subvolume(name, self.uuid(), "", received)
        elif kind == 2 and name in disk.held:
            disk.held[name] = replace(disk.held[name], readonly=False)
        elif kind == 3:
            disk.held.pop(name, None)
        elif kind == 4:
            disk.files.discard(name)
        elif kind == 5:
            foreign = disk.holdings(self.usable).foreign
            disk.held = {each: entry for each, entry in disk.held.items() if each not in foreign}
        elif kind == 6 and len(self.snapshots) > 1:
            self.snapshots.pop(name, None)

    def settings(self, **changes: object) -> Settings:
        places = tuple(location.parse(each, "/") for each in self.places)
        given = {"destinations": places, "keep_snapshots": self.keep_snapshots, "keep_backups": self.keep_backups}
        return replace(BASE, **{**given, **changes})  # type: ignore[arg-type]

    def common(self, disk: Disk) -> set[str]:
        return set(disk.holdings(self.usable).complete).intersection(self.usable)

    def relied_on(self) -> list[Disk]:
        """The disks of which it is on record that they have a snapshot in common with the source."""
        return [
            disk
            for place, disks in self.disks.items()
            for disk in disks
            if any(Fact(NEWEST, place, name, disk.filesystem) in self.file for name in self.common(disk))
        ]


class Dry(Supposed):
    """The product's dry run, on an imagined world."""

    def __init__(self, universe: Universe, settings: Settings) -> None:
        self.universe = universe
        self.settings = replace(settings, dry_run=True)
        usable = universe.snapshots
        folder = SimpleNamespace(inventory=lambda *_, **__: Inventory(dict(sorted(usable.items()))))
        self._source = SimpleNamespace(folder=folder)  # type: ignore[assignment]
        self._subvolume = HOME
        self._hosts = Hosts(Access())

    def begin(self) -> World:
        return begun(self.universe, self.settings)

    def _look(self, name: str, now: World) -> Seen | Failure:
        return seen(self.universe, name)

    def _estimate(self, batch: plan.Batch, now: World) -> int | None:
        return None

    def _declined(self, name: str, step: Delete) -> Deleted:
        return Deleted()


def begun(universe: Universe, settings: Settings) -> World:
    return world.begin(settings, universe.time, frozenset(universe.snapshots), universe.file)


def as_written(known: Records) -> Records:
    """What of that is in the files: of a disk where something of an older version may be unfinished just the newest."""
    disks = {(each.destination, each.filesystem) for each in known if each.kind == STAGED}
    always = (OWED, PARENT, NEWEST)
    return frozenset(each for each in known if each.kind in always or (each.destination, each.filesystem) in disks)


def seen(universe: Universe, place: str) -> Seen:
    if place == SHELL:
        return Seen(listed=False)
    disk = universe.mounted[place]
    return Seen(disk.filesystem, disk.seen())


class Run:
    """One run, as an actor: carries out steps in a universe. trouble: how probable it is that something fails."""

    def __init__(self, test: unittest.TestCase, universe: Universe, settings: Settings, trouble: float) -> None:
        self.test = test
        self.universe = universe
        self.settings = settings
        self.trouble = trouble
        self.dice = universe.dice
        self.world: World | None = None
        self.named: str | None = None  # the snapshot that was taken, and
        self.taken: str | None = None  # the same when it is good for something
        self.unlisted = False
        self.failures: list[tuple[str, Failure]] = []  # that have to be in the report, with their places
        self.sent: dict[str, list[str]] = {}
        self.cleared: dict[str, list[str]] = {}
        self.deleted: dict[str, list[str]] = {}
        self.pruned: dict[str, set[str]] = {}  # what was there when all was done at that place
        self.unknown: dict[str, set[str]] = {}
        self.unsaved: Failure | None = None
        self.interrupted = False
        self.relied_on = [] if settings.remove_locks else universe.relied_on()
        # From which save on the disk of the source is full, read-only or broken.
        self.writable = self.dice.randrange(14) if self.dice.random() < trouble else None
        self.brief = self.dice.choice((DISK_FULL, READ_ONLY, ""))

    def carry_out(self) -> Report | None:
        """The report of the run, None when nothing could be done."""
        try:
            run(self, self.watch)
        except Interrupted:
            self.interrupted = True
        except Failure:
            self.test.assertFalse(self.sent or self.cleared or self.deleted or self.taken)
            return None
        return self.world.report() if self.world else None

    def watch(self, now: World) -> None:
        self.world = now

    # --- fate ---

    def chance(self, share: float = 1.0) -> bool:
        return self.trouble > 0 and self.dice.random() < self.trouble * share

    def signal(self) -> None:
        """A signal ends the run."""
        if self.chance(0.1):
            raise Interrupted(15)

    def failure(self, place: str, kind: type[Failure] = Failure) -> Failure:
        """A failure that has to be told at PLACE."""
        made = kind(f"trouble {self.universe.uuid()}", "Mend it.")
        self.failures.append((place, made))
        return made

    # --- what an actor does ---

    def begin(self) -> World:
        self.signal()
        return begun(self.universe, self.settings)

    def save(self, known: Records) -> Failure | None:
        universe = self.universe
        known = as_written(known)
        if known == universe.file:
            return None
        if self.writable is not None:
            self.writable -= 1
        # There are two files, the first of which is that of what was delivered.
        first = frozenset(each for each in known if each.kind not in (OWED, PARENT))
        half = first | {each for each in universe.file if each.kind in (OWED, PARENT)}
        if self.writable is not None and self.writable < 0:
            if self.chance():
                universe.file = half
            self.unsaved = Failure("cannot write", "Mend it.", self.brief)
            return self.unsaved
        if self.chance(0.1):
            universe.file = self.dice.choice((universe.file, half, known))
            raise Interrupted(15)
        universe.file = known
        return None

    def perform(self, step: Step, now: World) -> Came:
        self.signal()
        match step:
            case Take(name):
                return self.take(name)
            case List():
                if self.chance(0.1):
                    self.unlisted = True
                    return self.failure("")
                return Listed(HOME, Inventory(dict(sorted(self.universe.snapshots.items()))))
            case Look(destinations):
                return {each: self.look(each) for each in destinations}
            case Clear(place, names, stages):
                return self.clear(place, names, stages)
            case Send():
                return {each: self.send(step, each, now) for each in step.destinations}
            case Delete("", verdict, _):
                return self.prune_source(verdict)
            case Delete(place, verdict, _):
                return self.prune(place, verdict)

    def take(self, name: str) -> Taken | Failure:
        there = self.universe.snapshots
        self.test.assertFalse([other for other in there if other >= name])
        self.test.assertFalse([each for each in self.universe.file - THEIRS if each.snapshot >= name])
        if self.chance(0.2):
            return self.failure("")
        readonly = not self.chance(0.05)
        there[name] = Subvolume(name, self.universe.uuid(), HOME.uuid, readonly=readonly)
        self.named, self.taken = name, name if readonly else None
        self.signal()
        return Taken()

    def look(self, place: str) -> Seen | Failure:
        if self.chance():
            if place == SHELL or self.dice.random() < 0.3:
                return self.failure(place)
            return Absent("absent", "Mount it.") if self.settings.skip_absent else self.failure(place, Absent)
        return seen(self.universe, place)

    def clear(self, place: str, names: tuple[str, ...], stages: tuple[Stage, ...]) -> Failure | None:
        disk = self.universe.mounted[place]
        self.test.assertLessEqual({each.name for each in stages}, disk.stages.keys())
        self.test.assertLessEqual(set(names), set(disk.holdings(self.universe.usable).partial))
        for each in stages:
            if self.chance():
                return self.failure(place)
            self.test.assertEqual(disk.stages.pop(each.name), each)
        self.cleared.setdefault(place, []).extend(names)
        return None

    # --- sending ---

    def send(self, step: Send, place: str, now: World) -> Delivery:
        if self.writable is None or self.writable >= 0 or self.brief != READ_ONLY:
            # Before anything goes, it is on record.
            for batch in step.batches:
                self.test.assertIn(Fact(OWED, place, batch.snapshot), self.universe.file)
        if self.chance(0.2):
            return Delivery(failure=self.failure(place))
        if len(step.destinations) > 1 and len(step.batches) == 1 and place != SHELL and self.chance(0.3):
            self.leave(step.batches[0], place)
            return Delivery(let_go=True)
        if step.resumed and self.chance(0.5):
            return self.another_stream(step.resumed, place)
        arrived: list[Sent] = []
        published: list[Subvolume] = []
        for batch in step.batches:
            if self.chance(0.5):
                return self.cut_off(step, batch, place, tuple(arrived), tuple(published))
            if place != SHELL and self.chance(0.05):
                self.leave(batch, place)
                raise Interrupted(15)
            published += self.receive(batch, place, step.resumed)
            arrived.append(Sent(batch.snapshot, batch.parent, 1, 1.0, 100 if step.resumed else 0))
        self.sent.setdefault(place, []).extend(each.snapshot for each in arrived)
        failure = self.failure(place) if self.chance(0.1) else None  # such as a stage that cannot be removed
        if failure and place != SHELL:
            self.leave(step.batches[-1], place)
        return Delivery(tuple(arrived), tuple(published), failure)

    def leave(self, batch: plan.Batch, place: str) -> None:
        disk = self.universe.mounted[place]
        self.universe.serial += 1
        parent = disk.held[batch.parent].uuid if batch.parent else ""
        disk.leave(batch, parent, self.dice.choice((0, self.universe.serial)))

    def another_stream(self, resumed: Stage, place: str) -> Delivery:
        """It is another one than was cut off; at most a part of what is there is of use."""
        left = resumed
        if self.dice.random() < 0.5 and len(resumed.subvolumes) > 4:
            left = replace(resumed, subvolumes=resumed.subvolumes[:4])
        self.universe.mounted[place].stages[resumed.name] = left
        return Delivery(failure=Failure("another stream", "It is sent from its beginning."), left=left)

    def receive(self, batch: plan.Batch, place: str, resumed: Stage | None) -> list[Subvolume]:
        universe = self.universe
        snapshot = universe.usable[batch.snapshot]
        if place == SHELL:
            assert universe.shell is not None
            if batch.parent:
                self.test.assertIn(batch.parent, universe.shell)
            universe.shell.append(batch.snapshot)
            return []
        disk = universe.mounted[place]
        self.test.assertNotIn(batch.snapshot, {*disk.held, *disk.files})
        parent = disk.holdings(universe.usable).complete[batch.parent].uuid if batch.parent else ""
        if resumed:
            self.test.assertEqual(disk.stages.pop(batch.snapshot), resumed)
            [known] = cutter.checkpoints(resumed.subvolumes)[-1:]
            self.test.assertEqual(cutter.beginning(resumed.subvolumes, known), parent)
        self.test.assertNotIn(batch.snapshot, disk.stages)
        made = Subvolume(batch.snapshot, universe.uuid(), parent, snapshot.stream_uuid)
        universe.received.add(made.uuid)
        disk.held[batch.snapshot] = made
        return [made]

    def cut_off(
        self, step: Send, batch: plan.Batch, place: str, arrived: tuple[Sent, ...], published: tuple[Subvolume, ...]
    ) -> Delivery:
        """It fails with BATCH; what came of that may stay in its stage."""
        disk = self.universe.mounted.get(place)
        kind = self.dice.randrange(4)
        if disk and kind == 0:
            # Nobody can tell what is there.
            self.unknown.setdefault(place, set()).update(each.snapshot for each in step.batches)
            return Delivery(failure=self.failure(place), unknown=True)
        self.sent.setdefault(place, []).extend(each.snapshot for each in arrived)
        if disk and kind == 1 and batch.parent:
            if step.resumed:
                disk.stages.pop(step.resumed.name)  # nothing of it is of use
            return Delivery(arrived, published, Failure("of no use", "Mend it."), blames_parent=True)
        if disk and kind == 2:
            self.leave(batch, place)
        return Delivery(arrived, published, self.failure(place))

    # --- deleting, with what must never go ---

    def prune(self, place: str, verdict: retention.Verdict) -> Deleted:
        disk = self.universe.mounted[place]
        dropped = set(verdict.dropped)
        common = self.universe.common(disk)
        complete = disk.holdings(self.universe.usable).complete
        self.test.assertLessEqual(dropped, set(complete))
        self.test.assertNotIn(max(common, default=""), dropped)
        # Nothing of another source, and the newest stays.
        ours = {name for name, each in complete.items() if each.uuid in self.universe.received}
        self.test.assertLessEqual(dropped, ours)
        self.test.assertNotIn(max(ours, default=""), dropped)
        outcome = self.delete(place, verdict, disk.held)
        self.pruned[place] = set(disk.holdings(self.universe.usable).complete)
        return outcome

    def prune_source(self, verdict: retention.Verdict) -> Deleted:
        universe, dropped = self.universe, set(verdict.dropped)
        self.test.assertLessEqual(dropped, set(universe.usable))
        self.test.assertNotIn(max(universe.usable, default=""), dropped)
        self.test.assertNotIn(self.brief if self.unsaved else None, (READ_ONLY, ""))
        kinds = () if self.settings.remove_locks else (OWED, PARENT, NEWEST, BLOCKED)
        recorded = {each.snapshot for each in universe.file if each.kind in kinds}
        if not self.unsaved:
            self.test.assertFalse(dropped & recorded)
        left = set(universe.usable) - dropped
        for disk in self.relied_on:
            if common := universe.common(disk):
                self.test.assertTrue(common & left, f"{disk.filesystem} has no parent any more")
        for place, names in self.sent.items():
            # The newest one there is the next parent.
            common = {*names} if place == SHELL else universe.common(universe.mounted[place])
            self.test.assertNotIn(max(common, default=""), dropped)
        outcome = self.delete("", verdict, universe.snapshots)
        self.pruned[""] = set(universe.usable)
        return outcome

    def delete(self, place: str, verdict: retention.Verdict, held: dict[str, Subvolume]) -> Deleted:
        failures = {}
        for name in verdict.dropped:
            self.signal()
            if self.chance(0.3):
                failures[name] = self.failure(place)
            else:
                del held[name]
                self.deleted.setdefault(place, []).append(name)
        return Deleted(failures, self.failure(place) if verdict.dropped and self.chance(0.1) else None)

    # --- what must be true when it has ended ---

    def check(self, report: Report) -> None:
        test = self.test
        self.check_place("", report.source)
        for outcome in report.destinations:
            self.check_place(outcome.place, outcome)
        if self.interrupted:
            test.assertIn(report.snapshot, (None, self.named))
        elif not self.unlisted:
            test.assertEqual(report.snapshot, self.taken)
        test.assertLessEqual(THEIRS, self.universe.file)
        assert self.world
        told = [each for each in self.world.messages if each.level == "error"]
        places = (report.source, *report.destinations)
        test.assertEqual(len(told), sum(len(each.failures) for each in places))
        if self.unsaved and not self.interrupted:
            test.assertIn("cannot write", [each.message for one in places for each in one.failures])

    def check_place(self, place: str, outcome: Outcome) -> None:
        """What is reported is what was done."""
        done = (self.sent.get(place, []), self.cleared.get(place, []), self.deleted.get(place, []))
        told = ([each.snapshot for each in outcome.sent], list(outcome.cleared), list(outcome.deleted))
        if self.interrupted:
            # Of the step that was ended nothing is known.
            for some, every in zip(told, done, strict=True):
                self.test.assertEqual(some, every[: len(some)])
            return
        self.test.assertEqual(told, done)
        if place in self.pruned:
            unknown = self.unknown.get(place, set())
            kept, there = set(outcome.kept or ()), self.pruned[place]
            self.test.assertLessEqual(kept, there)
            self.test.assertLessEqual(there & set(self.universe.usable) - unknown, kept)
        else:
            self.test.assertIsNone(outcome.kept)
        words = "\n".join(each.message for each in outcome.failures)
        for where, failure in self.failures:
            if where == place:
                self.test.assertIn(failure.message, words)
        self.test.assertEqual(
            outcome.absent, self.settings.skip_absent and outcome.absent and not outcome.failures, outcome
        )
        if place in self.universe.mounted and place in self.sent:
            complete = set(self.universe.mounted[place].holdings(self.universe.usable).complete)
            unknown = self.unknown.get(place, set())
            if self.writable is None:
                self.test.assertFalse(set(outcome.outstanding) & complete - unknown)


def converged(test: unittest.TestCase, universe: Universe, settings: Settings) -> None:
    """All that should be there is there, and nothing is on record but what is in the way."""
    for place, disk in universe.mounted.items():
        own = {each for each in universe.file - THEIRS if each.destination == place}
        test.assertFalse({each for each in own if each.kind in (OWED, PARENT)})
        holdings = disk.holdings(universe.usable)
        target = plan.target(place, holdings, universe.usable, NAMING, settings.keep_backups, universe.time)
        test.assertEqual(target.missing, ())
        newest = max(universe.usable)
        test.assertTrue(newest in holdings.complete or newest in target.occupied)
        test.assertFalse(set(holdings.partial) & set(universe.usable))
        blocked = {each.snapshot for each in own if each.kind == BLOCKED and each.filesystem == disk.filesystem}
        test.assertLessEqual(set(target.occupied), blocked)
        test.assertLessEqual(blocked, set(holdings.foreign))
    if universe.shell is not None:
        test.assertEqual(universe.shell[-1], max(universe.usable))
        test.assertFalse({each for each in universe.file if each.destination == SHELL and each.kind in (OWED, PARENT)})
