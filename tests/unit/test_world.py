"""The world of a run: the order of its steps, what is on record at each, and what it tells of failures."""

import unittest
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from unittest.mock import patch

from btrfs_backup.cli import parser as cli
from btrfs_backup.commands.run import run
from btrfs_backup.errors import DISK_FULL, READ_ONLY, Absent, Failure, Interrupted
from btrfs_backup.model import world
from btrfs_backup.model.inventory import Inventory
from btrfs_backup.model.outcome import Outcome, Report, Sent
from btrfs_backup.model.plan import Batch
from btrfs_backup.model.records import BACKUP, BLOCKED, NEWEST, NONE, OWED, PARENT, STAGED, Fact, Records
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import Stage
from btrfs_backup.model.survey import survey
from btrfs_backup.model.world import (
    Came,
    Clear,
    Delete,
    Deleted,
    Delivery,
    List,
    Listed,
    Look,
    Seen,
    Send,
    Step,
    Take,
    Taken,
    World,
)
from btrfs_backup.report.table import table
from tests.unit import imagined

A, B, C = (f"2026010{day}-120000" for day in (1, 2, 3))
NOW = datetime(2026, 1, 3, 12)  # C is the snapshot that a run takes
USB, NAS, BOX = "/usb", "ssh://nas/b", "shell://store"
HOME = Subvolume("home", "uuid-home", readonly=False)
TROUBLE = Failure("trouble", "Mend it.")


def snapshots(*names: str) -> Inventory:
    return Inventory({name: Subvolume(name, f"uuid-{name}", HOME.uuid) for name in names})


def backup(name: str, place: str = USB) -> Subvolume:
    return Subvolume(name, f"{place}-{name}", "", f"uuid-{name}")


def seen(*names: str, place: str = USB, cut_off: str = "", changed: str = "") -> Seen:
    held = {name: backup(name, place) for name in names}
    if changed:
        held[changed] = Subvolume(changed, "changed", "", f"uuid-{changed}", readonly=False)
    stages = (Stage(f".{cut_off}.receiving", cut_off, ("x-1-01234567",)),) if cut_off else ()
    return Seen(f"disk of {place}", Inventory(dict(sorted(held.items())), stages=stages))


def owed(place: str, *names: str) -> set[Fact]:
    return {Fact(OWED, place, name) for name in names}


def newest(name: str, place: str = USB) -> Fact:
    return Fact(NEWEST, place, name, f"disk of {place}")


@dataclass
class Told:
    """An actor that does what a table says. there: the snapshots; seen: of each destination.

    answers: what comes of steps, by their kind, the first so many times; else all goes well.
    unwritable: why records cannot be written, from the step on of that kind, when it begins or AFTER it.
    """

    options: list[str]
    there: tuple[str, ...] = (A, B)
    seen: Mapping[str, Seen | Failure] = field(default_factory=dict)
    file: Records = NONE
    broken: tuple[Failure, ...] = ()
    answers: dict[type, list[Came | BaseException]] = field(default_factory=dict)
    unwritable: tuple[type, bool, str] | None = None
    steps: list[Step] = field(default_factory=list)
    on_record: list[tuple[str, Records]] = field(default_factory=list)
    last: World | None = None

    def begin(self) -> World:
        places = [place for place in self.seen if place not in self.options]
        settings = cli.parse([*self.options, "/home", *places])
        return world.begin(settings, NOW, frozenset(self.there), self.file, self.broken)

    def save(self, known: Records) -> Failure | None:
        if known == self.file:
            return None
        if self.unwritable:
            kind, after, brief = self.unwritable
            begins = not after and self.last and isinstance(self.last.next_step(), kind)
            if begins or any(isinstance(each, kind) for each in self.steps):
                return Failure("cannot write", "Mend it.", brief)
        self.file = known
        return None

    def perform(self, step: Step, now: World) -> Came:
        self.steps.append(step)
        self.on_record.append((type(step).__name__, self.file))
        if given := self.answers.get(type(step)):
            answer = given.pop(0)
            if isinstance(answer, BaseException):
                if isinstance(answer, Failure) and isinstance(step, Take | List | Clear):
                    return answer
                raise answer
            return answer
        match step:
            case Take():
                return Taken()
            case List():
                return Listed(HOME, snapshots(*self.there, *([now.taken] if now.taken else [])))
            case Look(destinations):
                return {each: self.seen[each] for each in destinations}
            case Clear():
                return None
            case Send(batches):
                return {each: arrived(*(batch.snapshot for batch in batches), place=each) for each in step.destinations}
            case Delete():
                return Deleted()

    def run(self) -> Report:
        def watch(changed: World) -> None:
            self.last = changed

        run(self, watch)
        assert self.last
        return self.last.report()

    @property
    def order(self) -> list[str]:
        return [f"{type(each).__name__} {getattr(each, 'destination', '')}".strip() for each in self.steps]

    @property
    def messages(self) -> list[tuple[str, str, str]]:
        assert self.last
        return [(each.level, each.place, str(each.what).partition("\n")[0]) for each in self.last.messages]

    def told(self, level: str) -> list[str]:
        return [what for its, _, what in self.messages if its == level]


