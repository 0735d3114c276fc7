"""Disks that fail, fill up, turn read-only, lose power or vanish in mid-run. Nothing is lost, the next run heals it.

A disk fails here because its image lies on an ext4 that is shut down under it (FS_IOC_SHUTDOWN): from then on all
reading and writing is an I/O error, and what was not flushed is gone, as when it is pulled out or power fails. That
needs no device-mapper, which many kernels of virtual machines do not have.
"""

import fcntl
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.real.machine import (
    COMPLETED,
    OUTSTANDING,
    Disk,
    RealTest,
    Result,
    being_received,
    child_running,
    is_readonly,
    kill,
    names,
    on_record,
    random_file,
    sh,
    show,
    staged,
    tree,
    wait_for,
    with_program,
)

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_AT_ONCE = 2  # without writing out anything


class MortalDisk(Disk):
    """A disk that can be made to fail at once, and to come back with what had been flushed until then."""

    def __init__(self, folder: Path, path: Path, megabytes: int) -> None:
        self.below = folder / f"below-{path.name}"
        self.below.mkdir()
        self._lower_image = folder / f"below-{path.name}.img"
        with self._lower_image.open("wb") as image:
            image.truncate(2 * megabytes << 20)
        sh("mkfs.ext4", "-q", "-F", self._lower_image)
        sh("mount", "-o", "loop", self._lower_image, self.below)
        super().__init__(self.below, path, megabytes)

    def die(self) -> None:
        descriptor = os.open(self.below, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _AT_ONCE.to_bytes(4, "little"))
        finally:
            os.close(descriptor)

    def come_back(self) -> None:
        self.detach()
        sh("mount", "-o", "loop", self._lower_image, self.below)
        self.mount()

    def detach(self) -> None:
        self.unmount()
        # The loop device may let go a little later.
        wait_for(lambda: not os.path.ismount(self.below) or sh("sh", "-c", f"umount {self.below} 2>&1 || :") == "", 60)


class DiskTest(RealTest):
    def mortal_disk(self, name: str, megabytes: int = 400) -> MortalDisk:
        disk = MortalDisk(self.folder, self.folder / name, megabytes)
        self.addCleanup(disk.detach)
        return disk

    def assert_healed(self, source: Path, *destinations: Path) -> None:
        """One ordinary run, and all is well; there may be older backups than snapshots."""
        self.backup("-q", source, *destinations)
        for destination in destinations:
            self.assertLessEqual(set(names(source / "snapshot")), set(names(destination)))
            for name in names(source / "snapshot"):
                self.assertEqual(show(destination / name)["Received UUID"], show(source / "snapshot" / name)["UUID"])
                self.assert_same(destination / name, source / "snapshot" / name)
        self.assertEqual(on_record(source / "snapshot"), {})

    def under_way(self, source: Path, *destinations: Path, rate: str = "1G") -> "subprocess.Popen[str]":
        """A run whose transfer has begun to arrive at the first of DESTINATIONS."""
        command = self.start("--rate-limit", rate, source, *destinations)
        wait_for(lambda: staged(destinations[0]))
        return command

    def finished(self, command: "subprocess.Popen[str]") -> Result:
        out, err = command.communicate(timeout=60)
        self.assertNotIn("Traceback", err)
        return Result(command.returncode, out, err)


