"""The records of outstanding and of completed transfers."""

import json
import unittest
from collections.abc import Callable, Iterable

from btrfs_backup.model import records as transfers
from btrfs_backup.model.records import Completed, Locks, Outstanding, Records
from btrfs_backup.model.snapshot import Naming

NAMING = Naming()
HOME = Naming("home-")
ONE, TWO, THREE, FOUR = (f"2026112{day}-042459" for day in (1, 2, 3, 4))
DISK, NAS = "/backup", "ssh://nas/backups"


def locks(*destinations: str, parent: Iterable[str] = ()) -> Locks:
    return Locks(frozenset(destinations), frozenset(parent))


class LocksTest(unittest.TestCase):
    def test_truth(self) -> None:
        self.assertFalse(locks())
        self.assertTrue(locks(DISK))
        self.assertTrue(locks(parent=[DISK]))


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
                self.assertEqual(transfers.begin(before, destination, snapshot, parent), after)

    def test_leaves_its_argument_alone(self) -> None:
        before = {ONE: locks(NAS)}
        transfers.begin(before, DISK, TWO, ONE)
        self.assertEqual(before, {ONE: locks(NAS)})


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
                    begun = transfers.begin(before, DISK, TWO, parent)
                    self.assertEqual(transfers.end(begun, DISK, TWO), before)

    def test_parent_of_an_earlier_attempt(self) -> None:
        """A second attempt from another parent settles the note of the first as well."""
        begun = transfers.begin(transfers.begin({}, DISK, THREE, ONE), DISK, THREE, TWO)
        self.assertEqual(begun, {THREE: locks(DISK), ONE: locks(parent=[DISK]), TWO: locks(parent=[DISK])})
        self.assertEqual(transfers.end(begun, DISK, THREE), {})

    def test_locks_on_others_stay(self) -> None:
        before = {ONE: locks(DISK), TWO: locks(DISK, NAS), THREE: locks(DISK)}
        self.assertEqual(transfers.end(before, DISK, TWO), {ONE: locks(DISK), TWO: locks(NAS), THREE: locks(DISK)})

    def test_nothing_recorded(self) -> None:
        self.assertEqual(transfers.end({}, DISK, ONE), {})
        self.assertEqual(transfers.end({ONE: locks(NAS)}, DISK, ONE), {ONE: locks(NAS)})

    def test_other_prefix(self) -> None:
        """The end of a transfer says nothing of a failed one under another prefix to the same destination."""
        failed = transfers.begin({}, DISK, f"home-{TWO}", f"home-{ONE}")
        begun = transfers.begin(failed, DISK, TWO, ONE)
        self.assertEqual(transfers.end(begun, DISK, TWO), failed)


class SettledTest(unittest.TestCase):
    """Three transfers in a row, TWO from ONE, THREE from TWO, FOUR from THREE, begun at once."""

    def settle(self, before: Outstanding, arrived: list[str], failed: tuple[str, str | None] | None) -> Outstanding:
        begun = before
        for snapshot, parent in ((TWO, ONE), (THREE, TWO), (FOUR, THREE)):
            begun = transfers.begin(begun, DISK, snapshot, parent)
        return transfers.settled(begun, before, DISK, arrived, failed)

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
                self.assertEqual(self.settle(before, arrived, failed), after)

    def test_records_of_others_stay_as_they_are(self) -> None:
        """Theirs may have been settled meanwhile, or not yet."""
        others = {TWO: locks(NAS), THREE: locks(parent=[NAS]), "home-" + ONE: locks(NAS)}
        after = transfers.settled(others, {TWO: locks(NAS), FOUR: locks(NAS)}, DISK, [], (TWO, ONE))
        self.assertEqual(after, {**others, TWO: locks(NAS, DISK), ONE: locks(parent=[DISK])})


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
                self.assertEqual(transfers.unreachable(before, DISK, FOUR), after)

    def test_months_away(self) -> None:
        """However long a destination stays away, it holds two snapshots at most."""
        outstanding: Outstanding = transfers.begin({}, DISK, "20260101-000000", None)
        for day in range(2, 29):
            outstanding = transfers.unreachable(outstanding, DISK, f"202601{day:02}-000000")
        self.assertEqual(outstanding, {"20260101-000000": locks(DISK), "20260128-000000": locks(DISK)})


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
                self.assertEqual(transfers.reconcile(before, NAMING, DISK, owed), after)

    def test_nothing_is_added(self) -> None:
        self.assertEqual(transfers.reconcile({}, NAMING, DISK, [ONE, TWO]), {})


