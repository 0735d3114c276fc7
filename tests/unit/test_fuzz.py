"""Hostile input: whatever comes out of files, programs and command lines is understood or refused, never more.

Every case can be had again: a failure names its seed, and BTRFS_BACKUP_FUZZ_SEED sets it (0 when it is not set).
"""

import json
import os
import random
import re
import time
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from btrfs_backup.cli import argfiles
from btrfs_backup.cli import parser as cli
from btrfs_backup.errors import Failure, UsageError
from btrfs_backup.model import inventory, location, manifest, records, retention, stage
from btrfs_backup.model.inventory import State
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.records import BACKUP, BLOCKED, NEWEST, OTHER, OWED, PARENT, STAGED, TOLD, Fact, Records
from btrfs_backup.model.sendstream import BrokenStream, Checker, Measure, frame
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.system import btrfs, hints, lock, mounts, ssh

SEED = os.environ.get("BTRFS_BACKUP_FUZZ_SEED", "0")

# How many cases of each kind a run has.
CASES = {
    "state files": 2000,
    "valid records": 300,
    "argument files": 700,
    "command lines": 150,
    "locations": 1500,
    "policies": 1000,
    "names": 1000,
    "lists": 800,
    "shows": 800,
    "other outputs": 1000,
    "mounts": 800,
    "streams": 700,
    "messages": 300,
    "file tools": 300,
    "measured streams": 200,
    "stages": 500,
}

UUIDS = [f"{digit * 8}-aaaa-bbbb-cccc-{digit * 12}" for digit in "0123456789abcdef"]
NAME = "20261123-042459"
ODD = "\0\t\n\r \x1b\"'\\-/{}[]:,.@#%$&;()*?~=+<>|éß日\udcff0123456789abcdefuUID"
PLACES = (
    "/backup",
    "ssh://nas/b",
    "ssh://[::1]:22/b",
    "shell://cat",
    "",
    "relative",
    "/a/../b/",
    "ssh://-oProxyCommand=x/",
)


def rng(kind: str, number: int) -> random.Random:
    return random.Random(f"{SEED}/{kind}/{number}")


def junk(dice: random.Random, most: int = 40) -> str:
    return "".join(dice.choices(ODD, k=dice.randrange(most)))


def mutated(dice: random.Random, text: str) -> str:
    """TEXT with some damage; sometimes with none."""
    for _ in range(dice.choice((0, 1, 1, 2, 3, 8))):
        text = damaged(dice, text)
    return text


def damaged(dice: random.Random, text: str) -> str:
    at, to = sorted((dice.randrange(len(text) + 1), dice.randrange(len(text) + 1)))
    ways = (
        lambda: text[:at],
        lambda: text[:at] + text[to:],
        lambda: text[:at] + text[at + 1 :],
        lambda: text[:to] + text[at:],
        lambda: text[:at] + junk(dice, 6) + text[at:],
        lambda: text[:at] + dice.choice(ODD) + text[at + 1 :],
        lambda: "\n".join(dice.sample(lines := text.split("\n"), len(lines))),
        lambda: "\n".join(" ".join(line.split(" ")[1:]) for line in text.split("\n")),
        lambda: text.replace(dice.choice(("uuid", "UUID", "ID", ":", " ", "\t", "-")), dice.choice(("", "É", "  "))),
        lambda: text.replace(dice.choice(UUIDS), dice.choice(("-", "", "0", *UUIDS))),
        lambda: text.upper(),
    )
    return dice.choice(ways)()


