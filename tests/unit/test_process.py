"""Children: their words, their end, and whose fault a broken pipeline is."""

import errno
import os
import signal
import sys
import time
import unittest
from contextlib import ExitStack
from pathlib import Path
from unittest import mock
from unittest.mock import patch

from btrfs_backup.errors import Failure, Interrupted, MissingProgram
from btrfs_backup.system import process
from btrfs_backup.system.host import Host
from btrfs_backup.system.process import STDERR_KEPT, Children, Command, Ended
from btrfs_backup.system.transfer import Receiver, transfer
from btrfs_backup.system.trees import Spool, Tree, read


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code), "python")


def ended(title: str, status: int, stderr: str = "") -> Ended:
    return Ended(Command((title,), title), status, b"", stderr)


class Run(unittest.TestCase):
    def test_input_output_and_status(self) -> None:
        code = "import sys; print(sys.stdin.read()[::-1]); print('oh', file=sys.stderr); sys.exit(3)"
        done = process.run(python(code), b"abc")
        self.assertEqual((done.stdout, done.stderr, done.status), (b"cba\n", "oh\n", 3))

    def test_much_output_and_the_end_of_many_messages(self) -> None:
        code = "import sys; print('o' * 3_000_000); print('e' * 3_000_000 + 'END', file=sys.stderr)"
        done = process.run(python(code))
        self.assertEqual(len(done.stdout), 3_000_001)
        self.assertEqual(len(done.stderr), STDERR_KEPT)
        self.assertTrue(done.stderr.endswith("END\n"))

    def test_what_is_printed_does_not_come_into_messages(self) -> None:
        """btrfs-progs write `ERROR: ` and what it is in several pieces, and `At snapshot` to stdout."""
        code = "printf 'ERROR: ' >&2; sleep 0.05; echo 'At snapshot x'; sleep 0.05; echo 'unlink y failed' >&2; exit 1"
        with open(os.devnull, "rb") as nothing, Children() as children:
            child = children.start(Command(("sh", "-c", code), "btrfs receive"), nothing.fileno())
            children.wait([child])
            self.assertEqual(child.ended.spoken, ["ERROR: unlink y failed"])

    def test_a_process_left_behind_does_not_hold_us_up(self) -> None:
        code = "import subprocess; subprocess.Popen(['sleep', '5']); print('done')"
        self.assertEqual(process.run(python(code)).stdout, b"done\n")

    def test_programs_that_cannot_be_started(self) -> None:
        with self.assertRaises(MissingProgram) as missing:
            process.run(Command(("no-such-program",), "no-such-program send"))
        self.assertIn("there is no program 'no-such-program' in PATH", str(missing.exception))
        for argv, words in {
            ("/",): "cannot run a thing: Permission denied: '/'",
            ("true", "\0"): "cannot run a thing: an argument cannot be given to a program: embedded null byte",
        }.items():
            with self.assertRaises(Failure) as caught:
                process.run(Command(argv, "a thing"))
            self.assertEqual(caught.exception.message, words)
            self.assertTrue(caught.exception.hint)

    def test_messages_are_english(self) -> None:
        self.assertEqual(process.run(python("import os; print(os.environ['LC_ALL'])")).stdout, b"C\n")


