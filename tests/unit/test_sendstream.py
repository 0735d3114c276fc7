"""Checksums and frames of send streams."""

import random
import struct
import unittest

from btrfs_backup.model.crc32c import crc32c
from btrfs_backup.model.sendstream import BrokenStream, Checker

HEADER = b"btrfs-stream\0" + struct.pack("<I", 1)


def plain_crc32c(message: bytes) -> int:
    """Bit by bit, as the definition has it."""
    crc = 0
    for byte in message:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def frame(command: int, body: bytes) -> bytes:
    crc = crc32c(struct.pack("<IHI", len(body), command, 0) + body)
    return struct.pack("<IHI", len(body), command, crc) + body


END = frame(21, b"")
STREAM = HEADER + frame(1, b"subvolume") + frame(15, b"data" * 500) + END


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


class Crc32c(unittest.TestCase):
    def test_known_values(self) -> None:
        """RFC 3720, B.4, which begins with all ones and inverts: the complement of both for a string of zeros."""
        self.assertEqual(crc32c(b""), 0)
        self.assertEqual(crc32c(bytes(5000)), 0)
        # The checksum of a message and of that message with its first 32 bits inverted are known to relate so.
        inverted = bytes(each ^ 0xFF for each in b"1234") + b"56789"
        self.assertEqual(crc32c(inverted) ^ 0xFFFFFFFF, 0xE3069283)

    def test_all_lengths_against_the_definition(self) -> None:
        source = random.Random(1)
        for length in (1, 2, 3, 4, 700, 701, 1250, 1251, 2600, 5003, 20_000, 65_546):
            message = source.randbytes(length)
            self.assertEqual(crc32c(message), plain_crc32c(message), length)


class Streams(unittest.TestCase):
    def test_whole_ones(self) -> None:
        for stream in (STREAM, HEADER + END, HEADER + frame(9, bytes(200_000)) + END):
            for piece in (1, 7, 1000, 1 << 20) if len(stream) < 10_000 else (4096,):
                self.assertEqual(verdict(stream, piece), "")

    def test_every_place_to_break_off(self) -> None:
        for end in range(len(STREAM)):
            self.assertEqual(verdict(STREAM[:end], 1 << 20), "it breaks off before its end", end)

    def test_every_bit_counts(self) -> None:
        """Of the header the magic only: other versions may come."""
        source = random.Random(2)
        places = [*range(13), *range(17, 60), *source.sample(range(60, len(STREAM)), 40)]
        for place in places:
            spoiled = bytearray(STREAM)
            spoiled[place] ^= 1 << source.randrange(8)
            self.assertNotEqual(verdict(bytes(spoiled), 333), "", place)

    def test_spoiled_data(self) -> None:
        self.assertEqual(verdict(STREAM[:-12] + b"x" + STREAM[-11:], 333), "a checksum in it is wrong")

    def test_a_sender_that_starts_again_in_the_middle(self) -> None:
        """Wherever it was stopped, also where the lengths of frames happen to fit."""
        for end in range(1, len(STREAM)):
            self.assertNotEqual(verdict(STREAM[:end] + STREAM, 1 << 20), "", end)

    def test_more_after_the_end(self) -> None:
        stray = "there is something in it that is not of its format"
        for more in (b"x", END, STREAM, bytes(100)):
            self.assertEqual(verdict(STREAM + more, 1 << 20), stray)

    def test_other_things(self) -> None:
        for stream in (b"hello, this is no stream at all", bytes(1000), STREAM[1:]):
            self.assertEqual(verdict(stream, 5), "it does not begin like the output of 'btrfs send'")


if __name__ == "__main__":
    unittest.main()
