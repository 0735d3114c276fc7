"""The records: what is outstanding, what was delivered, and their files."""

import json
import unittest
from collections.abc import Callable, Iterable
from typing import NamedTuple

from btrfs_backup.model import records
from btrfs_backup.model.records import BACKUP, BLOCKED, NEWEST, NONE, OTHER, OWED, PARENT, STAGED, Fact, Records
from btrfs_backup.model.snapshot import Naming

NAMING = Naming()
HOME = Naming("home-")
ONE, TWO, THREE, FOUR = (f"2026112{day}-042459" for day in (1, 2, 3, 4))
DISK, NAS = "/backup", "ssh://nas/backups"


class Locks(NamedTuple):
    """The destinations that are owed a snapshot, and those for which it is the parent of one that is."""

    owed: frozenset[str]
    parent: frozenset[str]


# In tables: what is outstanding by snapshot, and the newest delivered by destination and filesystem.
Outstanding = dict[str, Locks]
Completed = dict[str, dict[str, frozenset[str]]]


def locks(*destinations: str, parent: Iterable[str] = ()) -> Locks:
    return Locks(frozenset(destinations), frozenset(parent))


def outstanding(entries: Outstanding) -> Records:
    owed = {Fact(OWED, each, name) for name, entry in entries.items() for each in entry.owed}
    return frozenset(owed | {Fact(PARENT, each, name) for name, entry in entries.items() for each in entry.parent})


def completed(entries: Completed) -> Records:
    return frozenset(
        Fact(NEWEST, destination, name, filesystem)
        for destination, disks in entries.items()
        for filesystem, names in disks.items()
        for name in names
    )


class BeginTest(unittest.TestCase):
    def test_begin(self) -> None:
        table: list[tuple[Outstanding, str, str, str | None, Outstanding]] = [
            ({}, DISK, TWO, None, {TWO: locks(DISK)}),
            ({}, DISK, TWO, ONE, {TWO: locks(DISK), ONE: locks(parent=[DISK])}),
            ({TWO: locks(DISK)}, NAS, TWO, None, {TWO: locks(DISK, NAS)}),
            ({TWO: locks(DISK)}, DISK, TWO, None, {TWO: locks(DISK)}),
            (
                {ONE: locks(NAS, parent=[NAS]), TWO: locks(parent=[NAS])},
                DISK,
                TWO,
                ONE,
                {ONE: locks(NAS, parent=[NAS, DISK]), TWO: locks(DISK, parent=[NAS])},
            ),
        ]
        for before, destination, snapshot, parent, after in table:
            with self.subTest(before=before, destination=destination, parent=parent):
                begun = records.begin(outstanding(before), destination, snapshot, parent)
                self.assertEqual(begun, outstanding(after))

    def test_what_was_delivered_stays(self) -> None:
        before = completed({DISK: {"disk-1": frozenset({ONE})}})
        self.assertLess(before, records.begin(before, DISK, TWO, ONE))


class EndTest(unittest.TestCase):
    def test_undoes_begin(self) -> None:
        """Both the lock and the parent note go; records of others stay."""
        befores: list[Outstanding] = [
            {},
            {ONE: locks(NAS)},
            {TWO: locks(NAS), ONE: locks(parent=[NAS])},
            {THREE: locks(DISK)},
        ]
        for before in befores:
            for parent in (None, ONE):
                with self.subTest(before=before, parent=parent):
                    begun = records.begin(outstanding(before), DISK, TWO, parent)
                    self.assertEqual(records.end(begun, DISK, TWO), outstanding(before))

    def test_parent_of_an_earlier_attempt(self) -> None:
        """A second attempt from another parent settles the note of the first as well."""
        begun = records.begin(records.begin(NONE, DISK, THREE, ONE), DISK, THREE, TWO)
        noted = {THREE: locks(DISK), ONE: locks(parent=[DISK]), TWO: locks(parent=[DISK])}
        self.assertEqual(begun, outstanding(noted))
        self.assertEqual(records.end(begun, DISK, THREE), NONE)

    def test_locks_on_others_stay(self) -> None:
        before = outstanding({ONE: locks(DISK), TWO: locks(DISK, NAS), THREE: locks(DISK)})
        after = outstanding({ONE: locks(DISK), TWO: locks(NAS), THREE: locks(DISK)})
        self.assertEqual(records.end(before, DISK, TWO), after)

    def test_nothing_recorded(self) -> None:
        others = outstanding({ONE: locks(NAS)})
        self.assertEqual(records.end(NONE, DISK, ONE), NONE)
        self.assertEqual(records.end(others, DISK, ONE), others)

    def test_other_prefix(self) -> None:
        """The end of a transfer says nothing of a failed one under another prefix to the same destination."""
        failed = records.begin(NONE, DISK, f"home-{TWO}", f"home-{ONE}")
        begun = records.begin(failed, DISK, TWO, ONE)
        self.assertEqual(records.end(begun, DISK, TWO), failed)


