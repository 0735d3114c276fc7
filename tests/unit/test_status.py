"""What is where, as a table and as a document."""

import json
import re
import unittest
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from btrfs_backup import __version__
from btrfs_backup.cli import parser as cli
from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model import world
from btrfs_backup.model.inventory import Inventory
from btrfs_backup.model.manifest import Comparison, Difference
from btrfs_backup.model.outcome import Outcome, Place, Report, Restoration, Row, Sent, Survey
from btrfs_backup.model.plan import Target
from btrfs_backup.model.records import BACKUP, BLOCKED, NEWEST, NONE, OWED, PARENT, STAGED, Fact, Records
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import Stage
from btrfs_backup.model.survey import survey
from btrfs_backup.model.world import List, Listed, Look, Seen, World
from btrfs_backup.report.document import document
from btrfs_backup.report.table import age, table

A, B, C, D = (f"2026010{day}-120000" for day in (1, 2, 3, 4))
NOW = datetime(2026, 1, 4, 18, 30)
USB, NAS, BOX = "/mnt/usb/home", "ssh://nas/backups", "shell://cat > /box"
UUID = "2d5585c4-b528-401e-b28a-bede01130608"
HOME = Subvolume("home", "uuid-home", readonly=False)
RECORDS = frozenset(
    {
        Fact(OWED, NAS, C),
        Fact(PARENT, NAS, B),
        Fact(NEWEST, USB, B, UUID),
        Fact(BACKUP, USB, A, UUID, f"copy-{A}"),
        Fact(NEWEST, BOX, A),
        Fact(NEWEST, NAS, A, "x"),
    }
)


def snapshots(*names: str) -> Inventory:
    return Inventory({name: Subvolume(name, f"uuid-{name}") for name in names})


