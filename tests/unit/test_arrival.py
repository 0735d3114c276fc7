"""What has arrived at a destination: what counts, what is kept of the rest, and what is told."""

import unittest
from dataclasses import replace

from btrfs_backup.errors import Failure
from btrfs_backup.model.arrival import Arrival, Ending, Found, Streamed
from btrfs_backup.model.cutter import Part, mark
from btrfs_backup.model.plan import Batch
from btrfs_backup.model.sendstream import Beginning
from btrfs_backup.model.snapshot import Subvolume

A, B, C = (f"2026112{day}-120000" for day in (1, 2, 3))
SNAPSHOTS = {name: Subvolume(name, f"own-{name}", made_transid=5) for name in (A, B, C)}
HELD = {A: Subvolume(A, f"held-{A}", received_uuid=f"own-{A}", sent_transid=5)}
BROKEN = Failure("the line broke", "Mend it.")


def copy(name: str, parent: str = "", **changes: object) -> Subvolume:
    """A subvolume that the snapshot NAME was received as, upon that with the UUID PARENT."""
    return replace(Subvolume(name, f"new-{name}", parent, f"own-{name}"), **changes)  # type: ignore[arg-type]


def stream(cut: bool = False, changed: int = 5) -> Streamed:
    return Streamed(1, 1.0, Beginning(b"x", "x", 9, "parent", changed), cut)


def arrival(
    *found: Subvolume, streams: "int | list[Streamed]" = 2, failure: Failure | None = None, **more: object
) -> Arrival:
    """Of B on top of A, which was there before, and of C on top of B."""
    batches = [Batch(B, A, ("/usb",)), Batch(C, B, ("/usb",))]
    there = Found({each.name: each for each in found})
    begun = [stream()] * streams if isinstance(streams, int) else streams
    known = Arrival(batches, begun, Ending(failure), SNAPSHOTS, HELD, there, HELD)
    return replace(known, **more)  # type: ignore[arg-type]


GOOD = (copy(B, f"held-{A}"), copy(C, f"new-{B}"))
# A part that is whole and written, and the next one.
ONE, TWO = (Part(offset, f"{offset:032}", "0" * 16) for offset in (78, 100))
PARTS = (
    Subvolume(ONE.name, "one", f"held-{A}", ONE.uuid, id=1),
    Subvolume(TWO.name, "two", "one", readonly=False, id=2),
    *(Subvolume(mark(ONE.salt, each), f"mark-{each}", id=each) for each in (3, 4)),
)


class Counting(unittest.TestCase):
    def check(self, arrived: Arrival, count: int, told: str, blames_parent: bool = False) -> None:
        verdict = arrived.verdict()
        found = verdict.count, verdict.failure.message if verdict.failure else "", verdict.blames_parent
        self.assertEqual(found, (count, told, blames_parent))
        self.assertEqual(verdict.mistakes_parent, "built upon another subvolume" in told)

    def test_what_is_as_expected(self) -> None:
        self.check(arrival(*GOOD), 2, "")
        self.check(arrival(GOOD[0], streams=1), 1, "")

    def test_what_is_not(self) -> None:
        """What comes before it counts."""
        has = f"{C} has arrived, but"
        cases = {
            "it is not there": GOOD[:1],
            "it is a copy of another snapshot than the source's one of that name": (
                GOOD[0],
                copy(C, f"new-{B}", received_uuid="other"),
            ),
            "it is writable, and not a backup": (GOOD[0], copy(C, f"new-{B}", readonly=False, received_uuid="")),
        }
        for why, found in cases.items():
            with self.subTest(why):
                self.check(arrival(*found), 1, f"{has} {why}")

    def test_what_was_built_upon_another_parent(self) -> None:
        why = "has arrived, but it was built upon another subvolume than the backup that was meant as its parent"
        self.check(arrival(copy(B, "other"), GOOD[1]), 0, f"{B} {why}", True)
        self.check(arrival(GOOD[0], copy(C, "other")), 1, f"{C} {why}", True)
        full = [Batch(B, None, ("/usb",))]
        self.check(
            arrival(GOOD[0], streams=1, batches=full), 0, f"{B} has arrived, but it was received as an increment"
        )

    def test_a_parent_that_was_changed(self) -> None:
        """Also when something failed, perhaps for that."""
        why = f"{A}, which it builds upon, was changed after it was sent"
        written = replace(HELD[A], made_transid=7, received_transid=6, changed_transid=8)
        changes: dict[str, dict[str, object]] = {
            "another one has its name": {"parents": {A: replace(HELD[A], uuid="other")}},
            "it was written to": {"parents": {A: written}},
            "the snapshot was": {"streams": [stream(changed=8)]},
        }
        for how, change in changes.items():
            with self.subTest(how):
                self.check(arrival(*GOOD[:1], **{"streams": 1, **change}), 0, f"{B} has arrived, but {why}", True)
                failed = arrival(**{"streams": 1, "failure": BROKEN, **change})
                self.check(failed, 0, f"sending {B} failed: the line broke", True)

    def test_something_else_came(self) -> None:
        """Then nothing counts."""
        both = {each.name: each for each in GOOD}
        for found in (Found(both, ["x"]), Found({"x": copy("x"), **both})):
            why = f"{B} has arrived, but 'x' came with it, which was not expected"
            self.check(arrival(found=found), 0, why)
        part = Found({each.name: each for each in (*GOOD, PARTS[0])})
        self.check(arrival(found=part), 0, f"{B} has arrived, but '{ONE.name}' came with it, which was not expected")
        strange = Found(both, [ONE.name])
        told = f"{B} has arrived, but '{ONE.name}' came with it, which was not expected"
        self.check(arrival(found=strange, streams=[stream(True), stream()]), 0, told)

    def test_a_failure(self) -> None:
        """When all look well, it was the last one that failed."""
        self.check(arrival(*GOOD, failure=BROKEN), 1, f"sending {C} failed: the line broke")
        self.check(arrival(*GOOD[:1], failure=BROKEN), 1, f"sending {C} failed: the line broke")
        self.check(arrival(failure=BROKEN), 0, f"sending {B} failed: the line broke")
        self.check(arrival(failure=BROKEN, blamed=True), 0, f"sending {B} failed: the line broke", True)
        self.check(arrival(streams=0, failure=BROKEN), 0, "the line broke")

    def test_not_on_the_disk(self) -> None:
        """Then nothing of it counts, whatever it looks like, and no parent is to blame."""
        told = f"sending {B} to {C} failed: the line broke"
        for failure, blamed in ((None, False), (BROKEN, True)):
            lost = arrival(*GOOD, ending=Ending(failure, BROKEN), blamed=blamed)
            self.check(lost, 0, told)

    def test_nobody_knows(self) -> None:
        unknown = Failure("it is off")
        self.check(arrival(found=unknown), 0, f"{B} has arrived, but it is off")
        self.check(arrival(found=unknown, failure=BROKEN), 0, f"sending {B} failed: the line broke")

    def test_in_parts(self) -> None:
        """What counts is what the first of them was built upon."""
        whole = (PARTS[0], replace(PARTS[1], received_uuid=TWO.uuid, readonly=True), *PARTS[2:])
        cut = {"streams": [stream(True)]}
        self.check(arrival(*whole, copy(B, "two"), **cut), 1, "")
        other = (replace(whole[0], parent_uuid="other"), *whole[1:])
        why = "it was built upon another subvolume than the backup that was meant as its parent"
        self.check(arrival(*other, copy(B, "two"), **cut), 0, f"{B} has arrived, but {why}", True)
        earlier = Found({B: copy(B, "two")}, (), whole)
        self.check(arrival(found=earlier, **cut), 1, "")


