"""What counts as a snapshot and as a backup."""

import unittest
from datetime import datetime, timezone

from btrfs_backup.model import inventory
from btrfs_backup.model.inventory import UNWRITTEN, Holdings, Inventory, State
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import Stage

NAME = "20261123-042459"

# What the source may have under the name of the entry.
GONE = None
TAKEN = Subvolume(NAME, "taken", parent_uuid="home")
RECEIVED = Subvolume(NAME, "second-hand", parent_uuid="earlier", received_uuid="first-hand")


def entry(received: str, readonly: bool, parent: str = "", name: str = NAME) -> Subvolume:
    return Subvolume(name, f"copy-of-{name}", parent, received, readonly)


WHEN = datetime(2026, 11, 23, 23, 54, 51, tzinfo=timezone.utc)


class JudgeTest(unittest.TestCase):
    TABLE: tuple[tuple[str, bool, Subvolume | None, State, State], ...] = (
        # received UUID, read-only, the source's snapshot, what it is, what it is when an older version began it
        ("taken", True, TAKEN, State.COMPLETE, State.COMPLETE),
        ("first-hand", True, RECEIVED, State.COMPLETE, State.COMPLETE),
        ("taken", True, GONE, State.COMPLETE, State.COMPLETE),
        ("anything", True, GONE, State.COMPLETE, State.COMPLETE),
        ("anything", True, TAKEN, State.FOREIGN, State.FOREIGN),
        ("home", True, TAKEN, State.FOREIGN, State.FOREIGN),
        ("second-hand", True, RECEIVED, State.FOREIGN, State.FOREIGN),
        ("earlier", True, RECEIVED, State.FOREIGN, State.FOREIGN),
        ("", True, TAKEN, State.FOREIGN, State.FOREIGN),
        ("", True, RECEIVED, State.FOREIGN, State.FOREIGN),
        ("", True, GONE, State.FOREIGN, State.FOREIGN),
        ("", False, TAKEN, State.FOREIGN, State.PARTIAL),
        ("", False, RECEIVED, State.FOREIGN, State.PARTIAL),
        ("", False, GONE, State.FOREIGN, State.FOREIGN),
        ("taken", False, TAKEN, State.FOREIGN, State.PARTIAL),
        ("anything", False, TAKEN, State.FOREIGN, State.FOREIGN),
        ("first-hand", False, RECEIVED, State.FOREIGN, State.PARTIAL),
        ("second-hand", False, RECEIVED, State.FOREIGN, State.FOREIGN),
        ("anything", False, GONE, State.FOREIGN, State.FOREIGN),
        ("taken", False, GONE, State.FOREIGN, State.FOREIGN),
    )

    def test_table(self) -> None:
        """An entry is complete, partial or foreign; a parent UUID changes nothing; all but complete has a reason."""
        for received, readonly, source, *wanted in self.TABLE:
            for parent in ("", "some-parent"):
                for begun, state in zip((False, True), wanted, strict=True):
                    with self.subTest(received=received, readonly=readonly, source=source, parent=parent, begun=begun):
                        found, why = inventory.judge(entry(received, readonly, parent), source, begun)
                        self.assertIs(found, state)
                        self.assertEqual(bool(why), state is not State.COMPLETE)

    def test_marked(self) -> None:
        """What is marked may lack data even when it looks complete; else it is as if it were begun."""
        for received, readonly, source, plain, begun in self.TABLE:
            with self.subTest(received=received, readonly=readonly, source=source):
                wanted = State.PARTIAL if plain is State.COMPLETE else begun
                for both in (False, True):
                    found, why = inventory.judge(entry(received, readonly), source, both, marked=True)
                    self.assertIs(found, wanted)
                    self.assertEqual(why == UNWRITTEN, plain is State.COMPLETE)

    def test_reasons_differ(self) -> None:
        """Each kind of what does not count is told in its own words."""
        whys = {
            inventory.judge(entry("taken", False), TAKEN)[1],
            inventory.judge(entry("taken", False), TAKEN, begun=True)[1],
            inventory.judge(entry("taken", True), TAKEN, marked=True)[1],
            inventory.judge(entry("", False), TAKEN)[1],
            inventory.judge(entry("", True), TAKEN)[1],
            inventory.judge(entry("other", True), TAKEN)[1],
            inventory.judge(Subvolume(NAME, "u", "p", readonly=False, parent_received_uuid="taken"), TAKEN)[1],
        }
        self.assertEqual(len(whys), 7)

    def test_what_somebody_made_writable_is_no_transfer_that_was_cut_off(self) -> None:
        """Whether btrfs-progs cleared its received UUID, or it is a copy of the backup of that very name."""
        received_once = Subvolume(NAME, "u", "p", readonly=False, received_at=WHEN)
        table = (
            # the source's snapshot, the received UUID of its parent, what it is when an older version began it
            (TAKEN, "taken", State.FOREIGN),
            (RECEIVED, "first-hand", State.FOREIGN),
            (TAKEN, "an earlier one", State.PARTIAL),
            (RECEIVED, "second-hand", State.PARTIAL),
            (GONE, "taken", State.FOREIGN),
        )
        for begun, marked in ((False, False), (True, False), (False, True), (True, True)):
            for source in (TAKEN, RECEIVED, GONE):
                self.assertIs(inventory.judge(received_once, source, begun, marked)[0], State.FOREIGN)
            for source, parent_received, wanted in table:
                with self.subTest(source=source, parent_received=parent_received, begun=begun, marked=marked):
                    copy = Subvolume(NAME, "u", "p", readonly=False, parent_received_uuid=parent_received)
                    state = wanted if begun or marked else State.FOREIGN
                    self.assertIs(inventory.judge(copy, source, begun, marked)[0], state)

    def test_cut_off_before_the_last_step(self) -> None:
        """The received UUID is set together with the time of reception; only then it becomes read-only."""
        part = Subvolume(NAME, "u", received_uuid="taken", readonly=False, received_at=WHEN)
        self.assertIs(inventory.judge(part, TAKEN)[0], State.FOREIGN)
        self.assertIs(inventory.judge(part, TAKEN, begun=True)[0], State.PARTIAL)
        self.assertIs(inventory.judge(part, RECEIVED, begun=True)[0], State.FOREIGN)

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


