"""Streams in parts, as a receiver puts them together again; and where a transfer that was cut off goes on."""

import random
import unittest
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256

from btrfs_backup.model.cutter import (
    Checkpoint,
    Cutter,
    Part,
    Unproved,
    base,
    beginning,
    checkpoints,
    is_base,
    is_ours,
    mark,
    origin,
    useless,
)
from btrfs_backup.model.sendstream import Attribute, Beginning, BrokenStream, Command, Walker, is_whole, uuid_text
from btrfs_backup.model.snapshot import Subvolume
from tests.unit.test_gate import OTHER, clone
from tests.unit.test_sendstream import END, FULL, HEADER, INCREMENT, PARENT, SNAPSHOT, command, write

SALT = "0000abcd" * 2

whole = lru_cache(1000)(is_whole)  # its check takes most of the time of these tests


def written(salt: str, *numbers: int) -> list[Subvolume]:
    """Marks with these NUMBERS."""
    return [Subvolume(mark(salt, number), f"{salt}-{number}", id=number) for number in numbers]


class Receiver:
    """What `btrfs receive` makes of streams: subvolumes, each the frames of the one that it was made of and its own.

    A CLONE from the subvolume itself stands there as one from the true snapshot.
    """

    def __init__(self, writes: bool = False) -> None:
        self.writes = writes  # the disk, whenever a part has been begun
        self.made: dict[str, list[bytes]] = {PARENT: [b"the parent"]}  # by UUID
        self.standing: list[Subvolume] = []

    def receive(self, text: bytes) -> None:
        """TEXT may break off anywhere."""
        walker = Walker(1_000_000)
        for kind, start, end in walker.feed(text):
            if kind in (Command.SUBVOL, Command.SNAPSHOT):
                begun = Beginning.read(walker, walker.attributes(start, end))
                uuid = f"{len(self.made):08}-0000-0000-0000-000000000000"
                origin = self.find(begun.parent) if begun.parent else ""
                self.made[uuid] = list(self.made[origin]) if origin else []
                name, number = begun.name.decode(), len(self.made) * 10
                self.standing.append(Subvolume(name, uuid, origin, readonly=False, id=number))
                if (part := Part.named(name)) and self.writes:
                    self.standing[:0] = written(part.salt, number + 1, number + 2)
            elif kind == Command.END:
                self.standing[-1] = replace(self.standing[-1], received_uuid=begun.uuid, readonly=True)
            elif kind == Command.CLONE:
                source = walker.value(Attribute.CLONE_UUID, walker.attributes(start, end)).hex()
                own = source == begun.uuid.replace("-", "")
                self.made[uuid].append(clone(SNAPSHOT) if own else walker.buffer[start:end])
                assert whole(walker.buffer[start:end])
            elif kind != Command.HEADER:
                self.made[uuid].append(walker.buffer[start:end])

    def delete(self, some: list[Subvolume]) -> None:
        self.standing = [each for each in self.standing if each not in some]

    def find(self, uuid: str) -> str:
        received = [each.uuid for each in self.standing if each.received_uuid == uuid]
        assert len(received) < 2
        return [*received, uuid][0]


SOME = [
    *(write(bytes([size % 256]) * size) for size in range(1, 3000, 117)),
    *([clone(SNAPSHOT), clone(PARENT), clone(OTHER), command("UNLINK", PATH=b"x")] * 8),
]


def stream_of(dice: random.Random, beginning: Beginning) -> tuple[bytes, list[bytes]]:
    frames = dice.choices(SOME, k=dice.randrange(60))
    return HEADER + beginning.frame() + b"".join(frames) + END, frames


def cut(cutter: Cutter, stream: bytes, piece: int = 1 << 20) -> bytes:
    chain, at = b"", 0
    while at < len(stream):
        if unseen := min(cutter.unseen, len(stream) - at):
            chain += b"" if cutter.dropping else stream[at : at + unseen]
            cutter.skip(unseen)
            at += unseen
        chain += b"".join(map(bytes, cutter.feed(stream[at : at + piece])))
        at += piece
    cutter.finish()
    return chain


def sent_again(stream: bytes, known: Checkpoint) -> bytes:
    """What comes in of a stream from another machine that goes on at a checkpoint, which is proved."""
    at = known.head
    for length, proof in known.ranges:
        assert sha256(stream[at : at + length]).hexdigest()[:32] == proof
        at += length
    assert at == known.offset
    return stream[: known.head] + stream[at:]