class Keeping(unittest.TestCase):
    def kept(self, arrived: Arrival) -> tuple[bool, int | None]:
        verdict = arrived.verdict()
        return verdict.stays, verdict.kept.offset if verdict.kept else None

    def test_parts(self) -> None:
        cut = {"streams": [stream(True)]}
        self.assertEqual(self.kept(arrival(*PARTS, failure=BROKEN, **cut)), (True, 100))
        self.assertEqual(self.kept(arrival(found=Found(earlier=PARTS), failure=BROKEN, **cut)), (True, 100))

    def test_parts_of_no_use(self) -> None:
        """Nothing failed, none counts yet, something is wrong with them, or with what they build upon."""
        cut = {"streams": [stream(True)]}
        ending = {"none": Ending(BROKEN, spoiled=True), "unwritten": Ending(BROKEN, BROKEN)}
        for arrived in (
            arrival(*PARTS, **cut),
            arrival(*PARTS[:2], failure=BROKEN, **cut),
            arrival(*PARTS, failure=BROKEN, blamed=True, **cut),
            *(arrival(*PARTS, ending=each, **cut) for each in ending.values()),
            arrival(*GOOD, *PARTS, failure=BROKEN, streams=[stream(True), stream()]),
        ):
            self.assertEqual(self.kept(arrived), (False, None))

    def test_nobody_knows(self) -> None:
        """There may be some."""
        unknown = Failure("it is off")
        for cut in (True, False):
            for ending in (Ending(BROKEN), Ending(None, BROKEN), Ending(None)):
                arrived = arrival(found=unknown, ending=ending, streams=[stream(cut)])
                self.assertEqual(self.kept(arrived), (cut, None))


class FitsTest(unittest.TestCase):
    def test_parent(self) -> None:
        """It fits when it was not changed since it was sent, or not at all since it was made."""
        table = (
            # last changed, as the stream says; made; the number that the copy has; whether it fits
            (8, 8, 8, True),
            (5, 8, 5, True),
            (46, 8, 46, True),  # changed, then sent
            (46, 8, 8, False),  # sent, then changed
            (9, 8, 8, False),
            (46, None, 8, False),
            (8, 8, 14, True),  # the copy came from another copy
            (5, 8, 14, True),
            (46, 8, 14, False),
            (46, 8, None, True),  # older programs do not tell
        )
        for changed, made, sent, wanted in table:
            with self.subTest(changed=changed, made=made, sent=sent):
                stream = Streamed(0, 0.0, Beginning(b"x", "x", 50, "parent", changed))
                self.assertIs(stream.fits(Subvolume("parent", "parent", made_transid=made), sent), wanted)

    def test_parent_that_was_received(self) -> None:
        """Only of a snapshot of what was received it is known what it was."""
        table = (
            # last changed; made; received; the number that the copy has; whether it fits
            (10, 11, 8, 7, True),
            (34, 11, 8, 7, False),
            (34, 11, 8, 34, True),  # changed, then sent
            (34, 11, 8, None, True),
            (10, 7, 8, 7, True),
            (34, 7, 8, 7, True),
            (34, 11, None, 7, True),
        )
        for changed, made, received, sent, wanted in table:
            with self.subTest(changed=changed, made=made, sent=sent):
                parent = Subvolume("parent", "x", "", "received", made_transid=made, received_transid=received)
                self.assertIs(Streamed(0, 0.0, Beginning(b"x", "x", 50, "parent", changed)).fits(parent, sent), wanted)


if __name__ == "__main__":
    unittest.main()
