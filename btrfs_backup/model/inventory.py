"""What a place holds under our names, and what of it counts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from btrfs_backup.model.snapshot import Subvolume

UNWRITTEN = "it may lack data: its machine may have gone down, or its disk been pulled out or failed, too early"
CHANGED = "it was received and is writable: its content may have changed"


class State(Enum):
    COMPLETE = "complete"
    PARTIAL = "partial"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Inventory:
    """One look at a folder: the entries whose names are of our form.

    subvolumes: by name, in the order of names.
    others: names of entries that are no subvolumes (files, plain directories).
    marks: names of the backups with a mark: their transfers were not finished (see model.mark).
    exists: whether the folder is there at all.
    """

    subvolumes: Mapping[str, Subvolume] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    exists: bool = True

    @property
    def names(self) -> frozenset[str]:
        return self.others.union(self.subvolumes)


@dataclass(frozen=True)
class Holdings:
    """What counts in an inventory.

    complete: usable snapshots or backups by name, in the order of names.
    partial: names of transfers that were cut off.
    foreign: names that are not ours although they look like it, each with the reason.
    """

    complete: Mapping[str, Subvolume] = field(default_factory=dict)
    partial: tuple[str, ...] = ()
    foreign: Mapping[str, str] = field(default_factory=dict)


def snapshots(inventory: Inventory) -> Holdings:
    """What counts at the source: read-only subvolumes; a writable one cannot be sent."""
    usable = {name: each for name, each in inventory.subvolumes.items() if each.readonly}
    foreign = {name: "it is writable" for name in inventory.subvolumes if name not in usable}
    return Holdings(usable, (), foreign | _no_subvolumes(inventory))


def backups(inventory: Inventory, sources: Mapping[str, Subvolume], begun: Collection[str] = ()) -> Holdings:
    """What counts at a destination whose source has the snapshots SOURCES (by name).

    begun: names of transfers to it that are not known to have ended.
    """
    states = {
        name: judge(each, sources.get(name), name in begun, name in inventory.marks)
        for name, each in inventory.subvolumes.items()
    }
    return Holdings(
        {name: inventory.subvolumes[name] for name, (state, _) in states.items() if state is State.COMPLETE},
        tuple(name for name, (state, _) in states.items() if state is State.PARTIAL),
        {name: why for name, (state, why) in states.items() if state is State.FOREIGN} | _no_subvolumes(inventory),
    )


def judge(entry: Subvolume, source: Subvolume | None, begun: bool = False, marked: bool = False) -> tuple[State, str]:
    """What ENTRY at a destination is, and why; SOURCE is the source's snapshot of that name, if it has one.

    `btrfs receive` sets the received UUID and then read-only, both at its very end: complete means both. What has only
    the first may be a transfer that has BEGUN, or a backup that older btrfs-progs made writable. What somebody made
    writable is no transfer that was cut off: there may be work of theirs in it. As long as it is MARKED, not all of it
    may be on disk.
    """
    if not entry.readonly:
        if begun and source and entry.received_uuid == source.stream_uuid:
            return State.PARTIAL, "it is writable: a transfer was cut off before its last step"
        if entry.received_uuid or entry.received_at:
            return State.FOREIGN, CHANGED
        if source and entry.parent_received_uuid == source.stream_uuid:
            return State.FOREIGN, "it is a writable copy of the backup: its content may have changed"
        return State.PARTIAL, "it is writable and has no received UUID: a transfer was cut off"
    if not entry.received_uuid:
        return State.FOREIGN, "it is read-only and has no received UUID: it was not received from a source"
    if source and entry.received_uuid != source.stream_uuid:
        return State.FOREIGN, "it is a copy of another snapshot than the source's one of that name"
    if marked:
        return State.PARTIAL, UNWRITTEN
    return State.COMPLETE, ""


def arrived(entry: Subvolume, source: Subvolume, incremental: bool) -> str:
    """What is wrong with ENTRY, which SOURCE was just received as; empty when nothing is."""
    state, why = judge(entry, source)
    if state is not State.COMPLETE:
        return why
    if incremental != bool(entry.parent_uuid):
        return "it was received as an increment" if entry.parent_uuid else "it was not received on top of its parent"
    return ""


def _no_subvolumes(inventory: Inventory) -> dict[str, str]:
    return dict.fromkeys(sorted(inventory.others), "it is not a subvolume")
