"""What is missing, from which parent it is sent, and which destinations share a stream."""

import random
import unittest
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from btrfs_backup.model import plan, retention
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.plan import Batch, Lineage, Snapshots, Target
from btrfs_backup.model.snapshot import Naming, Subvolume

NAMING = Naming()
HOME = Subvolume("home", "HOME")
# One snapshot a day, oldest first.
A, B, C, D, E, F = (f"2026010{day}-120000" for day in (1, 2, 3, 4, 5, 6))
ALL = (A, B, C, D, E, F)
NOW = datetime(2028, 1, 1)


def snapshot(name: str, parent: str = "HOME", received: str = "") -> Subvolume:
    return Subvolume(name, f"uuid-{name}", parent, received)


def source(*names: str, subvolume: Subvolume = HOME) -> Snapshots:
    """Snapshots of the subvolume."""
    return {name: snapshot(name, subvolume.uuid) for name in names}


def lineage(*names: str) -> Lineage:
    return Lineage(HOME, source(*names))


def holdings(
    complete: Iterable[str] = (), partial: Iterable[str] = (), foreign: Mapping[str, str] | None = None
) -> Holdings:
    copies = {name: Subvolume(name, f"copy-{name}", "", f"uuid-{name}") for name in sorted(complete)}
    return Holdings(copies, tuple(partial), foreign or {})


class UnlistedTargetTest(unittest.TestCase):
    def test_all_that_is_newer_than_the_newest_delivered(self) -> None:
        table: list[tuple[list[str], list[str], list[str]]] = [
            ([], list(ALL), []),
            ([A], [B, C, D, E, F], [A]),
            ([F], [], [F]),
            ([B, D], [C, E, F], [B, D]),
            (["other-20270101-120000"], list(ALL), []),
            (["other-20270101-120000", E], [F], [E]),
            (["20260103-130000"], [D, E, F], []),
            (["20260107-120000"], [], []),
            (["20990101-120000"], list(ALL), []),
        ]
        for delivered, missing, common in table:
            with self.subTest(delivered=delivered):
                target = plan.unlisted_target("shell://x", delivered, source(*ALL), NAMING, NOW)
                self.assertEqual(target, Target("shell://x", tuple(missing), frozenset(common), one_by_one=True))

    def test_chain(self) -> None:
        """Each one on top of what was delivered before, or in full when that is gone."""
        for delivered, wanted in (([B], [(C, B), (D, C)]), (["20260102-130000"], [(C, None), (D, C)])):
            target = plan.unlisted_target("shell://x", delivered, source(B, C, D), NAMING, NOW)
            sent = []
            while batch := plan.next_batch([target], lineage(B, C, D)):
                sent.append((batch.snapshot, batch.parent))
                target = plan.served(target, batch.snapshot)
            self.assertEqual(sent, wanted)


