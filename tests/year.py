"""Simulates long use on real btrfs with a fake clock, and checks every run against a naive reference.

    sudo python3 -m tests.year --days 365 --runs 1500 --seed 1

Two subvolumes with different policies share a snapshot folder and a destination, under prefixes. At the destination two
disks are swapped every week. Some transfers are refused, some are cut off, and sometimes no disk is there. After every
run the snapshots, the backups on the disk and the records are just what the reference says, each backup is complete and
incremental, and holds what was in its subvolume at that time.
"""

import argparse
import os
import random
import time
import unittest
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from btrfs_backup.cli import parser as cli
from btrfs_backup.commands.run import Real, run
from btrfs_backup.model.outcome import Report
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.world import World
from tests.real.machine import COMPLETED, OUTSTANDING, RealTest, lying_btrfs, names, on_record, path_with, sh

BEGIN = datetime(2026, 1, 1, 6)
# What a receiver does that is out of order; the rest of the runs are good.
FAULTS = {
    "refused": 'receive*) echo "ERROR: out of order" >&2; exit 1 ;;',
    "cut off": 'receive*) head -c 100 | "$REAL" "$@"; exit 1 ;;',
}


# --- what should be, as the manual says it ---------------------------------------------------------------------------


def period(unit: str, stamp: str) -> str:
    """What is the same for two times of a unit; STAMP is YYYYMMDD-HHMMSS."""
    if unit == "w":
        year, week, _ = datetime.strptime(stamp[:8], "%Y%m%d").isocalendar()
        return f"{year} {week}"
    return stamp[: {"h": 11, "d": 8, "m": 6, "y": 4}[unit]]


def kept(policy: str, held: set[str]) -> set[str]:
    """The newest, the latest so many, and of each of the last so many periods that have any the newest."""
    newest_first = sorted(held, reverse=True)
    keep = set(newest_first[:1])
    for word in policy.split():
        if word.isdecimal():
            keep |= set(newest_first[: int(word)])
            continue
        seen: list[str] = []
        for name in newest_first:
            its = period(word[-1], name[-15:])
            if its not in seen:
                seen.append(its)
                if len(seen) <= int(word[:-1]):
                    keep.add(name)
    return keep


@dataclass
class Expected:
    """What there should be under one prefix. owed, parents: what is on record; delivered: the newest on each disk."""

    keep_snapshots: str
    keep_backups: str
    snapshots: set[str] = field(default_factory=set)
    backups: dict[str, set[str]] = field(default_factory=dict)
    delivered: dict[str, str] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    parents: set[str] = field(default_factory=set)

    def run(self, new: str, disk: str | None, good: bool) -> None:
        self.snapshots.add(new)
        if disk:
            self.serve(disk, good)
        else:
            # The newest is owed. Of what was owed before the oldest stays: its transfer may have been cut off.
            self.owed = {min(self.owed, default=new), new}
        needed = {*self.owed, *self.parents, *self.delivered.values()}
        self.snapshots = kept(self.keep_snapshots, self.snapshots) | (self.snapshots & needed)

    def serve(self, disk: str, good: bool) -> None:
        held = self.backups.setdefault(disk, set())
        missing = sorted((kept(self.keep_backups, self.snapshots | held) & self.snapshots) - held)
        self.owed &= set(missing)
        if not self.owed:
            self.parents = set()
        common = self.snapshots & held
        if good:
            held.update(missing)
            self.owed, self.parents = set(), set()
        else:
            self.owed.add(missing[0])
            older = [name for name in common if name < missing[0]]
            if common:
                self.parents.add(max(older) if older else min(common))
        if common := self.snapshots & held:
            self.delivered[disk] = max(common)
        else:
            self.delivered.pop(disk, None)
        self.backups[disk] = kept(self.keep_backups, held) | ({max(common)} if common else set())


# --- what is ---------------------------------------------------------------------------------------------------------


def carried_out(settings: Settings, now: datetime) -> World:
    """The world after a run at that time."""
    worlds: list[World] = []
    with ExitStack() as scope:
        run(Real(settings, scope, lambda: now), worlds.append)
    return worlds[-1]


@dataclass
class Job:
    """A subvolume with its prefix. states: what its file held in each snapshot."""

    source: Path
    prefix: str
    expected: Expected
    states: dict[str, str] = field(default_factory=dict)


