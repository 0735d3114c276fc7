"""The records of a run: a set of facts about what is outstanding, and what was delivered where.

They are kept in two files, of which btrfs-backup 0.3.1 knows the first. Every function returns a new set.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from btrfs_backup.model import location
from btrfs_backup.model.snapshot import Naming, prefix_of

OWED, PARENT = "locks", "parent_locks"
NEWEST, BACKUP, BLOCKED, OTHER, STAGED, TOLD = "newest", "backups", "blocked", "others", "staged", "told"
_OLD = "old"


class Fact(NamedTuple):
    """One thing that is on record of a DESTINATION, by its kind:

    OWED: a transfer of SNAPSHOT to it was begun, and is not known to have ended well.
    PARENT: such a transfer builds upon SNAPSHOT.
    NEWEST: SNAPSHOT is the newest one known to have arrived, of its prefix; on the FILESYSTEM with that UUID, since
        disks are swapped at one mount point. For shell commands, whose FILESYSTEM is empty, also one that lay in the
        future when it arrived.
    BACKUP: the backup under that name there, with that UUID, is of this source.
    OTHER: the same cannot be proved to be of this source, and that was told.
    BLOCKED: SNAPSHOT could not be sent there: something else has its name.
    TOLD: there is something odd about what has the name of SNAPSHOT, and that was told; in place of a UUID it has what
        that is. The folder of the snapshots counts as a destination there, on no filesystem.
    STAGED: nothing of versions before 1.1 is unfinished there (see model.stage); of no snapshot.
    """

    kind: str
    destination: str
    snapshot: str
    filesystem: str = ""
    uuid: str = ""


Records = frozenset[Fact]

NONE: Records = frozenset()


# --- what is outstanding ---------------------------------------------------------------------------------------------


def begin(records: Records, destination: str, snapshot: str, parent: str | None) -> Records:
    """A transfer of SNAPSHOT to DESTINATION begins, from PARENT when it is incremental."""
    noted = {Fact(PARENT, destination, parent)} if parent else set()
    return records | {Fact(OWED, destination, snapshot)} | noted


def end(records: Records, destination: str, snapshot: str) -> Records:
    """The transfer of SNAPSHOT to DESTINATION ended well.

    All parent notes of the destination under that prefix go: it has one transfer at a time.
    """
    naming = Naming(prefix_of(snapshot))
    notes = {each for each in of(records, destination, PARENT) if each.snapshot in naming}
    return records - notes - {Fact(OWED, destination, snapshot)}


def settled(
    records: Records,
    before: Records,
    destination: str,
    arrived: Iterable[str],
    failed: tuple[str, str | None] | None,
) -> Records:
    """Several transfers to DESTINATION, all of which had been begun at once, are over.

    What is outstanding there is as BEFORE that, without what ARRIVED, and with the one that FAILED: (snapshot, parent).
    Those behind that one did not reach it, and are begun another time.
    """
    own = of(before, destination, OWED, PARENT)
    for snapshot in arrived:
        own = end(own, destination, snapshot)
    if failed:
        own = begin(own, destination, *failed)
    return (records - of(records, destination, OWED, PARENT)) | own


def unreachable(records: Records, destination: str, newest: str) -> Records:
    """DESTINATION could not be reached: the NEWEST snapshot is outstanding there.

    Of what was outstanding before, the oldest stays (its transfer may have been cut off there). Those between go, so
    that a destination that stays away for weeks does not keep every snapshot of that time from being deleted.
    """
    recorded = owed(records, Naming(prefix_of(newest)), destination)
    between = {Fact(OWED, destination, name) for name in recorded[1:] if name < newest}
    return begin(records - between, destination, newest, None)


def reconcile(records: Records, naming: Naming, destination: str, owed: Collection[str]) -> Records:
    """What stays on record for a DESTINATION that has been looked at and is OWED just these snapshots."""
    own = {each for each in of(records, destination, OWED, PARENT) if each.snapshot in naming}
    kept = {each for each in own if each.kind == PARENT or each.snapshot in owed}
    return records - own | (kept if any(each.kind == OWED for each in kept) else NONE)


def owed(records: Records, naming: Naming, destination: str) -> list[str]:
    """The snapshots of this naming that are on record as outstanding at DESTINATION, sorted."""
    return sorted(each.snapshot for each in of(records, destination, OWED) if each.snapshot in naming)


# --- what was delivered ----------------------------------------------------------------------------------------------


def delivered(records: Records, destination: str, filesystem: str, naming: Naming, newest: Iterable[str]) -> Records:
    """NEWEST is of this naming, and what is to be known of the snapshots that DESTINATION has on FILESYSTEM."""
    old = {each for each in of(records, destination, NEWEST) if each.filesystem == filesystem}
    own = {each for each in old if each.snapshot in naming}
    return records - own | {Fact(NEWEST, destination, name, filesystem) for name in newest}


def blocked(records: Records, destination: str, filesystem: str, naming: Naming, names: Iterable[str]) -> Records:
    """Just NAMES of this naming cannot be sent to DESTINATION, whose disk is FILESYSTEM."""
    known = of(records, destination, BLOCKED)
    own = {each for each in known if each.filesystem == filesystem and each.snapshot in naming}
    return records - own | {Fact(BLOCKED, destination, name, filesystem) for name in names}


def last_delivered(records: Records, destination: str, filesystem: str = "") -> frozenset[str]:
    """The newest snapshots, of all prefixes, that went to DESTINATION on FILESYSTEM (empty for shell commands)."""
    return frozenset(each.snapshot for each in of(records, destination, NEWEST) if each.filesystem == filesystem)


def holds(
    records: Records,
    destination: str,
    filesystem: str,
    naming: Naming,
    ours: Mapping[str, str],
    others: Mapping[str, str],
) -> Records:
    """DESTINATION holds on FILESYSTEM just these backups of this naming, names by UUID: OURS, and OTHERS."""
    known = of(records, destination, BACKUP, OTHER)
    old = {each for each in known if each.filesystem == filesystem and each.snapshot in naming}
    new = {Fact(BACKUP, destination, name, filesystem, uuid) for uuid, name in ours.items()}
    return records - old | new | {Fact(OTHER, destination, name, filesystem, uuid) for uuid, name in others.items()}


def backups(records: Records) -> frozenset[str]:
    """The UUIDs of all backups that are of this source, wherever they are."""
    return frozenset(each.uuid for each in records if each.kind == BACKUP)


def told(records: Records, destination: str, filesystem: str, kind: str = TOLD) -> frozenset[tuple[str, str]]:
    """What was told of what is there: name, and what is odd about it; of the KIND OTHER the UUID."""
    known = of(records, destination, kind)
    return frozenset((each.snapshot, each.uuid) for each in known if each.filesystem == filesystem)


def tell(
    records: Records, destination: str, filesystem: str, naming: Naming, odd: Iterable[tuple[str, str]]
) -> Records:
    """Just what is ODD there about snapshots of this naming has been told: name, and what it is."""
    known = of(records, destination, TOLD)
    old = {each for each in known if each.filesystem == filesystem and each.snapshot in naming}
    return records - old | {Fact(TOLD, destination, name, filesystem, why) for name, why in odd}


def staged(records: Records, destination: str, filesystem: str) -> Records:
    """Nothing of older versions is unfinished at DESTINATION on FILESYSTEM."""
    return records | {Fact(STAGED, destination, "", filesystem)}


def is_staged(records: Records, destination: str, filesystem: str) -> bool:
    return Fact(STAGED, destination, "", filesystem) in records


def filesystems(records: Records, destination: str) -> frozenset[str]:
    """The UUIDs of the filesystems on which DESTINATION has got something."""
    return frozenset(each.filesystem for each in of(records, destination, NEWEST, BACKUP))


# --- all of it -------------------------------------------------------------------------------------------------------


def of(records: Records, destination: str, *kinds: str) -> Records:
    """What is on record of DESTINATION, of the KINDS."""
    return frozenset(each for each in records if each.destination == destination and each.kind in kinds)


def forget(records: Records, naming: Naming, destinations: Collection[str]) -> Records:
    """Without what is on record of DESTINATIONS about snapshots of this naming."""
    return frozenset(each for each in records if each.destination not in destinations or each.snapshot not in naming)


def destinations(records: Records, naming: Naming, *kinds: str) -> list[str]:
    """Every destination that something of this naming is on record of, of the KINDS, sorted."""
    return sorted({each.destination for each in records if each.kind in kinds and each.snapshot in naming})


def reasons(records: Records) -> dict[str, list[str]]:
    """Why the records keep which snapshots from being deleted."""
    words = {
        OWED: "outstanding for {}",
        PARENT: "parent of one outstanding for {}",
        NEWEST: "last delivered to {}",
        BLOCKED: "not sent to {}, where something else has its name",
    }
    because: dict[str, list[str]] = {}
    for kind, text in words.items():
        for each in sorted(each for each in records if each.kind == kind):
            disk = f" (filesystem {each.filesystem})" if each.filesystem and kind == NEWEST else ""
            because.setdefault(each.snapshot, []).append(text.format(each.destination) + disk)
    return because


# --- as JSON ---------------------------------------------------------------------------------------------------------


def parse_outstanding(text: str) -> Records:
    """What is outstanding, in the format of btrfs-backup 0.3.1; empty text means nothing.

    Destinations become their identities. Raises ValueError.
    """
    facts = set()
    for name, entry in _object(text).items():
        if not isinstance(entry, dict) or not entry.keys() <= {OWED, PARENT}:
            raise ValueError(f'the entry of \'{name}\' is not of the form {{"locks": [...], "parent_locks": [...]}}')
        for kind, recorded in entry.items():
            facts |= {Fact(kind, location.identity(each), name) for each in _strings(recorded, name)}
    return frozenset(facts)


def format_outstanding(records: Records) -> str:
    entries: dict[str, dict[str, list[str]]] = {}
    for each in sorted(records):
        if each.kind in (OWED, PARENT):
            entries.setdefault(each.snapshot, {}).setdefault(each.kind, []).append(each.destination)
    return _format(entries)


def parse_completed(text: str) -> Records:
    """What was delivered; empty text means nothing. Raises ValueError.

    {destination: {filesystem UUID: {"newest": [snapshot, ...], "blocked": [snapshot, ...], "backups": {UUID: name},
    "others": {UUID: name}, "told": {snapshot: [what is odd about it, ...]}}}}; before version 1.1 the list of the
    newest alone. "old": true where something of such a version may be unfinished.
    """
    facts = set()
    for destination, disks in _object(text).items():
        if not isinstance(disks, dict):
            raise ValueError(f"the entry of '{destination}' is not of the form {{filesystem: {{...}}}}")
        for filesystem, entry in disks.items():
            facts |= set(_delivered(destination, filesystem, entry))
    return frozenset(facts)


def _delivered(destination: str, filesystem: str, entry: object) -> Iterator[Fact]:
    if isinstance(entry, list):
        yield from (Fact(NEWEST, destination, name, filesystem) for name in _strings(entry, destination))
        return
    if not isinstance(entry, dict) or not entry.keys() <= {NEWEST, BLOCKED, BACKUP, OTHER, TOLD, _OLD}:
        raise ValueError(f"the entry of '{destination}' holds something else than a list of names")
    if not entry.get(_OLD):
        yield Fact(STAGED, destination, "", filesystem)
    for kind in (NEWEST, BLOCKED):
        yield from (Fact(kind, destination, name, filesystem) for name in _strings(entry.get(kind, []), destination))
    for name, odd in _map(entry.get(TOLD, {}), destination).items():
        yield from (Fact(TOLD, destination, name, filesystem, why) for why in _strings(odd, destination))
    for kind in (BACKUP, OTHER):
        backups = _map(entry.get(kind, {}), destination)
        for uuid, name in zip(backups, _strings(list(backups.values()), destination), strict=True):
            yield Fact(kind, destination, name, filesystem, uuid)


def format_completed(records: Records) -> str:
    delivered = sorted((each for each in records if each.kind not in (OWED, PARENT)), key=_disk)
    entries: dict[str, dict[str, object]] = {}
    for (destination, filesystem), group in groupby(delivered, _disk):
        own = sorted(group)
        lists = {kind: [each.snapshot for each in own if each.kind == kind] for kind in (NEWEST, BLOCKED)}
        maps = {kind: {each.uuid: each.snapshot for each in own if each.kind == kind} for kind in (BACKUP, OTHER)}
        odd = groupby((each for each in own if each.kind == TOLD), lambda each: each.snapshot)
        told = {TOLD: {name: [each.uuid for each in facts] for name, facts in odd}}
        known: dict[str, object] = {kind: value for kind, value in {**lists, **maps, **told}.items() if value}
        if not any(each.kind == STAGED for each in own):
            known[_OLD] = True
        # As it was before version 1.1, where there is nothing else.
        before = _OLD in known and known.keys() <= {NEWEST, _OLD}
        entries.setdefault(destination, {})[filesystem] = lists[NEWEST] if before else known
    return _format(entries)


def _disk(fact: Fact) -> tuple[str, str]:
    return fact.destination, fact.filesystem


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


def _strings(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"the entry of '{where}' holds something else than a list of names")
    return value


def _map(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"the backups of '{where}' are not of the form {{UUID: name}}")
    return value


def _format(value: object) -> str:
    return json.dumps(value, indent=4, sort_keys=True) + "\n"
