"""One stream for several destinations; its rate, compression and protocol; and what a terminal shows of it."""

import fcntl
import itertools
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from btrfs_backup.model.sendstream import Measure
from btrfs_backup.system import btrfs
from tests.real.machine import (
    FAILING_SEND,
    TIME,
    TOP,
    RealTest,
    child_running,
    kill,
    make_program,
    names,
    on_record,
    random_file,
    sh,
    shares,
    staged,
    untimed,
    wait_for,
)
from tests.real.sshd import SshTest


def written_so_far() -> int:
    """Bytes that we wrote, and the processes that we waited for."""
    return int(re.findall(r"^wchar: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)[0])


class Shared(RealTest):
    def sends(self, err: str) -> int:
        return len(re.findall(r"^debug: running: btrfs send ", untimed(err), re.MULTILINE))

    def test_one_read_for_all(self) -> None:
        source = self.source()
        random_file(source / "large", 20)
        disks = [self.disk(name).path for name in ("one", "two", "three")]
        first = self.backup("-v", "debug", source, *disks)
        self.assertEqual(self.sends(first.err), 1)
        (source / "file").write_text("two")
        second = self.backup("-v", "debug", source, *disks)
        self.assertEqual(self.sends(second.err), 1)
        apart = self.backup("-v", "debug", "--no-shared-stream", source, *disks)
        self.assertEqual(self.sends(apart.err), 3)
        for disk in disks:
            self.assert_complete(disk, source / "snapshot", names(source / "snapshot"))

    def written(self, *arguments: object) -> int:
        """Bytes that the command and what it started wrote: the stream, and what each receiver made of it (proc(5))."""
        before = written_so_far()
        self.backup("-q", *arguments)
        return written_so_far() - before

    def test_bytes_are_read_once(self) -> None:
        """However many there are that receive them."""
        source, size = self.source(), 100 << 20
        random_file(source / "large", 100)
        disks = [self.disk(f"disk{number}").path for number in range(5)]
        self.assertAlmostEqual(self.written(source, disks[0]) / size, 1 + 1, delta=0.1)
        self.assertAlmostEqual(self.written("-S", source, *disks[1:3]) / size, 1 + 2, delta=0.1)
        apart = self.written("-S", "--no-shared-stream", source, *disks[3:])
        self.assertAlmostEqual(apart / size, 2 * (1 + 1), delta=0.2)

    def test_memory(self) -> None:
        """It does not depend on the size."""
        source = self.source()
        random_file(source / "large", 150)
        disks = [self.disk(name, 400).path for name in ("one", "two")]
        run = self.start(source, *disks, f"shell://cat >{self.folder}/stored", stderr=subprocess.DEVNULL)
        status, most = Path(f"/proc/{run.pid}/status"), 0
        while run.poll() is None:
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE):
                most = int(found[1])
            time.sleep(0.01)
        self.assertEqual(run.returncode, 0)
        self.assertTrue(5_000 < most < 100_000, most)

    def test_different_steps_are_different_streams(self) -> None:
        source = self.source()
        one, two, three = (self.disk(name).path for name in ("one", "two", "three"))
        self.backup(source, one, two)
        result = self.backup("-v", "debug", source, one, two, three)
        # The older snapshot for the third one, and then the newer one for all.
        self.assertEqual(self.sends(result.err), 2)
        for disk in (one, two, three):
            self.assert_complete(disk, source / "snapshot", names(source / "snapshot"))

    def test_one_killed_and_one_full(self) -> None:
        """The third one gets all of it in one go."""
        source = self.source()
        random_file(source / "large", 80)
        good, killed = self.disk("good").path, self.disk("killed").path
        full = self.disk("full", 60).path
        command = self.start("-v", "debug", source, killed, full, good)
        [receiving] = wait_for(lambda: staged(killed))
        receive = wait_for(lambda: child_running(command.pid, *btrfs.receive(str(receiving.parent), False)))
        kill(receive)
        _, err = command.communicate(timeout=60)
        self.assertEqual(command.returncode, 10, err)
        self.assertEqual(self.sends(err), 1)
        taken = names(source / "snapshot")
        self.assert_complete(good, source / "snapshot", taken)
        self.assertIn("btrfs receive: it was ended by signal 9", err)
        self.assertIn("No space left on device", err)
        self.assertEqual((names(killed), names(full)), ([], []))
        record = on_record(source / "snapshot")
        self.assertEqual(record, {taken[0]: {"locks": sorted([str(killed), str(full)])}})
        self.backup("-S", source, killed)
        self.assert_complete(killed, source / "snapshot", taken)

    def test_all_but_the_source_fail(self) -> None:
        source = self.source()
        random_file(source / "large", 50)
        disks = [self.disk(name, 40).path for name in ("one", "two")]
        result = self.backup(source, *disks, status=10)
        self.assertEqual(result.err.count("btrfs receive: ERROR"), 2)
        self.assertNotIn("btrfs send:", result.err)


class InARow(RealTest):
    """Many snapshots for the same destinations go into one receiver, one stream behind the other."""

    def snapshots(self, source: Path, count: int) -> list[str]:
        """Take some, each with a little file more; their names."""
        for number in range(count):
            (source / f"file{number}").write_text(str(number))
            self.backup(source)
        return names(source / "snapshot")

    def count(self, err: str, command: str) -> int:
        return len(re.findall(rf"^debug: running: btrfs {command} ", err, re.MULTILINE))

    def test_all_at_once(self) -> None:
        source = self.source()
        one, two = self.disk("one").path, self.disk("two").path
        taken = self.snapshots(source, 6)
        result = self.backup("-S", "-v", "debug", source, one, two)
        self.assertEqual((self.count(result.err, "send"), self.count(result.err, "receive")), (6, 2))
        # One record when they begin, and one for each destination when they have ended.
        self.assertEqual(on_record(source / "snapshot"), {})
        for disk in (one, two):
            self.assert_complete(disk, source / "snapshot", taken)
            for old, new in itertools.pairwise(taken):
                self.assertTrue(shares(disk / new, disk / old))
            self.assertEqual(result.err.count(f"{disk}: sending "), 6)
            self.assertEqual(result.err.count(f"{disk}: sent "), 7)
            self.assertIn(f"{disk}: sent 6 snapshots (5 incremental", result.err)

    def test_messages(self) -> None:
        """One line for each, as what has begun ends; and a last one with the total."""
        source, usb = self.source(), self.disk("usb").path
        taken = self.snapshots(source, 6)
        lines = re.sub(r"[\d.]+ k?B in [\d.]+ s", "SIZE", self.backup("-S", source, usb).err).splitlines()
        self.assertEqual(
            lines,
            [
                f"{usb}: sending {taken[0]} in full",
                f"{usb}: sent {taken[0]}: SIZE",
                *(f"{usb}: sent {new} on top of {old}: SIZE" for old, new in itertools.pairwise(taken)),
                f"{source}: took no snapshot, 6 snapshots there",
                f"{usb}: sent 6 snapshots (5 incremental, SIZE), 6 backups there",
            ],
        )

    def test_recorded_before_they_begin(self) -> None:
        """A kill leaves all of them on record, and the next run sends those that did not arrive."""
        source, usb = self.source(), self.disk("usb", 400).path
        taken = self.snapshots(source, 2)
        random_file(source / "large", 10)
        taken = self.snapshots(source, 2)
        command = self.start("-S", "--rate-limit", "5M", source, usb)
        wait_for(lambda: any(path.name == taken[2] for path in staged(usb)))
        kill(command.pid)
        command.wait()
        record = on_record(source / "snapshot")
        self.assertEqual([name for name, its in record.items() if its.get("locks") == [str(usb)]], taken)
        wait_for(lambda: not child_running(1, "btrfs", "receive"))
        self.backup("-S", source, usb)
        self.assert_complete(usb, source / "snapshot", taken)
        self.assertEqual(on_record(source / "snapshot"), {})

    def test_one_of_them_fails(self) -> None:
        """What came before it has arrived; only that one is on record, on the parent it needs; another disk goes on."""
        source, usb = self.source("pool", "home"), self.disk("usb").path
        small = self.disk("small", 40)
        taken = self.snapshots(source, 3)
        random_file(source / "large", 50)
        taken = self.snapshots(source, 3)
        result = self.backup("-S", source, small.path, usb, status=10)
        self.assertIn(f"{small.path}: sending {taken[3]} failed: btrfs receive: ", result.err)
        self.assertIn(f"{small.path}: FAILED (disk full), sent 3 snapshots (2 incremental", result.err)
        self.assertIn("3 outstanding", result.err)
        self.assert_complete(small.path, source / "snapshot", taken[:3])
        self.assert_complete(usb, source / "snapshot", taken)
        record = on_record(source / "snapshot")
        self.assertEqual(
            record, {taken[2]: {"parent_locks": [str(small.path)]}, taken[3]: {"locks": [str(small.path)]}}
        )

    def test_a_shell_command_is_started_for_each(self) -> None:
        source, stored = self.source(), self.folder / "stored"
        stored.mkdir()
        taken = self.snapshots(source, 3)
        self.backup("-S", source, f"shell://cat > {stored}/$BTRFS_BACKUP_SNAPSHOT")
        self.assertEqual(names(stored), taken)


class Rate(RealTest):
    def test_limit_is_kept(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 12)
        started = time.monotonic()
        self.backup("--rate-limit", "4M", source, usb)
        seconds = time.monotonic() - started
        wanted = 12 * 1.048576 / 4
        self.assertGreater(seconds, 0.9 * wanted)
        self.assertLess(seconds, 1.1 * wanted + 1)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_no_rates(self) -> None:
        for rate in ("0", "x", "-1", "1.5M", "5T", ""):
            self.backup(f"--rate-limit={rate}", "/nowhere", status=2)


class Wire(SshTest):
    def test_compression(self) -> None:
        """Fewer bytes on the wire in both directions; without the program there, as it is, with a warning."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        usb = self.disk("usb").path
        (source / "large").write_bytes(b"the same again " * 1_000_000)
        for method in ("zstd", "lz4", "gzip"):
            if not shutil.which(method):
                continue
            with self.subTest(method):
                options = [*server.arguments(), "-v", "debug", "-I", "--compress", method]
                for arguments in ((source, f"{server.url}{nas}"), (f"{server.url}{source}", usb)):
                    result = self.backup(*options, *arguments)
                    self.assertRegex(result.err, rf"debug: running: {method} ")
                self.assert_same(nas / names(nas)[-1], source / "snapshot" / names(nas)[-1])
                self.assert_same(usb / names(usb)[-1], source / "snapshot" / names(usb)[-1])
        self.assertTrue(names(nas))

    def test_bytes_on_the_wire(self) -> None:
        if not shutil.which("gzip"):
            self.skipTest("needs gzip")
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        (source / "large").write_bytes(b"the same again " * 1_000_000)
        moved = []
        for options in ([], ["--compress", "gzip"]):
            proxy = self.proxy(server)
            url = server.url.replace(str(server.port), str(proxy.port))
            self.backup(*server.arguments(), "-I", *options, source, f"{url}{nas}")
            moved.append(proxy.moved)
        self.assertGreater(moved[0], 15_000_000)
        self.assertLess(moved[1], 3_000_000)

    def test_pulled_once(self) -> None:
        server, source = self.sshd(), self.source()
        random_file(source / "large", 20)
        disks = [self.disk(name).path for name in ("one", "two", "three")]
        proxy = self.proxy(server)
        url = server.url.replace(str(server.port), str(proxy.port))
        self.backup(*server.arguments(), f"{url}{source}", *disks)
        self.assertAlmostEqual(proxy.moved / (20 << 20), 1, delta=0.05)

    def test_program_that_is_missing_there(self) -> None:
        tools = self.tools("bash", "sh", "btrfs", "cat", "find", "readlink", "rm", "stat", "mkdir", "rmdir", "sync")
        server, source, nas = self.sshd(path=tools), self.source(), self.disk("nas").path
        result = self.backup(*server.arguments(), "--compress", "gzip", source, f"{server.url}{nas}")
        self.assertEqual(result.err.count("there is no program 'flock' on 127.0.0.1"), 1)
        self.assertIn("warning: no program 'gzip' on 127.0.0.1: streams are not compressed", result.err)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_a_sender_that_fails_behind_a_compressor(self) -> None:
        """The exit status of the pipeline there is that of the compressor; nothing counts as delivered."""
        tools = self.tools("bash", "sh", "gzip", "head", *("cat", "chmod", "cp", "dd", "find", "flock", "mkdir", "mv"))
        for name in ("readlink", "rm", "stat", "touch"):
            (tools / name).symlink_to(str(shutil.which(name)))
        make_program(tools, "btrfs", FAILING_SEND)
        server, source, usb = self.sshd(path=tools), self.source(), self.disk("usb").path
        result = self.backup(*server.arguments(), "--compress", "gzip", f"{server.url}{source}", usb, status=10)
        self.assertIn("Input/output error", result.err)
        self.assertEqual(names(usb), [])


class CompressedData(RealTest):
    def test_extents_stay_compressed(self) -> None:
        """Send protocol 2, where both sides are fit for it; the other way round with the option."""
        pool, plain, kept = self.disk("pool"), self.disk("plain").path, self.disk("kept").path
        pool.unmount()
        pool.mount("compress-force=zstd")
        source = self.subvolume(pool.path / "home")
        (source / "large").write_bytes(b"the same again " * 1_000_000)
        result = self.backup(source, kept)
        if "--compressed-data" not in self.backup("-v", "debug", "-I", source, kept).err:
            self.skipTest("this kernel or these btrfs-progs have no send protocol 2")
        self.assertRegex(result.err, r"sent 1 snapshot \(\d+\.\d kB\)|sent 1 snapshot \(\d\.\d MB\)")
        result = self.backup("-v", "debug", "--no-compressed-data", source, plain)
        self.assertNotIn("--compressed-data", result.err)
        self.assertRegex(result.err, r"sent 3 snapshots \(2 incremental, 1[5-9]\.\d MB in ")
        for disk in (kept, plain):
            for name in names(disk):
                self.assert_same(disk / name, source / "snapshot" / name)

    def test_what_is_stored_is_of_the_first_protocol(self) -> None:
        """Whoever restores it may have older programs."""
        source = self.source()
        result = self.backup("-v", "debug", source, "shell://cat > /dev/null", self.disk("usb").path)
        self.assertNotIn("--compressed-data", result.err)


class Terminal(RealTest):
    def on_terminal(self, columns: int, *arguments: object, status: int = 0) -> str:
        """What a terminal of that width gets to show."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update({"PYTHONPATH": str(TOP), "TERM": "xterm"})
            os.execv(sys.executable, [sys.executable, "-m", "btrfs_backup", *map(str, arguments)])
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        screen = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                screen += os.read(terminal, 65536)
            except OSError:
                break
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), status, screen)
        return screen.decode()

    def test_progress(self) -> None:
        """The cursor waits in front of it, and all that a narrower terminal has put below is cleared with it."""
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 10)
        self.backup(source, usb)
        random_file(source / "more", 8)
        for columns in (30, 200):
            screen = self.on_terminal(columns, "--rate-limit", "5M", source, usb)
            name = names(usb)[-1]
            shown = re.findall(r"\r\x1b\[\?7l([^\x1b]*)\x1b\[\?7h\x1b\[J\r", screen)
            self.assertGreaterEqual(len(shown), 2, screen)
            size = r"[\d.]+ [kMG]?B"
            moving = rf"({size}|\d+ % of 8.4 MB), {size}/s(, \d:\d\d left)?|{size} are being written to disk"
            for line in shown:
                self.assertLess(len(line), columns)
                self.assertRegex(line, rf"^({moving}): {name} to {usb}$" if columns > 80 else r"^\d")
            self.assertTrue(any(re.match(r"\d+ % of 8.4 MB", line) for line in shown), shown)
            # Taken away before the next message, so that no message stands behind it.
            self.assertRegex(screen, rf"\r\x1b\[J\S*{usb}: sent {name}")
            random_file(source / "more", 8)

    def test_all_that_waits(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for number in range(3):
            random_file(source / f"large{number}", 8)
            self.backup(source)
        screen = self.on_terminal(80, "-S", "--rate-limit", "8M", source, usb)
        self.assertRegex(screen, r"\d+ % of 8.4 MB, [\d.]+ MB/s, 0:0\d left, 0:0\d for all 3: ")

    def test_errors_are_in_colour(self) -> None:
        screen = self.on_terminal(80, self.folder / "nowhere", status=1)
        self.assertRegex(screen, r"^\x1b\[31merror:\x1b\[0m ")

    def test_times_in_logs(self) -> None:
        """In front of each line, for who reads it later; not in the journal, which has them."""
        nowhere, log = self.folder / "nowhere", self.folder / "log"
        _, said = self.start(nowhere).communicate()
        lines = said.splitlines()
        self.assertEqual([bool(re.match(rf"{TIME} \S|{TIME}   \S", line)) for line in lines], [True, True], said)
        self.assertNotIn("\x1b", said)
        with log.open("w") as file:
            status = os.fstat(file.fileno())
            journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            self.start(nowhere, env=journal, stderr=file).wait()
        self.assertEqual(log.read_text(), untimed(said))
        self.assertTrue(log.read_text().startswith("error: "))

    def test_none(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 4)
        for option in ("-P", "-q"):
            self.assertNotIn("\x1b", self.on_terminal(80, option, "--rate-limit", "8M", "-I", source, usb))
        result = self.backup("--rate-limit", "8M", "-I", source, usb)
        self.assertNotIn("\x1b", result.err)
        self.assertNotIn("--no-data -p", self.backup("-v", "debug", source, usb).err)


class Sizes(RealTest):
    def test_estimate_is_close(self) -> None:
        """`btrfs send --no-data` as the program reads it, against the real streams, full and incremental."""
        source = self.source()
        random_file(source / "large", 9)
        for number in range(200):
            (source / f"small{number}").write_bytes(os.urandom(3000))
        self.backup(source)
        with (source / "large").open("r+b") as large:
            large.write(os.urandom(3_000_000))
        self.backup(source)
        old, new = (source / "snapshot" / name for name in names(source / "snapshot"))
        for arguments in ((new,), ("-p", old, new)):
            stream, without = self.folder / "stream", self.folder / "without"
            sh("btrfs", "send", "-f", stream, *arguments)
            sh("btrfs", "send", "--no-data", "-f", without, *arguments)
            measure = Measure()
            measure.feed(without.read_bytes())
            self.assertAlmostEqual((measure.size or 0) / stream.stat().st_size, 1, delta=0.05)
            self.assertIsNone(self.half(without.read_bytes()).size)

    def half(self, text: bytes) -> Measure:
        measure = Measure()
        measure.feed(text[: len(text) // 2])
        return measure
