"""Frames of send streams, and what is stored of them."""

import random
import struct
import unittest
from functools import lru_cache

from btrfs_backup.model.sendstream import (
    Attribute,
    Beginning,
    BrokenStream,
    Checker,
    Command,
    Measure,
    Walker,
    beginning,
    frame,
)

HEADER = b"btrfs-stream\0" + struct.pack("<I", 1)
HEADER_2 = b"btrfs-stream\0" + struct.pack("<I", 2)
SNAPSHOT = "12345678-9abc-def0-1234-56789abcdef0"
PARENT = "00000000-1111-2222-3333-444444444444"
FULL = Beginning(b"home.2026", SNAPSHOT, 77)
INCREMENT = Beginning(b"home.2026", SNAPSHOT, 77, PARENT, 66)


def attributes(version: int = 1, **values: bytes) -> bytes:
    found = b""
    for name, value in values.items():
        kind = Attribute[name]
        bare = kind == Attribute.DATA and version > 1
        found += (struct.pack("<H", kind) if bare else struct.pack("<HH", kind, len(value))) + value
    return found


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


@lru_cache(1000)
def command(name: str, version: int = 1, **values: bytes) -> bytes:
    return frame(Command[name], attributes(version, **values))


def write(data: bytes, path: bytes = b"file", version: int = 1) -> bytes:
    return command("WRITE", version, PATH=path, FILE_OFFSET=number(0), DATA=data)


END = frame(Command.END)
STREAM = HEADER + FULL.frame() + write(b"data" * 500) + END


def plain_crc32c(message: bytes) -> str:
    crc = 0
    for byte in message:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc.to_bytes(4, "little").hex()


def verdict(stream: bytes, piece: int) -> str:
    """What a checker says of STREAM when it comes in pieces of that size; empty when it is content."""
    checker = Checker()
    try:
        for start in range(0, len(stream), piece):
            checker.feed(stream[start : start + piece])
        checker.finish()
    except BrokenStream as error:
        return str(error)
    return ""


