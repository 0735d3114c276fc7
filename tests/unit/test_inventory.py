"""What counts as a snapshot and as a backup."""

import unittest
from datetime import datetime, timezone

from btrfs_backup.model import inventory
from btrfs_backup.model.inventory import Holdings, Inventory, State
from btrfs_backup.model.snapshot import Subvolume

NAME = "20261123-042459"

# What the source may have under the name of the entry.
GONE = None
TAKEN = Subvolume(NAME, "taken", parent_uuid="home")
RECEIVED = Subvolume(NAME, "second-hand", parent_uuid="earlier", received_uuid="first-hand")


def entry(received: str, readonly: bool, parent: str = "", name: str = NAME) -> Subvolume:
    return Subvolume(name, f"copy-of-{name}", parent, received, readonly)


WHEN = datetime(2026, 11, 23, 23, 54, 51, tzinfo=timezone.utc)


class JudgeTest(unittest.TestCase):
    TABLE: tuple[tuple[str, bool, Subvolume | None, State], ...] = (
        # received UUID, read-only, the source's snapshot, what it is
        ("taken", True, TAKEN, State.COMPLETE),
        ("first-hand", True, RECEIVED, State.COMPLETE),
        ("taken", True, GONE, State.COMPLETE),
        ("anything", True, GONE, State.COMPLETE),
        ("anything", True, TAKEN, State.FOREIGN),
        ("home", True, TAKEN, State.FOREIGN),
        ("second-hand", True, RECEIVED, State.FOREIGN),
        ("earlier", True, RECEIVED, State.FOREIGN),
        ("", True, TAKEN, State.FOREIGN),
        ("", True, RECEIVED, State.FOREIGN),
        ("", True, GONE, State.FOREIGN),
        ("", False, TAKEN, State.PARTIAL),
        ("", False, RECEIVED, State.PARTIAL),
        ("", False, GONE, State.PARTIAL),
        ("taken", False, TAKEN, State.FOREIGN),
        ("anything", False, TAKEN, State.FOREIGN),
        ("first-hand", False, RECEIVED, State.FOREIGN),
        ("anything", False, GONE, State.FOREIGN),
    )

    def test_table(self) -> None:
        """An entry is complete, partial or foreign; a parent UUID changes nothing; all but complete has a reason."""
        for received, readonly, source, wanted in self.TABLE:
            for parent in ("", "some-parent"):
                with self.subTest(received=received, readonly=readonly, source=source, parent=parent):
                    state, why = inventory.judge(entry(received, readonly, parent), source)
                    self.assertIs(state, wanted)
                    self.assertEqual(bool(why), wanted is not State.COMPLETE)

    def test_reasons_differ(self) -> None:
        """Each kind of what does not count is told in its own words."""
        whys = {
            inventory.judge(entry("taken", False), TAKEN)[1],
            inventory.judge(entry("", False), TAKEN)[1],
            inventory.judge(entry("", True), TAKEN)[1],
            inventory.judge(entry("other", True), TAKEN)[1],
        }
        self.assertEqual(len(whys), 4)

    def test_what_somebody_made_writable_is_no_transfer_that_was_cut_off(self) -> None:
        """Whether btrfs-progs cleared its received UUID, or it is a copy of the backup of that very name."""
        received_once = Subvolume(NAME, "u", "p", readonly=False, received_at=WHEN)
        for source in (TAKEN, RECEIVED, GONE):
            self.assertIs(inventory.judge(received_once, source)[0], State.FOREIGN)
        table = (
            (TAKEN, "taken", State.FOREIGN),
            (RECEIVED, "first-hand", State.FOREIGN),
            (TAKEN, "an earlier one", State.PARTIAL),
            (RECEIVED, "second-hand", State.PARTIAL),
            (GONE, "taken", State.PARTIAL),
        )
        for source, parent_received, wanted in table:
            with self.subTest(source=source, parent_received=parent_received):
                copy = Subvolume(NAME, "u", "p", readonly=False, parent_received_uuid=parent_received)
                self.assertIs(inventory.judge(copy, source)[0], wanted)

    def test_cut_off_at_the_last_step(self) -> None:
        """Received and still writable: told from a change by whether its transfer is known to have begun only."""
        table = (
            (TAKEN, "taken", State.PARTIAL),
            (RECEIVED, "first-hand", State.PARTIAL),
            (TAKEN, "anything", State.FOREIGN),
            (GONE, "taken", State.FOREIGN),
        )
        for source, received, wanted in table:
            with self.subTest(source=source, received=received):
                self.assertIs(inventory.judge(entry(received, False), source, begun=True)[0], wanted)
                self.assertIs(inventory.judge(entry(received, False), source)[0], State.FOREIGN)
                seen = Inventory(subvolumes={NAME: entry(received, False)})
                held = inventory.backups(seen, {NAME: source} if source else {}, [NAME])
                self.assertEqual(bool(held.partial), wanted is State.PARTIAL)

    def test_second_hop(self) -> None:
        """A copy of a copy is complete where the source's snapshot was itself received."""
        first = Subvolume(NAME, "a", parent_uuid="home")
        second = Subvolume(NAME, "b", received_uuid=first.stream_uuid)
        third = Subvolume(NAME, "c", received_uuid=second.stream_uuid)
        self.assertIs(inventory.judge(second, first)[0], State.COMPLETE)
        self.assertIs(inventory.judge(third, second)[0], State.COMPLETE)
        self.assertIs(inventory.judge(third, first)[0], State.COMPLETE)
        self.assertEqual(third.received_uuid, "a")

    def test_plain_copy_within_the_destination(self) -> None:
        """A read-only snapshot made of a backup by hand carries no received UUID: not a backup."""
        self.assertIs(inventory.judge(entry("", True, parent="copy"), TAKEN)[0], State.FOREIGN)