class SettledTest(unittest.TestCase):
    """Three transfers in a row, TWO from ONE, THREE from TWO, FOUR from THREE, begun at once."""

    def settle(self, before: Outstanding, arrived: list[str], failed: tuple[str, str | None] | None) -> Records:
        begun = outstanding(before)
        for snapshot, parent in ((TWO, ONE), (THREE, TWO), (FOUR, THREE)):
            begun = records.begin(begun, DISK, snapshot, parent)
        return records.settled(begun, outstanding(before), DISK, arrived, failed)

    def test_settled(self) -> None:
        table: list[tuple[Outstanding, list[str], tuple[str, str | None] | None, Outstanding]] = [
            ({}, [TWO, THREE, FOUR], None, {}),
            # Time was up after the first one.
            ({}, [TWO], None, {}),
            ({}, [], (TWO, ONE), {TWO: locks(DISK), ONE: locks(parent=[DISK])}),
            ({}, [], (TWO, None), {TWO: locks(DISK)}),
            ({}, [TWO], (THREE, TWO), {THREE: locks(DISK), TWO: locks(parent=[DISK])}),
            # What was on record before, and has not arrived, stays.
            (
                {FOUR: locks(DISK)},
                [TWO],
                (THREE, TWO),
                {FOUR: locks(DISK), THREE: locks(DISK), TWO: locks(parent=[DISK])},
            ),
            ({THREE: locks(DISK)}, [TWO, THREE], (FOUR, THREE), {FOUR: locks(DISK), THREE: locks(parent=[DISK])}),
            ({THREE: locks(DISK)}, [TWO, THREE, FOUR], None, {}),
        ]
        for before, arrived, failed, after in table:
            with self.subTest(before=before, arrived=arrived, failed=failed):
                self.assertEqual(self.settle(before, arrived, failed), outstanding(after))

    def test_records_of_others_stay_as_they_are(self) -> None:
        """Theirs may have been settled meanwhile, or not yet."""
        others = {TWO: locks(NAS), THREE: locks(parent=[NAS]), "home-" + ONE: locks(NAS)}
        before = outstanding({TWO: locks(NAS), FOUR: locks(NAS)})
        after = records.settled(outstanding(others), before, DISK, [], (TWO, ONE))
        self.assertEqual(after, outstanding({**others, TWO: locks(NAS, DISK), ONE: locks(parent=[DISK])}))

    def test_what_was_delivered_stays(self) -> None:
        delivered = completed({DISK: {"disk-1": frozenset({ONE})}})
        self.assertEqual(records.settled(delivered, NONE, DISK, [TWO], None), delivered)


class UnreachableTest(unittest.TestCase):
    def test_unreachable(self) -> None:
        table: dict[str, tuple[Outstanding, Outstanding]] = {
            "nothing recorded": ({}, {FOUR: locks(DISK)}),
            "again": ({FOUR: locks(DISK)}, {FOUR: locks(DISK)}),
            "the oldest stays": ({ONE: locks(DISK)}, {ONE: locks(DISK), FOUR: locks(DISK)}),
            "those between go": (
                {ONE: locks(DISK), TWO: locks(DISK), THREE: locks(DISK)},
                {ONE: locks(DISK), FOUR: locks(DISK)},
            ),
            "one that is newer stays": (
                {ONE: locks(DISK), "20270101-000000": locks(DISK)},
                {ONE: locks(DISK), "20270101-000000": locks(DISK), FOUR: locks(DISK)},
            ),
            "those of others stay": (
                {ONE: locks(DISK), TWO: locks(DISK, NAS), THREE: locks(NAS)},
                {ONE: locks(DISK), TWO: locks(NAS), THREE: locks(NAS), FOUR: locks(DISK)},
            ),
            "parent notes stay": (
                {ONE: locks(parent=[DISK]), TWO: locks(DISK), THREE: locks(DISK, parent=[DISK])},
                {ONE: locks(parent=[DISK]), TWO: locks(DISK), THREE: locks(parent=[DISK]), FOUR: locks(DISK)},
            ),
            "other prefixes stay": (
                {f"home-{ONE}": locks(DISK), f"home-{TWO}": locks(DISK), f"home-{THREE}": locks(DISK)},
                {
                    f"home-{ONE}": locks(DISK),
                    f"home-{TWO}": locks(DISK),
                    f"home-{THREE}": locks(DISK),
                    FOUR: locks(DISK),
                },
            ),
        }
        for case, (before, after) in table.items():
            with self.subTest(case):
                self.assertEqual(records.unreachable(outstanding(before), DISK, FOUR), outstanding(after))

    def test_months_away(self) -> None:
        """However long a destination stays away, it holds two snapshots at most."""
        known = records.begin(NONE, DISK, "20260101-000000", None)
        for day in range(2, 29):
            known = records.unreachable(known, DISK, f"202601{day:02}-000000")
        self.assertEqual(known, outstanding({"20260101-000000": locks(DISK), "20260128-000000": locks(DISK)}))


class ReconcileTest(unittest.TestCase):
    def test_reconcile(self) -> None:
        table: dict[str, tuple[Outstanding, set[str], Outstanding]] = {
            "nothing recorded": ({}, {ONE}, {}),
            "arrived": ({ONE: locks(DISK)}, set(), {}),
            "still owed": ({ONE: locks(DISK)}, {ONE}, {ONE: locks(DISK)}),
            "others owed": ({ONE: locks(DISK)}, {TWO, THREE}, {}),
            "one of two": ({ONE: locks(DISK), TWO: locks(DISK)}, {TWO}, {TWO: locks(DISK)}),
            "parent note stays with a lock": (
                {ONE: locks(parent=[DISK]), TWO: locks(DISK)},
                {TWO},
                {ONE: locks(parent=[DISK]), TWO: locks(DISK)},
            ),
            "parent note goes with the last lock": ({ONE: locks(parent=[DISK]), TWO: locks(DISK)}, set(), {}),
            "parent note without any lock": ({ONE: locks(parent=[DISK])}, {TWO}, {}),
            "records of others": (
                {ONE: locks(NAS, parent=[DISK, NAS]), TWO: locks(DISK, NAS)},
                set(),
                {ONE: locks(NAS, parent=[NAS]), TWO: locks(NAS)},
            ),
            "other prefixes": (
                {f"home-{ONE}": locks(parent=[DISK]), f"home-{TWO}": locks(DISK), THREE: locks(DISK)},
                set(),
                {f"home-{ONE}": locks(parent=[DISK]), f"home-{TWO}": locks(DISK)},
            ),
            "a lock of another prefix keeps no note of this one": (
                {ONE: locks(parent=[DISK]), f"home-{TWO}": locks(DISK)},
                set(),
                {f"home-{TWO}": locks(DISK)},
            ),
        }
        for case, (before, owed, after) in table.items():
            with self.subTest(case):
                self.assertEqual(records.reconcile(outstanding(before), NAMING, DISK, owed), outstanding(after))

    def test_nothing_is_added(self) -> None:
        self.assertEqual(records.reconcile(NONE, NAMING, DISK, [ONE, TWO]), NONE)


