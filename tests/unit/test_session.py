"""A session on another machine: its shell, which is real here, and the answers."""

import os
import shutil
import subprocess
import tempfile
import time
import unittest
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from btrfs_backup.errors import Failure
from btrfs_backup.system import process, session, ssh
from btrfs_backup.system.process import Command, TooMuch
from btrfs_backup.system.session import Session

WORD = "0f" * 16


class SessionTest(unittest.TestCase):
    def begun(self) -> Session:
        scope = ExitStack()
        self.addCleanup(scope.close)
        made = Session(Command(session.shell(WORD), "sh"), WORD, scope)
        self.assertTrue(made.begun(time.monotonic() + 60))
        return made

    def asked(self, made: Session, line: str) -> tuple[int, bytes, str]:
        answer = made.answer(made.ask(line), "sh")
        assert answer
        return answer.status, answer.stdout, answer.messages

    def test_each_request_has_its_status_and_its_output(self) -> None:
        made = self.begun()
        self.assertEqual(self.asked(made, "printf 'a\\n\\000b'; echo words >&2; false"), (1, b"a\n\0b", "words\n"))
        self.assertEqual(self.asked(made, "true"), (0, b"", ""))
        self.assertEqual(self.asked(made, "cat; exit_with() { return 77; }; exit_with"), (77, b"", ""))
        self.assertEqual(self.asked(made, "no-such-program")[0], 127)

    def test_several_are_under_way(self) -> None:
        made = self.begun()
        numbers = [made.ask(f"echo {number}; sleep 0.01") for number in range(30)]
        answers = [made.answer(number, "sh") for number in reversed(numbers)]
        self.assertEqual([int(each.stdout) for each in answers if each], list(range(29, -1, -1)))

    def test_words_arrive_as_they_are(self) -> None:
        made = self.begun()
        for word in ("a b", "two\nlines\n\n", "'\"$n\"'", "$n", "it's", "\udcff", "\\", "!x", "", "*", "#", "a\tb"):
            with self.subTest(word):
                line = ssh.line(("printf", "%s", word), sudo=False)
                self.assertEqual(session.decode(WORD, session.encode(WORD, 7, line)[:-1]), (7, line))
                self.assertEqual(self.asked(made, line), (0, os.fsencode(word), ""))

    def test_a_request_that_is_cut_off_is_not_run(self) -> None:
        argv = session.shell(WORD)
        done = subprocess.run(
            argv,
            input=session.encode(WORD, 1, "echo one") + session.encode(WORD, 2, "echo two")[:-1],
            capture_output=True,
            check=True,
        )
        self.assertIn(b"one", done.stdout)
        self.assertNotIn(b"two", done.stdout)

    def test_what_comes_before_it_begins_is_of_no_interest(self) -> None:
        code = 'echo Welcome; echo hello >&2; exec sh -c "$2" sh "$4"'
        with ExitStack() as scope:
            made = Session(Command(("sh", "-c", code, *session.shell(WORD)), "sh"), WORD, scope)
            self.assertTrue(made.begun(time.monotonic() + 60))
            self.assertEqual(self.asked(made, "echo x"), (0, b"x\n", ""))

    def test_what_runs_before_it_begins_may_read_its_input(self) -> None:
        """All of it, some lines, or a part of one: what is lost is sent again, and no answer is that to another one."""
        for reads in ("timeout 0.5 cat", "read -r x", "read -r x; read -r x", "dd bs=1 count=45", "dd bs=1 count=100"):
            code = f'{{ {reads}; }} >/dev/null 2>&1; exec sh -c "$2" sh "$4"'
            with self.subTest(reads), ExitStack() as scope:
                made = Session(Command(("sh", "-c", code, *session.shell(WORD)), "sh"), WORD, scope)
                early = [made.ask(f"echo early {number}") for number in range(4)]
                self.assertTrue(made.begun(time.monotonic() + 60))
                late = made.ask("echo late")
                answers = [made.answer(number, "sh") for number in (*early, late)]
                wanted = [*(f"early {number}" for number in range(4)), "late"]
                self.assertEqual([each.stdout.decode().strip() for each in answers if each], wanted)

    def test_one_that_ends(self) -> None:
        made = self.begun()
        number = made.ask("echo last words >&2; kill -9 $$")
        self.assertIsNone(made.answer(number, "sh"))
        self.assertEqual(made.last_words, "last words\n")
        self.assertIsNone(made.answer(made.ask("true"), "sh"))

    def test_one_that_never_begins(self) -> None:
        for code in ("sleep 60", "exit 3", "yes"):
            with self.subTest(code), ExitStack() as scope:
                made = Session(Command(("sh", "-c", code), "sh"), WORD, scope)
                self.assertFalse(made.begun(time.monotonic() + (0.2 if code == "sleep 60" else 60)))

    def test_one_that_has_begun_long_ago(self) -> None:
        """Nobody has listened to it until it is too late."""
        with ExitStack() as scope:
            made = Session(Command(session.shell(WORD), "sh"), WORD, scope)
            time.sleep(1)
            self.assertTrue(made.begun(time.monotonic() - 10))

    def test_output_has_a_limit(self) -> None:
        with mock.patch.object(session, "OUTPUT_KEPT", 1 << 20):
            made = self.begun()
            with self.assertRaisesRegex(TooMuch, "'sh' printed more than"):
                made.answer(made.ask("yes"), "sh")

    def test_no_descriptors(self) -> None:
        with (
            ExitStack() as scope,
            mock.patch.object(os, "pipe", side_effect=OSError(24, "Too many open files")),
            self.assertRaisesRegex(Failure, "cannot talk to another machine: Too many open files"),
        ):
            Session(Command(session.shell(WORD), "sh"), WORD, scope)

    def test_its_command_line_is_known_again(self) -> None:
        self.assertEqual(session.word_of(session.shell(WORD)), WORD)
        for argv in (session.shell("x"), session.shell(WORD)[:4], ("sh",), ("sh", "-c", "true", "sh", WORD)):
            self.assertIsNone(session.word_of(argv))
        self.assertEqual(process.OUTPUT_KEPT, session.OUTPUT_KEPT)


class Replacing(unittest.TestCase):
    """A file is replaced in one request, when it is there as a whole."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = Path(self.folder) / "it's"
        self.path.write_text("old")
        self.path.chmod(0o640)

    def replace(self, text: str, path: str = os.environ["PATH"]) -> int:
        request = session.encode(WORD, 1, ssh.replacing(str(self.path), text, sudo=False))
        done = subprocess.run(session.shell(WORD), input=request, env={"PATH": path}, capture_output=True)
        return int(done.stdout.split()[-1])

    def test_whole(self) -> None:
        for text in ("", "two\nlines\n", "it's $n %s \\n \udcff", "x" * 300_000):
            with self.subTest(text[:20]):
                self.assertEqual(self.replace(text), 0)
                self.assertEqual(self.path.read_bytes(), os.fsencode(text))
                self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)
        self.assertEqual(os.listdir(self.folder), ["it's"])

    def test_not_at_all(self) -> None:
        """When dd writes less than it was given."""
        tools = Path(self.folder) / "tools"
        tools.mkdir()
        (tools / "dd").write_text(f'#!/bin/sh\nexec {shutil.which("dd")} "$@" count=1 bs=3\n')
        (tools / "dd").chmod(0o755)
        self.assertNotEqual(self.replace("new text", f"{tools}:{os.environ['PATH']}"), 0)
        self.assertEqual(self.path.read_text(), "old")


if __name__ == "__main__":
    unittest.main()