class PowerCut(DiskTest):
    """`btrfs receive` marks a backup complete while its files are still in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.original = self.source()
        self.usb = self.mortal_disk("usb")
        self.backup("-q", self.original, self.usb.path)
        for number in range(100):
            (self.original / "folder" / f"{number}").write_bytes(os.urandom(30_000))
        random_file(self.original / "large", 20)

    def test_right_after_a_good_run(self) -> None:
        """What a run calls sent is on the disk."""
        self.backup(self.original, self.usb.path)
        self.usb.die()
        self.usb.come_back()
        self.assertEqual(on_record(self.original / "snapshot"), {})
        taken = names(self.original / "snapshot")
        self.assertEqual(names(self.usb.path), taken)
        for name in taken:
            self.assert_same(self.usb.path / name, self.original / "snapshot" / name)
        # That its stage was removed may not be.
        self.backup("-q", "-S", self.original, self.usb.path)
        self.assert_complete(self.usb.path, self.original / "snapshot", taken)

    def test_after_a_run_that_was_killed_before_it_knew(self) -> None:
        """The next one finds the backup complete; before it says so, that has to be on the disk, too."""
        killed = with_program(self.folder / "tools", "sync", "kill -9 $PPID; exit 1")
        result = self.run_command(self.original, self.usb.path, env=killed)
        self.assertEqual(result.status, -signal.SIGKILL, result)
        newest = names(self.original / "snapshot")[-1]
        self.assertIn(newest, on_record(self.original / "snapshot"))
        self.backup("-S", self.original, self.usb.path)
        self.assertEqual(on_record(self.original / "snapshot"), {})
        self.usb.die()
        self.usb.come_back()
        self.assert_same(self.usb.path / newest, self.original / "snapshot" / newest)

    def test_what_cannot_be_written_out_was_not_sent(self) -> None:
        script = 'echo "sync: error syncing: Input/output error" >&2; exit 1'
        failing = with_program(self.folder / "tools", "sync", script)
        result = self.backup(self.original, self.usb.path, status=10, env=failing)
        self.assertIn("cannot write out the filesystem: sync: error syncing: Input/output error", result.err)
        newest = names(self.original / "snapshot")[-1]
        self.assertEqual(on_record(self.original / "snapshot")[newest], {"locks": [str(self.usb.path)]})
        self.assert_healed(self.original, self.usb.path)

    def test_pulled_out_after_a_run_that_was_killed(self) -> None:
        """The machine has been up all the time, and all the same the backup looks complete and lacks data."""
        killed = with_program(self.folder / "tools", "sync", "kill -9 $PPID; exit 1")
        result = self.run_command(self.original, self.usb.path, env=killed)
        self.assertEqual(result.status, -signal.SIGKILL, result)
        self.usb.die()
        self.usb.come_back()
        newest = names(self.original / "snapshot")[-1]
        part = staged(self.usb.path)[0]
        self.assertEqual(show(part)["Received UUID"], show(self.original / "snapshot" / newest)["UUID"])
        self.assertTrue(is_readonly(part))
        self.assertNotIn(newest, names(self.usb.path))
        self.assert_healed(self.original, self.usb.path)

    def test_mounted_anew_in_the_middle(self) -> None:
        """The lock of the stage keeps the old mounting, which cannot be written out any more: nothing is believed."""
        script = (
            f'case $* in receive*) $REAL "$@"; touch {self.folder}/received; sleep 2; exit ;; esac; exec $REAL "$@"'
        )
        command = self.start(self.original, self.usb.path, env=with_program(self.folder / "tools", "btrfs", script))
        wait_for(lambda: (self.folder / "received").exists())
        self.usb.die()
        self.usb.come_back()
        result = self.finished(command)
        self.assertEqual(result.status, 10, result)
        self.assertRegex(
            result.err, "cannot write out the filesystem: sync: |cannot publish the backup .*Input.output error"
        )
        self.assertIn(f"{self.usb.path}: FAILED, sent nothing", result.err)
        self.assert_healed(self.original, self.usb.path)


class Holey(DiskTest):
    """A disk that takes what btrfs writes about files, and not what is in them."""

    def setUp(self) -> None:
        super().setUp()
        self.usb = self.folder / "usb"
        lower = self.folder / "lower"
        lower.mkdir()
        sh("mount", "-t", "tmpfs", "-o", "size=400M", "none", lower)
        self.addCleanup(sh, "umount", lower)
        disk = Disk(lower, self.usb, 350, solid=True)
        self.addCleanup(disk.unmount)
        # Behind the first chunks, of 8 MiB of data and twice 32 MiB of metadata, come further ones for data.
        sh("fallocate", "--punch-hole", "--offset", str(101 << 20), "--length", str(249 << 20), disk.image)
        self.filler = lower / "filler"
        self.fill()
        self.original = self.source()
        random_file(self.original / "large", 30)

    def fill(self) -> None:
        with self.filler.open("wb") as filler, suppress(OSError):
            while True:
                filler.write(bytes(1 << 20))
                filler.flush()

    def test_what_was_not_written_was_not_sent(self) -> None:
        """`btrfs filesystem sync` is content with it."""
        result = self.backup(self.original, self.usb, status=10)
        self.assertIn("cannot write out the filesystem: sync: error syncing", result.err)
        self.filler.unlink()
        self.assert_healed(self.original, self.usb)

    def test_nor_when_a_run_was_killed(self) -> None:
        """The kernel tells once, and the run that asked does not hear it."""
        killed = with_program(self.folder / "tools", "sync", 'kill -9 $PPID; exec $REAL "$@"')
        self.assertEqual(self.run_command(self.original, self.usb, env=killed).status, -signal.SIGKILL)
        self.filler.unlink()
        # What was written out later may fail as well, and the next run is told of that.
        self.assertIn(self.run_command(self.original, self.usb).status, (0, 10))
        self.assert_healed(self.original, self.usb)

    def test_two_folders_on_it(self) -> None:
        """The kernel tells one of those that ask for them."""
        a, b = self.usb / "a", self.usb / "b"
        result = self.backup(self.original, a, b, status=10)
        for each in (a, b):
            self.assertIn(f"{each}: FAILED", result.err)
        self.filler.unlink()
        self.assert_healed(self.original, a, b)

    def test_while_the_stream_comes(self) -> None:
        """What was told to an earlier attempt to write counts at the end. Another disk is served."""
        nas = self.disk("nas").path
        random_file(self.original / "large", 140)
        result = self.backup(self.original, self.usb, nas, status=10)
        self.assertIn("cannot write out the filesystem: sync: error syncing", result.err)
        self.assertIn(f"{self.usb}: FAILED (disk full), sent nothing", result.err)
        self.assert_complete(nas, self.original / "snapshot", names(self.original / "snapshot"))

    def test_restore(self) -> None:
        nas = self.disk("nas").path
        self.backup(self.original, nas)
        result = self.backup("--restore", nas, self.usb / "home", status=1)
        self.assertIn("cannot write out the filesystem: sync: error syncing", result.err)
        self.assertEqual(names(self.usb), [])


class Dying(DiskTest):
    def test_destination(self) -> None:
        """The other one is served; what had been delivered before is still there."""
        source, usb, nas = self.source(), self.mortal_disk("usb"), self.disk("nas", 400).path
        self.backup("-q", source, usb.path, nas)
        random_file(source / "large", 60)
        command = self.under_way(source, usb.path, nas)
        usb.die()
        result = self.finished(command)
        self.assertEqual(result.status, 10, result)
        self.assertRegex(result.err, f"error: {usb.path}: sending .*(Input/output error|Read-only file system)")
        self.assertIn(f"{usb.path}: FAILED", result.err)
        taken = names(source / "snapshot")
        self.assert_complete(nas, source / "snapshot", taken)
        # A run while it is dead: refused, and the others are served.
        result = self.backup("-N", "1", source, usb.path, nas, status=10)
        self.assertIn(f"{usb.path}: FAILED, sent nothing", result.err)
        self.assertLessEqual(set(taken), set(names(source / "snapshot")))
        usb.come_back()
        self.assert_same(usb.path / taken[0], source / "snapshot" / taken[0])
        self.assert_healed(source, usb.path, nas)

    def test_source(self) -> None:
        """What was sent is no backup when its source gave up in the middle."""
        pool, usb = self.mortal_disk("pool"), self.disk("usb", 400).path
        source = self.subvolume(pool.path / "home")
        self.backup("-q", source, usb)
        random_file(source / "large", 60)
        # Read from the disk, not from memory.
        pool.unmount()
        pool.mount()
        command = self.under_way(source, usb)
        pool.die()
        result = self.finished(command)
        self.assertEqual(result.status, 10, result)
        self.assertIn("btrfs send: ERROR: send ioctl failed with -5: Input/output error", result.err)
        self.assertEqual(len(names(usb)), 1)
        pool.come_back()
        self.assert_healed(source, usb)

    def test_source_with_a_bad_block(self) -> None:
        """Found by its checksum. Nothing broken arrives, however often it is tried; the older backups stay."""
        pool, usb = self.disk("pool"), self.disk("usb").path
        source = self.subvolume(pool.path / "home")
        self.backup("-q", source, usb)
        marker = b"the data that gets lost " * 1000
        (source / "large").write_bytes(marker)
        sh("sync", "-f", source)
        pool.unmount()
        image = pool.image.read_bytes()
        with pool.image.open("r+b") as file:
            file.seek(image.index(marker))
            file.write(b"X")
        pool.mount()
        old = names(usb)
        for _ in range(2):
            result = self.backup("-N", "1", "-n", "1", source, usb, status=10)
            self.assertIn("btrfs send: ERROR: send ioctl failed with -5: Input/output error", result.err)
            self.assertIn("btrfs device stats", result.err)
            self.assertEqual(names(usb), old)
        self.assertIn(old[0], names(source / "snapshot"))

    def test_unmounted_in_the_middle(self) -> None:
        """What arrives then is not seen; nothing is written to the empty mount point."""
        source, disk = self.source(), self.disk("usb", 400)
        usb = disk.path / "backups"
        self.backup("-q", source, usb)
        random_file(source / "large", 60)
        command = self.under_way(source, usb)
        sh("umount", "-l", disk.path)
        result = self.finished(command)
        self.assertEqual(result.status, 10, result)
        self.assertIn(f"{usb}: FAILED", result.err)
        self.assertEqual(list(disk.path.iterdir()), [])
        disk.mount()
        self.assert_healed(source, usb)


class TurnedReadOnly(DiskTest):
    def test_destination_in_mid_transfer(self) -> None:
        source, usb, nas = self.source(), self.disk("usb").path, self.disk("nas").path
        # A disk on which a file is open for writing cannot be made read-only: let nothing but folders be sent.
        (source.parent / "snapshots").mkdir()
        (source / "snapshot").symlink_to(source.parent / "snapshots")
        self.backup("-q", source, usb, nas)
        for number in range(2000):
            (source / "folder" / f"{number}").mkdir()
        command = self.under_way(source, usb, nas, rate="400k")
        receive = wait_for(lambda: child_running(command.pid, "btrfs", "receive"))

        def turned() -> bool:
            kill(receive, signal.SIGSTOP)
            said = sh("sh", "-c", f"mount -o remount,ro {usb} 2>&1 || :")
            kill(receive, signal.SIGCONT)
            return not said

        wait_for(turned)
        result = self.finished(command)
        self.assertEqual(result.status, 10, result)
        self.assertRegex(result.err, f"error: {usb}: sending .*Read-only file system\n  Is it mounted read-only")
        self.assertIn(f"{usb}: FAILED (read-only)", result.err)
        self.assertNotIn(f"{nas}: FAILED", result.err)
        old, new = names(source / "snapshot")
        self.assertEqual(names(usb), [old])
        self.assertEqual(being_received(usb), [new])
        self.assertEqual(
            on_record(source / "snapshot"), {old: {"parent_locks": [str(usb)]}, new: {"locks": [str(usb)]}}
        )
        sh("mount", "-o", "remount,rw", usb)
        self.assert_healed(source, usb, nas)

    def test_destination_through_a_read_only_bind_mount(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        point = self.folder / "point"
        point.mkdir()
        sh("mount", "--bind", usb, point)
        self.addCleanup(sh, "umount", point)
        sh("mount", "-o", "remount,bind,ro", point)
        for destination in (point, point / "new"):
            result = self.backup("-n", "1", source, destination, status=10)
            self.assertIn("Read-only file system", result.err)
            self.assertIn("Is it mounted read-only", result.err)
            self.assertIn(f"{destination}: FAILED (read-only)", result.err)
        self.assertEqual(names(usb), [])

    def test_source(self) -> None:
        """Perhaps the kernel made it so because the disk fails: what is there is sent, though it cannot be recorded."""
        source, usb, nas = self.source(), self.disk("usb").path, self.disk("nas").path
        self.backup("-q", source, usb)
        self.backup("-q", source)
        record = (source / "snapshot" / OUTSTANDING).read_text()
        sh("mount", "-o", "remount,ro", source.parent)
        result = self.backup("-N", "1", source, usb, nas, status=10)
        self.assertRegex(result.err, "cannot take the snapshot .*Read-only file system")
        self.assertRegex(result.err, f"cannot write '.*/snapshot/({COMPLETED}|{OUTSTANDING})': Read-only file")
        self.assertNotIn("full", result.err.replace("in full", ""))
        self.assertIn(f"{source}: FAILED (read-only), took no snapshot", result.err)
        self.assertIn(f"{usb}: sent 1 snapshot (1 incremental", result.err)
        self.assertIn(f"{nas}: sent 2 snapshots", result.err)
        taken = names(source / "snapshot")
        self.assertEqual(len(taken), 2)
        for destination in (usb, nas):
            self.assert_complete(destination, source / "snapshot", taken)
        # Nothing is left to send, but what has arrived is still not on record.
        result = self.backup("-S", source, usb, nas, status=10)
        self.assertRegex(result.err, f"cannot write '.*/snapshot/({COMPLETED}|{OUTSTANDING})': Read-only file")
        self.assertIn(f"{usb}: sent nothing, 2 backups there", result.err)
        self.assertEqual((source / "snapshot" / OUTSTANDING).read_text(), record)
        sh("mount", "-o", "remount,rw", source.parent)
        self.assert_healed(source, usb, nas)


class Full(DiskTest):
    def test_destination_is_pruned_and_takes_the_next_backup(self) -> None:
        """What is not to be kept goes although nothing could be sent; so the next run has room."""
        source, disk = self.source(), self.disk("usb", 150)
        random_file(source / "large", 40)
        self.backup("-q", source, disk.path)
        random_file(source / "large", 40)
        self.backup("-q", source, disk.path)
        disk.fill()
        random_file(source / "large", 30)
        result = self.backup("-n", "1", source, disk.path, status=10)
        self.assertIn(f"{disk.path}: cannot make the stage '", result.err)
        self.assertIn("No space left on device", result.err)
        self.assertIn("\n  The disk is full", result.err)
        self.assertIn(f"{disk.path}: FAILED (disk full), sent nothing, 1 outstanding", result.err)
        self.assertIn("deleted 1 backup", result.err)
        old, new = names(source / "snapshot")[1:]
        self.assertEqual(names(disk.path), [old, "filler"])
        self.assertEqual(on_record(source / "snapshot")[new], {"locks": [str(disk.path)]})
        self.backup("-n", "1", source, disk.path)
        self.assertEqual(names(disk.path)[1:], ["filler"])
        self.assert_same(disk.path / names(disk.path)[0], source / "snapshot" / names(disk.path)[0])

    def test_partial_is_gone_and_its_space_free_when_the_run_ends(self) -> None:
        source, disk = self.source(), self.disk("usb", 150)
        self.backup("-q", source, disk.path)
        held = tree(disk.path)
        random_file(source / "large", 160)
        result = self.backup(source, disk.path, status=10)
        self.assertIn("FAILED (disk full)", result.err)
        random_file(disk.path / "mine", 80)
        sh("sync", "-f", disk.path)
        (disk.path / "mine").unlink()
        self.assertEqual(tree(disk.path), held)

    def test_no_room_for_metadata(self) -> None:
        """All space is given to data, and what is left for everything else is used up by extended attributes."""
        source, usb = self.source(), self.folder / "usb"
        image = self.folder / "usb.img"
        with image.open("wb") as file:
            file.truncate(128 << 20)
        sh("mkfs.btrfs", "-q", "-f", "-m", "single", image)
        disk = self.disk("other")
        disk.unmount()
        disk.image, disk.path = image, usb
        disk.mount()
        self.backup("-q", source, usb)
        with (usb / "filler").open("wb", buffering=0) as filler:
            filler.write(bytes(96 << 20))
        for number in range(1200):
            (source / "folder" / f"{number}").touch()
            os.setxattr(source / "folder" / f"{number}", "user.large", os.urandom(15_000))
        result = self.backup(source, usb, status=10)
        self.assertIn("No space left on device", result.err)
        self.assertIn(f"{usb}: FAILED (disk full)", result.err)
        old = names(source / "snapshot")[0]
        self.assertEqual(names(usb), [old, "filler"])
        self.assert_same(usb / old, source / "snapshot" / old)
        sh("rm", "-r", *(source / "folder").iterdir())
        result = self.backup("-N", "1", "-n", "1", source, usb, status=10)
        self.assertIn(f"{usb}: FAILED (disk full)", result.err)

    def test_source_is_pruned_and_goes_on(self) -> None:
        """Old snapshots fill it up, and not even a record can be written: they go, and the next run is a good one."""
        disk, usb = self.disk("pool"), self.disk("usb", 400).path
        source = self.subvolume(disk.path / "home")
        for _ in range(2):
            random_file(source / "large", 60)
            self.backup("-q", source, usb)
        (source / "large").write_text("small")
        self.backup("-q", source, usb)
        (source / "file").write_text("new")
        # To be sure, all but the space of the snapshots is gone.
        filler = disk.fill()
        filler.rename(disk.path / "data")
        result = self.backup("-N", "1", source, usb, status=10)
        self.assertRegex(result.err, "No space left on device\n  The disk is full")
        self.assertIn("source: disk full", result.err)
        self.assertIn("deleted 2 snapshots", result.err)
        delivered = names(usb)[2]
        self.assertIn(delivered, names(source / "snapshot"))
        result = self.backup("-N", "1", source, usb)
        self.assertNotIn("in full", result.err)
        self.assert_healed(source, usb)


class OneFolder(DiskTest):
    def test_named_twice(self) -> None:
        """By different paths. It is served once."""
        source, usb = self.source(), self.disk("usb").path
        (self.folder / "link").symlink_to(usb)
        result = self.backup(source, usb, self.folder / "link", status=10)
        self.assertIn(f"it is the same folder as {usb}, by another path, and is not served twice", result.err)
        self.assertNotIn(f"error: {usb}:", result.err)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))


class NotPermitted(DiskTest):
    def test_immutable_folder(self) -> None:
        """Nothing can be made or deleted in it, not even by root."""
        source, usb = self.source(), self.disk("usb").path / "backups"
        for _ in range(2):
            self.backup("-q", source, usb)
        sh("chattr", "+i", usb)
        self.addCleanup(sh, "chattr", "-i", usb, check=False)
        held = names(usb)
        result = self.backup("-n", "1", source, usb, status=10)
        self.assertIn(f"cannot make the stage '{usb}/.", result.err)
        self.assertIn("Operation not permitted", result.err)
        self.assertIn("lsattr -d", result.err)
        self.assertIn("1 deletion failed", result.err)
        self.assertEqual(names(usb), held)
        sh("chattr", "-i", usb)
        self.assert_healed(source, usb)

    def test_immutable_snapshot_folder(self) -> None:
        """No snapshot can be taken and nothing can be recorded, so nothing is sent or deleted."""
        source, usb = self.source(), self.disk("usb").path
        self.backup("-q", source)
        folder = source / "snapshot"
        sh("chattr", "+i", folder)
        self.addCleanup(sh, "chattr", "-i", folder, check=False)
        result = self.backup("-N", "1", source, usb, status=10)
        self.assertIn("cannot take the snapshot", result.err)
        self.assertIn("cannot write", result.err)
        self.assertIn("lsattr -d", result.err)
        self.assertEqual((names(usb), len(names(folder))), ([], 1))
        sh("chattr", "-i", folder)
        self.assert_healed(source, usb)
