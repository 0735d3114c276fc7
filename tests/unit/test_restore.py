"""Which backup is restored, on top of what, and where its copies go."""

import unittest
from dataclasses import replace
from datetime import datetime
from unittest import mock

from btrfs_backup.commands import places
from btrfs_backup.commands import restore as command
from btrfs_backup.errors import Failure
from btrfs_backup.model import restoration as restore
from btrfs_backup.model.cutter import Part, mark
from btrfs_backup.model.inventory import UNWRITTEN, Holdings, Inventory
from btrfs_backup.model.outcome import Restoration, Sent
from btrfs_backup.model.records import NEWEST, OWED, Fact
from btrfs_backup.model.restoration import Arrival, Plan, Progress, Receive, Site
from btrfs_backup.model.snapshot import Naming, Subvolume, is_backup_name
from btrfs_backup.model.stage import Stage
from btrfs_backup.system import state
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host
from btrfs_backup.system.mounts import Mount
from btrfs_backup.system.paths import PathInfo

A, B, C, D = (f"2026010{day}-120000" for day in (1, 2, 3, 4))


def backup(name: str, parent: str = "") -> Subvolume:
    """A complete backup of the snapshot `name`."""
    return Subvolume(name, f"backup-of-{name}", parent and f"backup-of-{parent}", f"uuid-of-{name}")


def snapshot(name: str) -> Subvolume:
    """A snapshot as it is at its source."""
    return Subvolume(name, f"uuid-of-{name}", "home")


def received(name: str) -> Subvolume:
    """What was restored earlier."""
    return Subvolume(name, f"copy-of-{name}", "", f"uuid-of-{name}")


def partial(name: str) -> Subvolume:
    return Subvolume(name, f"part-of-{name}", readonly=False)


def changed(name: str) -> Subvolume:
    return Subvolume(name, f"changed-{name}", "", f"uuid-of-{name}", readonly=False)


def parts_of(count: int) -> tuple[Subvolume, ...]:
    """So many parts of a stream, of which the last one is not whole, with the marks that tell that they are written."""
    salt = "0" * 16
    parts = [Part(100 * number, f"{number:032}", salt) for number in range(1, count + 1)]
    held = [
        Subvolume(part.name, f"part-{number}", f"part-{number - 1}", part.uuid, number < count, id=number)
        for number, part in enumerate(parts, 1)
    ]
    return (*held, *(Subvolume(mark(salt, number), f"mark-{number}", id=100 + number) for number in (1, 2)))


def named(*subvolumes: Subvolume) -> dict[str, Subvolume]:
    return {each.name: each for each in subvolumes}


class SiteTest(unittest.TestCase):
    def test_where_the_copy_is(self) -> None:
        table: list[tuple[str, str, bool]] = [
            # -f, the folder of the copy, whether that is inside the destination
            ("snapshot", "/pool/home/snapshot", True),
            ("a/../b c/", "/pool/home/b c", True),
            (".", "/pool/home", True),
            ("/pool/home/x", "/pool/home/x", True),
            ("../snaps", "/pool/snaps", False),
            ("/pool/home2", "/pool/home2", False),
            ("..", "/pool", False),
            ("/", "/", False),
        ]
        for given, folder, inside in table:
            with self.subTest(given):
                site = restore.site("/pool/home", given)
                self.assertEqual(site, Site("/pool/home", folder))
                self.assertEqual(site.inside, inside)

    def test_folder_in_another_copy(self) -> None:
        self.assertEqual(restore.site("/pool/home", "a/b").folder_in("/usb/x"), "/usb/x/a/b")
        self.assertEqual(restore.site("/pool/home", ".").folder_in("/usb/x"), "/usb/x")