def anything(dice: random.Random, depth: int = 0) -> object:
    """Some value that JSON knows, and some that only Python's JSON does."""
    kinds = 10 if depth > 3 else 14
    kind = dice.randrange(kinds)
    if kind < 3:
        return dice.choice((None, True, False, -1, 1.5, 10**400, float("nan"), float("inf")))
    if kind < 10:
        return dice.choice((junk(dice, 10), *PLACES, NAME, "locks", "parent_locks", *UUIDS[:2]))
    if kind < 12:
        return [anything(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {str(anything(dice, depth + 2)): anything(dice, depth + 1) for _ in range(dice.randrange(4))}


class Fuzz(unittest.TestCase):
    case = ""

    def each(self, kind: str) -> Iterator[random.Random]:
        """Dice for each case."""
        for number in range(CASES[kind]):
            self.case = f"{kind}, case {number}, BTRFS_BACKUP_FUZZ_SEED={SEED}"
            yield rng(kind, number)

    @contextmanager
    def subject(self, *what: object) -> Iterator[None]:
        """Have every failure tell WHAT it was about."""
        try:
            yield
        except Exception as error:
            raise AssertionError(f"{self.case}: {type(error).__name__}: {error}: {what!r}") from error


class Files(Fuzz):
    def test_state_files(self) -> None:
        """A value that survives being written, or ValueError."""
        for dice in self.each("state files"):
            text = self.state_file(dice)
            for parse, form in (
                (records.parse_outstanding, records.format_outstanding),
                (records.parse_completed, records.format_completed),
            ):
                with self.subject(parse.__name__, text[:500]):
                    try:
                        value = parse(text)
                    except ValueError:
                        continue
                    self.assertEqual(parse(form(value)), value)
                    os.fsencode(form(value))
                    self.use(value)

    def state_file(self, dice: random.Random) -> str:
        kind = dice.randrange(10)
        if kind == 0:
            return os.fsdecode(dice.randbytes(dice.randrange(60)))
        if kind == 1:
            return dice.choice(("[", '{"a":', '{"a":{"locks":[')) * dice.choice((1, 50, 100_000))
        if kind == 2:
            return dice.choice(
                (
                    "9" * 10_000,
                    '{"a": ' + "9" * 5000 + "}",
                    "{}" * 9,
                    "\ufeff{}",
                    '{"\ud800": {"locks": ["\\ud800"]}}',
                    '{"a": {}, "a": {}}',
                    "nul",
                )
            )
        shaped = {
            dice.choice((NAME, junk(dice, 8), "home" + NAME)): {
                dice.choice(("locks", "parent_locks", *UUIDS[:2], "other")): self.entry(dice)
            }
            for _ in range(dice.randrange(4))
        }
        value = anything(dice) if kind < 5 else shaped
        return mutated(dice, json.dumps(value, ensure_ascii=dice.random() < 0.5))

    def entry(self, dice: random.Random) -> object:
        """A list, or what stands in the other file for a filesystem."""
        some = [dice.choice(PLACES) for _ in range(dice.randrange(3))]
        held = dict.fromkeys(some, NAME)
        kinds = {"newest": some, "blocked": some[:1], "backups": held, "others": held, "told": {NAME: some}}
        return dice.choice((some, some, kinds))

    def use(self, known: Records) -> None:
        """All that is done with records works whatever is in them."""
        naming = Naming()
        records.reasons(known)
        for place in {each.destination for each in known}:
            begun = records.begin(known, place, NAME, "20260101-000000")
            self.assertEqual(
                records.owed(records.end(begun, place, NAME), naming, place),
                [name for name in records.owed(known, naming, place) if name != NAME],
            )
            records.reconcile(begun, naming, place, [NAME])
            records.unreachable(begun, place, NAME)
            records.settled(begun, known, place, [NAME], None)
            records.delivered(known, place, "", naming, [NAME])
            records.blocked(known, place, "", naming, [NAME])
            records.filesystems(known, place)
            held = records.holds(known, place, "", naming, {"a": NAME}, {"b": NAME})
            self.assertIn("a", records.backups(held))
            self.assertIn((NAME, "b"), records.told(held, place, "", OTHER))
            self.assertTrue(records.is_staged(records.staged(known, place, ""), place, ""))
            left = records.forget(begun, naming, [place])
            kinds = (OWED, PARENT, NEWEST, BACKUP, BLOCKED, OTHER, TOLD)
            self.assertNotIn(place, records.destinations(left, naming, *kinds))

    def test_valid_records(self) -> None:
        for dice in self.each("valid records"):
            names = [f"{junk(dice, 5)}{NAME}" for _ in range(dice.randrange(4))]
            outstanding = frozenset(
                Fact(kind, place, name) for name in names for kind in (OWED, PARENT) for place in self.places(dice)
            )
            delivered = {
                Fact(kind, place, name, dice.choice(("", *UUIDS)), junk(dice, 5) + str(number) if by_uuid else "")
                for number, name in enumerate((*names, junk(dice, 5)))
                for kind in (NEWEST, BACKUP, BLOCKED, OTHER, TOLD)
                for by_uuid in [kind in (BACKUP, OTHER, TOLD)]
                for place in self.places(dice)
            }
            staged = {Fact(STAGED, each.destination, "", each.filesystem) for each in delivered}
            completed = frozenset(delivered | staged)
            # As older versions wrote it.
            newest = frozenset(each for each in delivered if each.kind == NEWEST)
            with self.subject(outstanding, completed):
                both = outstanding | completed
                self.assertEqual(records.parse_outstanding(records.format_outstanding(both)), outstanding)
                self.assertEqual(records.parse_completed(records.format_completed(both)), completed)
                self.assertEqual(records.parse_completed(records.format_completed(newest)), newest)

    def places(self, dice: random.Random) -> frozenset[str]:
        wanted = (place for place in dice.sample(PLACES, dice.randrange(4)))
        return frozenset(location.identity(place) for place in wanted)

    def test_argument_files(self) -> None:
        """Arguments, or a UsageError that names the file. No NUL, loop or byte makes more of it."""
        for dice in self.each("argument files"):
            contents = {f"/{name}": self.argument_file(dice) for name in "abcd"}

            def read(path: str, contents: Mapping[str, str] = contents) -> str:
                if path in contents:
                    return contents[path]
                raise (ValueError("embedded null byte") if "\0" in path else FileNotFoundError(2, "No such file"))

            with self.subject(contents):
                try:
                    found = argfiles.expand(["@a", "x"], read, "/")
                except UsageError as error:
                    self.assertIn("/a", error.message)
                    continue
                self.assertTrue(all(isinstance(each, str) for each in found))
                self.assertEqual(found[-1], "x")

    def argument_file(self, dice: random.Random) -> str:
        lines = (
            "-n 3",
            "  # no",
            "@b",
            "@c",
            "@/d",
            "@d",
            "@",
            "-p=x y",
            "--num-backups  7d 4w",
            "/home",
            "\t",
            "-x -y",
            "--",
        )
        return "\n".join(dice.choice((dice.choice(lines), junk(dice, 12))) for _ in range(dice.randrange(5)))

    def test_command_lines(self) -> None:
        words = (
            "/home",
            "/b",
            "-n",
            "3",
            "-N",
            "-S",
            "-p",
            "x",
            "--",
            "-f",
            "ssh://nas/b",
            "shell://cat",
            "-v",
            "debug",
            "-T",
        )
        for dice in self.each("command lines"):
            argv = [dice.choice((*words, *words, junk(dice, 6))) for _ in range(dice.randrange(7))]
            # These print and exit, and a file named by chance may be there.
            argv = [word for word in argv if not word.startswith(("@", "-h", "--h", "--ver", "--print"))]
            with self.subject(argv):
                try:
                    settings = cli.parse(argv)
                except UsageError:
                    continue
                self.assertIn(settings.source.scheme, (Scheme.LOCAL, Scheme.SSH))


class Words(Fuzz):
    def test_locations(self) -> None:
        """One identity, which is the location again; no option for ssh among host and user."""
        for dice in self.each("locations"):
            parts = (
                "ssh://",
                "shell://",
                "/",
                "me@",
                "nas",
                "[::1]",
                ":22",
                ":",
                "-oX",
                "..",
                ".",
                " ",
                "#?%",
                junk(dice, 5),
            )
            spelling = dice.choice((junk(dice), "".join(dice.choices(parts, k=dice.randrange(7)))))
            with self.subject(spelling):
                recorded = location.identity(spelling)
                self.assertEqual(location.identity(recorded), recorded)
                try:
                    place = location.parse(spelling, "/somewhere")
                except UsageError:
                    continue
                self.assertEqual(location.parse(place.identity, "/elsewhere"), place)
                self.assertFalse(place.host.startswith("-") or place.user.startswith("-"))
                if place.scheme is Scheme.SSH:
                    argv = ssh.argv(place, ("A=b",), "-T")
                    self.assertEqual(argv[-2:], ("--", place.host))
                self.assertNotIn("\0", place.identity)
                if place.scheme is not Scheme.SHELL:
                    self.assertTrue(place.path.startswith("/"))
                    self.assertNotIn("..", place.path.split("/"))

    def test_policies(self) -> None:
        """What is kept and what is not are all there is; the newest and what is protected stay."""
        for dice in self.each("policies"):
            words = [
                f"{dice.choice((0, 1, 2, 10, 10**8, 10**12))}{dice.choice(('', *'hdwmyx'))}"
                for _ in range(dice.randrange(4))
            ]
            text = dice.choice((" ", ",", ", ")).join(words) if dice.random() < 0.8 else junk(dice, 10)
            with self.subject(text):
                try:
                    policy = retention.parse(text)
                except ValueError as error:
                    self.assertTrue(str(error))
                    continue
                times = [
                    datetime(2026, 1, 1) + timedelta(hours=dice.randrange(20_000)) for _ in range(dice.randrange(12))
                ]
                taken = sorted({Naming().name(each) for each in times})
                protected = {name: ["x"] for name in taken if dice.random() < 0.1}
                verdict = retention.decide(policy, Naming(), taken, protected, datetime.max)
                kept = [each.name for each in verdict.kept]
                self.assertEqual(sorted([*kept, *verdict.dropped]), taken)
                self.assertLessEqual({*taken[-1:], *protected}, set(kept))
                self.assertTrue(all(each.because for each in verdict.kept))

    def test_names(self) -> None:
        """A name of ours is just what a time makes of it; the next one sorts behind all that are not in the future."""
        for dice in self.each("names"):
            prefix = dice.choice(
                ("", "home", "home-", "2026", "20261123-0424", "%Y", junk(dice, 4).replace("/", "").replace("\0", ""))
            )
            naming = Naming(prefix)
            some = [
                mutated(dice, dice.choice((prefix, "")) + dice.choice((NAME, "00010101-000000", "20260229-000000")))
                for _ in range(3)
            ]
            now = datetime(
                dice.choice((1, 1969, 2026, 9999)), dice.randrange(1, 13), dice.randrange(1, 29), dice.randrange(24)
            )
            with self.subject(prefix, some, now):
                for name in some:
                    taken = naming.time(name)
                    self.assertTrue(taken is None or naming.name(taken) == name)
                ahead = naming.ahead(some, now)
                new = naming.next(now, some)
                self.assertIn(new, naming)
                self.assertNotIn(new, some)
                self.assertTrue(all(name < new for name in some if name in naming and name not in ahead))


def row(path: str, uuid: str, parent: str, received: str) -> str:
    ids = f"ID {256 + int(uuid[0], 16)} gen 9 top level 5"
    return f"{ids} parent_uuid {parent:<36} received_uuid {received:<36} uuid {uuid} path {path}\n"


SHOWN = """home/{name}
\tName: \t\t\t{name}
\tUUID: \t\t\t{uuid}
\tParent UUID: \t\t{parent}
\tReceived UUID: \t\t{received}
\tCreation time: \t\t2026-11-23 23:54:51 +0000
\tFlags: \t\t\t{flags}
\tReceive time: \t\t{when}
\tSnapshot(s):
\t\t\t\thome/x
"""
OUTPUTS: dict[Callable[[str], object], tuple[str, ...]] = {
    btrfs.parse_filesystem_uuid: (f"Label: none  uuid: {UUIDS[1]}\n\tTotal devices 1 FS bytes used 144.00KiB\n",),
    btrfs.parse_version: ("btrfs-progs v6.2\n", "btrfs-progs v6.14-rc1\n+EXPERIMENTAL\n", "btrfs v4.4"),
    btrfs.parse_usage: ("Overall:\n    Device size:\t\t 1073\n    Free (estimated):\t\t  335872\t(min: 1)\n",),
    lock.parse_locks: (
        "1: FLOCK  ADVISORY  WRITE 200 00:29:256 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 300 00:29:256 0 EOF\n",
    ),
    ssh.amendments: ("serveraliveinterval 0\nconnecttimeout none\nremotecommand none\nstdinnull no\n",),
}


class Outputs(Fuzz):
    def test_lists(self) -> None:
        """Every UUID in the value stands in the text, and is one. Nothing is complete that was not before."""
        for dice in self.each("lists"):
            entries = [
                (f"b/{NAME[:-1]}{n}", UUIDS[n], dice.choice(("-", *UUIDS)), dice.choice(("-", UUIDS[n + 8])))
                for n in range(4)
            ]
            sources = {path[2:]: Subvolume(path[2:], UUIDS[8 + n]) for n, (path, *_) in enumerate(entries)}
            text = mutated(dice, "".join(row(*entry) for entry in entries))
            readonly = mutated(dice, "".join(row(*entry) for entry in dice.sample(entries, dice.randrange(4))))
            with self.subject(text, readonly):
                try:
                    rows = btrfs.parse_list(text, readonly)
                except Failure as failure:
                    self.assertIn("btrfs subvolume list", failure.message)
                    continue
                for path, each in rows:
                    self.assertIn(path, text)
                    for uuid in (each.uuid, each.parent_uuid, each.received_uuid):
                        self.assert_uuid(uuid, text)
                    self.assertIn(f"ID {each.id} gen ", text)
                    state, _ = inventory.judge(each, sources.get(each.name))
                    if state is State.COMPLETE:
                        self.assertTrue(each.received_uuid and path in readonly)

    def test_shows(self) -> None:
        for dice in self.each("shows"):
            text = SHOWN.format(
                name=NAME,
                uuid=UUIDS[1],
                parent=dice.choice(("-", UUIDS[2])),
                received=dice.choice(("-", UUIDS[3])),
                flags=dice.choice(("-", "readonly")),
                when=dice.choice(("-", "2026-11-24 07:57:41 +0000")),
            )
            text = mutated(dice, text)
            with self.subject(text):
                try:
                    shown = btrfs.parse_show(text)
                except Failure as failure:
                    self.assertIn("btrfs subvolume show", failure.message)
                    continue
                for uuid in (shown.uuid, shown.parent_uuid, shown.received_uuid):
                    self.assert_uuid(uuid, text)
                for number in (shown.id, shown.sent_transid):
                    self.assertTrue(not number or re.search(rf":\s*0*{number}\b", text), number)
                self.assertTrue(not shown.readonly or "readonly" in text)

    def assert_uuid(self, uuid: str, text: str) -> None:
        self.assertIn(uuid, text)
        self.assertRegex(uuid, r"\A([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?\Z")

    def test_a_time_that_cannot_be_read(self) -> None:
        """What was received once is known as that, in whatever way its time is written."""
        for when in ("2026-11-24 07:57:41 +0000", "24.11.2026 07:57:41", "11/24/2026 07:57:41 AM +0000", "?"):
            text = SHOWN.format(name=NAME, uuid=UUIDS[1], parent="-", received="-", flags="-", when=when)
            self.assertIs(inventory.judge(btrfs.parse_show(text), Subvolume(NAME, UUIDS[5]))[0], State.FOREIGN, when)

    def test_other_outputs(self) -> None:
        """A value, or Failure."""
        for dice in self.each("other outputs"):
            parse = dice.choice(list(OUTPUTS))
            text = mutated(dice, dice.choice(OUTPUTS[parse]))
            with self.subject(parse, text):
                try:
                    value = parse(text)
                except Failure:
                    continue
                if parse is ssh.amendments:
                    self.assertEqual(value[-1], "ClearAllForwardings=yes")
                    self.assertFalse([each for each in value if any(odd in each for odd in "\n \0")])
                if parse is lock.parse_locks:
                    self.assertTrue(all(each.isdecimal() for each in value), value)

    def test_file_tools(self) -> None:
        """A record, or ValueError."""
        good = (
            b"f 644 0:0 1 17.5 5 a//",
            b"1:3 /top/a",
            b"0" * 64 + b"  /top/a",
            b"# file: /top/a\nuser.x=0x00",
        )
        for dice in self.each("file tools"):
            for item in good:
                some = os.fsencode(mutated(dice, os.fsdecode(item)))
                with self.subject("parse", some), suppress(ValueError):
                    self.assertIsInstance(manifest.parse(some, "/top"), bytes)

    def test_mounts(self) -> None:
        """The mount that is found is one that the path is on."""
        lines = (
            "26 1 0:23 / / rw,relatime shared:1 - ext4 /dev/vda rw",
            "41 26 0:30 /@ /mnt/us\\040b rw - btrfs /dev/loop0 rw,subvol=/@",
            "42 26 0:31 / /mnt rw - tmpfs none rw",
        )
        for dice in self.each("mounts"):
            text = mutated(dice, "\n".join(lines) + "\n")
            with self.subject(text):
                found = mounts.parse(text)
                for path in ("/", "/mnt", "/mnt/us b/x", "/mnt2"):
                    mount = mounts.find(found, path)
                    if mount:
                        self.assertTrue((path + "/").startswith(mount.point.rstrip("/") + "/"))
                        self.assertFalse(mount.inside(path).startswith("/"))

    def test_messages(self) -> None:
        for dice in self.each("messages"):
            words = mutated(
                dice, "bash: btrfs: command not found\nERROR: cannot find parent subvolume: No space left on device"
            )
            with self.subject(words):
                for login in ("", "me@nas"):
                    self.assertIsInstance(hints.hint(words, login, dice.random() < 0.5), str)
                btrfs.blames_parent(words)
                hints.brief(words)

    def test_nothing_takes_for_ever(self) -> None:
        """Much of the same, which some patterns take very long for."""
        for piece in (
            "x",
            " ",
            "\n",
            "\t",
            "-",
            "a: ",
            "ID 1 gen 1 ",
            "ERROR: ",
            "\tUUID:",
            "uuid: ",
            "v1.",
            "sudo: ",
            "\n\t ",
        ):
            text = piece * (32_000 // len(piece))
            started = time.process_time()
            for look in (
                lambda text: hints.hint(text, "me@nas", False),
                btrfs.blames_parent,
                btrfs.parse_list,
                btrfs.parse_show,
                mounts.parse,
                retention.parse,
                records.parse_outstanding,
                *OUTPUTS,
            ):
                with self.subject(piece), suppress(Failure, ValueError):
                    look(text)
            self.assertLess(time.process_time() - started, 1.0, repr(piece))


class Streams(Fuzz):
    def stream(self, dice: random.Random) -> bytes:
        frames = [frame(dice.randrange(1, 21), dice.randbytes(dice.randrange(60))) for _ in range(dice.randrange(5))]
        frames.insert(0, frame(1, dice.randbytes(40)))
        return b"btrfs-stream\0" + (1).to_bytes(4, "little") + b"".join(frames) + frame(21, b"")

    def test_streams(self) -> None:
        """Just what is whole is taken for it, whatever pieces it comes in."""
        for dice in self.each("streams"):
            whole = self.stream(dice)
            damaged = bytearray(whole)
            for _ in range(dice.choice((0, 1, 1, 2, 9))):
                at = dice.randrange(len(damaged) + 1)
                choice = dice.randrange(4)
                if choice == 0:
                    del damaged[at:]
                elif choice == 1:
                    damaged[at:at] = dice.randbytes(dice.randrange(1, 9))
                elif choice == 2:
                    del damaged[at : at + dice.randrange(1, 20)]
                elif at < len(damaged):
                    damaged[at] ^= 1 << dice.randrange(8)
            with self.subject(whole.hex(), damaged.hex()):
                self.assertEqual(self.taken(dice, bytes(damaged)), self.whole(bytes(damaged)))
                measure = Measure()
                measure.feed(bytes(damaged))
                self.assertTrue(measure.size is None or measure.size >= 0)

    def whole(self, stream: bytes) -> bool:
        """What the format says, without any haste: header, frames, the first one good, the last and it alone END."""
        if stream[:13] != b"btrfs-stream\0" or stream[13:17] not in (b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0"):
            return False
        rest, first, last = stream[17:], True, 22 if stream[13] == 1 else 23 + stream[13]
        while len(rest) >= 10:
            length = int.from_bytes(rest[:4], "little")
            one, rest = rest[: 10 + length], rest[10 + length :]
            command = int.from_bytes(one[4:6], "little")
            if len(one) < 10 + length or not 0 < command <= last:
                return False
            if first and (command > 2 or one != frame(command, one[10:])):
                return False
            first = False
            if command == 21:
                return not rest
        return False

    def taken(self, dice: random.Random, stream: bytes) -> bool:
        checker = Checker()
        try:
            at = 0
            while at < len(stream):
                size = dice.randrange(1, 50)
                checker.feed(stream[at : at + size])
                at += size
            checker.finish()
        except BrokenStream:
            return False
        return True

    def test_measure_of_anything(self) -> None:
        for dice in self.each("measured streams"):
            frames = b"".join(frame(22, dice.randbytes(dice.randrange(30))) for _ in range(3))
            measure = Measure()
            with self.subject(frames.hex()):
                measure.feed(b"btrfs-stream\0" + bytes(4) + frames + frame(21, b""))
                self.assertTrue(measure.size is None or measure.size >= 0)


class Stages(Fuzz):
    def test_stages(self) -> None:
        """A name is that of a stage, or none; what is found in one is of transfers, or all of it is foreign."""
        for dice in self.each("stages"):
            name = mutated(dice, f"{junk(dice, 5)}{NAME}") or NAME
            entry = stage.entry(name, frozenset({stage.entry(name)} if dice.random() < 0.5 else ()))
            attempt = stage.attempt(junk(dice), dice.randrange(10**7), dice.randrange(1 << 64))
            tops = [
                mutated(dice, dice.choice((attempt, NAME))).replace("/", "") or "x" for _ in range(dice.randrange(3))
            ]
            kinds = (stage.FOLDER, stage.FOLDER, stage.FILE, stage.SUBVOLUME)
            inside = {attempt: stage.FOLDER, **{top: dice.choice(kinds) for top in tops}}
            inside |= {f"{top}/{junk(dice, 5)}": dice.choice(kinds) for top in [*inside]}
            held = {path: Subvolume(path, path) for path, kind in inside.items() if kind == stage.SUBVOLUME}
            with self.subject(name, entry, inside):
                self.assertEqual(stage.name_of(entry), name)
                damaged = stage.name_of(mutated(dice, entry))
                self.assertTrue(damaged is None or damaged)
                found = stage.found(entry, name, dice.choice(kinds), inside, held)
                if found.foreign:
                    self.assertEqual((found.attempts, found.subvolumes), ((), ()))
                else:
                    self.assertEqual(found.attempts, tuple(sorted({attempt, *tops})))
                    self.assertTrue(all(inside[top] == stage.FOLDER and "\n" not in top for top in found.attempts))
                    self.assertEqual(len(found.subvolumes), len(held))
                    self.assertTrue(stage.who(found).startswith("process "))


class Enough(unittest.TestCase):
    def test_enough(self) -> None:
        self.assertGreaterEqual(sum(CASES.values()), 10_000)