def arrived(*names: str, place: str = USB, failure: Failure | None = None, blamed: bool = False) -> Delivery:
    sent = tuple(Sent(name, None, 1, 1.0) for name in names)
    return Delivery(sent, tuple(backup(name, place) for name in names), failure, blamed)


def names_sent(outcome: Outcome) -> list[str]:
    return [each.snapshot for each in outcome.sent]


class Order(unittest.TestCase):
    def test_of_steps(self) -> None:
        usb, nas = seen(A, cut_off=B), seen(A, B, place=NAS)
        table: dict[str, tuple[list[str], list[str]]] = {
            "all": (
                [],
                ["Take", "List", "Look", f"Clear {USB}", "Send", "Send", f"Delete {USB}", f"Delete {NAS}", "Delete"],
            ),
            "no snapshot": (
                ["-S"],
                ["List", "Look", f"Clear {USB}", "Send", f"Delete {USB}", f"Delete {NAS}", "Delete"],
            ),
            "no transfer": (["-T"], ["Take", "List", "Delete"]),
            "no transfer, but retention there": (
                ["-T", "-n", "1"],
                ["Take", "List", "Look", f"Clear {USB}", f"Delete {USB}", f"Delete {NAS}", "Delete"],
            ),
        }
        for case, (options, wanted) in table.items():
            with self.subTest(case):
                actor = Told(options, seen={USB: usb, NAS: nas})
                actor.run()
                self.assertEqual(actor.order, wanted)

    def test_one_send_for_several(self) -> None:
        """What several lack goes there in one stream, when they can use the same parent."""
        actor = Told([], seen={USB: seen(A, B), NAS: seen(A, B, place=NAS)})
        actor.run()
        sends = [each.batches for each in actor.steps if isinstance(each, Send)]
        self.assertEqual(sends, [(Batch(C, B, (USB, NAS)),)])

    def test_shell_is_not_looked_into(self) -> None:
        actor = Told([], seen={BOX: Seen(listed=False)}, file=frozenset({Fact(NEWEST, BOX, A)}))
        report = actor.run()
        self.assertEqual(actor.order, ["Take", "List", "Look", "Send", "Send", "Delete"])
        self.assertEqual(names_sent(report.destinations[0]), [B, C])
        self.assertEqual(actor.file, {Fact(NEWEST, BOX, C)})

    def test_records_at_each_step(self) -> None:
        """A transfer is on record before it begins, and is not any more as soon as it has ended well."""
        actor = Told(["-N", "1"], seen={USB: seen(A, B)}, file=frozenset({newest(A)}))
        actor.run()
        disk = {Fact(STAGED, USB, "", "disk of /usb")}
        held = {Fact(BACKUP, USB, name, "disk of /usb", f"{USB}-{name}") for name in (A, B, C)}
        before = {newest(B), *disk, *(each for each in held if each.snapshot != C)}
        wanted = [
            ("Take", {newest(A)}),
            ("List", {newest(A)}),
            ("Look", {newest(A)}),
            ("Send", before | owed(USB, C) | {Fact(PARENT, USB, B)}),
            ("Delete", disk | held | {newest(C)}),
            ("Delete", disk | held | {newest(C)}),
        ]
        self.assertEqual(actor.on_record, wanted)


