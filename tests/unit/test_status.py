"""What is where, as a table and as a document."""

import json
import unittest
from datetime import datetime, timedelta, timezone

from btrfs_backup.report.outcome import Report, Restoration, Sent, Survey, Tally

from btrfs_backup import __version__
from btrfs_backup.errors import Failure
from btrfs_backup.model import survey as status
from btrfs_backup.model.inventory import Holdings
from btrfs_backup.model.manifest import Comparison, Difference
from btrfs_backup.model.plan import Snapshots, Target
from btrfs_backup.model.records import Locks, Records
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.model.survey import Row, View
from btrfs_backup.report.document import document
from btrfs_backup.report.table import age, table

NAMING = Naming()
A, B, C, D = (f"2026010{day}-120000" for day in (1, 2, 3, 4))
NOW = datetime(2026, 1, 4, 18, 30)
USB, NAS, BOX = "/mnt/usb/home", "ssh://nas/backups", "shell://cat > /box"
UUID = "2d5585c4-b528-401e-b28a-bede01130608"


def subvolumes(*names: str) -> Snapshots:
    return {name: Subvolume(name, f"uuid-{name}") for name in names}


def records() -> Records:
    outstanding = {C: Locks(frozenset([NAS])), B: Locks(frozenset(), frozenset([NAS]))}
    return Records(outstanding, {USB: {UUID: frozenset([B])}, BOX: {"": frozenset([A])}, NAS: {"x": frozenset([A])}})


def views() -> list[View]:
    usb = View(USB, Holdings(subvolumes(A, B), (C,), {D: "a file"}), Target(USB, (C,), frozenset([B]), {D: "a file"}))
    box = View(BOX, Holdings(), Target(BOX, (B, C, D), frozenset([A]), one_by_one=True), listed=False)
    return [usb, View(NAS), box]


def survey(max_age: timedelta | None = None) -> Survey:
    kept = {
        B: ["latest 3 of 3", f"last delivered to {USB} (filesystem {UUID})"],
        C: [f"outstanding for {NAS}"],
        D: ["newest"],
    }
    found = Survey(Tally("/home"), [Tally(USB), Tally(NAS, failures=[Failure("down", "Wait.")]), Tally(BOX)])
    found.rows = status.rows(NAMING, subvolumes(B, C, D), views(), records(), kept)
    found.places = [status.place(view, NAMING, records(), NOW, max_age) for view in views()]
    return found


class RowsTest(unittest.TestCase):
    def test_states(self) -> None:
        """Of what the source, a destination or a record knows."""
        self.assertEqual(
            [(row.snapshot, *row.states) for row in survey().rows],
            [
                (A, "-", "complete", "unknown", "delivered"),
                (B, "complete", "complete", "unknown", "missing"),
                (C, "complete", "partial", "outstanding", "missing"),
                (D, "complete", "foreign", "unknown", "missing"),
            ],
        )

    def test_nothing_anywhere(self) -> None:
        self.assertEqual(status.rows(NAMING, {}, [], Records({}, {}), {}), [])

    def test_other_prefixes_do_not_count(self) -> None:
        theirs = Records({"other-" + A: Locks(frozenset([USB]))}, {USB: {UUID: frozenset(["other-" + B])}})
        self.assertEqual(status.rows(NAMING, subvolumes(A), [], theirs, {}), [Row(A, ("complete",))])


class PlaceTest(unittest.TestCase):
    def test_newest_and_owed(self) -> None:
        """What cannot be looked into lives from the records."""
        found = [(place.newest, place.reachable, place.owed) for place in survey().places]
        self.assertEqual(found, [(B, True, (C, D)), (A, False, (C,)), (A, True, (B, C, D))])
        self.assertEqual(survey().places[0].age, timedelta(days=2, hours=6, minutes=30))

    def test_what_arrived_is_not_owed(self) -> None:
        """A run that was ended may leave it on record."""
        usb = View(USB, Holdings(subvolumes(A, B)), Target(USB, (C,), frozenset([A, B])))
        noted = Records({name: Locks(frozenset([USB])) for name in (B, C)}, {})
        place = status.place(usb, NAMING, noted, NOW, None)
        self.assertEqual((place.newest, place.owed), (B, (C,)))

    def test_max_age(self) -> None:
        day = timedelta(days=1)
        for limit, wanted in ((2 * day, [True] * 3), (3 * day, [False, True, True]), (None, [False] * 3)):
            self.assertEqual([place.too_old for place in survey(limit).places], wanted)
        nothing = status.place(
            View("/new", Holdings(), Target("/new")), NAMING, Records({}, {}), NOW, timedelta(days=1)
        )
        self.assertTrue(nothing.too_old)
        self.assertTrue(survey(timedelta(days=2)).failed)