class ForgetOutstandingTest(unittest.TestCase):
    BEFORE: Outstanding = {
        ONE: locks(DISK, NAS, parent=[DISK]),
        TWO: locks(parent=[NAS]),
        f"home-{ONE}": locks(DISK, parent=[DISK]),
        "foreign": locks(DISK),
    }

    def test_forget(self) -> None:
        untouched = {f"home-{ONE}": self.BEFORE[f"home-{ONE}"], "foreign": self.BEFORE["foreign"]}
        table: list[tuple[list[str], Outstanding]] = [
            ([], self.BEFORE),
            (["/elsewhere"], self.BEFORE),
            ([DISK], {ONE: locks(NAS), TWO: locks(parent=[NAS]), **untouched}),
            ([NAS], {ONE: locks(DISK, parent=[DISK]), **untouched}),
            ([DISK, NAS], untouched),
        ]
        for destinations, after in table:
            with self.subTest(destinations=destinations):
                self.assertEqual(records.forget(outstanding(self.BEFORE), NAMING, destinations), outstanding(after))


class QueriesTest(unittest.TestCase):
    OUTSTANDING: Outstanding = {
        THREE: locks(DISK),
        ONE: locks(DISK, NAS, parent=["/c"]),
        TWO: locks("/b", parent=[DISK]),
        f"home-{ONE}": locks(DISK, "/home-only"),
        "foreign": locks(DISK, "/foreign-only"),
    }

    def test_owed(self) -> None:
        table = [
            (NAMING, DISK, [ONE, THREE]),
            (NAMING, NAS, [ONE]),
            (NAMING, "/c", []),
            (NAMING, "/elsewhere", []),
            (HOME, DISK, [f"home-{ONE}"]),
            (Naming("other"), DISK, []),
        ]
        for naming, destination, wanted in table:
            with self.subTest(naming=naming, destination=destination):
                self.assertEqual(records.owed(outstanding(self.OUTSTANDING), naming, destination), wanted)

    def test_destinations(self) -> None:
        """Those of other prefixes are somebody else's."""
        delivered = completed({"/b": {"x": frozenset({FOUR, f"home-{FOUR}"})}, "/served": {"x": frozenset({FOUR})}})
        known = outstanding(self.OUTSTANDING) | delivered | {Fact(BLOCKED, "/blocked", ONE, "x")}
        table: list[tuple[Naming, tuple[str, ...], list[str]]] = [
            (NAMING, (OWED,), ["/b", DISK, NAS]),
            (NAMING, (OWED, PARENT), ["/b", DISK, "/c", NAS]),
            (HOME, (OWED, PARENT), [DISK, "/home-only"]),
            (NAMING, (OWED, PARENT, NEWEST), ["/b", DISK, "/c", "/served", NAS]),
            (HOME, (OWED, PARENT, NEWEST), ["/b", DISK, "/home-only"]),
            (NAMING, (BLOCKED,), ["/blocked"]),
            (Naming("other"), (OWED, PARENT, NEWEST, BLOCKED), []),
            (NAMING, (), []),
        ]
        for naming, kinds, wanted in table:
            with self.subTest(naming=naming, kinds=kinds):
                self.assertEqual(records.destinations(known, naming, *kinds), wanted)
        self.assertEqual(records.destinations(NONE, NAMING, OWED, PARENT, NEWEST), [])

    def test_of(self) -> None:
        """Of one destination, the kinds that are asked for, whatever the prefix."""
        known = outstanding({ONE: locks(DISK, NAS, parent=[DISK]), f"home-{TWO}": locks(DISK)})
        owed = {Fact(OWED, DISK, ONE), Fact(OWED, DISK, f"home-{TWO}")}
        self.assertEqual(records.of(known, DISK, OWED), owed)
        self.assertEqual(records.of(known, DISK, OWED, PARENT), owed | {Fact(PARENT, DISK, ONE)})
        self.assertEqual(records.of(known, DISK), NONE)
        self.assertEqual(records.of(known, "/elsewhere", OWED, PARENT), NONE)

    def test_filesystems(self) -> None:
        """Where something arrived; not where something is only in the way."""
        known = completed({DISK: {"one": frozenset({ONE})}, NAS: {"other": frozenset({ONE})}})
        known |= {Fact(BACKUP, DISK, TWO, "two", "uuid"), Fact(BLOCKED, DISK, TWO, "three")}
        known |= {Fact(OTHER, DISK, TWO, "four", "uuid"), Fact(STAGED, DISK, "", "five")}
        self.assertEqual(records.filesystems(known, DISK), {"one", "two"})
        self.assertEqual(records.filesystems(known, "/elsewhere"), set())

    def test_reasons(self) -> None:
        """Every snapshot that a record names is kept, and each record is a reason."""
        owed = {ONE: locks(NAS, DISK, parent=["/c"]), TWO: locks(parent=[DISK])}
        delivered = {
            DISK: {"disk-1": frozenset({ONE}), "disk-2": frozenset({THREE})},
            "shell://cat > x": {"": frozenset({THREE})},
        }
        blocked = {Fact(BLOCKED, DISK, THREE, "disk-1"), Fact(BLOCKED, DISK, FOUR, "disk-1")}
        self.assertEqual(
            records.reasons(outstanding(owed) | completed(delivered) | blocked),
            {
                ONE: [
                    "outstanding for /backup",
                    "outstanding for ssh://nas/backups",
                    "parent of one outstanding for /c",
                    "last delivered to /backup (filesystem disk-1)",
                ],
                TWO: ["parent of one outstanding for /backup"],
                THREE: [
                    "last delivered to /backup (filesystem disk-2)",
                    "last delivered to shell://cat > x",
                    "not sent to /backup, where something else has its name",
                ],
                FOUR: ["not sent to /backup, where something else has its name"],
            },
        )

    def test_no_reasons(self) -> None:
        """That a backup is of this source, or not, says nothing of its snapshot."""
        self.assertEqual(records.reasons(NONE), {})
        for fact in (
            Fact(BACKUP, DISK, ONE, "disk-1", "uuid"),
            Fact(OTHER, DISK, ONE, "disk-1", "uuid"),
            Fact(STAGED, DISK, "", "disk-1"),
        ):
            self.assertEqual(records.reasons(frozenset({fact})), {})


