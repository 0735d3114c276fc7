"""Nothing is believed, built upon or deleted without proof: what looks like a backup, parent or part and is none."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from unittest import mock

from btrfs_backup.commands import destination
from btrfs_backup.system import hints, stages
from tests.real.inside import InsideTest
from tests.real.machine import (
    COMPLETED,
    Result,
    being_received,
    child_running,
    descendants,
    kill,
    lying_btrfs,
    names,
    on_record,
    path_with,
    random_file,
    sh,
    shares,
    show,
    stage,
    staged,
    start_command,
    tree,
    wait_for,
)
from tests.real.sshd import SshTest
from tests.real.test_identity import identities, set_writable


class ProofTest(InsideTest):
    def at(self, path: Path) -> str:
        """How PATH is told to the command."""
        return str(path)

    def words(self, *arguments: object) -> list[object]:
        """The arguments of a run; paths are places."""
        return list(arguments)

    def edit(self, path: Path) -> None:
        """Through writable and back, as older programs did it: nothing that `btrfs subvolume` shows tells of it."""
        set_writable(path, True)
        (path / "edit").write_text("made by hand")
        set_writable(path, False)


class Proof(ProofTest):
    def test_a_source_that_was_received_and_made_writable(self) -> None:
        """Its snapshots carry one received UUID, so that all increments would land on the first backup."""
        origin, usb = self.pair(1)
        [name] = names(usb)
        pool, stream = origin.parent, self.folder / "stream"
        (pool / "received").mkdir()
        sh("btrfs", "send", "-f", stream, usb / name)
        sh("btrfs", "receive", "-f", stream, pool / "received")
        home = pool / "received" / name
        set_writable(home, True)
        before = identities(usb)
        result = self.backup("-f", pool / "snapshots", home, usb, status=1)
        self.assertIn("received UUID", result.err)
        self.assertEqual(identities(usb), before)
        self.assertFalse((pool / "snapshots").exists() and names(pool / "snapshots"))
        # A writable snapshot of it is what the cure comes to: that one has an identity of its own.
        sh("btrfs", "subvolume", "snapshot", home, pool / "cured")
        for number in range(3):
            (pool / "cured" / "file").write_text(f"cured {number}")
            self.backup("-f", pool / "snapshots", "-p", "c-", pool / "cured", usb)
        for name in names(pool / "snapshots"):
            self.assert_same(usb / name, pool / "snapshots" / name)

    def test_a_damaged_copy_of_the_parent_beside_it(self) -> None:
        """Whichever of the two copies `btrfs receive` finds, the increment is built upon the good one or none."""
        source, disk = self.source(), self.disk("usb").path
        one, other = disk / "one", disk / "other"
        self.backup("-q", source, one)
        self.backup("-q", "-S", source, other)
        [old] = names(one)
        set_writable(one / old, True)
        for file in (one / old).rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.write_bytes(b"")
        set_writable(one / old, False)
        for number in range(2):
            (source / "new").write_text(f"new {number}")
            self.backup(source, other)
        for name in names(other):
            self.assert_same(other / name, source / "snapshot" / name)

    def test_a_snapshot_that_was_changed_after_it_was_sent(self) -> None:
        """And the source was rolled back to it: the next backup has the edit."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        snapshot = source / "snapshot" / newest
        set_writable(snapshot, True)
        (snapshot / "edit").write_text("made in the snapshot")
        set_writable(snapshot, False)
        # Rolled back: what comes now has the edit because the snapshot has it.
        rolled = source.parent / "rolled"
        sh("btrfs", "subvolume", "snapshot", snapshot, rolled)
        result = self.backup("-f", source / "snapshot", rolled, usb)
        new = names(source / "snapshot")[-1]
        self.assertIn(f"{newest}, which it builds upon, was changed after it was sent", result.err)
        self.assertEqual((usb / new / "edit").read_text(), "made in the snapshot")
        self.assert_same(usb / new, source / "snapshot" / new)

    def restored(self) -> tuple[Path, Path, str]:
        """A source that was restored, the disk with its backups, and the newest of these."""
        source, usb = self.pair()
        self.backup("-q", "--restore", usb, source.parent / "restored")
        return source.parent / "restored", usb, names(usb)[-1]

    def test_a_restored_snapshot_that_was_changed(self) -> None:
        """And the source was rolled back to it: the next backup has the edit."""
        source, usb, old = self.restored()
        self.edit(source / "snapshot" / old)
        rolled, late = source.parent / "rolled", self.disk("late").path
        sh("btrfs", "subvolume", "snapshot", source / "snapshot" / old, rolled)
        result = self.backup("-f", source / "snapshot", rolled, usb)
        new = names(source / "snapshot")[-1]
        self.assertIn(f"{old}, which it builds upon, was changed after it was sent", result.err)
        self.assertEqual((usb / new / "edit").read_text(), "made by hand")
        self.assert_same(usb / new, source / "snapshot" / new)
        # Where it came after that, it is a parent as any other.
        sh("btrfs", "subvolume", "delete", source / "snapshot" / new)
        self.backup("-q", "-S", "-f", source / "snapshot", rolled, late)
        result = self.backup("-f", source / "snapshot", rolled, late)
        new = names(source / "snapshot")[-1]
        self.assertIn(f"sending {new} on top of {old}", result.err)
        self.assertEqual(result.err.count("sending"), 1)
        self.assert_same(late / new, source / "snapshot" / new)

    def test_no_false_alarm_about_a_restored_one(self) -> None:
        source, usb, old = self.restored()
        late = self.disk("late").path
        self.backup("-q", "-S", source, late)
        for top in (source / "snapshot", usb):
            sh("btrfs", "subvolume", "snapshot", top / old, top / ".copy")
            sh("btrfs", "subvolume", "snapshot", "-r", top / old, top / "kept")
            for writable in (True, False):
                set_writable(top / old, writable)
        for top in (source.parent, usb):
            sh("btrfs", "balance", "start", "-m", "--full-balance", top)
        sh("btrfs", "filesystem", "defragment", "-r", source)
        result = self.backup(source, usb, late)
        new = names(source / "snapshot")[-2]
        self.assertEqual(result.err.count(f"sending {new} on top of {old}"), 2)
        self.assertEqual(result.err.count("sending"), 2)
        for disk in (usb, late):
            self.assert_same(disk / new, source / "snapshot" / new)

    def test_what_was_received_by_hand(self) -> None:
        """Nothing tells when its content was there, so that it is believed."""
        source, usb = self.pair()
        old, pool = names(usb)[-1], source.parent
        (pool / "snaps").mkdir()
        stream = self.folder / "stream"
        sh("btrfs", "send", "-f", stream, usb / old)
        sh("btrfs", "receive", "-f", stream, pool / "snaps")
        sh("btrfs", "subvolume", "snapshot", pool / "snaps" / old, pool / "by-hand")
        result = self.backup("-f", pool / "snaps", pool / "by-hand", usb)
        new = names(pool / "snaps")[-1]
        self.assertIn(f"sending {new} on top of {old}", result.err)
        self.assertEqual(result.err.count("sending"), 1)
        self.assert_same(usb / new, pool / "snaps" / new)

    def test_no_false_alarm(self) -> None:
        """A balance, snapshots of the parent, what was toggled without a change, a source that is defragmented."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        for top in (source / "snapshot", usb):
            sh("btrfs", "subvolume", "snapshot", top / newest, top / ".copy")
            for writable in (True, False):
                set_writable(top / newest, writable)
        for top in (source.parent, usb):
            sh("btrfs", "balance", "start", "-m", "--full-balance", top)
        sh("btrfs", "filesystem", "defragment", "-r", source)
        result = self.backup(source, usb)
        new = names(usb)[-1]
        self.assertIn(f"sending {new} on top of {newest}", result.err)
        self.assertNotIn("was changed", result.err)
        self.assertEqual(result.err.count("sending"), 1)
        self.assert_same(usb / new, source / "snapshot" / new)

    def test_work_in_place_of_a_backup(self) -> None:
        """A writable snapshot of the backup took its name, and the backup is gone: a week of work in it stays."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        sh("btrfs", "subvolume", "snapshot", usb / newest, usb / "w")
        sh("btrfs", "subvolume", "delete", usb / newest)
        (usb / "w").rename(usb / newest)
        (usb / newest / "work").write_text("a week of it")
        before, content = show(usb / newest)["UUID"], tree(usb / newest)
        for _ in range(2):
            # With this policy it is not to be sent again.
            result = self.backup("-n", "1", source, usb)
            self.assertNotIn(f"deleting {newest}", result.err)
        self.assertEqual((show(usb / newest)["UUID"], tree(usb / newest)), (before, content))

    def test_a_subvolume_made_under_the_name_of_a_snapshot(self) -> None:
        source, usb = self.pair()
        self.backup("-q", source)
        name = names(source / "snapshot")[-1]
        sh("btrfs", "subvolume", "create", usb / name)
        (usb / name / "mine").write_text("precious")
        result = self.backup("-S", source, usb, status=10)
        self.assertIn(f"cannot send {name}: '{self.at(usb)}/{name}' is in the way", result.err)
        self.assertEqual((usb / name / "mine").read_text(), "precious")
        [known] = on_record(source / "snapshot", COMPLETED)[self.at(usb)].values()
        self.assertEqual(known["blocked"], [name])

    def test_two_sources_in_one_folder(self) -> None:
        """Each with `-n 2` and no prefix, in turn: each deletes its own, and goes on incrementally."""
        home, usb = self.source(), self.disk("usb").path
        other = self.subvolume(home.parent / "other")
        folders = {home: home / "snapshot", other: other / "snapshot"}
        for number in range(3):
            for source, folder in folders.items():
                (source / "file").write_text(f"{source.name} {number}")
                self.wait_for_another_second(usb)
                result = self.backup("-n", "2", source, usb)
                if number:
                    self.assertIn(f"on top of {names(folder)[-2]}", result.err)
                    self.assertNotIn("in full", result.err)
        kept = sorted(name for folder in folders.values() for name in names(folder)[-2:])
        self.assertEqual(names(usb), kept)
        for folder in folders.values():
            for name in names(folder)[-2:]:
                self.assert_same(usb / name, folder / name)

    def wait_for_another_second(self, usb: Path) -> None:
        """Two sources without a prefix must not take snapshots in one second."""
        newest = max(names(usb), default="")
        wait_for(lambda: datetime.now().strftime("%Y%m%d-%H%M%S") > newest)

    def test_what_is_in_the_place_of_a_stage(self) -> None:
        """A file, or a folder with something of the user's in it: told, left alone, and gone round."""
        source, usb = self.pair()
        self.backup("-q", source)
        complete, missing = names(usb)[-1], names(source / "snapshot")[-1]
        for name in (complete, missing):
            (usb / f".{name}.receiving").mkdir()
            (usb / f".{name}.receiving" / "mine").write_text("precious")
        before = identities(usb)
        result = self.backup("-S", source, usb)
        for name in (complete, missing):
            self.assertIn(f"leaving .{name}.receiving alone", result.err)
            self.assertEqual((usb / f".{name}.receiving" / "mine").read_text(), "precious")
        self.assertLessEqual(before.items(), identities(usb).items())
        self.assert_same(usb / missing, source / "snapshot" / missing)
        self.backup("-q", source)
        newest = names(source / "snapshot")[-1]
        (usb / f".{newest}.receiving").touch()
        result = self.backup("-S", source, usb)
        self.assertIn(f"leaving .{newest}.receiving alone: it is a file", result.err)
        self.assert_same(usb / newest, source / "snapshot" / newest)
        self.assertTrue((usb / f".{newest}.receiving").is_file())

    def test_something_foreign_beside_a_transfer_that_was_cut_off(self) -> None:
        """What is in the stage goes, and what has the name of the backup stays."""
        source, usb = self.pair()
        self.backup("-q", source)
        name = names(source / "snapshot")[-1]
        stage(usb, name)
        sh("btrfs", "subvolume", "snapshot", "-r", usb / names(usb)[0], usb / name)
        before = identities(usb)
        result = self.backup("-S", source, usb, status=10)
        self.assertIn(f"cannot send {name}: '{self.at(usb)}/{name}' is in the way", result.err)
        self.assertEqual((identities(usb), staged(usb)), (before, []))

    def test_a_stage_that_was_left_behind_a_complete_backup(self) -> None:
        """It is cleared, and the backup stays as it is."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        before = identities(usb)
        stage(usb, newest)
        self.backup("-S", source, usb)
        self.assertEqual((identities(usb), staged(usb)), (before, []))

    def test_a_backup_that_was_changed(self) -> None:
        """Also so that an increment on top of it is received without an error."""
        source, usb = self.pair()
        old, changed = names(usb)
        self.edit(usb / changed)
        (source / "new").write_text("new")
        result = self.backup(source, usb)
        new = names(source / "snapshot")[-1]
        self.assertIn(f"{changed}, which it builds upon, was changed after it was sent", result.err)
        self.assertIn(f"sending {new} on top of {old}", result.err)
        self.assert_same(usb / new, source / "snapshot" / new)

    def test_a_backup_that_was_changed_so_that_nothing_can_be_received(self) -> None:
        """It is not words that tell so."""
        source, usb = self.pair()
        old, changed = names(usb)
        set_writable(usb / changed, True)
        (usb / changed / "second").write_text("in the way")
        set_writable(usb / changed, False)
        (source / "second").hardlink_to(source / "file")
        result = self.backup(source, usb)
        new = names(source / "snapshot")[-1]
        self.assertIn("File exists", result.err)
        self.assertIn(f"sending {new} on top of {old}", result.err)
        self.assert_same(usb / new, source / "snapshot" / new)


class RemoteTest(ProofTest, SshTest):
    """All places of runs that are not quiet are on an ssh host, whose `btrfs` may be another one."""

    def setUp(self) -> None:
        super().setUp()
        self.lies = self.folder / "lies"
        self.server = self.sshd(path=path_with(self.lies)["PATH"])

    def at(self, path: object) -> str:
        return f"{self.server.url}{path}"

    def words(self, *arguments: object) -> list[object]:
        before = ("", *arguments)
        return [
            *self.server.arguments(),
            *(
                self.at(each) if isinstance(each, Path) and option != "-f" else each
                for option, each in zip(before, arguments, strict=False)
            ),
        ]

    def backup(self, *arguments: object, status: int = 0, **more: object) -> Result:
        # What only prepares a test need not take the time.
        return super().backup(*(arguments if "-q" in arguments else self.words(*arguments)), status=status, **more)


class RemoteProof(RemoteTest):
    restored = Proof.restored
    test_a_restored_snapshot_that_was_changed = Proof.test_a_restored_snapshot_that_was_changed
    wait_for_another_second = Proof.wait_for_another_second
    test_a_source_that_was_received_and_made_writable = Proof.test_a_source_that_was_received_and_made_writable
    test_a_damaged_copy_of_the_parent_beside_it = Proof.test_a_damaged_copy_of_the_parent_beside_it
    test_a_snapshot_that_was_changed_after_it_was_sent = Proof.test_a_snapshot_that_was_changed_after_it_was_sent
    test_a_backup_that_was_changed = Proof.test_a_backup_that_was_changed
    test_work_in_place_of_a_backup = Proof.test_work_in_place_of_a_backup
    test_two_sources_in_one_folder = Proof.test_two_sources_in_one_folder
    test_what_is_in_the_place_of_a_stage = Proof.test_what_is_in_the_place_of_a_stage


class SwappedDisks(ProofTest):
    """Two disks take turns at one mount point."""

    def test_between_the_look_and_the_deletion(self) -> None:
        """What was judged on one disk is not deleted by its names on the other one."""
        source, point, disks = self.taking_turns()
        before = [identities(disk) for disk in disks]
        result = self.swapping(f"subvolume?list*{disks[2]}*", disks[1], point)(
            "-S", "-T", "-n", "1", source, point, disks[2], status=10
        )
        self.assertIn("another filesystem is mounted there than when it was looked at", result.err)
        self.assertEqual([identities(disk) for disk in disks[:2]], before[:2])
        self.assertEqual(len(names(disks[2])), 1)

    def test_while_another_destination_is_served(self) -> None:
        source, point, disks = self.taking_turns()
        sh("btrfs", "subvolume", "delete", *(disks[2] / name for name in names(disks[2])))
        before = [identities(disk) for disk in disks]
        run = self.swapping("receive*other*", disks[1], point)
        result = run("--no-shared-stream", "-n", "2", source, point, disks[2], status=10)
        self.assertIn(f"{self.at(point)}: FAILED", result.err)
        self.assertEqual(identities(disks[1]), before[1])
        self.assertLessEqual(before[0].items(), identities(disks[0]).items())
        for name in names(disks[2]):
            self.assert_same(disks[2] / name, source / "snapshot" / name)
        # Each of them is brought right when it is there.
        for quiet in ([], ["-q"]):
            self.backup(*quiet, "-S", "-n", "2", source, point, disks[2])
            for name in names(point):
                self.assert_same(point / name, source / "snapshot" / name)
            self.mount(disks[0], point)

    def taking_turns(self) -> tuple[Path, Path, list[Path]]:
        """A source, the mount point, at which the first disk is, and the disks: three backups are on each."""
        source, point = self.source(), self.folder / "point"
        disks = [self.disk(name).path for name in ("red", "blue", "other")]
        point.mkdir()
        for disk in disks:
            (disk / "mine").mkdir()
        for number in range(3):
            (source / "file").write_text(f"state {number}")
            self.backup("-q", source, disks[2])
        self.addCleanup(sh, "umount", "-l", point, check=False)
        for disk in disks[1::-1]:
            self.mount(disk, point)
            self.backup("-q", "-S", source, point)
        for disk in disks:
            (disk / "mine").rmdir()
        return source, point, disks

    def mount(self, disk: Path, point: Path) -> None:
        if point.is_mount():
            sh("umount", "-l", point)
        sh("mount", "--bind", disk, point)

    def swapping(self, when: str, disk: Path, point: Path) -> Callable[..., Result]:
        """A run in which DISK is put at POINT when `btrfs` gets such arguments first."""
        swap = f"umount -l {point}; mount --bind {disk} {point}"
        lies = lying_btrfs(self.folder / "lies", f'{when}) mkdir "$here/done" 2>/dev/null && {{ {swap}; }} ;;')
        return partial(self.backup, env=path_with(lies))


class RemoteSwappedDisks(RemoteTest, SwappedDisks):
    pass


class TwoRuns(ProofTest):
    """Two runs to one name."""

    def one_name(self) -> tuple[list[Path], Path, str]:
        """Two sources with a snapshot of the same second, and a disk."""
        home, usb = self.source(), self.disk("usb").path
        sources = [home, self.subvolume(home.parent / "other")]
        random_file(sources[0] / "large", 12)
        for source in sources:
            (source / "file").write_text(source.name)
            (source / "snapshot").mkdir()
            sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / "20260101-000000")
        return sources, usb, "20260101-000000"

    def test_the_second_while_the_first_transfers(self) -> None:
        (one, other), usb, name = self.one_name()
        first = self.slowly(one, usb)
        [part] = wait_for(lambda: staged(usb))
        with mock.patch.object(destination, "_PATIENCE", 0.1):
            result = self.backup("-S", other, usb, status=10)
        self.assertIn(f"{name} is being received there already, by process {first.pid} on ", result.err)
        self.assertTrue(part.exists())
        kill(first.pid, signal.SIGCONT)
        self.assertEqual(first.wait(60), 0)
        self.assert_same(usb / name, one / "snapshot" / name)
        result = self.backup("-S", other, usb, status=10)
        self.assertIn(f"'{self.at(usb)}/{name}' is in the way: it is a copy of another snapshot", result.err)
        self.assert_same(usb / name, one / "snapshot" / name)

    def test_both_have_looked_before_either_begins(self) -> None:
        """The first one gets the name, and the other one says that it did not."""
        (one, other), usb, name = self.one_name()
        ready, running = destination.BackupFolder.ready, []

        def later(*arguments: object) -> object:
            running.append(self.slowly(one, usb))
            wait_for(lambda: staged(usb))
            return ready(*arguments)  # type: ignore[arg-type]

        with mock.patch.object(destination.BackupFolder, "ready", later):
            result = self.backup("-S", other, usb, status=10)
        self.assertIn(f"cannot make the stage '{usb}/.{name}.receiving'", result.err)
        self.assertIn("It is being sent there already", result.err)
        kill(running[0].pid, signal.SIGCONT)
        self.assertEqual(running[0].wait(60), 0)
        self.assert_same(usb / name, one / "snapshot" / name)

    def test_a_stage_that_comes_alive_before_it_is_cleared(self) -> None:
        (one, _), usb, name = self.one_name()
        left = stage(usb, name)
        (left / "half").write_text("of it")
        clear = stages.clear

        def later(*arguments: object) -> object:
            holder = subprocess.Popen(
                ["flock", "-s", left.parents[1], "sh", "-c", "touch $0/held; read x", left.parent], stdin=-1
            )
            self.addCleanup(holder.wait)
            assert holder.stdin
            self.addCleanup(holder.stdin.close)
            wait_for((left.parent / "held").exists)
            return clear(*arguments)  # type: ignore[arg-type]

        with mock.patch.object(stages, "clear", later):
            result = self.backup("-S", one, usb, status=10)
        self.assertIn(f"somebody else is at work in '{usb}/.{name}.receiving'", result.err)
        self.assertEqual((left / "half").read_text(), "of it")
        self.assertEqual(names(usb), [])

    def slowly(self, *arguments: Path) -> "subprocess.Popen[str]":
        """A run that has begun to transfer, and is stopped."""
        run = start_command(*self.words("-S", "--rate-limit", "8M", *arguments))
        self.addCleanup(run.communicate)
        self.addCleanup(kill, run.pid)
        wait_for(lambda: staged(arguments[-1]))
        kill(run.pid, signal.SIGSTOP)
        return run


class RemoteTwoRuns(RemoteTest):
    one_name, slowly = TwoRuns.one_name, TwoRuns.slowly
    test_the_second_while_the_first_transfers = TwoRuns.test_the_second_while_the_first_transfers
    test_a_stage_that_comes_alive_before_it_is_cleared = TwoRuns.test_a_stage_that_comes_alive_before_it_is_cleared


class DeadRun(RemoteTest):
    """A run is killed, and the receiver that it had on the ssh host wakes up when the next one is at work."""

    def setUp(self) -> None:
        super().setUp()
        # The first receiver gets what is left for it when it is told to go on, the second one does not begin before.
        lying_btrfs(
            self.lies,
            """receive*) echo x >>"$here/receivers"
                if [ "$(grep -c x "$here/receivers")" = 1 ]; then
                    { head -c 60000; touch "$here/held"; until [ -e "$here/go" ]; do sleep 0.02; done; cat; } |
                        "$REAL" "$@"
                    touch "$here/gone"
                    exit
                fi
                touch "$here/go"; until [ -e "$here/gone" ]; do sleep 0.02; done ;;""",
        )

    def killed(self, *arguments: object) -> None:
        run = start_command(*self.words(*arguments))
        wait_for((self.lies / "held").exists)
        # All that is left has been sent.
        wait_for(lambda: child_running(run.pid, "btrfs", "send") is None)
        for each in (run.pid, *descendants(run.pid)):
            kill(each)
        run.communicate()
        time.sleep(0.3)
        for each in (run.pid, *descendants(run.pid)):
            kill(each)
        run.communicate()

    def test_the_next_run_waits_and_then_tells(self) -> None:
        source, nas = self.sent_to()
        self.killed(source, nas)
        with mock.patch.object(destination, "_PATIENCE", 0.1):
            result = self.backup("-S", source, nas, status=10)
        [name] = names(source / "snapshot")
        self.assertIn(f"{name} is being received there already", result.err)
        [left] = staged(nas)
        (self.lies / "go").touch()
        wait_for((self.lies / "gone").exists)
        # It had all that was missing, so that it looks complete. Nobody has proved that, and it has no name.
        self.assert_same(left, source / "snapshot" / name)
        self.assertEqual(names(nas), [])
        self.backup("-S", source, nas)
        self.assert_complete(nas, source / "snapshot", [name])

    def test_where_nobody_can_tell(self) -> None:
        """Without a program `flock` there: it wakes up when the next one is about to receive."""
        programs = ("bash", "sh", "sleep", "head", "grep", *hints.REMOTE_PROGRAMS)
        tools = self.tools(*(each for each in programs if each not in ("flock", "btrfs")))
        self.server = self.sshd(name="poor", path=f"{self.lies}:{tools}")
        source, nas = self.sent_to()
        self.killed(source, nas)
        result = self.backup("-S", source, nas)
        self.assertIn("there is no program 'flock'", result.err)
        self.assertTrue((self.lies / "gone").exists())
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_restore(self) -> None:
        source, usb = self.sent_to()
        ProofTest.backup(self, source, usb)
        [name] = names(usb)
        new = self.disk("new").path
        self.killed("--restore", str(usb), new / "home")
        result = self.backup("--restore", str(usb), new / "home", status=3)
        self.assertIn(f"'{new}/home' is being received already, by ", result.err)
        (self.lies / "go").touch()
        wait_for((self.lies / "gone").exists)
        wait_for(lambda: not self.server.sessions())
        self.backup("--restore", str(usb), new / "home")
        self.assert_same(new / "home" / "snapshot" / name, usb / name)
        self.assertEqual(os.listdir(new), ["home"])

    def sent_to(self) -> tuple[Path, Path]:
        """A source whose stream is neither too small nor too large for a pipe, and a disk."""
        source, nas = self.source(), self.disk("nas").path
        (source / "more").write_bytes(os.urandom(40_000))
        return source, nas


class Restores(ProofTest):
    def test_a_parent_at_the_place_that_was_changed(self) -> None:
        _, usb = self.pair()
        old, _ = names(usb)
        pool = self.disk("new").path
        self.backup("-q", "--restore", "-f", pool / "snaps", usb / old, pool / "old")
        self.edit(pool / "snaps" / old)
        self.check(usb, pool, f"{old}, which it builds upon, was changed after it was sent")

    def test_a_backup_that_was_changed(self) -> None:
        """What is to be restored is told by its difference to that."""
        _, usb = self.pair()
        old, _ = names(usb)
        pool = self.disk("new").path
        self.backup("-q", "--restore", "-f", pool / "snaps", usb / old, pool / "old")
        set_writable(usb / old, True)
        (usb / old / "file").write_text("state 1")
        set_writable(usb / old, False)
        self.check(usb, pool, f"{old}, which it builds upon, was changed after it was sent")

    def test_an_own_snapshot_that_was_changed(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        pool = source.parent
        for number in range(2):
            (source / "file").write_text(f"state {number}")
            self.backup("-q", "-f", pool / "snaps", source, usb)
        old, new = names(usb)
        sh("btrfs", "subvolume", "delete", pool / "snaps" / new)
        self.edit(pool / "snaps" / old)
        self.check(usb, pool, f"{old}, which it builds upon, was changed after it was sent")

    def test_a_damaged_copy_beside_the_parent(self) -> None:
        _, usb = self.pair()
        old, _ = names(usb)
        pool = self.disk("new").path
        for folder in ("others", "snaps"):
            self.backup("-q", "--restore", "-f", pool / folder, usb / old, pool / f"home-{folder}")
        self.edit(pool / "others" / old)
        result = self.check(usb, pool, f"another subvolume was taken for {old}\n")
        self.assertNotIn("in full", result.err)
        self.assertTrue(shares(pool / "snaps" / names(usb)[-1], pool / "snaps" / old))

    def test_an_own_snapshot_of_that_name_that_was_changed(self) -> None:
        """It is not what is restored; one that was changed before it was sent is."""
        source, usb = self.source(), self.disk("usb").path
        pool = source.parent
        self.backup("-q", "-f", pool / "snaps", source)
        [name] = names(pool / "snaps")
        self.edit(pool / "snaps" / name)
        self.backup("-q", "-S", "-f", pool / "snaps", source, usb)
        result = self.backup("--restore", "-f", pool / "snaps", usb, pool / "one")
        self.assertIn(f"restoring {name}, which is there already", result.err)
        self.assertEqual(tree(pool / "one"), tree(usb / name))
        set_writable(pool / "snaps" / name, True)
        (pool / "snaps" / name / "later").write_text("made by hand")
        set_writable(pool / "snaps" / name, False)
        result = self.backup("--restore", "-f", pool / "snaps", usb, pool / "two", status=1)
        why = f"'{pool}/snaps/{name}' is in the way of the read-only copy: it was changed after it was sent"
        self.assertIn(why, result.err)
        self.assertFalse((pool / "two").exists())

    def check(self, usb: Path, pool: Path, why: str) -> Result:
        """The newest backup is restored as it is; WHY it is not upon what is there."""
        result = self.backup("--restore", "-f", pool / "snaps", usb, pool / "restored")
        self.assertIn(why, result.err)
        self.assert_same(pool / "snaps" / names(usb)[-1], usb / names(usb)[-1])
        self.assertEqual(tree(pool / "restored"), tree(usb / names(usb)[-1]))
        return result

    def test_no_false_alarm(self) -> None:
        """The snapshots that are there are as they were, whatever was made of them."""
        _, usb = self.pair()
        old, new = names(usb)
        pool = self.disk("new").path
        self.backup("-q", "--restore", "-f", pool / "snaps", usb / old, pool / "old")
        sh("btrfs", "subvolume", "snapshot", pool / "snaps" / old, pool / "copy")
        for writable in (True, False):
            set_writable(pool / "snaps" / old, writable)
        sh("btrfs", "balance", "start", "-m", "--full-balance", pool)
        result = self.backup("--restore", "-f", pool / "snaps", usb, pool / "restored")
        self.assertIn(f"restoring {new}, on top of {old}", result.err)
        self.assertNotIn("in full", result.err)
        self.assertEqual(tree(pool / "restored"), tree(usb / new))

    def test_back_to_a_snapshot_that_one_of_two_disks_has(self) -> None:
        """It is told that the other one would get all of it, and with what it is told that one does not."""
        source, usb = self.pair(1)
        late = self.disk("late").path
        self.backup("-q", "-S", source, late)
        self.backup("-q", source, usb)
        old, new = names(usb)
        result = self.backup("--restore", source / "snapshot" / new, source.parent / "home2")
        self.assertIn(f"{self.at(late)}: its newest backup is {old}, which stays behind", result.err)
        self.assertIn(f"restore with '-f {source}/snapshot'", result.err)
        folder = ("-f", source / "snapshot")
        result = self.backup("--restore", *folder, source / "snapshot" / new, source.parent / "home3")
        self.assertNotIn("stays behind", result.err)
        result = self.backup(*folder, source.parent / "home3", usb, late)
        self.assertNotIn("in full", result.err)
        for disk in (usb, late):
            self.assert_same(disk / names(usb)[-1], source / "snapshot" / names(usb)[-1])


class RemoteRestores(RemoteTest):
    check = Restores.check
    test_a_parent_at_the_place_that_was_changed = Restores.test_a_parent_at_the_place_that_was_changed
    test_a_damaged_copy_beside_the_parent = Restores.test_a_damaged_copy_beside_the_parent


class TwoFolders(ProofTest):
    """Two folders of the same backups on one disk: each gets increments on top of its own."""

    def folders(self, subvolumes: bool = False) -> tuple[Path, list[Path]]:
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 2)
        folders = [usb / "one", usb / "other"]
        for folder in folders if subvolumes else ():
            sh("btrfs", "subvolume", "create", folder)
        return source, folders

    def change(self, source: Path, number: int) -> None:
        """What is sent on top of a backup clones data from that, and some from itself."""
        (source / "file").write_text(f"state {number}")
        (source / f"small {number}").write_bytes(os.urandom(20_000))
        large = next(source.glob("large*"))
        for copy in (f"small copy {number}", "cloned"):
            wanted = large if copy == "cloned" else source / f"small {number}"
            sh("cp", "--reflink=always", wanted, source / copy)
        large.unlink()
        (source / "cloned").rename(source / f"large {number}")

    def check(self, source: Path, run: Callable[..., Result], *runs: list[Path], rejected: int = 0) -> None:
        """Three times RUN for each of RUNS: what is sent is small, on top of the newest, and as it should be.

        REJECTED: how often a receiver took another parent in all of them.
        """
        before, times = "", 0
        for number in range(3):
            self.change(source, number)
            self.backup("-q", source)
            [*_, newest] = names(source / "snapshot")
            for folders in runs:
                result = run("--json", "-S", source, *folders)
                times += result.err.count("another subvolume than the backup that was meant as its parent")
                self.assertNotIn("warning", result.err)
                for where in json.loads(result.out)["destinations"]:
                    [sent] = where["sent"]
                    self.assertEqual((sent["snapshot"], sent["parent"] or ""), (newest, before))
                    self.assertLess(sent["bytes"], 100_000 if before else 3_000_000)
                for folder in folders:
                    self.assert_same(folder / newest, source / "snapshot" / newest)
                    self.assertEqual(show(folder / newest)["Received UUID"], show(source / "snapshot" / newest)["UUID"])
                    self.assertTrue(not before or shares(folder / newest, folder / before))
                    self.assertEqual(being_received(folder), [])
            before = newest
        self.assertEqual(times, rejected)

    def test_in_one_run(self) -> None:
        source, folders = self.folders()
        self.check(source, self.backup, folders)
        self.assertEqual(self.backup("-q", "-n", "2", source, *folders).err, "")
        self.assertEqual([len(names(folder)) for folder in folders], [2, 2])

    def test_in_runs_of_their_own(self) -> None:
        source, folders = self.folders()
        self.check(source, self.backup, *([folder] for folder in folders))

    def test_where_a_look_does_not_show_the_other(self) -> None:
        """In subvolumes of their own: what the receiver took is rejected, and its parent is named then."""
        source, folders = self.folders(subvolumes=True)
        self.check(source, self.backup, *([folder] for folder in folders), rejected=2)

    def test_several_at_once(self) -> None:
        """Each of them on top of the one before, which comes in the same run."""
        source, (one, other) = self.folders()
        for number in range(3):
            self.change(source, number)
            self.backup("-q", source, one)
        result = self.backup("-S", source, other)
        [first, second, third] = names(source / "snapshot")
        for name, how in ((first, "in full"), (second, f"on top of {first}"), (third, f"on top of {second}")):
            self.assertIn(f"sending {name} {how}", result.err)
        self.assert_complete(other, source / "snapshot", [first, second, third])

    def test_a_damaged_one(self) -> None:
        """The good one gets its increment on top of itself, and the other one nothing on top of what is damaged."""
        source, (one, other) = self.folders()
        self.backup("-q", source, one, other)
        [old] = names(one)
        self.edit(one / old)
        (one / f".{old}.receiving").mkdir()
        self.change(source, 1)
        result = self.backup(source, other)
        [_, new] = names(other)
        self.assertIn(f"sending {new} on top of {old}", result.err)
        self.assertEqual(result.err.count("sending"), 1)
        self.assert_same(other / new, source / "snapshot" / new)


class RemoteTwoFolders(RemoteTest):
    """Sent from here, received from there, and neither end here."""

    folders, change, check = TwoFolders.folders, TwoFolders.change, TwoFolders.check

    def push(self, *arguments: object) -> Result:
        return self.moved(arguments, False, True)

    def pull(self, *arguments: object) -> Result:
        return self.moved(arguments, True, False)

    def moved(self, arguments: tuple[object, ...], pulled: bool, pushed: bool) -> Result:
        options, (source, *folders) = arguments[:2], arguments[2:]
        words = [self.at(source) if pulled else source, *(self.at(each) if pushed else each for each in folders)]
        return ProofTest.backup(self, *self.server.arguments(), *options, *words)

    def test_pushed(self) -> None:
        source, folders = self.folders()
        self.check(source, self.push, *([folder] for folder in folders))

    def test_pulled(self) -> None:
        source, folders = self.folders()
        self.check(source, self.pull, *([folder] for folder in folders))

    def test_relayed(self) -> None:
        source, folders = self.folders()
        self.check(source, self.backup, folders)


class RemoteVerification(RemoteTest):
    def test_the_newest_backup_is_gone_or_half_there(self) -> None:
        source, nas = self.source(), self.disk("nas").path
        for _ in range(2):
            self.backup(source, nas)
        newest = names(nas)[-1]
        sh("btrfs", "subvolume", "delete", nas / newest)
        told = f"{newest} is newer than what is compared, and no backup: "
        self.assertIn(f"{told}it is not there", self.backup("--verify", source, nas, status=10).err)
        stage(nas, newest)
        self.assertIn(f"{told}it is a transfer that was cut off", self.backup("--verify", source, nas, status=10).err)
