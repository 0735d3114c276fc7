"""Streams of other machines: what passes, and what is stopped before anybody sees it."""

import random
import unittest
from collections.abc import Callable
from dataclasses import replace

from btrfs_backup.model.gate import Expected, Gate
from btrfs_backup.model.sendstream import Beginning, BrokenStream, frame, uuid_bytes
from tests.unit.test_sendstream import (
    END,
    FULL,
    HEADER,
    HEADER_2,
    INCREMENT,
    PARENT,
    SNAPSHOT,
    attributes,
    command,
    number,
    write,
)

OTHER = "99999999-1111-2222-3333-444444444444"
TIME = bytes(12)
WANTED = Expected(b"home.2026", SNAPSHOT, "", lambda path: False)
WANTED_INCREMENT = Expected(b"home.2026", SNAPSHOT, PARENT, lambda path: b"link" not in path.split(b"/"))


def clone(source: str, path: bytes = b"a", origin: bytes = b"b") -> bytes:
    zero = number(0)
    return command(
        "CLONE", PATH=path, FILE_OFFSET=zero, CLONE_LEN=zero, CLONE_UUID=uuid_bytes(source), CLONE_CTRANSID=zero,
        CLONE_PATH=origin, CLONE_OFFSET=zero,
    )  # fmt: skip


def encoded(file_length: int = 4096, length: int = 131_072, offset: int = 8192, **more: bytes) -> bytes:
    return command(
        "ENCODED_WRITE", 2, PATH=b"a", FILE_OFFSET=number(0), UNENCODED_FILE_LEN=number(file_length),
        UNENCODED_LEN=number(length), UNENCODED_OFFSET=number(offset), **more, DATA=b"compressed",
    )  # fmt: skip


def with_path(name: str, path: bytes) -> bytes:
    return command(name, PATH=path, **OF_ONE_PATH[name])


OF_ONE_PATH = {
    "MKFILE": {"INO": number(1)},
    "MKDIR": {"INO": number(1)},
    "MKNOD": {"INO": number(1), "RDEV": number(1), "MODE": number(1)},
    "MKFIFO": {"INO": number(1), "RDEV": number(1), "MODE": number(1)},
    "MKSOCK": {"INO": number(1), "RDEV": number(1), "MODE": number(1)},
    "SYMLINK": {"INO": number(1), "PATH_LINK": b"../../etc//./passwd"},
    "RENAME": {"PATH_TO": b"good"},
    "LINK": {"PATH_LINK": b"good"},
    "UNLINK": {},
    "RMDIR": {},
    "SET_XATTR": {"XATTR_NAME": b"user.x", "XATTR_DATA": b"\0/../"},
    "REMOVE_XATTR": {"XATTR_NAME": b"user.x"},
    "WRITE": {"FILE_OFFSET": number(0), "DATA": b"\0/../"},
    "TRUNCATE": {"SIZE": number(0)},
    "CHMOD": {"MODE": number(0o4755)},
    "CHOWN": {"UID": number(0), "GID": number(0)},
    "UTIMES": {"ATIME": TIME, "MTIME": TIME, "CTIME": TIME},
}
OF_THE_TOP = ("SET_XATTR", "REMOVE_XATTR", "CHMOD", "CHOWN", "UTIMES")


def verdict(stream: bytes, *expected: Expected, piece: int = 1 << 20) -> tuple[bytes, str]:
    """What passed of STREAM, and why it went no further."""
    gate, passed = Gate(expected), b""
    try:
        for start in range(0, len(stream), piece):
            passed += gate.feed(stream[start : start + piece])
        gate.finish()
    except BrokenStream as error:
        return passed, str(error)
    return passed, ""


