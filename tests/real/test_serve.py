"""`--serve`: a machine that takes backups of a client that cannot be trusted."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from btrfs_backup.system import btrfs, lock, ssh, tools
from btrfs_backup.system.host import Host
from tests import door
from tests.real.machine import TOP, RealTest, descendants, names, random_file, sh, show, wait_for
from tests.real.sshd import Sshd, SshTest


class Served(SshTest):
    """A client whose key is for `--serve` only."""

    def setUp(self) -> None:
        super().setUp()
        self.home, self.nas = self.source(), self.disk("nas").path
        self.served = self.nas / "laptop"
        self.served.mkdir()

    def serving(self, *, sudo: str = "") -> Sshd:
        """A server whose only key may do nothing but that."""
        keys = self.folder / "keys"
        server = self.sshd(f"AuthorizedKeysFile {keys}")
        key = (server.log.parent / "id.pub").read_text()
        command = f"{sudo or f'PYTHONPATH={TOP} {sys.executable} -S -m btrfs_backup'} --serve {self.served}"
        keys.write_text(f'command="{command}",restrict {key}')
        keys.chmod(0o644)
        self.to = f"{server.url}{self.served}"
        return server

    def test_a_client(self) -> None:
        """It needs no other options than anywhere else."""
        options = self.serving().arguments()
        snapshots = self.home / "snapshot"
        (self.home / "large").write_bytes(os.urandom(200_000))
        self.backup("-T", self.home)
        sh("cp", "--reflink=always", self.home / "large", self.home / "copy")
        self.assertIn("1 incremental", self.backup(*options, self.home, self.to).err)
        (self.home / "more").write_bytes(os.urandom(100_000))
        self.backup("-T", self.home)
        result = self.backup(*options, "-d", self.home, self.to)
        self.assertIn("sent 2 snapshots (2 incremental", result.err)
        self.assert_complete(self.served, snapshots, names(snapshots))
        for compress in ("zstd", "gzip"):
            self.backup(*options, "--compress", compress, self.home, self.to)
        self.assert_complete(self.served, snapshots, names(snapshots))
        newest = names(snapshots)[-1]
        result = self.backup(*options, "--status", "--max-age", "1h", self.home, self.to)
        self.assertIn(f"newest complete backup {newest}", " ".join(result.out.split()))
        self.assertIn("ok, at least ", self.backup(*options, "--status", "--sizes", self.home, self.to).out)
        self.assertIn("no difference", self.backup(*options, "--verify=all", self.home, self.to).err)
        new = self.home.parent / "new"
        for more in ((), ("--compress", "gzip")):
            self.backup(*options, "-d", *more, "--restore", self.to, new)
            self.assertEqual((new / "more").read_bytes(), (self.home / "more").read_bytes())
            sh("btrfs", "subvolume", "delete", *new.glob("snapshot/2*"), new)

    def test_what_changed(self) -> None:
        options = self.serving().arguments()
        for _ in range(2):
            (self.home / f"new{len(names(self.served))}").write_bytes(b"x" * 9000)
            self.backup("-q", *options, self.home, self.to)
        old, new = (f"{self.to}/{each}" for each in names(self.served))
        self.assertIn("added       9.0 kB  new1\n", self.backup(*options, "--diff", old, new).out)
        elsewhere = new.replace(str(self.served), str(self.home / "snapshot"))
        self.assertIn("refused", self.backup(*options, "--diff", old, elsewhere, status=1).err)

    def test_copies(self) -> None:
        """Of backups that are there, and to there."""
        usb = self.disk("usb").path
        for _ in range(2):
            self.backup("-q", self.home, usb / "1")
        options = self.serving().arguments()
        self.backup(*options, "--copy", usb / "1", self.to)
        self.backup(*options, "--copy", self.to, usb / "2")
        for folder in (self.served, usb / "2"):
            self.assert_complete(folder, self.home / "snapshot", names(self.home / "snapshot"))

    def test_versions(self) -> None:
        """Are found, with what they were called, and copied from there; and nothing else is."""
        options = self.serving().arguments()
        odd = os.fsdecode(b"-\xff\n.txt")
        (self.home / odd).write_text("one")
        self.backup("-q", *options, self.home, self.to)
        os.rename(self.home / odd, self.home / "folder" / "new")
        self.backup("-q", *options, "-N1", self.home, self.to)
        first, second = names(self.served)
        for wanted, count in ((odd, 2), ("folder/new", 2), ("f*/n*", 1)):
            told = json.loads(self.backup(*options, "--json", f"--find={wanted}", self.home, self.to).out)
            self.assertEqual(len(told["versions"]), count)
        self.backup(*options, "--restore", f"{self.to}/{first}/{odd}", self.home / "back")
        self.assertEqual((self.home / "back").read_text(), "one")
        (self.served / "other").write_text("not in a backup")
        for path in (f"{self.to}/{first}/../other", f"{self.to}/{second}/none"):
            self.backup(*options, "--restore", path, self.home / "more", status=1)
        outside = ssh.line(tools.pack(str(self.served), "other"), False)
        for request in (outside, ssh.line(tools.pack(f"{self.served}/{first}", ".."), False)):
            self.assertEqual(door.ask(self.served, request)[0], 1)
        self.backup(*options, "--restore", self.home / "snapshot" / second / "file", f"{self.to}/file", status=1)
        self.assertFalse((self.served / "file").exists())

    def test_pruned_over_there(self) -> None:
        options = self.serving().arguments()
        for _ in range(3):
            self.backup(*options, self.home, self.to)
        held = names(self.served)
        table: tuple[tuple[str, ...], ...] = (("-n", "1", "-w"), ("-n", "2"))
        for more in table:
            result = self.backup(*options, "-S", *more, self.home, self.to)
            self.assertEqual(result.err.count("pruned over there: it does not delete by order of others"), 1, result)
            self.assertIn("3 backups there", result.err)
            result = self.backup(*options, "-S", "--dry-run", *more, self.home, self.to)
            self.assertNotIn("would delete", result.out)
            self.assertIn(f"would keep all of {len(held)}", result.out)
        self.assertEqual(self.backup(*options, "-S", "-q", "-n1", self.home, self.to).err, "")
        self.assertEqual(names(self.served), held)
        # What was deleted there does not come again, where it would count as new.
        self.backup("--prune", "-n", "1", self.served)
        for more in ((), ("-n", "2")):
            self.backup(*options, "-S", *more, self.home, self.to)
            self.assertEqual(names(self.served), held[-1:])
        self.backup(*options, self.home, self.to)
        self.assertEqual(names(self.served), names(self.home / "snapshot")[-2:])

    def test_cut_off(self) -> None:
        """What is left of it is cleared by the next run of the client."""
        options = self.serving().arguments()
        random_file(self.home / "large", 20)
        for number in (signal.SIGKILL, signal.SIGTERM):
            run = self.start(*options, "--rate-limit", "2M", self.home, self.to)
            wait_for(lambda: any(self.served.glob(".*/*/*/large")))
            run.send_signal(number)
            run.communicate()
            wait_for(lambda: not [pid for pid in descendants(os.getpid()) if b"receive" in _command(pid)])
        self.backup(*options, "-S", self.home, self.to)
        snapshots = self.home / "snapshot"
        self.assert_complete(self.served, snapshots, names(snapshots))

    def test_other_subvolumes(self) -> None:
        """Nothing is made in a stage but marks."""
        self.stage = self.served / ".20260101-000000.receiving" / "host-1-01234567"
        self.stage.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-S", "-m", "btrfs_backup", "--serve", self.served],
            env={**os.environ, "SSH_ORIGINAL_COMMAND": ssh.line(btrfs.create(f"{self.stage}/20260101-000000"), False)},
            cwd=TOP,
            capture_output=True,
            check=False,
            text=True,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("it is no mark of a transfer", done.stderr)
        self.assertEqual(list(self.stage.iterdir()), [])

    def test_goes_on(self) -> None:
        """A transfer to it, and a restore from it, that are cut off."""
        server = self.serving()
        options, part = server.arguments(), "tests.real.small_parts"
        random_file(self.home / "large", 24)
        proxy = self.proxy(server, 3e6)
        self.to = self.to.replace(str(server.port), str(proxy.port))
        new = self.disk("new").path / "home"
        for arguments in ((self.home, self.to), ("--restore", self.to, new)):
            taken: tuple[str, ...] = ()
            for megabytes in (9, 7):
                proxy.limit = proxy.moved + megabytes * 1_000_000
                status = 1 if new in arguments else 10
                result = self.backup(*options, *taken, *arguments, status=status, module=part)
                self.assertRegex(result.err, r"kept there, and the next run goes on|kept; the same command goes on")
                taken = () if new in arguments else ("-S",)
            before = proxy.moved
            result = self.backup("--json", *options, *taken, *arguments, module=part)
            said = json.loads(result.out)
            sent = said["sent"] if new in arguments else said["destinations"][0]["sent"][0]
            self.assertGreater(sent["resumed_from"], 1e6, result.err)
            self.assertLess(proxy.moved - before, sent["bytes"] - sent["resumed_from"] + 1e6)
        snapshots = self.home / "snapshot"
        self.assert_complete(self.served, snapshots, names(snapshots))
        self.assert_same(new / "snapshot" / names(snapshots)[-1], snapshots / names(snapshots)[-1])
        self.assertEqual([*self.served.glob(".*"), *new.parent.glob(".*")], [])

    def test_data_of_the_parent_in_any_part(self) -> None:
        """It is cloned from the parent, of which the later parts are not snapshots, in the other folder as well."""
        options, part = self.serving().arguments(), "tests.real.small_parts"
        for number in range(4):
            random_file(self.home / f"old {number}", 1)
        places = [f"{self.to}/one", f"{self.to}/other"]
        for place in places:
            self.backup(*options, *(("-S",) if place != places[0] else ()), self.home, place)
        for number in range(4):
            random_file(self.home / f"more {number}", 3)
            sh("cp", "--reflink=always", self.home / f"old {number}", self.home / f"new {number}")
            (self.home / f"old {number}").unlink()
        for place in places:
            result = self.backup(*options, *(("-S",) if place != places[0] else ()), self.home, place, module=part)
            self.assertNotIn("warning", result.err)
            self.assertNotIn("in full", result.err)
        snapshots = self.home / "snapshot"
        for place in ("one", "other"):
            self.assert_complete(self.served / place, snapshots, names(snapshots))

    def test_in_a_folder_below(self) -> None:
        """Several sources of a client; what is beside what is served is not."""
        options = self.serving().arguments()
        self.backup(*options, self.home, f"{self.to}/one/home")
        self.backup(*options, "-S", self.home, f"{self.to}/other")
        self.assertEqual(names(self.served / "one" / "home"), names(self.home / "snapshot"))
        self.assertEqual((self.served / "one").stat().st_mode & 0o777, 0o755 & ~0o022)
        result = self.backup(*options, "-S", self.home, f"{self.to}2", status=10)
        self.assertIn("is not in the folder that is served", result.err)
        self.assertFalse(Path(f"{self.served}2").exists())

    def test_a_user_with_a_rule_for_sudo(self) -> None:
        user, program = self.user("/bin/sh"), self.folder / "btrfs-backup"
        program.write_text(f'#!/bin/sh\nPYTHONPATH={TOP} exec {sys.executable} -S -m btrfs_backup "$@"\n')
        program.chmod(0o755)
        keep = f'Defaults!{program} env_keep += "SSH_ORIGINAL_COMMAND"\n'
        self.sudoers(f"{keep}{user} ALL=(root) NOPASSWD: {program} --serve {self.served}\n")
        server = self.serving(sudo=f"sudo -n {program}")
        self.to = self.to.replace("ssh://", f"ssh://{user}@")
        self.backup(*server.arguments(), self.home, self.to)
        self.backup(*server.arguments(), "--ssh-sudo", self.home, self.to)
        self.assertEqual(names(self.served), names(self.home / "snapshot"))
        self.sudoers(f"{user} ALL=(root) NOPASSWD: {program} --serve {self.served}\n")
        result = self.backup(*server.arguments(), self.home, self.to, status=10)
        self.assertIn("which tells what a client asks for in SSH_ORIGINAL_COMMAND", result.err)
        self.assertIn("it has to keep that variable: 'env_keep'", result.err)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Refused(RealTest):
    """Each request is refused in a line, and does nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.scene = door.Scene(self.folder)
        self.addCleanup(self.scene.close)
        self.served = self.scene.served

    def ask(self, *argv: object, given: bytes = b"") -> tuple[int, str]:
        status, _, err = door.ask(self.served, ssh.line(tuple(map(str, argv)), sudo=False), given)
        return status, err.decode()

    def assert_refused(self, says: str, *argv: object, given: bytes = b"") -> None:
        with self.subTest(argv):
            status, err = self.ask(*argv, given=given)
            self.assertEqual(status, 1)
            self.assertRegex(re.sub("^Chroot to .*\n", "", err), rf"^refused: .*{says}\n$")
            self.scene.check()

    def attempt(self, name: str = "20260101-000000") -> Path:
        attempt = self.served / f".{name}.receiving" / "host-1-01234567"
        self.assertEqual(self.ask(*tools.make_stage(str(attempt.parent), str(attempt))), (0, ""))
        return attempt

    def received(self, name: str = "20260101-000000") -> Path:
        attempt = self.attempt(name)
        given = door.renamed(self.scene.streams[0], name=name.encode())
        status, err = self.ask(*btrfs.receive(str(attempt), debug=False), given=given)
        self.assertEqual(status, 0, err)
        return attempt / name

    def test_what_no_client_needs(self) -> None:
        backup = self.scene.backups[0]
        says = "it is nothing that a client needs for its backups"
        for argv in (
            ("rm", "-rf", "--", backup, self.served),
            ("mv", "--", backup, f"{backup}.old"),
            ("btrfs", "subvolume", "delete", "-c", backup),
            ("btrfs", "subvolume", "delete", backup),
            ("btrfs", "subvolume", "snapshot", backup, self.served / "copy"),
            ("btrfs", "receive", self.served),
            ("cat", "--", "/etc/shadow"),
            ("find", f"{backup}/", "-delete"),
            ("sh", "-c", "id"),
            ("internal-sftp",),
            (*tools.look("/")[:5], f"{self.served}{'/x' * 50_000}/."),
            (),
        ):
            self.assert_refused(says, *argv)
        _, err = self.ask("id")
        self.assertEqual(err, f"refused: {ssh.line(('id',), sudo=False)}: {says}\n")

    def test_places_that_are_not_served(self) -> None:
        outside = "is not in the folder that is served"
        for path in (
            self.scene.neighbour,
            f"{self.served}/../neighbour",
            f"{self.served}2",
            "/",
            f"{self.served}/x\ny",
        ):
            for argv in (tools.entries(str(path)), tools.make_folder(str(path)), btrfs.send(str(path), None)):
                self.assert_refused(f"({outside}|is nothing that a client needs.*)", *argv)
        self.assert_refused("leads through a symbolic link", *tools.entries(f"{self.served}/link"))
        self.assert_refused(
            "leads through a symbolic link", *btrfs.send(f"{self.served}/link/{self.scene.theirs.name}", None)
        )
        self.assert_refused("leads through a symbolic link", *tools.look(f"{self.scene.backups[0]}/way/secret"))
        strange = f"{self.served}/.20260101-000000.receiving/x/y"
        self.assert_refused("it is not one of the places in a stage", *tools.entries(strange))

    def test_what_is_complete(self) -> None:
        """It is neither replaced nor deleted, and nothing is put beside it that could make it look unfinished."""
        old, mine = self.scene.backups[0], self.received()
        self.assert_refused("where nothing is yet", *btrfs.snapshot(str(mine), str(old)))
        self.assert_refused("beside its stage", *btrfs.snapshot(str(mine), f"{self.served}/sub/20260101-000000"))
        mark = self.served / f".{old.name}.receiving"
        self.assert_refused(
            "is not a stage for a backup that is not there", *tools.make_stage(str(mark), f"{mark}/h-1-01234567")
        )
        mount = str(self.scene.disk.path)
        self.assertEqual(self.ask(*btrfs.delete_by_id(show(old)["Subvolume ID"], mount)), (77, ""))
        for number in (show(self.scene.theirs)["Subvolume ID"], "5", "99999"):
            self.assert_refused(
                f"there is no subvolume {number} in the folder that is served", *btrfs.delete_by_id(number, mount)
            )
        both = [btrfs.delete_by_id(show(each)["Subvolume ID"], mount) for each in (mine, old)]
        answers = door.ask_in_session(self.served, *both)
        self.assertEqual(([status for status, _, _ in answers], mine.exists()), ([0, 77], False))
        self.scene.check_all()

    def test_what_is_unfinished_is_not_published(self) -> None:
        attempt = self.attempt()
        given = door.renamed(self.scene.streams[0], name=b"20260101-000000")
        self.assertNotEqual(self.ask(*btrfs.receive(str(attempt), debug=False), given=given[:-20])[0], 0)
        publish = btrfs.snapshot(f"{attempt}/20260101-000000", f"{self.served}/20260101-000000")
        self.assert_refused("only what was received as a whole is published, beside its stage", *publish)

    def test_stages_that_do_not_fit(self) -> None:
        attempt, other = self.attempt(), self.attempt("20260101-000001")
        self.assert_refused(
            "in the stage that is named with it", *tools.make_stage(f"{self.served}/.x.receiving", f"{other}x"[:-1])
        )
        locked = tools.locked(str(other.parent), btrfs.receive(str(attempt), debug=False))
        self.assert_refused("what is locked is the stage of the attempt", *locked)

    def test_a_stage_that_is_held_here(self) -> None:
        """By a run on this machine; what a client holds is its own business."""
        staged = self.received()
        attempt, mount = str(staged.parent), str(self.scene.disk.path)
        delete = btrfs.delete_by_id(show(staged)["Subvolume ID"], mount)
        descriptor = os.open(staged.parent.parent, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        for argv in (delete, tools.remove_tree(attempt), tools.remove_folder(attempt)):
            self.assert_refused("it is being received into: process .*", *argv)
        os.close(descriptor)
        with subprocess.Popen(tools.hold_folder(str(staged.parent.parent), shared=True), stdin=subprocess.PIPE) as held:
            wait_for(lambda: lock.is_held(Host(), str(staged.parent.parent)))
            self.assertEqual(self.ask(*delete)[0], 0)
            held.communicate()
        self.assertEqual(self.ask(*tools.remove_tree(attempt)), (0, ""))
        self.assertFalse(staged.parent.exists())

    def test_a_stage_that_is_not_there(self) -> None:
        """To ask for its lock makes no file in its place."""
        place = self.served / ".20260101-000000.receiving"
        for argv in (tools.is_held(str(place)), *(tools.hold_folder(str(place), each) for each in (False, True))):
            self.assertIn("No such file or directory", self.ask(*argv)[1])
            self.assert_refused(
                "it is nothing that a client needs for its backups", *(each.removesuffix("/.") for each in argv)
            )
        self.assertFalse(os.path.lexists(place))

    def test_streams(self) -> None:
        """Parents and clones from a neighbour, and names that play with lists."""
        attempt = self.attempt()
        theirs, mine = show(self.scene.theirs), show(self.scene.backups[0])
        whole, increment, _ = self.scene.streams

        def refused(says: str, given: bytes) -> None:
            self.assert_refused(f"what came in: .*{says}.*", *btrfs.receive(str(attempt), debug=False), given=given)

        for uuid in (theirs["UUID"], theirs["Received UUID"]):
            refused("cannot find parent subvolume", door.renamed(increment, name=b"x", parent=uuid))
            both = door.renamed(whole, name=b"a", uuid=uuid) + door.renamed(increment, name=b"b", parent=uuid)
            refused("cannot find parent subvolume", both)
        refused("cannot find parent subvolume", door.renamed(increment, name=b"x", parent="1" * 8 + mine["UUID"][8:]))
        for name in (b"x\nID 1", b"a/b"):
            refused("is no name of a backup", door.renamed(whole, name=name))
        self.scene.check_all()

    def test_a_clone_from_what_has_just_come(self) -> None:
        """Both streams are in one piece; the first has to be there before the second is judged."""
        home, sent, data = self.scene.client.path / "home", [], os.urandom(200_000)
        (home / "large").write_bytes(data)
        for name in ("a", "b"):
            sh("btrfs", "subvolume", "snapshot", "-r", home, home / "snapshot" / name)
            sent.append(home / "snapshot" / name)
            if name == "a":
                sh("cp", "--reflink=always", home / "large", home / "copy")
                (home / "large").unlink()
        increment = door.stream(sent[1], sent[0])
        self.assertLess(len(increment), 100_000)
        attempt = self.attempt()
        given = door.stream(sent[0]) + increment
        status, err = self.ask(*btrfs.receive(str(attempt), debug=False), given=given)
        self.assertEqual(status, 0, err)
        self.assertEqual((attempt / "b" / "copy").read_bytes(), data)

    def test_folders_that_are_not_there(self) -> None:
        status, _, err = door.ask(self.served / "missing", "btrfs --version")
        self.assertEqual(status, 1)
        wanted = (
            f"the folder '{self.served}/missing' does not exist\n  Make it: it is to hold the backups of one client."
        )
        self.assertIn(wanted, err.decode())

    def test_requests_in_one_session(self) -> None:
        """Each is answered by itself, whatever is in it; what is cut off is not done, nor what has no end."""
        folder = f"{self.served}/two\nlines"
        asked = (tools.make_folder(f"{self.served}/a b"), ("rm", "-rf", "/"), tools.resolve(folder), ("sh", "-c", "id"))
        answers = door.ask_in_session(self.served, *asked)
        self.assertEqual([status for status, _, _ in answers], [0, 1, 1, 1])
        self.assertTrue((self.served / "a b").is_dir())
        self.assertIn(b"refused: rm -rf /: ", answers[1][2])
        request = door.request_in_session(1, tools.make_folder(f"{self.served}/c"))
        for given in (request[:-1], b"x" * (2 << 20) + b"\n" + request):
            _, out, err = door.ask(self.served, door.IN_SESSION, given)
            self.assertEqual(len(door.ENDINGS.findall(out)), 1)
            self.assertFalse((self.served / "c").exists())
        self.assertIn("a request does not come to an end", err.decode())

    def test_what_is_told_of_others(self) -> None:
        """Nothing: neither of mounts, nor of subvolumes beside what is served."""
        _, out, _ = door.ask(self.served, ssh.line(tools.read("/proc/self/mountinfo"), sudo=False))
        self.assertEqual([line.split()[4] for line in out.decode().splitlines()], [str(self.scene.disk.path)])
        _, out, _ = door.ask(self.served, ssh.line(btrfs.list_children(str(self.served)), sudo=False))
        self.assertEqual(out.decode().count("path laptop/"), len(self.scene.backups))
        self.assertNotIn("neighbour", out.decode())


class Anything(RealTest):
    def test_a_sample(self) -> None:
        """Of tests.door, in which much has to be done and much to be refused."""
        answered = door.attack(self.folder, count=250, seed=3)
        done = {what for what, status in answered if status == 0}
        refused = {what for what, status in answered if status == 1}
        self.assertLessEqual({"any", "stage", "receive", "publish", "clear"}, done)
        self.assertLessEqual({"any", "receive", "publish"}, refused)


if __name__ == "__main__":
    import unittest

    unittest.main()
