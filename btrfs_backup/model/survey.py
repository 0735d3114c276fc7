"""What is where: every snapshot against the source and every destination."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from btrfs_backup.model import records as transfers
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.plan import Snapshots, Target
from btrfs_backup.model.records import Records
from btrfs_backup.model.snapshot import Naming

COMPLETE, MISSING, PARTIAL, FOREIGN = "complete", "missing", "partial", "foreign"
OUTSTANDING, DELIVERED, UNKNOWN, NOTHING = "outstanding", "delivered", "unknown", "-"


@dataclass(frozen=True)
class Row:
    """A snapshot. states: at the source and at each destination, in words; because: why it is kept at the source."""

    snapshot: str
    states: tuple[str, ...]
    because: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A destination. reachable: it could be looked at, or is a shell command; newest: its newest complete backup, or
    the newest known from the records when it is not reachable; owed: snapshots, sorted."""

    location: str
    reachable: bool
    newest: str | None
    age: timedelta | None
    owed: tuple[str, ...] = ()
    too_old: bool = False


@dataclass(frozen=True)
class View:
    """A destination as it was looked at. target: None when that was not possible."""

    location: str
    holdings: Holdings = field(default_factory=Holdings)
    target: Target | None = None
    listed: bool = True


def rows(
    naming: Naming, snapshots: Snapshots, views: Sequence[View], records: Records, kept: Mapping[str, Sequence[str]]
) -> list[Row]:
    """One for each snapshot that the source, a destination or the records know, in the order of names."""
    names = {*snapshots, *(name for name in transfers.names(records) if name in naming)}
    for view in views:
        names |= {*view.holdings.complete, *view.holdings.partial, *view.holdings.foreign}
    return [
        Row(
            name,
            (COMPLETE if name in snapshots else NOTHING, *(_state(name, view, naming, records) for view in views)),
            tuple(kept.get(name, ())),
        )
        for name in sorted(names)
    ]


def place(view: View, naming: Naming, records: Records, now: datetime, max_age: timedelta | None) -> Place:
    """How a destination stands. now: naive local time, like the names. max_age: of its newest complete backup."""
    recorded = set(transfers.owed(records.outstanding, naming, view.location))
    owed = recorded - set(view.holdings.complete) | set(view.target.owed if view.target else ())
    if view.target and view.listed:
        newest = naming.newest(view.holdings.complete)
    else:
        filesystems = records.completed.get(view.location, {}).values()
        newest = naming.newest(name for names in filesystems for name in names)
    taken = naming.time(newest) if newest else None
    age = now - taken if taken else None
    too_old = max_age is not None and (age is None or age > max_age)
    return Place(view.location, view.target is not None, newest, age, tuple(sorted(owed)), too_old)


def _state(name: str, view: View, naming: Naming, records: Records) -> str:
    outstanding = name in transfers.owed(records.outstanding, naming, view.location)
    if name in view.holdings.complete:
        return COMPLETE
    if name in view.holdings.partial:
        return PARTIAL
    if name in view.holdings.foreign:
        return FOREIGN
    if outstanding:
        return OUTSTANDING
    if not view.target:
        return UNKNOWN
    if not view.listed and name in transfers.last_delivered(records.completed, view.location):
        return DELIVERED
    return MISSING if name in view.target.missing else NOTHING