class Frames(unittest.TestCase):
    def test_checksum(self) -> None:
        """As the definition has it, bit by bit."""
        for size in (1, 3, 1000):
            body = random.Random(size).randbytes(size)
            self.assertEqual(frame(9, body)[6:10].hex(), plain_crc32c(struct.pack("<IHI", size, 9, 0) + body))

    def test_walked(self) -> None:
        """However it is divided into pieces, and with several streams one behind the other."""
        for streams in (1, 3):
            for piece in (1, 7, 1000, 1 << 20):
                walker, seen, text = Walker(streams), [], STREAM * streams
                for start in range(0, len(text), piece):
                    for each, first, last in walker.feed(text[start : start + piece]):
                        seen.append((walker.number, each, walker.base + first, walker.base + last))
                        self.assertEqual(walker.buffer[first:last], text[walker.base + first : walker.base + last])
                walker.finish()
                self.assertEqual([each[:2] for each in seen], list(enumerate([0, 1, 15, 21] * streams)))
                self.assertEqual([each[3] for each in seen][:-1], [each[2] for each in seen][1:])

    def test_bounds(self) -> None:
        """Commands and lengths, by version; the version itself."""
        for version, last, longest in ((1, 22, 1 << 16), (2, 25, 1 << 20), (3, 26, 1 << 20)):
            start = b"btrfs-stream\0" + struct.pack("<I", version)
            for kind in range(0, 40):
                self.assertEqual(self.walks(start + struct.pack("<IHI", 9, kind, 0)), 1 <= kind <= last, kind)
            for length, good in ((longest, True), (longest + 1, False)):
                self.assertEqual(self.walks(start + struct.pack("<IHI", length, 15, 0)), good)
        for version in (0, 4, 1 << 31):
            with self.assertRaisesRegex(BrokenStream, f"it is of version {version}, which is not known here"):
                list(Walker().feed(b"btrfs-stream\0" + struct.pack("<I", version)))

    def walks(self, text: bytes) -> bool:
        try:
            list(Walker().feed(text))
        except BrokenStream:
            return False
        return True

    def test_attributes(self) -> None:
        walker = Walker()
        for text, wanted in (
            (attributes(PATH=b"a", DATA=b"xyz"), {15: b"a", 19: b"xyz"}),
            (b"", {}),
            (attributes(PATH=b""), {15: b""}),
            (attributes(PATH=b"a") * 2, None),
            (attributes(PATH=b"a")[:-1], None),
            (attributes(PATH=b"a") + b"\x01", None),
            (attributes(INO=bytes(7)), None),
            (struct.pack("<HH", 0, 0), None),
            (struct.pack("<HH", 36, 0), None),
            (struct.pack("<HH", 15, 9) + b"a", None),
        ):
            walker = Walker()
            [_, (_, start, end)] = walker.feed(HEADER + frame(15, text))
            if wanted is None:
                with self.assertRaisesRegex(BrokenStream, "an attribute in it is malformed"):
                    walker.attributes(start, end)
            else:
                found = walker.attributes(start, end)
                self.assertEqual({kind: walker.value(kind, found) for kind in found}, wanted)

    def test_data_of_version_2(self) -> None:
        """It has no length and is the last one; that of a tiny file is shorter than the head of other attributes."""
        for size in (100_000, 5, 4, 3, 2, 1, 0):
            walker = Walker()
            [_, (_, start, end)] = walker.feed(HEADER_2 + write(b"\x13" * size, version=2))
            found = walker.attributes(start, end)
            self.assertEqual(walker.value(Attribute.DATA, found), b"\x13" * size)
            self.assertEqual(walker.value(Attribute.PATH, found), b"file")
        for stray in (b"\x13", b"\x12", b"\x12\0", b"\x13\1", b"\0\0\0"):
            [(_, start, end)] = walker.feed(frame(Command.WRITE, attributes(2, PATH=b"file") + stray))
            with self.assertRaisesRegex(BrokenStream, "an attribute in it is malformed"):
                walker.attributes(start, end)

    def test_beginnings(self) -> None:
        for expected in (FULL, INCREMENT):
            walker = Walker()
            [_, (kind, start, end)] = walker.feed(HEADER + expected.frame())
            self.assertEqual(Command(kind).name, "SNAPSHOT" if expected.parent else "SUBVOL")
            self.assertEqual(Beginning.read(walker, walker.attributes(start, end)), expected)


class First(unittest.TestCase):
    """What the first piece of a stream tells."""

    def test_first_command(self) -> None:
        for expected in (FULL, INCREMENT):
            for header in (HEADER, HEADER_2):
                stream = header + expected.frame() + write(b"data") + END
                for end in range(len(stream) + 1):
                    whole = end >= len(header + expected.frame())
                    self.assertEqual(beginning(stream[:end]), expected if whole else None, end)

    def test_other_first_commands(self) -> None:
        words = "its first command is not one that begins a subvolume"
        for stream in (HEADER + write(b"data") + FULL.frame(), HEADER + END, HEADER + END + STREAM):
            with self.assertRaises(BrokenStream) as caught:
                beginning(stream)
            self.assertEqual(str(caught.exception), words)

    def test_broken(self) -> None:
        """No stream, of an unknown version, without what the first command has to tell."""
        nameless = attributes(UUID=bytes(16), CTRANSID=number(1))
        for stream, words in (
            (b"hello, this is no stream at all", "does not begin like"),
            (b"btrfs-stream\0" + struct.pack("<I", 9), "of version 9"),
            (HEADER + frame(Command.SUBVOL, nameless), "its first command is damaged"),
            (HEADER + frame(Command.SUBVOL, attributes(PATH=b"x")), "its first command is damaged"),
            (HEADER + frame(Command.SUBVOL, attributes(PATH=b"x") * 2), "malformed"),
        ):
            with self.subTest(words), self.assertRaisesRegex(BrokenStream, words):
                beginning(stream)


