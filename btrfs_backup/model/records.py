"""The records of outstanding and of completed transfers, as values.

Both map names to frozen values; every function returns a new mapping and leaves its argument alone.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from btrfs_backup.model import location
from btrfs_backup.model.snapshot import Naming, prefix_of


@dataclass(frozen=True)
class Locks:
    """Who still needs a snapshot: destinations that are owed it, and those that are owed one sent on top of it."""

    locks: frozenset[str] = frozenset()
    parent_locks: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.locks or self.parent_locks)


# Snapshot name -> its locks.
Outstanding = Mapping[str, Locks]
# Destination -> filesystem UUID (empty for shell commands) -> names of the newest delivered, one for each prefix.
Completed = Mapping[str, Mapping[str, frozenset[str]]]


@dataclass(frozen=True)
class Records:
    outstanding: Outstanding
    completed: Completed


# --- outstanding -----------------------------------------------------------------------------------------------------


def begin(outstanding: Outstanding, destination: str, snapshot: str, parent: str | None) -> Outstanding:
    """A transfer of SNAPSHOT to DESTINATION begins, from PARENT when it is incremental."""
    changed = dict(outstanding)
    locks = changed.get(snapshot, Locks())
    changed[snapshot] = replace(locks, locks=locks.locks | {destination})
    if parent:
        locks = changed.get(parent, Locks())
        changed[parent] = replace(locks, parent_locks=locks.parent_locks | {destination})
    return changed


def end(outstanding: Outstanding, destination: str, snapshot: str) -> Outstanding:
    """The transfer of SNAPSHOT to DESTINATION ended well.

    All parent notes of the destination under that prefix go: it has one transfer at a time.
    """
    naming = Naming(prefix_of(snapshot))
    kept = {
        name: Locks(
            locks.locks - {destination} if name == snapshot else locks.locks,
            locks.parent_locks - {destination} if name in naming else locks.parent_locks,
        )
        for name, locks in outstanding.items()
    }
    return _without_empty(kept)


def settled(
    outstanding: Outstanding,
    before: Outstanding,
    destination: str,
    arrived: Iterable[str],
    failed: tuple[str, str | None] | None,
) -> Outstanding:
    """Several transfers to DESTINATION, all of which had been begun at once, are over.

    Its records are as BEFORE that, without what ARRIVED, and with the one that FAILED: (snapshot, parent). Those
    behind that one did not reach it, and are begun another time.
    """
    own = before
    for snapshot in arrived:
        own = end(own, destination, snapshot)
    if failed:
        own = begin(own, destination, *failed)
    nobody, its = Locks(), frozenset({destination})
    merged = {}
    for name in {**outstanding, **own}:
        others, ours = outstanding.get(name, nobody), own.get(name, nobody)
        merged[name] = Locks(
            (others.locks - its) | (ours.locks & its), (others.parent_locks - its) | (ours.parent_locks & its)
        )
    return _without_empty(merged)


def unreachable(outstanding: Outstanding, destination: str, newest: str) -> Outstanding:
    """DESTINATION could not be reached: it is owed the NEWEST snapshot.

    Of what it was owed before, the oldest stays (its transfer may have been cut off there). Those between go, so that
    a destination that stays away for weeks does not keep every snapshot of that time from being deleted.
    """
    recorded = owed(outstanding, Naming(prefix_of(newest)), destination)
    between = {name for name in recorded[1:] if name < newest}
    kept = {
        name: replace(locks, locks=locks.locks - {destination}) if name in between else locks
        for name, locks in outstanding.items()
    }
    return begin(_without_empty(kept), destination, newest, None)


def reconcile(outstanding: Outstanding, naming: Naming, destination: str, owed: Collection[str]) -> Outstanding:
    """What stays on record for a DESTINATION that has been looked at and is OWED just these snapshots."""
    settled = {
        name
        for name, locks in outstanding.items()
        if name in naming and name not in owed and destination in locks.locks
    }
    kept = {
        name: replace(locks, locks=locks.locks - {destination}) if name in settled else locks
        for name, locks in outstanding.items()
    }
    if not any(destination in locks.locks for name, locks in kept.items() if name in naming):
        kept = {
            name: replace(locks, parent_locks=locks.parent_locks - {destination}) if name in naming else locks
            for name, locks in kept.items()
        }
    return _without_empty(kept)


def drop(outstanding: Outstanding, naming: Naming, destinations: Collection[str]) -> Outstanding:
    """Without the records of DESTINATIONS on snapshots of this naming."""
    return _without_empty(
        {
            name: Locks(locks.locks.difference(destinations), locks.parent_locks.difference(destinations))
            if name in naming
            else locks
            for name, locks in outstanding.items()
        }
    )


def owed(outstanding: Outstanding, naming: Naming, destination: str) -> list[str]:
    """The snapshots of this naming that DESTINATION is recorded to be owed, sorted."""
    return sorted(name for name, locks in outstanding.items() if name in naming and destination in locks.locks)


def locked_destinations(outstanding: Outstanding, naming: Naming) -> list[str]:
    """Every destination that a record of this naming names, sorted."""
    found: set[str] = set()
    for name, locks in outstanding.items():
        if name in naming:
            found |= locks.locks | locks.parent_locks
    return sorted(found)


def known_destinations(records: Records, naming: Naming) -> list[str]:
    """Every destination that is owed a snapshot of this naming or has got one, sorted."""
    served = {
        destination
        for destination, filesystems in records.completed.items()
        if any(name in naming for names in filesystems.values() for name in names)
    }
    return sorted(served.union(locked_destinations(records.outstanding, naming)))


def names(records: Records) -> list[str]:
    """Every snapshot that the records name."""
    delivered_names = [name for seen in records.completed.values() for names in seen.values() for name in names]
    return [*records.outstanding, *delivered_names]


def reasons(records: Records) -> dict[str, list[str]]:
    """Why the records keep which snapshots from being deleted."""
    because: dict[str, list[str]] = {}
    for name, locks in records.outstanding.items():
        because.setdefault(name, []).extend(f"outstanding for {each}" for each in sorted(locks.locks))
        because[name].extend(f"parent of one outstanding for {each}" for each in sorted(locks.parent_locks))
    for destination, filesystems in records.completed.items():
        for filesystem, names in filesystems.items():
            disk = f" (filesystem {filesystem})" if filesystem else ""
            for name in names:
                because.setdefault(name, []).append(f"last delivered to {destination}{disk}")
    return because


def _without_empty(outstanding: Outstanding) -> Outstanding:
    return {name: locks for name, locks in outstanding.items() if locks}


# --- completed -------------------------------------------------------------------------------------------------------


def delivered(completed: Completed, destination: str, filesystem: str, naming: Naming, newest: str | None) -> Completed:
    """NEWEST is the newest snapshot of this naming that DESTINATION has on FILESYSTEM (None: it has none)."""
    seen = dict(completed.get(destination, {}))
    names = {name for name in seen.get(filesystem, frozenset()) if prefix_of(name) != naming.prefix}
    seen[filesystem] = frozenset(names | {newest} if newest else names)
    changed = {**completed, destination: {uuid: names for uuid, names in seen.items() if names}}
    return {name: filesystems for name, filesystems in changed.items() if filesystems}


def last_delivered(completed: Completed, destination: str, filesystem: str = "") -> frozenset[str]:
    """The newest snapshots that went to DESTINATION on FILESYSTEM (empty for shell commands), one for each prefix."""
    return completed.get(destination, {}).get(filesystem, frozenset())


def forget(completed: Completed, naming: Naming, destinations: Collection[str]) -> Completed:
    """Without what was delivered to DESTINATIONS of this naming, on whatever filesystem."""
    changed = completed
    for destination in destinations:
        for filesystem in completed.get(destination, {}):
            changed = delivered(changed, destination, filesystem, naming, None)
    return changed


# --- as JSON ---------------------------------------------------------------------------------------------------------


def parse_outstanding(text: str) -> Outstanding:
    """The records in the format of btrfs-backup 0.3.1; empty text means none.

    Destinations become their identities. Raises ValueError.
    """
    outstanding = {}
    for name, entry in _object(text).items():
        if not isinstance(entry, dict) or not entry.keys() <= {"locks", "parent_locks"}:
            raise ValueError(f'the entry of \'{name}\' is not of the form {{"locks": [...], "parent_locks": [...]}}')
        outstanding[name] = Locks(
            *(
                frozenset(map(location.identity, _strings(entry.get(kind, []), name)))
                for kind in ("locks", "parent_locks")
            )
        )
    return _without_empty(outstanding)


def format_outstanding(outstanding: Outstanding) -> str:
    return _format(
        {
            name: {
                kind: sorted(destinations)
                for kind, destinations in (("locks", locks.locks), ("parent_locks", locks.parent_locks))
                if destinations
            }
            for name, locks in outstanding.items()
        }
    )


def parse_completed(text: str) -> Completed:
    """What was delivered: {destination: {filesystem UUID: [snapshot, ...]}}. Raises ValueError."""
    completed = {}
    for destination, filesystems in _object(text).items():
        if not isinstance(filesystems, dict):
            raise ValueError(f"the entry of '{destination}' is not of the form {{filesystem: [snapshot, ...]}}")
        completed[destination] = {uuid: frozenset(_strings(names, destination)) for uuid, names in filesystems.items()}
    return completed


def format_completed(completed: Completed) -> str:
    return _format(
        {
            destination: {uuid: sorted(names) for uuid, names in filesystems.items()}
            for destination, filesystems in completed.items()
        }
    )


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates) if text.strip() else {}
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it does not hold a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A name that stands twice would silently lose its first entry."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands twice in it")
    return value


def _strings(value: object, where: str) -> Iterable[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"the entry of '{where}' holds something else than a list of names")
    return value


def _format(value: object) -> str:
    return json.dumps(value, indent=4, sort_keys=True) + "\n"