class NamingTest(unittest.TestCase):
    def test_a_backup_tells_its_prefix(self) -> None:
        self.assertEqual(restore.naming_of(f"home-{A}", Naming()), Naming("home-"))
        self.assertEqual(restore.naming_of(f"home-{A}", Naming("home-")), Naming("home-"))
        self.assertEqual(restore.naming_of(A, Naming()), Naming())

    def test_another_prefix_was_asked_for(self) -> None:
        for name, prefix in ((f"home-{A}", "root-"), (f"home-{A}", "home"), (A, "x"), (f"home-{A}", "home-2026")):
            with self.subTest(name=name, prefix=prefix), self.assertRaises(Failure) as raised:
                restore.naming_of(name, Naming(prefix))
            self.assertIn(f"Its prefix is '{name[:-15]}'", raised.exception.hint)

    def test_names(self) -> None:
        for name in (A, f"x{A}", f"20260101-000000{A}"):
            self.assertTrue(is_backup_name(name), name)
        for name in ("", "home", "20261301-000000", f"{A}x", A[:-1], f"{A}\n"):
            self.assertFalse(is_backup_name(name), name)

    def test_no_backups(self) -> None:
        table: dict[tuple[str, ...], str] = {
            (): "SOURCE is a backup or a folder of backups, DEST the subvolume that is to be made of it.",
            ("x", "20261301-000000"): "SOURCE is a backup or",
            (A,): "Give the right prefix with '-p'. Prefixes there: none.",
            (f"b{A}", f"a{A}", f"a{B}", "x"): "Prefixes there: 'a', 'b'.",
            tuple(f"{letter}{A}" for letter in "abcdefghij"): "'g', 'h', ...",
        }
        for entries, hint in table.items():
            with self.subTest(entries):
                failure = restore.no_backups("/usb", Naming("p-"), entries)
                self.assertEqual(failure.message, "no backups named p-YYYYMMDD-HHMMSS are in '/usb'")
                self.assertIn(hint, failure.hint)


class RestorableTest(unittest.TestCase):
    def test_what_counts(self) -> None:
        table: list[tuple[str, list[Subvolume], list[str], list[str]]] = [
            # what is there; what can be restored from a folder of backups, and from one of snapshots
            ("backups", [backup(A), backup(B)], [A, B], [A, B]),
            ("a newer part", [backup(A), partial(B)], [A], [A]),
            ("a newer one that was changed", [backup(A), changed(B)], [A], [A]),
            ("a newer one that was not received", [backup(A), snapshot(B)], [A], [A, B]),
            ("snapshots only", [snapshot(A), snapshot(B), partial(C)], [A, B], [A, B]),
            ("parts only", [partial(A)], [], []),
        ]
        for what, there, from_backups, from_snapshots in table:
            for snapshots, wanted in ((False, from_backups), (True, from_snapshots)):
                with self.subTest(what, snapshots=snapshots):
                    held = restore.restorable(Inventory(subvolumes=named(*there), others=frozenset({D})), snapshots)
                    self.assertEqual(list(held.complete), wanted)
                    self.assertEqual([*held.foreign], [*(n.name for n in there if n.name not in wanted), D])
                    self.assertTrue(all(held.foreign.values()))

    def test_marks_of_older_versions(self) -> None:
        """What one stands for may lack data; a stage says nothing of what is published."""
        there = named(backup(A), backup(B))
        for stage, wanted in (
            (Stage(f".{B}.receiving", B), [A]),
            (Stage(f".{B}.receiving", B, ("nas-1-00000000",)), [A, B]),
            (Stage(f".{B}.receiving", B, foreign="it is a file"), [A, B]),
        ):
            for snapshots in (False, True):
                with self.subTest(stage=stage, snapshots=snapshots):
                    held = restore.restorable(Inventory(there, stages=(stage,)), snapshots)
                    self.assertEqual(list(held.complete), wanted)
                    self.assertEqual(held.foreign, {} if B in wanted else {B: UNWRITTEN})

    def test_choice(self) -> None:
        held = Holdings(named(backup(A), backup(B)), (), {C: "a part", "20250101-000000": "a file"})
        self.assertEqual(restore.choose(held, "", "/usb", Naming(), datetime(2028, 1, 1)), backup(B))
        self.assertEqual(restore.choose(held, "", "/usb", Naming(), datetime(2026, 1, 1, 11)), backup(A))
        self.assertEqual(restore.choose(held, A, "/usb", Naming(), datetime(2028, 1, 1)), backup(A))
        with self.assertRaisesRegex(Failure, f"'{C}' in '/usb' cannot be restored: a part"):
            restore.choose(held, C, "/usb", Naming(), datetime(2028, 1, 1))
        with self.assertRaisesRegex(Failure, f"no complete backup in '/usb': {C} is none: a part"):
            restore.choose(Holdings({}, (), held.foreign), "", "/usb", Naming(), datetime(2028, 1, 1))

    def test_what_may_lack_data(self) -> None:
        """What to type when it is all that there is, wherever it is."""
        held = Holdings(named(backup(A)), (), {C: UNWRITTEN})
        for place, wanted in (
            ("/usb", f"rmdir /usb/.{C}.receiving"),
            ("/my usb", f"rmdir '/my usb/.{C}.receiving'"),
        ):
            with self.subTest(place), self.assertRaises(Failure) as raised:
                restore.choose(held, C, place, Naming(), datetime(2028, 1, 1))
            self.assertTrue(raised.exception.hint.endswith(wanted), raised.exception.hint)