class Chains(unittest.TestCase):
    def test_upon_a_parent_for_which_another_could_be_taken(self) -> None:
        """It is named by its UUID there, and what is cloned from it comes from a snapshot of it that goes before."""
        dice, there = random.Random(2), "abcdef01-0000-0000-0000-000000000000"
        resumed = 0
        for _ in range(100):
            stream, frames = stream_of(dice, INCREMENT)
            receiver = Receiver(writes=True)
            receiver.made[there] = receiver.made.pop(PARENT)
            salts, known = iter((SALT, SALT[::-1])), ()
            for salt in salts:
                attempt = Cutter(dice.choice([1, 1000, 1 << 20]), salt, known, upon=there)
                self.assertTrue(attempt.needed)
                receiver.receive(cut(attempt, stream))
                last, copies = receiver.standing[-1], [each for each in receiver.standing if each.name == base(salt)]
                self.assertEqual([(each.parent_uuid, each.readonly) for each in copies], [(there, True)])
                self.assertEqual(origin(last, receiver.standing), there)
                # From whichever snapshot of it.
                sources = [each.received_uuid for each in receiver.standing if is_base(each.name)]
                parent = {clone(each): clone(PARENT) for each in sources}
                made = [parent.get(each, each) for each in receiver.made[last.uuid]]
                self.assertEqual(made, [b"the parent", *frames])
                self.assertTrue(all(is_ours(each.name) for each in receiver.standing[:-1]))
                # What is needed to go on stays.
                receiver.delete([last])
                if not (known := tuple(checkpoints(receiver.standing))):
                    break
                receiver.delete(useless(receiver.standing, known[-1]))
                self.assertEqual(beginning(receiver.standing, known[-1]), there)
                resumed += 1
        self.assertGreater(resumed, 50)

    def test_what_only_looks_like_that_snapshot(self) -> None:
        right = uuid_text(sha256(base(SALT).encode()).digest()[:16])
        good = Subvolume(base(SALT), "copy", "parent", right)
        cases = (good, replace(good, readonly=False), replace(good, received_uuid=PARENT), replace(good, name="base"))
        for each, wanted in zip(cases, ("parent", "copy", "copy", "copy"), strict=True):
            self.assertEqual(origin(Subvolume("x", "x", "copy"), [each]), wanted)

    def test_put_together_again(self) -> None:
        dice = random.Random(1)
        for _ in range(300):
            beginning = dice.choice([FULL, INCREMENT])
            stream, frames = stream_of(dice, beginning)
            limit = dice.choice([1, 100, 1000, 10_000, 1 << 20])
            receiver = Receiver()
            receiver.receive(cut(Cutter(limit, SALT), stream, dice.choice([100, 3000, 1 << 20])))
            last = receiver.standing[-1]
            self.assertEqual((last.name, last.received_uuid, last.readonly), ("home.2026", SNAPSHOT, True))
            before = receiver.made[PARENT] if beginning.parent else []
            self.assertEqual(receiver.made[last.uuid], before + frames)
            sizes = [sum(map(len, receiver.made[each.uuid])) for each in receiver.standing[:-1]]
            for less, more in zip([len(b"".join(before)), *sizes], sizes, strict=False):
                self.assertTrue(more - less <= max(limit, 3100))
            self.assertTrue(all(part.readonly and Part.named(part.name) for part in receiver.standing[:-1]))

    def test_gets_on_without_copies(self) -> None:
        """What stays as it is goes on as one piece of the buffer."""
        stream = HEADER + FULL.frame() + write(bytes(1000)) * 100 + END
        pieces = list(Cutter(50_000, SALT).feed(stream))
        views = [piece for piece in pieces if isinstance(piece, memoryview)]
        self.assertTrue(len(pieces) <= 8 and all(view.obj is stream for view in views), len(pieces))
        self.assertEqual(sum(map(len, views)), len(stream) - len(HEADER + FULL.frame()))

    def test_the_limit_may_change(self) -> None:
        cutter, receiver = Cutter(1 << 30, SALT), Receiver()
        stream = HEADER + FULL.frame() + write(bytes(1000)) * 100 + END
        half = len(stream) // 2
        receiver.receive(b"".join(cutter.feed(stream[:half])))
        self.assertEqual(len(receiver.standing), 1)
        cutter.limit = 2000
        chain = b"".join(cutter.feed(stream[half:]))
        self.assertGreater(chain.count(HEADER), 30)

    def test_transids(self) -> None:
        """Those of the parent and of the snapshot stand where they did; the parts have that of the snapshot."""
        walker, seen = Walker(100), []
        chain = cut(Cutter(1, SALT), HEADER + INCREMENT.frame() + command("UNLINK", PATH=b"x") * 2 + END)
        for kind, start, end in walker.feed(chain):
            if kind in (Command.SUBVOL, Command.SNAPSHOT):
                begun = Beginning.read(walker, walker.attributes(start, end))
                seen.append((begun.transid, begun.parent_transid, begun.parent == PARENT))
        self.assertEqual(seen, [(77, 66, True), (77, 77, False), (77, 77, False)])