class FutureTest(unittest.TestCase):
    """Names that lie in the future, as of 7 January 2026."""

    NOW = datetime(2026, 1, 7, 12)
    LATER, LAST = "20260108-120000", "20990101-120000"

    def test_a_shell_command_goes_on(self) -> None:
        """It gets each one once, in whatever order they come, also when the time of the future ones has come."""
        got: list[str] = []
        known = frozenset[str]()
        days = {
            5: [A, self.LATER, self.LAST],
            6: [A, F, self.LATER, self.LAST],
            7: [A, F, "20260107-110000", self.LATER, self.LAST],
            9: [F, "20260107-110000", self.LATER, "20260109-110000", self.LAST],
        }
        for day, there in days.items():
            now = datetime(2026, 1, day, 12)
            target = plan.unlisted_target("shell://x", known, source(*there), NAMING, now)
            # Looked at, but nothing is sent yet.
            known = plan.to_record(target, target.common | known, NAMING, now)
            target = plan.unlisted_target("shell://x", known, source(*there), NAMING, now)
            while target.missing:
                got.append(target.missing[0])
                target = plan.served(target, target.missing[0])
                known = plan.to_record(target, target.common | known, NAMING, now)
        wanted = [A, self.LATER, self.LAST, F, "20260107-110000", "20260109-110000"]
        self.assertEqual(got, wanted)
        self.assertEqual(known, {"20260109-110000", self.LAST})

    def test_what_was_passed_by_is_still_sent(self) -> None:
        """The time of a delivered one has come before the transfer of an older one went well."""
        there, now = source(A, "20260108-000000", self.LATER), datetime(2026, 1, 9)
        target = plan.unlisted_target("shell://x", [A, self.LATER], there, NAMING, now)
        self.assertEqual(target.missing, ("20260108-000000",))
        self.assertEqual(plan.to_record(target, target.common, NAMING, now), {A, self.LATER})
        target = plan.served(target, "20260108-000000")
        self.assertEqual(plan.to_record(target, target.common, NAMING, now), {self.LATER})

    def test_a_shell_command_that_got_what_is_gone(self) -> None:
        """It is remembered."""
        target = plan.unlisted_target("shell://x", [B], source(A), NAMING, self.NOW)
        self.assertEqual((target.missing, plan.to_record(target, target.common | {B}, NAMING, self.NOW)), ((), {B}))

    def test_folder(self) -> None:
        """The newest on record is of the past, or else whatever there is."""
        for common, wanted in (([A, B, self.LAST], {B}), ([self.LATER, self.LAST], {self.LAST}), ([], set())):
            target = Target("/b", (), frozenset(common))
            self.assertEqual(plan.to_record(target, common, NAMING, self.NOW), wanted)

    def test_evicts_nothing(self) -> None:
        """It is sent, and so are all that its destination would keep without it."""
        held = holdings(["20980101-120000"])
        target = plan.target("/b", held, source(*ALL, self.LAST), NAMING, retention.parse("2"), self.NOW)
        self.assertEqual(target.missing, (E, F, self.LAST))


class UnsharedTest(unittest.TestCase):
    def test_one_destination_at_a_time(self) -> None:
        targets = [Target(name, (A, B)) for name in ("/b", "/c")]
        self.assertEqual(plan.next_batch(targets, lineage(A, B)), Batch(A, None, ("/b", "/c")))
        self.assertEqual(plan.next_batch(targets, lineage(A, B), shared=False), Batch(A, None, ("/b",)))


class NamedParentsTest(unittest.TestCase):
    """A stream that names its parent by the UUID that this has at a destination is for no other one."""

    def batches(self, *targets: Target) -> tuple[Batch, ...]:
        return plan.next_batches(targets, lineage(*ALL))

    def test_each_destination_has_a_stream_of_its_own(self) -> None:
        one, other, third = (Target(name, (B, C), frozenset([A])) for name in ("/b", "/c", "/d"))
        named = [replace(each, named=frozenset(ALL)) for each in (one, other)]
        self.assertEqual(self.batches(*named), (Batch(B, A, ("/b",), True),))
        self.assertEqual(self.batches(named[0], third), (Batch(B, A, ("/b",), True),))
        # The others get theirs first when they come first.
        self.assertEqual(self.batches(third, named[1]), (Batch(B, A, ("/d",)),))

    def test_on_one_filesystem(self) -> None:
        """In full, too; what follows on top of that goes by itself."""
        one, other = (Target(name, (A, B), named=frozenset(ALL), alone=True) for name in ("/b", "/c"))
        third = Target("/d", (A,))
        self.assertEqual(self.batches(one, other, third), (Batch(A, None, ("/b",)),))
        self.assertEqual(self.batches(third, one), (Batch(A, None, ("/d",)),))
        one = plan.served(one, A)
        self.assertEqual(self.batches(one), (Batch(B, A, ("/b",), True),))


