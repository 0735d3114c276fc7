"""Real streams through the gate, and handed over in parts, cut off and taken up again."""

import fcntl
import itertools
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from btrfs_backup.model.cutter import Cutter, Part, checkpoints, mark
from btrfs_backup.model.gate import Expected, Gate
from btrfs_backup.model.sendstream import Attribute, BrokenStream, Checker, Command, Walker, frame, uuid_bytes
from btrfs_backup.model.snapshot import Subvolume
from tests.real.machine import RealTest, names, sh, show
from tests.unit.test_sendstream import attributes, command
from tests.unit.test_sendstream import number as u64

_FICLONE = 0x40049409
LATER = (10**8, 10**8 + 1)  # numbers of subvolumes
SALTS = (f"{number:016x}" for number in itertools.count())


def send(*arguments: object) -> bytes:
    return subprocess.run(["btrfs", "send", "-q", *map(str, arguments)], check=True, capture_output=True).stdout


def received(folder: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Have `btrfs receive` take PIECES in FOLDER; what it complains of."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["btrfs", "receive", "-q", "-C", str(folder)], input=b"".join(pieces), check=False, capture_output=True
    )
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace")


def in_pieces(stream: bytes, dice: random.Random, most: int = 300_000) -> Iterable[bytes]:
    at = 0
    while at < len(stream):
        size = dice.randrange(1, most)
        yield stream[at : at + size]
        at += size


def cut(cutter: Cutter, stream: bytes, dice: random.Random) -> Iterable[bytes | memoryview]:
    for piece in in_pieces(stream, dice):
        yield from cutter.feed(piece)
    cutter.finish()


def through(gate: Gate, stream: bytes, dice: random.Random) -> bytes:
    passed = b"".join(bytes(gate.feed(piece)) for piece in in_pieces(stream, dice))
    gate.finish()
    return passed


def standing(folders: Iterable[Path]) -> list[Subvolume]:
    """The subvolumes in FOLDERS, and marks that they are on the disk."""
    found = []
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        its = {key: "" if value == "-" else value for key, value in show(path).items()}
        readonly = "readonly" in its["Flags"]
        number = int(its["Subvolume ID"])
        found.append(Subvolume(path.name, its["UUID"], its["Parent UUID"], its["Received UUID"], readonly, id=number))
    salts = {part.salt for each in found if (part := Part.named(each.name))}
    return found + [Subvolume(mark(salt, each), f"{salt}-{each}", id=each) for salt in salts for each in LATER]


