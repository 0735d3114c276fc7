"""What a place holds under our names, and what of it counts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import Stage

UNWRITTEN = "it may lack data: its machine may have gone down, or its disk been pulled out or failed, too early"
CHANGED = "it was received and is writable: its content may have changed"


class State(Enum):
    """The verdict on an entry at a destination."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Inventory:
    """The entries of a folder whose names are of our form, as one look found them.

    subvolumes: by name, in the order of names.
    others: names of entries that are no subvolumes (files, plain directories).
    stages: what is in the place of stages, in the order of their names.
    elsewhere: received UUIDs that other subvolumes of its filesystem have, too, as far as the look has shown these.
    exists: whether the folder is there at all.
    """

    subvolumes: Mapping[str, Subvolume] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    stages: tuple[Stage, ...] = ()
    exists: bool = True
    elsewhere: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return self.others.union(self.subvolumes)

    @property
    def marks(self) -> frozenset[str]:
        """The backups that versions before 1.1 would take for unfinished."""
        return frozenset(each.name for each in self.stages if each.is_mark)


@dataclass(frozen=True)
class Holdings:
    """The entries of an inventory, judged.

    complete: usable snapshots or backups by name, in the order of names.
    partial: names of transfers that were cut off. under_way: names of those that are alive, with who makes them.
    foreign: names that are not ours although they look like it, each with the reason.
    """

    complete: Mapping[str, Subvolume] = field(default_factory=dict)
    partial: tuple[str, ...] = ()
    foreign: Mapping[str, str] = field(default_factory=dict)
    under_way: Mapping[str, str] = field(default_factory=dict)


def snapshots(inventory: Inventory) -> Holdings:
    """What counts at the source: read-only subvolumes; a writable one cannot be sent."""
    usable = {name: each for name, each in inventory.subvolumes.items() if each.readonly}
    foreign = {name: "it is writable" for name in inventory.subvolumes if name not in usable}
    return Holdings(usable, (), foreign | _no_subvolumes(inventory))


def backups(
    inventory: Inventory, sources: Mapping[str, Subvolume], begun: Collection[str] = (), old: bool = True
) -> Holdings:
    """What counts at a destination whose source has the snapshots SOURCES (by name).

    OLD: versions before 1.1 may have been the last to write there; they received under the names themselves. begun:
    names of transfers to it that are not known to have ended.
    """
    marks = inventory.marks if old else frozenset()
    states = {
        name: judge(each, sources.get(name), old and name in begun, name in marks)
        for name, each in inventory.subvolumes.items()
    }
    cut_off = {
        each.name
        for each in inventory.stages
        if each.attempts and not (each.holder or each.foreign or is_of_another(each, sources))
    }
    parts = {name for name, (state, _) in states.items() if state is State.PARTIAL}
    complete = {name: inventory.subvolumes[name] for name, (state, _) in states.items() if state is State.COMPLETE}
    return Holdings(
        complete,
        tuple(sorted(parts.union(cut_off - inventory.names))),
        {name: why for name, (state, why) in states.items() if state is State.FOREIGN} | _no_subvolumes(inventory),
        {each.name: each.holder for each in inventory.stages if each.holder},
    )


def is_of_another(stage: Stage, sources: Mapping[str, Subvolume]) -> bool:
    """Whether a stage is of another snapshot than the one of that name among those of the source."""
    return stage.name in sources and not stage.is_of(sources[stage.name].stream_uuid)


def judge(entry: Subvolume, source: Subvolume | None, begun: bool = False, marked: bool = False) -> tuple[State, str]:
    """What ENTRY at a destination is, and why; SOURCE is the source's snapshot of that name, if it has one.

    `btrfs receive` sets the received UUID and then read-only, both at its very end: complete means both. What is
    writable is somebody's, and there may be work in it, unless a version before 1.1 has BEGUN to receive it, or MARKED
    it; as long as it is marked, not all of it may be on disk.
    """
    if not entry.readonly:
        if source and entry.parent_received_uuid == source.stream_uuid:
            return State.FOREIGN, "it is a writable copy of the backup: its content may have changed"
        cut_off = source and (
            entry.received_uuid == source.stream_uuid if entry.received_uuid else not entry.received_at
        )
        if (begun or marked) and cut_off:
            return State.PARTIAL, "it is writable: a transfer was cut off before its last step"
        if entry.received_uuid or entry.received_at:
            return State.FOREIGN, CHANGED
        return State.FOREIGN, "it is writable, and not a backup"
    if not entry.received_uuid:
        return State.FOREIGN, "it is read-only and has no received UUID: it was not received from a source"
    if source and entry.received_uuid != source.stream_uuid:
        return State.FOREIGN, "it is a copy of another snapshot than the source's one of that name"
    if marked:
        return State.PARTIAL, UNWRITTEN
    return State.COMPLETE, ""


def received(entry: Subvolume, source: Subvolume, parent: str) -> str:
    """What is wrong with ENTRY, which SOURCE was just received as; empty when nothing is.

    PARENT: the UUID of the backup that it has to be built upon, empty when it was sent in full. `btrfs receive` takes
    any subvolume of the filesystem for the parent that has its received UUID.
    """
    state, why = judge(entry, source)
    if state is not State.COMPLETE:
        return why
    if entry.parent_uuid == parent:
        return ""
    if not parent:
        return "it was received as an increment"
    return "it was built upon another subvolume than the backup that was meant as its parent"


def _no_subvolumes(inventory: Inventory) -> dict[str, str]:
    return dict.fromkeys(sorted(inventory.others), "it is not a subvolume")