class NextBatchesTest(unittest.TestCase):
    """What can go into the same receivers, one stream behind the other."""

    def batches(self, *targets: Target, **more: Any) -> list[tuple[str, str | None, tuple[str, ...]]]:
        found = plan.next_batches(targets, lineage(*ALL), **more)
        return [(batch.snapshot, batch.parent, batch.destinations) for batch in found]

    def test_as_long_as_the_destinations_are_the_same(self) -> None:
        own, both, other = ("/b",), ("/b", "/c"), ("/c",)
        wanted: list[tuple[list[Target], list[tuple[str, str | None, tuple[str, ...]]]]] = [
            ([], []),
            ([Target("/b")], []),
            ([Target("/b", (C, D, F), frozenset([A]))], [(C, A, own), (D, C, own), (F, D, own)]),
            ([Target("/b", (A, B)), Target("/c", (A, B))], [(A, None, both), (B, A, both)]),
            # One has more to get before they go on together, or another parent, or less.
            ([Target("/b", (A, B)), Target("/c", (B,), frozenset([A]))], [(A, None, own)]),
            ([Target("/b", (B, C)), Target("/c", (A, B, C))], [(A, None, other)]),
            ([Target("/b", (C, D), frozenset([A])), Target("/c", (C, D), frozenset([B]))], [(C, A, own)]),
            ([Target("/b", (A, B, C)), Target("/c", (A, B))], [(A, None, both), (B, A, both)]),
        ]
        for targets, batches in wanted:
            with self.subTest(targets=targets):
                self.assertEqual(self.batches(*targets), batches)

    def test_limits(self) -> None:
        """At most so many; a shell command takes but one stream."""
        self.assertEqual(len(self.batches(Target("/b", ALL), most=4)), 4)
        alone = Target("shell://x", ALL, one_by_one=True)
        self.assertEqual(self.batches(alone, Target("/b", ALL)), [(A, None, ("shell://x", "/b"))])

    def test_the_same_as_one_by_one(self) -> None:
        """Whatever is missing where: the same steps in the same order, if the destinations do not fail."""
        chance = random.Random(7)
        for _ in range(200):
            targets = [
                Target(place, tuple(name for name in ALL if name not in held), frozenset(held))
                for place in ("/b", "/c", "/d")
                for held in [chance.sample(ALL, chance.randrange(len(ALL)))]
            ]
            singly = self.fold(targets, lambda left: [batch] if (batch := plan.next_batch(left, lineage(*ALL))) else [])
            self.assertEqual(self.fold(targets, lambda left: plan.next_batches(left, lineage(*ALL))), singly)

    def fold(self, targets: list[Target], ask: Callable[[list[Target]], Sequence[Batch]]) -> list[Batch]:
        done: list[Batch] = []
        while batches := ask(targets):
            for batch in batches:
                targets = plan.after(batch, targets)
            done += batches
        return done


class UnusableParentTest(unittest.TestCase):
    def test_the_next_better_one_and_then_none(self) -> None:
        """Also for what is sent later; what arrives in full may be a parent."""
        target = Target("/b", (D, E, F), frozenset([A, B, C]))
        tried = []
        for _ in range(3):
            batch = plan.next_batch([target], lineage(*ALL))
            assert batch
            tried.append(batch.parent)
            if batch.parent:
                target = plan.without_parent(target, batch.parent)
        self.assertEqual(tried, [C, B, None])
        target = plan.served(target, D)
        self.assertEqual(plan.next_batch([target], lineage(*ALL)), Batch(E, D, ("/b",)))
        self.assertEqual(target.common, {A, B, C, D})


