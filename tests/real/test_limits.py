"""Other machines that print without end, or let nobody in: they cost their destination, and neither memory nor time."""

import os
import socket
import time

from tests.real.machine import OUTSTANDING, make_program, names, path_with
from tests.real.sshd import SshTest

MOST_MEMORY = 500 << 10  # KiB; without a limit it is gigabytes


class Output(SshTest):
    def test_without_end(self) -> None:
        """Of a command whose output is kept, and of one that complains."""
        source, usb, nas = self.source(), self.disk("usb").path, self.disk("nas").path
        tools = self.folder / "tools"
        tools.mkdir()
        server = self.sshd(path=path_with(tools)["PATH"])
        table = {
            "find": ("exec yes", "find on 127.0.0.1' printed more than 64 MiB, which is not looked at"),
            "btrfs": ("head -c 100000000 /dev/zero | tr '\\0' x >&2; exit 1", "btrfs"),
        }
        for name, (script, says) in table.items():
            with self.subTest(name):
                make_program(tools, name, script)
                run = self.start("-d", *server.arguments(), source, usb, f"{server.url}{nas}", stderr=-1)
                assert run.stderr
                said = run.stderr.read()
                _, status, used = os.wait4(run.pid, 0)
                run.returncode = os.waitstatus_to_exitcode(status)
                self.assertEqual(run.returncode, 10, said)
                self.assertIn(says, said)
                self.assertLess(used.ru_maxrss, MOST_MEMORY)
                self.assertEqual(names(usb), names(source / "snapshot"))
                (tools / name).unlink()

    def test_a_state_file_without_end(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup("-q", source, usb)
        with (source / "snapshot" / OUTSTANDING).open("wb") as file:
            file.truncate(70 << 20)
        result = self.backup(source, usb, status=10)
        self.assertIn(f"{OUTSTANDING}' holds more than 64 MiB, which is not looked at", result.err)
        self.assertEqual(names(usb), names(source / "snapshot"))


class Login(SshTest):
    """Nobody can type a password in the tests: they have no terminal."""

    def test_that_does_not_end(self) -> None:
        source, usb, nas = self.source(), self.disk("usb").path, self.disk("nas").path
        hanging = ("AuthorizedKeysFile none", "AuthorizedKeysCommand /bin/sleep 60", "AuthorizedKeysCommandUser root")
        server = self.sshd(*hanging)
        for more in ((), ("--ssh-opt=ControlPath=none",)):
            with self.subTest(more):
                began = time.monotonic()
                options = (*server.arguments(), "--ssh-opt=ConnectTimeout=1", *more)
                result = self.backup(*options, source, f"{server.url}{nas}", usb, status=10, start_new_session=True)
                self.assertIn(
                    "cannot connect to 127.0.0.1: the login does not come to an end\n  Does it wait", result.err
                )
                self.assertLess(time.monotonic() - began, 25)
                self.assertEqual(names(usb), names(source / "snapshot"))

    def test_a_host_that_says_nothing(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"ssh://127.0.0.1:{silent.getsockname()[1]}/b"
            began = time.monotonic()
            result = self.backup("--ssh-opt=ConnectTimeout=1", source, url, usb, status=10)
        self.assertIn("timed out", result.err)
        self.assertLess(time.monotonic() - began, 15)
        self.assertEqual(names(usb), names(source / "snapshot"))


if __name__ == "__main__":
    import unittest

    unittest.main()