class Honest(unittest.TestCase):
    def assert_passes(self, stream: bytes, *expected: Expected) -> None:
        for piece in (1, 100, 1 << 20):
            self.assertEqual(verdict(stream, *expected, piece=piece), (stream, ""))

    def test_every_command(self) -> None:
        for path in (b"a", b"a/b", b"o257-7-0", b"..x", b"...", b"x..", b"a/..x/.y", b"\xff\n -", b"x" * 255):
            frames = b"".join(with_path(name, path) for name in OF_ONE_PATH)
            self.assert_passes(HEADER + FULL.frame() + frames + clone(SNAPSHOT, path, path) + END, WANTED)

    def test_of_the_subvolume_itself(self) -> None:
        self.assert_passes(HEADER + FULL.frame() + b"".join(with_path(name, b"") for name in OF_THE_TOP) + END, WANTED)

    def test_the_second_version(self) -> None:
        frames = (
            write(bytes(70_000), version=2),
            encoded(),
            encoded(COMPRESSION=bytes(4), ENCRYPTION=bytes(4)),
            command("FALLOCATE", 2, PATH=b"a", FALLOCATE_MODE=bytes(4), FILE_OFFSET=number(0), SIZE=number(1 << 40)),
            command("FILEATTR", 2, PATH=b"", FILEATTR=number(0)),
            command("UTIMES", 2, PATH=b"a", ATIME=TIME, MTIME=TIME, CTIME=TIME, OTIME=TIME),
        )
        self.assert_passes(HEADER_2 + FULL.frame() + b"".join(frames) + END, WANTED)

    def test_the_third_version(self) -> None:
        verity = command(
            "ENABLE_VERITY", 3, PATH=b"a", VERITY_ALGORITHM=b"1", VERITY_BLOCK_SIZE=bytes(4),
            VERITY_SALT_DATA=b"", VERITY_SIG_DATA=b"",
        )  # fmt: skip
        self.assert_passes(HEADER_2.replace(b"\2", b"\3") + FULL.frame() + verity + END, WANTED)

    def test_increments(self) -> None:
        frames = clone(PARENT, b"a", b"b/c") + clone(SNAPSHOT, b"a", b"link")
        self.assert_passes(HEADER + INCREMENT.frame() + frames + END, WANTED_INCREMENT)

    def test_several(self) -> None:
        one, other = HEADER + FULL.frame() + END, HEADER_2 + INCREMENT.frame() + clone(PARENT) + END
        self.assert_passes(one + other, WANTED, WANTED_INCREMENT)

    def test_what_the_first_command_said(self) -> None:
        gate = Gate([WANTED_INCREMENT])
        gate.feed(HEADER + INCREMENT.frame())
        self.assertEqual(gate.begun, [INCREMENT])