def backups(*names: str, partial: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> Inventory:
    held = {name: Subvolume(name, f"copy-{name}", "", f"uuid-{name}") for name in names}
    return Inventory(held, frozenset(files), tuple(left(name) for name in partial))


def left(name: str, holder: str = "") -> Stage:
    """What is left of a transfer, or of that which HOLDER makes."""
    return Stage(f".{name}.receiving", name, ("nas-7-0123abcd",), holder=holder)


SEEN = {
    USB: Seen(UUID, backups(A, B, partial=(C,), files=(D,))),
    NAS: Failure("down", "Wait."),
    BOX: Seen(listed=False),
}


def looked(*options: str, known: Records = RECORDS, there: tuple[str, ...] = (B, C, D), seen: object = SEEN) -> World:
    """The world when all was looked at that SEEN tells of."""
    assert isinstance(seen, dict)
    settings = cli.parse(["--status", "-N", "3", *options, "/home", *seen])
    found = world.begin(settings, NOW, frozenset(there), known)
    found = found.after(List(), Listed(HOME, snapshots(*there)))
    return found.after(Look(tuple(seen)), seen) if seen else found


def shown(max_age: str = "") -> Survey:
    return survey(looked(*(["--max-age", max_age] if max_age else [])))


class InterruptedTest(unittest.TestCase):
    def test_before_all_was_looked_at(self) -> None:
        """What is known by then is shown: a signal ends it like anything else."""
        found = world.begin(cli.parse(["--status", "/home", USB, NAS]), NOW, frozenset([A]), NONE)
        found = found.after(List(), Listed(HOME, snapshots(A)))
        self.assertEqual(table(survey(found), 80, False)[:1], ["source: /home"])
        found = found.after(Look((USB,)), {USB: Seen(UUID, backups(A))})
        self.assertIn(f"{A}  3 d  ok  ok", table(survey(found), 80, False))


class StepsTest(unittest.TestCase):
    def test_order(self) -> None:
        """It lists and looks, and that is all."""
        settings = cli.parse(["--status", "/home", USB, NAS])
        began = world.begin(settings, NOW, frozenset({B}), NONE)
        self.assertEqual(began.next_step(), List())
        listed = began.after(List(), Listed(HOME, snapshots(B)))
        self.assertEqual(listed.next_step(), Look((USB, NAS)))
        self.assertIsNone(looked().next_step())

    def test_destinations_on_record(self) -> None:
        """When none is named, all that the records know; a shell command is not run, so it may be one of them."""
        known = RECORDS | {Fact(BLOCKED, "/blocked", A, "y"), Fact(OWED, "/theirs", "other-" + A), Fact(OWED, "x", A)}
        settings = cli.parse(["--status", "/home"])
        began = world.begin(settings, NOW, frozenset({B}), known)
        self.assertEqual([each.identity for each in began.destinations], ["/blocked", USB, BOX, NAS])
        self.assertIn("'x' is not absolute", str(began.source.failures))

    def test_none_to_judge(self) -> None:
        settings = cli.parse(["--status", "--max-age", "2d", "/home"])
        with self.assertRaisesRegex(Failure, "has no backup to judge"):
            world.begin(settings, NOW, frozenset(), NONE)

    def test_records_are_shown_as_they_are(self) -> None:
        """A run would owe the newest to one that is away, and put right what it finds."""
        noted = RECORDS | {Fact(OWED, USB, A), Fact(OWED, USB, B)}
        self.assertEqual(looked(known=noted).records, noted)

    def test_what_is_in_the_way_is_no_failure(self) -> None:
        """It is in the table."""
        self.assertEqual(survey(looked()).places[0].failures, ())
        self.assertFalse(survey(looked(seen={USB: SEEN[USB]})).failed)

    def test_what_is_under_way(self) -> None:
        """Neither is that; a run cannot send it, and says who does."""
        seen = Seen(UUID, Inventory(stages=(left(C, "process 7 on nas"),)))
        self.assertEqual(survey(looked(seen={USB: seen})).places[0].failures, ())
        began = world.begin(cli.parse(["-S", "/home", USB]), NOW, frozenset({C, D}), NONE)
        found = began.after(List(), Listed(HOME, snapshots(C, D))).after(Look((USB,)), {USB: seen})
        [failure] = found.destinations[0].outcome.failures
        self.assertEqual(failure.message, f"{C} is being received there already, by process 7 on nas")
        self.assertEqual(found.at(USB).target, Target(USB, (D,), under_way={C: "process 7 on nas"}))


class RowsTest(unittest.TestCase):
    def test_states(self) -> None:
        """Of what the source, a destination or a record knows."""
        self.assertEqual(
            [(row.snapshot, *row.states) for row in shown().rows],
            [
                (A, "-", "complete", "unknown", "delivered"),
                (B, "complete", "complete", "unknown", "missing"),
                (C, "complete", "partial", "outstanding", "missing"),
                (D, "complete", "foreign", "unknown", "missing"),
            ],
        )

    def test_states_at_a_folder(self) -> None:
        """Of one snapshot that the source has, whatever else is there of it."""
        complete, part, alive = backups(C), backups(partial=(C,)), Inventory(stages=(left(C, "process 7 on nas"),))
        copy = Subvolume(C, f"copy-{C}", readonly=False)
        owed = frozenset({Fact(OWED, USB, C)})
        table: dict[str, tuple[Inventory, Records, str]] = {
            "nothing": (Inventory(), NONE, "missing"),
            "nothing, and a lock": (Inventory(), owed, "outstanding"),
            "complete": (complete, owed, "complete"),
            "a stage": (part, owed, "partial"),
            "complete, and a stage": (replace(complete, stages=part.stages), NONE, "complete"),
            "a stage in use": (alive, owed, "under way"),
            "complete, and a stage in use": (replace(complete, stages=alive.stages), NONE, "complete"),
            "something else": (backups(files=(C,)), NONE, "foreign"),
            "something else, and a stage": (backups(files=(C,), partial=(C,)), NONE, "foreign"),
            "a foreign stage": (Inventory(stages=(Stage(f".{C}.receiving", C, foreign="why"),)), NONE, "missing"),
            "a mark": (replace(complete, stages=(Stage(f".{C}.receiving", C),)), NONE, "partial"),
            "a mark, of no older version": (
                replace(complete, stages=(Stage(f".{C}.receiving", C),)),
                frozenset({Fact(STAGED, USB, "", UUID)}),
                "complete",
            ),
            "writable": (Inventory({C: copy}), NONE, "foreign"),
            "writable, begun by an older version": (Inventory({C: copy}), owed, "partial"),
            "writable, begun by this one": (Inventory({C: copy}), owed | {Fact(STAGED, USB, "", UUID)}, "foreign"),
        }
        for what, (there, known, wanted) in table.items():
            with self.subTest(what):
                [row] = survey(looked(known=known, there=(C,), seen={USB: Seen(UUID, there)})).rows
                self.assertEqual(row.states, ("complete", wanted))

    def test_what_cannot_be_proved_to_be_ours(self) -> None:
        """It is no backup that counts, however new it is."""
        seen = {USB: Seen(UUID, backups(A, B, D))}
        for known, wanted in (
            (NONE, "other"),
            (frozenset({Fact(BACKUP, USB, D, UUID, f"copy-{D}")}), "complete"),
            (frozenset({Fact(BACKUP, USB, D, UUID, "another one")}), "other"),
        ):
            found = survey(looked(known=known, there=(A, B), seen=seen))
            self.assertEqual([row.states for row in found.rows], [("complete",) * 2] * 2 + [("-", wanted)])
            self.assertEqual(found.places[0].newest, B if wanted == "other" else D)

    def test_nothing_anywhere(self) -> None:
        self.assertEqual(survey(looked(known=NONE, there=(), seen={})).rows, ())

    def test_other_prefixes_do_not_count(self) -> None:
        theirs = frozenset({Fact(OWED, USB, "other-" + A), Fact(NEWEST, USB, "other-" + B, UUID)})
        rows = survey(looked(known=theirs, there=(A,), seen={})).rows
        age = NOW - datetime(2026, 1, 1, 12)
        self.assertEqual(rows, (Row(A, ("complete",), ("latest 1 of 3",), age=age),))


class PlaceTest(unittest.TestCase):
    def test_newest_and_owed(self) -> None:
        """What cannot be looked into lives from the records."""
        found = [(place.newest, place.reachable, place.owed) for place in shown().places]
        self.assertEqual(found, [(B, True, (C, D)), (A, False, (C,)), (A, True, (B, C, D))])
        self.assertEqual(shown().places[0].age, timedelta(days=2, hours=6, minutes=30))

    def test_the_future_is_no_newest(self) -> None:
        """A backup of a time to come does not hide that the newest one is old."""
        future = "20990101-000000"
        found = survey(looked("--max-age", "1d", seen={USB: Seen(UUID, backups(B, future))}))
        self.assertEqual((found.places[0].newest, found.places[0].too_old), (B, True))
        self.assertEqual([row.because for row in found.rows if row.snapshot == future], [()])
        found = survey(looked("--max-age", "1d", seen={USB: Seen(UUID, backups(future))}))
        self.assertEqual((found.places[0].newest, found.places[0].too_old), (None, True))

    def test_what_arrived_is_not_owed(self) -> None:
        """A run that was ended may leave it on record."""
        noted = frozenset({Fact(OWED, USB, B), Fact(OWED, USB, C)})
        [place] = survey(looked(known=noted, there=(A, B, C), seen={USB: Seen(UUID, backups(A, B))})).places
        self.assertEqual((place.newest, place.owed), (B, (C,)))

    def test_max_age(self) -> None:
        for limit, wanted in (("2d", [True] * 3), ("3d", [False, True, True]), ("", [False] * 3)):
            self.assertEqual([place.too_old for place in shown(limit).places], wanted)
        [nothing] = survey(looked("--max-age", "1d", known=NONE, seen={"/new": Seen(UUID, Inventory())})).places
        self.assertTrue(nothing.too_old)
        self.assertTrue(shown("2d").failed)


def many(*options: str) -> Survey:
    """Forty snapshots, and three destinations: one complete, one of two disks that take turns, and one that is down."""
    now, disk2 = datetime(2026, 3, 1, 8, 0), "/mnt/disk2/home"
    names = [(now - timedelta(days=days, hours=3)).strftime("%Y%m%d-%H%M%S") for days in range(40, 0, -1)]
    known = {
        Fact(NEWEST, USB, names[-1], UUID),
        Fact(NEWEST, disk2, names[-4], "x"),
        Fact(NEWEST, disk2, names[-9], "y"),
    }
    known |= {Fact(OWED, NAS, names[-2])}
    known |= {Fact(PARENT, NAS, names[-3]), Fact(NEWEST, NAS, names[-3], "x")}
    seen = {
        USB: Seen(UUID, backups(*names[3:8], *names[15:]), label="backup"),
        disk2: Seen("y", backups(*names[20:-8], partial=(names[-8],)), label="red"),
        NAS: Absent("down"),
    }
    settings = cli.parse(["--status", *options, "/home", *seen])
    found = world.begin(settings, now, frozenset(names), frozenset(known))
    found = found.after(List(), Listed(HOME, snapshots(*names)))
    return survey(found.after(Look(tuple(seen)), seen))


class TableTest(unittest.TestCase):
    POLICY = ("-N", "10", "-n", "7d 4w 12m", "--max-age", "2d")

    def test_golden(self) -> None:
        for width in (80, 120):
            golden = Path(__file__).with_name(f"status-{width}.txt").read_text()
            with self.subTest(width=width):
                self.assertEqual("\n".join(table(many(*self.POLICY), width, colour=False)) + "\n", golden)

    def test_few(self) -> None:
        self.assertEqual(
            "\n".join(table(shown("3d"), 80, colour=False)),
            """\
source: /home
1: /mnt/usb/home
2: ssh://nas/backups
3: shell://cat > /box

snapshot         age   1        2            3          source
20260101-120000  3 d   ok       unknown      delivered  -
20260102-120000  2 d   ok       unknown      missing    ok latest; needed by 2;
                                                        last at 1
20260103-120000  30 h  partial  outstanding  missing    ok latest; needed by 2
20260104-120000  6 h   foreign  unknown      missing    ok latest

1: /mnt/usb/home: newest complete backup 20260102-120000, 2 days 6 hours old, 2
   snapshots to send, since 20260103-120000
2: ssh://nas/backups: cannot be looked at, newest known backup 20260101-120000,
   3 days 6 hours old, 1 snapshot to send, since 20260103-120000, TOO OLD
3: shell://cat > /box: newest complete backup 20260101-120000, 3 days 6 hours
   old, 3 snapshots to send, since 20260102-120000, TOO OLD""",
        )

    def test_reasons(self) -> None:
        """In short; a destination is called by its number, a disk only when another one is there."""
        reasons = {
            ("keep all",): "ok",
            ("latest 2 of 3", "day 2026-01-02"): "ok latest",
            ("year 2026",): "ok year",
            ("newest",): "ok newest",
            ("lies in the future",): "ok future",
            (f"outstanding for {NAS}", f"parent of one outstanding for {USB}"): "ok; needed by 1, 2",
            (f"last delivered to {USB} (filesystem {UUID})",): "ok; last at 1",
            (f"last delivered to {USB} (filesystem x)",): "ok; last at 1 (other disk)",
            (f"not sent to {NAS}, where something else has its name",): "ok; blocked at 2",
            ("keep all", f"last delivered to {USB}2 (filesystem x)"): "ok; last at another DEST",
            (): "to delete",
        }
        for because, wanted in reasons.items():
            found = replace(shown(), rows=(Row(B, ("complete",) * 4, because, (("newest that the source has",),) * 3),))
            found = replace(found, places=(replace(found.places[0], disk=UUID), *found.places[1:]))
            line = table(found, 200, colour=False)[6]
            self.assertEqual(line, f"{B}  -    ok common  ok common  ok common  {wanted}")

    def test_width(self) -> None:
        for width in (80, 100, 120):
            self.assertLessEqual(max(map(len, table(many(*self.POLICY), width, colour=False))), width)

    def test_header_and_destinations_stay_in_sight(self) -> None:
        """On a terminal of 24 lines, with the newest snapshots."""
        seen = table(many(*self.POLICY), 80, colour=False)[-23:]
        self.assertIn("snapshot ", "\n".join(seen))
        for place in ("1: /mnt/usb/home", "2: /mnt/disk2/home", "3: ssh://nas/backups"):
            self.assertEqual(sum(line.startswith(place) for line in seen), 1)
        newest = [line[:15] for line in seen if line.startswith("2026")]
        self.assertEqual(newest, sorted(newest))
        self.assertEqual(newest[-1], "20260228-050000")
        self.assertEqual(sum(line.startswith("snapshot ") for line in table(shown(), 80, colour=False)), 1)

    def test_folded(self) -> None:
        """Rows that no destination has, when there are at least three of them."""
        names = [f"2026010{day}-000000" for day in range(1, 8)]
        states = [("complete", "-"), ("complete", "missing")]
        for count, state, wanted in (
            (2, states[0], None),
            (3, states[0], f"{names[0]} to {names[2]}: 3 at the source, at no destination"),
            (7, states[1], f"{names[0]} to {names[6]}: 7 at the source, missing at 1"),
            (3, ("-", "outstanding"), f"{names[0]} to {names[2]}: 3 on record, outstanding at 1"),
        ):
            place = Place("/b", True, None, None)
            lines = table(Survey(Outcome("/a"), tuple(Row(name, state) for name in names[:count]), (place,)), 80, False)
            self.assertEqual(lines[4:-2], [wanted] if wanted else [f"{name}  -    -  to delete" for name in names[:2]])
        needed = tuple(Row(name, states[1], ("outstanding for /b",)) for name in names[:3])
        self.assertEqual(len(table(Survey(Outcome("/a"), needed, (place,)), 80, False)[4:-2]), 3)

    def test_colour(self) -> None:
        plain, coloured = (table(shown("3d"), 80, colour) for colour in (False, True))
        self.assertNotIn("\x1b", "".join(plain))
        self.assertEqual(re.sub(r"\x1b\[\d+m", "", "\n".join(coloured)), "\n".join(plain))
        text = "\n".join(coloured)
        self.assertRegex(text, r"\x1b\[32mok *\x1b\[0m")
        for red in ("missing", "partial", "outstanding", "TOO OLD", "cannot be looked at,"):
            self.assertRegex(text, rf"\x1b\[31m{red} *\x1b\[0m")

    def test_no_snapshots_and_no_destinations(self) -> None:
        self.assertEqual(
            table(Survey(Outcome("/home")), 80, colour=False),
            ["source: /home", "no destination is on record: name those that you want to see after SOURCE"],
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
        usb = Outcome(
            USB,
            sent=(Sent(B, A, 1234, 0.25),),
            deleted=(A,),
            kept={B: ("latest 1 of 1",)},
            outstanding=(C,),
            verified=(Comparison(B, 3, 99, (Difference("x", "it is missing"),)),),
        )
        report = Report(Outcome("/home", failures=(Failure("full", "Free some."),)), B, (usb,))
        nothing = {
            "sent": [],
            "cleared": [],
            "deleted": [],
            "kept": None,
            "outstanding": [],
            "verified": [],
            "sizes": None,
        }
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
                        "sent": [{"snapshot": B, "parent": A, "bytes": 1234, "seconds": 0.25, "resumed_from": 0}],
                        "cleared": [],
                        "deleted": [A],
                        "kept": [{"name": B, "because": ["latest 1 of 1"]}],
                        "outstanding": [C],
                        "free_bytes": None,
                        "sizes": None,
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
        found = self.parsed("run", Report(Outcome("/home")), Failure("no such source", "Give one."))
        assert isinstance(found, dict)
        self.assertEqual(found["error"], {"message": "no such source", "hint": "Give one."})
        self.assertEqual(found["source"]["state"], "not reached")

    def test_status(self) -> None:
        found = self.parsed("status", shown())
        assert isinstance(found, dict)
        self.assertEqual(
            found["snapshots"][1],
            {
                "name": B,
                "source": "complete",
                "destinations": {USB: "complete", NAS: "unknown", BOX: "missing"},
                "because": [
                    "latest 3 of 3",
                    f"parent of one outstanding for {NAS}",
                    f"last delivered to {USB} (filesystem {UUID})",
                ],
                "kept": {USB: ["keep all", "newest that the source has, too"], NAS: [], BOX: []},
            },
        )
        self.assertEqual(
            found["destinations"][1],
            {
                "location": NAS,
                "label": None,
                "reachable": False,
                "newest": A,
                "age_seconds": 282600,
                "too_old": False,
                "owed": [C],
                "sizes": None,
                "partial": [],
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
                "sent": {"snapshot": A, "parent": None, "bytes": 5, "seconds": 0.1, "resumed_from": 0},
                "next_backup": "x y",
                "done": True,
                "failures": [],
            },
        )