class BlockedTest(unittest.TestCase):
    def test_blocked(self) -> None:
        """Just what a look found, on one filesystem and of one prefix."""
        others = {Fact(BLOCKED, DISK, ONE, "disk-2"), Fact(BLOCKED, DISK, f"home-{ONE}", "disk-1")}
        others |= {Fact(BLOCKED, NAS, ONE, "disk-1"), Fact(OWED, DISK, ONE), Fact(NEWEST, DISK, ONE, "disk-1")}
        before = frozenset(others | {Fact(BLOCKED, DISK, ONE, "disk-1"), Fact(BLOCKED, DISK, TWO, "disk-1")})
        for names in ([], [ONE], [TWO, THREE]):
            with self.subTest(names=names):
                after = records.blocked(before, DISK, "disk-1", NAMING, names)
                self.assertEqual(after, others | {Fact(BLOCKED, DISK, name, "disk-1") for name in names})


class HoldsTest(unittest.TestCase):
    """The backups that are known by their UUIDs."""

    ELSEWHERE = frozenset(
        {
            Fact(BACKUP, DISK, ONE, "disk-2", "u1"),
            Fact(OTHER, DISK, ONE, "disk-2", "u2"),
            Fact(BACKUP, DISK, f"home-{ONE}", "disk-1", "u3"),
            Fact(OTHER, DISK, f"home-{TWO}", "disk-1", "u4"),
            Fact(BACKUP, NAS, ONE, "disk-1", "u5"),
            Fact(OTHER, NAS, TWO, "disk-1", "u6"),
            Fact(OWED, DISK, ONE),
            Fact(NEWEST, DISK, ONE, "disk-1"),
            Fact(BLOCKED, DISK, ONE, "disk-1"),
            Fact(STAGED, DISK, "", "disk-1"),
        }
    )

    def test_holds(self) -> None:
        """Just what a look found, on one filesystem and of one prefix; the rest stays."""
        befores = (
            NONE,
            frozenset({Fact(BACKUP, DISK, ONE, "disk-1", "x"), Fact(OTHER, DISK, TWO, "disk-1", "y")}),
            frozenset({Fact(OTHER, DISK, ONE, "disk-1", "x"), Fact(BACKUP, DISK, THREE, "disk-1", "z")}),
        )
        finds: list[tuple[dict[str, str], dict[str, str]]] = [
            ({}, {}),
            ({"x": ONE, "z": THREE}, {}),
            ({}, {"x": ONE}),
            ({"x": ONE}, {"y": TWO, "z": FOUR}),
            ({"new": ONE}, {"x": TWO}),
        ]
        for before in befores:
            for ours, others in finds:
                with self.subTest(before=before, ours=ours, others=others):
                    found = records.holds(before | self.ELSEWHERE, DISK, "disk-1", NAMING, ours, others)
                    own = {Fact(BACKUP, DISK, name, "disk-1", uuid) for uuid, name in ours.items()}
                    own |= {Fact(OTHER, DISK, name, "disk-1", uuid) for uuid, name in others.items()}
                    self.assertEqual(found, self.ELSEWHERE | own)

    def test_backups(self) -> None:
        """Wherever they are: a disk may be reached by another path than before."""
        self.assertEqual(records.backups(self.ELSEWHERE), {"u1", "u3", "u5"})
        self.assertEqual(records.backups(NONE), frozenset())

    def test_told(self) -> None:
        """Of one filesystem at one destination, of all prefixes."""
        table = [
            (DISK, "disk-1", {(f"home-{TWO}", "u4")}),
            (DISK, "disk-2", {(ONE, "u2")}),
            (NAS, "disk-1", {(TWO, "u6")}),
            (NAS, "disk-2", set()),
            ("/elsewhere", "disk-1", set()),
        ]
        for destination, filesystem, wanted in table:
            with self.subTest(destination=destination, filesystem=filesystem):
                self.assertEqual(records.told(self.ELSEWHERE, destination, filesystem, OTHER), wanted)
                self.assertEqual(records.told(self.ELSEWHERE, destination, filesystem), set())

    def test_odd_things(self) -> None:
        """Just those that are there now, of this prefix, on this filesystem."""
        home = f"home-{ONE}"
        known = records.tell(NONE, DISK, "disk-1", Naming("home-"), [(home, "it is writable")])
        known = records.tell(known, DISK, "disk-2", Naming(""), [(ONE, "x")])
        for odd in ([(ONE, "x"), (ONE, "y"), (TWO, "x")], [(TWO, "x")], []):
            known = records.tell(known, DISK, "disk-1", Naming(""), odd)
            self.assertEqual(records.told(known, DISK, "disk-1"), {(home, "it is writable"), *odd})
            self.assertEqual(records.told(known, DISK, "disk-2"), {(ONE, "x")})
            self.assertEqual(records.parse_completed(records.format_completed(known)), known)
            left = records.forget(known, Naming("home-"), [DISK])
            self.assertEqual(records.told(left, DISK, "disk-1"), {*odd})

    def test_staged(self) -> None:
        self.assertEqual(records.staged(NONE, NAS, "disk-2"), {Fact(STAGED, NAS, "", "disk-2")})
        known = records.staged(self.ELSEWHERE, NAS, "disk-2")
        self.assertEqual(known, self.ELSEWHERE | {Fact(STAGED, NAS, "", "disk-2")})
        self.assertEqual(records.staged(known, NAS, "disk-2"), known)
        places = [(DISK, "disk-1"), (DISK, "disk-2"), (NAS, "disk-1"), (NAS, "disk-2"), ("/elsewhere", "disk-1")]
        self.assertEqual([records.is_staged(known, *place) for place in places], [True, False, False, True, False])


