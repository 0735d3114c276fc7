"""How much space snapshots and backups take up, and how that is told."""

import random
import unittest
from dataclasses import replace

from btrfs_backup.cli import parser as cli
from btrfs_backup.errors import Failure, UsageError
from btrfs_backup.model import world
from btrfs_backup.model.inventory import Inventory
from btrfs_backup.model.outcome import Outcome, Report, Survey
from btrfs_backup.model.records import NONE
from btrfs_backup.model.sizes import Extents, Sizes, extent, size, start
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.survey import survey
from btrfs_backup.model.world import List, Listed, Look, Seen, Weigh, World
from btrfs_backup.report.table import table
from btrfs_backup.report.text import intentions
from btrfs_backup.system import btrfs
from tests.unit.test_status import HOME, NAS, NOW, USB, UUID, A, B, C, backups, snapshots


class ExtentsTest(unittest.TestCase):
    def test_one_number(self) -> None:
        for where, length in ((4096, 4096), (1 << 50, 128 << 20), ((1 << 60) - 4096, 12288)):
            self.assertEqual((start(extent(where, length)), size(extent(where, length))), (where, length))

    def test_against_a_plain_count(self) -> None:
        """Of random histories: what nothing but one, and nothing but those that go, holds."""
        for seed in range(300):
            dice = random.Random(seed)
            names = {number: str(number) for number in range(256, 256 + dice.randint(1, 6))}
            going = {number for number in names if dice.random() < 0.5}
            held = {number: [dice.randint(1, 12) for _ in range(dice.randint(0, 9))] for number in names}
            elsewhere = {dice.randint(1, 12) for _ in range(3)}
            extents = Extents(going)
            for number, numbers in held.items():
                extents.add(number, (extent(each << 20, each << 12) for each in numbers))
            for each in list(extents.candidates()):
                if start(each) >> 20 in elsewhere:
                    extents.keep(each)

            def freed(gone: set[int], held: dict[int, list[int]] = held, kept: set[int] = elsewhere) -> int:
                left = kept.union(*(held[number] for number in held.keys() - gone))
                return sum(each << 12 for each in set().union(*(held[number] for number in gone)) - left)

            alone = {str(number): freed({number}) for number in names}
            self.assertEqual(extents.sizes(names), Sizes(alone, len(going), freed(going)), seed)


class PrintedTest(unittest.TestCase):
    def test_du(self) -> None:
        head = "     Total   Exclusive  Set shared  Filename\n"
        for row in ("      9      7           2  /b/1\n", "  9 7 -  /b/ 3 3 3 x\n"):
            self.assertEqual(btrfs.parse_du(head + row), 7)
        with self.assertRaisesRegex(Failure, "cannot understand what 'btrfs filesystem du' printed"):
            btrfs.parse_du(head)


def settled(*options: str, **sizes: Sizes | Failure) -> World:
    """The world when all was looked at and weighed; SIZES of the source, and at each of the two destinations."""
    settings = cli.parse(["--status", "--sizes", "-N", "1", "-n", "2", *options, "/home", USB, NAS])
    found = world.begin(settings, NOW, frozenset([A, B, C]), NONE)
    found = found.after(List(), Listed(HOME, snapshots(A, B, C)))
    seen = {USB: Seen(UUID, backups(A, B, C)), NAS: Seen("x", backups(A))}
    found = found.after(Look((USB, NAS)), seen)
    for place in ("usb", "nas", "source"):
        step = found.next_step()
        assert isinstance(step, Weigh)
        found = found.after(step, sizes[place])
    return found