class Streams(unittest.TestCase):
    def test_whole_ones(self) -> None:
        for stream in (STREAM, HEADER_2 + FULL.frame() + frame(9, bytes(200_000)) + END):
            for piece in (1, 7, 1000, 1 << 20) if len(stream) < 10_000 else (4096,):
                self.assertEqual(verdict(stream, piece), "")

    def test_every_place_to_break_off(self) -> None:
        for end in range(len(STREAM)):
            self.assertEqual(verdict(STREAM[:end], 1 << 20), "it breaks off before its end", end)

    def test_spoiled_beginning(self) -> None:
        source = random.Random(2)
        for place in [*range(17), *source.sample(range(17, 17 + len(FULL.frame())), 40)]:
            spoiled = bytearray(STREAM)
            spoiled[place] ^= 1 << source.randrange(8)
            if spoiled[13:17] not in (b"\2\0\0\0", b"\3\0\0\0"):
                self.assertNotEqual(verdict(bytes(spoiled), 333), "", place)
        wrong = STREAM.replace(b"home.2026", b"home.2027")
        self.assertEqual(verdict(wrong, 333), "its first command is damaged")

    def test_a_sender_that_starts_again_in_the_middle(self) -> None:
        """Wherever it was stopped, also where the lengths of frames happen to fit."""
        for end in range(1, len(STREAM)):
            for piece in (100, 1 << 20):
                self.assertNotEqual(verdict(STREAM[:end] + STREAM, piece), "", end)

    def test_a_thousand_that_start_again(self) -> None:
        """Also those whose frames fit together: the rest of the last one is filled with whole frames."""
        dice, fitting, seen = random.Random(3), 0, set[str]()
        some = [write(dice.choice([bytes, dice.randbytes])(dice.randrange(49_152))) for _ in range(20)]
        for _ in range(1000):
            small = [command("UNLINK", PATH=b"x" * dice.randrange(1, 60)) for _ in range(dice.randrange(300))]
            large = dice.sample(some, 3)
            stream = HEADER + INCREMENT.frame() + b"".join(small + large) + END
            if dice.randrange(2) and small:
                # The rest of a frame is as long as what comes until a border.
                border = len(HEADER + INCREMENT.frame() + b"".join(small[: dice.randrange(len(small))]))
                end = len(stream) - len(END) - border
            else:
                end = dice.randrange(1, len(stream))
            again, walker = stream[:end] + stream, Walker()
            try:
                list(walker.feed(again))
                walker.finish()
                fitting += 1
            except BrokenStream:
                pass
            said = verdict(again, dice.choice([4096, 65_536, 1 << 20]))
            self.assertTrue(said)
            seen.add(said.split(",")[0])
        self.assertGreater(fitting, 100)
        self.assertIn("it begins again in the middle", seen)

    def test_stored_streams_in_it(self) -> None:
        """Files that hold other streams, and much that looks like the beginning, are no harm."""
        other = HEADER + Beginning(b"home.2026", PARENT, 77).frame() + END
        stream = HEADER + FULL.frame() + write(other) + write(HEADER * 1000) + write((HEADER + FULL.frame())[:-8]) + END
        self.assertEqual(verdict(stream, 1000), "")

    def test_more_after_the_end(self) -> None:
        stray = "there is something in it that is not of its format, behind frame 3"
        for more in (b"x", END, STREAM, bytes(100)):
            self.assertEqual(verdict(STREAM + more, 1 << 20), stray)

    def test_other_things(self) -> None:
        for stream in (b"hello, this is no stream at all", bytes(1000), STREAM[1:]):
            self.assertEqual(verdict(stream, 5), "it does not begin like the output of 'btrfs send'")


class Sizes(unittest.TestCase):
    def test_extents(self) -> None:
        extent = command("UPDATE_EXTENT", PATH=b"file", FILE_OFFSET=number(0), SIZE=number(5_000_000))
        stream = HEADER + FULL.frame() + extent * 2 + END
        for piece in (1, 1000):
            measure = Measure()
            for start in range(0, len(stream), piece):
                self.assertIsNone(measure.size)
                measure.feed(stream[start : start + piece])
            self.assertEqual(measure.size, len(stream) + 10_000_000)

    def test_broken(self) -> None:
        measure = Measure()
        for _ in range(3):
            measure.feed(bytes(100))
        self.assertIsNone(measure.size)


if __name__ == "__main__":
    unittest.main()