class CompletedTest(unittest.TestCase):
    BEFORE: Completed = {
        DISK: {"disk-1": frozenset({ONE, f"home-{ONE}"}), "disk-2": frozenset({TWO})},
        NAS: {"disk-3": frozenset({f"home-{TWO}"})},
    }

    def test_delivered(self) -> None:
        """One name for each prefix and filesystem: the newest delivered takes the place of the one before."""
        nas = self.BEFORE[NAS]
        table: dict[str, tuple[str, str, Naming, str | None, Completed]] = {
            "replaced": (
                DISK,
                "disk-1",
                NAMING,
                THREE,
                {DISK: {**self.BEFORE[DISK], "disk-1": frozenset({THREE, f"home-{ONE}"})}, NAS: nas},
            ),
            "other prefix": (
                DISK,
                "disk-1",
                HOME,
                f"home-{THREE}",
                {DISK: {**self.BEFORE[DISK], "disk-1": frozenset({ONE, f"home-{THREE}"})}, NAS: nas},
            ),
            "another disk at the same place": (
                DISK,
                "disk-9",
                NAMING,
                THREE,
                {DISK: {**self.BEFORE[DISK], "disk-9": frozenset({THREE})}, NAS: nas},
            ),
            "a new destination": ("/c", "d", NAMING, ONE, {**self.BEFORE, "/c": {"d": frozenset({ONE})}}),
            "an older one": (
                DISK,
                "disk-2",
                NAMING,
                ONE,
                {DISK: {**self.BEFORE[DISK], "disk-2": frozenset({ONE})}, NAS: nas},
            ),
            "none": (DISK, "disk-2", NAMING, None, {DISK: {"disk-1": frozenset({ONE, f"home-{ONE}"})}, NAS: nas}),
            "none of this prefix": (DISK, "disk-2", HOME, None, self.BEFORE),
            "none, the last of a destination": (NAS, "disk-3", HOME, None, {DISK: self.BEFORE[DISK]}),
            "none where nothing was": ("/c", "d", NAMING, None, self.BEFORE),
        }
        for case, (destination, filesystem, naming, newest, after) in table.items():
            with self.subTest(case):
                found = records.delivered(
                    completed(self.BEFORE), destination, filesystem, naming, [newest] if newest else []
                )
                self.assertEqual(found, completed(after))

    def test_shell(self) -> None:
        """A shell command has no filesystem."""
        found = records.delivered(NONE, "shell://cat", "", NAMING, [ONE])
        self.assertEqual(found, {Fact(NEWEST, "shell://cat", ONE)})

    def test_last_delivered_to_a_shell_command(self) -> None:
        known = completed({"shell://cat": {"": frozenset({ONE, TWO})}, DISK: {"disk-1": frozenset({THREE})}})
        self.assertEqual(records.last_delivered(known, "shell://cat"), {ONE, TWO})
        self.assertEqual(records.last_delivered(known, "shell://other"), frozenset())
        self.assertEqual(records.last_delivered(known, DISK), frozenset())
        self.assertEqual(records.last_delivered(known, DISK, "disk-1"), {THREE})

    def test_forget(self) -> None:
        home_only = {DISK: {"disk-1": frozenset({f"home-{ONE}"})}, NAS: self.BEFORE[NAS]}
        table: list[tuple[Naming, list[str], Completed]] = [
            (NAMING, [], self.BEFORE),
            (NAMING, ["/elsewhere"], self.BEFORE),
            (NAMING, [DISK], home_only),
            (NAMING, [DISK, NAS], home_only),
            (HOME, [NAS], {DISK: self.BEFORE[DISK]}),
            (HOME, [DISK, NAS], {DISK: {"disk-1": frozenset({ONE}), "disk-2": frozenset({TWO})}}),
        ]
        for naming, destinations, after in table:
            with self.subTest(naming=naming, destinations=destinations):
                self.assertEqual(records.forget(completed(self.BEFORE), naming, destinations), completed(after))

    def test_all_kinds_are_forgotten(self) -> None:
        kinds = (OWED, PARENT, NEWEST, BACKUP, BLOCKED, OTHER)
        theirs = {Fact(kind, NAS, ONE, "x") for kind in kinds}
        own = {Fact(kind, DISK, ONE, "x") for kind in kinds}
        self.assertEqual(records.forget(frozenset(own | theirs), NAMING, [DISK]), theirs)

    def test_that_it_is_staged_is_not_forgotten(self) -> None:
        """It is of no snapshot, and a writable subvolume there is somebody's whatever is on record."""
        staged = {Fact(STAGED, DISK, "", "x")}
        self.assertEqual(records.forget(frozenset(staged | {Fact(NEWEST, DISK, ONE, "x")}), NAMING, [DISK]), staged)