class TargetTest(unittest.TestCase):
    def missing(self, held: Holdings, keep: str, names: tuple[str, ...] = ALL) -> list[str]:
        return list(plan.target("/b", held, source(*names), NAMING, retention.parse(keep), NOW).missing)

    def test_missing(self) -> None:
        """Oldest first; a partial backup is missing; what the source has no more is not asked for."""
        table: list[tuple[Holdings, list[str]]] = [
            (holdings(), list(ALL)),
            (holdings(ALL), []),
            (holdings([A, B]), [C, D, E, F]),
            (holdings([B, E]), [A, C, D, F]),
            (holdings([A, B, C], partial=[D]), [D, E, F]),
            (holdings(partial=ALL), list(ALL)),
            (holdings(["20250101-000000", "20270101-000000"]), list(ALL)),
            (holdings(ALL, partial=["20250101-000000"]), []),
        ]
        for held, wanted in table:
            with self.subTest(held=held):
                self.assertEqual(self.missing(held, "all"), wanted)

    def test_what_keep_would_delete_again_is_not_sent(self) -> None:
        """KEEP is asked about everything that would be there: what is, and what could be sent."""
        newer, newest = "20270101-000000", "20270102-000000"
        table: list[tuple[str, Holdings, list[str]]] = [
            ("1", holdings(), [F]),
            ("2", holdings(), [E, F]),
            ("2", holdings([A, B, C]), [E, F]),
            ("2", holdings([A, E]), [F]),
            ("9", holdings(), list(ALL)),
            ("1", holdings(ALL), []),
            ("1", holdings([newer]), []),
            ("2", holdings([newer]), [F]),
            ("2", holdings([newer, newest]), []),
            ("3", holdings([newer, newest]), [F]),
            ("2", holdings(partial=[newer]), [E, F]),
            ("2", holdings(foreign={newer: "why"}), [E, F]),
            ("1m", holdings(), [F]),
            ("2m", holdings(["20251201-000000"]), [F]),
            ("2m", holdings([newer]), [F]),
            ("1m", holdings([newer]), []),
            ("1 3d", holdings([E]), [D, F]),
            ("1w", holdings(), [F]),
            ("2w", holdings(), [D, F]),
        ]
        for keep, held, wanted in table:
            with self.subTest(keep=keep, held=held):
                self.assertEqual(self.missing(held, keep), wanted)

    def test_occupied_names(self) -> None:
        """A foreign entry takes the place of a snapshot only where that would have to be sent."""
        foreign = {B: "a file", E: "writable", "20250101-000000": "other", "20270101-000000": "other"}
        target = plan.target("/b", holdings([A], foreign=foreign), source(*ALL), NAMING, retention.KEEP_ALL, NOW)
        self.assertEqual(target.missing, (C, D, F))
        self.assertEqual(dict(target.occupied), {B: "a file", E: "writable"})
        self.assertEqual(target.owed, {B, C, D, E, F})
        target = plan.target("/b", holdings([A], foreign=foreign), source(*ALL), NAMING, retention.parse("2"), NOW)
        self.assertEqual((target.missing, dict(target.occupied)), ((F,), {E: "writable"}))
        target = plan.target("/b", holdings([A], foreign=foreign), source(*ALL), NAMING, retention.parse("1"), NOW)
        self.assertEqual((target.missing, dict(target.occupied)), ((F,), {}))

    def test_common(self) -> None:
        """Complete on both sides."""
        held = holdings([A, C, "20250101-000000"], partial=[B], foreign={D: "why"})
        target = plan.target("/b", held, source(A, B, C, D), NAMING, retention.KEEP_ALL, NOW)
        self.assertEqual(target.common, {A, C})
        self.assertEqual(target.destination, "/b")

    def test_nothing_at_the_source(self) -> None:
        self.assertEqual(
            plan.target("/b", holdings([A]), source(), NAMING, retention.KEEP_ALL, NOW),
            Target("/b", (), frozenset(), {}),
        )

    def test_prefix(self) -> None:
        names = [f"home-{name}" for name in ALL]
        target = plan.target("/b", holdings(), source(*names), Naming("home-"), retention.parse("2d"), NOW)
        self.assertEqual(list(target.missing), names[-2:])


