"""The program as one file, and on a Python that is too old."""

import os
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

from btrfs_backup import __version__
from tests.real.machine import TOP, RealTest, names, sh

# Some machines have several in the home folder.
OLD = sorted(Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python3"))


class OneFile(RealTest):
    def run_file(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["./btrfs-backup", *map(str, arguments)],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
        )

    def test_as_the_readme_makes_it(self) -> None:
        """A backup with nothing but that file, and an exit status that can be trusted."""
        readme = (TOP / "README.rst").read_text(encoding="utf-8")
        [commands] = re.findall(r"\*\*As one file\*\*.*?::\n\n(.*?)\n\n", readme, re.DOTALL)
        self.assertEqual(commands.count("/tmp/"), 5)
        commands = re.sub(r"\bpython3 -m", f"{sys.executable} -m", commands.replace("/tmp/", f"{self.folder}/"))
        sh("sh", "-e", "-c", f"cd '{TOP}'\n{commands}")
        shutil.rmtree(self.folder / "zipapp")
        self.assertEqual((self.folder / "btrfs-backup").stat().st_mode & 0o777, 0o755)
        self.assertEqual(self.run_file("--version").stdout, f"btrfs-backup {__version__}\n")
        source, usb = self.source(), self.disk("usb").path
        for _ in range(2):
            done = self.run_file(source, usb)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(self.run_file().returncode, 2)
        self.assertEqual(self.run_file(source, "/proc/x").returncode, 10)


@unittest.skipUnless(OLD, "no Python is here that is too old")
class OldPython(unittest.TestCase):
    def test_it_says_so(self) -> None:
        for python in OLD:
            done = subprocess.run([python, "-m", "btrfs_backup", "/x"], cwd=TOP, capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"^error: btrfs-backup needs Python 3\.10 or later; this is 3\.[6-9]\.\d+\n$")


if __name__ == "__main__":
    unittest.main()