class OutstandingFormatTest(unittest.TestCase):
    def test_as_0_3_1_wrote_it(self) -> None:
        text = '{"20261123-042459": {"locks": ["/backup"], "parent_locks": ["ssh://nas/backups"]}}'
        known = outstanding({THREE: locks(DISK, parent=[NAS])})
        self.assertEqual(records.parse_outstanding(text), known)
        self.assertEqual(json.loads(records.format_outstanding(known)), json.loads(text))

    def test_parse(self) -> None:
        table: dict[str, Outstanding] = {
            "": {},
            " \n\t": {},
            "{}": {},
            " { } \n": {},
            f'{{"{ONE}": {{}}}}': {},
            f'{{"{ONE}": {{"locks": []}}}}': {},
            f'{{"{ONE}": {{"locks": [], "parent_locks": []}}}}': {},
            f'{{"{ONE}": {{"locks": ["/b"]}}}}': {ONE: locks("/b")},
            f'{{"{ONE}": {{"parent_locks": ["/b"]}}}}': {ONE: locks(parent=["/b"])},
            f'{{"{ONE}": {{"locks": ["/b", "/a", "/b"]}}}}': {ONE: locks("/a", "/b")},
            f'{{"{ONE}": {{"locks": ["/b"]}}, "home-{ONE}": {{"locks": ["/c"]}}, "x": {{"locks": ["/d"]}}}}': {
                ONE: locks("/b"),
                f"home-{ONE}": locks("/c"),
                "x": locks("/d"),
            },
            f'{{"{ONE}": {{"locks": ["/\\u00e4", "/\\udcff", "/\U0001f600"]}}}}': {
                ONE: locks("/ä", "/\udcff", "/\U0001f600")
            },
        }
        for text, wanted in table.items():
            with self.subTest(text=text):
                self.assertEqual(records.parse_outstanding(text), outstanding(wanted))

    def test_destinations_become_identities(self) -> None:
        """Spellings of one place become one; what cannot be understood stays as it is."""
        recorded = [
            "/backup/",
            "//backup",
            "/x/../backup",
            "ssh://nas/backups/",
            "ssh://nas//backups",
            "usb/",
            "ftp://x/",
        ]
        text = json.dumps({ONE: {"locks": recorded, "parent_locks": recorded}})
        wanted = {DISK, NAS, "usb/", "ftp://x/"}
        self.assertEqual(records.parse_outstanding(text), outstanding({ONE: locks(*wanted, parent=wanted)}))

    def test_format(self) -> None:
        """Sorted, so that the file changes only where the records do; no empty lists, as 0.3.1 did it."""
        text = records.format_outstanding(
            outstanding({TWO: locks(parent=["/b"]), ONE: locks("/b", "/a", parent=["/c"])})
        )
        self.assertEqual(
            json.loads(text), {ONE: {"locks": ["/a", "/b"], "parent_locks": ["/c"]}, TWO: {"parent_locks": ["/b"]}}
        )
        self.assertLess(text.index(ONE), text.index(TWO))
        self.assertTrue(text.endswith("}\n"))
        self.assertTrue(text.isascii())
        self.assertEqual(json.loads(records.format_outstanding(NONE)), {})

    def test_survives_the_file(self) -> None:
        tables: list[Outstanding] = [
            {},
            {ONE: locks(DISK, NAS, parent=["/c"]), f"home-{TWO}": locks(parent=[DISK])},
            {ONE: locks("/with\nnewline", '/with"quote', "/\udcff", "shell://cat > x/", "/ä\\")},
        ]
        for entries in tables:
            with self.subTest(entries=entries):
                known = outstanding(entries)
                self.assertEqual(records.parse_outstanding(records.format_outstanding(known)), known)
                # What was delivered is in the other file.
                mixed = known | {Fact(NEWEST, DISK, ONE, "x")}
                self.assertEqual(records.format_outstanding(mixed), records.format_outstanding(known))