class Scarce(unittest.TestCase):
    def test_what_the_machine_does_not_give_is_a_failure(self) -> None:
        none = OSError(errno.EMFILE, "Too many open files")
        with ExitStack() as scope:
            tree = Tree(Host(), "/", False, Spool(scope))
            for what, act, words in (
                ("builtins.open", lambda: process.run(Command(("true",), "true")), "cannot run programs"),
                ("os.pipe", lambda: read([tree]), "cannot read files"),
                ("os.pipe", lambda: transfer([], [Receiver((Command(("true",), "true"),))]), "cannot move a stream"),
            ):
                with self.subTest(words), patch(what, side_effect=none), self.assertRaises(Failure) as caught:
                    act()
                self.assertEqual(caught.exception.message, f"{words}: Too many open files")
                self.assertIn("ulimit -n", caught.exception.hint)

    def test_pipes_are_closed_when_there_are_not_enough(self) -> None:
        pipe, left = os.pipe, [3]

        def few() -> tuple[int, int]:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EMFILE, "Too many open files")
            return pipe()

        receivers = [Receiver((Command(("true",), "true"),))]
        before = os.listdir("/proc/self/fd")
        for count in (2, 4):
            left[0] = 3
            with patch("os.pipe", few), self.assertRaises(Failure):
                transfer([], receivers * count)
            self.assertEqual(os.listdir("/proc/self/fd"), before)


class Scope(unittest.TestCase):
    def test_what_ends_while_another_one_is_awaited_holds_nothing(self) -> None:
        """A transfer of some hours starts thousands, and we may have a thousand files open."""
        counts: list[int] = []
        others: list[process.Child] = []
        with open(os.devnull, "rb") as nothing, Children() as children:
            reader, writer = os.pipe()

            def tick() -> None:
                if others and others[-1].running:
                    return
                counts.append(len(os.listdir("/proc/self/fd")))
                if len(counts) < 12:
                    others.append(children.start(Command(("true",), "true"), nothing.fileno()))
                elif len(counts) == 12:
                    os.close(writer)

            with mock.patch("btrfs_backup.system.process._TICK", 0.005):
                children.wait([children.start(Command(("cat",), "cat"), reader)], tick)
            os.close(reader)
        self.assertLessEqual(max(counts), counts[1], counts)

    def test_leaving_it_ends_and_reaps(self) -> None:
        ignoring = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
        process_grace, process._GRACE = process._GRACE, 0.5
        self.addCleanup(setattr, process, "_GRACE", process_grace)
        for code in ("import time; time.sleep(60)", ignoring):
            with open(os.devnull) as nothing, self.assertRaises(Interrupted), Children() as children:
                child = children.start(python(code), stdin=nothing.fileno())
                if code is ignoring:
                    os.set_blocking(child._readers[0][0].fileno(), True)
                    os.read(child._readers[0][0].fileno(), 1)
                raise Interrupted(signal.SIGTERM)
            self.assertFalse(child.running)
            self.assertFalse(os.path.exists(f"/proc/{child.pid}"))


class Descendants(unittest.TestCase):
    def test_one_that_has_gone_does_not_save_the_others(self) -> None:
        """A shell in our session ends with all that it started."""
        found, gone = process._descendants, 2**22 + 1  # above the highest process id
        self.addCleanup(setattr, process, "_descendants", found)
        process._descendants = lambda pid: [gone, *found(pid)]
        command = Command(("sh", "-c", "sleep 60 & sleep 60 & wait"), "sh", own_session=False)
        with open(os.devnull) as nothing, Children() as children:
            child = children.start(command, stdin=nothing.fileno())
            while len(started := set(found(child.pid)) - {gone}) < 2:
                time.sleep(0.01)
        for pid in started:
            while os.path.exists(f"/proc/{pid}") and b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes():
                time.sleep(0.01)
        self.assertEqual(len(started), 2)


class Words(unittest.TestCase):
    def test_words(self) -> None:
        for status, stderr, words in (
            (1, "At subvol x\nERROR: a\n\nERROR: b\n", "ERROR: a; ERROR: b"),
            (1, "1\n2\n3\n4\n", "2; 3; 4"),
            (1, "At snapshot x\n", "it ended with exit status 1 and no message"),
            (-9, "", "it was ended by signal 9 (Killed)"),
        ):
            self.assertEqual(ended("x", status, stderr).words(), words)

    def test_words_without_end(self) -> None:
        self.assertLess(len(ended("x", 1, "ERROR: " + "x" * 30_000).words()), 1000)