class Failures(unittest.TestCase):
    """Each is told once, at its place, and stops what depends on it and nothing else."""

    def fails(self, actor: Told, place: str, words: str = "trouble") -> Report:
        report = actor.run()
        for each in (report.source, *report.destinations):
            self.assertEqual([str(one.message) for one in each.failures], [words] if each.place == place else [], each)
        errors = [(where, what) for level, where, what in actor.messages if level == "error"]
        self.assertEqual(errors, [(place, words)])
        return report

    def test_take(self) -> None:
        """What is there is sent all the same."""
        actor = Told([], seen={USB: seen(A)}, answers={Take: [TROUBLE]})
        report = self.fails(actor, "/home")
        self.assertEqual((report.snapshot, names_sent(report.destinations[0])), (None, [B]))

    def test_first_take(self) -> None:
        """Then nothing can be done. Both is told, why, and what follows."""
        actor = Told([], there=(), seen={USB: seen()}, answers={Take: [TROUBLE]})
        with self.assertRaisesRegex(Failure, "there is no snapshot in '/home/snapshot' either"):
            actor.run()
        self.assertEqual(actor.order, ["Take", "List"])
        self.assertEqual(actor.told("error"), ["trouble"])

    def test_list(self) -> None:
        """A failure when a snapshot was taken, and nothing done when not."""
        actor = Told([], seen={USB: seen(A)}, answers={List: [TROUBLE]})
        report = self.fails(actor, "/home")
        self.assertEqual(actor.order, ["Take", "List"])
        self.assertEqual((report.snapshot, [each.place for each in report.destinations]), (C, [USB]))
        with self.assertRaisesRegex(Failure, "trouble"):
            Told(["-S"], seen={USB: seen(A)}, answers={List: [TROUBLE]}).run()

    def test_useless_snapshot(self) -> None:
        taken = {**snapshots(A).subvolumes, C: Subvolume(C, "x", readonly=False)}
        actor = Told([], there=(A,), seen={USB: seen(A)}, answers={List: [Listed(HOME, Inventory(taken))]})
        report = self.fails(actor, "/home", f"the snapshot {C} cannot be used as one: it is writable")
        self.assertIsNone(report.snapshot)

    def test_look(self) -> None:
        for failure, options, absent in (
            (TROUBLE, [], False),
            (TROUBLE, ["--skip-absent"], False),
            (Absent("trouble", "Mount it."), [], False),
            (Absent("trouble", "Mount it."), ["--skip-absent"], True),
        ):
            with self.subTest(failure=type(failure), options=options):
                actor = Told(options, seen={USB: failure, NAS: seen(A, B, place=NAS)}, file=frozenset({newest(B)}))
                if absent:
                    report = actor.run()
                    self.assertFalse(report.failed)
                    self.assertIn(("info", USB, "skipped: trouble"), actor.messages)
                else:
                    report = self.fails(actor, USB)
                usb, nas = report.destinations
                self.assertEqual((usb.absent, usb.outstanding, usb.kept), (absent, (C,), None))
                self.assertEqual(names_sent(nas), [C])
                self.assertLessEqual(owed(USB, C), actor.file)

    def test_look_where_no_backup_ever_was(self) -> None:
        """It may be misspelled: nothing is on record of it."""
        actor = Told(["-N", "1"], seen={USB: TROUBLE})
        report = self.fails(actor, USB)
        self.assertEqual((actor.file, report.destinations[0].outstanding), (NONE, ()))
        self.assertEqual(report.source.deleted, (A, B))

    def test_clear(self) -> None:
        """Nothing is sent there then, and it is pruned."""
        actor = Told(["-n", "1"], seen={USB: seen(A, cut_off=B)}, answers={Clear: [TROUBLE]})
        report = self.fails(actor, USB)
        self.assertEqual(actor.order, ["Take", "List", "Look", f"Clear {USB}", f"Delete {USB}", "Delete"])
        self.assertEqual((report.destinations[0].cleared, report.destinations[0].outstanding), ((), (C,)))

    def test_send(self) -> None:
        """What failed is owed and protects what it needs; what is behind it is begun another time."""
        table: dict[str, tuple[Delivery, list[str], set[Fact]]] = {
            "the first": (Delivery(failure=TROUBLE), [], {*owed(USB, B), Fact(PARENT, USB, A), newest(A)}),
            "the second": (arrived(B, failure=TROUBLE), [B], {*owed(USB, C), Fact(PARENT, USB, B), newest(B)}),
            "none of them": (arrived(B, C, failure=TROUBLE), [B, C], {newest(C)}),
            "unknown": (
                Delivery(failure=TROUBLE, unknown=True),
                [],
                {*owed(USB, B, C), Fact(PARENT, USB, A), Fact(PARENT, USB, B), newest(A)},
            ),
        }
        for case, (delivery, sent, facts) in table.items():
            with self.subTest(case):
                actor = Told(["-N", "1"], seen={USB: seen(A)}, answers={Send: [{USB: delivery}]})
                report = self.fails(actor, USB)
                self.assertEqual(names_sent(report.destinations[0]), sent)
                self.assertEqual({each for each in actor.file if each.kind in (OWED, PARENT, NEWEST)}, facts)
                self.assertFalse(set(report.source.deleted) & {each.snapshot for each in facts})
                lacking = tuple(name for name in (B, C) if name not in sent and name not in report.source.deleted)
                self.assertEqual(report.destinations[0].outstanding, lacking)

    def test_send_to_one_of_two(self) -> None:
        came = {USB: Delivery(failure=TROUBLE), NAS: arrived(C, place=NAS)}
        actor = Told([], seen={USB: seen(A, B), NAS: seen(A, B, place=NAS)}, answers={Send: [came]})
        report = self.fails(actor, USB)
        self.assertEqual([names_sent(each) for each in report.destinations], [[], [C]])
        self.assertEqual({each for each in actor.file if each.kind == OWED}, owed(USB, C))

    def test_useless_parents(self) -> None:
        """Another one is tried, then none; that is told, and no failure."""
        blamed = {USB: Delivery(failure=TROUBLE, blames_parent=True)}
        actor = Told([], seen={USB: seen(A, B)}, answers={Send: [blamed, blamed]})
        report = actor.run()
        parents = [each.batches[0].parent for each in actor.steps if isinstance(each, Send)]
        self.assertEqual(parents, [B, A, None])
        self.assertFalse(report.failed)
        self.assertEqual(actor.told("warning"), ["trouble", "trouble"])
        self.assertFalse({each for each in actor.file if each.kind in (OWED, PARENT)})

    def test_parents_for_which_others_were_taken(self) -> None:
        """They are named by their UUIDs from then on; when that does not help, another one is tried."""
        mistaken = {USB: Delivery(failure=TROUBLE, blames_parent=True, mistakes_parent=True)}
        actor = Told([], seen={USB: seen(A, B)}, answers={Send: [mistaken, mistaken]})
        self.assertFalse(actor.run().failed)
        tried = [(each.batches[0].parent, each.batches[0].named) for each in actor.steps if isinstance(each, Send)]
        self.assertEqual(tried, [(B, False), (B, True), (A, True)])
        self.assertEqual((actor.told("info")[1:2], actor.told("warning")), (["trouble"], ["trouble"]))

    def test_parents_for_which_others_could_be_taken(self) -> None:
        """As a look has shown, or since two destinations are on one filesystem."""
        elsewhere = replace(seen(A, B), inventory=replace(seen(A, B).inventory, elsewhere=frozenset([f"uuid-{B}"])))
        both = {USB: seen(A, B), NAS: replace(seen(A, B, place=NAS), filesystem=seen(A, B).filesystem)}
        apart = {USB: seen(A, B), NAS: seen(A, B, place=NAS)}
        wanted = (({USB: elsewhere}, [True]), (both, [True, True]), (apart, [False]))
        for found, named in wanted:
            with self.subTest(found=found):
                actor = Told([], seen=found)
                actor.run()
                self.assertEqual([each.batches[0].named for each in actor.steps if isinstance(each, Send)], named)

    def test_delete(self) -> None:
        """Those with one reason are one failure."""
        stuck = Deleted(dict.fromkeys((A, B), TROUBLE))
        actor = Told(["-S", "-T", "-N", "1"], there=(A, B, C), answers={Delete: [stuck]})
        report = self.fails(actor, "/home", "2 deletions failed: trouble")
        self.assertEqual(report.source.deleted, ())
        self.assertEqual(sorted(report.source.kept or ()), [A, B, C])
        actor = Told(["-S", "-T", "-N", "1"], there=(A, B, C), answers={Delete: [Deleted({}, TROUBLE)]})
        self.assertEqual(self.fails(actor, "/home").source.deleted, (A, B))

    def test_signal(self) -> None:
        """What was begun is on record and in the report; a step that was ended is not told of."""
        actor = Told([], seen={USB: seen(A, B)}, answers={Send: [Interrupted(15)]})
        with self.assertRaises(Interrupted):
            actor.run()
        assert actor.last
        [usb] = actor.last.report().destinations
        self.assertEqual((usb.sent, usb.outstanding, usb.kept), ((), (C,), None))
        self.assertLessEqual(owed(USB, C), actor.file)


