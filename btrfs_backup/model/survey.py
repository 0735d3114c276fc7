"""What is where: every snapshot against the source and every destination."""

from datetime import timedelta

from btrfs_backup.model import cutter, records
from btrfs_backup.model.outcome import Partial, Place, Row, Survey
from btrfs_backup.model.world import Destination, World

COMPLETE, MISSING, PARTIAL, FOREIGN = "complete", "missing", "partial", "foreign"
# A backup that cannot be proved to be of this source; one that is being received at this moment.
OTHER, UNDER_WAY = "other", "under way"
OUTSTANDING, DELIVERED, UNKNOWN, NOTHING = "outstanding", "delivered", "unknown", "-"


def survey(world: World) -> Survey:
    """A row for each snapshot that the source, a destination or the records know, in the order of names."""
    kept = {each.name: each.because for each in world.verdict().kept}
    kept_at = [{one.name: one.because for one in world.verdict_at(each).kept} for each in world.destinations]
    known = (each for each in world.records if each.kind != records.TOLD and each.snapshot in world.naming)
    names = {*world.snapshots, *(each.snapshot for each in known)}
    # A signal may have come before the others.
    looked = [each for each in world.destinations if each.looked]
    for each in looked:
        held = each.holdings
        names |= {*held.complete, *held.partial, *held.foreign, *held.under_way}
    rows = tuple(
        Row(
            name,
            (
                COMPLETE if name in world.snapshots else NOTHING,
                *(_state(name, each, world) for each in looked),
            ),
            tuple(kept.get(name, ())),
            tuple(tuple(their.get(name, ())) for their in kept_at),
            _age(name, world),
        )
        for name in sorted(names)
    )
    return Survey(world.source, rows, tuple(_place(each, world) for each in looked))


def _age(name: str, world: World) -> timedelta | None:
    taken = world.naming.time(name)
    # One of the same second as the one before is called after the next second.
    if not taken or world.naming.is_ahead(name, world.moment):
        return None
    return max(world.moment - taken, timedelta())


def _place(each: Destination, world: World) -> Place:
    """How a destination stands."""
    recorded = set(records.owed(world.records, world.naming, each.identity))
    owed = recorded - set(each.holdings.complete) | set(each.target.owed if each.target else ())
    if each.target and each.seen.listed:
        known = frozenset(each.holdings.complete.keys() - each.strangers)
    else:
        known = frozenset(fact.snapshot for fact in records.of(world.records, each.identity, records.NEWEST))
    # What lies in the future says nothing of how old the newest one is.
    newest = world.naming.newest(known.difference(world.naming.ahead(known, world.moment)), world.moment)
    taken, max_age = world.naming.time(newest) if newest else None, world.settings.max_age
    age = world.moment - taken if taken else None
    too_old = max_age is not None and (age is None or age > max_age)
    parts = []
    for name, (stage, _) in each.parts.items():
        last = cutter.checkpoints(stage.subvolumes, world.settings.far)[-1]
        parts.append(Partial(name, last.offset, each.sizes.get(name), cutter.begun(stage.subvolumes)))
    return Place(
        each.identity,
        each.target is not None,
        newest,
        age,
        tuple(sorted(owed)),
        too_old,
        each.outcome.failures,
        tuple(parts),
        each.seen.filesystem,
        each.seen.label,
        each.outcome.sizes,
    )


def _state(name: str, each: Destination, world: World) -> str:
    if name in each.strangers:
        return OTHER
    if name in each.holdings.complete:
        return COMPLETE
    if name in each.holdings.under_way:
        return UNDER_WAY
    if name in each.holdings.partial:
        return PARTIAL
    if name in each.holdings.foreign:
        return FOREIGN
    if name in records.owed(world.records, world.naming, each.identity):
        return OUTSTANDING
    if not each.target:
        return UNKNOWN
    if not each.seen.listed and name in records.last_delivered(world.records, each.identity):
        return DELIVERED
    return MISSING if name in each.target.missing else NOTHING