class StatusTest(unittest.TestCase):
    SIZES = (("source", Sizes({A: 10, B: 20, C: 30}, 2, 99)), ("usb", Sizes({A: 1000, B: 0, C: 3}, 1, 1000)))

    def test_steps(self) -> None:
        found = settled(**dict(self.SIZES), nas=Sizes())
        self.assertIsNone(found.next_step())
        first = replace(found, destinations=(replace(found.at(USB), outcome=Outcome(USB)), found.at(NAS)))
        step = first.next_step()
        assert isinstance(step, Weigh)
        self.assertEqual((step.destination, step.going, step.leaning), (USB, frozenset([A]), False))
        self.assertEqual([each.name for each in step.subvolumes], [A, B, C])

    def test_table(self) -> None:
        nas = Sizes({A: 7}, 1, 7, more=True, more_freed=True)
        lines = table(survey(settled(**dict(self.SIZES), nas=nas)), 100, False)
        grid = "\n".join(line.rstrip() for line in lines)
        self.assertIn(f"{A}  3 d   to delete, 1.0 kB  ok latest, at least 7 B  to delete, 10 B", grid)
        self.assertIn("source: deleting 2 of 3 frees 99 B", lines)
        self.assertIn("1: deleting 1 of 3 frees 1.0 kB", lines)
        self.assertIn("2: deleting 1 of 1 frees at least 7 B (compressed data counted in full)", lines)

    def test_rows_with_sizes_are_shown_one_by_one(self) -> None:
        settings = cli.parse(["--status", "--sizes", "/home", USB])
        found = world.begin(settings, NOW, frozenset([A, B, C]), NONE).after(List(), Listed(HOME, snapshots(A, B, C)))
        found = found.after(Look((USB,)), {USB: Seen(UUID, Inventory())})
        self.assertIn("3 at the source", "".join(table(survey(found), 80, False)))
        sized = survey(found)
        sized = Survey(replace(sized.source, sizes=Sizes({A: 1, B: 2, C: 3})), sized.rows, sized.places)
        self.assertIn(f"{B}  2 d   missing  ok, 2 B", table(sized, 80, False))

    def test_failure(self) -> None:
        """It is told, and what is known of the others is shown."""
        found = settled(**dict(self.SIZES), nas=Failure("no", "Try."))
        self.assertIsNone(found.next_step())
        self.assertEqual([str(each) for each in survey(found).places[1].failures], ["no\n  Try."])
        self.assertNotIn("2: deleting", "".join(table(survey(found), 80, False)))


class DryRunTest(unittest.TestCase):
    def test_what_is_built_upon(self) -> None:
        """The next backup shares data with its parent, which is deleted behind it."""
        settings = cli.parse(["--dry-run", "-S", "--sizes", "-n", "1", "/home", USB])
        found = world.begin(settings, NOW, frozenset([A, B, C]), NONE)
        found = found.after(List(), Listed(HOME, snapshots(A, B, C)))
        found = found.after(Look((USB,)), {USB: Seen(UUID, backups(A, B))})
        send = found.next_step()
        assert isinstance(send, world.Send)
        sent = tuple(world.Sent(each.snapshot, each.parent, 5, None) for each in send.batches)
        published = tuple(Subvolume(each.snapshot, each.snapshot) for each in sent)
        found = found.begun(send).after(send, {USB: world.Delivery(sent, published)})
        step = found.next_step()
        assert isinstance(step, Weigh)
        self.assertEqual((step.going, step.leaning), (frozenset([A]), True))
        self.assertEqual([each.name for each in step.subvolumes], [A, B])
        outcome = found.after(step, Sizes({A: 4, B: 9}, 1, 4)).at(USB).outcome
        self.assertEqual(outcome.sizes, Sizes({A: 4, B: 9}, 1, 4, more_freed=True))

    def test_lines(self) -> None:
        sizes = Sizes({A: 1000, B: 9, C: 5}, 2, 3000, more_freed=True)
        outcome = Outcome(USB, deleted=(A, B), kept={C: ("latest 1 of 1",)}, sizes=sizes)
        self.assertEqual(
            intentions(Report(Outcome("/home"), None, (outcome,)))[1:],
            [
                f"{USB}: would delete {A}, which alone holds 1.0 kB",
                f"{USB}: would delete {B}, which alone holds 9 B",
                f"{USB}: would free at least 3.0 kB by that",
                f"{USB}: would keep {C}: latest 1 of 1; it alone holds 5 B",
            ],
        )


class AskedForTest(unittest.TestCase):
    def test_where_it_belongs(self) -> None:
        for words in ([], ["--verify"], ["--prune", "-n", "1", "--dry-run"], ["--copy", "--dry-run"]):
            with self.assertRaisesRegex(UsageError, "'--sizes' belongs to '--status', or to the '--dry-run'"):
                cli.parse([*words, "--sizes", "/home", *(["/b"] if "--prune" not in words else [])])
