"""Push, pull and relay over ssh, as users run them, through a real sshd."""

import fcntl
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from btrfs_backup.system import hints
from tests.real.machine import (
    COMPLETED,
    LOCK,
    OUTSTANDING,
    TOP,
    child_running,
    children_of,
    is_running,
    kill,
    make_program,
    names,
    on_record,
    random_file,
    sh,
    shares,
    stage,
    staged,
    wait_for,
)
from tests.real.sshd import Sshd, SshTest, free_port


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Ways(SshTest):
    def check(self, source: object, destinations: list[object], real: Path, folders: list[Path], *options: str) -> None:
        """Three backups, all but the first one incremental, the last one with retention. REAL: the source's path."""
        self.backup(*options, source, *destinations)
        (real / "file").write_text("two")
        second = self.backup(*options, source, *destinations)
        self.assertNotIn("in full", second.err)
        self.backup(*options, "-N", "2", "-n", "2", source, *destinations)
        taken = names(real / "snapshot")
        self.assertEqual(len(taken), 2)
        for folder in folders:
            self.assert_complete(folder, real / "snapshot", taken)
            self.assertTrue(shares(folder / taken[1], folder / taken[0]))
        self.assertEqual(on_record(real / "snapshot"), {})

    def test_push(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path / "backups"
        self.check(source, [f"{server.url}{nas}"], source, [nas], *server.arguments())
        self.assertEqual(list(on_record(source / "snapshot", COMPLETED)), [f"{server.url}{nas}"])

    def test_pull(self) -> None:
        """Snapshots and records are on the source's host."""
        server, source, usb = self.sshd(), self.source(), self.disk("usb").path / "backups"
        self.check(f"{server.url}{source}", [usb], source, [usb], *server.arguments())
        self.assertEqual(list(on_record(source / "snapshot", COMPLETED)), [str(usb)])

    def test_relay_and_all_kinds_of_destinations_at_once(self) -> None:
        """Source and one destination are on one host, which is connected to once; everything is read once."""
        one, two = self.sshd(), self.sshd(name="two")
        one.known.write_text(one.known.read_text() + two.known.read_text())
        (self.folder / "two" / "id.pub").write_text((self.folder / "sshd" / "id.pub").read_text())
        source = self.source()
        here, same, other = (self.disk(name).path / "b" for name in ("here", "same", "other"))
        streams = self.folder / "streams"
        streams.mkdir()
        shell = f"shell://cat > {streams}/$BTRFS_BACKUP_SNAPSHOT"
        destinations = [here, f"{one.url}{same}", shell, f"{two.url}{other}"]
        self.check(f"{one.url}{source}", destinations, source, [here, same, other], *one.arguments())
        self.assertEqual(len(names(streams)), 3)
        self.assertEqual((one.logins(), two.logins()), (3, 3))
        result = self.backup("-v", "debug", *one.arguments(), f"{one.url}{source}", *destinations)
        self.assertEqual(len(re.findall(r"debug: running: .*btrfs send (?!-q)", result.err)), 1)

    def test_ipv6(self) -> None:
        try:
            free_port("::1")
        except OSError:
            self.skipTest("this machine has no IPv6 loopback address")
        server, source, nas = self.sshd(address="::1"), self.source(), self.disk("nas").path
        self.backup(*server.arguments(), source, f"{server.url}{nas}")
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_awkward_names(self) -> None:
        """Paths, folders and prefixes arrive literally, in both directions."""
        server, pool, nas = self.sshd(), self.disk("pool").path, self.disk("nas").path
        for name in (
            'it\'s  "quoted"',
            "-größe!x *~`id`=日本",
            "a$b;c#d?e%f!\\s\\040|&>(<",
            os.fsdecode(b"\xff\xfe"),
        ):
            with self.subTest(name):
                source = self.subvolume(pool / name)
                options = [*server.arguments(), "-f", f"snaps {name}", f"--snapshot-prefix={name}"]
                self.backup(*options, source, f"{server.url}{nas / name}")
                self.backup(*options, f"{server.url}{source}", nas / name)
                snapshots = source / f"snaps {name}"
                self.assertEqual(len(names(snapshots)), 2)
                self.assert_complete(nas / name, snapshots, names(snapshots))
        for name in ("tab\tx", "new\nline"):
            with self.subTest(name):
                source = self.subvolume(pool / name)
                self.backup(*server.arguments(), source, f"{server.url}{nas / name}")
                self.assert_complete(nas / name, source / "snapshot", names(source / "snapshot"))

    def test_trips_do_not_depend_on_how_much_there_is(self) -> None:
        """One login each; the session, the locks and the streams are all that is started."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        usb, counts = self.disk("usb").path, []
        push, pull = (source, f"{server.url}{nas}"), (f"{server.url}{source}", usb)
        (source / "snapshot").mkdir()
        for more in (3, 120):
            for number in range(more):
                name = f"20200101-{more // 60:02}{number // 60:02}{number % 60:02}"
                sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / name)
            self.backup("-S", source, nas, usb)
            for way, options in itertools.product((push, pull), ([], ["-S"])):
                self.backup("-S", *server.arguments(), *way)
                before = server.logins()
                result = self.backup("-v", "debug", *options, *server.arguments(), *way)
                self.assertEqual(server.logins(), before + 1)
                counts.append((result.err.count("debug: running: ssh"), result.err.count("debug: running on ")))
        self.assertEqual(counts[:4], counts[4:])
        # With one that asks for the configuration of ssh, and the session.
        self.assertEqual([ssh for ssh, _ in counts[:4]], [4, 2, 4, 3])
        self.backup("-S", *server.arguments(), *push)
        result = self.backup("-v", "debug", *server.arguments(), "-S", "-N1", "-n1", *push)
        self.assertRegex(result.err, "deleted 12[0-9] backups")
        self.assertEqual(result.err.count("debug: running: ssh"), 2)


class Connection(SshTest):
    def test_server_that_shares_no_connections(self) -> None:
        server, source, nas = self.sshd("MaxSessions 1"), self.source(), self.disk("nas").path
        self.backup(*server.arguments(), f"{server.url}{source}", nas)
        self.assertGreater(server.logins(), 2)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_user_who_shares_no_connections(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        self.backup(*server.arguments(), "--ssh-opt=controlpath none", source, f"{server.url}{nas}")
        self.assertGreater(server.logins(), 2)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_temporary_folders_that_ssh_does_not_take(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        for logins, name in enumerate(("x" * 100, "hash #x", "%h $HOME", 'quo"te')):
            (self.folder / name).mkdir()
            environment = {"TMPDIR": str(self.folder / name)}
            self.backup(*server.arguments(), *(["-S"] if logins else []), source, f"{server.url}{nas}", env=environment)
            self.assertEqual(server.logins(), logins + 1)

    def test_options_reach_ssh_and_win(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        options = [*server.arguments(), "--ssh-opt", "User=nobody-of-that-name"]
        result = self.backup(*options, source, f"{server.url}{nas}", status=10)
        self.assertIn("nobody-of-that-name", server.log.read_text())
        self.assertIn("Permission denied (publickey)", result.err)
        result = self.backup("--ssh-opt", "Nonsense=1", source, f"{server.url}{nas}", status=10)
        self.assertIn("Bad configuration option: nonsense", result.err)

    def test_nothing_stays_behind(self) -> None:
        """No ssh, no temporary folder, no lock; however it ends."""
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                self.setUp()
                self.check_ended_by(number)

    def check_ended_by(self, number: int) -> None:
        temporary = self.folder / "tmp"
        temporary.mkdir()
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        random_file(source / "large", 16)
        url = server.url.replace(str(server.port), str(self.proxy(server, 4e6 if number else 0).port))
        command = self.start(*server.arguments(), f"{url}{source}", f"{url}{nas}", env={"TMPDIR": str(temporary)})
        children = []
        if number:
            wait_for(lambda: staged(nas))
            [socket] = [entry for folder in temporary.iterdir() for entry in folder.iterdir()]
            self.assertEqual(socket.parent.stat().st_mode & 0o777, 0o700)
            children = children_of(command.pid)
            command.send_signal(number)
        _, err = command.communicate(timeout=60)
        self.assertEqual(command.returncode, {0: 0, signal.SIGKILL: -9}.get(number, 128 + number), err)
        wait_for(lambda: not any(is_running(pid) for pid in children))
        if number != signal.SIGKILL:
            self.assertEqual(list(temporary.iterdir()), [])
        wait_for(lambda: not server.sessions())
        # What only a SIGKILL leaves is removed by the next run.
        again = [*server.arguments(), f"{server.url}{source}", nas]
        self.backup("-q", *again, env={"TMPDIR": str(temporary)})
        self.assertEqual(list(temporary.iterdir()), [])
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_talkative_ssh(self) -> None:
        """What the shared connection says is not read before it ends, and must not stop it."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        random_file(source / "large", 40)
        self.backup(*server.arguments(), "--ssh-opt=LogLevel=DEBUG3", source, f"{server.url}{nas}")
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_a_machine_that_greets(self) -> None:
        """By a banner, and by a login shell: that does not matter, and is not taken for a lock that is held."""
        (self.folder / "banner").write_text("All that you do is watched.\n")
        server = self.sshd(f"Banner {self.folder}/banner", f"SetEnv HOME={self.folder}")
        (self.folder / ".bashrc").write_text("echo Welcome, root; echo to this machine >&2\n")
        source, nas = self.source(), self.disk("nas").path
        for _ in range(2):
            self.backup(*server.arguments(), source, f"{server.url}{nas}")
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(self.backup("-q", *server.arguments(), source, f"{server.url}{nas}").err, "")
        shown = self.backup("--status", *server.arguments(), source, f"{server.url}{nas}")
        self.assertNotIn("Welcome", shown.out + shown.err)
        with open_folder(source / "snapshot" / LOCK) as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            result = self.backup(*server.arguments(), f"{server.url}{source}", nas, status=3)
            self.assertIn("another run works on the snapshot folder", result.err)
        # In a stream there is no place for it.
        result = self.backup(*server.arguments(), f"{server.url}{source}", nas, status=10)
        self.assertIn("A login shell must not print anything by itself", result.err)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot")[:-1])

    def test_one_password_on_the_terminal(self) -> None:
        server = self.sshd("PasswordAuthentication yes", "AuthenticationMethods password")
        source, nas, usb = self.source(), self.disk("nas").path, self.disk("usb").path
        self.user("/bin/sh")
        sh("sh", "-c", f"echo {self.login}:secret | chpasswd")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        url = server.url.replace("//", f"//{self.login}@")
        options = [*server.arguments(), "--ssh-opt=NumberOfPasswordPrompts=1", "--ssh-sudo"]
        status, screen = self.on_terminal(*options, f"{url}{source}", f"{url}{nas}", usb, answer="secret\n")
        self.assertEqual(status, 0, screen)
        self.assertEqual(screen.count("password:"), 1, screen)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))
        status, screen = self.on_terminal(*options, source, f"{url}{nas}", f"{url}{nas}/2", answer="wrong\n")
        self.assertEqual(status, 10, screen)
        self.assertEqual(screen.count("password:"), 1, screen)

    def on_terminal(self, *arguments: object, answer: str) -> tuple[int, str]:
        """Run the command on a terminal of its own; answer every prompt for a password."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["PYTHONPATH"] = str(TOP)
            os.execv(sys.executable, [sys.executable, "-m", "btrfs_backup", *map(str, arguments)])
        self.addCleanup(os.close, terminal)
        screen, answered = "", 0
        while select.select([terminal], [], [], 60)[0]:
            try:
                screen += os.read(terminal, 4096).decode()
            except OSError:
                break
            if screen.count("password:") > answered:
                answered += 1
                os.write(terminal, answer.encode())
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen


class Sudo(SshTest):
    def test_login_shells(self) -> None:
        """The rule that the error message proposes is enough, and every shell gets every word right."""
        busybox = shutil.which("busybox")
        shells = {name: shutil.which(name) for name in ("bash", "dash", "bsd-csh", "tcsh", "fish", "zsh", "mksh")}
        server, pool, nas = self.sshd(), self.disk("pool").path, self.disk("nas").path
        self.user("/bin/sh")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        if busybox:
            (self.folder / "ash").symlink_to(busybox)
            shells["ash"] = str(self.folder / "ash")
        source = self.subvolume(pool / 'it\'s $a "b"; !c* \\d ß')
        snapshots = source / "snapshot"
        snapshots.mkdir()
        (snapshots / OUTSTANDING).touch(0o640)
        os.chown(snapshots / OUTSTANDING, 0, 6)
        url = server.url.replace("//", f"//{self.login}@")
        used = [name for name, path in shells.items() if path]
        for name in used:
            with self.subTest(name):
                sh("usermod", "-s", shells[name], self.login)
                destination = nas / source.name
                self.backup("--ssh-sudo", *server.arguments(), f"{url}{source}", f"{url}{destination}")
                self.assert_complete(destination, snapshots, names(snapshots))
                status = (snapshots / OUTSTANDING).stat()
                self.assertEqual((status.st_mode & 0o777, status.st_uid, status.st_gid), (0o640, 0, 6))
                self.assertEqual(on_record(source / "snapshot"), {})
        self.assertGreaterEqual(len(used), 2)
        self.backup("--ssh-sudo", *server.arguments(), "-N1", "-n1", f"{url}{source}", f"{url}{destination}")
        self.assertEqual(len(names(destination)), 1)

    def test_missing_rule(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        self.user("/bin/sh")
        url = server.url.replace("//", f"//{self.login}@")
        for arguments, status in (((source, f"{url}{nas}"), 10), ((f"{url}{source}", nas), 1)):
            result = self.backup("--ssh-sudo", *server.arguments(), *arguments, status=status)
            self.assertIn("sudo: a password is required", result.err)
            self.assertIn(hints.sudo_rule(self.login), result.err)
        self.sudoers(f"{self.login} ALL=(root) NOPASSWD: /usr/bin/stat, /usr/bin/readlink, /usr/bin/cat\n")
        result = self.backup("--ssh-sudo", *server.arguments(), source, f"{url}{nas}", status=10)
        self.assertIn("btrfs filesystem show on 127.0.0.1: sudo: a password is required", result.err)
        self.assertEqual(names(nas), [])

    def test_a_lock_that_is_not_allowed_is_not_held(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        self.user("/bin/sh")
        self.sudoers(f"{self.login} ALL=(root) NOPASSWD: ALL, !/usr/bin/flock\n")
        url = server.url.replace("//", f"//{self.login}@")
        result = self.backup("--ssh-sudo", *server.arguments(), f"{url}{source}", nas, status=1)
        self.assertIn("is not allowed to execute '/usr/bin/flock", result.err)
        self.assertIn(hints.sudo_rule(self.login), result.err)

    def test_rule_of_a_machine_that_is_only_pushed_to(self) -> None:
        """As the README has it."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        self.user("/bin/sh")
        programs = ("btrfs", "cat", "find", "flock", "mkdir", "readlink", "rm", "rmdir", "stat", "sync")
        self.sudoers(f"{self.login} ALL=(root) NOPASSWD: {', '.join(f'/usr/bin/{each}' for each in programs)}\n")
        url = server.url.replace("//", f"//{self.login}@")
        for _ in range(2):
            self.backup("--ssh-sudo", *server.arguments(), "-n1", "-N1", source, f"{url}{nas}/new")
        self.assert_complete(nas / "new", source / "snapshot", names(source / "snapshot"))

    def test_without_the_rights(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        self.user("/bin/sh")
        url = server.url.replace("//", f"//{self.login}@")
        result = self.backup(*server.arguments(), source, f"{url}{nas}", status=10)
        self.assertIn("Log in there as root (ssh://root@...), or use '--ssh-sudo'.", result.err)


class OtherSide(SshTest):
    def test_it_needs_nothing_but_btrfs_a_shell_and_file_tools(self) -> None:
        """busybox in place of all tools, and nothing else in the PATH, on this side either but ssh."""
        busybox = shutil.which("busybox")
        if not busybox:
            self.skipTest("needs busybox")
        tools = self.tools("btrfs", "bash", "sh")
        for name in hints.REMOTE_PROGRAMS:
            if name not in ("btrfs", "flock"):
                (tools / name).symlink_to(busybox)
        server, source, nas = self.sshd(path=tools), self.source(), self.disk("nas").path
        (tools / "ssh").symlink_to(str(shutil.which("ssh")))
        usb = self.disk("usb").path
        for _ in range(2):
            self.backup(*server.arguments(), source, f"{server.url}{nas}", env={"PATH": str(tools)})
            result = self.backup(*server.arguments(), f"{server.url}{source}", usb, env={"PATH": str(tools)})
            self.assertEqual(result.err.count("warning: there is no program 'flock' on 127.0.0.1: "), 1, result.err)
        self.assertIn("on top of", result.err)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_no_flock_as_csh_says_it(self) -> None:
        """With 1, as flock itself ends where a lock is held. What was cut off is cleared all the same."""
        tools = self.tools("bash", "sh", *(each for each in hints.REMOTE_PROGRAMS if each != "flock"))
        make_program(tools, "flock", "echo 'flock: Command not found.' >&2\nexit 1")
        server, source, nas = self.sshd(path=tools), self.source(), self.disk("nas").path
        self.backup(source)
        stage(nas, names(source / "snapshot")[0])
        result = self.backup("-S", *server.arguments(), source, f"{server.url}{nas}")
        self.assertEqual(result.err.count("warning: there is no program 'flock' on 127.0.0.1: "), 1, result.err)
        self.assertEqual(list(nas.glob(".*")), [])
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_missing_programs(self) -> None:
        tools = self.tools("bash", "sh", "cat", "find", "readlink", "stat")
        server, source, nas = self.sshd(path=tools), self.source(), self.disk("nas").path
        usb = self.disk("usb").path
        result = self.backup(*server.arguments(), source, f"{server.url}{nas}", usb, status=10)
        self.assertRegex(result.err, "btrfs('|: not found)")
        self.assertIn("Install the package btrfs-progs", result.err)
        self.assertEqual(len(names(usb)), 1)
        result = self.backup(*server.arguments(), f"{server.url}{source}", usb, status=1)
        self.assertRegex(result.err, "btrfs('|: not found)")
        (tools / "stat").unlink()
        result = self.backup(*server.arguments(), source, f"{server.url}{nas}", usb, status=10)
        self.assertIn("stat on 127.0.0.1: ", result.err)
        (tools / "stat").symlink_to(str(shutil.which("stat")))
        (tools / "btrfs").symlink_to(str(shutil.which("btrfs")))
        result = self.backup(source, f"{server.url}{nas}", status=10, env={"PATH": str(tools)})
        self.assertIn("no program 'ssh' in PATH", result.err)

    def test_talkative_login_shell(self) -> None:
        """Words of its own in between are noticed, and nothing is done."""
        tools = self.tools("bash", "sh", "cat", "find", "readlink", "btrfs")
        make_program(tools, "stat", 'echo Welcome\nexec "$REAL" "$@"')
        server, source, nas = self.sshd(path=tools), self.source(), self.disk("nas").path
        result = self.backup(*server.arguments(), source, f"{server.url}{nas}", status=10)
        self.assertIn("cannot understand what 'stat' printed: 'Welcome'", result.err)
        self.assertEqual(names(nas), [])

    def test_places_that_are_not_right(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        (nas / "file").write_text("")
        for destination, words in (
            (nas / "file", "it is not a folder"),
            (Path("/proc/x"), "the folder does not exist, and would be on proc instead of btrfs"),
        ):
            result = self.backup(*server.arguments(), source, f"{server.url}{destination}", status=10)
            self.assertIn(f"{server.url}{destination}: {words}", result.err)
        for wrong, words in (
            (source / "nope", "does not exist"),
            (source / "folder", "is not a btrfs subvolume"),
            (Path("/proc"), "is not on btrfs but on proc"),
        ):
            result = self.backup(*server.arguments(), f"{server.url}{wrong}", nas, status=1)
            self.assertIn(words, result.err)
        self.backup(f"{server.url}{source}", f"{server.url}{source}/snapshot", status=2)
        self.backup("shell://cat", nas, status=2)

    def test_broken_record_on_the_source_host(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        self.backup(source)
        (source / "snapshot" / OUTSTANDING).write_text('{"x": ')
        result = self.backup(*server.arguments(), f"{server.url}{source}", nas, status=10)
        broken = source / "snapshot" / f"{OUTSTANDING}.broken-1"
        self.assertIn("is broken", result.err)
        self.assertIn(f"it was moved to '{broken}'", result.err)
        self.assertEqual(broken.read_text(), '{"x": ')
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(len(names(nas)), 2)

    def test_record_that_cannot_be_written(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        (source / "snapshot" / f"{OUTSTANDING}.new").mkdir(parents=True)
        result = self.backup(*server.arguments(), f"{server.url}{source}", nas, status=10)
        self.assertIn(
            f"cannot write '{source}/snapshot/{OUTSTANDING}': rm, touch, cp, dd, mv on 127.0.0.1: rm: cannot remove",
            result.err,
        )
        self.assertEqual(names(nas), [])


class RunLock(SshTest):
    def test_whatever_the_login_shell_says(self) -> None:
        tools = self.tools("bash", "sh", *(each for each in hints.REMOTE_PROGRAMS if each != "flock"))
        make_program(tools, "flock", 'echo "mesg: ttyname failed" >&2\nexec "$REAL" "$@"')
        server, source, nas = self.sshd(path=tools), self.source(), self.disk("nas").path
        self.backup(source)
        with (source / "snapshot" / "x").open("w") as other, (source / "snapshot" / LOCK).open("rb") as lock:
            fcntl.flock(other, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = self.backup(*server.arguments(), f"{server.url}{source}", nas, status=3)
            self.assertIn(f"process {os.getpid()} (", result.err)
        self.backup(*server.arguments(), f"{server.url}{source}", nas)

    def test_pull_and_local_run_exclude_each_other(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas", 400).path
        random_file(source / "large", 60)
        pull = self.start(*server.arguments(), f"{server.url}{source}", nas)
        wait_for(lambda: staged(nas))
        receive = wait_for(lambda: child_running(pull.pid, "btrfs", "receive"))
        kill(receive, signal.SIGSTOP)
        local = self.backup(source, status=3)
        self.assertRegex(local.err, r"process \d+ \(flock -n .*/snapshot/.btrfs-backup.lock cat\)")
        again = self.backup(*server.arguments(), f"{server.url}{source}", nas, status=3)
        self.assertRegex(
            again.err, r"another run works on .*process \d+ \(flock -n .*/snapshot/.btrfs-backup.lock cat\)"
        )
        kill(pull.pid)
        kill(receive)
        pull.communicate()
        wait_for(lambda: not server.sessions())
        self.backup(*server.arguments(), f"{server.url}{source}", nas)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))


class Faults(SshTest):
    def test_record_is_whole_when_the_connection_breaks_while_it_is_written(self) -> None:
        """It is the old one or the new one."""
        tools = self.tools("bash", "sh", "sleep", *(each for each in hints.REMOTE_PROGRAMS if each != "dd"))
        begun = self.folder / "begun"
        make_program(tools, "dd", f'touch {begun}\nsleep 1\nexec "$REAL" "$@"')
        server, source, usb = self.sshd(path=tools), self.source(), self.disk("usb").path
        record = source / "snapshot" / OUTSTANDING
        record.parent.mkdir()
        text = json.dumps({"other-20260101-000000": {"locks": ["/elsewhere"]}})
        record.write_text(text)
        for end in (lambda command: server.drop_connections(), lambda command: kill(command.pid, signal.SIGTERM)):
            command = self.start(*server.arguments(), f"{server.url}{source}", usb)
            wait_for(begun.exists)
            end(command)
            _, err = command.communicate(timeout=60)
            self.assertIn(command.returncode, (10, 128 + signal.SIGTERM), err)
            time.sleep(1.5)
            self.assertIn("other-20260101-000000", json.loads(record.read_text()))
            begun.unlink()
            wait_for(lambda: not server.sessions())
        self.assertEqual(names(usb), [])

    def test_record_that_has_not_arrived_as_a_whole(self) -> None:
        """It replaces nothing."""
        server, source, usb = self.sshd(), self.source(), self.disk("usb").path
        proxy = self.proxy(server, rate=500_000)
        record = source / "snapshot" / OUTSTANDING
        record.parent.mkdir()
        text = json.dumps({f"other{number}-20260101-000000": {"locks": ["/elsewhere"]} for number in range(10_000)})
        record.write_text(text)
        url = server.url.replace(str(server.port), str(proxy.port))
        command = self.start(*server.arguments(), f"{url}{source}", usb)
        wait_for(lambda: bool(names(record.parent)))
        proxy.limit = proxy.moved + 200_000
        _, err = command.communicate(timeout=60)
        self.assertEqual(command.returncode, 10, err)
        self.assertRegex(err, "cannot write '.*outstanding_transfers'")
        self.assertEqual(record.read_text(), text)
        self.assertEqual(names(usb), [])

    def test_hosts_that_are_away_or_refuse(self) -> None:
        """The others are served, the status tells, and ssh's own words say why."""
        server, source, usb = self.sshd(), self.source(), self.disk("usb").path
        nobody = f"ssh://127.0.0.1:{free_port()}/x"
        unknown = f"ssh://localhost:{server.port}/x"
        result = self.backup(
            *server.arguments(), source, nobody, unknown, "ssh://no-such-host.invalid/x", usb, status=10
        )
        self.assertIn("Connection refused", result.err)
        self.assertIn("Host key verification failed", result.err)
        self.assertIn("Could not resolve hostname", result.err)
        taken = names(source / "snapshot")
        self.assert_complete(usb, source / "snapshot", taken)
        # None of them has ever had a backup: they may be misspelled.
        self.assertEqual(on_record(source / "snapshot"), {})
        self.assertIn(f"{nobody}: FAILED, sent nothing", result.err)
        result = self.backup(*server.arguments(), nobody, usb, status=1)
        self.assertIn("Connection refused", result.err)
        self.assertIn("Is the host up", result.err)

    def test_full_disk(self) -> None:
        server, source, usb = self.sshd(), self.source(), self.disk("usb").path
        small = self.disk("small", 40).path
        random_file(source / "large", 50)
        result = self.backup(*server.arguments(), source, f"{server.url}{small}", usb, status=10)
        self.assertIn("btrfs receive on 127.0.0.1: ERROR: ", result.err)
        self.assertIn("No space left on device", result.err)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(names(small), [])

    def test_connection_that_breaks(self) -> None:
        """In mid-transfer, to the destination and to the source; the next run heals it."""
        server, source, usb, nas = self.sshd(), self.source(), self.disk("usb").path, self.disk("nas").path
        random_file(source / "large", 16)
        url = server.url.replace(str(server.port), str(self.proxy(server, 4e6).port))
        err = self.broken(server, nas, "--no-shared-stream", source, f"{url}{nas}", f"{url}{nas}/more", usb)
        self.assertRegex(err, "nas/more: .*the connection to 127.0.0.1 broke: ssh: ")
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertNotEqual(on_record(source / "snapshot"), {})
        self.backup(*server.arguments(), source, f"{server.url}{nas}", usb)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))
        random_file(source / "large", 16)
        self.broken(server, usb, f"{url}{source}", usb)
        self.backup(*server.arguments(), source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def broken(self, server: Sshd, watched: Path, *arguments: object) -> str:
        """The connection breaks when something has arrived in WATCHED; what is said about it."""
        command = self.start(*server.arguments(), *arguments)
        wait_for(lambda: staged(watched))
        server.drop_connections()
        _, err = command.communicate(timeout=60)
        self.assertEqual(command.returncode, 10, err)
        self.assertRegex(err, "closed by remote host|Connection reset|Broken pipe")
        self.assertIn("The connection broke", err)
        self.assertNotIn("Traceback", err)
        return err

    def test_connection_that_goes_silent(self) -> None:
        """Noticed after three times the interval that the user or, before that, we set."""
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        random_file(source / "large", 16)
        proxy = self.proxy(server, 4e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        command = self.start(*server.arguments(), "--ssh-opt=ServerAliveInterval=1", source, f"{url}{nas}")
        wait_for(lambda: staged(nas))
        proxy.go_silent()
        started = time.monotonic()
        _, err = command.communicate(timeout=90)
        self.assertLess(time.monotonic() - started, 15)
        self.assertEqual(command.returncode, 10, err)
        self.assertIn("Timeout, server 127.0.0.1 not responding", err)
        proxy.close()
        wait_for(lambda: not server.sessions())
        result = self.backup("-v", "debug", *server.arguments(), source, f"{server.url}{nas}")
        self.assertIn("-o ServerAliveInterval=10 ", result.err)
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))

    def test_slow_connection_is_not_cut(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        random_file(source / "large", 1)
        url = server.url.replace(str(server.port), str(self.proxy(server, 300e3).port))
        self.backup(*server.arguments(), "--ssh-opt=ServerAliveInterval=1", source, f"{url}{nas}")
        self.assert_complete(nas, source / "snapshot", names(source / "snapshot"))