class StrangersTest(unittest.TestCase):
    def strangers(self, chain: Mapping[str, str], here: Iterable[str], known: Iterable[str] = ()) -> frozenset[str]:
        """CHAIN: backups by name with the name of the parent, empty where there is none; KNOWN: those on record."""
        complete = {
            name: Subvolume(name, f"copy-{name}", parent and f"copy-{parent}", f"uuid-{name}")
            for name, parent in chain.items()
        }
        return plan.strangers(complete, source(*here), [f"copy-{name}" for name in known])

    def test_strangers(self) -> None:
        """Those that nothing proves: no snapshot, no record, no link."""
        alone = {A: "", B: "", C: ""}
        linked = {A: "", B: A, C: B, D: C}
        table: list[tuple[str, Mapping[str, str], list[str], list[str], list[str]]] = [
            # what is there, what the source has, what is on record, the strangers
            ("nothing", {}, [C], [], []),
            ("nothing known", alone, [], [], [A, B, C]),
            ("others there", alone, [D], [D], [A, B, C]),
            ("a snapshot proves its own backup", alone, [B], [], [A, C]),
            ("so does a record", alone, [], [C], [A, B]),
            ("both", alone, [A], [C], [B]),
            ("all", alone, [A, B, C], [], []),
            ("older ones by their links", linked, [D], [], []),
            ("newer ones by their links", linked, [A], [], []),
            ("both ways", linked, [B], [], []),
            ("links from a record", linked, [], [C], []),
            ("links of strangers prove nothing", linked, [E], [], [A, B, C, D]),
            ("a link to one that is gone", {A: "", C: B, D: C}, [D], [], [A]),
            ("two that stem from one that is gone", {A: "", C: B, D: B}, [D], [], [A, C]),
            ("branches", {A: "", B: A, C: A, D: C}, [B], [], []),
            ("another chain", {A: "", B: A, C: "", D: C}, [B], [], [C, D]),
            ("a loop of ours", {A: B, B: A, C: C}, [A], [], [C]),
            ("a loop of others", {A: B, B: A, C: ""}, [C], [], [A, B]),
        ]
        for what, there, here, known, wanted in table:
            with self.subTest(what):
                self.assertEqual(self.strangers(there, here, known), frozenset(wanted))

    def test_records_count_by_uuid(self) -> None:
        """A name on record proves nothing of what has it by now."""
        complete = {A: Subvolume(A, "copy", "", "r")}
        for known, wanted in (([A], {A}), (["r"], {A}), (["another copy"], {A}), (["copy"], set())):
            with self.subTest(known=known):
                self.assertEqual(plan.strangers(complete, {}, known), wanted)

    def test_backups_without_parents(self) -> None:
        """That both have none links nothing."""
        complete = {A: Subvolume(A, "a", "", "r"), B: Subvolume(B, "b", "", "s")}
        self.assertEqual(plan.strangers(complete, source(A), []), {B})

    def test_long_chain(self) -> None:
        names = [
            f"202601{day:02}-{hour:02}{minute:02}00"
            for day in range(1, 5)
            for hour in range(24)
            for minute in range(12)
        ]
        chain = dict(zip(names, ["", *names], strict=False))
        self.assertEqual(self.strangers(chain, names[-1:]), frozenset())
        self.assertEqual(self.strangers(chain, names[:1]), frozenset())


class ServedTest(unittest.TestCase):
    def test_served(self) -> None:
        """It is missing no more and can be a parent; the rest is as before."""
        before = Target("/b", (B, C), frozenset({A}), {D: "why"})
        after = Target("/b", (C,), frozenset({A, B}), {D: "why"})
        self.assertEqual(plan.served(before, B), after)
        self.assertEqual(plan.served(after, C), Target("/b", (), frozenset({A, B, C}), {D: "why"}))
        self.assertEqual(before.missing, (B, C))


