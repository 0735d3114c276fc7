"""What must not keep backups from being complete: other runs, absent disks, unusable parents, suspended runs."""

import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

from tests.real.machine import (
    COMPLETED,
    LOCK,
    OUTSTANDING,
    TOP,
    Disk,
    RealTest,
    being_received,
    children_of,
    is_readonly,
    kill,
    lying_btrfs,
    names,
    on_record,
    path_with,
    random_file,
    sh,
    shares,
    show,
    staged,
    tree,
    wait_for,
    with_program,
)
from tests.real.sshd import SshTest


class Waiting(RealTest):
    def hold(self, source: Path) -> int:
        """Hold the run lock as another run does; the descriptor to close."""
        descriptor = os.open(source / "snapshot" / LOCK, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def test_the_lock_is_waited_for(self) -> None:
        source = self.source()
        self.backup(source)
        held = self.hold(source)
        waiting = self.start("--lock-wait", "60", source)
        assert waiting.stderr
        self.assertIn("waiting: another run works on the snapshot folder", waiting.stderr.readline())
        self.assertEqual(len(names(source / "snapshot")), 1)
        os.close(held)
        self.assertEqual(waiting.wait(20), 0)
        self.assertEqual(len(names(source / "snapshot")), 2)

    def test_it_is_not_waited_for_longer(self) -> None:
        source = self.source()
        self.backup(source)
        held = self.hold(source)
        self.addCleanup(os.close, held)
        began = time.monotonic()
        result = self.backup("--lock-wait", "0.7", source, status=3)
        self.assertGreater(time.monotonic() - began, 0.7)
        self.assertIn(f"process {os.getpid()} (", result.err)
        self.assertIn("--lock-wait", result.err)
        self.assertEqual(len(names(source / "snapshot")), 1)

    def test_a_signal_ends_the_waiting(self) -> None:
        source = self.source()
        self.backup(source)
        self.addCleanup(os.close, self.hold(source))
        waiting = self.start("--lock-wait", "60", source)
        assert waiting.stderr
        waiting.stderr.readline()
        waiting.terminate()
        self.assertEqual(waiting.wait(20), 128 + signal.SIGTERM)

    def test_prefixes_in_one_folder(self) -> None:
        """Whatever their prefixes, runs on one snapshot folder exclude each other: they share the state files."""
        source, usb = self.source(), self.disk("usb").path
        self.backup("-p", "a-", source, usb)
        runs = [self.start("--lock-wait", "60", "-p", prefix, source, usb) for prefix in ("a-", "b-", "c-")]
        self.assertEqual([run.wait(60) for run in runs], [0, 0, 0])
        self.assertEqual([name[:2] for name in names(usb)], ["a-", "a-", "b-", "c-"])
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(on_record(source / "snapshot"), {})
        delivered = on_record(source / "snapshot", COMPLETED)
        assert isinstance(delivered, dict)
        [known] = delivered[str(usb)].values()
        self.assertEqual([name[:2] for name in known["newest"]], ["a-", "b-", "c-"])


class RemoteWaiting(SshTest):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.sshd()

    def test_the_lock_of_a_remote_source_is_waited_for(self) -> None:
        source = self.source()
        self.backup(*self.server.arguments(), f"{self.server.url}{source}")
        held = os.open(source / "snapshot" / LOCK, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = self.start(*self.server.arguments(), "--lock-wait", "60", f"{self.server.url}{source}")
        assert waiting.stderr
        self.assertIn("waiting: another run works on the snapshot folder", waiting.stderr.readline())
        os.close(held)
        self.assertEqual(waiting.wait(20), 0)
        self.assertEqual(len(names(source / "snapshot")), 2)


class SwappedDisks(RealTest):
    def test_two_disks_at_one_mount_point(self) -> None:
        """Each gets an increment when it is back, although the source keeps but one snapshot otherwise."""
        source = self.source()
        one, two = self.disk("usb", 200), self.disk("other", 200)
        two.unmount()
        keep = ("-N", "1", "-n", "2")
        self.backup(*keep, source, one.path)
        on_one = names(source / "snapshot")[0]
        one.unmount()
        two.path = one.path
        two.mount()
        for _ in range(3):
            self.backup(*keep, source, one.path)
        # The last one that went to the first disk waits for it, and is named as the reason.
        self.assertEqual(names(source / "snapshot")[0], on_one)
        self.assertEqual(len(names(source / "snapshot")), 2)
        told = self.backup(*keep, "-v", "debug", source, one.path)
        self.assertRegex(told.err, rf"keeping {on_one}: last delivered to {one.path} \(filesystem [-0-9a-f]{{36}}\)")
        two.unmount()
        one.mount()
        back = self.backup(*keep, source, one.path)
        self.assertIn(f"on top of {on_one}", back.err)
        self.assertNotIn(on_one, names(source / "snapshot"))
        newest = names(source / "snapshot")[-1]
        self.assert_same(one.path / newest, source / "snapshot" / newest)

    def test_forgetting_a_disk_that_is_gone_for_good(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        gone = self.disk("gone")
        self.backup(source, usb, gone.path)
        [first] = names(source / "snapshot")
        gone.unmount()
        self.backup("-N", "1", source, usb)
        self.assertIn(first, names(source / "snapshot"))
        self.backup("-N", "1", "-S", "-T", "--remove-locks", source, gone.path)
        self.assertNotIn(first, names(source / "snapshot"))


class AbsentDisks(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home = self.source()
        self.usb = self.disk("usb")

    def test_the_empty_mount_point_is_absent(self) -> None:
        self.backup(self.home, self.usb.path)
        self.usb.unmount()
        result = self.backup(self.home, self.usb.path, status=10)
        self.assertIn("the disk is absent: the folder is on ", result.err)
        self.assertIn("Mount it.", result.err)
        self.assertEqual(list(self.usb.path.iterdir()), [])
        newest = names(self.home / "snapshot")[-1]
        self.assertEqual(on_record(self.home / "snapshot"), {newest: {"locks": [str(self.usb.path)]}})

    def test_skipped_it_is_no_failure(self) -> None:
        other = self.disk("other").path
        self.backup(self.home, self.usb.path, other)
        self.usb.unmount()
        result = self.backup("--skip-absent-dests", self.home, self.usb.path, other)
        self.assertIn(f"\n{self.usb.path}: skipped: the disk is absent", result.err)
        self.assertIn(f"{self.usb.path}: absent, 1 outstanding", result.err)
        self.assert_complete(other, self.home / "snapshot", names(self.home / "snapshot"))
        self.usb.mount()
        self.backup("--skip-absent-dests", self.home, self.usb.path, other)
        self.assert_complete(self.usb.path, self.home / "snapshot", names(self.home / "snapshot"))
        self.assertEqual(on_record(self.home / "snapshot"), {})

    def test_a_folder_that_never_was(self) -> None:
        """Somewhere else than on btrfs; a folder that is there and is not on btrfs is a mistake, though."""
        missing = Path("/proc/no-such-disk")
        self.backup(self.home, missing, status=10)
        result = self.backup("--skip-absent-dests", self.home, missing)
        self.assertIn(
            f"{missing}: skipped: the folder does not exist, and would be on proc instead of btrfs", result.err
        )
        self.backup("--skip-absent-dests", self.home, "/proc/sys", status=10)

    def test_a_full_or_broken_disk_is_not_absent(self) -> None:
        (self.usb.path / "file").write_text("")
        self.backup("--skip-absent-dests", self.home, self.usb.path / "file", status=10)


class AbsentHosts(SshTest):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.sshd()

    def test_a_host_that_is_down(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        url = f"{self.server.url}{usb}"
        self.backup(*self.server.arguments(), source, url)
        self.server.stop()
        self.backup(*self.server.arguments(), source, url, status=10)
        result = self.backup(*self.server.arguments(), "--skip-absent-dests", source, url)
        self.assertIn(f"\n{url}: skipped: cannot connect to ", result.err)
        self.assertIn("absent, 2 outstanding", result.err)

    def test_a_login_that_is_refused_is_a_failure(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        url = self.server.url.replace("ssh://", "ssh://nobody@") + str(usb)
        result = self.backup(*self.server.arguments(), "--skip-absent-dests", source, url, status=10)
        self.assertNotIn("skipped", result.err)


class Nested(RealTest):
    def test_nested_subvolumes_are_named_once(self) -> None:
        source = self.source()
        for name in ("a", "folder/b", "c", "d", "e"):
            sh("btrfs", "subvolume", "create", source / name)
        result = self.backup(source)
        told = "nested subvolumes are in no snapshot, and need backups of their own: a, c, d and 2 more"
        self.assertIn(f"warning: {source}: {told}", result.err)
        self.assertEqual(result.err.count("nested"), 1)

    def test_what_is_known_is_no_warning(self) -> None:
        """Or each quiet run would print it."""
        source = self.source()
        sh("btrfs", "subvolume", "create", source / "a")
        self.assertIn("nested", self.backup("-q", source).err)
        self.assertEqual(self.backup("-q", source).err, "")
        self.assertIn(f"\n{source}: nested subvolumes are in no snapshot", self.backup(source).err)
        sh("btrfs", "subvolume", "create", source / "folder/b")
        self.assertIn("nested subvolumes are in no snapshot", self.backup("-q", source).err)
        self.assertEqual(self.backup("-q", source).err, "")

    def test_snapshots_are_not(self) -> None:
        """Neither those of this run, nor others; also at the top of the filesystem."""
        source = self.source()
        self.backup(source)
        self.assertNotIn("nested", self.backup(source).err)
        self.assertNotIn("nested", self.backup("-f", source.parent / "elsewhere", source).err)
        self.assertIn("of their own: home\n", self.backup("-f", "kept", source.parent).err)

    def test_writable_ones_are_not(self) -> None:
        """They are named once, as what they are; beside them a subvolume of that name is somebody's data."""
        source = self.source()
        self.backup(source)
        [name] = names(source / "snapshot")
        sh("btrfs", "property", "set", "-ts", source / "snapshot" / name, "ro", "false")
        result = self.backup(source)
        self.assertIn(f"leaving {name} alone: it is writable", result.err)
        self.assertNotIn("nested", result.err)
        sh("btrfs", "subvolume", "create", source / name)
        self.assertIn(f"of their own: {name}\n", self.backup(source).err)


class Meddling(RealTest):
    def tools(self, script: str) -> dict[str, str]:
        """An environment with a `btrfs` that runs SCRIPT first; $* are its arguments."""
        return with_program(self.folder / "tools", "btrfs", f'{script}\nexec $REAL "$@"')


class Parents(Meddling):
    def test_a_full_transfer_when_no_parent_can_be_used(self) -> None:
        """Through a bind mount of a plain folder `btrfs receive` does not find the parent that is there."""
        source, usb = self.source(), self.disk("usb").path
        (usb / "folder").mkdir()
        bound = self.folder / "bound"
        bound.mkdir()
        sh("mount", "--bind", usb / "folder", bound)
        self.addCleanup(sh, "umount", bound)
        for _ in range(3):
            self.backup(source)
        taken = names(source / "snapshot")
        self.backup("-S", "-n", "1", source, bound)
        self.backup(source)
        result = self.backup("-S", source, bound)
        newest = names(source / "snapshot")[-1]
        self.assertIn(
            "not a bind mount of a folder; or '-I'.\n  Trying another parent, or a full transfer.", result.err
        )
        self.assertIn(f"{bound}: sending {newest} in full", result.err)
        self.assertFalse([line for line in result.err.splitlines() if "FAILED" in line])
        self.assertEqual(on_record(source / "snapshot"), {})
        self.assertIn(newest, names(bound))
        self.assertIn(taken[-1], names(bound))
        self.assert_complete(bound, source / "snapshot", names(source / "snapshot"))

    def test_the_next_better_parent(self) -> None:
        """One of two parents cannot be found there any more when the stream arrives."""
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 5)
        self.backup(source, usb)
        self.backup(source, usb)
        old, new = names(usb)
        away = f"btrfs subvolume delete {usb}/{new} >/dev/null 2>&1"
        env = self.tools(f'case "$1" in receive) PATH={os.environ["PATH"]} {away};; esac')
        result = self.backup(source, usb, env=env)
        newest = names(source / "snapshot")[-1]
        self.assertIn(f"sending {newest} on top of {new}", result.err)
        self.assertIn(f"sending {newest} on top of {old}", result.err)
        self.assertIn(f"{usb}: sent 1 snapshot (1 incremental, ", result.err)
        self.assertTrue(shares(usb / newest, usb / old))
        self.assert_same(usb / newest, source / "snapshot" / newest)
        self.assertEqual(on_record(source / "snapshot"), {})

    def test_other_failures_are_not_tried_again(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        env = self.tools('[ "$1" = receive ] && { cat >/dev/null; echo "ERROR: out of order" >&2; exit 1; }')
        result = self.backup(source, usb, status=10, env=env)
        self.assertEqual(result.err.count("on top of"), 1)
        self.assertNotIn("in full", result.err)


class OverlookedMounts(SshTest):
    def test_a_filesystem_is_asked_for_twice(self) -> None:
        """As `btrfs filesystem show` overlooks a mount when others come and go at that moment.

        It is asked on a machine that does not tell its filesystems otherwise.
        """
        source, usb = self.source(), self.disk("usb").path
        seen = self.folder / "seen"
        lie = f"filesystem\\ show*) [ -e {seen} ] || {{ >{seen}; echo 'not a valid btrfs filesystem' >&2; exit 1; }};;"
        with_program(self.folder / "tools", "find", 'case $1 in /sys/*) exit ;; esac; exec $REAL "$@"')
        server = self.sshd(path=path_with(lying_btrfs(self.folder / "tools", lie))["PATH"])
        self.backup(*server.arguments(), source, f"{server.url}{usb}")
        self.assertTrue(seen.exists())
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))


class OneFullDisk(RealTest):
    def test_what_was_cut_off_makes_room_for_the_record(self) -> None:
        """Source and destination are on one disk, which the transfer fills: there is no room for a record either."""
        pool = self.disk("pool", 200)
        source = self.subvolume(pool.path / "home")
        random_file(source / "large", 90)
        result = self.backup("-d", source, pool.path / "backups", status=10, env={"TERM": "dumb"})
        self.assertIn("disk full", result.err)
        self.assertEqual(list((pool.path / "backups").iterdir()), [])
        [name] = names(source / "snapshot")
        self.assertEqual(on_record(source / "snapshot"), {name: {"locks": [str(pool.path / "backups")]}})
        # What an earlier run could not delete goes before this one records anything.
        attempt = pool.path / "backups" / f".{name}.receiving" / "host-1-0123abcd"
        attempt.mkdir(parents=True)
        sh("btrfs", "subvolume", "create", attempt / name)
        random_file(attempt / name / "part", 20)
        filler = pool.fill()
        result = self.backup("-S", source, pool.path / "backups", status=10)
        self.assertIn(f"deleting {name}, a transfer that was cut off", result.err)
        self.assertEqual(list((pool.path / "backups").iterdir()), [])
        filler.unlink()


class Forgetting(RealTest):
    def test_it_says_what_it_dropped(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        forget = ("-S", "-T", "--remove-locks", source)
        self.assertIn(f"{usb}: dropped what was on record of it", self.backup(*forget, usb).err)
        result = self.backup(*forget, "/mistyped")
        self.assertIn("warning: /mistyped: nothing is on record of it: is it spelled as in the backups?", result.err)


class FailedTransfers(Meddling):
    """What is left of a transfer that was cut off, in the machine where it was or by a loss of power."""

    def at_the_end(self, script: str) -> dict[str, str]:
        """An environment with a program that runs SCRIPT when it is to have a filesystem on disk."""
        return with_program(self.folder / "tools", "sync", script)

    def lose_power(self, disk: Disk, image: Path | None = None) -> None:
        """DISK is as in IMAGE, or has just what has been written to it by now."""
        left = self.folder / "left.img"
        if not image:
            shutil.copyfile(disk.image, left)
        disk.unmount()
        shutil.copyfile(image or left, disk.image)
        disk.mount()

    def assert_healed(self, source: Path, usb: Path) -> None:
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(on_record(source / "snapshot"), {})


class PowerLoss(FailedTransfers):
    def test_what_was_said_to_be_sent_is_on_disk(self) -> None:
        """The image of the disk at the end of a run is what a machine finds that lost its power just then."""
        source = self.source()
        for number in range(100):
            (source / f"file{number}").write_bytes(os.urandom(9000))
        disks = [self.disk(name, 300) for name in ("one", "two")]
        for count in (1, 2):
            (source / "file1").write_bytes(os.urandom(200_000))
            self.backup(source, *(disk.path for disk in disks))
            for disk in disks:
                self.lose_power(disk)
                self.assertEqual(names(disk.path), names(source / "snapshot"))
                self.assertEqual(len(names(disk.path)), count)
                for name in names(disk.path):
                    self.assert_same(disk.path / name, source / "snapshot" / name)
        # The stage may be there again: it was removed in memory.
        result = self.backup("-S", source, *(disk.path for disk in disks))
        self.assertNotIn("sending", result.err)
        for disk in disks:
            self.assert_healed(source, disk.path)

    def test_what_was_restored_is_on_disk(self) -> None:
        source, usb, new = self.source(), self.disk("usb").path, self.disk("new")
        random_file(source / "large", 20)
        self.backup(source, usb)
        self.backup("--restore", usb, new.path / "home")
        self.lose_power(new)
        [name] = names(new.path / "home" / "snapshot")
        self.assert_same(new.path / "home" / "snapshot" / name, usb / name)
        self.assertEqual(tree(new.path / "home")["large"], tree(usb / name)["large"])

    def lost(self, written: bool) -> tuple[Path, Path, list[str]]:
        """The power was lost when the second backup had arrived in memory, or was WRITTEN: it has no name yet."""
        source, disk = self.source(), self.disk("usb", 200)
        usb = disk.path
        self.backup(source, usb)
        (source / "file").write_bytes(os.urandom(9000))
        (source / "large").write_bytes(os.urandom(3_000_000))
        image = self.folder / "then.img"
        before = '$REAL "$@"; ' if written else ""
        self.backup(source, usb, status=-9, env=self.at_the_end(f"{before}cp {disk.image} {image}; kill -9 $PPID"))
        self.lose_power(disk, image)
        taken = names(source / "snapshot")
        self.assertEqual((names(usb), len(taken)), (taken[:1], 2))
        [left] = [each for each in staged(usb) if each.name == taken[1]]
        self.assertTrue(is_readonly(left))
        self.assertEqual(show(left)["Received UUID"], show(source / "snapshot" / taken[1])["UUID"])
        return source, usb, taken

    def assert_staged_is_sent_again(self, source: Path, usb: Path, old: str, new: str) -> None:
        self.assertRegex(self.backup("--status", source, usb).out, f"{new} .* partial")
        self.assertIn(f"would delete {new}", self.backup("--dry-run", source, usb).out)
        told = f"{new} is newer than what is compared, and no backup: it is a transfer that was cut off"
        self.assertIn(told, self.backup("--verify", source, usb, status=10).err)
        self.assertEqual(being_received(usb), [new])
        said = self.backup("-S", source, usb).err
        self.assertIn(f"deleting {new}, a transfer that was cut off", said)
        self.assertIn(f"sending {new} on top of {old}", said)
        self.assert_healed(source, usb)

    def test_what_lacks_data_is_sent_again(self) -> None:
        source, usb, (old, new) = self.lost(written=False)
        [left] = [each for each in staged(usb) if each.name == new]
        self.assertNotEqual((left / "large").read_bytes(), (source / "large").read_bytes())
        self.assert_staged_is_sent_again(source, usb, old, new)

    def test_what_lacks_nothing_is_sent_again(self) -> None:
        """Nobody heard that it is on disk."""
        source, usb, (old, new) = self.lost(written=True)
        [left] = [each for each in staged(usb) if each.name == new]
        self.assert_same(left, source / "snapshot" / new)
        self.assert_staged_is_sent_again(source, usb, old, new)

    def test_what_is_staged_is_not_restored(self) -> None:
        """Nor when the source with its records is gone."""
        _, usb, (old, new) = self.lost(written=True)
        home = self.disk("new").path / "home"
        self.assertIn(f"restoring {old}", self.backup("--restore", usb, home).err)
        self.assert_same(home / "snapshot" / old, usb / old)
        self.backup("--restore", usb / new, home.parent / "newer", status=1)
        self.assertFalse((home.parent / "newer").exists())


class Stages(FailedTransfers):
    """A run is killed at each of its steps."""

    # The program, the arguments at which the run is killed, before or behind that, and whether the backup is there.
    STEPS = (
        ("mkdir", "*.receiving*", "behind", False),
        ("btrfs", "receive*", "half-way", False),
        ("btrfs", "receive*", "behind", False),
        ("sync", "*", "before", False),
        ("sync", "*", "behind", False),
        ("btrfs", "subvolume\\ snapshot*.receiving*", "before", False),
        ("btrfs", "subvolume\\ snapshot*.receiving*", "behind", True),
        ("btrfs", "subvolume\\ delete*", "before", True),
        ("btrfs", "subvolume\\ delete*", "behind", True),
        ("rmdir", "*.receiving*", "before", True),
        ("rmdir", "*.receiving*", "behind", True),
    )
    HOW = {
        "before": "kill -9 $PPID; exit 1",
        "half-way": 'head -c 60000 | $REAL "$@"; kill -9 $PPID; exit 1',
        "behind": '$REAL "$@"; kill -9 $PPID; exit 1',
    }

    def test_killed_at_each_step(self) -> None:
        """A name is never half a backup, and what has one is not sent again."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        for number, (program, arguments, when, there) in enumerate(self.STEPS):
            with self.subTest(program, arguments=arguments, when=when):
                (source / "large").write_bytes(os.urandom(200_000))
                old = names(usb)[-1]
                tools = self.folder / f"tools{number}"
                script = f'case $* in {arguments}) {self.HOW[when]} ;; esac; exec $REAL "$@"'
                self.backup(source, usb, status=-9, env=with_program(tools, program, script))
                new = names(source / "snapshot")[-1]
                self.assertEqual(names(usb)[-1], new if there else old)
                for name in names(usb):
                    self.assert_same(usb / name, source / "snapshot" / name)
                uuid = show(usb / new)["UUID"] if there else ""
                said = self.backup("-S", source, usb).err
                if there:
                    self.assertNotIn("sending", said)
                    self.assertIn(f"{usb}: on record as outstanding, and complete there: {new}\n", said)
                    self.assertEqual(show(usb / new)["UUID"], uuid)
                else:
                    self.assertIn(f"deleting {new}, a transfer that was cut off", said)
                    self.assertIn(f"sending {new} on top of {old}", said)
                self.assert_healed(source, usb)

    def test_killed_when_several_were_to_be_written_out(self) -> None:
        """They share a stage. All that was not finished by then is sent again."""
        source, usb = self.source(), self.disk("usb").path
        for _ in range(2):
            self.backup("-q", source)
        self.backup(source, usb, status=-9, env=self.at_the_end("kill -9 $PPID"))
        taken = names(source / "snapshot")
        self.assertEqual((names(usb), [each.name for each in staged(usb)]), ([], taken))
        self.assertEqual(list(usb.iterdir()), [usb / f".{taken[0]}.receiving"])
        self.assertIn(f"would delete {taken[0]}", self.backup("-S", "--dry-run", source, usb).out)
        self.assertIn(f"deleting {taken[0]}, a transfer that was cut off", self.backup("-S", source, usb).err)
        self.assert_healed(source, usb)

    def test_what_cannot_be_written_out_gets_no_name(self) -> None:
        """Also when it failed besides, and looks complete."""
        source, usb = self.source(), self.disk("usb").path
        broken = self.at_the_end("echo 'ERROR: Input/output error' >&2; exit 1")
        for _ in range(2):
            result = self.backup(source, usb, status=10, env=broken)
            self.assertIn("sending", result.err)
            self.assertIn("Input/output error", result.err)
            self.assertEqual(list(usb.iterdir()), [])
            broken = self.tools('case $* in receive*) $REAL "$@"; exit 1 ;; esac')
        self.assertEqual(len(on_record(source / "snapshot")), 1)
        self.backup("-S", source, usb)
        self.assert_healed(source, usb)

    def begin(self, usb: Path, name: str) -> Path:
        """What a transfer of NAME from another machine leaves in USB; its stage."""
        attempt = usb / f".{name}.receiving" / "nas-4711-0123abcd"
        attempt.mkdir(parents=True)
        sh("btrfs", "subvolume", "create", attempt / name)
        (attempt / name / "half").write_text("of it")
        return attempt.parent

    def test_a_receiver_that_is_alive(self) -> None:
        """It is told, and nobody touches it; the others are sent. When it is dead its stage goes.

        What it receives is kept at the source until then.
        """
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        self.backup(source)
        busy, other = names(source / "snapshot")
        stage = self.begin(usb, busy)
        held = os.open(stage, os.O_RDONLY)
        self.addCleanup(os.close, held)
        fcntl.flock(held, fcntl.LOCK_SH)
        result = self.backup("-S", "-N", "1", source, usb, status=10)
        self.assertEqual(names(source / "snapshot"), [busy, other])
        self.assertEqual(on_record(source / "snapshot"), {busy: {"locks": [str(usb)]}})
        told = f"error: {usb}: {busy} is being received there already, by process 4711 on nas\n"
        self.assertIn(told, result.err)
        self.assertNotIn("deleting", result.err)
        self.assertEqual([each.read_text() for each in stage.glob("*/*/half")], ["of it"])
        self.assertEqual(names(usb), [other])
        self.assert_same(usb / other, source / "snapshot" / other)
        fcntl.flock(held, fcntl.LOCK_UN)
        self.assertIn(f"deleting {busy}, a transfer that was cut off", self.backup("-S", source, usb).err)
        self.assert_healed(source, usb)

    def test_a_receiver_that_ends_in_time(self) -> None:
        """That of a killed run has a moment to read what was left for it."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        [name] = names(source / "snapshot")
        stage = self.begin(usb, name)
        holder = subprocess.Popen(["flock", "-s", "-F", stage, "sleep", "2"])
        self.addCleanup(holder.wait)
        wait_for(lambda: Path(f"/proc/{holder.pid}/cmdline").read_bytes().startswith(b"sleep"))
        self.assertIn(f"deleting {name}, a transfer that was cut off", self.backup("-S", source, usb).err)
        self.assert_healed(source, usb)

    def test_stages_of_another_source(self) -> None:
        """Without prefixes, at the same time, in the same folder, which nobody should do: they stay."""
        source, usb = self.source(), self.disk("usb").path
        other = self.subvolume(source.parent / "other")
        random_file(other / "large", 40)
        command = self.start("--rate-limit", "20M", other, usb)
        [left] = wait_for(lambda: staged(usb))
        kill(command.pid, signal.SIGSTOP)
        time.sleep(1.1)  # so that the snapshots have different names
        self.backup(source, usb)
        self.assertTrue(left.exists())
        kill(command.pid, signal.SIGCONT)
        self.assertEqual(command.wait(60), 0)
        self.assertEqual(list(usb.glob(".*")), [])
        self.assertEqual(len(names(usb)), 2)

    def test_stages_that_are_not_ours_to_clear(self) -> None:
        """Those of other prefixes stay, and of snapshots that the source does not have."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        self.backup(source)
        left = {self.begin(usb, name) for name in ("20200101-000000", "x-20200101-000000")}
        self.begin(usb, names(source / "snapshot")[1])
        (usb / f".{names(usb)[0]}.receiving").mkdir()
        self.backup("-S", "-T", "-n", "9", source, usb)
        self.assertEqual(set(usb.glob(".*")), left)
        self.assertEqual(len(staged(usb)), 2)

    def test_a_stage_that_cannot_be_removed(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        script = f'[ "$1" = receive ] && for stage in {usb}/.*.receiving; do touch $stage/x; done'
        result = self.backup(source, usb, status=10, env=self.tools(script))
        [name] = names(usb)
        stage = usb / f".{name}.receiving"
        self.assertIn(f"{usb}: cannot remove the stage '{stage}': rmdir: failed to remove", result.err)
        self.assert_same(usb / name, source / "snapshot" / name)
        told = f"warning: {usb}: leaving .{name}.receiving alone: 'x' is in it, which is not of a transfer"
        self.assertIn(told, self.backup("-S", source, usb).err)
        self.assertTrue((stage / "x").exists())
        (stage / "x").unlink()
        self.backup(source, usb)
        self.assert_healed(source, usb)


class Marks(FailedTransfers):
    """Version 1.0 received under the name itself, and marked that by an empty folder."""

    def marked(self) -> tuple[Path, Path, list[str]]:
        """The power was lost when the second backup of that version had arrived: it looks complete, and may not be."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        self.backup(source, usb)
        old, new = names(usb)
        folder = source / "snapshot"
        [filesystem] = on_record(folder, COMPLETED)[str(usb)]
        (folder / COMPLETED).write_text(json.dumps({str(usb): {filesystem: [old]}}))
        (folder / OUTSTANDING).write_text(json.dumps({new: {"locks": [str(usb)]}, old: {"parent_locks": [str(usb)]}}))
        (usb / f".{new}.receiving").mkdir()
        return source, usb, [old, new]

    def test_what_is_marked_is_sent_again(self) -> None:
        source, usb, (old, new) = self.marked()
        uuids = [show(usb / name)["UUID"] for name in (old, new)]
        self.assertRegex(self.backup("--status", source, usb).out, f"{new} .* partial")
        self.assertIn(f"would delete {new}", self.backup("--dry-run", source, usb).out)
        told = f"{new} is newer than what is compared, and no backup: it is a transfer that was cut off"
        self.assertIn(told, self.backup("--verify", source, usb, status=10).err)
        self.assertEqual([show(usb / name)["UUID"] for name in (old, new)], uuids)
        said = self.backup("-S", source, usb).err
        self.assertIn(f"deleting {new}, a transfer that was cut off", said)
        self.assertIn(f"sending {new} on top of {old}", said)
        self.assert_healed(source, usb)
        self.assertEqual(show(usb / old)["UUID"], uuids[0])
        self.assertNotEqual(show(usb / new)["UUID"], uuids[1])

    def test_what_is_half_there_is_sent_again(self) -> None:
        """Also when only the mark tells that it is not somebody's."""
        source, usb, (old, new) = self.marked()
        (source / "snapshot" / OUTSTANDING).unlink()
        sh("btrfs", "subvolume", "delete", usb / new)
        sh("btrfs", "subvolume", "snapshot", usb / old, usb / new)
        said = self.backup("-S", source, usb).err
        self.assertIn(f"deleting {new}, a transfer that was cut off", said)
        self.assertIn(f"sending {new} on top of {old}", said)
        self.assert_healed(source, usb)

    def test_what_is_marked_is_not_restored(self) -> None:
        """Nor when the source with its records is gone."""
        _, usb, (old, new) = self.marked()
        home = self.disk("new").path / "home"
        result = self.backup("--restore", usb, home)
        self.assertIn(
            f"passing over {new}: it may lack data: its machine may have gone down, or its disk been", result.err
        )
        self.assert_same(home / "snapshot" / old, usb / old)
        result = self.backup("--restore", usb / new, home.parent / "newer", status=1)
        self.assertIn(f"'{new}' in '{usb}' cannot be restored: it may lack data: ", result.err)
        way = f"To take it all the same, remove its mark: rmdir {usb}/.{new}.receiving"
        self.assertIn(way, result.err)
        sh("rmdir", usb / f".{new}.receiving")
        self.backup("--restore", usb / new, home.parent / "newer")

    def test_what_looks_like_a_mark_later(self) -> None:
        """It is what is left of a stage; the backup is complete."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        [name] = names(usb)
        uuid = show(usb / name)["UUID"]
        (usb / f".{name}.receiving").mkdir()
        self.assertNotIn("sending", self.backup("-S", source, usb).err)
        self.assertEqual(show(usb / name)["UUID"], uuid)
        self.assert_healed(source, usb)


class Suspended(RealTest):
    def test_stopped_and_continued(self) -> None:
        """As by Ctrl-Z and `fg`: the whole process group is stopped. The stream does not suffer."""
        source, usb = self.source(), self.disk("usb", 600).path
        random_file(source / "large", 150)
        command = self.start(source, usb, start_new_session=True)
        wait_for(lambda: staged(usb))
        for _ in range(3):
            os.killpg(command.pid, signal.SIGSTOP)
            wait_for(lambda: Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            time.sleep(0.15)
            os.killpg(command.pid, signal.SIGCONT)
            time.sleep(0.05)
        self.assertEqual(command.wait(60), 0)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_a_stream_that_broke_is_noticed(self) -> None:
        """A `btrfs send` that is stopped itself, as the suspension of a machine does, writes a broken stream."""
        source, usb = self.source(), self.disk("usb", 600).path
        random_file(source / "large", 150)
        command = self.start(source, usb)
        wait_for(lambda: staged(usb))
        for pid in children_of(command.pid):
            if b"send" in Path(f"/proc/{pid}/cmdline").read_bytes():
                kill(pid, signal.SIGSTOP)
                time.sleep(0.3)
                kill(pid, signal.SIGCONT)
        status = command.wait(60)
        self.assertIn(status, (0, 10))
        if status:
            self.backup("-S", source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(on_record(source / "snapshot"), {})


class WithoutRoot(RealTest):
    """Somebody who owns the subvolume, on a filesystem mounted with user_subvol_rm_allowed."""

    def run_as_nobody(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        nobody = pwd.getpwnam("nobody")
        program = self.folder / "program"
        if not program.exists():
            self.folder.chmod(0o755)
            shutil.copytree(TOP / "btrfs_backup", program / "btrfs_backup")
        script = (
            f"import sys; sys.path.insert(0, '{program}'); from btrfs_backup.__main__ import main; sys.exit(main())"
        )
        return subprocess.run(
            [self.python(), "-c", script, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
        )

    def python(self) -> str:
        """One that everybody may run, or else the test is skipped."""
        for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
            new_enough = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
            if os.access(path, os.X_OK) and subprocess.run(new_enough, check=False).returncode == 0:
                return path
        raise unittest.SkipTest("no Python that everybody may run")

    def test_what_can_be_done_is_done(self) -> None:
        """Snapshots are taken and deleted; what needs root says so."""
        pool, usb = self.disk("pool"), self.disk("usb").path
        sh("mount", "-o", "remount,user_subvol_rm_allowed", pool.path)
        source = self.subvolume(pool.path / "home")
        sh("chown", "-R", "nobody", source)
        usb.chmod(0o777)
        for count in (1, 2, 2):
            done = self.run_as_nobody("-w", "-N", "2", source)
            self.assertEqual((done.returncode, len(names(source / "snapshot"))), (0, count), done.stderr)
        kept = names(source / "snapshot")
        found = self.run_as_nobody("--find", "file", source)
        self.assertIn(f"{kept[0]}  {kept[1]} ", found.stdout, found.stderr)
        (source / "snapshot" / "20200101-000000").mkdir()
        done = self.run_as_nobody("-S", source, usb)
        self.assertEqual(done.returncode, 10)
        self.assertIn("Run it as root", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual((names(usb), names(source / "snapshot")[1:]), ([], kept))