class Resumed(unittest.TestCase):
    def test_cut_off_anywhere(self) -> None:
        """Several times, each time with a limit of its own; to its end."""
        self.cut_off_anywhere(far=False)

    def test_from_another_machine(self) -> None:
        self.cut_off_anywhere(far=True)

    def cut_off_anywhere(self, far: bool) -> None:
        dice, saved = random.Random(2), 0
        for _ in range(200):
            stream, frames = stream_of(dice, FULL)
            receiver = Receiver(writes=True)
            for attempt in range(dice.randrange(1, 6)):
                known = checkpoints(receiver.standing, far)[-1 if far else 0 :]
                chain = cut(
                    Cutter(dice.randrange(1, 9000), f"{attempt:016x}", known, far),
                    sent_again(stream, known[0]) if far and known else stream,
                    dice.choice([999, 99_999]),
                )
                if known:
                    saved += 1
                    self.assertLess(
                        len(chain) - len(stream) + known[-1].offset, 500 * (chain.count(HEADER) + len(frames))
                    )
                receiver.receive(chain[: dice.randrange(len(chain))])
                if known := checkpoints(receiver.standing, far):
                    receiver.delete(useless(receiver.standing, known[-1]))
                    self.assertEqual(checkpoints(receiver.standing, far)[-1], known[-1])
            known = checkpoints(receiver.standing, far)[-1 if far else 0 :]
            text = sent_again(stream, known[0]) if far and known else stream
            receiver.receive(cut(Cutter(500, "f" * 16, known, far), text))
            last = receiver.standing[-1]
            self.assertEqual(receiver.made[last.uuid], frames)
            self.assertEqual(last.received_uuid, SNAPSHOT)
            self.assertEqual(origin(last, receiver.standing[:-1]), "")
        self.assertGreater(saved, 200)

    def test_another_stream(self) -> None:
        """Wherever it differs: nothing of it is handed over, and the checkpoints before are told."""
        dice = random.Random(3)
        for _ in range(200):
            frames = dice.choices(SOME[:6], k=30)
            beginning = HEADER + INCREMENT.frame()
            receiver = Receiver(writes=True)
            receiver.receive(cut(Cutter(200, SALT), beginning + b"".join(frames) + END)[:-200])
            known = checkpoints(receiver.standing)
            self.assertGreater(len(known), 5)
            place = dice.randrange(len(frames))
            other = [*frames[:place], dice.choice(SOME[6:9]), *frames[place + 1 :]]
            border = len(beginning) + len(b"".join(frames[:place]))
            text = beginning + b"".join(other[: dice.choice([30, 30, place])]) + END
            cutter, handed = Cutter(200, SALT, known), b""
            good = [each for each in known if each.offset <= border]
            if len(good) == len(known):
                self.assertTrue(cut(cutter, beginning + b"".join(other) + END))
                continue
            with self.assertRaisesRegex(Unproved, "the stream is not the one that was cut off") as caught:
                for each in cutter.feed(text):
                    handed += each
            self.assertEqual((handed, caught.exception.proved), (b"", good))
            self.assertTrue(cut(Cutter(200, "1234567812345678", good), text))

    def test_from_another_machine_that_lost_bytes(self) -> None:
        """The first frame behind the checkpoint is not one."""
        stream = HEADER + FULL.frame() + write(bytes(range(256)) * 8) * 100 + END
        receiver = Receiver(writes=True)
        receiver.receive(cut(Cutter(30_000, SALT, far=True), stream)[:100_000])
        [*_, known] = checkpoints(receiver.standing, far=True)
        for lost in (1, 10, 40):
            text = sent_again(stream, known)
            text = text[: known.head] + text[known.head + lost :]
            with self.assertRaises((Unproved, BrokenStream)):
                cut(Cutter(30_000, "1" * 16, [known], far=True), text)
        first = len(write(bytes(range(256)) * 8))
        self.assertEqual((known.offset - known.head) % first, 0)
        changed = bytearray(sent_again(stream, known))
        changed[known.head + 100] ^= 1
        with self.assertRaises(Unproved):
            cut(Cutter(30_000, "1" * 16, [known], far=True), bytes(changed))

    def test_beginnings_count(self) -> None:
        """Another snapshot, parent or version is another stream, though what follows is the same."""
        frames, receiver = command("UNLINK", PATH=b"x") * 9 + END, Receiver(writes=True)
        receiver.receive(cut(Cutter(1, SALT), HEADER + INCREMENT.frame() + frames))
        known = checkpoints(receiver.standing)
        cut(Cutter(1, "1" * 16, known), HEADER + INCREMENT.frame() + frames)
        for begun in (
            HEADER.replace(b"\1", b"\2") + INCREMENT.frame(),
            HEADER + replace(INCREMENT, uuid=OTHER).frame(),
            HEADER + replace(INCREMENT, parent=OTHER).frame(),
            HEADER + replace(INCREMENT, transid=1).frame(),
        ):
            with self.assertRaises(Unproved) as caught:
                cut(Cutter(1, "1" * 16, known), begun + frames)
            self.assertEqual(caught.exception.proved, [])