class DropTest(unittest.TestCase):
    BEFORE: Outstanding = {
        ONE: locks(DISK, NAS, parent=[DISK]),
        TWO: locks(parent=[NAS]),
        f"home-{ONE}": locks(DISK, parent=[DISK]),
        "foreign": locks(DISK),
    }

    def test_drop(self) -> None:
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
                self.assertEqual(transfers.drop(self.BEFORE, NAMING, destinations), after)


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
                self.assertEqual(transfers.owed(self.OUTSTANDING, naming, destination), wanted)

    def test_locked_destinations(self) -> None:
        self.assertEqual(transfers.locked_destinations({}, NAMING), [])
        self.assertEqual(transfers.locked_destinations(self.OUTSTANDING, NAMING), ["/b", DISK, "/c", NAS])
        self.assertEqual(transfers.locked_destinations(self.OUTSTANDING, HOME), [DISK, "/home-only"])

    def test_known_destinations(self) -> None:
        """Those of other prefixes are somebody else's."""
        completed = {
            "/b": {"x": frozenset({FOUR, f"home-{FOUR}"})},
            "/served": {"x": frozenset({FOUR})},
            "/n": {"x": frozenset()},
        }
        records = Records(self.OUTSTANDING, completed)
        self.assertEqual(transfers.known_destinations(records, NAMING), ["/b", DISK, "/c", "/served", NAS])
        self.assertEqual(transfers.known_destinations(records, HOME), ["/b", DISK, "/home-only"])
        self.assertEqual(transfers.known_destinations(records, Naming("other")), [])

    def test_names(self) -> None:
        completed = {DISK: {"disk-1": frozenset({FOUR}), "disk-2": frozenset({f"home-{FOUR}"})}}
        self.assertEqual(
            sorted(transfers.names(Records(self.OUTSTANDING, completed))),
            sorted([*self.OUTSTANDING, FOUR, f"home-{FOUR}"]),
        )
        self.assertEqual(transfers.names(Records({}, {})), [])

    def test_reasons(self) -> None:
        """Every snapshot that a record names is kept, and each record is a reason."""
        outstanding = {ONE: locks(NAS, DISK, parent=["/c"]), TWO: locks(parent=[DISK])}
        completed = {
            DISK: {"disk-1": frozenset({ONE}), "disk-2": frozenset({THREE})},
            "shell://cat > x": {"": frozenset({THREE})},
        }
        self.assertEqual(
            transfers.reasons(Records(outstanding, completed)),
            {
                ONE: [
                    "outstanding for /backup",
                    "outstanding for ssh://nas/backups",
                    "parent of one outstanding for /c",
                    "last delivered to /backup (filesystem disk-1)",
                ],
                TWO: ["parent of one outstanding for /backup"],
                THREE: ["last delivered to /backup (filesystem disk-2)", "last delivered to shell://cat > x"],
            },
        )

    def test_no_reasons(self) -> None:
        self.assertEqual(transfers.reasons(Records({}, {})), {})


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
                self.assertEqual(transfers.delivered(self.BEFORE, destination, filesystem, naming, newest), after)

    def test_shell(self) -> None:
        """A shell command has no filesystem."""
        self.assertEqual(transfers.delivered({}, "shell://cat", "", NAMING, ONE), {"shell://cat": {"": {ONE}}})

    def test_last_delivered_to_a_shell_command(self) -> None:
        completed = {"shell://cat": {"": frozenset({ONE, TWO})}, DISK: {"disk-1": frozenset({THREE})}}
        self.assertEqual(transfers.last_delivered(completed, "shell://cat"), {ONE, TWO})
        self.assertEqual(transfers.last_delivered(completed, "shell://other"), frozenset())
        self.assertEqual(transfers.last_delivered(completed, DISK), frozenset())
        self.assertEqual(transfers.last_delivered(completed, DISK, "disk-1"), {THREE})

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
                self.assertEqual(transfers.forget(self.BEFORE, naming, destinations), after)

    def test_arguments_are_left_alone(self) -> None:
        before: Completed = {DISK: {"disk-1": frozenset({ONE})}}
        transfers.delivered(before, DISK, "disk-1", NAMING, TWO)
        transfers.forget(before, NAMING, [DISK])
        self.assertEqual(before, {DISK: {"disk-1": frozenset({ONE})}})


