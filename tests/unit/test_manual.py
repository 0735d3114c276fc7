"""The manual as the program shows it."""

import io
import os
import pty
import re
import subprocess
import sys
import unittest
from contextlib import redirect_stdout
from pathlib import Path

from btrfs_backup.cli import manual
from btrfs_backup.cli import parser as cli
from btrfs_backup.errors import UsageError

TOP = Path(__file__).parents[2]


def printed(*argv: str) -> str:
    """What the program prints and ends with 0."""
    out = io.StringIO()
    with redirect_stdout(out):
        try:
            cli.parse(argv)
        except SystemExit as end:
            assert end.code == 0
    return out.getvalue()


class Manual(unittest.TestCase):
    def test_every_chapter_is_listed(self) -> None:
        files = [path.name for path in (TOP / "btrfs_backup" / "manual").iterdir()]
        self.assertEqual(sorted(files), sorted(f"{name}.rst" for name in manual.CHAPTERS))

    def test_a_chapter(self) -> None:
        for name in manual.CHAPTERS:
            text = (TOP / "btrfs_backup" / "manual" / f"{name}.rst").read_text(encoding="utf-8")
            self.assertEqual(printed("--manual", name), text)

    def test_server(self) -> None:
        """What its example prunes is where its example backs up to, with one policy."""
        text = printed("--manual", "server").replace("\\\n", "")
        [sent] = re.findall(r"-n (\S+) /data/photos ssh://root@nas(/\S+)", text)
        self.assertEqual(re.findall(r"root btrfs-backup -q --prune -n (\S+) (/\S+)", text), [sent])

    def test_the_list(self) -> None:
        """Each chapter with its title, in 80 columns."""
        lines = printed("--manual").splitlines()
        self.assertEqual(lines, printed("--manual=contents").splitlines())
        self.assertEqual([line.split()[0] for line in lines[2:]], list(manual.CHAPTERS))
        for line in lines[2:]:
            name, title = line.split(maxsplit=1)
            self.assertEqual(manual.chapter(name).split("\n")[0], title)
        self.assertLessEqual(max(map(len, lines)), 80)

    def test_unknown_chapter(self) -> None:
        with self.assertRaises(UsageError) as caught:
            cli.parse(["--manual", "restroe"])
        for name in ("restroe", *manual.CHAPTERS):
            self.assertIn(name, str(caught.exception))

    def test_pager(self) -> None:
        """On a terminal."""
        master, terminal = pty.openpty()
        env = {**os.environ, "PAGER": "sed 's/^/| /'", "MANPAGER": "", "TERM": "xterm"}
        command = [sys.executable, "-m", "btrfs_backup", "--manual", "json"]
        with subprocess.Popen(command, cwd=TOP, env=env, stdin=terminal, stdout=terminal, stderr=terminal) as process:
            os.close(terminal)
            with open(master, "rb", closefd=True) as file:
                first = file.readline().decode()
                with self.subTest(first):
                    self.assertEqual(first, f"| {manual.chapter('json').partition(chr(10))[0]}\r\n")
                try:
                    while file.read(1024):
                        pass
                except OSError:  # the other end is closed
                    pass
            self.assertEqual(process.wait(), 0)


if __name__ == "__main__":
    unittest.main()