class Random:
    """Makes random changes in a tree, of all kinds that a stream can tell."""

    def __init__(self, top: Path, dice: random.Random) -> None:
        self.top, self.dice = top, dice

    def change(self, count: int) -> None:
        kinds = [getattr(self, kind) for kind in dir(self) if kind.startswith("do_")]
        for _ in range(count):
            try:
                self.dice.choice(kinds)()
            except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, IndexError):
                pass
            except OSError as error:
                if error.errno not in (22, 39, 40, 1):  # a folder into itself; not empty; a loop; of another kind
                    raise

    def paths(self, kind: int) -> list[Path]:
        found = [Path(folder, name) for folder, folders, files in os.walk(self.top) for name in folders + files]
        return sorted(path for path in found if stat.S_IFMT(os.lstat(path).st_mode) == kind)

    def folder(self) -> Path:
        return self.dice.choice([self.top, *self.paths(stat.S_IFDIR)])

    def file(self) -> Path:
        return self.dice.choice(self.paths(stat.S_IFREG))

    def any(self) -> Path:
        return self.dice.choice([*self.paths(stat.S_IFREG), *self.paths(stat.S_IFDIR), *self.paths(stat.S_IFLNK)])

    def new(self) -> Path:
        odd = [
            "..x",
            "o257-7-0",
            "...",
            "a b",
            "größe",
            "nl\n",
            b"\xff".decode(errors="surrogateescape"),
            "-n",
            "x" * 255,
        ]
        return self.folder() / self.dice.choice([*odd, *(str(number) for number in range(30))])

    def bytes(self, most: int = 200_000) -> bytes:
        size = self.dice.choice([self.dice.randrange(most), self.dice.randrange(most), self.dice.randrange(5)])
        return self.dice.choice([self.dice.randbytes(size), b"the same again " * (size // 15), bytes(size)])

    def do_file(self) -> None:
        with self.new().open("xb") as file:
            file.write(self.bytes())

    def do_overwrite(self) -> None:
        path = self.file()
        with path.open("r+b") as file:
            file.seek(self.dice.randrange(path.stat().st_size + 1))
            file.write(self.bytes(50_000))

    def do_sparse(self) -> None:
        with self.file().open("r+b") as file:
            file.truncate(self.dice.randrange(1 << 22))

    def do_holes(self) -> None:
        start, size = self.dice.randrange(30) * 4096, self.dice.randrange(1, 20) * 4096
        sh("fallocate", self.dice.choice(["--punch-hole", "--keep-size"]), "-o", start, "-l", size, self.file())

    def do_folder(self) -> None:
        self.new().mkdir()

    def do_symlink(self) -> None:
        self.new().symlink_to(self.dice.choice(["/etc/passwd", "../../..", "..", "nowhere", "0", "1/2"]))

    def do_special(self) -> None:
        path = self.new()
        kind = self.dice.choice([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
        os.mknod(path, kind | 0o640, os.makedev(1, 3))

    def do_hard_link(self) -> None:
        self.new().hardlink_to(self.file())

    def do_reflink(self) -> None:
        with self.file().open("rb") as origin, self.new().open("xb") as copy:
            fcntl.ioctl(copy.fileno(), _FICLONE, origin.fileno())

    def do_rename(self) -> None:
        os.rename(self.any(), self.new())

    def do_swap(self) -> None:
        """Names change hands, which takes names for the time between in the stream."""
        one, two, between = self.any(), self.any(), self.top / "between"
        os.rename(one, between)
        os.rename(two, one)
        os.rename(between, two)

    def do_delete(self) -> None:
        path = self.any()
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def do_folder_for_symlink(self) -> None:
        path = self.dice.choice(self.paths(stat.S_IFLNK))
        path.unlink()
        os.rename(self.dice.choice(self.paths(stat.S_IFDIR)), path)

    def do_mode(self) -> None:
        os.chmod(self.file(), self.dice.choice([0o600, 0o4755, 0o1777]))

    def do_owner(self) -> None:
        os.chown(self.any(), self.dice.randrange(2000), self.dice.randrange(2000), follow_symlinks=False)

    def do_xattr(self) -> None:
        path = self.dice.choice([self.any(), self.top])
        os.setxattr(path, f"trusted.{self.dice.randrange(3)}", self.bytes(500), follow_symlinks=False)

    def do_no_xattr(self) -> None:
        path = self.dice.choice([self.any(), self.top])
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)


def looks(top: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of every path below TOP; which ones are one file, and which blocks are the same."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    blocks: dict[int, int] = {}
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted([*folders, *files, *([""] if folder == str(top) else [])]):
            path = os.path.join(folder, name)
            of, content, extents = os.lstat(path), b"", list[tuple[int, int]]()
            if stat.S_ISLNK(of.st_mode):
                content = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(of.st_mode):
                content = Path(path).read_bytes()
                for start, first, last in extents_of(path):
                    extents += [
                        (start + at - first, blocks.setdefault(at, len(blocks))) for at in range(first, last + 1)
                    ]
            attributes = {
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
            }
            when = (of.st_mtime_ns,) if not stat.S_ISDIR(of.st_mode) else ()
            same = inodes.setdefault(of.st_ino, os.path.relpath(path, top))
            found[os.path.relpath(path, top)] = (
                *(of.st_mode, of.st_uid, of.st_gid, of.st_rdev, of.st_size, of.st_nlink, same),
                *(when, content, attributes, extents),
            )
    return found


def extents_of(path: str) -> list[tuple[int, int, int]]:
    """First block in the file, first and last on the disk. Of what is compressed there only the first one counts."""
    listed = sh("filefrag", "-v", "-b4096", path)
    rows = re.findall(r"^ *\d+: +(\d+)\.\. +\d+: +(\d+)\.\. +(\d+):(.*)", listed, re.MULTILINE)
    # What is inline has no blocks of its own.
    rows = [row for row in rows if "inline" not in row[3]]
    return [(int(start), int(first), int(first if "encoded" in flags else last)) for start, first, last, flags in rows]


class Streams(RealTest):
    """Random trees and what was changed in them, as streams of all kinds."""

    def setUp(self) -> None:
        super().setUp()
        self.dice = random.Random(os.environ.get("BTRFS_BACKUP_FUZZ_SEED", type(self).__name__))
        self.pool, self.there = self.disk("pool", 2000), self.disk("there", 4000).path
        self.pool.unmount()
        self.pool.mount("compress=zstd")
        self.kept = self.there / "kept"  # what was received uncut

    def snapshots(self, source: Path, count: int, changes: int) -> list[Path]:
        made = []
        for number in range(count):
            Random(source, self.dice).change(changes)
            made.append(self.pool.path / f"{source.name}.{number}")
            sh("btrfs", "subvolume", "snapshot", "-r", source, made[-1])
        return made

    def tree(self, name: str) -> Path:
        sh("btrfs", "subvolume", "create", self.pool.path / name)
        return self.pool.path / name


class Gates(Streams):
    def test_honest_streams_pass(self) -> None:
        """Of 30 random trees and their increments, untouched."""
        commands: set[str] = set()
        for number in range(30):
            taken = self.snapshots(self.tree(f"tree{number}"), 2, 60)
            for protocol in ((), ("--proto", "2"), ("--proto", "2", "--compressed-data")):
                for parent in (None, taken[0]):
                    arguments = [*protocol, *(("-p", parent) if parent else ()), taken[1]]
                    stream = send(*arguments)
                    expected = Expected(
                        taken[1].name.encode(),
                        show(taken[1])["UUID"],
                        show(parent)["UUID"] if parent else "",
                        lambda path, top=parent or self.there: not has_link(top, path),
                    )
                    with self.subTest(number, protocol=protocol, parent=parent):
                        gate = Gate([expected])
                        self.assertEqual(through(gate, stream, self.dice), stream)
                        checker = Checker()
                        for piece in in_pieces(stream, self.dice):
                            checker.feed(piece)
                        checker.finish()
                        [begun] = gate.begun
                        self.assertEqual(begun.transid, int(show(taken[1])["Generation"]))
                    dumped = subprocess.run(
                        ["btrfs", "receive", "--dump"], input=stream, check=True, capture_output=True
                    ).stdout
                    commands |= set(re.findall(r"^(\w+) ", dumped.decode(errors="replace"), re.MULTILINE))
        self.assertLessEqual(
            {
                "mkfile",
                "mkdir",
                "mknod",
                "mkfifo",
                "mksock",
                "symlink",
                "rename",
                "link",
                "unlink",
                "rmdir",
                "set_xattr",
                "remove_xattr",
                "write",
                "clone",
                "truncate",
                "chmod",
                "chown",
                "utimes",
                "encoded_write",
                "snapshot",
            },
            commands,
        )


def has_link(top: Path, path: bytes) -> bool:
    at = os.fsencode(top)
    for name in path.split(b"/"):
        at += b"/" + name
        if os.path.islink(at):
            return True
    return False


def data_in(path: Path) -> bytes:
    """The data of a file, which may be of any size, without its holes."""
    found, at = b"", 0
    with path.open("rb") as file, suppress(OSError):
        while True:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            found += os.pread(file.fileno(), min(end - at, 4 << 20), at)
            at = end
    return found


class Hostile(Streams):
    """Streams that were changed at random, behind the gate and in front of a confined receiver.

    BTRFS_BACKUP_HOSTILE sets how many there are.
    """

    MARKER = b"not for everybody " * 500
    COUNT = int(os.environ.get("BTRFS_BACKUP_HOSTILE", "60"))

    def setUp(self) -> None:
        super().setUp()
        tree = self.tree("tree")
        (tree / "up").symlink_to("../../..")
        (tree / "away").symlink_to(self.there / "secret")
        (tree / "plain").write_bytes(os.urandom(20_000))
        self.first, self.second = self.snapshots(tree, 2, 40)
        sh("btrfs", "subvolume", "create", self.there / "secret")
        (self.there / "secret" / "file").write_bytes(self.MARKER)
        sh("btrfs", "property", "set", "-ts", self.there / "secret", "ro", "true")
        self.evil = [
            *(os.fsencode(str(self.there / "secret")), b"../secret/file", b"../../secret/file", b"away/file", b"up/x"),
            *(b"", b".", b"..", b"plain/../..", b"a\0b", b"x" * 300, b"/", b"//", b"away", b"new/../../y", b"plain/"),
        ]
        self.secret = uuid_bytes(show(self.there / "secret")["UUID"])

    def changed(self, stream: bytes) -> bytes:
        """STREAM with one to three changes, in a frame or between them, with right checksums most of the time."""
        dice, walker = self.dice, Walker(9)
        frames = [walker.buffer[start:end] for _, start, end in walker.feed(stream)]
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(frames))
            match dice.randrange(9):
                case 0:
                    frames.insert(at, self.made_up())
                case 1 | 2:
                    frames[at] = self.other_values(frames[at], walker.version)
                case 3:
                    frames.insert(at, dice.choice(frames))
                case 4:
                    frames[at : at + dice.randrange(3)] = []
                case 5:
                    spoiled = bytearray(frames[at])
                    spoiled[dice.randrange(len(spoiled))] ^= 1 << dice.randrange(8)
                    frames[at] = bytes(spoiled)
                case 6:
                    frames.insert(at, dice.randbytes(dice.randrange(40)))
                case 7:
                    frames.insert(at, frame(Command.END) + b"".join(frames[:2]))
                case 8:
                    one, two = dice.randrange(len(frames)), dice.randrange(len(frames))
                    frames[one], frames[two] = frames[two], frames[one]
        return b"".join(frames)

    def made_up(self) -> bytes:
        """A frame of the protocol, about something that is not the sender's."""
        dice, zero = self.dice, u64(0)
        path, other = dice.choice(self.evil), dice.choice([*self.evil, b"plain", b"new"])
        uuid = dice.choice([self.secret, uuid_bytes(show(self.first)["UUID"]), uuid_bytes(show(self.second)["UUID"])])
        where = {"FILE_OFFSET": zero, "CLONE_LEN": u64(4096), "CLONE_CTRANSID": zero, "CLONE_OFFSET": zero}
        return dice.choice(
            [
                command("CLONE", PATH=b"plain", CLONE_UUID=uuid, CLONE_PATH=dice.choice([path, b"file"]), **where),
                command("WRITE", PATH=path, FILE_OFFSET=zero, DATA=b"evil"),
                command("SYMLINK", PATH=b"new", INO=u64(9999), PATH_LINK=path),
                command("RENAME", PATH=path, PATH_TO=other),
                command("RENAME", PATH=other, PATH_TO=path),
                command("LINK", PATH=other, PATH_LINK=path),
                command("UNLINK", PATH=path),
                command("MKFILE", PATH=path, INO=u64(9998)),
                command("CHOWN", PATH=path, UID=u64(1000), GID=u64(1000)),
                command("SUBVOL", PATH=other, UUID=uuid, CTRANSID=u64(7)),
                command("SNAPSHOT", PATH=other, UUID=uuid, CTRANSID=u64(7), CLONE_UUID=uuid, CLONE_CTRANSID=u64(7)),
            ]
        )

    def other_values(self, text: bytes, version: int) -> bytes:
        """The frame TEXT with another command, or other values of some attributes."""
        dice, walker = self.dice, Walker(early=frozenset())
        walker.version, walker.buffer = version, text
        kind = int.from_bytes(text[4:6], "little")
        try:
            found = walker.attributes(0, len(text))
        except (BrokenStream, IndexError):
            return dice.randbytes(len(text))
        if not found or dice.random() < 0.2:
            return frame(dice.randrange(1, 27), text[10:])
        values = {Attribute(each): walker.value(each, found) for each in found}
        changed = dice.choice(sorted(values))
        if "PATH" in changed.name:
            values[changed] = dice.choice(self.evil)
        elif "UUID" in changed.name:
            values[changed] = dice.choice([self.secret, bytes(16), dice.randbytes(16)])
        else:
            values[changed] = dice.randbytes(len(values[changed]))
        ordered = sorted(values.items(), key=lambda item: item[0] == Attribute.DATA)
        return frame(kind, attributes(version, **{each.name: value for each, value in ordered}))

    def test_nothing_gets_out(self) -> None:
        streams = [
            (parent, send(*protocol, *(("-p", parent) if parent else ()), self.second))
            for protocol in PROTOCOLS
            for parent in (None, self.first)
        ]
        received(self.kept, [send(self.first)])
        sh("sync", "-f", self.there)
        outside, refused = looks(self.there), 0
        for number in range(self.COUNT):
            parent, stream = self.dice.choice(streams)
            uuid = show(self.second)["UUID"]
            upon = show(parent)["UUID"] if parent else ""
            top = self.kept / self.first.name
            gate = Gate(
                [Expected(self.second.name.encode(), uuid, upon, lambda path, top=top: not has_link(top, path))]
            )
            passed, stage = b"", self.there / "stage"
            try:
                for piece in in_pieces(self.changed(stream), self.dice):
                    passed += bytes(gate.feed(piece))
                gate.finish()
            except BrokenStream:
                refused += 1
            with self.subTest(number):
                received(stage, [passed])
                for folder, _, files in os.walk(stage):
                    for each in files:
                        path = Path(folder, each)
                        if path.is_file() and not path.is_symlink():
                            self.assertNotIn(self.MARKER[:40], data_in(path))
                made = {each.name for each in stage.iterdir()}
                self.assertLessEqual(made, {self.second.name})
                for name in made:
                    sh("btrfs", "subvolume", "delete", stage / name)
                stage.rmdir()
                self.assertEqual(looks(self.there), outside)
        self.assertGreater(refused, self.COUNT // 4)


PROTOCOLS = ((), ("--proto", "2", "--compressed-data"))


class Comparing(Streams):
    """What comes in parts, and the same uncut."""

    def uncut(self, stream: bytes) -> None:
        self.assertEqual(received(self.kept, [stream]), "")

    def assert_same_as_uncut(self, stage: Path, name: str) -> None:
        sh("sync", "-f", stage)
        made, wanted = looks(stage / name), looks(self.kept / name)
        self.assertEqual(made.keys(), wanted.keys())
        for path, look in wanted.items():
            self.assertTrue(made[path] == look, (path, made[path][:8], look[:8], made[path][-1][:50], look[-1][:50]))
        one, other = show(stage / name), show(self.kept / name)
        for field in ("Received UUID", "Send transid", "Flags"):
            self.assertEqual(one[field], other[field])

    def publish(self, stage: Path, name: str) -> None:
        """What follows builds on what came in parts."""
        sh("btrfs", "subvolume", "delete", self.kept / name)
        sh("btrfs", "subvolume", "snapshot", "-r", stage / name, self.kept / name)
        sh("btrfs", "subvolume", "delete", *stage.iterdir())


class Parts(Comparing):
    """A chain of parts makes the same as the stream itself."""

    def test_histories(self) -> None:
        """Three snapshots each, in full and incrementally, cut everywhere from behind each frame to not at all."""
        for number in range(6):
            protocol = PROTOCOLS[number % 2]
            taken = self.snapshots(self.tree(f"tree{number}"), 3, 30)
            for before, snapshot in zip((None, *taken), taken, strict=False):
                stream = send(*protocol, *(("-p", before) if before else ()), snapshot)
                limit = self.dice.choice([1, 3_000, 100_000, 1_000_000, 10_000_000])
                with self.subTest(number, limit=limit, snapshot=snapshot):
                    self.uncut(stream)
                    stage = self.there / f"stage-{snapshot.name}"
                    chain = list(cut(Cutter(max(limit, len(stream) // 60), next(SALTS), ()), stream, self.dice))
                    self.assertEqual(received(stage, chain), "")
                    self.assert_same_as_uncut(stage, snapshot.name)
                    self.publish(stage, snapshot.name)

    def test_behind_each_frame(self) -> None:
        for protocol in PROTOCOLS:
            taken = self.snapshots(self.tree(f"tree{len(protocol)}"), 2, 20)
            for before, snapshot in zip((None, *taken), taken, strict=False):
                stream, stage = (
                    send(*protocol, *(("-p", before) if before else ()), snapshot),
                    self.there / snapshot.name,
                )
                self.uncut(stream)
                self.assertEqual(received(stage, cut(Cutter(1, next(SALTS)), stream, self.dice)), "")
                self.assertGreater(len(names(stage)), 8)
                self.assert_same_as_uncut(stage, snapshot.name)
                self.publish(stage, snapshot.name)

    def test_large_ones_every_10_megabytes(self) -> None:
        source = self.tree("large")
        (source / "one").write_bytes(self.dice.randbytes(35 << 20))
        (source / "two").write_bytes(b"the same again, and %d " * (2 << 20))
        [first] = self.snapshots(source, 1, 5)
        with (source / "one").open("r+b") as file:
            file.seek(5 << 20)
            file.write(self.dice.randbytes(15 << 20))
        sh("cp", "--reflink=always", source / "one", source / "three")
        second = self.pool.path / "second"
        sh("btrfs", "subvolume", "snapshot", "-r", source, second)
        for protocol in PROTOCOLS:
            for before, snapshot in ((None, first), (first, second)):
                stream, stage = send(*protocol, *(("-p", before) if before else ()), snapshot), self.there / "stage"
                self.uncut(stream)
                self.assertEqual(received(stage, cut(Cutter(10_000_000, next(SALTS)), stream, self.dice)), "")
                self.assertGreater(len(names(stage)), len(stream) // 10_000_000)
                self.assert_same_as_uncut(stage, snapshot.name)
                self.publish(stage, snapshot.name)
            sh("btrfs", "subvolume", "delete", *self.kept.iterdir())

    def test_clone_sources(self) -> None:
        """Other snapshots that data may be taken from; what is taken from there is, in parts as well."""
        source = self.tree("tree")
        first, other = self.snapshots(source, 2, 20)
        (source / "origin").write_bytes(self.dice.randbytes(1 << 20))
        copied = self.pool.path / "copied"
        sh("btrfs", "subvolume", "snapshot", "-r", source, copied)
        sh("cp", "--reflink=always", copied / "origin", source / "taken")
        (source / "origin").unlink()
        snapshot = self.pool.path / "snapshot"
        sh("btrfs", "subvolume", "snapshot", "-r", source, snapshot)
        for each in (first, other, copied):
            self.uncut(send(each))
        stream = send("-p", first, "-c", copied, "-c", other, snapshot)
        self.assertLess(len(stream), 1 << 20)
        self.uncut(stream)
        stage = self.there / "stage"
        self.assertEqual(received(stage, cut(Cutter(1, next(SALTS)), stream, self.dice)), "")
        self.assert_same_as_uncut(stage, snapshot.name)


class CutOff(Comparing):
    """A receiver is killed at any byte, and the next one goes on."""

    def attempt(self, stage: Path, chain: bytes, end: int) -> None:
        """A receiver gets the first END bytes of CHAIN; it is killed at once, or the connection ends there."""
        stage.mkdir()
        receiver = subprocess.Popen(
            ["btrfs", "receive", "-q", "-C", str(stage)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert receiver.stdin
        receiver.stdin.write(chain[:end])
        if self.dice.randrange(3) == 0:
            receiver.kill()
        receiver.communicate()

    def finish(self, name: str, stream: bytes, limit: int, cuts: int) -> int:
        """Send it with so many CUTS; how often it went on."""
        stages: list[Path] = []
        went_on = 0
        while True:
            known = checkpoints(standing(stages))
            went_on += bool(known)
            cutter = Cutter(limit, next(SALTS), known)
            chain = b"".join(cut(cutter, stream, self.dice))
            self.assertLess(
                len(chain), len(stream) - (known[-1].offset if known else 0) + 400 * (len(stream) // limit + 2)
            )
            stages.append(self.there / f"stage-{name}-{len(stages)}")
            if len(stages) > cuts:
                self.assertEqual(received(stages[-1], [chain]), "")
                self.assert_same_as_uncut(stages[-1], name)
                sh("btrfs", "subvolume", "delete", self.kept / name)
                sh("btrfs", "subvolume", "snapshot", "-r", stages[-1] / name, self.kept / name)
                sh("btrfs", "subvolume", "delete", *(each for stage in stages for each in stage.iterdir()))
                return went_on
            end = self.dice.randrange(len(chain))
            self.attempt(stages[-1], chain, end)

    def test_histories(self) -> None:
        went_on = 0
        for number in range(6):
            protocol = PROTOCOLS[number % 2]
            taken = self.snapshots(self.tree(f"tree{number}"), 3, 30)
            for before, snapshot in zip((None, *taken), taken, strict=False):
                stream = send(*protocol, *(("-p", before) if before else ()), snapshot)
                self.uncut(stream)
                cuts = self.dice.randrange(1, 5)
                with self.subTest(number, snapshot=snapshot):
                    went_on += self.finish(snapshot.name, stream, max(3_000, len(stream) // 20), cuts)
        self.assertGreater(went_on, 15)


class Stopped(Streams):
    def test_a_sender_that_is_stopped_and_continued(self) -> None:
        """It begins again, exits with 0, and the checker tells."""
        source, found = self.tree("tree"), 0
        Random(source, self.dice).change(200)
        (source / "large").write_bytes(self.dice.randbytes(8 << 20))
        [snapshot] = self.snapshots(source, 1, 0)
        whole = send(snapshot)
        for _ in range(20):
            sender = subprocess.Popen(["btrfs", "send", "-q", str(snapshot)], stdout=subprocess.PIPE)
            assert sender.stdout
            begun = sender.stdout.read(self.dice.randrange(len(whole) - 1_000_000))
            time.sleep(0.02)
            sender.send_signal(signal.SIGSTOP)
            time.sleep(0.02)
            sender.send_signal(signal.SIGCONT)
            stream = begun + sender.communicate()[0]
            self.assertEqual(sender.returncode, 0)
            checker = Checker()
            if stream == whole:
                continue
            found += 1
            with self.assertRaises(BrokenStream):
                for piece in in_pieces(stream, self.dice):
                    checker.feed(piece)
                checker.finish()
        self.assertGreater(found, 10)


class Escapes(Streams):
    def test_data_of_others_by_a_symlink_in_the_parent(self) -> None:
        """`btrfs receive -C` follows it out of the stage; the gate does not let the command through."""
        secret = self.there / "secret"
        secret.write_bytes(self.dice.randbytes(8192))
        sh("sync", "-f", self.there)
        source = self.tree("tree")
        (source / "link").symlink_to("../secret")
        [parent] = self.snapshots(source, 1, 0)
        (source / "more").write_bytes(b"")
        snapshot = self.pool.path / "snapshot"
        sh("btrfs", "subvolume", "snapshot", "-r", source, snapshot)
        self.assertEqual(received(self.there, [send(parent)]), "")
        its, of_parent = show(snapshot)["UUID"], show(parent)["UUID"]
        clone = command(
            "CLONE",
            PATH=b"more",
            FILE_OFFSET=u64(0),
            CLONE_LEN=u64(8192),
            CLONE_UUID=uuid_bytes(of_parent),
            CLONE_CTRANSID=u64(0),
            CLONE_PATH=b"link",
            CLONE_OFFSET=u64(0),
        )
        forged = send("-p", parent, snapshot)[: -len(frame(Command.END))] + clone + frame(Command.END)
        stage = self.there / "stage"
        self.assertEqual(received(stage, [forged]), "")
        self.assertEqual((stage / "snapshot" / "more").read_bytes(), secret.read_bytes())
        backup = self.there / parent.name
        gate = Gate([Expected(b"snapshot", its, of_parent, lambda path: not has_link(backup, path))])
        with self.assertRaisesRegex(BrokenStream, "CLONE b'more': b'link' leads through a symlink in the parent"):
            gate.feed(forged)