class OutstandingFormatTest(unittest.TestCase):
    def test_as_0_3_1_wrote_it(self) -> None:
        text = '{"20261123-042459": {"locks": ["/backup"], "parent_locks": ["ssh://nas/backups"]}}'
        records = {THREE: locks(DISK, parent=[NAS])}
        self.assertEqual(transfers.parse_outstanding(text), records)
        self.assertEqual(json.loads(transfers.format_outstanding(records)), json.loads(text))

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
                self.assertEqual(transfers.parse_outstanding(text), wanted)

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
        self.assertEqual(transfers.parse_outstanding(text), {ONE: locks(*wanted, parent=wanted)})

    def test_format(self) -> None:
        """Sorted, so that the file changes only where the records do; no empty lists, as 0.3.1 did it."""
        records = {TWO: locks(parent=["/b"]), ONE: locks("/b", "/a", parent=["/c"])}
        text = transfers.format_outstanding(records)
        self.assertEqual(
            json.loads(text), {ONE: {"locks": ["/a", "/b"], "parent_locks": ["/c"]}, TWO: {"parent_locks": ["/b"]}}
        )
        self.assertLess(text.index(ONE), text.index(TWO))
        self.assertTrue(text.endswith("}\n"))
        self.assertTrue(text.isascii())
        self.assertEqual(json.loads(transfers.format_outstanding({})), {})

    def test_survives_the_file(self) -> None:
        tables: list[Outstanding] = [
            {},
            {ONE: locks(DISK, NAS, parent=["/c"]), f"home-{TWO}": locks(parent=[DISK])},
            {ONE: locks("/with\nnewline", '/with"quote', "/\udcff", "shell://cat > x/", "/ä\\")},
        ]
        for records in tables:
            with self.subTest(records=records):
                self.assertEqual(transfers.parse_outstanding(transfers.format_outstanding(records)), records)


class CompletedFormatTest(unittest.TestCase):
    RECORDS: Completed = {
        DISK: {"disk-2": frozenset({f"home-{ONE}", ONE}), "disk-1": frozenset({TWO})},
        "shell://cat > \udcff": {"": frozenset({THREE})},
    }

    def test_survives_the_file(self) -> None:
        for records in ({}, self.RECORDS):
            with self.subTest(records=records):
                text = transfers.format_completed(records)
                self.assertTrue(text.isascii())
                self.assertEqual(transfers.parse_completed(text), records)

    def test_format(self) -> None:
        self.assertEqual(
            json.loads(transfers.format_completed(self.RECORDS)),
            {
                DISK: {"disk-1": [TWO], "disk-2": [ONE, f"home-{ONE}"]},
                "shell://cat > \udcff": {"": [THREE]},
            },
        )

    def test_empty(self) -> None:
        for text in ("", "\n", "{}"):
            with self.subTest(text=text):
                self.assertEqual(transfers.parse_completed(text), {})


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
    PARSERS: tuple[Callable[[str], object], ...] = (transfers.parse_outstanding, transfers.parse_completed)

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
            (completed, '{"/b": 1}', "the entry of '/b' is not of the form {filesystem: [snapshot, ...]}"),
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
                transfers.parse_outstanding(text)

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
                transfers.parse_outstanding(text)

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
                (transfers.parse_outstanding, transfers.format_outstanding),
                (transfers.parse_completed, transfers.format_completed),
            ):
                with self.subTest(text=text[:80], parse=parse):
                    try:
                        records = parse(text)
                    except ValueError as error:
                        self.assertNotIn("set_int_max_str_digits", str(error))
                    else:
                        self.assertEqual(parse(form(records)), records)


if __name__ == "__main__":
    unittest.main()