class ParentTest(unittest.TestCase):
    def parent(self, snapshots: Iterable[Subvolume], name: str, common: Iterable[str], home: Subvolume = HOME) -> Any:
        return Lineage(home, {each.name: each for each in snapshots}).parent(name, frozenset(common))

    def test_one_lineage(self) -> None:
        """The nearest older one, else the nearest newer one, else none; never the snapshot itself."""
        snapshots = [snapshot(name) for name in ALL]
        table: list[tuple[str, tuple[str, ...], str | None]] = [
            (D, (), None),
            (D, (D,), None),
            (D, (A,), A),
            (D, (A, B, C), C),
            (D, (A, B), B),
            (D, (E,), E),
            (D, (E, F), E),
            (D, (F,), F),
            (D, (A, E), A),
            (D, (A, D, E), A),
            (D, ALL, C),
            (A, ALL, B),
            (A, (F, C), C),
            (F, ALL, E),
        ]
        for name, common, wanted in table:
            with self.subTest(name=name, common=common):
                self.assertEqual(self.parent(snapshots, name, common), wanted)

    def test_other_lineages(self) -> None:
        """One's own lineage first, older before newer; then any other, older before newer."""
        foreign = [snapshot(name, "OTHER") for name in (B, C, E)]
        snapshots = [*foreign, *(snapshot(name) for name in (A, D, F))]
        table: list[tuple[str, tuple[str, ...], str | None]] = [
            (D, (A, B, C, E, F), A),
            (D, (B, C, E, F), F),
            (D, (C, F), F),
            (D, (B, C, E), C),
            (D, (B, E), B),
            (D, (E,), E),
            (C, (A, B, D, E, F), B),
            (C, (A, D, E, F), E),
            (C, (A, D, F), A),
            (C, (D, F), D),
            (B, (A,), A),
        ]
        for name, common, wanted in table:
            with self.subTest(name=name, common=common):
                self.assertEqual(self.parent(snapshots, name, common), wanted)

    def test_restored_subvolume(self) -> None:
        """What was restored goes on from the backup it was made from, not from later ones of the old subvolume."""
        restored = Subvolume("home", "NEW-HOME", parent_uuid=f"uuid-{C}")
        snapshots = [
            snapshot(A, "OLD-HOME"),
            snapshot(B, "OLD-HOME"),
            Subvolume(C, f"uuid-{C}", "", "uuid-of-the-lost-original"),
            snapshot(D, "OLD-HOME"),
            snapshot(E, "NEW-HOME"),
            snapshot(F, "NEW-HOME"),
        ]
        table: list[tuple[str, tuple[str, ...], str | None]] = [
            (E, (A, B, C, D), C),
            (E, (A, B, D), D),
            (F, (A, B, C, D), C),
            (F, (A, B, C, D, E), E),
            (E, (A, B, D, F), F),
            (D, (A, C, E), A),
            (D, (B, C), B),
            (C, (A, B, D, E), E),
        ]
        for name, common, wanted in table:
            with self.subTest(name=name, common=common):
                self.assertEqual(self.parent(snapshots, name, common, restored), wanted)

    def test_restored_from_a_chain(self) -> None:
        """Received increments are snapshots of one another: the whole chain is one lineage."""
        restored = Subvolume("home", "NEW-HOME", parent_uuid=f"uuid-{D}")
        snapshots = [
            Subvolume(A, f"uuid-{A}", "", "r1"),
            Subvolume(B, f"uuid-{B}", f"uuid-{A}", "r2"),
            Subvolume(D, f"uuid-{D}", f"uuid-{B}", "r4"),
            snapshot(C, "ANOTHER"),
            snapshot(E, "ANOTHER"),
            snapshot(F, "NEW-HOME"),
        ]
        table: list[tuple[str, tuple[str, ...], str | None]] = [
            (F, (A, B, C, D, E), D),
            (F, (A, B, C, E), B),
            (F, (A, C, E), A),
            (F, (C, E), E),
            (D, (A, B, C, F), B),
            (D, (A, C, F), A),
            (D, (C, F), F),
            (B, (C, D, E, F), D),
            (E, (A, B, C, D, F), C),
            (E, (A, B, D, F), D),
        ]
        for name, common, wanted in table:
            with self.subTest(name=name, common=common):
                self.assertEqual(self.parent(snapshots, name, common, restored), wanted)

    def test_chain_of_received_snapshots_only(self) -> None:
        """A relay's folder: each received on top of another one, the oldest on top of nothing."""
        snapshots = [Subvolume(A, f"uuid-{A}", "", "r")]
        snapshots += [
            Subvolume(name, f"uuid-{name}", f"uuid-{before}", f"r-{name}")
            for before, name in ((A, B), (B, C), (C, E), (E, F))
        ]
        snapshots.append(Subvolume(D, f"uuid-{D}", "", "sent in full"))
        self.assertEqual(self.parent(snapshots, F, (A, B, C, D)), C)
        self.assertEqual(self.parent(snapshots, E, (A, D)), A)
        self.assertEqual(self.parent(snapshots, B, (D, E, F)), E)
        self.assertEqual(self.parent(snapshots, D, (A, B, E)), B)

    def test_oldest_of_the_chain_is_gone(self) -> None:
        """The chain holds together as long as its links are there."""
        restored = Subvolume("home", "NEW-HOME", parent_uuid=f"uuid-{C}")
        snapshots = [
            Subvolume(B, f"uuid-{B}", "uuid-of-one-deleted", "r2"),
            Subvolume(C, f"uuid-{C}", f"uuid-{B}", "r3"),
            snapshot(D, "ANOTHER"),
            snapshot(E, "NEW-HOME"),
        ]
        self.assertEqual(self.parent(snapshots, E, (B, D), restored), B)

    def test_without_parent_uuids(self) -> None:
        """Snapshots that say nothing of their origin are still parents, if nothing better is common."""
        snapshots = [Subvolume(name, f"uuid-{name}") for name in (A, B, C)]
        self.assertEqual(self.parent(snapshots, C, (A, B)), B)
        self.assertEqual(self.parent(snapshots, A, (B, C)), B)

    def test_copies_of_one_snapshot(self) -> None:
        """Those with one UUID in their streams are no parents: a receiver could take any of their backups for it."""
        table: list[tuple[str, Subvolume, str | None]] = [
            ("twins", Subvolume(C, "c", "HOME", "r"), A),
            ("one received from the other", Subvolume(C, "c", "HOME", "b"), A),
            ("no twins", Subvolume(C, "c", "HOME", "s"), C),
        ]
        for what, other, wanted in table:
            with self.subTest(what):
                first = Subvolume(B, "b", "HOME", other.received_uuid if what == "twins" else "")
                snapshots = [snapshot(A), first, other, snapshot(D)]
                self.assertEqual(self.parent(snapshots, D, (A, B, C)), wanted)
                self.assertEqual(self.parent(snapshots, D, (B, C)), wanted if wanted == C else None)

    def test_loops_of_parent_uuids(self) -> None:
        """UUIDs that point in circles end in some parent, and do not hang."""
        loops = {
            "itself": {A: A, B: B, C: C},
            "two": {A: B, B: A, C: A},
            "three": {A: B, B: C, C: A},
            "behind a tail": {A: B, B: A, C: B},
        }
        for case, parents in loops.items():
            for home_parent in ("", "HOME", f"uuid-{A}"):
                with self.subTest(case, home_parent=home_parent):
                    home = Subvolume("home", "HOME", home_parent)
                    snapshots = [snapshot(name, f"uuid-{parent}") for name, parent in parents.items()]
                    snapshots.append(snapshot(D, "HOME"))
                    self.assertEqual(self.parent(snapshots, C, (B,), home), B)
                    self.assertEqual(self.parent(snapshots, D, (A,), home), A)
                    self.assertIn(self.parent(snapshots, D, (A, B, C), home), (A, B, C))

    def test_long_chain(self) -> None:
        """A thousand increments do not exhaust the stack."""
        names = [
            f"2026{month:02}{day:02}-{hour:02}0000"
            for month in range(1, 5)
            for day in range(1, 29)
            for hour in range(9)
        ]
        before, snapshots = "", []
        for name in names:
            snapshots.append(Subvolume(name, f"uuid-{name}", before, f"r-{name}"))
            before = f"uuid-{name}"
        self.assertGreater(len(names), 1000)
        self.assertEqual(self.parent(snapshots, names[-1], names[:1]), names[0])


