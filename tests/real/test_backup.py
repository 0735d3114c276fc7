"""Backups to local destinations, as users run them."""

import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

from tests.real.machine import (
    COMPLETED,
    LOCK,
    OUTSTANDING,
    RealTest,
    is_readonly,
    kill,
    lying_btrfs,
    names,
    on_record,
    path_with,
    sh,
    shares,
    show,
    wait_for,
    with_program,
)


class FirstBackups(RealTest):
    def test_full_then_incremental(self) -> None:
        source, usb = self.source(), self.disk("usb").path / "new" / "backups"
        first = self.backup(source, usb)
        self.assertIn("in full", first.err)
        (source / "file").write_text("two")
        second = self.backup(source, usb)
        old, new = names(usb)
        self.assertIn(f"on top of {old}", second.err)
        self.assertTrue(shares(usb / new, usb / old))
        self.assertEqual((usb / new / "file").read_text(), "two")
        self.assert_complete(usb, source / "snapshot", [old, new])
        self.assertEqual(on_record(source / "snapshot"), {})
        self.assertEqual((first.out, second.out), ("", ""))

    def test_few_processes_when_there_is_nothing_to_do(self) -> None:
        """However many snapshots there are; with this one and the one that watches over the others it is seven."""
        source, usb = self.source(), self.disk("usb").path
        (source / "snapshot").mkdir()
        for day, more in ((1, 3), (2, 60)):
            for number in range(more):
                name = f"2026010{day}-1200{number:02}"
                sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / name)
            self.backup("-S", source, usb)
            result = self.backup("-S", "-v", "debug", source, usb)
            self.assertEqual(result.err.count("debug: running: "), 5, result)

    def test_several_destinations_and_a_late_one(self) -> None:
        source = self.source()
        usb, nas, late = (self.disk(name).path for name in ("usb", "nas", "late"))
        self.backup(source, usb, nas)
        self.backup(source, usb, nas)
        result = self.backup(source, usb, nas, late)
        taken = names(source / "snapshot")
        for destination in (usb, nas, late):
            self.assert_complete(destination, source / "snapshot", taken)
            self.assertIn(f"{destination}: sent", result.err.splitlines()[-1 - [late, nas, usb].index(destination)])
        for parent, name in pairwise(taken):
            self.assertRegex(result.err, rf"{late}: (sending|sent) {name} on top of {parent}[:\n]")
            self.assertTrue(shares(late / name, late / parent))

    def test_two_runs_in_one_second(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for _ in range(3):
            self.backup(source, usb)
        self.assertEqual(len(set(names(usb))), 3)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_quiet_run_prints_nothing(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for arguments in (["-q", source, usb], ["-q", "-N", "1", "-n", "1", "-s", source, usb]):
            result = self.backup(*arguments)
            self.assertEqual((result.out, result.err), ("", ""))

    def test_without_destination_snapshots_are_taken_and_pruned(self) -> None:
        source = self.source()
        for _ in range(3):
            self.backup("--latest-only", source)
        self.assertEqual(len(names(source / "snapshot")), 1)
        self.assertTrue(is_readonly(source / "snapshot" / names(source / "snapshot")[0]))

    def test_snapshot_or_transfer_alone(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup("-T", source, usb)
        self.assertEqual(names(usb), [])
        self.backup("-S", source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(len(names(usb)), 1)

    def test_no_incremental(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        result = self.backup("-I", source, usb)
        self.assertIn(f"sending {names(usb)[1]} in full, because of '-I'\n", result.err)
        self.assertNotIn("on top of", result.err)
        self.assertIn(" in full, because of '-I': ", self.backup("--dry-run", "-I", source, usb).out)
        self.assertFalse(shares(*(usb / name for name in names(usb))))
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_btrfs_debug_is_logged(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        result = self.backup("-d", source, usb)
        self.assertRegex(result.err, r"btrfs send: .*\n")
        self.assertRegex(result.err, r"btrfs receive: .*mkfile|btrfs receive: .*utimes")

    def test_wait_until_deleted_subvolumes_are_gone(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        self.backup("-s", "-N", "1", "-n", "1", source, usb)
        for disk in (source.parent, usb):
            self.assertEqual(sh("btrfs", "subvolume", "list", "-d", disk), "")

    def test_convert_rw(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        self.backup("-w", "-N", "1", "-n", "1", source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(len(names(usb)), 1)

    def test_argument_file(self) -> None:
        source, usb = self.source(), self.disk("us b").path
        (self.folder / "more").write_text(f"  # where to\n\n  {usb}\n")
        (self.folder / "args").write_text(f"{source}\n\t-p  home \n--snapshot-folder=my snaps\n@more\n")
        self.backup(f"@{self.folder}/args", cwd="/")
        self.assert_complete(usb, source / "my snaps", names(source / "my snaps"))
        self.assertTrue(names(usb)[0].startswith("home2"))


class Retention(RealTest):
    def test_both_sides(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for _ in range(4):
            self.backup("-N", "3", "-n", "2", source, usb)
        taken = names(source / "snapshot")
        self.assertEqual(len(taken), 3)
        self.assert_complete(usb, source / "snapshot", taken[1:])

    def test_what_would_be_deleted_again_is_not_sent(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for _ in range(4):
            self.backup(source)
        self.backup("-n", "2", source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot")[-2:])

    def test_prefixes_share_folders(self) -> None:
        pool, usb = self.disk("pool").path, self.disk("usb").path
        home, home2 = self.subvolume(pool / "home"), self.subvolume(pool / "home2")
        (home2 / "file").write_text("of home2")
        snapshots = pool / "snaps"
        for _ in range(3):
            for source in (home, home2):
                self.backup("-f", snapshots, "-p", source.name, "-N", "2", "-n", "2", source, usb)
        taken = names(snapshots)
        self.assertEqual(len([name for name in taken if name.startswith("home2-") or name[4:6] == "22"]), 2)
        self.assertEqual(len(taken), 4)
        self.assert_complete(usb, snapshots, taken)
        for name in taken:
            expected = home2 if name.startswith("home22") else home
            self.assertEqual(show(snapshots / name)["Parent UUID"], show(expected)["UUID"])

    def test_foreign_things_survive(self) -> None:
        """Files, folders, writable and unreceived subvolumes under our names, and other names."""
        source, usb = self.source(), self.disk("usb").path
        foreign = ["20010101-000000", "20010102-000000", "20010103-000000", "20010104-000000", "notes", "homex"]
        (usb / foreign[0]).write_text("a file")
        (usb / foreign[1]).mkdir()
        sh("btrfs", "subvolume", "create", usb / foreign[2])
        sh("btrfs", "subvolume", "snapshot", "-r", usb / foreign[2], usb / foreign[3])
        (usb / foreign[4]).mkdir()
        sh("btrfs", "subvolume", "create", usb / foreign[5])
        snapshots = source / "snapshot"
        snapshots.mkdir()
        sh("btrfs", "subvolume", "snapshot", source, snapshots / foreign[0])
        (snapshots / foreign[1]).mkdir()
        for _ in range(3):
            result = self.backup("-N", "1", "-n", "1", source, usb)
        self.assertLessEqual(set(foreign), set(names(usb)))
        self.assertEqual(len(names(usb)), len(foreign) + 1)
        self.assertLessEqual(set(foreign[:2]), set(names(snapshots)))
        for name in foreign[:2]:
            self.assertIn(f": leaving {name} alone: it is ", result.err)

    def test_occupied_name_fails_and_is_left_alone(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        occupied = names(source / "snapshot")[0]
        (usb / occupied).mkdir()
        (usb / occupied / "mine").write_text("precious")
        result = self.backup(source, usb, status=10)
        self.assertIn(f"cannot send {occupied}", result.err)
        self.assertIn("in the way", result.err)
        self.assertEqual((usb / occupied / "mine").read_text(), "precious")
        newest = names(source / "snapshot")[-1]
        self.assert_same(usb / newest, source / "snapshot" / newest)
        # Nothing of it was begun there, and yet it has to wait at the source.
        self.assertEqual(on_record(source / "snapshot"), {})
        [known] = on_record(source / "snapshot", COMPLETED)[str(usb)].values()
        self.assertEqual(known["blocked"], [occupied])
        self.assertIn(occupied, self.backup("-q", "-N", "1", source, usb, status=10).err)
        self.assertIn(occupied, names(source / "snapshot"))
        (usb / occupied).rename(usb / "mine")
        self.backup(source, usb)
        self.assertIn(occupied, names(usb))
        self.assertEqual(on_record(source / "snapshot"), {})
        [known] = on_record(source / "snapshot", COMPLETED)[str(usb)].values()
        self.assertNotIn("blocked", known)

    def test_same_names_of_another_source(self) -> None:
        """A backup of another subvolume under the name that has to be sent is neither parent nor deleted."""
        source, usb = self.source(), self.disk("usb").path
        other = self.source("other")
        self.backup(source, usb)
        name = names(usb)[0]
        (other / "snapshot").mkdir()
        sh("btrfs", "subvolume", "snapshot", "-r", other, other / "snapshot" / name)
        result = self.backup("-n", "2", other, usb, status=10)
        self.assertIn("is a copy of another snapshot", result.err)
        self.assertIn("in full", result.err)
        self.assertEqual(show(usb / name)["Received UUID"], show(source / "snapshot" / name)["UUID"])

    def test_deleted_subvolumes_are_waited_for(self) -> None:
        """Not for half a minute, whoever commits the deletion."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        lies = 'filesystem\\ sync*) [ -e "$here/seen" ] || { >"$here/seen"; exit; };;'
        began = time.monotonic()
        self.backup("-s", "-n", "1", source, usb, env=path_with(lying_btrfs(self.folder / "lies", lies)))
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(len(names(usb)), 1)
        self.assertEqual(sh("btrfs", "subvolume", "list", "-d", usb), "")

    def test_several_are_deleted_at_once(self) -> None:
        """None waits for the commit of another, which would take half a minute."""
        source, usb = self.source(), self.disk("usb").path
        for _ in range(4):
            self.backup("-q", source)
        self.backup(source, usb)
        began = time.monotonic()
        self.backup("-S", "-N", "1", "-n", "1", source, usb)
        self.assertLess(time.monotonic() - began, 15)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(len(names(usb)), 1)

    def test_a_deletion_that_fails(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        self.backup(source, usb)
        oldest = names(usb)[0]
        sh("btrfs", "subvolume", "set-default", show(usb / oldest)["Subvolume ID"], usb)
        result = self.backup("-n", "1", source, usb, status=10)
        self.assertIn(f"{usb}: 1 deletion failed: cannot delete '{usb}/{oldest}': ", result.err)
        self.assertEqual(len(names(usb)), 2)
        self.assertIn(oldest, names(usb))

    def test_last_delivered_to_a_disk_that_is_away_stays(self) -> None:
        source, usb, nas = self.source(), self.disk("usb"), self.disk("nas").path
        self.backup(source, usb.path / "b", nas)
        delivered = names(source / "snapshot")[0]
        for _ in range(3):
            self.backup("-N", "1", "-n", "1", source, nas)
        self.assertEqual(names(source / "snapshot")[0], delivered)
        self.assertEqual(len(names(source / "snapshot")), 2)
        result = self.backup("-N", "1", source, usb.path / "b")
        self.assertIn(f"on top of {delivered}", result.err)

    def test_swapped_disks_at_one_mount_point(self) -> None:
        """Each disk gets increments on top of what it got last."""
        source = self.source()
        disks = [self.disk("one"), self.disk("two")]
        point = self.folder / "usb"
        point.mkdir()
        for turn in range(6):
            sh("mount", "--bind", disks[turn % 2].path, point)
            self.addCleanup(sh, "umount", "-q", point, check=False)
            try:
                result = self.backup("-N", "1", source, point)
            finally:
                sh("umount", point)
            self.assertEqual("in full" in result.err, turn < 2, result)
        seen = on_record(source / "snapshot", COMPLETED)[str(point)]
        self.assertEqual(sorted(name for its in seen.values() for name in its["newest"]), names(source / "snapshot"))


class Records(RealTest):
    def test_locked_dests_and_remove_locks(self) -> None:
        source, usb = self.source(), self.disk("usb").path / "backups"
        away = self.disk("away")
        gone = away.path
        self.backup(source, usb, gone)
        away.unmount()
        sh("mount", "-t", "tmpfs", "none", gone)
        self.addCleanup(sh, "umount", gone)
        self.backup(source, usb, gone, status=10)
        record = source / "snapshot" / OUTSTANDING
        owed = names(usb)[1]
        self.assertEqual(on_record(record.parent), {owed: {"locks": [str(gone)]}})
        result = self.backup("-S", "--locked-dests", source, status=10)
        self.assertIn(f"{gone}: FAILED", result.err)
        # The documented way to forget, with a trailing slash in what is typed.
        self.backup("-S", "-T", "--remove-locks", source, f"{gone}/")
        self.assertEqual(on_record(record.parent), {})
        self.assertIn(str(usb), on_record(source / "snapshot", COMPLETED))
        self.backup("-S", "-T", "--remove-locks", source, f"{usb}/")
        # What is left says that no older version has left anything there.
        disks = on_record(source / "snapshot", COMPLETED).values()
        self.assertEqual([list(each.values()) for each in disks], [[{}], [{}]])

    def test_locked_dests_that_make_no_sense(self) -> None:
        """They are reported, and the others are served."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        [name] = names(source / "snapshot")
        record = {name: {"locks": ["ftp://x/y", "/\ud800", "ssh://nas/b", str(usb)]}}
        (source / "snapshot" / OUTSTANDING).write_text(json.dumps(record))
        result = self.backup("-S", "--locked-dests", source, status=10)
        self.assertIn("'ftp://' is not known", result.err)
        self.assertEqual(names(usb), [name])
        left = on_record(source / "snapshot")[name]["locks"]
        self.assertEqual(left, ["/\ud800", "ftp://x/y", "ssh://nas/b"])

    def test_a_destination_that_stays_away_does_not_pile_up_snapshots(self) -> None:
        source, disk = self.source(), self.disk("usb")
        missing = disk.path
        self.backup(source, missing)
        delivered = names(source / "snapshot")
        disk.unmount()
        for _ in range(5):
            self.backup("-N", "1", source, missing, status=10)
        taken = names(source / "snapshot")
        self.assertEqual((len(taken), taken[:1]), (3, delivered))
        record = on_record(source / "snapshot")
        self.assertEqual(record, {name: {"locks": [str(missing)]} for name in taken[1:]})
        self.assertEqual(list(missing.iterdir()), [])

    def test_a_destination_that_never_was_there_is_not_recorded(self) -> None:
        source, missing = self.source(), self.folder / "missing"
        for _ in range(3):
            self.backup("-N", "1", source, missing, status=10)
        self.assertEqual(len(names(source / "snapshot")), 1)
        self.assertFalse(missing.exists())
        self.assertFalse((source / "snapshot" / OUTSTANDING).exists())

    def test_folder_of_0_3_1_carries_on_and_its_cut_off_transfer_heals(self) -> None:
        """Snapshots, a backup, a partial one and the lock file just as 0.3.1 leaves them when it is killed."""
        source, usb = self.source(), self.disk("usb").path
        snapshots = source / "snaps"
        snapshots.mkdir()
        for name in ("home20261123-235603", "home20261123-235606"):
            sh("btrfs", "subvolume", "snapshot", "-r", source, snapshots / name)
        stream = self.folder / "stream"
        sh("btrfs", "send", "-f", stream, snapshots / "home20261123-235603")
        sh("btrfs", "receive", "-f", stream, usb)
        sh("btrfs", "subvolume", "create", usb / "home20261123-235606")
        (usb / "home20261123-235606" / "half").write_text("of it")
        old = {
            "home20261123-235603": {"parent_locks": [str(usb)]},
            "home20261123-235606": {"locks": [str(usb)]},
        }
        (snapshots / OUTSTANDING).write_text(json.dumps(old, indent=4))
        os.chmod(snapshots / OUTSTANDING, 0o640)
        result = self.backup("-f", "snaps", "-p", "home", "-N", "2", "-n", "2", source, usb)
        self.assertIn("deleting home20261123-235606", result.err)
        self.assertNotIn("in full", result.err)
        self.assert_complete(usb, snapshots, names(snapshots))
        self.assertEqual(on_record(snapshots), {})
        self.assertEqual((snapshots / OUTSTANDING).stat().st_mode & 0o777, 0o640)


class Refusals(RealTest):
    """Nothing is created, the status is right, and the message helps."""

    def refused(self, *arguments: object, status: int, says: str) -> None:
        result = self.backup(*arguments, status=status)
        self.assertIn(says, result.err)
        self.assertEqual(result.out, "")

    def test_bad_sources(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.refused(source.parent / "nope", usb, status=1, says=f"the source '{source.parent}/nope' does not exist")
        self.refused(source / "folder", usb, status=1, says="is not a btrfs subvolume")
        self.refused(source / "file", usb, status=1, says="is not a btrfs subvolume")
        self.refused("/proc", usb, status=1, says="the source '/proc' is not on btrfs but on proc")
        self.refused("-S", source, usb, status=1, says=f"the snapshot folder '{source}/snapshot' does not exist")
        self.refused("-f", "file", source, usb, status=1, says=f"the snapshot folder '{source}/file' is not a folder")
        self.refused(source, source / "snapshot", status=2, says="is the snapshot folder")
        self.assertEqual(names(usb), [])
        self.assertEqual(names(source), ["file", "folder", "link"])
        self.assertFalse((source.parent / "nope").exists())

    def test_bad_destinations(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        (usb / "file").write_text("")
        self.refused(source, usb / "file", status=10, says="it is not a folder")
        self.refused(source, "/proc/x", status=10, says="would be on proc instead of btrfs")
        self.refused(source, "/proc/x", usb / "good", status=10, says="sent 3 snapshots (")
        self.assertEqual(len(names(usb / "good")), 3)

    def test_missing_program(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        tools = self.folder / "tools"
        tools.mkdir()
        for name in ("stat", "readlink", "find", "mkdir"):
            (tools / name).symlink_to(f"/usr/bin/{name}")
        result = self.backup(source, usb, status=1, env={"PATH": str(tools)})
        self.assertIn("Install the package btrfs-progs", result.err)
        self.assertEqual(names(usb), [])

    def test_nothing_could_be_done_at_all(self) -> None:
        """No snapshot can be taken, and there is none: as for a user without the rights."""
        source, usb = self.source(), self.disk("usb").path
        refusing = with_program(self.folder / "tools", "btrfs", "echo 'ERROR: Operation not permitted' >&2; exit 1")
        result = self.backup(source, usb, status=1, env=refusing)
        self.assertIn("btrfs subvolume snapshot: ERROR: Operation not permitted", result.err)
        self.assertIn(f"error: there is no snapshot in '{source}/snapshot' either\n", result.err)
        # We are root.
        self.assertNotIn("Run it as root", result.err)
        self.assertEqual(names(usb), [])

    def test_absent_disk(self) -> None:
        """What the state file knows on another filesystem is not written to the root filesystem."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        record = source / "snapshot" / COMPLETED
        known = on_record(record.parent, COMPLETED)
        [delivered] = known[str(usb)].values()
        record.write_text(json.dumps({"/root/no-such-disk/backups": {"0000": delivered}}))
        result = self.backup("-S", source, "/root/no-such-disk/backups", status=10)
        # The root filesystem of a test machine may or may not be btrfs.
        self.assertRegex(result.err, "the disk is absent|not on btrfs")
        self.assertFalse(Path("/root/no-such-disk").exists())

    def test_a_snapshot_name_in_the_future(self) -> None:
        source = self.source()
        (source / "snapshot").mkdir()
        sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / "29991231-235959")
        result = self.backup(source)
        self.assertIn("29991231-235959 lies in the future: is the clock right?", result.err)
        taken, future = names(source / "snapshot")
        self.assertLess(taken, "2900")
        self.assertEqual(future, "29991231-235959")


class RunLock(RealTest):
    def test_second_run_says_who_is_in_the_way(self) -> None:
        source = self.source()
        folder = source / "snapshot"
        folder.mkdir()
        (folder / LOCK).touch()
        holder = self.start_holder(folder / LOCK)
        result = self.backup(source, status=3)
        self.assertIn(f"process {holder}", result.err)
        self.assertIn("sleep 60", result.err)
        self.assertEqual(names(folder), [])
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        self.backup(source)

    def start_holder(self, locked: Path) -> int:
        ready = self.folder / "ready"
        pid = os.posix_spawnp(
            "flock", ["flock", "-F", str(locked), "sh", "-c", 'touch "$0"; exec sleep 60', str(ready)], os.environ
        )
        self.addCleanup(kill, pid)
        wait_for(ready.exists)
        return pid