class CompletedFormatTest(unittest.TestCase):
    NEWEST_ONLY = completed(
        {
            DISK: {"disk-2": frozenset({f"home-{ONE}", ONE}), "disk-1": frozenset({TWO})},
            "shell://cat > \udcff": {"": frozenset({THREE})},
        }
    )
    ALL = NEWEST_ONLY | {
        Fact(STAGED, DISK, "", "disk-1"),
        Fact(BACKUP, DISK, ONE, "disk-1", "uuid-1"),
        Fact(BACKUP, DISK, TWO, "disk-1", "uuid-2"),
        Fact(OTHER, DISK, TWO, "disk-1", "uuid-4"),
        Fact(BLOCKED, DISK, THREE, "disk-1"),
        Fact(STAGED, DISK, "", "disk-3"),
        Fact(BACKUP, DISK, TWO, "disk-3", "uuid-3"),
        Fact(STAGED, NAS, "", "disk-4"),
        Fact(BLOCKED, NAS, FOUR, "disk-4"),
        Fact(OTHER, NAS, ONE, "disk-5", "uuid-5"),
        Fact(STAGED, "/empty", "", "disk-6"),
    }

    def test_survives_the_file(self) -> None:
        staged = (
            frozenset({fact, Fact(STAGED, fact.destination, "", fact.filesystem)})
            for fact in self.ALL | {Fact(NEWEST, DISK, ONE, "disk-9")}
        )
        each = (frozenset({fact}) for fact in self.ALL)
        for known in (NONE, self.NEWEST_ONLY, self.ALL, *each, *staged):
            with self.subTest(known=known):
                text = records.format_completed(known)
                self.assertTrue(text.isascii())
                self.assertEqual(records.parse_completed(text), known)
                # What is outstanding is in the other file.
                self.assertEqual(records.format_completed(known | {Fact(OWED, DISK, ONE)}), text)

    def test_format(self) -> None:
        """A kind of which there is nothing is left out."""
        self.assertEqual(
            json.loads(records.format_completed(self.ALL)),
            {
                DISK: {
                    "disk-1": {
                        "newest": [TWO],
                        "backups": {"uuid-1": ONE, "uuid-2": TWO},
                        "others": {"uuid-4": TWO},
                        "blocked": [THREE],
                    },
                    "disk-2": [ONE, f"home-{ONE}"],
                    "disk-3": {"backups": {"uuid-3": TWO}},
                },
                NAS: {"disk-4": {"blocked": [FOUR]}, "disk-5": {"others": {"uuid-5": ONE}, "old": True}},
                "/empty": {"disk-6": {}},
                "shell://cat > \udcff": {"": [THREE]},
            },
        )

    def test_as_older_versions_wrote_it(self) -> None:
        """Lists of the newest, mixed with entries of the other form: only these say that nothing is unfinished."""
        text = json.dumps(
            {
                DISK: {"disk-1": [TWO], "disk-2": [ONE, f"home-{ONE}"], "disk-3": {"blocked": [FOUR]}, "disk-4": []},
                "shell://cat": {"": [THREE]},
            }
        )
        wanted = completed(
            {
                DISK: {"disk-1": frozenset({TWO}), "disk-2": frozenset({ONE, f"home-{ONE}"})},
                "shell://cat": {"": frozenset({THREE})},
            }
        )
        found = records.parse_completed(text)
        self.assertEqual(found, wanted | {Fact(BLOCKED, DISK, FOUR, "disk-3"), Fact(STAGED, DISK, "", "disk-3")})
        self.assertEqual(records.parse_completed(records.format_completed(found)), found)
        disks = [f"disk-{number}" for number in range(1, 5)]
        self.assertEqual([records.is_staged(found, DISK, each) for each in disks], [False, False, True, False])

    def test_empty(self) -> None:
        staged = frozenset({Fact(STAGED, "/b", "", "x")})
        for text, wanted in {
            "": NONE,
            "\n": NONE,
            "{}": NONE,
            '{"/b": {}}': NONE,
            '{"/b": {"x": []}}': NONE,
            '{"/b": {"x": {}}}': staged,
            '{"/b": {"x": {"newest": [], "backups": {}, "others": {}, "blocked": []}}}': staged,
        }.items():
            with self.subTest(text=text):
                self.assertEqual(records.parse_completed(text), wanted)


# Texts that are no JSON object of objects, whatever the file.
BROKEN = {
    "garbage": "garbage",
    "cut off": '{"20261123-042459": {"locks": ["/back',
    "cut off early": "{",
    "two documents": "{}{}",
    "more after it": "{} x",
    "a comma too many": '{"a": {},}',
    "single quotes": "{'a': {}}",
    "control character": '{"a\n": {}}',
    "byte order mark": "\ufeff{}",
    "NUL": "\0",
    "NULs in it": "{\0}",
    "null": "null",
    "true": "true",
    "number": "1",
    "number of many digits": "1" * 5000,
    "huge exponent": "1e999999",
    "NaN": "NaN",
    "infinity": "-Infinity",
    "text": '"x"',
    "lone surrogate": "\udcff",
    "lone surrogate as text": '"\\ud800"',
    "list": "[]",
    "list of objects": '[{"20261123-042459": {"locks": []}}]',
    "nested lists": "[" * 100_000,
    "nested and closed lists": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "value is null": '{"a": null}',
    "value is NaN": '{"a": NaN}',
    "value is a number": '{"a": 1}',
    "value is a number of many digits": '{"a": ' + "1" * 5000 + "}",
    "value is text": '{"a": "/backup"}',
    "value is a list": '{"a": ["/backup"]}',
    "value is a nested list": '{"a": {"locks": ' + "[" * 100_000 + "]" * 100_000 + "}}",
    "list is null": '{"a": {"locks": null}}',
    "list is NaN": '{"a": {"locks": NaN}}',
    "list is text": '{"a": {"locks": "/backup"}}',
    "list is an object": '{"a": {"locks": {"/backup": 1}}}',
    "list of numbers": '{"a": {"locks": [1]}}',
    "list of null": '{"a": {"locks": ["/backup", null]}}',
    "list of NaN": '{"a": {"locks": [NaN]}}',
    "list of lists": '{"a": {"locks": [["/backup"]]}}',
    "list of objects in it": '{"a": {"locks": [{}]}}',
}


