"""Backups are brought back: whole or not at all, and the chain goes on."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from btrfs_backup.system import hints
from tests.real.machine import (
    Disk,
    child_running,
    children_of,
    is_readonly,
    is_running,
    kill,
    lying_btrfs,
    names,
    path_with,
    random_file,
    sh,
    shares,
    show,
    stage,
    staged,
    tree,
    wait_for,
)
from tests.real.sshd import SshTest
from tests.real.test_identity import set_writable
from tests.real.test_parents import NO_INCREMENTS

STAGE = ".receiving"
OLDEST = "20010101-000000"
LATEST = "29991231-235959"


NEXT = "its next backup, if it replaces the original (else give it a folder of its own): "


class RestoreTest(SshTest):
    def backed_up(self, *options: object, pool: str = "pool") -> tuple[Path, Path]:
        """A source with two backups that differ, and the folder of these."""
        source, usb = self.source(pool), self.disk("usb").path / "home"
        random_file(source / "large", 3)
        self.backup(*options, source, usb)
        (source / "file").write_text("two")
        self.backup(*options, source, usb)
        return source, usb

    def restore(self, *arguments: object, status: int = 0) -> str:
        return self.backup("--restore", *arguments, status=status).err

    def assert_restored(self, destination: Path, backup: Path, folder: Path | None = None) -> None:
        """DESTINATION is a writable subvolume with the content of BACKUP, its read-only copy in place; that is all."""
        copy = (folder or destination / "snapshot") / backup.name
        self.assertEqual((show(destination)["Flags"], show(destination)["Received UUID"]), ("-", "-"))
        self.assertTrue(is_readonly(copy))
        self.assert_same(copy, backup)
        content, restored = tree(backup), tree(destination)
        self.assertEqual({path: restored.get(path) for path in content}, content)
        for path in restored.keys() - content.keys():
            self.assertIn(destination / path, copy.parents)
        wanted = show(backup)["Received UUID"] if show(backup)["Received UUID"] != "-" else show(backup)["UUID"]
        self.assertEqual(show(copy)["Received UUID"], wanted)
        self.assert_no_stage(destination.parent, copy.parent)

    def assert_no_stage(self, *folders: Path) -> None:
        for folder in folders:
            self.assertEqual([name for name in os.listdir(folder) if STAGE in name], [])

    def assert_goes_on(self, destination: Path, backups: Path, parent: str, *options: object) -> str:
        """The next backup of DESTINATION is sent as a tiny increment on top of PARENT; its name."""
        result = self.backup(*options, destination, backups)
        self.assertRegex(result.err, rf"sending \S+ on top of {parent}\n")
        self.assertRegex(result.err, r"sent 1 snapshot \(1 incremental, (\d+ B|\d\.\d kB)\)")
        newest = names(backups)[-1]
        self.assertTrue(shares(backups / newest, backups / parent))
        return newest


class Ways(RestoreTest):
    def test_newest_complete_one_onto_a_new_filesystem(self) -> None:
        """The disk of the source is lost. Beside the backups there are a newer partial one and foreign things."""
        source, usb = self.backed_up()
        newest = names(usb)[-1]
        pool = source.parent
        sh("umount", pool)
        pool.with_suffix(".img").unlink()
        Disk(self.folder, pool, 256)
        sh("btrfs", "subvolume", "create", usb / LATEST)
        (usb / "29991231-235957").mkdir()
        sh("btrfs", "subvolume", "snapshot", "-r", usb / LATEST, usb / "29991231-235958")
        err = self.restore(usb, source)
        self.assert_restored(source, usb / newest)
        self.assertEqual((source / "file").read_text(), "two")
        for name, why in (
            (LATEST, "it is writable, and not a backup"),
            ("29991231-235958", "was not received"),
            ("29991231-235957", "not a subvolume"),
        ):
            self.assertRegex(err, f"warning: .*passing over {name}: .*{why}")
        stamp = re.sub(r"(....)(..)(..)-(..)(..)(..)", r"\1-\2-\3 \4:\5:\6", newest)
        last = err.splitlines()[-2:]
        self.assertIn(f"{source}: restored {newest}, taken {stamp}, from {usb} (", last[0])
        self.assertEqual(
            last[1],
            f"{NEXT}btrfs-backup {source} {usb}",
        )
        (usb / "29991231-235957").rmdir()
        sh("btrfs", "subvolume", "delete", usb / LATEST, usb / "29991231-235958")
        latest = self.assert_goes_on(source, usb, newest)
        self.assert_same(usb / latest, source / "snapshot" / latest)

    def test_one_backup(self) -> None:
        """Its prefix is that of its name."""
        source, usb = self.backed_up("-p", "home-")
        oldest = names(usb)[0]
        destination = source.parent / "new home"
        err = self.restore(f"{usb / oldest}/", destination)
        self.assert_restored(destination, usb / oldest)
        self.assertEqual((destination / "file").read_text(), "one")
        self.assertIn(f"btrfs-backup -p home- '{destination}' {usb}\n", err)
        (self.folder / "latest").symlink_to(usb / oldest)
        self.restore("-q", "-p", "home-", self.folder / "latest", source.parent / "again")
        self.assert_restored(source.parent / "again", usb / oldest)

    def test_only_the_difference_when_older_snapshots_are_there(self) -> None:
        """The subvolume and its newest snapshot are lost; the others are in a folder of their own."""
        snapshots = self.folder / "pool" / "snaps"
        source, usb = self.backed_up("-f", snapshots)
        old, new = names(usb)
        sh("btrfs", "subvolume", "delete", source, snapshots / new)
        err = self.restore("-f", snapshots, usb, source)
        self.assertIn(f"restoring {new}, on top of {old}\n", err)
        self.assertRegex(err, r"received \S+: [\d.]+ k?B in")
        self.assert_restored(source, usb / new, snapshots)
        self.assertEqual(show(snapshots / new)["Parent UUID"] == "-", False)
        again = source.parent / "again"
        err = self.restore("-f", snapshots, usb, again)
        self.assertIn(f"restoring {new}, which is there already\n", err)
        self.assertIn("(nothing had to be sent)", err)
        self.assert_restored(again, usb / new, snapshots)
        self.assertIn(f"btrfs-backup -f {snapshots} {again} {usb}\n", err)
        self.assert_goes_on(again, usb, new, "-f", snapshots)
        # What is on top of a restored one is received on top of it, too.
        newest = names(usb)[-1]
        sh("btrfs", "subvolume", "delete", snapshots / newest)
        self.assertIn(f"on top of {new}", self.restore("-f", "../snaps", usb, source.parent / "third"))

    def test_a_snapshot_of_that_name_with_other_content_is_no_parent(self) -> None:
        _, usb = self.backed_up()
        old, new = names(usb)
        other = self.subvolume(self.disk("other").path / "other")
        snapshots = other.parent / "snaps"
        snapshots.mkdir()
        sh("btrfs", "subvolume", "snapshot", "-r", other, snapshots / old)
        self.assertIn(f"restoring {new}, in full", self.restore("-f", snapshots, usb, other.parent / "home"))
        self.assert_restored(other.parent / "home", usb / new, snapshots)
        err = self.restore("-f", snapshots, usb / old, other.parent / "home2", status=1)
        self.assertIn(f"'{snapshots / old}' is in the way of the read-only copy", err)
        self.assertEqual(names(other.parent), ["home", "other", "snaps"])

    def test_a_parent_that_cannot_be_used(self) -> None:
        """Then it is sent in full: when somebody has changed it, or no increment can be received at all."""
        _, usb = self.backed_up()
        old, new = names(usb)
        pool = self.disk("other").path
        self.restore("-f", pool / "snaps", usb / old, pool / "old")
        set_writable(pool / "snaps" / old, True)
        (pool / "snaps" / old / "file").unlink()
        set_writable(pool / "snaps" / old, False)
        err = self.restore("-f", pool / "snaps", usb, pool / "new")
        self.assertIn(f"{pool}/new: restoring {new}, on top of {old}\n", err)
        self.assertIn(f"warning: {pool}/new: restoring {new} failed: btrfs receive: ERROR: ", err)
        self.assertIn("\n  Sending it in full.\n", err)
        self.assert_restored(pool / "new", usb / new, pool / "snaps")
        lies = path_with(lying_btrfs(self.folder / "lies", NO_INCREMENTS))
        result = self.backup("--restore", "--json", usb, usb.parent / "new", env=lies)
        self.assertIn("sharing its data", result.err)
        self.assertIsNone(json.loads(result.out)["sent"]["parent"])
        self.assert_restored(usb.parent / "new", usb / new)

    def test_own_snapshots_share_their_data(self) -> None:
        """An accident: back to the newest snapshot, which was not received, although an older one was."""
        source, usb = self.backed_up()
        self.restore(usb, source.parent / "home2")
        home = source.parent / "home2"
        random_file(home / "more", 3)
        self.backup(home, usb)
        newest = names(usb)[-1]
        (home / "file").unlink()
        err = self.restore(home / "snapshot", home, status=1)
        self.assertIn(f"mv {home} {home}.old\n  The backup is then {home}.old/snapshot\n", err)
        home.rename(f"{home}.old")
        err = self.restore(f"{home}.old/snapshot", home)
        self.assertIn(f"restoring {newest}, sharing its data on the same filesystem\n", err)
        self.assertRegex(err, r"received \S+: \d+ B in")
        self.assertIn(
            f"{NEXT}btrfs-backup {home} DEST\n",
            err,
        )
        self.assert_restored(home, Path(f"{home}.old/snapshot/{newest}"))
        used = sh("btrfs", "filesystem", "du", "--raw", "-s", home / "snapshot" / newest).splitlines()[1].split()
        self.assertEqual(used[1], "0")
        self.assert_goes_on(home, usb, newest)
        self.assertIn("in full", self.restore("-I", usb / newest, source.parent / "full"))

    def test_no_stubs_of_older_snapshots(self) -> None:
        """In the snapshot folder; what else is nested leaves an empty folder, as in every snapshot."""
        source, usb = self.backed_up("-p", "x-")
        sh("btrfs", "subvolume", "create", source / "snapshot" / "mine")
        sh("btrfs", "subvolume", "create", source / OLDEST)
        self.backup("-p", "x-", source, usb)
        home, newest = source.parent / "home2", names(usb)[-1]
        self.restore("-p", "x-", source / "snapshot", home)
        self.assertEqual(names(home / "snapshot"), ["mine", newest])
        self.assertEqual(list((home / OLDEST).iterdir()), [])
        result = self.backup("-p", "x-", home, usb)
        self.assertNotIn("warning", result.err)
        self.assertIn(f"on top of {newest}\n", result.err)
        self.backup("-p", "x-", "--verify=all", home, usb)

    def test_other_mounts_of_the_same_filesystem(self) -> None:
        """Data is shared when a receiver can see the backup from where it works."""
        source, usb = self.backed_up()
        name, pool = names(usb)[-1], source.parent
        device = sh("findmnt", "-n", "-o", "SOURCE", pool).strip()
        part = self.folder / "part"
        part.mkdir()
        sh("mount", "-o", "subvol=home", device, part)
        self.addCleanup(sh, "umount", part)
        self.assertIn("sharing its data", self.restore(part / "snapshot" / name, pool / "one"))
        self.assert_restored(pool / "one", source / "snapshot" / name)
        outside = self.subvolume(pool / "outside")
        sh("btrfs", "subvolume", "snapshot", "-r", outside, outside / OLDEST)
        self.assertIn("in full", self.restore(outside / OLDEST, part / "two"))
        self.assert_restored(part / "two", outside / OLDEST)

    def test_folder_of_the_copy(self) -> None:
        source, usb = self.backed_up()
        name, pool = names(usb)[-1], source.parent
        self.restore("-f", "a/b c", usb, pool / "one")
        self.assert_restored(pool / "one", usb / name, pool / "one" / "a" / "b c")
        self.restore("-f", ".", usb, pool / "two")
        self.assert_restored(pool / "two", usb / name, pool / "two")
        self.restore("-f", pool / "new", usb, pool / "three")
        self.assert_restored(pool / "three", usb / name, pool / "new")

    def test_stored_streams(self) -> None:
        """As the README tells: received one after the other on the disk where they are wanted."""
        source, box = self.source(), self.folder / "box"
        box.mkdir()
        shell = f"shell://gzip > {box}/$BTRFS_BACKUP_SNAPSHOT.gz"
        for _ in range(3):
            (source / "file").write_text(str(time.monotonic()))
            self.backup(source, shell)
        new = self.disk("new").path
        (new / "restored").mkdir()
        for stored in names(box):
            sh("sh", "-c", 'gzip -dc "$0" | btrfs receive "$1"', box / stored, new / "restored")
        err = self.restore(new / "restored", new / "home")
        self.assertIn("sharing its data", err)
        self.assertIn(
            f"{NEXT}btrfs-backup {new}/home DEST\n",
            err,
        )
        self.assert_restored(new / "home", source / "snapshot" / names(source / "snapshot")[-1])
        result = self.backup(new / "home", shell)
        self.assertIn("sent 2 snapshots (1 incremental", result.err)

    def test_a_link_where_the_copy_is_to_go(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        elsewhere = source.parent / "elsewhere"
        elsewhere.mkdir()
        (source / "snapshot").symlink_to(elsewhere)
        self.backup(source, usb)
        err = self.restore(usb, source.parent / "new", status=1)
        self.assertIn("in the backup, a file or a link is there", err)
        self.restore("-f", "snaps", usb, source.parent / "new")
        self.assert_restored(source.parent / "new", usb / names(usb)[0], source.parent / "new" / "snaps")
        self.assertEqual(len(names(elsewhere)), 1)


class Ssh(RestoreTest):
    def test_from_another_machine_to_another_one(self) -> None:
        """Under sudo, compressed, incrementally; the machines are found to be the same one."""
        server = self.sshd()
        source, usb = self.backed_up()
        self.user("/bin/sh")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        pool, (old, new) = source.parent, names(usb)
        url = server.url.replace("//", f"//{self.login}@")
        options = [*server.arguments(), "--ssh-sudo"]
        self.restore(*options, "--compress", "gzip", f"{url}{usb}", pool / "from")
        self.assert_restored(pool / "from", usb / new)
        err = self.restore(*options, usb / old, f"{url}{pool}/to it's")
        self.assert_restored(pool / "to it's", usb / old)
        self.assertIn(f" --ssh-sudo '{url}{pool}/to it'\"'\"'s' {usb}\n", err)
        copies = ("-f", pool / "to it's" / "snapshot")
        err = self.restore(*options, "--rate-limit", "50M", *copies, f"{url}{usb}", f"{url}{pool}/both")
        self.assertIn(f"on top of {old}", err)
        self.assert_restored(pool / "both", usb / new, pool / "to it's" / "snapshot")
        err = self.restore(*options, f"{url}{pool}/from/snapshot", f"{url}{pool}/same")
        self.assertIn("sharing its data", err)
        self.assert_restored(pool / "same", usb / new)
        err = self.restore(*options, f"{url}{pool}/from/snapshot", f"{url}{pool}/same", status=1)
        self.assertIn(f"Move it away: mv {pool}/same {pool}/same.old (on 127.0.0.1)", err)
        self.assert_goes_on(pool / "from", usb, new)

    def test_other_side_with_nothing_but_busybox(self) -> None:
        busybox = shutil.which("busybox")
        if not busybox:
            self.skipTest("needs busybox")
        source, usb = self.backed_up()
        tools = self.tools("btrfs", "bash", "sh", "flock")
        for name in set(hints.REMOTE_PROGRAMS) - {"btrfs", "flock"}:
            (tools / name).symlink_to(busybox)
        server = self.sshd(path=tools)
        new = source.parent / "new"
        stage(new.parent, new.name)
        self.restore(*server.arguments(), f"{server.url}{usb}", f"{server.url}{new}")
        self.assert_restored(new, usb / names(usb)[-1])

    def test_connection_that_breaks(self) -> None:
        server = self.sshd()
        source, usb = self.backed_up()
        proxy = self.proxy(server, 3e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        command = self.start("--restore", *server.arguments(), f"{url}{usb}", source.parent / "new")
        wait_for(lambda: staged(source.parent) and proxy.moved > 100_000)
        server.drop_connections()
        _, err = command.communicate()
        self.assertEqual(command.returncode, 1, err)
        self.assertIn("The connection broke; run it again.", err)
        self.assertEqual(names(source.parent), ["home"])


class CutOff(RestoreTest):
    def begin(self) -> tuple[Path, Path, "subprocess.Popen[str]", int]:
        """A restore that is under way: receive has begun, and is stopped."""
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 20)
        self.backup(source, usb)
        self.new = self.disk("new").path
        command = self.start("--restore", usb, self.new / "home")
        receive = wait_for(lambda: child_running(command.pid, "btrfs", "receive"))
        wait_for(lambda: staged(self.new))
        kill(receive, signal.SIGSTOP)
        return usb, self.new / "home", command, receive

    def test_killed(self) -> None:
        usb, home, command, receive = self.begin()
        kill(command.pid)
        command.communicate()
        wait_for(lambda: not is_running(receive))
        [part] = staged(self.new)
        self.assertEqual(os.listdir(self.new), [f".home{STAGE}"])
        self.assertEqual((self.new / f".home{STAGE}").stat().st_mode & 0o777, 0o700)
        # For the same destination, whichever backup it is.
        name = names(usb)[0]
        sh("btrfs", "subvolume", "snapshot", part, part.parent / "home")
        sh("btrfs", "subvolume", "create", part.parent / "home" / "nested")
        err = self.restore(usb, home)
        self.assertIn("removed what a restore that was cut off had left", err)
        self.assert_restored(home, usb / name)
        self.assertEqual(names(self.new), ["home"])

    def test_signal(self) -> None:
        _, home, command, receive = self.begin()
        command.send_signal(signal.SIGTERM)
        kill(receive, signal.SIGCONT)
        _, err = command.communicate()
        self.assertEqual(command.returncode, 128 + signal.SIGTERM, err)
        self.assertIn(f"{home}: ended by SIGTERM; it is not restored; run the same command again", err)
        self.assertEqual(names(self.new), [])

    def test_dry_run_leaves_it_alone(self) -> None:
        """What was cut off, and everything else; it says what the next try would do."""
        usb, home, command, receive = self.begin()
        kill(command.pid)
        command.communicate()
        wait_for(lambda: not is_running(receive))
        result = self.backup("--restore", "--dry-run", usb, home)
        self.assertIn(f"would restore {names(usb)[0]} from {usb}, in full", result.out)
        self.assertEqual(result.err, "")
        self.assertEqual(len(staged(self.new)), 1)

    def test_second_run(self) -> None:
        usb, home, command, receive = self.begin()
        err = self.restore(usb, home, status=3)
        self.assertIn(f"'{home}' is being received already, by process {command.pid} on ", err)
        kill(receive, signal.SIGCONT)
        command.communicate()
        self.assertEqual(command.returncode, 0)
        self.assert_restored(home, usb / names(usb)[0])

    def test_lock_of_the_snapshot_folder(self) -> None:
        source, usb = self.backed_up()
        descriptor = os.open(source / "snapshot" / ".btrfs-backup.lock", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        err = self.restore("-f", source / "snapshot", usb, source.parent / "new", status=3)
        self.assertIn(f"process {os.getpid()} (", err)
        self.assertEqual(names(source.parent), ["home"])
        waiting = self.start("--restore", "--lock-wait=20", "-f", source / "snapshot", usb, source.parent / "new")
        assert waiting.stderr
        self.assertIn("waiting: another run works on", waiting.stderr.readline())
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        waiting.communicate()
        self.assertEqual(waiting.returncode, 0)

    def test_killed_at_any_moment(self) -> None:
        """The destination is absent or whole; one more try makes it whole, or says that it is, and clears up."""
        source, usb = self.backed_up()
        name, pool = names(usb)[-1], source.parent
        home, snapshots = pool / "new", pool / "snaps"
        started = time.monotonic()
        self.restore(usb, home)
        duration = time.monotonic() - started
        for number in range(5):
            folder = ("-f", snapshots) if number % 2 else ()
            self.remove(home, snapshots)
            command = self.start("--restore", *folder, usb, home)
            time.sleep(duration * (0.4 + number * 0.14))
            # Stopped, it starts no further step while we look for the last one.
            kill(command.pid, signal.SIGSTOP)
            state = Path(f"/proc/{command.pid}/stat")
            wait_for(lambda state=state: state.read_text().rpartition(")")[2].split()[0] in "TZ")
            last_steps = children_of(command.pid)
            kill(command.pid)
            command.communicate()
            wait_for(lambda pids=last_steps: not any(is_running(pid) for pid in pids))
            done = home.exists()
            if done:
                self.assert_same(home, usb / name)
                self.assertTrue(is_readonly((snapshots if folder else home / "snapshot") / name))
            err = self.restore(*folder, usb, home, status=1 if done else 0)
            self.assertEqual("exists" in err, done)
            self.assert_restored(home, usb / name, snapshots if folder else None)

    def remove(self, home: Path, snapshots: Path) -> None:
        subvolumes = [path for path in (*home.glob("snapshot/2*"), home, *snapshots.glob("2*")) if path.exists()]
        if subvolumes:
            sh("btrfs", "subvolume", "delete", *subvolumes)
        sh("rm", "-rf", snapshots)

    def test_full_disk(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 40)
        self.backup(source, usb)
        small = self.disk("small", 36).path
        free = os.statvfs(small).f_bavail
        for folder in ("snapshot", small / "snaps"):
            err = self.restore("-f", folder, usb, small / "home", status=1)
            self.assertIn("No space left on device", err)
            self.assertEqual(names(small), [])
        wait_for(lambda: os.statvfs(small).f_bavail > free * 0.9)

    def test_leftovers_that_are_not_ours(self) -> None:
        """Beside a destination that is there; what is in the stage and not made by a restore survives."""
        source, usb = self.backed_up()
        home = source.parent / "new"
        self.restore(usb, home)
        left = stage(home.parent, "new").parents[1]
        err = self.restore(usb, home, status=1)
        self.assertIn("removed what a restore that was cut off had left", err)
        self.assertIn(f"mv {home} {home}.old", err)
        self.assertFalse(left.exists())
        left.mkdir()
        (left / "precious").write_text("data")
        sh("btrfs", "subvolume", "create", left / "other")
        err = self.restore(usb, home, status=1)
        self.assertIn(f"leaving {left} alone: 'other' is in it, which is not of a transfer", err)
        home.rename(f"{home}.old")
        self.restore(usb, home)
        self.assertEqual((left / "precious").read_text(), "data")
        self.assertEqual(sorted(os.listdir(home.parent)), [left.name, "home", "new", "new.old"])


class Refusals(RestoreTest):
    """Nothing is made, the status is 1, and the message helps."""

    def test_destinations(self) -> None:
        source, usb = self.backed_up()
        pool = source.parent
        (pool / "file").write_text("")
        Path(f"{source}.old").mkdir()
        for destination, says in (
            (source, f"exists, and nothing is overwritten\n  Move it away: mv {source} {source}.old2"),
            (pool / "file", f"exists, and nothing is overwritten\n  Move it away: mv {pool}/file {pool}/file.old"),
            (pool, "it is a mount point\n  Mount the top of its filesystem elsewhere"),
            (
                pool / "no" / "folder",
                f"the folder '{pool}/no', in which the destination is to be, does not exist\n  "
                f"Mount the disk, correct the path, or make it: mkdir -p {pool}/no",
            ),
            (pool / "file" / "x", f"the folder '{pool}/file', in which the destination is to be, does not exist"),
            (
                "/proc/x",
                "the folder '/proc', in which the destination is to be, is not on btrfs but on proc\n  Is the disk",
            ),
            (usb / names(usb)[0] / "x", "Read-only file system"),
        ):
            with self.subTest(destination):
                self.refused(usb, destination, says=says)
        for folder, says in (
            (pool / "file", "is not a folder\n  Choose another one with '-f'."),
            (usb, "is not on the filesystem of the destination\n  Choose another one with '-f'"),
            (pool / "no" / "snaps", f"the folder '{pool}/no', in which the snapshot folder is to be, does not exist"),
            ("file", "in the backup, a file or a link is there"),
        ):
            with self.subTest(folder):
                self.refused("-f", folder, usb, pool / "new", says=says)
        self.assertEqual(names(pool), ["file", "home", "home.old"])

    def test_backups(self) -> None:
        source, usb = self.backed_up("-p", "home-")
        new = source.parent / "new"
        name = names(usb)[0]
        odd = usb.parent / "odd"
        odd.mkdir()
        sh("btrfs", "subvolume", "create", odd / OLDEST)
        (odd / LATEST).mkdir()
        (odd / "file").write_text("")
        self.refused(
            usb.parent / "no", new, says=f"the backup '{usb.parent}/no' does not exist\n  SOURCE is a backup, or"
        )
        self.refused(odd / "file", new, says="is not a folder\n  SOURCE is a backup")
        self.refused("/proc", new, says="is not on btrfs but on proc\n  Is the disk mounted?")
        self.refused(usb.parent, new, says="no backups named YYYYMMDD-HHMMSS are in")
        self.refused(usb, new, says="Give the right prefix with '-p'. Prefixes there: 'home-'.")
        self.refused("-p", "x", usb, new, says="no backups named xYYYYMMDD-HHMMSS are in")
        self.refused("-p", "x", usb / name, new, says="does not begin with the prefix 'x'\n  Its prefix is 'home-'")
        self.refused(odd, new, says=f"there is no complete backup in '{odd}': {LATEST} is none: it is not a subvolume")
        self.refused(odd / OLDEST, new, says="cannot be restored: it is writable, and not a backup")
        self.refused(odd / LATEST, new, says="is not a subvolume, so it is no backup\n  Its files can be copied")
        sh("btrfs", "property", "set", "-f", usb / name, "ro", "false")
        self.refused(usb / name, new, says="is writable")
        self.refused(source, new, says="no backups named")
        self.assertEqual(names(source.parent), ["home"])

    def refused(self, *arguments: object, says: str) -> None:
        result = self.backup("--restore", *arguments, status=1)
        self.assertIn(says, result.err)
        self.assertLessEqual(len(result.err.splitlines()), 3, result.err)
        self.assertEqual(result.out, "")