class DecideTest(unittest.TestCase):
    SITE = Site("/pool/home", "/pool/snaps")
    BACKUPS = named(backup(A), backup(B, A), backup(C, B))

    def plan(
        self, there: list[Subvolume], visible: bool = False, incremental: bool = True, foreign: str = "", name: str = C
    ) -> Plan:
        held = Holdings(named(*there), (), {foreign: "it is writable"} if foreign else {})
        return restore.decide(self.BACKUPS[name], self.BACKUPS, self.SITE, held, visible, incremental)

    def test_parents(self) -> None:
        table: list[tuple[list[Subvolume], str | None]] = [
            ([], None),
            ([snapshot(A)], A),
            ([received(A)], A),
            ([snapshot(A), received(B)], B),
            ([snapshot(D)], None),
            # A name proves nothing.
            ([Subvolume(A, "other")], None),
            ([Subvolume(A, "other", "", "other too")], None),
            ([snapshot(A), Subvolume(B, "other")], A),
        ]
        for there, parent in table:
            with self.subTest(there=there):
                self.assertEqual(self.plan(there), Plan(C, self.SITE, parent))
                self.assertEqual(self.plan(there, incremental=False), Plan(C, self.SITE))
                self.assertEqual(self.plan(there, visible=True), Plan(C, self.SITE, C))
        self.assertEqual(self.plan([snapshot(B), snapshot(C)], name=A).parent, B)

    def test_there_already(self) -> None:
        for there in (snapshot(C), received(C)):
            for visible in (False, True):
                for incremental in (False, True):
                    plan = self.plan([there, snapshot(A)], visible, incremental)
                    self.assertEqual(plan, Plan(C, self.SITE, there=True))

    def test_in_the_way(self) -> None:
        for there, foreign in (([Subvolume(C, "other")], ""), ([snapshot(A)], C)):
            with self.subTest(there=there), self.assertRaises(Failure) as raised:
                self.plan(there, foreign=foreign)
            self.assertIn(f"'/pool/snaps/{C}' is in the way", raised.exception.message)
        self.assertEqual(self.plan([snapshot(A)], foreign=B).parent, A)

    def test_words(self) -> None:
        self.assertEqual(self.plan([]).how, "in full")
        self.assertEqual(self.plan([snapshot(A)]).how, f"on top of {A}")
        self.assertIn("sharing its data", self.plan([], visible=True).how)
        self.assertIn("there already", self.plan([snapshot(C)]).how)
        self.assertEqual(self.plan([]).copy, f"/pool/snaps/{C}")