class ReceivedTest(unittest.TestCase):
    def test_good(self) -> None:
        for source, received in ((TAKEN, "taken"), (RECEIVED, "first-hand")):
            with self.subTest(source=source):
                self.assertEqual(inventory.received(entry(received, True), source, ""), "")
                self.assertEqual(inventory.received(entry(received, True, parent="p"), source, "p"), "")

    def test_bad(self) -> None:
        """Not complete, or built upon anything but that which was meant."""
        table = [
            (entry("", False), "", "it is writable, and not a backup"),
            (entry("", False, parent="p"), "p", "it is writable, and not a backup"),
            (entry("", True), "", "has no received UUID"),
            (entry("", True, parent="p"), "p", "has no received UUID"),
            (entry("taken", False), "", inventory.CHANGED),
            (entry("other", True), "", "a copy of another snapshot"),
            (entry("other", True, parent="p"), "p", "a copy of another snapshot"),
            (entry("taken", True, parent="p"), "", "received as an increment"),
            (entry("taken", True), "p", "built upon another subvolume"),
            (entry("taken", True, parent="twin of p"), "p", "built upon another subvolume"),
        ]
        for received, parent, words in table:
            with self.subTest(received=received, parent=parent):
                self.assertIn(words, inventory.received(received, TAKEN, parent))

    def test_own_uuid_of_a_received_source_is_not_enough(self) -> None:
        self.assertIn("another snapshot", inventory.received(entry("second-hand", True), RECEIVED, ""))


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
        seen = Inventory(subvolumes=subvolumes, others=frozenset({"z", "f"}))
        held = inventory.backups(seen, sources)
        self.assertEqual(dict(held.complete), {"a": subvolumes["a"], "gone": subvolumes["gone"]})
        self.assertEqual(held.partial, ())
        self.assertEqual(list(held.foreign), ["b", "c", "d", "gone-partial", "made-here", "f", "z"])
        self.assertTrue(all(held.foreign.values()))
        self.assertEqual(held.under_way, {})
        for old in (False, True):
            begun = inventory.backups(seen, sources, [*subvolumes, "z", "nowhere"], old)
            self.assertEqual(begun.complete, held.complete)
            self.assertEqual(begun.partial, ("b", "d") if old else ())
            parts = ["b", "d"] if old else []
            self.assertEqual(list(begun.foreign), [name for name in held.foreign if name not in parts])

    def test_marks(self) -> None:
        """Of older versions: they count as long as these may have been the last to write there."""
        seen = Inventory({NAME: entry("taken", True)}, stages=(Stage(f".{NAME}.receiving", NAME),))
        for old, begun in ((True, []), (True, [NAME]), (False, []), (False, [NAME])):
            with self.subTest(old=old, begun=begun):
                held = inventory.backups(seen, {NAME: TAKEN}, begun, old)
                self.assertEqual((list(held.complete), held.partial), ([], (NAME,)) if old else ([NAME], ()))

    def test_stages(self) -> None:
        """What is left in one is of a transfer that was cut off, unless that is alive; what is foreign is nobody's."""
        place = f".{NAME}.receiving"
        table: dict[str, tuple[Stage, bool, tuple[str, ...], dict[str, str]]] = {
            # the stage, whether its backup is there and complete; the partial, the living
            "empty": (Stage(place, NAME), False, (), {}),
            "cut off": (Stage(place, NAME, ("h-1-00000000",)), False, (NAME,), {}),
            "cut off when it was published": (Stage(place, NAME, ("h-1-00000000",)), True, (), {}),
            "alive": (Stage(place, NAME, ("h-1-00000000",), holder="h"), False, (), {NAME: "h"}),
            "alive and empty": (Stage(place, NAME, holder="h"), False, (), {NAME: "h"}),
            "foreign": (Stage(place, NAME, foreign="it is a file"), False, (), {}),
        }
        for what, (stage, there, partial, under_way) in table.items():
            with self.subTest(what):
                seen = Inventory({NAME: entry("taken", True)} if there else {}, stages=(stage,))
                held = inventory.backups(seen, {NAME: TAKEN}, [NAME], old=False)
                self.assertEqual((held.partial, held.under_way), (partial, under_way))
                self.assertEqual((list(held.complete), held.foreign), ([NAME] if there else [], {}))

    def test_all_entries_are_accounted_for(self) -> None:
        for received in ("", "uuid"):
            for readonly in (False, True):
                for sources in ({}, {"x": Subvolume("x", "uuid")}, {"x": Subvolume("x", "other")}):
                    with self.subTest(received=received, readonly=readonly, sources=sources):
                        seen = Inventory(subvolumes={"x": entry(received, readonly, name="x")})
                        for begun in ([], ["x"]):
                            held = inventory.backups(seen, sources, begun)
                            self.assertEqual([*held.complete, *held.partial, *held.foreign], ["x"])


class NamesTest(unittest.TestCase):
    def test_names(self) -> None:
        seen = Inventory(subvolumes={"a": entry("", True, name="a")}, others=frozenset({"b"}))
        self.assertEqual(seen.names, {"a", "b"})
        self.assertEqual(Inventory().names, frozenset())

    def test_what_is_not_told(self) -> None:
        """A folder is there unless said otherwise, and has nothing in it."""
        self.assertEqual(Inventory(), Inventory({}, frozenset(), (), True))

    def test_marks(self) -> None:
        """Empty folders in the places of stages."""
        stages = (
            Stage(".a.receiving", "a"),
            Stage(".b.receiving", "b", ("h-1-00000000",)),
            Stage(".c.receiving", "c", foreign="it is a file"),
            Stage(".d.receiving.2", "d", holder="process 1 on h"),
        )
        self.assertEqual(Inventory(stages=stages).marks, {"a", "d"})
        self.assertEqual(Inventory().marks, frozenset())


if __name__ == "__main__":
    unittest.main()