class OneFolder(unittest.TestCase):
    def test_by_two_paths(self) -> None:
        """It is served once. A copy of the filesystem on another machine, with its UUID, is another folder."""
        places = {USB: "/backups", "/link": "/backups", NAS: "nas/backups"}
        looks = {place: replace(seen(A), filesystem="one", inside=inside) for place, inside in places.items()}
        report = (actor := Told(["-S"], seen=looks)).run()
        self.assertEqual([bool(each.failures) for each in report.destinations], [False, True, False])
        self.assertIn(f"it is the same folder as {USB}, by another path, and is not served twice", actor.told("error"))
        self.assertEqual([names_sent(each) for each in report.destinations], [[B], [], [B]])


class GoingOn(unittest.TestCase):
    """With parts of transfers that were cut off."""

    def parts(self, name: str, parent: str = "", place: str = USB) -> Seen:
        """A destination that has A and a part of NAME, built upon that PARENT."""
        held = seen(A, place=place)
        stage = Stage(f".{name}.receiving", name, ("x-1-01234567",), imagined.parts(parent, 7))
        return replace(held, inventory=replace(held.inventory, stages=(stage,)))

    def test_one_by_one_behind_the_others(self) -> None:
        """It is sent with the parent that its part has, and nobody waits for it."""
        usb, nas = self.parts(B), seen(A, place=NAS)
        actor = Told(["-S"], seen={USB: usb, NAS: nas})
        report = actor.run()
        stage = usb.inventory.stages[0]
        self.assertEqual(
            [each for each in actor.steps if isinstance(each, Send)],
            [Send((Batch(B, A, (NAS,)),)), Send((Batch(B, None, (USB,)),), stage)],
        )
        self.assertFalse(report.failed)
        self.assertNotIn(f"Clear {USB}", actor.order)
        self.assertEqual([names_sent(each) for each in report.destinations], [[B], [B]])
        assert actor.last
        self.assertEqual((actor.last.at(USB).stages, actor.last.at(USB).holdings.partial), ((), ()))

    def test_one_that_holds_up_the_others(self) -> None:
        """It is looked at anew when they have got all, goes on where it was, and shares nothing with them."""
        nas = self.parts(B, place=NAS)
        seen_then = iter([seen(A, place=NAS), nas])
        first = {USB: arrived(B, C), NAS: Delivery(let_go=True)}
        actor = Told(["-S"], there=(A, B, C), seen={USB: seen(A), NAS: nas}, answers={Send: [first]})
        perform = actor.perform

        def looked(step: Step, now: World) -> Came:
            came = perform(step, now)
            return {**came, NAS: next(seen_then)} if isinstance(step, Look) and isinstance(came, dict) else came

        with patch.object(actor, "perform", looked):
            report = actor.run()
        steps = [each for each in actor.steps if isinstance(each, Send | Look)]
        stage = nas.inventory.stages[0]
        self.assertEqual(
            steps,
            [
                Look((USB, NAS)),
                Send((Batch(B, A, (USB, NAS)), Batch(C, B, (USB, NAS)))),
                Look((NAS,)),
                Send((Batch(B, None, (NAS,)),), stage),
                Send((Batch(C, B, (NAS,)),)),
            ],
        )
        self.assertFalse(report.failed)
        self.assertEqual([names_sent(each) for each in report.destinations], [[B, C], [B, C]])
        self.assertIn("it is far slower than the others; it gets the rest by itself", actor.told("info")[0])
        self.assertFalse({each for each in actor.file if each.kind in (OWED, PARENT)})

    def test_in_turn(self) -> None:
        """What is older comes first, and what is newer afterwards, on top of it."""
        actor = Told([], there=(A, B, C), seen={USB: self.parts(C, backup(A).uuid)})
        actor.run()
        sends = [each for each in actor.steps if isinstance(each, Send)]
        self.assertEqual([[each.snapshot for each in send.batches] for send in sends], [[B], [C], ["20260103-120001"]])
        self.assertEqual([bool(each.resumed) for each in sends], [False, True, False])
        self.assertEqual([send.batches[0].parent for send in sends], [A, A, C])

    def test_of_no_use(self) -> None:
        """Its parent is gone, it is not wanted, or nothing is to be incremental."""
        upon = backup(A).uuid
        cases: dict[str, tuple[list[str], Seen]] = {
            "parent": (["-S"], self.parts(B, "gone")),
            "not wanted": (["-S", "-n", "1"], self.parts(A, upon)),
            "incremental": (["-S", "-I"], self.parts(B, upon)),
        }
        for case, (options, usb) in cases.items():
            with self.subTest(case):
                actor = Told(options, seen={USB: usb})
                self.assertFalse(actor.run().failed)
                self.assertIn(f"Clear {USB}", actor.order)
                self.assertFalse([each for each in actor.steps if isinstance(each, Send) and each.resumed])

    def test_snapshot_is_gone(self) -> None:
        """A stage goes when it is on record that it is of this source."""
        for facts, cleared in ((owed(USB, B), True), (set(), False)):
            actor = Told(["-S"], there=(A,), seen={USB: self.parts(B)}, file=frozenset(facts))
            actor.run()
            self.assertEqual(f"Clear {USB}" in actor.order, cleared)

    def test_another_stream(self) -> None:
        """What is proved of it is gone on with; then all is sent. That is told, and no failure."""
        usb = self.parts(B)
        stage = usb.inventory.stages[0]
        first, after, *marks = stage.subvolumes
        less = replace(stage, subvolumes=(first, replace(after, uuid="other"), *marks))
        changed = Failure("another stream", "It is sent from its beginning.")
        answers: list[Came] = [{USB: Delivery(failure=changed, left=left)} for left in (less, less)]
        actor = Told(["-S"], seen={USB: usb}, answers={Send: answers})  # type: ignore[dict-item]
        report = actor.run()
        sends = [each for each in actor.steps if isinstance(each, Send)]
        self.assertEqual([each.resumed for each in sends], [stage, less, None])
        self.assertEqual(sends[-1].batches[0].parent, A)
        self.assertEqual([each for each in actor.steps if isinstance(each, Clear)], [Clear(USB, (B,), (less,))])
        self.assertFalse(report.failed)
        self.assertEqual(actor.told("warning"), ["another stream", "another stream"])
        self.assertFalse({each for each in actor.file if each.kind in (OWED, PARENT)})

    def test_takes_longer_than_is_kept(self) -> None:
        """It arrives all the same, when nothing newer is there, and what follows builds upon it."""
        actor = Told(["-S", "-n", "1"], there=(A, B, C), seen={USB: self.parts(B, backup(A).uuid)})
        report = actor.run()
        sends = [each for each in actor.steps if isinstance(each, Send)]
        self.assertEqual([(each.batches[0].snapshot, bool(each.resumed)) for each in sends], [(B, True), (C, False)])
        self.assertEqual(sends[1].batches[0].parent, B)
        self.assertEqual(report.destinations[0].deleted, (A, B))
        newer = self.parts(A)
        newer = replace(newer, inventory=replace(newer.inventory, subvolumes=seen(B).inventory.subvolumes))
        actor = Told(["-S", "-n", "1"], there=(A, B, C), seen={USB: newer})
        actor.run()
        self.assertEqual([each.batches for each in actor.steps if isinstance(each, Send)], [(Batch(C, B, (USB,)),)])
        self.assertIn(f"Clear {USB}", actor.order)

    def test_parent_is_to_blame(self) -> None:
        """Nothing of it is left then, and it is sent from its beginning, in another way."""
        usb = self.parts(B, backup(A).uuid)
        stage = usb.inventory.stages[0]
        answers: list[Came] = [{USB: Delivery(failure=Failure("changed", ""), blames_parent=True)}]
        actor = Told(["-S"], seen={USB: usb}, answers={Send: answers})  # type: ignore[dict-item]
        report = actor.run()
        sends = [each for each in actor.steps if isinstance(each, Send)]
        self.assertEqual(sends, [Send((Batch(B, A, (USB,)),), stage), Send((Batch(B, None, (USB,)),))])
        self.assertNotIn(f"Clear {USB}", actor.order)
        self.assertFalse(report.failed)
        assert actor.last
        self.assertEqual((actor.last.at(USB).stages, actor.last.at(USB).holdings.partial), ((), ()))

    def test_shown(self) -> None:
        actor = Told(["--status"], there=(A, B), seen={USB: self.parts(B)}, answers={world.Measure: [400]})
        actor.run()
        self.assertEqual(actor.steps[-1], world.Measure(USB, Batch(B, None, (USB,))))
        assert actor.last
        [place] = survey(actor.last).places
        self.assertEqual([(each.snapshot, each.bytes, each.size) for each in place.parts], [(B, 100, 400)])
        text = "\n".join(table(survey(actor.last), 80, False))
        self.assertIn(f"1: {B} is partial (25 %, 100 B of 400 B), since 1970-01-01", text)


