"""`--sizes`: how much space snapshots and backups take up, and what deleting some of them frees."""

import ctypes
import json
import os
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.real.machine import RealTest, lying_btrfs, names, sh
from tests.real.sshd import SshTest

_CAPBSET_DROP, _SYS_ADMIN = 24, 21  # prctl(2), capabilities(7)


def used(at: Path) -> int:
    """Bytes of data on the filesystem of AT, when all that was deleted is gone."""
    for _ in range(2):
        sh("btrfs", "filesystem", "sync", at)
        sh("btrfs", "subvolume", "sync", at)
    found = re.search(r"^Data,.*Used:(\d+)", sh("btrfs", "filesystem", "usage", "-b", at), re.MULTILINE)
    assert found
    return int(found[1])


class Histories(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home = self.disk("pool", 1024).path / "home"
        sh("btrfs", "subvolume", "create", self.home)
        sh("btrfs", "property", "set", self.home, "compression", "zstd")
        self.snapshots = self.home / "snapshot"
        self.snapshots.mkdir()

    def change(self, dice: random.Random) -> None:
        """Some files are written, some of them compressed, partly overwritten, cut, cloned, renamed, or deleted."""
        for _ in range(dice.randint(1, 8)):
            file, other = (self.home / f"file{dice.randrange(12)}" for _ in range(2))
            kind = dice.randrange(6)
            if kind < 2 or not file.exists():
                data = os.urandom(dice.choice((1000, 70_000, 900_000, 4_000_000)))
                file.write_bytes(data if kind else data[len(data) // 2 :].hex().encode())
            elif kind == 2:
                with file.open("r+b") as opened:
                    for _ in range(dice.randint(1, 5)):
                        opened.seek(dice.randrange(file.stat().st_size))
                        opened.write(os.urandom(dice.randrange(300_000)))
            elif kind == 3:
                sh("cp", "--reflink=always", file, other) if file != other else None
            elif kind == 4:
                os.truncate(file, dice.randrange(file.stat().st_size + 1))
            else:
                file.unlink()

    def take(self, day: int) -> None:
        name = f"2026{day // 28 + 1:02}{day % 28 + 1:02}-000000"
        sh("btrfs", "subvolume", "snapshot", "-r", self.home, self.snapshots / name)

    def document(self, *arguments: object) -> Any:
        return json.loads(self.backup("--json", "--status", "--sizes", *arguments).out)

    def assert_near(self, told: int, real: int, where: object) -> None:
        self.assertLessEqual(abs(told - real), real * 0.02, f"{where}: told {told}, freed {real}")

    def test_random_sets(self) -> None:
        """What was told is what deleting frees: of runs of neighbours, with reflinks, and alone."""
        for seed in range(20):
            dice = random.Random(seed)
            for day in range(8):
                self.change(dice)
                self.take(day)
            if seed % 2:
                # Held by nothing but a subvolume elsewhere.
                taken = names(self.snapshots)
                sh("btrfs", "subvolume", "snapshot", self.snapshots / dice.choice(taken), self.home.parent / "other")
            keep = f"{dice.randint(1, 3)} {dice.randint(1, 5)}w" if seed % 3 else "1"
            before, told = used(self.home), self.document("-N", keep, self.home)
            sizes = told["source"]["sizes"]
            alone, held = max(((each["name"], each["bytes"]) for each in sizes["alone"]), key=lambda each: each[1])
            going = [each["name"] for each in told["snapshots"] if not each["because"]]
            self.assertEqual((sizes["deleting"], sizes["freed_at_least"]), (len(going), False))
            self.assertGreater(len(going), 0)
            if seed % 4 == 3:
                sh("btrfs", "subvolume", "delete", self.snapshots / alone)
                self.assert_near(held, before - used(self.home), (seed, alone))
            else:
                self.backup("-q", "-S", "-T", "-N", keep, self.home)
                self.assert_near(sizes["freed"], before - used(self.home), (seed, going))
            left = [self.snapshots / name for name in names(self.snapshots)]
            for each in (*left, *self.home.parent.glob("other")):
                sh("btrfs", "subvolume", "delete", each)


class Places(SshTest):
    def setUp(self) -> None:
        super().setUp()
        self.home, self.usb = self.source(), self.disk("usb").path
        self.snapshots = self.home / "snapshot"
        for number in range(3):
            (self.home / "large").write_bytes(os.urandom(1 << (20 + number)))
            self.backup("-q", self.home, self.usb)

    def test_table(self) -> None:
        """Of one disk by its path and through ssh."""
        server, wide = self.sshd(), {"COLUMNS": "200"}
        far = f"{server.url}{self.usb}"
        one, two, three = names(self.snapshots)
        options = (*server.arguments(), "-N", "1", "-n", "1")
        sh("btrfs", "filesystem", "sync", self.usb)
        sh("btrfs", "subvolume", "sync", self.usb)  # 'du' counts what is being deleted
        out = self.backup("--status", "--sizes", *options, self.home, self.usb, far, env=wide).out
        row = rf"^{two} .* to delete, (2\.\d MB) +to delete, at least \1 +to delete, \1"
        self.assertRegex(out, re.compile(row, re.MULTILINE))
        self.assertRegex(out, r"\n1: deleting 2 of 3 frees 3\.\d MB\n")
        self.assertRegex(out, r"\n2: deleting 2 of 3 frees at least 3\.\d MB \(compressed data counted in full\)\n")
        self.assertRegex(out, r"\nsource: deleting 2 of 3 frees 3\.\d MB\n")
        self.assertIn(f"{three} ", out)
        self.assertIn(f"{one} ", out)
        fails = lying_btrfs(self.folder / "bin", "'filesystem du'*) exit 5;;")
        failing = self.sshd(name="failing", path=f"{fails}:{os.environ['PATH']}")
        place = f"{failing.url}{self.usb}"
        result = self.backup("--status", "--sizes", *failing.arguments(), self.home, place, status=10)
        self.assertIn(f"{place}: cannot measure '{self.usb}/{one}': btrfs filesystem du", result.err)

    def test_dry_run(self) -> None:
        """The next backup shares data with its parent, which is deleted behind it."""
        (self.home / "large").unlink()
        out = self.backup("--dry-run", "--sizes", "-N", "1", "-n", "1", self.home, self.usb).out
        before = used(self.usb)
        self.assertRegex(out, rf"{self.usb}: would delete \S+, which alone holds 4\.2 MB\n")
        [least] = re.findall(rf"{self.usb}: would free at least ([\d.]+) MB by that\n", out)
        [told] = re.findall(rf"{self.home}: would free ([\d.]+) MB by that\n", out)
        self.assertEqual((told, least), ("7.3", "3.1"))
        self.backup("-q", "-N", "1", "-n", "1", self.home, self.usb)
        self.assertGreaterEqual(before - used(self.usb), float(least) * 1e6)

    def test_progress(self) -> None:
        """A terminal shows what is being measured, until all is."""
        server = self.sshd()
        controller, terminal = os.openpty()
        self.addCleanup(os.close, controller)
        places = (self.home, self.usb, f"{server.url}{self.usb}")
        arguments = (*server.arguments(), "--status", "--sizes", *places)
        process = self.start(*arguments, stderr=terminal, env={"TERM": "xterm"})
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(controller, 1 << 16):
                shown += piece
        process.wait()
        name = names(self.usb)[0]
        self.assertRegex(shown.decode(), rf"measuring, \d+ extents: {self.usb}/{name}")
        self.assertRegex(shown.decode(), rf"measuring, 0 of \d+ extents: {self.usb}")
        self.assertIn(f"measuring 1 of 3: {self.usb}/{name}", shown.decode())
        self.assertTrue(shown.endswith(b"\r\x1b[J"), shown[-80:])

    def test_without_rights(self) -> None:
        """It takes those of root, and the rest is shown."""

        def drop() -> None:
            ctypes.CDLL(None).prctl(_CAPBSET_DROP, _SYS_ADMIN, 0, 0, 0)

        result = self.backup("-S", "--status", "--sizes", self.home, "shell://cat", preexec_fn=drop, status=10)
        self.assertIn(f"cannot read which data is shared in '{self.snapshots}': Operation not permitted", result.err)
        self.assertIn(names(self.snapshots)[0], result.out)
