"""What is missing at each destination, from which parent it is sent, and which destinations share a stream."""

import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import chain

from btrfs_backup.model import retention
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.snapshot import Naming, Subvolume

AT_ONCE = 100  # streams, one behind the other
# What the source has, by name, in the order of names.
Snapshots = Mapping[str, Subvolume]


@dataclass(frozen=True)
class Target:
    """One destination on the way.

    missing: names still to be sent, oldest first; common: names complete on both sides, the possible parents;
    occupied: names that would have to be sent but are taken by something foreign, with what it is; under_way: that
    somebody sends already, with who does;
    unusable: those in common that the destination turned out not to be able to use as a parent;
    named: those that have to be named by their UUIDs there when they are parents, since a receiver could take others;
    alone: another destination is on its filesystem, where a receiver could take parts of one stream for each other's;
    one_by_one: it cannot take several streams one behind the other. partial: those of which a part is there, so that
    they go on in a stream of their own.
    """

    destination: str
    missing: tuple[str, ...] = ()
    common: frozenset[str] = frozenset()
    occupied: Mapping[str, str] = field(default_factory=dict)
    under_way: Mapping[str, str] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    alone: bool = False
    one_by_one: bool = False
    partial: frozenset[str] = frozenset()

    @property
    def parents(self) -> frozenset[str]:
        return self.common - self.unusable

    @property
    def owed(self) -> frozenset[str]:
        return frozenset(self.missing).union(self.occupied, self.under_way)


@dataclass(frozen=True)
class Batch:
    """A stream that is to be sent: SNAPSHOT, on top of PARENT or in full, to each of the DESTINATIONS.

    named: it names its parent by the UUID that it has at the only destination.
    """

    snapshot: str
    parent: str | None
    destinations: tuple[str, ...]
    named: bool = False


def target(
    destination: str, holdings: Holdings, snapshots: Snapshots, naming: Naming, keep: retention.Policy, now: datetime
) -> Target:
    """What DESTINATION, which holds HOLDINGS, lacks; without what its KEEP would delete again at NOW."""
    everything = {*snapshots, *holdings.complete}
    wanted = {kept.name for kept in retention.decide(keep, naming, everything, {}, now).kept}
    lacking = [name for name in snapshots if name in wanted and name not in holdings.complete]
    return Target(
        destination,
        tuple(name for name in lacking if name not in holdings.foreign and name not in holdings.under_way),
        frozenset(snapshots).intersection(holdings.complete),
        {name: holdings.foreign[name] for name in lacking if name in holdings.foreign},
        {name: holdings.under_way[name] for name in lacking if name in holdings.under_way},
    )


def going_on(target: Target, begun: Iterable[str]) -> Target:
    """TARGET, which has parts of those BEGUN: they go on.

    What is newer than all it has does so even if it would be deleted again: what follows builds upon it. Without that,
    one that takes longer than its KEEP reaches back would never arrive.
    """
    newest = max(target.common, default="")
    partial = frozenset(name for name in begun if name in target.missing or name > newest)
    return replace(target, missing=tuple(sorted({*target.missing, *partial})), partial=partial)


def unlisted_target(
    destination: str, delivered: Iterable[str], snapshots: Snapshots, naming: Naming, now: datetime
) -> Target:
    """What DESTINATION lacks, which cannot be looked into: all that is newer than what was DELIVERED there.

    Of several that were, the newer ones lay in the future then: between them there may be others that were not.
    """
    had = sorted(name for name in delivered if name in naming)
    oldest = had[0] if had and not naming.is_ahead(had[0], now) else ""
    return Target(
        destination,
        tuple(name for name in snapshots if name > oldest and name not in had),
        frozenset(snapshots).intersection(had),
        one_by_one=True,
    )


def to_record(target: Target, delivered: Iterable[str], naming: Naming, now: datetime) -> frozenset[str]:
    """What of all that was DELIVERED to TARGET has to be on record: the newest and, for one that cannot be looked into,
    those that lie in the future at NOW or before which something is still missing."""
    own = frozenset(name for name in delivered if name in naming)
    if not target.one_by_one:
        newest = naming.newest(own, now)
        return frozenset({newest} if newest else ())
    behind = (name for name in own if not target.missing or name < target.missing[0])
    newest = max((name for name in behind if not naming.is_ahead(name, now)), default="")
    return frozenset(name for name in own if name >= newest)


def strangers(complete: Snapshots, snapshots: Snapshots, known: Collection[str]) -> frozenset[str]:
    """Names of those COMPLETE backups at a destination that cannot be proved to be of the source of SNAPSHOTS.

    Proved are those whose snapshot the source still has, those KNOWN from the records, by UUID, and those linked to
    them: versions before 1.1 received each increment as a snapshot of its parent.
    """
    chain = {each.uuid: each.parent_uuid for each in complete.values()}
    ours = {each.uuid for name, each in complete.items() if name in snapshots or each.uuid in known}
    reached = ours
    while reached:
        older = {chain[uuid] for uuid in reached if chain.get(uuid) in chain}
        newer = {uuid for uuid, parent in chain.items() if parent in reached}
        reached = (older | newer) - ours
        ours = ours | reached
    return frozenset(name for name, each in complete.items() if each.uuid not in ours)