class BatchTest(unittest.TestCase):
    LINEAGE = lineage(*ALL)

    def batch(self, *targets: Target, incremental: bool = True) -> Batch | None:
        return plan.next_batch(targets, self.LINEAGE if incremental else None)

    @staticmethod
    def target(destination: str, missing: tuple[str, ...], common: Iterable[str] = ()) -> Target:
        return Target(destination, missing, frozenset(common))

    def test_nothing_to_do(self) -> None:
        self.assertIsNone(self.batch())
        self.assertIsNone(self.batch(self.target("/b", (), ALL), self.target("/c", ())))
        self.assertIsNone(self.batch(Target("/b", occupied={A: "why"})))

    def test_one_destination(self) -> None:
        """One destination is the same code as several."""
        self.assertEqual(self.batch(self.target("/b", (A, B))), Batch(A, None, ("/b",)))
        self.assertEqual(self.batch(self.target("/b", (C, D), [A, B])), Batch(C, B, ("/b",)))
        self.assertEqual(self.batch(self.target("/b", (A, D), [B, C])), Batch(A, B, ("/b",)))

    def test_incremental_unless_told_otherwise(self) -> None:
        self.assertEqual(plan.next_batch([self.target("/b", (C,), [A])], self.LINEAGE), Batch(C, A, ("/b",)))

    def test_same_step_shares_a_stream(self) -> None:
        both = self.target("/b", (C,), [A, B]), self.target("/c", (C, D), [B])
        self.assertEqual(self.batch(*both), Batch(C, B, ("/b", "/c")))
        self.assertEqual(self.batch(*reversed(both)), Batch(C, B, ("/c", "/b")))

    def test_other_parent_is_another_stream(self) -> None:
        first, second = self.target("/b", (C,), [B]), self.target("/c", (C,), [A])
        third, full = self.target("/d", (C,), [A, B]), self.target("/e", (C,))
        self.assertEqual(self.batch(first, second, third, full), Batch(C, B, ("/b", "/d")))
        self.assertEqual(self.batch(second, third, full), Batch(C, A, ("/c",)))
        self.assertEqual(self.batch(full, second, third), Batch(C, None, ("/e",)))

    def test_oldest_first(self) -> None:
        """A destination that lags behind comes first, until it can share the streams of the others."""
        behind, ahead = self.target("/b", (B, C, D), [A]), self.target("/c", (D,), [A, B, C])
        for targets in ((behind, ahead), (ahead, behind)):
            self.assertEqual(self.batch(*targets), Batch(B, A, ("/b",)))
        self.assertEqual(self.batch(ahead), Batch(D, C, ("/c",)))

    def test_those_that_lack_nothing_do_not_take_part(self) -> None:
        self.assertEqual(self.batch(self.target("/b", (), ALL), self.target("/c", (F,), [E])), Batch(F, E, ("/c",)))

    def test_gaps(self) -> None:
        """A snapshot inside a gap is asked for before newer ones, but is no other destination's business."""
        gap, rest = self.target("/b", (B, F), [A, C, D, E]), self.target("/c", (D, E, F), [A, B, C])
        self.assertEqual(self.batch(gap, rest), Batch(B, A, ("/b",)))

    def test_no_incremental(self) -> None:
        """Every one in full, and so all that lack the same share a stream."""
        targets = self.target("/b", (C,), [A, B]), self.target("/c", (C, D), [A]), self.target("/d", (C,))
        self.assertEqual(self.batch(*targets, incremental=False), Batch(C, None, ("/b", "/c", "/d")))

    def fold(self, targets: list[Target], incremental: bool = True) -> list[Batch]:
        """All batches of a run in which everything succeeds."""
        batches = []
        while batch := plan.next_batch(targets, self.LINEAGE if incremental else None):
            batches.append(batch)
            targets = [
                plan.served(each, batch.snapshot) if each.destination in batch.destinations else each
                for each in targets
            ]
            self.assertLessEqual(len(batches), 30)
        return batches

    def test_whole_run(self) -> None:
        """An empty destination, one that is behind and one with a gap: few streams, in the order of time."""
        targets = [
            self.target("/empty", ALL),
            self.target("/behind", (C, D, E, F), [A, B]),
            self.target("/gap", (B, F), [A, C, D, E]),
        ]
        self.assertEqual(
            self.fold(targets),
            [
                Batch(A, None, ("/empty",)),
                Batch(B, A, ("/empty", "/gap")),
                Batch(C, B, ("/empty", "/behind")),
                Batch(D, C, ("/empty", "/behind")),
                Batch(E, D, ("/empty", "/behind")),
                Batch(F, E, ("/empty", "/behind", "/gap")),
            ],
        )

    def test_whole_run_in_full(self) -> None:
        targets = [self.target("/b", (A, C)), self.target("/c", (B, C), [A])]
        self.assertEqual(
            self.fold(targets, incremental=False),
            [Batch(A, None, ("/b",)), Batch(B, None, ("/c",)), Batch(C, None, ("/b", "/c"))],
        )

    def test_failure_changes_later_parents(self) -> None:
        """One that failed is left out by the caller; the others go on."""
        well, failed = self.target("/b", (C, D), [B]), self.target("/c", (C, D), [B])
        self.assertEqual(self.batch(well, failed), Batch(C, B, ("/b", "/c")))
        self.assertEqual(self.batch(plan.served(well, C)), Batch(D, C, ("/b",)))


if __name__ == "__main__":
    unittest.main()
