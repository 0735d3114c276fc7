"""The guided tour for newcomers: it shows what it promises, and leaves nothing."""

import subprocess
import sys

from tests.real.machine import TOP, RealTest


class Demo(RealTest):
    def run_demo(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "tests.demo", *map(str, arguments)]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done.stdout

    def test_with_a_folder_of_ones_own(self) -> None:
        own = self.folder / "my files"
        own.mkdir()
        (own / "letter").write_text("Dear reader")
        shown = self.run_demo(own)
        self.assertIn("\nEverything is cleaned up. 19 checks held, 0 failed.\n", shown)
        for what in ("--dry-run", "--status", "--restore", "usb/backups disk2/backups", "    letter\n"):
            self.assertIn(what, shown)
        # A folder is made once, however many transfers go there.
        self.assertEqual(shown.count("disk2/backups: created\n"), 1)

    def test_help(self) -> None:
        self.assertIn("usage: python3 -m tests.demo", self.run_demo("--help"))
