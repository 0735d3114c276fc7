"""Random histories of backups, folded through all decisions: they converge, and nothing needed is ever deleted."""

import random
import unittest
from dataclasses import replace
from datetime import datetime, timedelta

from btrfs_backup.model import inventory, plan, retention
from btrfs_backup.model import records as transfers
from btrfs_backup.model.inventory import Inventory
from btrfs_backup.model.records import Records
from btrfs_backup.model.snapshot import Naming, Subvolume

NAMING = Naming("home-")
POLICIES = ["all", "1", "2", "3", "2 3h", "1 2d", "3h 2d 1w", "5 1m"]
HOME = Subvolume("home", "uuid-home", readonly=False)


class World:
    """A source, destinations that fail at random, and the records between them."""

    def __init__(self, test: unittest.TestCase, seed: int) -> None:
        self.test = test
        self.random = random.Random(seed)
        self.time = datetime(2026, 10, 20) + timedelta(minutes=self.random.randrange(100_000))
        self.serial = 0
        self.snapshots: dict[str, Subvolume] = {}
        self.disks: dict[str, dict[str, Subvolume]] = {f"/disk{n}": {} for n in range(self.random.randint(1, 3))}
        self.files: dict[str, set[str]] = {disk: set() for disk in self.disks}
        self.records = Records({}, {})
        self.keep_snapshots = retention.parse(self.random.choice(POLICIES))
        self.keep_backups = retention.parse(self.random.choice(POLICIES))
        self.trouble = 0.25

    def uuid(self) -> str:
        self.serial += 1
        return f"uuid-{self.serial}"

    def chance(self) -> bool:
        return self.random.random() < self.trouble

    # --- one run, in the order of the command ---

    def run(self) -> None:
        self.time += timedelta(seconds=self.random.choice([0, 0, 1, 1800, 3600, 86400, 40 * 86400]))
        self.take_snapshot()
        self.meddle()
        targets = {disk: self.survey(disk) for disk in self.disks if not self.unreachable(disk)}
        self.transfer(targets)
        for disk, target in targets.items():
            self.prune_disk(disk, target)
        self.prune_source()

    def take_snapshot(self) -> None:
        name = NAMING.next(self.time, [*self.snapshots, *transfers.names(self.records)])
        self.test.assertFalse([other for other in self.snapshots if other >= name])
        self.snapshots[name] = Subvolume(name, self.uuid(), HOME.uuid)

    def meddle(self) -> None:
        """Something foreign appears under one of our names, or a backup is deleted by hand."""
        disk = self.random.choice(list(self.disks))
        name = self.random.choice([*self.snapshots, "home-20000101-000000"])
        if self.chance() and name not in self.disks[disk]:
            kind = self.random.randrange(3)
            if kind == 0:
                self.files[disk].add(name)
            elif name not in self.files[disk]:
                received = "somebody else's" if kind == 1 else ""
                self.disks[disk][name] = Subvolume(name, self.uuid(), "", received, readonly=True)
        elif self.chance():
            self.disks[disk].pop(name, None)

    def unreachable(self, disk: str) -> bool:
        if not self.chance():
            return False
        newest = NAMING.newest(self.snapshots)
        assert newest
        self.records = replace(self.records, outstanding=transfers.unreachable(self.records.outstanding, disk, newest))
        return True

    def look(self, disk: str) -> inventory.Holdings:
        seen = Inventory(dict(sorted(self.disks[disk].items())), frozenset(self.files[disk]))
        return inventory.backups(seen, self.snapshots)

    def survey(self, disk: str) -> plan.Target:
        holdings = self.look(disk)
        target = plan.target(disk, holdings, self.snapshots, NAMING, self.keep_backups)
        for name in plan.leftovers(target, holdings, self.snapshots):
            del self.disks[disk][name]
        outstanding = transfers.reconcile(self.records.outstanding, NAMING, disk, target.owed)
        for name in target.occupied:
            outstanding = transfers.begin(outstanding, disk, name, None)
        self.records = replace(self.records, outstanding=outstanding)
        self.note_delivered(target)
        return target

    def note_delivered(self, target: plan.Target) -> None:
        newest = NAMING.newest(target.common)
        completed = transfers.delivered(self.records.completed, target.destination, "fs", NAMING, newest)
        self.records = replace(self.records, completed=completed)

    def transfer(self, targets: dict[str, plan.Target]) -> None:
        broken: set[str] = set()
        lineage = plan.Lineage(HOME, self.snapshots)
        while batch := plan.next_batch([each for disk, each in targets.items() if disk not in broken], lineage):
            for disk in batch.destinations:
                outstanding = transfers.begin(self.records.outstanding, disk, batch.snapshot, batch.parent)
                self.records = replace(self.records, outstanding=outstanding)
                if self.send(batch, disk):
                    outstanding = transfers.end(self.records.outstanding, disk, batch.snapshot)
                    self.records = replace(self.records, outstanding=outstanding)
                    targets[disk] = plan.served(targets[disk], batch.snapshot)
                    self.note_delivered(targets[disk])
                else:
                    broken.add(disk)

    def send(self, batch: plan.Batch, disk: str) -> bool:
        """What btrfs does; a failed transfer may leave a part."""
        held, snapshot = self.disks[disk], self.snapshots[batch.snapshot]
        holdings = self.look(disk)
        self.test.assertNotIn(batch.snapshot, {*holdings.complete, *holdings.foreign})
        parent = holdings.complete[batch.parent] if batch.parent else None
        self.test.assertEqual(parent is None, not set(holdings.complete) & set(self.snapshots))
        whole = not self.chance()
        if whole or not self.chance():
            received = snapshot.stream_uuid if whole else ""
            uuid = parent.uuid if parent else ""
            held[batch.snapshot] = Subvolume(batch.snapshot, self.uuid(), uuid, received, readonly=whole)
        if whole:
            self.test.assertEqual(inventory.arrived(held[batch.snapshot], snapshot, bool(batch.parent)), "")
        return whole

    # --- retention, with what must never go ---

    def prune_disk(self, disk: str, target: plan.Target) -> None:
        holdings = self.look(disk)
        common = NAMING.newest(target.common)
        protected = {common: ["common"]} if common else {}
        verdict = retention.decide(self.keep_backups, NAMING, holdings.complete, protected)
        self.test.assertLessEqual(set(verdict.dropped), set(holdings.complete))
        self.test.assertNotIn(max(holdings.complete, default=""), verdict.dropped)
        self.test.assertNotIn(common, verdict.dropped)
        self.test.assertFalse(set(verdict.dropped) & (set(holdings.foreign) | set(holdings.partial)))
        for name in verdict.dropped:
            del self.disks[disk][name]

    def prune_source(self) -> None:
        verdict = retention.decide(self.keep_snapshots, NAMING, self.snapshots, transfers.reasons(self.records))
        self.test.assertNotIn(max(self.snapshots), verdict.dropped)
        for name in verdict.dropped:
            self.test.assertNotIn(name, self.records.outstanding)
            for filesystems in self.records.completed.values():
                self.test.assertFalse([names for names in filesystems.values() if name in names])
            del self.snapshots[name]

    # --- the end ---

    def check_converged(self) -> None:
        """All that should be there is there, no record is left but of what is occupied."""
        for disk in self.disks:
            holdings = self.look(disk)
            target = plan.target(disk, holdings, self.snapshots, NAMING, self.keep_backups)
            self.test.assertEqual(target.missing, ())
            newest = max(self.snapshots)
            self.test.assertTrue(newest in holdings.complete or newest in target.occupied)
            self.test.assertFalse(set(holdings.partial) & set(self.snapshots))
            recorded = transfers.owed(self.records.outstanding, NAMING, disk)
            self.test.assertLessEqual(set(recorded), set(target.occupied))


class WholePlanTest(unittest.TestCase):
    def test_random_histories(self) -> None:
        for seed in range(40):
            with self.subTest(seed=seed):
                world = World(self, seed)
                for _ in range(world.random.randint(1, 20)):
                    world.run()
                world.trouble = 0.0
                world.run()
                world.check_converged()