class Interrupting(unittest.TestCase):
    def test_whether_it_goes_on(self) -> None:
        """What a shell command has got does not."""
        for place, there in ((USB, seen(A)), (BOX, Seen(listed=False))):
            now = world.begin(cli.parse(["-S", "/home", place]), NOW, frozenset({A, B}), NONE)
            now = now.after(List(), Listed(HOME, snapshots(A, B))).after(Look((place,)), {place: there})
            self.assertFalse(now.can_go_on)
            step = now.next_step()
            assert isinstance(step, Send)
            now = now.begun(step)
            self.assertEqual(now.can_go_on, place == USB)
            self.assertFalse(now.after(step, {place: Delivery()}).can_go_on)


class InFull(unittest.TestCase):
    """Why a snapshot is sent in full although there are backups."""

    def found(self, place: str, there: Seen, known: Records, *options: str, twins: bool = False) -> World:
        begun = world.begin(cli.parse(["-S", *options, "/home", place]), NOW, frozenset({A, B}), known)
        alike = Inventory({name: Subvolume(name, name, HOME.uuid, "same") for name in (A, B)})
        begun = begun.after(List(), Listed(HOME, alike if twins else snapshots(A, B)))
        return begun.after(Look((place,)), {place: there})

    def test_reasons(self) -> None:
        old, older = "20251231-120000", "20251230-120000"
        same = Seen("disk", Inventory({A: Subvolume(A, "copy", "", "same")}))
        cases: dict[str, World] = {
            "": self.found(USB, seen(), NONE),
            "of '-I'": self.found(USB, seen(A), NONE, "-I"),
            "the backup there is not of a snapshot that the source has": self.found(USB, seen(old), NONE),
            "none of the 2 backups there is of a snapshot that the source has": self.found(USB, seen(older, old), NONE),
            "the snapshots on both sides share their UUIDs with others": self.found(USB, same, NONE, twins=True),
        }
        for wanted, found in cases.items():
            self.assertEqual(found.in_full_because(USB), wanted)
        cases = {
            "": self.found(BOX, Seen(listed=False), NONE),
            f"the snapshot that was delivered last, {old}, is gone at the source": self.found(
                BOX, Seen(listed=False), frozenset({Fact(NEWEST, BOX, old)})
            ),
        }
        for wanted, found in cases.items():
            self.assertEqual(found.in_full_because(BOX), wanted)

    def test_no_parent_is_of_use(self) -> None:
        begun = self.found(USB, seen(A), NONE)
        step = begun.next_step()
        assert isinstance(step, Send)
        failed = Delivery(failure=Failure("changed", ""), blames_parent=True)
        begun = begun.begun(step).after(step, {USB: failed})
        self.assertEqual(begun.next_step(), Send((Batch(B, None, (USB,)),)))
        self.assertEqual(begun.in_full_because(USB), "no backup there can be used as its parent")