class BrokenTest(unittest.TestCase):
    PARSERS: tuple[Callable[[str], object], ...] = (records.parse_outstanding, records.parse_completed)

    def test_broken_in_both(self) -> None:
        """A text that is not of the form is a ValueError and nothing else."""
        for parse in self.PARSERS:
            for case, text in BROKEN.items():
                with self.subTest(case, parse=parse), self.assertRaises(ValueError) as caught:
                    parse(text)
                with self.subTest(case, parse=parse):
                    self.assertTrue(str(caught.exception))

    def test_words(self) -> None:
        """For an administrator with an editor."""
        outstanding, completed = self.PARSERS
        table: list[tuple[Callable[[str], object], str, str]] = [
            (outstanding, "[]", "it does not hold a JSON object"),
            (completed, '{"a": {}, "a": {}}', "a name stands twice in it"),
            (outstanding, BROKEN["nested lists"], "it is nested too deeply"),
            (outstanding, '{"a": 1}', 'the entry of \'a\' is not of the form {"locks": [...], "parent_locks": [...]}'),
            (outstanding, '{"a": {"locks": [1]}}', "the entry of 'a' holds something else than a list of names"),
            (completed, '{"/b": 1}', "the entry of '/b' is not of the form {filesystem: {...}}"),
            (completed, '{"/b": {"x": 1}}', "the entry of '/b' holds something else than a list of names"),
            (completed, '{"/b": {"x": {"backups": []}}}', "the backups of '/b' are not of the form {UUID: name}"),
            (completed, '{"/b": {"x": {"others": []}}}', "the backups of '/b' are not of the form {UUID: name}"),
        ]
        for parse, text, words in table:
            with self.subTest(words), self.assertRaises(ValueError) as caught:
                parse(text)
            self.assertEqual(str(caught.exception), words)

    def test_broken_outstanding(self) -> None:
        """A key that 0.3.1 did not write means that somebody else's records would be lost: refused."""
        for text in (
            '{"a": {"lock": ["/backup"]}}',
            '{"a": {"locks": ["/backup"], "more": []}}',
            '{"a": {"": []}}',
            '{"a": {"parent_locks": "x"}}',
            '{"a": {"locks": ["/b"], "parent_locks": [1]}}',
        ):
            with self.subTest(text=text), self.assertRaises(ValueError):
                records.parse_outstanding(text)

    def test_broken_completed(self) -> None:
        for entry in (
            '{"newer": []}',
            '{"newest": [], "more": 1}',
            '{"newest": {}}',
            '{"newest": [1]}',
            '{"blocked": "x"}',
            '{"blocked": [null]}',
            '{"backups": ["x"]}',
            '{"backups": {"uuid": 1}}',
            '{"backups": {"uuid": "x", "uuid": "y"}}',
            '{"others": ["x"]}',
            '{"others": {"uuid": 1}}',
            '{"others": {"uuid": "x", "uuid": "y"}}',
            '{"staged": true}',
            "null",
            '"x"',
            "[[]]",
        ):
            with self.subTest(entry=entry), self.assertRaises(ValueError):
                records.parse_completed(f'{{"/b": {{"disk-1": {entry}}}}}')

    def test_the_entry_is_named(self) -> None:
        for text in (f'{{"{ONE}": 1}}', f'{{"{ONE}": {{"locks": 1}}}}'):
            for parse in self.PARSERS:
                with self.subTest(text=text, parse=parse), self.assertRaises(ValueError) as caught:
                    parse(text)
                with self.subTest(text=text, parse=parse):
                    self.assertIn(f"'{ONE}'", str(caught.exception))

    def test_a_name_that_stands_twice(self) -> None:
        """The first entry would silently be lost."""
        for text in (
            f'{{"{ONE}": {{"locks": ["/a"]}}, "{ONE}": {{"locks": ["/b"]}}}}',
            f'{{"{ONE}": {{"locks": ["/a"], "locks": ["/b"]}}}}',
        ):
            with self.subTest(text), self.assertRaises(ValueError):
                records.parse_outstanding(text)

    def test_odd_but_harmless(self) -> None:
        """Duplicates, surrogates, odd destinations: read, or refused with a ValueError; never anything else."""
        destinations = (
            "",
            "\\ud800",
            "\\u0000",
            "/\\u0000",
            "ssh://",
            f"ssh://nas:{'9' * 5000}/b",
            "shell://",
            "[",
            "@x",
        )
        texts = [
            *(f'{{"{ONE}": {{"locks": ["{each}", "{each}"]}}}}' for each in destinations),
            *(f'{{"{each}": {{"locks": ["/b"]}}}}' for each in destinations),
            f'{{"{ONE}": {{"locks": ["/a"]}}, "{ONE}": {{"locks": ["/b"]}}}}',
            f'{{"{ONE}": {{"locks": ["/a"], "locks": ["/b"]}}}}',
        ]
        for text in texts:
            for parse, form in (
                (records.parse_outstanding, records.format_outstanding),
                (records.parse_completed, records.format_completed),
            ):
                with self.subTest(text=text[:80], parse=parse):
                    try:
                        known = parse(text)
                    except ValueError as error:
                        self.assertNotIn("set_int_max_str_digits", str(error))
                    else:
                        self.assertEqual(parse(form(known)), known)


if __name__ == "__main__":
    unittest.main()
