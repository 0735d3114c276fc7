"""What a machine lacks costs whatever needs it, and nothing else; it is told in one line."""

import os
import subprocess
import sys

from tests.real.machine import TOP, Result, names
from tests.real.sshd import SshTest

WITHOUT = """
import os, sys
def refused(*arguments):
    raise PermissionError(1, "Operation not permitted")
for name in sys.argv.pop(1).split(","):
    setattr(os, name, refused)
from btrfs_backup.__main__ import run
run()
"""


class OddMachine(SshTest):
    def shell(self, script: str, *arguments: object, code: str = "") -> Result:
        """Run SCRIPT, in which "$@" is the command with ARGUMENTS; CODE: Python that runs it."""
        command = [sys.executable, "-S", *(["-c", code] if code else ["-m", "btrfs_backup"]), *map(str, arguments)]
        done = subprocess.run(
            ["bash", "-c", script, "bash", *command],
            env={**os.environ, "PYTHONPATH": str(TOP)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertNotIn("Traceback", done.stderr)
        return Result(done.returncode, done.stdout, done.stderr)


class Streams(OddMachine):
    def test_closed(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for count, closed in enumerate((">&-", "2>&-", "<&-", "<&- >&- 2>&-"), 1):
            with self.subTest(closed):
                self.assertEqual(self.shell(f'"$@" {closed}', "-v", "debug", source, usb).status, 0)
                self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
                self.assertEqual(len(names(usb)), count)

    def test_messages_that_cannot_be_written(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.assertEqual(self.shell('"$@" 2>/dev/full', source, usb).status, 0)
        self.assertEqual(self.shell('"$@" 2> >(true); wait', source, usb).status, 0)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))


class Folders(OddMachine):
    def test_current_one_is_deleted(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        gone = f'mkdir {self.folder}/gone; cd {self.folder}/gone; rmdir {self.folder}/gone; "$@"'
        (self.folder / "arguments").write_text(f"{source}\n{usb}\n")
        self.assertEqual(self.shell(gone, source, usb).status, 0)
        self.assertEqual(self.shell(gone, f"@{self.folder}/arguments").status, 0)
        self.assertEqual(len(names(usb)), 2)
        for arguments, words in (
            ((source, "usb"), "'usb' starts at the current folder, which does not exist any more"),
            (("@arguments",), "cannot read the argument file arguments: the current folder does not exist any more"),
        ):
            result = self.shell(gone, *arguments)
            self.assertEqual(result.status, 2, result)
            self.assertIn(words, result.err)

    def test_no_temporary_one(self) -> None:
        source, usb, server = self.source(), self.disk("usb").path, self.sshd()
        script = (
            "for each in /tmp /var/tmp /usr/tmp; do [ ! -d $each ] || mount -t tmpfs -o ro none $each; done; cd /; "
        )
        # Python would take the current folder.
        script += 'mount -t tmpfs none /media; mkdir /media/x; mount -o remount,ro /media; cd /media/x; exec "$@"'
        there = f"{server.url}{self.disk('nas').path}/x"
        result = self.shell(f"unshare -m bash -c '{script}' bash \"$@\"", *server.arguments(), source, there, usb)
        self.assertEqual(result.status, 10, result)
        self.assertRegex(
            result.err, f"error: {there}: cannot keep a connection to 127.0.0.1, for want of .*: No usable"
        )
        self.assertIn("  Another folder can be named by TMPDIR", result.err)
        self.assertIn(f"{usb}: sent 1 snapshot", result.err)


class Kernel(OddMachine):
    def test_without_what_is_new_or_forbidden(self) -> None:
        source, usb, server = self.source(), self.disk("usb").path, self.sshd()
        places = [usb, f"{server.url}{self.disk('nas').path}/x", f"shell://cat > {self.folder}/stream"]
        for _ in range(2):
            result = self.shell('"$@"', "pidfd_open,memfd_create", *server.arguments(), source, *places, code=WITHOUT)
            self.assertEqual(result.status, 0, result)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_what_nothing_is_prepared_for(self) -> None:
        """It ends what it hits, but neither the summary nor the document."""
        source, usb = self.source(), self.disk("usb").path
        for option in ("-v=info", "--json"):
            wrong = WITHOUT.replace("PermissionError", "ZeroDivisionError")
            result = self.shell('"$@"', "replace", option, source, usb, code=wrong)
            self.assertEqual(result.status, 10, result)
            self.assertRegex(result.err, r"error: unforeseen: ZeroDivisionError: .* \(line \d+ of .*\)\n  What else")
            summary = '"exit_status": 10' if option == "--json" else f"{usb}: sent nothing"
            self.assertIn(summary, result.out + result.err)