class ProgressTest(unittest.TestCase):
    """A restore, step by step."""

    PLAN = Plan(C, Site("/pool/home", "/pool/snaps"), A)
    REPORT = Restoration("/usb", "/pool/home", C)
    SENT = Sent(C, A, 1000, 1.0)
    STUCK = Failure("it broke", "Mend it.")

    def begun(self, parts: int = 0, plan: Plan = PLAN) -> Progress:
        left = Stage(f".{C}.receiving", C, ("host-1-00000000",), parts_of(parts)) if parts else None
        return restore.begin(plan, self.REPORT, left, far=False)

    def after(self, now: Progress, came: Arrival) -> Progress:
        assert now.receive
        return now.after(now.receive, came)

    def test_beginning(self) -> None:
        self.assertEqual(self.begun().receive, Receive(A))
        self.assertIsNone(self.begun(plan=replace(self.PLAN, there=True)).receive)
        self.assertFalse(self.begun(plan=replace(self.PLAN, there=True)).keeps_parts)

    def test_arrived(self) -> None:
        now = self.after(self.begun(), Arrival(self.SENT))
        self.assertEqual((now.receive, now.report.sent, now.failure), (None, self.SENT, None))
        self.assertFalse(now.keeps_parts)

    def test_parent_of_no_use(self) -> None:
        """Then it is sent in full, once."""
        came = named(partial(C))
        for arrival, why in (
            (Arrival(self.SENT, self.STUCK, blames_parent=True, found=tuple(came.values())), str(self.STUCK)),
            (Arrival(self.SENT, wrong="it is odd", found=tuple(came.values())), "it is odd"),
        ):
            with self.subTest(why):
                now = self.after(self.begun(), arrival)
                assert now.receive and now.receive.because
                self.assertEqual((now.receive.parent, now.receive.useless), (None, (partial(C),)))
                self.assertEqual(str(now.receive.because), f"restoring {C} failed: {why}\n  Sending it in full.")
                again = self.after(now, arrival)
                assert again.failure
                self.assertIn(C, again.failure.message)
                self.assertEqual(again.keeps_parts, not arrival.wrong)

    def test_another_was_taken_for_the_parent(self) -> None:
        """Then that is named by its UUID; when that does not help, it is sent in full."""
        arrival = Arrival(self.SENT, wrong="it is odd", mistaken=True, found=(partial(C),))
        now = self.after(self.begun(), arrival)
        assert now.receive
        why = f"another subvolume was taken for {A}\n  Sending it again, so that the parent is named by its UUID there."
        self.assertEqual((now.receive.parent, now.receive.named, str(now.receive.because)), (A, True, why))
        self.assertEqual(now.receive.useless, (partial(C),))
        now = self.after(now, arrival)
        assert now.receive
        self.assertEqual((now.receive.parent, now.receive.named), (None, False))

    def test_cut_off(self) -> None:
        """What has arrived is of use, unless it is spoiled."""
        for spoiled in (False, True):
            now = self.after(self.begun(), Arrival(self.SENT, Failure("it broke"), spoiled=spoiled))
            self.assertEqual(str(now.failure), f"restoring {C} failed: it broke\n  With '-I' it is sent in full.")
            self.assertEqual(now.keeps_parts, not spoiled)

    def test_another_stream(self) -> None:
        """It goes on behind what the stream agrees with, and is not asked again for ever."""
        now = self.begun(3)
        assert now.receive
        ahead = now.receive.ahead
        self.assertEqual(len(ahead), 2)
        once = self.after(now, Arrival(self.SENT, self.STUCK, unproved=ahead[:1]))
        assert once.receive
        self.assertEqual((once.receive.parent, once.receive.ahead, once.receive.because), (A, ahead[:1], self.STUCK))
        self.assertEqual({*once.receive.useless, *once.earlier}, set(now.earlier))
        twice = self.after(once, Arrival(self.SENT, self.STUCK, unproved=()))
        assert twice.receive
        self.assertEqual((twice.receive.ahead, twice.earlier), ((), ()))
        self.assertTrue(self.after(twice, Arrival(self.SENT, self.STUCK, unproved=())).failure)


class LaggardsTest(unittest.TestCase):
    """Destinations whose newest backup is older than what is restored."""

    KNOWN = frozenset(
        {
            Fact(NEWEST, "/usb", A, "disk-1"),
            Fact(NEWEST, "ssh://nas/b", C, "disk-2"),
            Fact(NEWEST, "/gone", "20250101-120000", "disk-3"),
            Fact(OWED, "/other", A),
        }
    )

    def told(self, own: bool, site: Site) -> list[str]:
        folder = Folder(
            Host(), "/pool/my home/snapshot", PathInfo("/pool", True, True, False, Mount("/", "/", "btrfs"))
        )
        beside = Holdings(named(snapshot(A), snapshot(B), snapshot(C)))
        backup = places.Backup(snapshot(C), folder, Naming(), beside, own)
        with (
            mock.patch.object(state, "read", return_value=(self.KNOWN, ())),
            self.assertNoLogs() if not own or site.folder == folder.path else self.assertLogs() as logs,
        ):
            command._tell_of_laggards(backup, Plan(C, site))
        return logs.output if logs else []

    def test_told(self) -> None:
        """Only of parents that are there and stay behind in the folder of another source."""
        [said] = self.told(True, Site("/pool/new", "/pool/new/snapshot"))
        self.assertIn(f"/usb: its newest backup is {A}, which stays behind in '/pool/my home/snapshot': its next", said)
        self.assertIn("restore with '-f '/pool/my home/snapshot''", said)
        self.assertEqual(self.told(True, Site("/pool/new", "/pool/my home/snapshot")), [])
        self.assertEqual(self.told(False, Site("/pool/new", "/pool/new/snapshot")), [])


if __name__ == "__main__":
    unittest.main()