class Unwritable(unittest.TestCase):
    """Records that cannot be written."""

    def actor(self, kind: type, after: bool, brief: str, *options: str, **more: object) -> Told:
        given = {"seen": {USB: seen(A)}, "file": frozenset({newest(A)}), **more}
        return Told(["-N", "1", *options], unwritable=(kind, after, brief), **given)  # type: ignore[arg-type]

    def test_before_a_send(self) -> None:
        table = {
            DISK_FULL: (["Take", "List", "Look", f"Delete {USB}", "Delete"], [USB], []),
            READ_ONLY: (["Take", "List", "Look", "Send", f"Delete {USB}"], ["/home"], [B, C]),
            "": (["Take", "List", "Look", f"Delete {USB}"], [USB], []),
        }
        for brief, (order, failed, sent) in table.items():
            with self.subTest(brief):
                actor = self.actor(Send, False, brief)
                actor.file = frozenset({newest(A), Fact(STAGED, USB, "", "disk of /usb"), backup_fact(A)})
                report = actor.run()
                self.assertEqual(actor.order, order)
                places = (report.source, *report.destinations)
                self.assertEqual([each.place for each in places if each.failed], failed)
                self.assertEqual(names_sent(report.destinations[0]), sent)
                self.assertEqual(len(actor.told("error")), 1)
                # Nothing is deleted that somebody needs.
                self.assertEqual(report.source.deleted, ())
                self.assertEqual("no snapshot is deleted" in str(actor.told("warning")), brief == "")

    def test_full_disk_is_freed(self) -> None:
        """Of what this run knows that nobody needs it."""
        actor = self.actor(Send, False, DISK_FULL, there=(A, B), seen={USB: seen(A, B)})
        actor.file = frozenset({newest(B), Fact(STAGED, USB, "", "disk of /usb"), backup_fact(A), backup_fact(B)})
        report = actor.run()
        self.assertEqual(report.source.deleted, (A,))
        self.assertEqual(report.destinations[0].failures[0].brief, "source: disk full")

    def test_full_disk_keeps_what_only_this_run_knows_to_be_needed(self) -> None:
        """B is on record as owed, the next one is not, and both are missing there."""
        between = "20260102-130000"
        report = self.actor(Send, False, DISK_FULL, there=(A, B, between)).run()
        self.assertEqual(report.source.deleted, ())
        self.assertEqual((report.source.kept or {})[between], (f"needed by {USB}",))

    def test_after_a_send(self) -> None:
        """What arrived has arrived: it is reported, the newest parent is kept, and nothing of it is outstanding."""
        for brief, deleted in ((DISK_FULL, (A, B)), (READ_ONLY, ()), ("", ())):
            with self.subTest(brief):
                report = self.actor(Send, True, brief).run()
                [usb] = report.destinations
                self.assertEqual((names_sent(usb), usb.outstanding), ([B, C], ()))
                self.assertEqual(report.source.deleted, deleted)
                self.assertTrue(report.failed)

    def test_after_a_failed_send(self) -> None:
        failed = {USB: arrived(B, failure=TROUBLE)}
        report = self.actor(Send, True, DISK_FULL, answers={Send: [failed]}).run()
        [usb] = report.destinations
        self.assertEqual((names_sent(usb), usb.outstanding), ([B], (C,)))
        # B is what C can be built upon.
        self.assertEqual(report.source.deleted, (A,))

    def test_unreadable_and_full(self) -> None:
        """What was on record is not known: a full disk does not change that."""
        actor = self.actor(Send, False, DISK_FULL, broken=(TROUBLE,), file=NONE)
        report = actor.run()
        self.assertIsNone(report.source.kept)
        self.assertNotIn("Delete", actor.order)

    def test_first_broken_then_full(self) -> None:
        actor = self.actor(Look, True, "", seen={USB: seen(A), NAS: seen(place=NAS)})
        report = actor.run()
        self.assertIsNone(report.source.kept)


