"""Awkward paths, mounts and names."""

import os
import subprocess
import sys
from pathlib import Path

from tests.real.machine import COMPLETED, TOP, Disk, RealTest, names, on_record, sh, shares
from tests.real.sshd import SshTest


class Paths(RealTest):
    def check(self, source: Path, destination: Path, *options: object) -> None:
        """Two backups, the second incremental, the third with nothing older than it kept."""
        self.backup(*options, source, destination)
        (source / "file").write_text("two")
        result = self.backup(*options, source, destination)
        self.assertNotIn("in full", result.err)
        self.backup("-N", "2", "-n", "2", *options, source, destination)
        self.assertEqual(len(names(destination)), 2)
        self.assert_complete(destination, source / "snapshot", names(source / "snapshot"))

    def test_awkward_names(self) -> None:
        for name in ('it\'s  "quoted"', "-größe\tx-日本", "a$b;c#d?e%f!\\s\\040"):
            with self.subTest(name):
                self.setUp()
                self.check(self.source(f"pool {name}", name), self.disk(f"usb {name}").path / name / "x")

    def test_newlines_everywhere(self) -> None:
        self.check(self.source("po\nol", "ho\nme"), self.disk("us\nb").path / "back\nups")

    def test_bytes_that_are_no_utf_8(self) -> None:
        name = os.fsdecode(b"\xff\xfe")
        self.check(self.source("pool", name), self.disk("usb").path / name)

    def test_leading_dash_and_relative_paths(self) -> None:
        source, usb = self.source("pool", "-home"), self.disk("usb").path
        self.backup("-f", "-snap", "-p=-x", "-home", usb, status=2, cwd=source.parent)
        self.backup("--snapshot-folder=-snap", "--snapshot-prefix=-x", "--", "-home", "../usb/-b", cwd=source.parent)
        self.assert_complete(usb / "-b", source / "-snap", names(source / "-snap"))
        self.assertTrue(names(usb / "-b")[0].startswith("-x2"))

    def test_symbolic_links(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        (self.folder / "home").symlink_to(source)
        (self.folder / "backups").symlink_to(usb)
        self.check(self.folder / "home", self.folder / "backups")

    def test_trailing_slashes_and_dots_are_one_destination(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        result = self.backup(f"{source}/", usb, f"{usb}/", f"{usb}/x/..", f"{usb}//.")
        self.assertEqual(result.err.count("sent 1 snapshot"), 1)
        self.backup(source, usb)
        self.assertEqual(len(names(usb)), 2)


class Mounts(RealTest):
    def mounted(self, point: str, *mount: object) -> Path:
        path = self.folder / point
        path.mkdir()
        sh("mount", *mount, path)
        self.addCleanup(sh, "umount", path)
        return path

    def test_subvol_mounts(self) -> None:
        """Source and destination are mounted by `subvol=`, and the destination lies deeper in that subvolume."""
        pool, disk = self.disk("pool").path, self.disk("usb").path
        self.subvolume(pool / "@home")
        sh("btrfs", "subvolume", "create", disk / "@backups")
        devices = {path: sh("findmnt", "-n", "-o", "SOURCE", path).strip() for path in (pool, disk)}
        home = self.mounted("home dir", "-o", "subvol=@home", devices[pool])
        backups = self.mounted("my backups", "-o", "subvol=@backups", devices[disk]) / "of home"
        for _ in range(3):
            result = self.backup("-N", "2", "-n", "2", home, backups)
        self.assertIn("on top of", result.err)
        self.assert_complete(backups, home / "snapshot", names(home / "snapshot"))

    def test_bind_mount_of_a_plain_folder(self) -> None:
        """`btrfs receive` finds no parent through it: it is said what to do, and the backup is full."""
        source, usb = self.source(), self.disk("usb").path
        (usb / "deep" / "er").mkdir(parents=True)
        point = self.mounted("point", "--bind", usb / "deep")
        self.backup(source, point / "er")
        result = self.backup(source, point / "er")
        self.assertIn("Increments need a mount of a subvolume, not a bind mount of a folder; or '-I'.", result.err)
        result = self.backup("-I", source, point / "er")
        self.assertNotIn("warning", result.err)
        self.assert_complete(usb / "deep" / "er", source / "snapshot", names(source / "snapshot"))

    def test_flat_layout(self) -> None:
        """Source and snapshots are siblings on the top of the filesystem; another mount's point is a prefix."""
        pool, usb = self.disk("home2").path, self.disk("usb").path
        self.mounted("home", "-t", "tmpfs", "none")
        source = self.subvolume(pool / "@")
        for _ in range(2):
            self.backup("-f", pool, "-p", "root-", source, usb)
        self.assertEqual(len(names(usb)), 2)
        self.assertTrue(shares(usb / names(usb)[1], usb / names(usb)[0]))

    def test_source_is_the_top_of_the_filesystem(self) -> None:
        pool, usb = self.disk("pool").path, self.disk("usb").path
        (pool / "file").write_text("one")
        for _ in range(2):
            self.backup(pool, usb)
        self.assert_complete(usb, pool / "snapshot", names(pool / "snapshot"))


class ForeignNames(RealTest):
    def test_newlines_and_imitated_rows(self) -> None:
        """A foreign subvolume whose name looks like a row of `btrfs subvolume list` cannot speak for ours."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        [name] = names(usb)
        row = (
            "x\nID 999 gen 9 top level 5 parent_uuid -                                    received_uuid "
            f"{'0' * 8}-0000-0000-0000-{'0' * 12} uuid {'1' * 8}-1111-1111-1111-{'1' * 12} path "
        )
        for foreign in ("new\nline", row + "20260101-000000", "20260101-000000\n", "ID 5 gen 5 top level 5 path x"):
            sh("btrfs", "subvolume", "create", usb / foreign)
        result = self.backup("-n", "1", source, usb)
        self.assertIn(f"on top of {name}", result.err)
        self.assertEqual(len(names(usb)), 5)
        sh("btrfs", "subvolume", "create", usb / (row + names(source / "snapshot")[1]))
        result = self.backup("-n", "1", source, usb, status=10)
        self.assertIn("does not show it once", result.err)
        self.assertEqual(len(names(usb)), 6)

    def test_nothing_below_foreign_folders_is_looked_at(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb / "a")
        self.backup(source, usb)
        self.backup("-n", "1", source, usb)
        self.assertEqual(len(names(usb / "a")), 1)
        self.assertEqual(len(names(usb)), 2)


class Automount(RealTest):
    """Nothing is mounted there before it is used; to look at it is not to use it."""

    def automount(self, point: Path, image: Path | str) -> None:
        point.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.real.automount", str(point), str(image)]
        daemon = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=TOP, start_new_session=True)
        assert daemon.stdout
        self.addCleanup(daemon.stdout.close)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        for _ in range(2):
            self.addCleanup(sh, "umount", "-l", point, check=False)
        self.assertEqual(daemon.stdout.readline(), b"ready\n")

    def idle(self, disk: Disk) -> None:
        disk.unmount()
        self.automount(disk.path, disk.image)

    def test_destination_source_and_snapshot_folder(self) -> None:
        pool, usb = self.disk("pool"), self.disk("usb")
        self.subvolume(pool.path / "home")
        self.idle(usb)
        self.backup(pool.path / "home", usb.path)
        sh("umount", usb.path)
        self.backup("--skip-absent-dests", pool.path / "home", usb.path)
        self.assertEqual(len(names(usb.path)), 2)
        # The top of a filesystem, with its snapshots elsewhere on it.
        (pool.path / "snapshots").mkdir()
        self.idle(pool)
        self.backup("-f", pool.path / "snapshots", pool.path, usb.path / "top")
        [name] = names(usb.path / "top")
        self.assertEqual(names(pool.path / "snapshots"), [name])

    def test_restore(self) -> None:
        source, usb = self.source(), self.disk("usb")
        self.backup(source, usb.path)
        self.idle(usb)
        self.backup("--restore", usb.path, source.parent / "restored")
        self.assertEqual((source.parent / "restored" / "file").read_text(), "one")

    def test_what_cannot_be_mounted_is_absent(self) -> None:
        source = self.source()
        self.automount(self.folder / "usb", "")
        result = self.backup("--skip-absent-dests", source, self.folder / "usb")
        self.assertIn("skipped: the disk is absent: nothing could be mounted when the folder was used", result.err)


class OtherMounts(SshTest):
    def test_a_covered_one_is_none_of_our_business(self) -> None:
        """It makes `btrfs filesystem show` fail for all others."""
        covered = self.folder / "covered"
        covered.mkdir()
        Disk(self.folder, covered / "other", 120)
        source, usb = self.source(), self.disk("usb").path
        self.addCleanup(sh, "umount", covered / "other")
        sh("mount", "-t", "tmpfs", "none", covered)
        self.addCleanup(sh, "umount", covered)
        server = self.sshd()
        there = server.url + str(usb)
        self.backup(*server.arguments(), source, there)
        self.backup(source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        known = on_record(source / "snapshot", COMPLETED)
        uuid = sh("findmnt", "-n", "-o", "UUID", usb).strip()
        self.assertEqual([list(known[there]), list(known[str(usb)])], [[uuid], [uuid]])

    def test_one_below_that_of_the_destination(self) -> None:
        source = self.source()
        below = self.folder / "mnt" / "usb"
        below.mkdir(parents=True)
        sh("mount", "-t", "tmpfs", "none", below)
        self.addCleanup(sh, "umount", below)
        usb = Disk(self.folder, self.folder / "mnt", 120)
        self.addCleanup(usb.unmount)
        (usb.path / "usb").mkdir()
        result = self.backup("--dry-run", source, usb.path / "usb")
        self.assertIn("in full", result.out)