def served(target: Target, snapshot: str) -> Target:
    """SNAPSHOT, the oldest that was missing, has arrived."""
    return replace(target, missing=target.missing[1:], common=target.common | {snapshot})


def after(batch: Batch, targets: Sequence[Target]) -> list[Target]:
    """TARGETS when BATCH has arrived at its destinations."""
    return [served(each, batch.snapshot) if each.destination in batch.destinations else each for each in targets]


def without_parent(target: Target, parent: str) -> Target:
    """PARENT is of no use there. The next better one may be, but when that is none either it is not for the parents."""
    return replace(target, unusable=target.common if target.unusable else frozenset({parent}))


def next_batch(targets: Sequence[Target], lineage: "Lineage | None", shared: bool = True) -> Batch | None:
    """The oldest missing snapshot, for all the TARGETS that lack it and would get it from the same parent; when not
    SHARED, or when that one needs a stream of its own, for the first of them. Those that have a part of theirs wait.

    lineage: None to send everything in full. Returns None when nothing is left to send. A target that failed is not
    to be among TARGETS.
    """
    waiting = [target for target in targets if target.missing and target.missing[0] not in target.partial]
    if not waiting:
        return None
    snapshot = min(target.missing[0] for target in waiting)
    parents = {
        target.destination: lineage.parent(snapshot, target.parents) if lineage else None
        for target in waiting
        if target.missing[0] == snapshot
    }
    named = {target.destination for target in waiting if parents.get(target.destination) in target.named}
    alone = named.union(target.destination for target in waiting if target.alone)
    first, parent = next(iter(parents.items()))
    if first in alone or not shared:
        return Batch(snapshot, parent, (first,), first in named)
    return Batch(snapshot, parent, tuple(name for name, its in parents.items() if its == parent and name not in alone))


def next_batches(
    targets: Sequence[Target], lineage: "Lineage | None", shared: bool = True, most: int = AT_ONCE
) -> tuple[Batch, ...]:
    """The next batch and those that come after it, at MOST so many in all, as long as they go to the same destinations.

    Their streams can go into one receiver at each destination, one behind the other, which is much faster for many
    small ones. Empty when nothing is left to send.
    """
    batches: list[Batch] = []
    while len(batches) < most and (batch := next_batch(targets, lineage, shared)):
        if batches and (batch.named or batch.destinations != batches[0].destinations):
            break
        batches.append(batch)
        if batch.named or any(target.one_by_one for target in targets if target.destination in batch.destinations):
            break
        targets = after(batch, targets)
    return tuple(batches)


class Lineage:
    """Which snapshots stem from one another, as far as parent UUIDs tell.

    Snapshots of one subvolume have the same parent UUID. The chain is followed through a restored subvolume to the
    backup it was made from, and through received snapshots, each of which is a snapshot of its predecessor.
    """

    def __init__(self, subvolume: Subvolume, snapshots: Snapshots) -> None:
        self._subvolume, self._snapshots = subvolume, snapshots

    @cached_property
    def _origins(self) -> Mapping[str, str]:
        parents = {each.uuid: each.parent_uuid for each in (self._subvolume, *self._snapshots.values())}
        return {name: _origin(each.uuid, parents) for name, each in self._snapshots.items()}

    @cached_property
    def _names(self) -> Sequence[str]:
        """Those that can be parents: a receiver could take any of those that share a UUID."""
        times = Counter(each.stream_uuid for each in self._snapshots.values())
        return sorted(name for name, each in self._snapshots.items() if times[each.stream_uuid] == 1)

    def parent(self, snapshot: str, common: frozenset[str]) -> str | None:
        """The best parent among those COMMON to both sides, or None for a full stream.

        The nearest older one of the same lineage makes the smallest stream, then the nearest newer one. Any other
        common snapshot works as well (`btrfs send` compares trees); only the stream may be larger.
        """
        place = bisect.bisect_left(self._names, snapshot)

        def nearest_first() -> Iterator[str]:
            places = chain(range(place - 1, -1, -1), range(place, len(self._names)))
            return (self._names[each] for each in places if self._names[each] in common - {snapshot})

        own = (name for name in nearest_first() if self._origins[name] == self._origins[snapshot])
        return next(chain(own, nearest_first()), None) if common else None


def _origin(uuid: str, parents: Mapping[str, str]) -> str:
    """UUID of the oldest ancestor that is known."""
    seen = set()
    while (parent := parents.get(uuid)) and parent not in seen:
        seen.add(uuid)
        uuid = parent
    return uuid