def backup_fact(name: str) -> Fact:
    return Fact(BACKUP, USB, name, "disk of /usb", f"{USB}-{name}")


class OnRecord(unittest.TestCase):
    def test_unreadable(self) -> None:
        """Backups are made, and nothing is deleted at the source."""
        actor = Told(["-N", "1"], seen={USB: seen(A)}, broken=(TROUBLE,))
        report = actor.run()
        self.assertEqual(report.source.failures, (TROUBLE,))
        self.assertEqual((names_sent(report.destinations[0]), report.source.kept), ([B, C], None))

    def test_remove_locks(self) -> None:
        """What is on record of destinations is dropped before anything else, of this prefix and nobody else."""
        theirs = {Fact(OWED, NAS, A), Fact(OWED, USB, "other-" + A)}
        known = frozenset(theirs | owed(USB, A) | {newest(A)})
        actor = Told(["-S", "-T", "--remove-locks", "-N", "1"], seen={USB: seen()}, file=known)
        report = actor.run()
        self.assertEqual(actor.on_record[0], ("List", theirs))
        self.assertEqual(actor.told("info")[0], "dropped what was on record of it")
        # Another destination is still owed it.
        self.assertEqual(report.source.deleted, ())
        actor = Told(["-S", "-T", "--remove-locks"], seen={USB: seen()})
        actor.run()
        self.assertEqual(actor.told("warning"), ["nothing is on record of it: is it spelled as in the backups?"])

    def test_locked_dests(self) -> None:
        """Whatever is owed something, but no shell command and nothing that is no place."""
        recorded = ((USB, A), (BOX, A), ("usb", A), ("ftp://x/", A), ("/theirs", "x-" + A))
        known = frozenset(Fact(OWED, *each) for each in recorded)
        known |= {Fact(BLOCKED, NAS, A, "x"), newest(A, "/served")}
        actor = Told(["--locked-dests"], file=known)
        found: dict[str, Seen | Failure] = {NAS: TROUBLE, USB: seen(A)}
        actor.answers[Look] = [found]
        report = actor.run()
        self.assertEqual([each.place for each in report.destinations], [USB, NAS])
        words = [each.message for each in report.source.failures]
        self.assertEqual(len(words), 3)
        self.assertIn(f"'--locked-dests' runs no shell command that only the records name: {BOX}", words)
        self.assertIn("the records name something that is no destination: 'usb' is not absolute", words)

    def test_found_complete(self) -> None:
        """It is owed no more, and that is told."""
        actor = Told(["-S"], seen={USB: seen(A, B)}, file=frozenset(owed(USB, A, B)))
        actor.run()
        self.assertIn(("info", USB, f"on record as outstanding, and complete there: {A}, {B}"), actor.messages)
        self.assertFalse({each for each in actor.file if each.kind == OWED})

    def test_what_is_in_the_way_protects_its_snapshot(self) -> None:
        """A backup that somebody changed may be the last copy but for its snapshot. Until it is out of the way."""
        actor = Told(["-N", "1"], seen={USB: seen(A, changed=B)})
        report = actor.run()
        [usb] = report.destinations
        self.assertEqual(len(usb.failures), 1)
        self.assertIn(f"cannot send {B}", usb.failures[0].message)
        self.assertEqual((names_sent(usb), usb.outstanding), ([C], (B,)))
        self.assertEqual(report.source.deleted, (A,))
        self.assertEqual((report.source.kept or {})[B], (f"not sent to {USB}, where something else has its name",))
        self.assertFalse({each for each in actor.file if each.kind == OWED})
        # So it is while the disk is away, and no longer when it is out of the way.
        known = actor.file
        away = Told(["-S", "-N", "1", "--skip-absent"], (B, C), {USB: Absent("away", "")}, known)
        self.assertEqual(away.run().source.deleted, ())
        self.assertLessEqual({Fact(BLOCKED, USB, B, "disk of /usb")}, away.file)
        after = Told(["-S", "-N", "1"], (B, C), {USB: seen(A, B, C)}, known)
        self.assertEqual(after.run().source.deleted, (B,))
        self.assertFalse({each for each in after.file if each.kind == BLOCKED})

    def test_away_for_long(self) -> None:
        """The oldest and the newest that it is owed, and its parent, are kept."""
        actor = Told(["-N", "1"], seen={USB: TROUBLE}, file=frozenset({newest(A), *owed(USB, B)}))
        report = actor.run()
        self.assertEqual((report.source.deleted, report.destinations[0].outstanding), ((), (B, C)))

    def test_being_received(self) -> None:
        """By a run that is alive: it is left alone, told, and kept at the source, since that run may fail."""
        stage = Stage(f".{B}.receiving", B, ("x-1-01234567",), holder="process 1 on x")
        there = Seen("disk of /usb", Inventory({A: backup(A)}, stages=(stage,)))
        begun = {Fact(PARENT, USB, A), *owed(USB, B)}
        for known in (begun, set()):
            actor = Told(["-S", "-N", "1"], (A, B, C), {USB: there}, frozenset(known))
            report = actor.run()
            [usb] = report.destinations
            self.assertNotIn(f"Clear {USB}", actor.order)
            self.assertIn(f"{B} is being received there already, by process 1 on x", actor.told("error"))
            self.assertEqual((names_sent(usb), usb.outstanding), ([C], (B,)))
            self.assertEqual(report.source.deleted, (A,))
            self.assertEqual((report.source.kept or {})[B], (f"outstanding for {USB}",))
            self.assertEqual({each for each in actor.file if each.kind in (OWED, PARENT)}, owed(USB, B))
        # What its destination does not keep is not sent, and nobody waits for it.
        report = Told(["-S", "-n", "1"], (A, B, C), {USB: there}).run()
        self.assertEqual((report.destinations[0].failures, report.destinations[0].outstanding), ((), ()))


if __name__ == "__main__":
    unittest.main()