class TableTest(unittest.TestCase):
    def test_golden(self) -> None:
        self.assertEqual(
            "\n".join(table(survey(timedelta(days=3)), 80, colour=False)),
            """\
source: /home
1: /mnt/usb/home
2: ssh://nas/backups
3: shell://cat > /box

snapshot         source    1         2            3          kept because
20260101-120000  -         complete  unknown      delivered
20260102-120000  complete  complete  unknown      missing    latest 3 of 3; last
                                                             delivered to 1 (disk
                                                             2d5585c4)
20260103-120000  complete  partial   outstanding  missing    outstanding for 2
20260104-120000  complete  foreign   unknown      missing    newest

/mnt/usb/home: newest complete backup 20260102-120000, 2 days 6 hours old, \
2 snapshots owed since 20260103-120000
ssh://nas/backups: cannot be looked at, newest known backup 20260101-120000, 3 days 6 hours old, \
1 snapshot owed since 20260103-120000: TOO OLD
shell://cat > /box: newest complete backup 20260101-120000, 3 days 6 hours old, \
3 snapshots owed since 20260102-120000: TOO OLD""",
        )

    def test_width(self) -> None:
        """The grid fits 80 columns with three destinations."""
        grid = [line for line in table(survey(), 80, colour=False) if line.startswith(("2026", " "))]
        self.assertLessEqual(max(map(len, grid)), 82)

    def test_colour(self) -> None:
        plain, coloured = (table(survey(timedelta(days=3)), 80, colour) for colour in (False, True))
        self.assertNotIn("\x1b", "".join(plain))
        self.assertIn("\x1b[32mcomplete\x1b[0m", "".join(coloured))
        self.assertIn("\x1b[31m: TOO OLD\x1b[0m", "".join(coloured))

    def test_no_snapshots_and_no_destinations(self) -> None:
        self.assertEqual(
            table(Survey(Tally("/home")), 80, colour=False),
            ["source: /home", "no destination is on record: name those that you want to see behind SOURCE"],
        )

    def test_age(self) -> None:
        ages = {
            "0 minutes": timedelta(seconds=-5),
            "1 minute": timedelta(seconds=119),
            "2 hours": timedelta(hours=2),
            "2 hours 5 minutes": timedelta(hours=2, minutes=5),
            "1 day": timedelta(days=1, minutes=59),
            "400 days 23 hours": timedelta(days=400, hours=23),
        }
        for text, duration in ages.items():
            self.assertEqual(age(duration), text)


class DocumentTest(unittest.TestCase):
    BEGAN = datetime(2026, 1, 4, 18, 30, tzinfo=timezone(timedelta(hours=1)))
    HEAD = {
        "program": "btrfs-backup",
        "version": __version__,
        "began": "2026-01-04T18:30:00+01:00",
        "seconds": 2.5,
        "exit_status": 10,
        "error": None,
    }

    def parsed(self, command: str, about: Report | Survey | Restoration, error: Failure | None = None) -> object:
        return json.loads(document(command, self.BEGAN, self.BEGAN + timedelta(seconds=2.5), 10, error, about))

    def test_run(self) -> None:
        usb = Tally(USB, [Sent(B, A, 1234, 0.25)], [A], {B: ["latest 1 of 1"]}, outstanding=[C])
        usb.verified.append(Comparison(B, 3, 99, (Difference("x", "it is missing"),)))
        report = Report(Tally("/home", failures=[Failure("full", "Free some.")]), B, [usb])
        nothing = {"sent": [], "cleared": [], "deleted": [], "kept": None, "outstanding": [], "verified": []}
        self.assertEqual(
            self.parsed("run", report),
            {
                **self.HEAD,
                "command": "run",
                "snapshot": B,
                "source": {
                    **nothing,
                    "location": "/home",
                    "state": "failed",
                    "free_bytes": None,
                    "failures": [{"message": "full", "hint": "Free some."}],
                },
                "destinations": [
                    {
                        "location": USB,
                        "state": "failed",
                        "sent": [{"snapshot": B, "parent": A, "bytes": 1234, "seconds": 0.25}],
                        "cleared": [],
                        "deleted": [A],
                        "kept": [{"name": B, "because": ["latest 1 of 1"]}],
                        "outstanding": [C],
                        "free_bytes": None,
                        "verified": [
                            {
                                "snapshot": B,
                                "files": 3,
                                "bytes": 99,
                                "differences": [{"path": "x", "what": "it is missing"}],
                            }
                        ],
                        "failures": [],
                    }
                ],
            },
        )

    def test_error(self) -> None:
        found = self.parsed("run", Report(Tally("/home")), Failure("no such source", "Give one."))
        assert isinstance(found, dict)
        self.assertEqual(found["error"], {"message": "no such source", "hint": "Give one."})
        self.assertEqual(found["source"]["state"], "not reached")

    def test_status(self) -> None:
        found = self.parsed("status", survey())
        assert isinstance(found, dict)
        self.assertEqual(
            found["snapshots"][1],
            {
                "name": B,
                "source": "complete",
                "destinations": {USB: "complete", NAS: "unknown", BOX: "missing"},
                "because": ["latest 3 of 3", f"last delivered to {USB} (filesystem {UUID})"],
            },
        )
        self.assertEqual(
            found["destinations"][1],
            {
                "location": NAS,
                "reachable": False,
                "newest": A,
                "age_seconds": 282600,
                "too_old": False,
                "owed": [C],
                "failures": [{"message": "down", "hint": "Wait."}],
            },
        )

    def test_restore(self) -> None:
        report = Restoration(
            "/b", "/home", A, datetime(2026, 1, 1, 12), f"/home/snapshot/{A}", Sent(A, None, 5, 0.1), "x y", True
        )
        self.assertEqual(
            self.parsed("restore", report),
            {
                **self.HEAD,
                "command": "restore",
                "source": "/b",
                "destination": "/home",
                "backup": A,
                "taken": "2026-01-01T12:00:00",
                "copy": f"/home/snapshot/{A}",
                "sent": {"snapshot": A, "parent": None, "bytes": 5, "seconds": 0.1},
                "next_backup": "x y",
                "done": True,
                "failures": [],
            },
        )
