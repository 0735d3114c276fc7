"""The shells themselves, with the printed scripts, complete what is typed on a terminal."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from btrfs_backup.cli import parser as cli
from btrfs_backup.cli.options import groups
from tests.real.machine import TOP

PROMPT = "ready> "
ALL = "\x07"  # a key that inserts all completions
SAY_ARGUMENTS = "btrfs-backup() { printf '<%s>' \"$@\"; echo; }"
OPTIONS = [name for _, options in groups(cli.parser()) for option in options for name in option.names]

# What is typed, and the arguments that it becomes.
TYPED = {
    "--comp\t z\t": ["--compress", "zstd"],
    "--compress=g\t": ["--compress=gzip"],
    "-v de\t": ["-v", "debug"],
    f"-v {ALL}": ["-v", "debug", "error", "info", "warning"],
    f"/x --no-{ALL}": ["/x", *sorted(name for name in OPTIONS if name.startswith("--no-"))],
    "my\t": ["my disk/"],
    "-S --sync my\t ot\t": ["-S", "--sync", "my disk/", "other/"],
    "-f my\t": ["-f", "my disk/"],
    "--snapshot-folder=my\t": ["--snapshot-folder=my disk/"],
    "@arguments.h\t": ["@arguments.home"],
    "-q @ot\tnigh\t": ["-q", "@other/nightly"],
    "-N m\t": ["-N", "m"],
}


class Terminal:
    """A shell on a terminal, which says when it is ready for the next line."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(argv[0], argv, {**os.environ, "PS1": PROMPT, "TERM": "dumb", "HOME": str(folder)})
        self._read()

    def line(self, keys: str) -> str:
        """Type KEYS and Enter; what is on the screen when that has been done."""
        os.write(self.fd, f"{keys}\n".encode())
        return self._read()

    def _read(self) -> str:
        screen = ""
        while not re.search(f"(^|[\r\n]){PROMPT}(\x1b.*)?$", screen):
            if not select.select([self.fd], [], [], 10)[0]:
                raise AssertionError(f"the shell is not ready: {screen!r}")
            screen += os.read(self.fd, 4096).decode()
        return screen

    def close(self) -> None:
        os.close(self.fd)
        os.waitpid(self.pid, 0)


class CompletionTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="btrfs-backup-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name in ("my disk", "other"):
            (self.folder / name).mkdir()
        for name in ("arguments.home", "mystery", "other/nightly"):
            (self.folder / name).touch()
        self.scripts = self.folder / "other" / "scripts"
        self.scripts.mkdir()

    def script(self, shell: str, name: str) -> Path:
        """The completion script for SHELL as a file NAME."""
        if not shutil.which(shell):
            self.skipTest(f"{shell} is not installed")
        printed = subprocess.run(
            [sys.executable, "-m", "btrfs_backup", "--print-completion", shell],
            cwd=TOP,
            check=True,
            capture_output=True,
            text=True,
        )
        self.assertEqual(printed.stderr, "")
        path = self.scripts / name
        path.write_text(printed.stdout)
        return path

    def check(self, terminal: Terminal, typed: dict[str, list[str]]) -> None:
        for keys, wanted in typed.items():
            with self.subTest(keys):
                screen = terminal.line(f"btrfs-backup {keys}")
                arguments = re.findall("<(.*?)>", "".join(re.findall("^<.*>", screen, re.MULTILINE)))
                # Some shells type the slash at the end of a folder, others take it away again.
                self.assertEqual([each.rstrip("/") for each in arguments], [each.rstrip("/") for each in wanted])

    def test_bash(self) -> None:
        script = self.script("bash", "bash")
        terminal = Terminal(["bash", "--norc", "-i"], self.folder)
        self.addCleanup(terminal.close)
        terminal.line(f"{SAY_ARGUMENTS}; bind '\"\\C-g\": insert-completions'; . {script}")
        self.check(terminal, TYPED)
        self.check(terminal, {f"-{ALL}": sorted(OPTIONS)})
        # As the package bash-completion has it.
        terminal.line("shopt -u hostcomplete")
        self.check(terminal, TYPED)

    def test_zsh(self) -> None:
        script = self.script("zsh", "_btrfs-backup")
        terminal = Terminal(["zsh", "-f", "-i"], self.folder)
        self.addCleanup(terminal.close)
        for line in (
            "unsetopt zle_bracketed_paste prompt_cr prompt_sp",
            f"fpath=({script.parent} $fpath); autoload -U compinit; compinit -D -u; bindkey -e",
            "zle -C all complete-word _generic; bindkey '^G' all; zstyle ':completion:*' insert true",
            "zstyle ':completion:all:*' completer _all_matches _complete",
            SAY_ARGUMENTS,
        ):
            terminal.line(line)
        self.check(terminal, TYPED)
        # An option that may be given several times is offered again.
        self.check(
            terminal, {f"--ssh-opt A --quiet --ssh{ALL}": ["--ssh-opt", "A", "--quiet", "--ssh-opt", "--ssh-sudo"]}
        )

    def test_fish(self) -> None:
        script = self.script("fish", "btrfs-backup.fish")
        table = {
            "--comp": ["--compress"],
            "--compress ": ["gzip", "lz4", "no", "zstd"],
            "-v de": ["debug"],
            "/x --no-": sorted(name for name in OPTIONS if name.startswith("--no-")),
            "my": ["my disk/"],
            "-S --sync my": ["my disk/"],
            "-f my": ["my disk/"],
            "--snapshot-folder=my": ["--snapshot-folder=my disk/"],
            "@arg": ["@arguments.home"],
            "-q @other/ni": ["@other/nightly"],
            "-N m": [],
        }
        for typed, wanted in table.items():
            with self.subTest(typed):
                said = subprocess.run(
                    ["fish", "-N", "-c", f'source {script}; complete -C "btrfs-backup $TYPED"'],
                    cwd=self.folder,
                    env={**os.environ, "HOME": str(self.folder), "TYPED": typed},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                self.assertEqual([line.split("\t")[0] for line in said.splitlines()], wanted)


if __name__ == "__main__":
    unittest.main()
