"""Disks that fail, fill up, turn read-only, lose power or vanish in mid-run. Nothing is lost, the next run heals it.

A disk fails here because its image lies on an ext4 that is shut down under it (FS_IOC_SHUTDOWN): from then on all
reading and writing is an I/O error, and what was not flushed is gone, as when it is pulled out or power fails. That
needs no device-mapper, which many kernels of virtual machines do not have.
"""

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path

from tests.real.liar import lying_btrfs, path_with
from tests.real.machine import (
    Disk,
    RealTest,
    Result,
    names,
    random_file,
    sh,
    show,
    wait_for,
)

OUTSTANDING = ".outstanding_transfers"
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
        wait_for(lambda: not os.path.ismount(self.below) or sh("sh", "-c", f"umount {self.below} 2>&1 || :") == "")


class DiskTest(RealTest):
    def mortal_disk(self, name: str, megabytes: int = 400) -> MortalDisk:
        disk = MortalDisk(self.folder, self.folder / name, megabytes)
        self.addCleanup(disk.detach)
        return disk

    def outstanding(self, source: Path) -> dict[str, dict[str, list[str]]]:
        record: dict[str, dict[str, list[str]]] = json.loads((source / "snapshot" / OUTSTANDING).read_text())
        return record

    def assert_healed(self, source: Path, *destinations: Path) -> None:
        """One ordinary run, and all is well; there may be older backups than snapshots."""
        self.backup("-q", source, *destinations)
        for destination in destinations:
            self.assertLessEqual(set(names(source / "snapshot")), set(names(destination)))
            for name in names(source / "snapshot"):
                self.assertEqual(show(destination / name)["Received UUID"], show(source / "snapshot" / name)["UUID"])
                self.assert_same(destination / name, source / "snapshot" / name)
        self.assertEqual(self.outstanding(source), {})

    def under_way(self, source: Path, *destinations: Path) -> "subprocess.Popen[str]":
        """A run whose transfer has begun to arrive at the first of DESTINATIONS."""
        before = len(names(destinations[0]))
        command = self.start(source, *destinations)
        wait_for(lambda: len(names(destinations[0])) > before)
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
        self.assertEqual(self.outstanding(self.original), {})
        self.assert_complete(self.usb.path, self.original / "snapshot", names(self.original / "snapshot"))

    def test_after_a_run_that_was_killed_before_it_knew(self) -> None:
        """The next one finds the backup complete; before it says so, that has to be on the disk, too."""
        lies = lying_btrfs(self.folder / "lies", '"filesystem sync"*) kill -9 $PPID; exit 1 ;;')
        result = self.run_command(self.original, self.usb.path, env=path_with(lies))
        self.assertEqual(result.status, -signal.SIGKILL, result)
        newest = names(self.original / "snapshot")[-1]
        self.assertIn(newest, self.outstanding(self.original))
        self.backup("-S", self.original, self.usb.path)
        self.assertEqual(self.outstanding(self.original), {})
        self.usb.die()
        self.usb.come_back()
        self.assert_same(self.usb.path / newest, self.original / "snapshot" / newest)

    def test_what_cannot_be_written_out_was_not_sent(self) -> None:
        lies = lying_btrfs(self.folder / "lies", '"filesystem sync"*) echo "ERROR: Input/output error" >&2; exit 1 ;;')
        result = self.backup(self.original, self.usb.path, status=10, env=path_with(lies))
        self.assertIn("btrfs filesystem sync: ERROR: Input/output error", result.err)
        newest = names(self.original / "snapshot")[-1]
        self.assertEqual(self.outstanding(self.original)[newest], {"locks": [str(self.usb.path)]})
        self.assert_healed(self.original, self.usb.path)


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