class Hostile(unittest.TestCase):
    def assert_stopped(self, words: str, bad: bytes, expected: Expected = WANTED, beginning: Beginning = FULL) -> None:
        """Just BAD is: what comes before passes whenever it comes alone."""
        header = HEADER_2 if bad[4:6] in (b"\x19\0", b"\x17\0") else HEADER
        good = header + beginning.frame() + command("UNLINK", PATH=b"a")
        for piece in (1, 97, 1 << 20):
            passed, why = verdict(good + bad + END, expected, piece=piece)
            self.assertIn(words, why)
            self.assertIn("frame 3 is refused: ", why)
            self.assertTrue(good.startswith(passed))
        self.assertEqual(verdict(good, expected), (good, "it breaks off before its end"))

    def test_paths(self) -> None:
        outside = (
            b"/etc/passwd",
            b"..",
            b"../x",
            b"a/../../b",
            b"a//b",
            b"a/",
            b"/",
            b".",
            b"a/.",
            b"a\0",
            b"a\0/../b",
        )
        for path in outside:
            for name in OF_ONE_PATH:
                self.assert_stopped("may lead out of the subvolume", with_path(name, path))
            for name, kind in (("RENAME", "PATH_TO"), ("LINK", "PATH_LINK")):
                self.assert_stopped("may lead out", command(name, **{"PATH": b"a", kind: path}))
            self.assert_stopped("may lead out", clone(SNAPSHOT, path))
            self.assert_stopped("may lead out", clone(SNAPSHOT, b"a", path))
        for name in sorted(OF_ONE_PATH.keys() - OF_THE_TOP):
            self.assert_stopped("may lead out", with_path(name, b""))

    def test_named(self) -> None:
        _, why = verdict(HEADER + FULL.frame() + with_path("MKFILE", b"../x") + END, WANTED)
        self.assertEqual(why, "frame 2 is refused: MKFILE b'../x': b'../x' may lead out of the subvolume")

    def test_data_of_others(self) -> None:
        words = "it takes data from another subvolume than itself and its parent"
        self.assert_stopped(words, clone(OTHER))
        self.assert_stopped(words, clone(PARENT))
        self.assert_stopped(words, clone(OTHER), WANTED_INCREMENT, INCREMENT)
        for path in (b"link", b"a/link", b"link/a"):
            bad = clone(PARENT, b"a", path)
            self.assert_stopped("leads through a symlink in the parent", bad, WANTED_INCREMENT, INCREMENT)

    def test_data_of_others_that_are_known(self) -> None:
        """Where it is found out what has that UUID, and not through a symlink in that."""

        def others(uuid: str) -> Callable[[bytes], bool]:
            if uuid != OTHER:
                raise BrokenStream("nobody knows it")
            return lambda path: path != b"bad"

        wanted = replace(WANTED_INCREMENT, others=others)
        good = HEADER + INCREMENT.frame() + clone(OTHER) + clone(PARENT, b"a", b"bad") + END
        self.assertEqual(verdict(good, wanted), (good, ""))
        self.assert_stopped("nobody knows it", clone("0" + OTHER[1:]), wanted, INCREMENT)
        # What is plain in one is not in another.
        both = clone(PARENT, b"a", b"bad") + clone(OTHER, b"a", b"bad")
        _, why = verdict(HEADER + INCREMENT.frame() + both + END, wanted)
        self.assertEqual(why, "frame 3 is refused: CLONE b'a': b'bad' leads through a symlink in the parent")

    def test_another_subvolume(self) -> None:
        for another in (FULL, INCREMENT, Beginning(b"other", OTHER, 1), Beginning(b"home.2026", OTHER, 1, SNAPSHOT, 1)):
            self.assert_stopped("it makes something else than b'home.2026'", another.frame())

    def test_another_beginning(self) -> None:
        for wanted, right in ((WANTED, FULL), (WANTED_INCREMENT, INCREMENT)):
            for first in (
                Beginning(b"other", SNAPSHOT, 77, right.parent).frame(),
                Beginning(b"a/b", SNAPSHOT, 77, right.parent).frame(),
                Beginning(b"../a", SNAPSHOT, 77, right.parent).frame(),
                Beginning(b"home.2026", OTHER, 77, right.parent).frame(),
                Beginning(b"home.2026", SNAPSHOT, 77, OTHER).frame(),
                (INCREMENT if right is FULL else FULL).frame(),
                command("MKFILE", PATH=b"a", INO=number(1)),
                END,
            ):
                passed, why = verdict(HEADER + first + right.frame() + END, wanted)
                self.assertIn("frame 1 is refused: ", why)
                self.assertEqual(passed, b"")

    def test_commands(self) -> None:
        """Without an attribute of theirs, with one too many, and such as are in no transfer."""
        words = "such a command, with these attributes, is in no transfer"
        for name, more in OF_ONE_PATH.items():
            self.assert_stopped(words, command(name, **more))
            self.assert_stopped(words, command(name, PATH=b"a", **more, CLONE_LEN=number(0)))
        self.assert_stopped(words, command("UPDATE_EXTENT", PATH=b"a", FILE_OFFSET=number(0), SIZE=number(1)))
        self.assert_stopped(words, command("END", PATH=b"a"))
        self.assert_stopped("an attribute in it is malformed", frame(3, attributes(PATH=b"a", INO=b"short")))
        self.assert_stopped("malformed", frame(3, attributes(PATH=b"a", INO=number(1)) + attributes(PATH=b"../b")))

    def test_lengths(self) -> None:
        for bad in (encoded(4096, 8192, 8192), encoded(1 << 63, 8192, 0), encoded(1, 1 << 40, 0), encoded(0, 0, 1)):
            self.assert_stopped("the lengths in it are out of bounds", bad)

    def test_more_than_is_expected(self) -> None:
        one = HEADER + FULL.frame() + END
        for more in (END, HEADER, one, b"x"):
            self.assertIn("not of its format, behind frame 2", verdict(one + more, WANTED)[1])
        self.assertEqual(verdict(one, WANTED, WANTED), (one, "it breaks off before its end"))
        for other in (one, HEADER + INCREMENT.frame()):
            other = other.replace(b"home", b"rome")
            self.assertIn("frame 4 is refused", verdict(one + other, WANTED, WANTED)[1])

    def test_mutations(self) -> None:
        """Whatever passes of a stream that was damaged at random are frames that do nothing outside."""
        dice, stopped = random.Random(7), 0
        frames = [with_path(name, b"a/b") for name in OF_ONE_PATH] + [clone(PARENT), clone(SNAPSHOT), write(bytes(99))]
        for _ in range(2000):
            text = bytearray(HEADER + INCREMENT.frame() + b"".join(dice.sample(frames, 9)) + END)
            for _ in range(dice.choice((1, 1, 2, 9))):
                at, new = dice.randrange(len(text)), dice.choice([b"/", b"..", b"\0", dice.randbytes(1), b"../", END])
                text[at : at + dice.choice((0, len(new)))] = new
            passed, why = verdict(bytes(text), WANTED_INCREMENT, piece=dice.choice((50, 5000)))
            self.assertTrue(text.startswith(passed))
            stopped += bool(why)
            again, why = verdict(passed, WANTED_INCREMENT)
            self.assertEqual((again, why in ("", "it breaks off before its end")), (passed, True))
        self.assertGreater(stopped, 1000)


if __name__ == "__main__":
    unittest.main()