class Simulation:
    """Runs of the command in this process, at times of our choice."""

    def __init__(self, test: RealTest, seed: int) -> None:
        self.test = test
        self.dice = random.Random(seed)
        pool = test.disk("pool", 400).path
        self.snapshots = pool / "snapshots"
        self.point = test.folder / "usb"
        self.point.mkdir()
        self.disks = {name: test.disk(name, 400).path for name in ("one", "two")}
        self.uuids = {
            name: sh("findmnt", "-n", "-o", "UUID", "--target", path).strip() for name, path in self.disks.items()
        }
        self.jobs = [
            Job(test.subvolume(pool / "home"), "home-", Expected("3 24h 7d", "7d 4w 12m")),
            Job(test.subvolume(pool / "srv"), "srv-", Expected("2", "2 2w 3m 1y")),
        ]
        self.liars = {fault: lying_btrfs(test.folder / fault, lies) for fault, lies in FAULTS.items()}
        self.incremental = 0

    def simulate(self, days: float, runs: int) -> None:
        for now in self.times(days, runs):
            job = self.jobs[self.dice.random() < 0.25]
            disk = list(self.disks)[(now - BEGIN).days // 7 % 2] if self.dice.random() > 0.04 else None
            fault = self.dice.choice(list(FAULTS)) if disk and self.dice.random() < 0.12 else None
            try:
                self.run(job, now, disk, fault)
            except AssertionError as error:
                raise AssertionError(f"{now}, {job.prefix}, disk {disk}, {fault or 'good'}: {error}") from error
        self.test.assertGreater(self.incremental, runs // 2)

    def times(self, days: float, runs: int) -> Iterator[datetime]:
        """As many times as there are runs: some in a row within an hour, most with some hours or days in between."""
        gaps = [self.dice.choice((0.01, 0.3, 1, 1, 2, 3)) for _ in range(runs)]
        now = BEGIN
        for gap in gaps:
            now += timedelta(days=days * gap / sum(gaps))
            yield now.replace(microsecond=0)

    def run(self, job: Job, now: datetime, disk: str | None, fault: str | None) -> None:
        (job.source / "file").write_text(now.isoformat())
        with self.mounted(disk), self.lying(fault):
            report = self.command(job, now)
        assert report.snapshot
        job.states[report.snapshot] = now.isoformat()
        good = bool(disk) and not fault
        served = {each for each, held in job.expected.backups.items() if held}
        self.test.assertEqual(report.failed, not good, report)
        job.expected.run(report.snapshot, disk, good)
        self.check(job)
        if disk:
            self.check_disk(job, disk)
            [outcome] = report.destinations
            for sent in outcome.sent:
                # Only the first of all is sent in full.
                self.test.assertEqual(bool(sent.parent), disk in served or sent is not outcome.sent[0])
                self.incremental += bool(sent.parent)

    def command(self, job: Job, now: datetime) -> Report:
        expected = job.expected
        keep = ["-N", expected.keep_snapshots, "-n", expected.keep_backups]
        folder = ["-p", job.prefix, "-f", str(self.snapshots)]
        settings = cli.parse([*keep, *folder, str(job.source), str(self.point)])
        return carried_out(settings, now).report()

    def check(self, job: Job) -> None:
        """The source and the records."""
        expected, test = job.expected, self.test
        test.assertEqual({name for name in names(self.snapshots) if name.startswith(job.prefix)}, expected.snapshots)
        outstanding = self.recorded(OUTSTANDING)
        own = {name: locks for name, locks in outstanding.items() if name.startswith(job.prefix)}
        for kind, wanted in (("locks", expected.owed), ("parent_locks", expected.parents)):
            test.assertEqual({name for name, locks in own.items() if locks.get(kind)}, wanted)
        completed = self.recorded(COMPLETED)
        here = completed.get(str(self.point), {})
        seen = {disk: here.get(uuid, {}).get("newest", []) for disk, uuid in self.uuids.items()}
        delivered = {disk: name for disk, some in seen.items() for name in some if name.startswith(job.prefix)}
        test.assertEqual(delivered, expected.delivered)

    def recorded(self, name: str) -> dict[str, dict[str, Any]]:
        return on_record(self.snapshots, name) if (self.snapshots / name).exists() else {}

    def check_disk(self, job: Job, disk: str) -> None:
        held = {name for name in names(self.disks[disk]) if name.startswith(job.prefix)}
        self.test.assertEqual(held, job.expected.backups[disk])
        rows = sh("btrfs", "subvolume", "list", "-o", "-u", "-q", "-R", self.disks[disk]).splitlines()
        readonly = sh("btrfs", "subvolume", "list", "-o", "-r", self.disks[disk])
        entries = {row.split()[-1]: row.split() for row in rows}
        for name in held:
            words = entries[name]
            self.test.assertNotEqual(words[words.index("received_uuid") + 1], "-", f"{name} is partial")
            self.test.assertIn(f"path {name}\n", readonly)
            self.test.assertEqual((self.disks[disk] / name / "file").read_text(), job.states[name])

    @contextmanager
    def mounted(self, disk: str | None) -> Iterator[None]:
        if disk:
            sh("mount", "--bind", self.disks[disk], self.point)
        try:
            yield
        finally:
            if disk:
                sh("umount", self.point)

    @contextmanager
    def lying(self, fault: str | None) -> Iterator[None]:
        before = os.environ["PATH"]
        if fault:
            os.environ["PATH"] = path_with(self.liars[fault])["PATH"]
        try:
            yield
        finally:
            os.environ["PATH"] = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=365)
    parser.add_argument("--runs", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.runs} runs in {options.days} days, seed {options.seed}")

    class Soak(RealTest):
        def test(self) -> None:
            Simulation(self, options.seed).simulate(options.days, options.runs)

    result = unittest.TextTestRunner().run(Soak("test"))
    raise SystemExit(not result.wasSuccessful())


if __name__ == "__main__":
    main()