class Believed(unittest.TestCase):
    """Which of the subvolumes in a stage are good for what."""

    ONE, TWO = Part(100, "1" * 32, SALT), Part(200, "2" * 32, SALT)
    FIRST = Subvolume(ONE.name, "uuid-1", "elsewhere", ONE.uuid, id=1)
    NEXT = Subvolume(TWO.name, "uuid-2", "uuid-1", readonly=False, id=2)
    MARKS = written(SALT, 3, 4)

    def test_the_next_one_has_been_begun(self) -> None:
        wanted = [Checkpoint(200, "2" * 32, "uuid-1", 1, 100, ((100, "2" * 32),))]
        for after in (self.NEXT, replace(self.NEXT, received_uuid=self.TWO.uuid, readonly=True)):
            for found in ([self.FIRST, after], [after, self.FIRST], [Subvolume("home.2026", "x"), after, self.FIRST]):
                self.assertEqual(checkpoints([*found, *self.MARKS]), wanted)
        unchanged = [replace(self.FIRST, changed_transid=7), replace(self.NEXT, made_transid=7)]
        self.assertEqual(checkpoints([*unchanged, *self.MARKS]), wanted)

    def test_the_disk_has_written_it(self) -> None:
        """What was begun between two marks of its transfer may not be written."""
        other = "f" * 16
        for marks, good in (
            ([], False),
            (written(SALT, 3), False),
            (written(SALT, 1, 3), False),
            (written(other, 3, 4), False),
            ([*written(SALT, 3), *written(other, 4)], False),
            (written(SALT, 4, 3), True),
            (written(SALT, 3, 4, 5), True),
        ):
            self.assertEqual(bool(checkpoints([self.FIRST, self.NEXT, *marks])), good, marks)

    def test_not_believed(self) -> None:
        first, after = self.FIRST, self.NEXT
        for found in (
            [],
            [first],
            [after],
            [replace(first, readonly=False), after],
            [replace(first, received_uuid=""), after],
            [replace(first, received_uuid=OTHER), after],
            [replace(first, name="home.2026"), after],
            [replace(first, changed_transid=8), replace(after, made_transid=7)],
            [first, replace(after, parent_uuid="uuid-3")],
            [first, replace(after, parent_uuid="uuid-2")],
            [first, replace(after, name="part-x")],
            [first, replace(after, name=Part(100, "2" * 32, SALT).name)],
        ):
            self.assertEqual(checkpoints([*found, *self.MARKS]), [], found)

    def test_names(self) -> None:
        self.assertEqual(Part.named(self.ONE.name), self.ONE)
        self.assertNotEqual(self.ONE.uuid, replace(self.ONE, salt="0" * 16).uuid)
        self.assertRegex(self.ONE.uuid, r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        for name in (
            "",
            "part-1",
            "home.20260101-000000",
            f"part1-x-{'1' * 32}-{SALT}",
            f"part1-1-{'1' * 32}-{SALT}\n",
        ):
            self.assertIsNone(Part.named(name))


if __name__ == "__main__":
    unittest.main()