class ArrivedTest(unittest.TestCase):
    def test_good(self) -> None:
        for source, received in ((TAKEN, "taken"), (RECEIVED, "first-hand")):
            with self.subTest(source=source):
                self.assertEqual(inventory.arrived(entry(received, True), source, False), "")
                self.assertEqual(inventory.arrived(entry(received, True, parent="p"), source, True), "")

    def test_bad(self) -> None:
        """Not complete, or with a parent UUID when it should have none, or without one when it should."""
        table = [
            (entry("", False), False),
            (entry("", False, parent="p"), True),
            (entry("", True), False),
            (entry("taken", False), False),
            (entry("other", True), False),
            (entry("other", True, parent="p"), True),
            (entry("taken", True, parent="p"), False),
            (entry("taken", True), True),
        ]
        for received, incremental in table:
            with self.subTest(received=received, incremental=incremental):
                self.assertNotEqual(inventory.arrived(received, TAKEN, incremental), "")

    def test_parent_mismatches_are_told_apart(self) -> None:
        self.assertIn("increment", inventory.arrived(entry("taken", True, parent="p"), TAKEN, False))
        self.assertIn("not received on top of its parent", inventory.arrived(entry("taken", True), TAKEN, True))

    def test_own_uuid_of_a_received_source_is_not_enough(self) -> None:
        self.assertNotEqual(inventory.arrived(entry("second-hand", True), RECEIVED, False), "")


class SnapshotsTest(unittest.TestCase):
    def test_empty(self) -> None:
        self.assertEqual(inventory.snapshots(Inventory()), Holdings())
        self.assertEqual(inventory.snapshots(Inventory(exists=False)), Holdings())

    def test_what_counts_at_the_source(self) -> None:
        """Read-only subvolumes, received or not; a writable one cannot be sent, a plain file is none."""
        plain = Subvolume("20260101-000000", "1", "home")
        writable = Subvolume("20260102-000000", "2", "home", readonly=False)
        received = Subvolume("20260103-000000", "3", "", "r")
        seen = Inventory(
            subvolumes={each.name: each for each in (plain, writable, received)},
            others=frozenset({"20260105-000000", "20260104-000000"}),
        )
        held = inventory.snapshots(seen)
        self.assertEqual(dict(held.complete), {plain.name: plain, received.name: received})
        self.assertEqual(list(held.complete), [plain.name, received.name])
        self.assertEqual(held.partial, ())
        self.assertEqual(list(held.foreign), [writable.name, "20260104-000000", "20260105-000000"])
        self.assertTrue(all(held.foreign.values()))


class BackupsTest(unittest.TestCase):
    def test_empty(self) -> None:
        self.assertEqual(inventory.backups(Inventory(), {NAME: TAKEN}), Holdings())
        self.assertEqual(inventory.backups(Inventory(exists=False), {}), Holdings())

    def test_each_entry_gets_one_place(self) -> None:
        """Each entry is judged by the source's snapshot of its own name."""
        sources = {name: Subvolume(name, f"uuid-{name}", "home") for name in ("a", "b", "c", "d", "f")}
        subvolumes = {
            "a": entry("uuid-a", True, name="a"),
            "b": entry("", False, name="b"),
            "c": entry("uuid-a", True, name="c"),
            "d": entry("uuid-d", False, name="d"),
            "gone": entry("uuid-gone", True, name="gone"),
            "gone-partial": entry("", False, name="gone-partial"),
            "made-here": entry("", True, name="made-here"),
        }
        held = inventory.backups(Inventory(subvolumes=subvolumes, others=frozenset({"z", "f"})), sources)
        self.assertEqual(dict(held.complete), {"a": subvolumes["a"], "gone": subvolumes["gone"]})
        self.assertEqual(held.partial, ("b", "gone-partial"))
        self.assertEqual(list(held.foreign), ["c", "d", "made-here", "f", "z"])
        self.assertTrue(all(held.foreign.values()))

    def test_all_entries_are_accounted_for(self) -> None:
        for received in ("", "uuid"):
            for readonly in (False, True):
                for sources in ({}, {"x": Subvolume("x", "uuid")}, {"x": Subvolume("x", "other")}):
                    with self.subTest(received=received, readonly=readonly, sources=sources):
                        seen = Inventory(subvolumes={"x": entry(received, readonly, name="x")})
                        held = inventory.backups(seen, sources)
                        self.assertEqual([*held.complete, *held.partial, *held.foreign], ["x"])


class NamesTest(unittest.TestCase):
    def test_names(self) -> None:
        seen = Inventory(subvolumes={"a": entry("", True, name="a")}, others=frozenset({"b"}))
        self.assertEqual(seen.names, {"a", "b"})
        self.assertEqual(Inventory().names, frozenset())

    def test_what_is_not_told(self) -> None:
        """A folder is there unless said otherwise, and on a filesystem that cannot be told."""
        self.assertEqual(Inventory(), Inventory({}, frozenset(), frozenset(), True))


if __name__ == "__main__":
    unittest.main()
