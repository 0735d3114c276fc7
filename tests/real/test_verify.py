"""Backups compared with their snapshots, as users do it, here and through ssh."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import unittest
import uuid
from collections.abc import Callable
from pathlib import Path

from btrfs_backup.system import hints
from tests.real.machine import (
    OUTSTANDING,
    TOP,
    RealTest,
    Result,
    children_of,
    is_running,
    make_program,
    names,
    random_file,
    sh,
    show,
    untimed,
    wait_for,
    with_program,
)
from tests.real.sshd import SshTest

_SET_RECEIVED_SUBVOL = 0xC0C89425  # BTRFS_IOC_SET_RECEIVED_SUBVOL
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service
# struct posix_acl_xattr: version, then (tag, permissions, id): user 1000 may read.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)
ODD_NAMES = (
    b"new\nline",
    b'it\'s "quoted"',
    b"-leading",
    b"\xff\xfe",
    b"back\\slash",
    b" # file: x=0x0",
    b"\r\t\x1b[0m",
)


def furnish(path: Path) -> None:
    """Put one of everything that a filesystem can hold into PATH."""
    odd = path / "odd"
    odd.mkdir()
    for name in ODD_NAMES:
        file = os.path.join(os.fsencode(odd), name)
        Path(os.fsdecode(file)).write_bytes(name)
        os.setxattr(file, b"user.\xff=\n\\" + name, name)
    (path / "plain").write_text("one")
    os.link(path / "plain", odd / "hard link")
    (odd / "empty").touch(0o4711)
    (odd / "link").symlink_to("no such\nfile")
    os.setxattr(odd / "link", "trusted.x", b"", follow_symlinks=False)
    os.mkfifo(odd / "fifo", 0o620)
    os.mknod(odd / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(odd / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 1000))
    (path / "acl").write_text("a")
    os.setxattr(path / "acl", "system.posix_acl_access", ACL)
    (path / "capable").write_text("c")
    os.setxattr(path / "capable", "security.capability", CAPABILITY)
    with (path / "sparse").open("wb") as sparse:
        sparse.seek(5 << 20)
        sparse.write(b"end")
    (path / "shared").mkdir(0o700)
    (path / "shared").chmod(0o3775)
    os.chown(path / "shared", 1000, 100)
    os.utime(path / "shared", ns=(1, 1_000_000_000_000_000_001))
    os.utime(path / "plain", ns=(1, -1_500_000_000))
    sh("btrfs", "subvolume", "create", path / "nested")
    (path / "nested" / "file").write_text("not part of it")
    sh("btrfs", "subvolume", "create", odd / "nested")


def tamper(backup: Path, change: Callable[[Path], object]) -> None:
    """CHANGE a backup so that its UUIDs do not tell."""
    received = uuid.UUID(show(backup)["Received UUID"])
    sh("btrfs", "property", "set", "-f", "-ts", backup, "ro", "false")
    change(backup)
    descriptor = os.open(backup, os.O_RDONLY)
    fcntl.ioctl(descriptor, _SET_RECEIVED_SUBVOL, bytearray(received.bytes + bytes(184)))
    os.close(descriptor)
    sh("btrfs", "property", "set", "-ts", backup, "ro", "true")


def state_of(folder: Path) -> list[tuple[str, int]]:
    """What would change when something was written there."""
    return sorted((str(each), each.lstat().st_ctime_ns) for each in (folder, *folder.iterdir()))


def below(pid: int) -> list[int]:
    """Process ids of all that PID has started, and what these have."""
    return [each for child in children_of(pid) for each in (child, *below(child))]


def readers_of(pid: int, count: int) -> list[int]:
    """Process ids of all below PID, once COUNT of them are sha256sum."""
    found = below(pid)
    return found if sum(program(each) == "sha256sum" for each in found) >= count else []


def program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class VerifyTest(RealTest):
    def verify(self, *arguments: object, status: int = 0, **more: object) -> Result:
        return self.backup("--verify", *arguments, status=status, **more)

    def assert_differences(self, result: Result, place: object, name: str, *wanted: str) -> None:
        self.assertEqual(result.out.splitlines(), [f"{place} {name}: {each}" for each in wanted], result)

    def pair(self) -> tuple[Path, Path, str]:
        """A source, a folder with one backup, and its name."""
        source, usb = self.source(), self.disk("usb").path / "b"
        self.backup("-q", source, usb)
        return source, usb, names(usb)[0]


class Equal(VerifyTest):
    def test_everything_that_a_filesystem_can_hold(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        furnish(source)
        sh("btrfs", "property", "set", usb, "compression", "zstd")
        self.backup("-q", source, usb)
        for name in ODD_NAMES:
            os.rename(
                os.path.join(os.fsencode(source), b"odd", name), os.path.join(os.fsencode(source), b"folder", name)
            )
        (source / "shared" / "new").mkdir(0o500)
        os.utime(source / "shared", ns=(1, 1))
        source.chmod(0o711)
        self.backup("-q", source, usb)
        old, new = names(usb)
        before = state_of(source / "snapshot"), state_of(usb)
        result = self.verify(source, usb)
        self.assertEqual(result.out, "")
        self.assertIn(f"{usb}: comparing {new}\n", result.err)
        self.assertRegex(result.err, rf"{usb}: compared 1 backup \({new}\): \d+ files with 5.\d MB, no difference\n")
        result = self.backup("--verify=all", source, usb)
        self.assertRegex(result.err, rf"compared 2 backups \({old}, {new}\): \d+ files with 10.\d MB, no difference\n")
        result = self.backup("-q", "--verify=all", source, usb)
        self.assertEqual((result.out, result.err), ("", ""))
        self.assertEqual((state_of(source / "snapshot"), state_of(usb)), before)

    def test_backup_of_a_restored_subvolume(self) -> None:
        """Its snapshot was received itself."""
        source, usb, name = self.pair()
        restored = source.parent / "restored"
        (source.parent / "in").mkdir()
        sh("sh", "-c", f"btrfs send -q {usb / name} | btrfs receive -q {source.parent / 'in'}")
        sh("btrfs", "subvolume", "snapshot", source.parent / "in" / name, restored)
        (restored / "snapshot").mkdir(exist_ok=True)
        sh("btrfs", "subvolume", "snapshot", "-r", source.parent / "in" / name, restored / "snapshot" / name)
        self.backup("-q", restored, usb)
        result = self.backup("--verify=all", restored, usb)
        self.assertIn("compared 2 backups", result.err)

    def test_many_records(self) -> None:
        """More than fit into the memory that is allowed for them."""
        source, usb = self.source(), self.disk("usb").path
        for number in range(300):
            (source / f"{number:0200}").write_text(str(number))
        self.backup("-q", source, usb)
        code = "import sys; from btrfs_backup.system import trees; "
        code += "trees.Spool.__init__.__defaults__ = (5000,); from btrfs_backup.__main__ import main; sys.exit(main())"
        sh("env", f"PYTHONPATH={TOP}", sys.executable, "-c", code, "-q", "--verify", source, usb)
        tamper(usb / names(usb)[0], lambda backup: (backup / f"{7:0200}").unlink())
        with self.assertRaisesRegex(AssertionError, "1 difference"):
            sh("env", f"PYTHONPATH={TOP}", sys.executable, "-c", code, "-q", "--verify", source, usb)


class Different(VerifyTest):
    def test_each_kind(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        furnish(source)
        self.backup("-q", source, usb)
        [name] = names(usb)

        def change(backup: Path) -> None:
            odd = backup / "odd"
            keep = (odd.stat(), (backup / "folder").stat())
            with (backup / "sparse").open("r+b") as sparse:
                when = os.fstat(sparse.fileno())
                sparse.seek(1 << 20)
                sparse.write(b"x")
            os.utime(backup / "sparse", ns=(1, when.st_mtime_ns))
            (odd / "empty").chmod(0o711)
            os.chown(odd / "fifo", 1000, 0)
            (odd / "link").unlink()
            (odd / "link").symlink_to("elsewhere")
            os.utime(odd / "link", ns=(1, 1), follow_symlinks=False)
            (odd / "null").unlink()
            os.mknod(odd / "null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            os.utime(odd / "null", ns=(1, 1))
            (odd / "hard link").unlink()
            shutil.copy2(backup / "plain", odd / "hard link")
            (odd / "disk").unlink()
            (odd / "disk").mkdir()
            (odd / os.fsdecode(ODD_NAMES[0])).unlink()
            (backup / "extra").mkdir()
            (backup / "extra" / os.fsdecode(ODD_NAMES[3])).touch()
            (backup / "file").write_text("longer")
            os.utime(backup / "file", ns=(1, 1_000_000_000))
            os.removexattr(backup / "acl", "system.posix_acl_access")
            os.setxattr(backup / "capable", "security.capability", CAPABILITY[:4] + bytes(16))
            os.setxattr(backup / "shared", "user.more", b"")
            os.utime(odd, ns=(1, keep[0].st_mtime_ns))
            os.utime(backup / "folder", ns=(1, keep[1].st_mtime_ns + 1))
            backup.chmod(0o700)

        tamper(usb / name, change)
        snapshot = source / "snapshot" / name
        result = self.verify(source, usb, status=10)
        times = "modified [-T:.0-9]{29}Z instead of [-T:.0-9]{29}Z"
        found = [re.sub(times, "TIME", line) for line in result.out.splitlines()]
        acl = (snapshot / "acl").stat()
        wanted = [
            ".: mode 700 instead of 755",
            f"acl: mode {acl.st_mode & 0o777:o} instead of 640",
            "acl: extended attribute system.posix_acl_access is missing",
            "capable: extended attribute security.capability differs",
            "extra: it is not in the snapshot",
            r"extra/\xff\xfe: it is not in the snapshot",
            "file: TIME",
            "file: size 6 instead of 3",
            "folder: TIME",
            "odd/disk: folder instead of block device",
            "odd/empty: mode 711 instead of 4711",
            "odd/fifo: owner 1000:0 instead of 0:0",
            "odd/hard link: hard links 1 instead of 2",
            "odd/link: TIME",
            r"odd/link: target elsewhere instead of no such\nfile",
            "odd/link: extended attribute trusted.x is missing",
            r"odd/new\nline: it is missing",
            "odd/null: TIME",
            "odd/null: device 1:5 instead of 1:3",
            "plain: hard links 1 instead of 2",
            "shared: extended attribute user.more is not in the snapshot",
            "sparse: its data differs",
        ]
        # Whether the mode of that file changes together with the list is the kernel's business.
        found, wanted = ([each for each in lines if "acl: mode" not in each] for lines in (found, wanted))
        self.assertEqual(found, [f"{usb} {name}: {each}" for each in wanted])
        self.assertIn(f"error: {usb}: FAILED, compared 1 backup", result.err)

    def test_the_newest_or_all(self) -> None:
        source, usb, old = self.pair()
        self.backup("-q", source, usb)
        tamper(usb / old, lambda backup: (backup / "file").unlink())
        self.verify(source, usb)
        result = self.backup("--verify=all", source, usb, status=10)
        self.assert_differences(result, usb, old, "file: it is missing")
        self.assertIn("compared 2 backups", result.err)

    def test_folder_that_btrfs_leaves(self) -> None:
        """What btrfs send does not get right is told; a full backup is right."""
        source, usb = self.source(), self.disk("usb").path
        for number in range(50):
            sh("btrfs", "subvolume", "create", source.parent / f"{number}")
        (source / "outer").mkdir()
        sh("btrfs", "subvolume", "create", source / "outer" / "inner")
        self.backup("-q", source, usb)
        sh("btrfs", "subvolume", "delete", source / "outer" / "inner")
        (source / "outer").rmdir()
        self.backup("-q", source, usb)
        result = self.verify(source, usb, status=10)
        self.assertRegex(
            result.out, r"^\S+ \S+: o\d+-\d+-0: it is not in the snapshot, .*; btrfs left an empty folder\n$"
        )
        self.backup("-q", "-I", source, usb)
        self.verify(source, usb)

    def test_differences_come_before_their_summary(self) -> None:
        """Where both go to one place, as in the mail of cron."""
        source, usb, name = self.pair()
        tamper(usb / name, lambda backup: (backup / "file").unlink())
        process = self.start("--verify", source, usb, stderr=subprocess.STDOUT)
        out, _ = process.communicate(timeout=60)
        difference, summary = out.splitlines()[-2:]
        self.assertEqual(difference, f"{usb} {name}: file: it is missing")
        self.assertIn("FAILED, compared 1 backup", summary)

    def test_disk_that_lost_data(self) -> None:
        """btrfs notices by its checksums; the path is told, and what the kernel says."""
        source, disk = self.source(), self.disk("usb")
        pattern = os.urandom(64 << 10)
        (source / "precious").write_bytes(pattern)
        self.backup("-q", source, disk.path)
        [name] = names(disk.path)
        disk.unmount()
        image = disk.image.read_bytes()
        position = image.index(pattern[:4096])
        with disk.image.open("r+b") as file:
            file.seek(position + 100)
            file.write(b"rotten")
        disk.mount()
        result = self.verify(source, disk.path, status=10)
        self.assert_differences(result, disk.path, name, "precious: its data could not be read in the backup")
        self.assertIn(f"error: {disk.path}: cannot read all of '{disk.path}/{name}': find: ", result.err)
        self.assertIn("precious: Input/output error", result.err)
        self.assertIn("btrfs device stats", result.err)

    def test_rewritten_by_hand(self) -> None:
        """It has lost its identity and is no backup any more; the one before it is verified."""
        source, usb, old = self.pair()
        self.backup("-q", source, usb)
        new = names(usb)[1]
        sh("btrfs", "property", "set", "-f", "-ts", usb / new, "ro", "false")
        (usb / new / "file").write_text("two")
        sh("btrfs", "property", "set", "-ts", usb / new, "ro", "true")
        result = self.verify(source, usb, status=10)
        self.assertIn(
            f"error: {usb}: {new} is not the backup of the snapshot of that name: it is read-only and", result.err
        )
        self.assertIn(f"FAILED, compared 1 backup ({old})", result.err)
        self.assertEqual(result.out, "")


class Places(VerifyTest):
    def test_destinations_fail_alone(self) -> None:
        source, usb, name = self.pair()
        other = usb.parent / "other"
        other.mkdir()
        (other / "file").write_text("")
        self.backup("-q", "-S", source, usb.parent / "bad")
        tamper(usb.parent / "bad" / name, lambda backup: (backup / "file").unlink())
        places = [usb.parent / "bad", "/proc", other / "none", other, other / "file", usb, "shell://false"]
        result = self.verify(source, *places, status=10)
        self.assert_differences(result, usb.parent / "bad", name, "file: it is missing")
        for line in (
            "error: /proc: it is not on btrfs but on proc",
            f"error: {other}/none: it does not exist",
            f"error: {other}: there is no backup of a snapshot that the source still has",
            f"error: {other}/file: it is not a folder",
            "warning: shell://false: not verified: what a shell command did with the streams cannot be read",
        ):
            self.assertIn(line, result.err)
        self.assertRegex(result.err, rf"\n{usb}: compared 1 backup \({name}\): 3 files with .*, no difference\n")
        self.assertFalse((other / "none").exists())

    def test_parts_of_backups(self) -> None:
        """The one before is compared, and that is not enough."""
        source, usb, name = self.pair()
        self.backup("-q", source)
        part = names(source / "snapshot")[1]
        attempt = usb / f".{part}.receiving" / "host-1-0123abcd"
        attempt.mkdir(parents=True)
        sh("btrfs", "subvolume", "create", attempt / part)
        result = self.verify(source, usb, status=10)
        self.assertIn(
            f"{part} is newer than what is compared, and no backup: it is a transfer that was cut", result.err
        )
        self.assertIn(f"compared 1 backup ({name})", result.err)
        self.assertTrue((attempt / part).exists())

    def test_the_newest_backup_is_gone(self) -> None:
        source, usb, name = self.pair()
        self.backup("-q", source, usb)
        newest = names(usb)[-1]
        sh("btrfs", "subvolume", "delete", usb / newest)
        result = self.verify(source, usb, status=10)
        self.assertIn(f"{newest} is newer than what is compared, and no backup: it is not there", result.err)
        self.assertIn(f"compared 1 backup ({name})", result.err)

    def test_a_snapshot_that_nobody_has_sent(self) -> None:
        source, usb, _ = self.pair()
        self.backup("-q", source)
        self.verify(source, usb)

    def test_bad_sources(self) -> None:
        source, usb, _ = self.pair()
        for arguments, words in (
            ((source.parent / "nope",), "does not exist"),
            ((source / "folder",), "is not a btrfs subvolume"),
            (("-f", "elsewhere", source), "the snapshot folder"),
            (("-f", "/sys/fs", source), "The snapshot folder: see the option '-f'."),
        ):
            result = self.verify(*arguments, usb, status=1)
            self.assertIn(words, result.err)
        self.assertFalse((source / "elsewhere").exists())
        result = self.verify("-p", "other-", source, usb, status=10)
        self.assertIn("there is no backup of a snapshot that the source still has", result.err)

    def test_nobody_reads_what_is_printed(self) -> None:
        source, usb, name = self.pair()
        tamper(usb / name, lambda backup: (backup / "file").unlink())
        with open("/dev/full", "w") as full:
            result = self.verify(source, usb, status=10, stdout=full)
        self.assertIn("error: cannot print on the standard output: No space left on device", result.err)

    def test_an_absent_disk(self) -> None:
        """It is told from a wrong place, and skipped, as in a run."""
        source, usb, name = self.pair()
        away = self.disk("away")
        self.backup("-q", source, away.path)
        away.unmount()
        self.assertIn("FAILED", self.verify(source, usb, away.path, status=10).err)
        err = self.verify("--skip-absent-dests", source, usb, away.path).err
        self.assertIn(f"{away.path}: skipped: the disk is absent: the folder is on ", err)
        self.assertIn(f"\n{away.path}: absent, compared nothing\n", err)
        self.assertIn(f"{usb}: compared 1 backup ({name})", err)
        self.verify("--skip-absent-dests", source, usb.parent / "none", status=10)
        (source / "snapshot" / OUTSTANDING).write_text("{")
        err = self.verify("--skip-absent-dests", source, usb, away.path, status=10).err
        self.assertIn("is broken", err)
        self.assertIn(f"{usb}: compared 1 backup ({name})", err)

    def test_state_files_do_not_matter(self) -> None:
        """They only tell what should be there; no lock is needed."""
        source, usb, _ = self.pair()
        (source / "snapshot" / OUTSTANDING).write_text("{")
        descriptor = os.open(source / "snapshot", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.verify(source, usb)


class Meanwhile(VerifyTest):
    def tools(self, script: str) -> dict[str, str]:
        """An environment in which sha256sum is that shell script, with the real one in $REAL."""
        return with_program(self.folder / "tools", "sha256sum", script)

    def test_backup_or_snapshot_that_is_deleted_while_it_is_read(self) -> None:
        """That is said plainly, instead of a flood of differences; the others are compared."""
        source, usb, old = self.pair()
        self.backup("-q", source, usb, usb.parent / "2")
        for folder in (usb, source / "snapshot"):
            with self.subTest(folder):
                self.backup("-q", source, usb, usb.parent / "2")
                gone = folder / names(usb)[-1]
                delete = f'case "$*" in *{gone}/*) btrfs subvolume delete -c {gone} >&2;; esac\nexec $REAL "$@"'
                result = self.backup("--verify=all", source, usb, usb.parent / "2", status=10, env=self.tools(delete))
                place = usb if folder == usb else source
                self.assertIn(f"error: {place}: {gone.name} was deleted while it was compared", result.err)
                self.assertEqual(result.out, "")
                self.assertEqual(result.err.count("error: "), 2, result)
                self.assertRegex(result.err, rf"{usb}: .*compared \d backups \({old}.*, no difference")
                self.assertRegex(result.err, rf"{usb.parent / '2'}: compared \d backups \(.*, no difference")

    def test_signal(self) -> None:
        source, usb, _ = self.pair()
        command = self.start("--verify", source, usb, env=self.tools("exec sleep 60"))
        finds = wait_for(lambda: [pid for pid in children_of(command.pid) if children_of(pid)])
        sleeping = [each for pid in finds for each in children_of(pid)]
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=20)
        self.assertEqual((command.returncode, out), (128 + signal.SIGTERM, ""))
        self.assertIn("error: ended by SIGTERM\n", err)
        self.assertNotIn("outstanding", err)
        wait_for(lambda: not any(is_running(pid) for pid in (*finds, *sleeping)))

    def test_killed(self) -> None:
        """Nothing goes on reading, though what reads a large file would not notice for hours that nobody listens."""
        source, usb = self.source(), self.disk("usb").path
        os.truncate(source / "file", 1 << 40)  # bytes, nearly all of them holes
        self.backup("-q", source, usb)
        command = self.start("--verify", source, usb)
        reading = wait_for(lambda: readers_of(command.pid, 2))
        command.kill()
        command.communicate(timeout=20)
        wait_for(lambda: not any(map(is_running, reading)))

    def test_progress_on_a_terminal(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 6)
        self.backup("-q", source, usb)
        for options, shown in (((), True), (("-P",), False), (("-q",), False)):
            screen = self.on_terminal("--verify", *options, source, usb, env=self.tools('$REAL "$@"; sleep 0.5'))
            lines = re.findall(r"\r\x1b\[\?7l([^\x1b]*comparing [^\x1b]*)\x1b\[\?7h\x1b\[J", screen)
            self.assertEqual(bool(lines), shown, screen)
            for line in lines if shown else []:
                read = r"\d+ % of 6.3 MB, [\d.]+ [kM]?B/s(, \d:\d\d left)?: comparing \S+, \d of 4 files"
                self.assertRegex(line, rf"^({read}|comparing \S+, listed \d+ entries)$")
            if shown:
                self.assertTrue(any(re.match("99 % of 6.3 MB, .*, 4 of 4 files$", line) for line in lines), lines)
                self.assertRegex(screen, rf"\r\x1b\[J\S*{usb}: compared ")

    def on_terminal(self, *arguments: object, env: dict[str, str]) -> str:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.update(env, TERM="xterm", PYTHONPATH=str(TOP))
            os.execv(sys.executable, [sys.executable, "-m", "btrfs_backup", *map(str, arguments)])
        screen = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                screen += os.read(terminal, 65536)
            except OSError:
                break
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, screen)
        return screen.decode()


@unittest.skipUnless(shutil.which("getfattr"), "needs root, and getfattr (attr)")
class OverSsh(SshTest, VerifyTest):
    def test_push_pull_and_relay(self) -> None:
        """With everything that a filesystem can hold, under a path that is odd, too."""
        server, pool, nas = self.sshd(), self.disk("pool").path, self.disk("nas").path / "n\n$as' \\0\"%P"
        source = self.subvolume(pool / os.fsdecode(b"h o'me \\0 %s \xff"))
        furnish(source)
        url = server.url
        self.backup("-q", source, nas)
        [name] = names(nas)
        for arguments in ((source, f"{url}{nas}"), (f"{url}{source}", nas), (f"{url}{source}", f"{url}{nas}")):
            with self.subTest(arguments):
                result = self.verify(*server.arguments(), *arguments)
                self.assertRegex(result.err, r"compared 1 backup \(\S+\): 1\d files with 5.\d MB, no difference\n")
                self.assertNotIn("warning", result.err)

        def change(backup: Path) -> None:
            (backup / "odd" / os.fsdecode(ODD_NAMES[1])).unlink()
            os.removexattr(backup / "capable", "security.capability")
            os.setxattr(os.path.join(os.fsencode(backup), b"odd", ODD_NAMES[0]), "user.x", b"")
            os.utime(backup / "odd", ns=(1, 1))

        tamper(nas / name, change)
        results = []
        for arguments in ((source, nas), (source, f"{url}{nas}"), (f"{url}{source}", nas)):
            result = self.verify(*server.arguments(), *arguments, status=10)
            results.append([line.partition(f" {name}: ")[2] for line in result.out.splitlines()])
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])
        self.assertIn("capable: extended attribute security.capability is missing", results[0])
        self.assertIn(r"odd/new\nline: extended attribute user.x is not in the snapshot", results[0])
        self.assertEqual(len(results[0]), 4, results[0])

    def test_trips_do_not_depend_on_how_much_there_is(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        counts = []
        for more in (0, 800):
            for number in range(more):
                (source / f"{number:0100}").touch()
            self.backup("-q", source, nas)
            result = self.verify("-v", "debug", *server.arguments(), source, f"{server.url}{nas}")
            counts.append(result.err.count("debug: running: ssh"))
        self.assertEqual(counts[0], counts[1])
        result = self.backup("--verify=all", "-v", "debug", *server.arguments(), source, f"{server.url}{nas}")
        self.assertEqual(result.err.count("debug: running: ssh") - counts[0], 3)

    def test_sudo_and_login_shells(self) -> None:
        """The rule that is there for backups is enough."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        furnish(source)
        self.backup("-q", source, nas)
        self.user("/bin/sh")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        url = server.url.replace("//", f"//{self.login}@")
        for shell in filter(None, map(shutil.which, ("sh", "tcsh", "fish"))):
            with self.subTest(shell):
                sh("usermod", "-s", shell, self.login)
                result = self.verify("--ssh-sudo", *server.arguments(), source, f"{url}{nas}")
                self.assertIn("no difference", result.err)
                self.assertNotIn("warning", result.err)
        result = self.verify(*server.arguments(), source, f"{url}{nas}", status=10)
        self.assertIn("Log in there as root (ssh://root@...), or use '--ssh-sudo'.", result.err)

    def test_killed(self) -> None:
        """Nothing goes on reading on the other side, either, under sudo or not."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        os.truncate(source / "file", 1 << 40)  # bytes, nearly all of them holes
        self.backup("-q", source, nas)
        self.user("/bin/sh")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        for options, url in (((), server.url), (("--ssh-sudo",), server.url.replace("//", f"//{self.login}@"))):
            with self.subTest(options):
                command = self.start("--verify", *options, *server.arguments(), source, f"{url}{nas}")
                reading = [*wait_for(lambda: readers_of(server.process.pid, 1)), *below(command.pid)]
                command.kill()
                command.communicate(timeout=20)
                wait_for(lambda reading=reading: not any(map(is_running, reading)))


@unittest.skipUnless(shutil.which("getfattr"), "needs root, and getfattr (attr)")
class OtherSide(SshTest, VerifyTest):
    def setUp(self) -> None:
        super().setUp()
        self.source_, self.nas = self.source(), self.disk("nas").path
        self.backup("-q", self.source_, self.nas)
        self.path = self.tools("btrfs", "bash", "sh", "cat", "find", "readlink", "stat", "sha256sum", "getfattr", "sed")
        self.server = self.sshd(path=self.path)
        self.url = f"{self.server.url}{self.nas}"
        [self.name] = names(self.nas)

    def replace(self, name: str, script: str) -> None:
        """Have the program NAME there be that shell SCRIPT."""
        make_program(self.path, name, script)

    def check(self, status: int) -> Result:
        return self.verify(*self.server.arguments(), self.source_, self.url, status=status)

    def test_missing_or_poor_tools(self) -> None:
        self.check(0)
        (self.path / "getfattr").unlink()
        result = self.check(0)
        self.assertEqual(result.err.count("warning: no suitable program 'getfattr' on 127.0.0.1"), 1)
        (self.path / "sha256sum").unlink()
        result = self.check(10)
        self.assertRegex(
            result.err, rf"{self.url}: cannot read '{self.nas}/{self.name}': find on 127.0.0.1: .*sha256sum"
        )
        self.assertIn("sha256sum and stat of GNU coreutils", result.err)
        self.assertEqual(result.out, "")
        busybox = shutil.which("busybox")
        if not busybox:
            self.skipTest("needs busybox")
        for program in ("sha256sum", "find"):
            self.replace(program, f'exec {busybox} {program} "$@"')
            result = self.check(10)
            self.assertIn("find of GNU findutils", result.err)
            self.assertEqual(result.out, "")

    def test_lying_sha256sum(self) -> None:
        self.replace("sha256sum", f'"$REAL" "$@" | sed -z \'s/^.\\{{64\\}}/{"0" * 64}/\'')
        result = self.check(10)
        self.assertIn(f"{self.url} {self.name}: file: its data differs\n", result.out)
        self.replace("sha256sum", "exit 0")
        result = self.check(10)
        self.assertIn(f"{self.url} {self.name}: file: its data could not be read in the backup\n", result.out)
        self.replace("sha256sum", "echo Welcome")
        result = self.check(10)
        self.assertIn("cannot understand what 'find on 127.0.0.1' printed: 'Welcome", result.err)
        self.assertEqual(result.out, "")

    def test_talkative_login_shell(self) -> None:
        self.replace("find", 'case "$*" in *printf*) echo Welcome;; esac; exec "$REAL" "$@"')
        result = self.check(10)
        self.assertIn("cannot understand what 'find on 127.0.0.1' printed: 'Welcome", result.err)
        self.assertEqual(result.out, "")

    def test_connection_that_breaks(self) -> None:
        """The other destinations are verified."""
        usb, begun = self.disk("usb").path, self.folder / "begun"
        self.backup("-q", self.source_, self.nas, usb)
        self.replace("sha256sum", f"echo > {begun}; exec {shutil.which('sleep')} 5")
        command = self.start("--verify=all", *self.server.arguments(), self.source_, self.url, usb)
        wait_for(begun.exists)
        self.server.drop_connections()
        out, err = command.communicate(timeout=60)
        self.assertEqual((command.returncode, out), (10, ""), err)
        self.assertIn(f"error: {self.url}: cannot read '{self.nas}/{self.name}': find on 127.0.0.1: ", err)
        self.assertIn("The connection broke; run it again.", err)
        self.assertIn(f"error: {self.url}: FAILED, compared nothing", err)
        self.assertRegex(untimed(err), rf"\n{usb}: compared 2 backups \(.*, no difference\n")
