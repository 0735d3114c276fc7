"""Transfers that are cut off go on where they stopped: in every direction, and with every kind of cut."""

import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import unittest
from contextlib import suppress
from pathlib import Path

from btrfs_backup.model.cutter import checkpoints
from btrfs_backup.model.snapshot import Subvolume
from tests import cuts
from tests.cuts import left_behind
from tests.real.machine import (
    Result,
    being_received,
    child_running,
    extent,
    kill,
    names,
    path_with,
    random_file,
    sh,
    shares,
    show,
    staged,
    tree,
    untimed,
    wait_for,
    with_program,
)
from tests.real.small_parts import PART
from tests.real.sshd import Proxy, SshTest
from tests.real.test_identity import set_writable

SMALL = "tests.real.small_parts"
SIZE = 24  # MB of the streams here


def grow(top: Path, seed: int, megabytes: int = SIZE) -> None:
    """Add files of all kinds to TOP."""
    dice = random.Random(seed)
    folder = top / f"folder-{seed}"
    folder.mkdir()
    for number in range(megabytes // 2):
        (folder / f"large {number}").write_bytes(dice.randbytes(1_900_000))
    for number in range(200):
        (folder / f"small {number}").write_bytes(dice.randbytes(dice.randrange(400)))
    (folder / "sparse").write_bytes(b"x")
    os.truncate(folder / "sparse", 50 << 20)
    (folder / "text").write_text("all the same " * 100_000)
    os.link(folder / "large 0", folder / "hard link")
    (folder / "link").symlink_to("large 0")
    os.mkfifo(folder / "pipe")
    os.chown(folder / "large 1", 1234, 4321)
    os.chmod(folder / "large 1", 0o4711)
    os.setxattr(folder / "large 2", "user.what", b"ever")
    sh("cp", "--reflink=always", folder / "large 3", folder / "reflink")
    os.utime(folder / "large 4", ns=(123456789, 987654321))


class ResumedTest(SshTest):
    def assert_whole(self, backup: Path, snapshot: Path) -> None:
        """BACKUP is a complete backup of SNAPSHOT, its content is equal in all respects, and nothing is staged."""
        self.assertEqual(show(backup)["Flags"], "readonly")
        self.assertEqual(show(backup)["Received UUID"], show(snapshot)["UUID"])
        self.assert_same(backup, snapshot)
        for folder in backup.glob("folder-*"):
            self.assertEqual(extent(folder / "large 3"), extent(folder / "reflink"))
            self.assertEqual((folder / "large 0").stat().st_ino, (folder / "hard link").stat().st_ino)
            self.assertEqual(os.getxattr(folder / "large 2", "user.what"), b"ever")
            self.assertEqual((folder / "large 4").stat().st_mtime_ns, 987654321)
            self.assertLess((folder / "sparse").stat().st_blocks, 1000)
        self.assertEqual([each.name for each in backup.parent.iterdir() if each.name.startswith(".")], [])

    def cut_off(self, proxy: Proxy, megabytes: float, *arguments: object) -> Result:
        """Run until so much has gone through the PROXY, and the connection breaks."""
        before, proxy.rate = proxy.rate, 5e6  # what is written has to be marked in time, on a slow machine too
        proxy.limit = proxy.moved + int(megabytes * 1e6)
        result = self.backup(*arguments, status=10, module=SMALL)
        proxy.rate = before
        kept = r"([\d.]+ MB of it are|What has arrived of it is) kept there, and the next run goes on behind that"
        self.assertRegex(result.err, kept)
        return result

    def sent(self, proxy: Proxy, *arguments: object) -> tuple[int, dict[str, object]]:
        """Run it to its end: bytes through the PROXY, and what the JSON says of the first that was sent."""
        before = proxy.moved
        result = self.backup("--json", *arguments, module=SMALL)
        [where] = json.loads(result.out)["destinations"]
        return proxy.moved - before, where["sent"][0]


class Slow(ResumedTest):
    def test_a_slow_line_beside_a_disk(self) -> None:
        """The disk has all long before the line has, which goes on by itself where it was."""
        server, source, usb, nas = self.sshd(), self.source(), self.disk("usb").path, self.disk("nas").path
        proxy = self.proxy(server, rate=1e6)
        grow(source, 1, megabytes=14)
        url = server.url.replace(str(server.port), str(proxy.port))
        command = self.start("--json", *server.arguments(), source, usb, f"{url}{nas}", module=SMALL)
        wait_for(lambda: bool(names(usb)))
        self.assertEqual(names(nas), [])
        out, err = command.communicate(timeout=120)
        self.assertEqual(command.returncode, 0, err)
        self.assertIn(f"{url}{nas}: it is far slower than the others; it gets the rest by itself", err)
        [name] = names(source / "snapshot")
        for place in (usb, nas):
            self.assert_whole(place / name, source / "snapshot" / name)
        fast, slow = (each["sent"][0]["resumed_from"] for each in json.loads(out)["destinations"])
        self.assertEqual(fast, 0)
        self.assertGreater(slow, 0, err)
        # The next one is small, and read once for both.
        (source / "more").write_text("x")
        result = self.backup("-v", "debug", *server.arguments(), source, usb, f"{url}{nas}", module=SMALL)
        self.assertEqual(len(re.findall("running: btrfs send ", result.err)), 1)

    def test_one_that_is_only_somewhat_slower(self) -> None:
        """The source is read once."""
        server, source, usb, nas = self.sshd(), self.source(), self.disk("usb").path, self.disk("nas").path
        proxy = self.proxy(server, rate=6e6)
        random_file(source / "file", 24)
        url = server.url.replace(str(server.port), str(proxy.port))
        options = ("--rate-limit", "12M", *server.arguments())
        result = self.backup("-v", "debug", *options, source, usb, f"{url}{nas}", module=SMALL)
        self.assertEqual(len(re.findall("running: btrfs send ", result.err)), 1)
        self.assertNotIn("far slower", result.err)


class Directions(ResumedTest):
    """Cut twice, and followed to the end; the wire carries little more than the rest."""

    def there_and_back(
        self, source: Path, *arguments: object, proxy: Proxy, backups: Path, increments: bool = True
    ) -> None:
        grow(source, 1)
        self.cut_off(proxy, 9, *arguments)
        kept = len(staged(backups))
        self.assertGreater(kept, 2)
        taken = self.cut_off(proxy, 7, "-S", *arguments)
        self.assertRegex(taken.err, r"sending \d+-\d+ in full, on from \d.\d MB")
        moved, sent = self.sent(proxy, "-S", *arguments)
        [name] = names(source / "snapshot")
        self.assert_whole(backups / name, source / "snapshot" / name)
        begun, size = sent["resumed_from"], sent["bytes"]
        assert isinstance(begun, int) and isinstance(size, int)
        self.assertGreater(begun, 1e6)
        self.assertLess(moved, size - begun + 1e6)
        if not increments:
            return
        # An increment on top, cut off as well, and what follows it.
        grow(source, 2)
        self.cut_off(proxy, 9, *arguments)
        moved, sent = self.sent(proxy, "-S", *arguments)
        self.assertEqual(sent["parent"], name)
        grow(source, 3, 10)
        self.backup(*arguments, module=SMALL)
        for name in names(source / "snapshot"):
            self.assert_whole(backups / name, source / "snapshot" / name)
        self.assertEqual(len(names(backups)), 3)

    def test_push(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        self.there_and_back(source, *server.arguments(), source, f"{url}{nas}", proxy=proxy, backups=nas)

    def test_push_compressed(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        options = ("--compress", "gzip", "--rate-limit", "60M", *server.arguments())
        self.there_and_back(source, *options, source, f"{url}{nas}", proxy=proxy, backups=nas, increments=False)

    def test_pull(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        self.there_and_back(source, *server.arguments(), f"{url}{source}", nas, proxy=proxy, backups=nas)

    def test_relay(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        arguments = (*server.arguments(), "--compress", "gzip", f"{url}{source}", f"{server.url}{nas}")
        self.there_and_back(source, *arguments, proxy=proxy, backups=nas, increments=False)

    @unittest.skipUnless(shutil.which("busybox"), "needs busybox")
    def test_pull_from_busybox(self) -> None:
        """Its tools are those of small machines; what reads a byte too many would spoil it."""
        folder = self.folder / "applets"
        folder.mkdir()
        for applet in ("head", "dd", "sha256sum", "cat"):
            (folder / applet).symlink_to(str(shutil.which("busybox")))
        server = self.sshd(path=path_with(folder)["PATH"])
        source, nas = self.source(), self.disk("nas").path
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        self.there_and_back(source, *server.arguments(), f"{url}{source}", nas, proxy=proxy, backups=nas)

    def test_lost_while_it_is_hashed(self) -> None:
        """A connection that breaks while the other machine hashes what is here proves nothing: all of it stays."""
        path = with_program(self.folder / "slow", "sha256sum", 'sleep 3; exec "$REAL"')["PATH"]
        server, source, nas = self.sshd(path=path), self.source(), self.disk("nas").path
        grow(source, 1)
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        arguments = (*server.arguments(), f"{url}{source}", nas)
        self.cut_off(proxy, 9, *arguments)
        command = self.start("-S", *arguments, module=SMALL)
        wait_for(lambda: len([*nas.glob(".*.receiving/*")]) > 1)
        wait_for(lambda: "sleep 3" in sh("ps", "-eo", "args").splitlines())
        server.drop_connections()
        said = untimed(command.communicate()[1])
        self.assertEqual(command.returncode, 10, said)
        kept = re.findall(
            r"on from ([\d.]+ MB)|The connection broke.*\n  ([\d.]+ MB) of it are kept there", untimed(said)
        )
        self.assertEqual(len({"".join(each) for each in kept}), 1, said)
        _, sent = self.sent(proxy, "-S", *arguments)
        self.assertGreater(sent["resumed_from"], 1e6)
        [name] = names(nas)
        self.assert_whole(nas / name, source / "snapshot" / name)


class Cuts(ResumedTest):
    """Every kind of cut, between local disks."""

    def begun(self, source: Path, backups: Path, *options: object) -> "subprocess.Popen[str]":
        """A run that has several parts there."""
        command = self.start("--rate-limit", "20M", *options, source, backups, module=SMALL)
        wait_for(lambda: is_kept(backups))
        return command

    def killed(self, command: "subprocess.Popen[str]", *backups: Path) -> None:
        """Kill a run; its children have ended, too."""
        command.kill()
        command.wait()
        wait_for(lambda: not any(is_locked(each) for folder in backups for each in folder.glob(".*.receiving")))
        wait_for(lambda: not left_behind(self.folder))

    def followed(self, source: Path, backups: Path, *options: object, resumed: bool = True) -> Result:
        """The next run brings it to its end."""
        result = self.backup("--json", "-S", *options, source, backups, module=SMALL)
        [where] = json.loads(result.out)["destinations"]
        self.assertEqual(where["sent"][0]["resumed_from"] > 0, resumed, result)
        for name in names(source / "snapshot"):
            self.assert_whole(backups / name, source / "snapshot" / name)
        return result

    def grown(self) -> tuple[Path, Path]:
        source, backups = self.source(), self.disk("usb").path
        grow(source, 1)
        return source, backups

    def test_killed(self) -> None:
        source, backups = self.grown()
        for options in ([], ["-S"]):
            self.killed(self.begun(source, backups, *options), backups)
        status = json.loads(self.backup("--status", "--json", source, backups).out)
        [partial] = status["destinations"][0]["partial"]
        [name] = names(source / "snapshot")
        self.assertEqual(partial["snapshot"], name)
        self.assertTrue(0 < partial["bytes"] < partial["size"] < 30e6, partial)
        self.assertRegex(self.backup("--status", source, backups).out, rf"{name} is partial \(\d+ %, [\d.]+ MB of 2\d")
        dry = self.backup("--dry-run", "-S", source, backups, module=SMALL).out
        self.assertRegex(dry, rf"would send {name} in full, on from [\d.]+ MB: about [\d.]+ MB")
        self.followed(source, backups)

    def test_on_top_of_one_of_two_copies(self) -> None:
        """The parent is in another folder of the disk as well, where nothing is built upon it."""
        source, disk = self.grown()
        one, other = disk / "one", disk / "other"
        self.backup(source, one, other)
        grow(source, 2)
        self.backup(source, one)
        old, new = names(one)
        self.killed(self.begun(source, other, "-S"), other)
        result = self.followed(source, other)
        [where] = json.loads(result.out)["destinations"]
        self.assertEqual(where["sent"][0]["parent"], old)
        self.assertTrue(shares(other / new, other / old))

    def test_two_folders_of_one_disk(self) -> None:
        """What is sent to one of them is cut into parts as if the other were not there."""
        source, disk = self.grown()
        folders = [disk / "one", disk / "other"]
        run = self.start("--rate-limit", "20M", source, *folders, module=SMALL)
        wait_for(lambda: folders[0].exists() and is_kept(folders[0]))
        self.killed(run, *folders)
        told = json.loads(self.backup("--json", "-S", source, *folders, module=SMALL).out)
        resumed = [where["sent"][0]["resumed_from"] for where in told["destinations"]]
        self.assertEqual([bytes > 0 for bytes in resumed], [True, False])
        [name] = names(source / "snapshot")
        for folder in folders:
            self.assert_whole(folder / name, source / "snapshot" / name)

    def test_two_sources_with_snapshots_of_one_name(self) -> None:
        """Each goes on with its own part, and leaves that of the other alone."""
        source, backups = self.grown()
        other, name = self.subvolume(source.parent / "other"), "20260101-000000"
        grow(other, 7)
        for each in (source, other):
            (each / "snapshot").mkdir()
            sh("btrfs", "subvolume", "snapshot", "-r", each, each / "snapshot" / name)
        self.killed(self.begun(source, backups, "-S"), backups)
        parts = staged(backups)
        second = self.start("--rate-limit", "20M", "-S", other, backups, module=SMALL)
        wait_for(lambda: len(list(backups.glob(".*.receiving.2/*/written*"))) > 2)
        self.killed(second, backups)
        self.assertLessEqual(set(parts), set(staged(backups)))
        told = f"leaving .{name}.receiving alone: it is of another source, whose transfer was cut off"
        result = self.backup("--status", other, backups)
        self.assertIn(told, result.err)
        self.assertRegex(result.out, rf"{name} is partial \(\d+ %")
        [where] = json.loads(self.backup("--json", "-S", source, backups, module=SMALL).out)["destinations"]
        self.assertGreater(where["sent"][0]["resumed_from"], 0)
        self.assert_same(backups / name, source / "snapshot" / name)
        # The other one could not get that name any more, and clears up.
        self.assertEqual(being_received(backups), [name])
        before = show(backups / name)["UUID"]
        self.assertIn("is in the way", self.backup("-S", other, backups, status=10).err)
        self.assertEqual((being_received(backups), show(backups / name)["UUID"]), ([], before))

    def test_ended_by_a_signal(self) -> None:
        source, backups = self.grown()
        command = self.begun(source, backups)
        command.send_signal(signal.SIGINT)
        self.assertEqual(command.wait(), 130)
        self.followed(source, backups)

    def test_receiver_is_killed(self) -> None:
        source, backups = self.grown()
        command = self.begun(source, backups)
        kill(wait_for(lambda: child_running(command.pid, "btrfs", "receive")))
        _, err = command.communicate()
        self.assertEqual(command.returncode, 10, err)
        self.assertRegex(err, r"[\d.]+ MB of it are kept there, and the next run goes on behind that")
        self.followed(source, backups)

    def test_many_small_ones(self) -> None:
        """The first is too small to be cut, and together they are enough for the disk to be made to write meanwhile."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source)
        for number in range(4):
            (source / f"file{number}").write_bytes(os.urandom(1_500_000))
            self.backup(source)
        self.backup("-S", source, usb, module=SMALL)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_sender_is_killed(self) -> None:
        source, backups = self.grown()
        command = self.begun(source, backups)
        kill(wait_for(lambda: child_running(command.pid, "btrfs", "send")))
        command.communicate()
        self.assertEqual(command.returncode, 10)
        self.followed(source, backups)

    def test_killed_before_it_is_published(self) -> None:
        """All of it is there, and has not got its name yet."""
        source, backups = self.grown()
        script = f'case "$*" in "subvolume snapshot -r"*{backups}/2*) kill -9 $PPID;; *) exec $REAL "$@";; esac'
        command = self.start(source, backups, module=SMALL, env=with_program(self.folder / "bin", "btrfs", script))
        command.communicate()
        [name] = names(source / "snapshot")
        self.assertIn(name, [each.name for each in staged(backups)])
        wait_for(lambda: not any(map(is_locked, backups.glob(".*.receiving"))))
        self.followed(source, backups)

    def test_marks_that_cannot_be_made(self) -> None:
        """Then it cannot go on, and that is no failure."""
        source, backups = self.grown()
        script = 'case "$*" in "subvolume create "*written*) exit 1; esac; exec $REAL "$@"'
        options = ("--rate-limit", "20M", source, backups)
        self.backup(*options, module=SMALL, env=with_program(self.folder / "bin", "btrfs", script))
        [name] = names(source / "snapshot")
        self.assert_whole(backups / name, source / "snapshot" / name)

    def test_full_disk(self) -> None:
        """The parts stay: the snapshot is still wanted."""
        source, backups = self.source(), self.disk("usb").path
        filler = backups / "filler"
        filler.write_bytes(os.urandom(1 << 20) * ((shutil.disk_usage(backups).free - (14 << 20)) >> 20))
        sh("sync", "-f", backups)
        grow(source, 1)
        # What is written has to be marked in time.
        result = self.backup("--rate-limit", "6M", source, backups, status=10, module=SMALL)
        self.assertRegex(result.err, r"No space left|disk full")
        self.assertRegex(result.err, r"[\d.]+ MB of it are kept there")
        filler.unlink()
        sh("btrfs", "filesystem", "sync", backups)
        self.followed(source, backups)

    def test_power_of_the_destination_fails(self) -> None:
        """What the disk has at that moment is gone on with."""
        source, usb = self.source(), self.disk("usb")
        grow(source, 1)
        command = self.begun(source, usb.path)
        image = self.folder / "at that moment"
        shutil.copyfile(usb.image, image)
        self.killed(command, usb.path)
        usb.unmount()
        shutil.copyfile(image, usb.image)
        usb.mount()
        self.assertTrue(staged(usb.path))
        self.followed(source, usb.path)

    def test_another_stream(self) -> None:
        """It is proved by what comes, not by the names: then all is sent, and that is said."""
        source, backups = self.grown()
        command = self.begun(source, backups)
        self.killed(command, backups)
        [name] = names(source / "snapshot")
        snapshot = source / "snapshot" / name
        sh("btrfs", "property", "set", "-ts", snapshot, "ro", "false")
        (snapshot / "folder-1" / "large 1").write_bytes(os.urandom(1_900_000))
        sh("btrfs", "property", "set", "-ts", snapshot, "ro", "true")
        result = self.followed(source, backups, resumed=False)
        self.assertIn("the stream is not the one that was cut off\n  It is sent from its beginning.", result.err)

    def test_part_is_changed(self) -> None:
        """As a tool does that keeps the received UUID: it goes on behind the part before."""
        source, backups = self.grown()
        command = self.begun(source, backups)
        wait_for(lambda: is_kept(backups, 3))
        self.killed(command, backups)
        part = last_kept(backups)
        set_writable(part, True)
        (part / "file").write_text("changed")
        set_writable(part, False)
        self.followed(source, backups)

    def test_parent_is_changed(self) -> None:
        """What builds upon it goes, and it is sent in full in the same run."""
        source, backups = self.grown()
        self.backup(source, backups, module=SMALL)
        [first] = names(backups)
        grow(source, 2)
        command = self.begun(source, backups)
        self.killed(command, backups)
        set_writable(backups / first, True)
        (backups / first / "file").write_text("changed")
        set_writable(backups / first, False)
        result = self.backup("-S", source, backups, module=SMALL)
        self.assertIn(f"{first}, which it builds upon, was changed after it was sent", result.err)
        second = names(source / "snapshot")[1]
        self.assertIn(f"sending {second} in full, because no backup there can be used as its parent\n", result.err)
        self.assert_whole(backups / second, source / "snapshot" / second)

    def test_another_stream_in_its_second_half(self) -> None:
        """It goes on from the last part that is proved."""
        source, backups = self.grown()
        command = self.start("--rate-limit", "20M", source, backups, module=SMALL)
        wait_for(lambda: is_kept(backups, 6))
        self.killed(command, backups)
        [name] = names(source / "snapshot")
        snapshot = source / "snapshot" / name
        sh("btrfs", "property", "set", "-ts", snapshot, "ro", "false")
        (snapshot / "folder-1" / "large 5").write_bytes(os.urandom(1_900_000))
        sh("btrfs", "property", "set", "-ts", snapshot, "ro", "true")
        result = self.backup("-S", source, backups, module=SMALL)
        self.assertIn("the stream is not the one that was cut off", result.err)
        self.assert_whole(backups / name, snapshot)

    def test_not_wanted_any_more(self) -> None:
        """Parts go when their snapshot does, and when it would be deleted again."""
        for how in ("gone", "old"):
            with self.subTest(how):
                source = self.source(f"pool-{how}")
                backups = self.disk(f"usb-{how}").path
                grow(source, 1)
                command = self.begun(source, backups)
                self.killed(command, backups)
                [name] = names(source / "snapshot")
                if how == "gone":
                    sh("btrfs", "subvolume", "delete", source / "snapshot" / name)
                shutil.rmtree(source / "folder-1")
                self.backup("-n", "1", source, backups, module=SMALL)
                self.assertNotIn(name, names(backups))
                self.assertEqual([*backups.glob(".*")], [])

    def test_shared_stream(self) -> None:
        """Each destination has a place of its own in it, and who is ahead does not wait or get it again."""
        source, one, two = self.source(), self.disk("one").path, self.disk("two").path
        grow(source, 1)
        command = self.begun(source, one)
        self.killed(command, one)
        command = self.start("--rate-limit", "20M", "-S", source, one, two, module=SMALL)
        wait_for(lambda: is_kept(two, 5))
        self.killed(command, one, two)
        result = self.backup("--json", "-S", source, one, two, module=SMALL)
        begun = [each["sent"][0]["resumed_from"] for each in json.loads(result.out)["destinations"]]
        self.assertTrue(begun[1] > begun[0] > 0, begun)
        [name] = names(source / "snapshot")
        for where in (one, two):
            self.assert_whole(where / name, source / "snapshot" / name)

    def test_shared_stream_in_parts(self) -> None:
        source, one, two = self.source(), self.disk("one").path, self.disk("two").path
        grow(source, 1)
        command = self.start("--rate-limit", "20M", source, one, two, module=SMALL)
        wait_for(lambda: is_kept(one) and is_kept(two))
        self.killed(command, one, two)
        self.backup("-S", source, one, two, module=SMALL)
        [name] = names(source / "snapshot")
        for where in (one, two):
            self.assert_whole(where / name, source / "snapshot" / name)

    def test_two_runs_go_on_with_it(self) -> None:
        """One of them does, the other one says why not."""
        source, backups = self.grown()
        command = self.begun(source, backups)
        self.killed(command, backups)
        # Another source folder with the same snapshots has a run lock of its own.
        [name] = names(source / "snapshot")
        other = self.folder / "pool" / "other"
        sh("btrfs", "subvolume", "create", other)
        (other / "snapshot").mkdir()
        sh("btrfs", "subvolume", "snapshot", "-r", source / "snapshot" / name, other / "snapshot" / name)
        command = self.start("--rate-limit", "1M", "-S", source, backups, module=SMALL)
        wait_for(lambda: any(map(is_locked, backups.glob(".*.receiving"))))
        result = self.backup("-S", other, backups, status=10, module=SMALL)
        self.assertIn(f"{name} is being received there already, by process {command.pid} on", result.err)
        self.killed(command, backups)
        self.followed(source, backups)


def is_kept(backups: Path, count: int = 2) -> bool:
    """Whether COUNT parts are in a stage there that count."""
    return len(checkpoints(looked_at(backups))) >= count


def last_kept(backups: Path) -> Path:
    """The part behind which it goes on."""
    last = checkpoints(looked_at(backups))[-1].source
    return next(each for each in staged(backups) if show(each)["UUID"] == last)


def looked_at(backups: Path) -> list[Subvolume]:
    return [
        Subvolume(each.name, its["UUID"], its["Parent UUID"], its["Received UUID"], id=int(its["Subvolume ID"]))
        for each in staged(backups)
        for its in [show(each)]
    ]


def is_locked(stage: Path) -> bool:
    """Whether a receiver holds that STAGE."""
    with suppress(FileNotFoundError):
        descriptor = os.open(stage, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


class Restored(ResumedTest):
    """A restore that is cut off goes on, too."""

    def test_something_else_is_there(self) -> None:
        """It is told, and what has arrived stays."""
        source, usb, new = self.source(), self.disk("usb").path, self.disk("new").path
        grow(source, 1)
        self.backup("-q", source, usb)
        command = self.start("--rate-limit", "20M", "--restore", usb, new / "home", module=SMALL)
        wait_for(lambda: is_kept(new))
        command.terminate()
        command.communicate()
        kept = staged(new)
        self.assertTrue(is_kept(new))
        (new / "home").mkdir()
        self.backup("--restore", usb, new / "home", status=1, module=SMALL)
        self.assertEqual(staged(new), kept)
        (new / "home").rmdir()
        planned = self.backup("--dry-run", "--restore", usb, new / "home", module=SMALL).out
        self.assertRegex(planned, r"would send about [\d.]+ MB, on from [\d.]+ MB, ")
        result = self.backup("--json", "--restore", usb, new / "home", module=SMALL)
        self.assertRegex(result.err, r"restoring \S+, in full, on from [\d.]+ MB\n")
        self.assertGreaterEqual(json.loads(result.out)["sent"]["resumed_from"], PART // 2)

    def restored(self, source: Path, backup: Path, where: str, url: str, proxy: Proxy, *options: str) -> None:
        arguments = (*options, "--restore", f"{url}{backup}", where)
        proxy.limit = proxy.moved + 9_000_000
        result = self.backup(*arguments, status=1, module=SMALL)
        self.assertRegex(result.err, r"[\d.]+ MB of it are kept; the same command goes on behind them")
        proxy.limit = proxy.moved + 7_000_000
        self.backup(*arguments, status=1, module=SMALL)
        dry = json.loads(self.backup("--dry-run", "--json", *arguments, module=SMALL).out)
        before = proxy.moved
        result = self.backup("--json", *arguments, module=SMALL)
        sent = json.loads(result.out)["sent"]
        self.assertGreater(sent["resumed_from"], 1e6)
        self.assertEqual(dry["sent"]["resumed_from"], sent["resumed_from"])
        self.assertLess(proxy.moved - before, sent["bytes"] - sent["resumed_from"] + 1e6)
        new = Path(where)
        self.assertEqual(tree(new / "folder-1"), tree(source / "folder-1"))
        self.assert_same(new / "snapshot" / backup.name, backup)
        self.assertEqual(show(new / "snapshot" / backup.name)["Received UUID"], show(backup)["Received UUID"])
        self.assertEqual([each.name for each in new.parent.iterdir() if each.name.startswith(".")], [])

    def test_over_ssh(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        grow(source, 1)
        self.backup(source, nas)
        [name] = names(nas)
        proxy = self.proxy(server, 10e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        where = self.disk("new").path / "home"
        self.restored(source, nas / name, str(where), url, proxy, *server.arguments())


class Anywhere(SshTest):
    """A sample of the soak."""

    def test_cut(self) -> None:
        cuts.soak(self, 5, 1)


if __name__ == "__main__":
    unittest.main()
