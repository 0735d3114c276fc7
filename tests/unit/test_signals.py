"""Signals are noted, and raised where the program waits."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import ExitStack
from pathlib import Path

from btrfs_backup.errors import Interrupted
from btrfs_backup.system import signals
from btrfs_backup.system.trees import Spool

STUCK = """
import os, sys
from btrfs_backup.system import signals
signals._UNHEARD = 0.1
with signals.noted():
    print(flush=True)
    reader, writer = os.pipe()
    while True:
        os.write(writer, bytes(65536))
"""


class Beginning(unittest.TestCase):
    def test_while_the_program_is_read(self) -> None:
        """Ctrl-C ends it, and Python does not tell where it was."""
        top = Path(__file__).resolve().parents[2]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "logging.py").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
            with subprocess.Popen(
                [sys.executable, "-S", "-m", "btrfs_backup", "--version"],
                env={**os.environ, "PYTHONPATH": f"{folder}:{top}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as run:
                assert run.stdout
                run.stdout.readline()
                run.send_signal(signal.SIGINT)
                self.assertEqual(run.communicate(timeout=20)[1], b"")
            self.assertEqual(run.returncode, -signal.SIGINT)


class Noted(unittest.TestCase):
    def setUp(self) -> None:
        before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGHUP)}
        self.addCleanup(lambda: [signal.signal(each, handler) for each, handler in before.items()])

    def test_a_wait_raises_what_came_before_and_only_once(self) -> None:
        with signals.noted():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGINT)
            self.assertEqual(signals.unheard(), signal.SIGHUP)
            with self.assertRaises(Interrupted) as raised:
                signals.wait([])
            self.assertEqual(raised.exception.signum, signal.SIGHUP)
            signals.check()
            self.assertFalse(signals.wait([], 0.01))
            self.assertEqual(signals.unheard(), 0)
            signal.raise_signal(signal.SIGINT)
            self.assertRaises(Interrupted, signals.check)

    def test_a_signal_ends_a_wait(self) -> None:
        with signals.noted():
            child = subprocess.Popen(["sh", "-c", f"sleep 0.1; kill -INT {os.getpid()}"])
            with self.assertRaises(Interrupted):
                signals.wait([], 20)
            child.wait()

    def test_what_can_be_read_ends_a_wait(self) -> None:
        reader, writer = os.pipe()
        self.assertFalse(signals.wait([reader], 0.01))
        os.write(writer, b"x")
        with signals.noted():
            self.assertTrue(signals.wait([reader], 20))
        os.close(reader)
        os.close(writer)

    def test_a_program_that_is_stuck_can_be_ended(self) -> None:
        with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE) as stuck:
            assert stuck.stdout
            stuck.stdout.readline()
            for _ in range(2):
                self.assertIsNone(stuck.poll())
                stuck.send_signal(signal.SIGINT)
                time.sleep(0.3)
            self.assertEqual(stuck.wait(10), -signal.SIGINT)

    def test_millions_of_records_are_no_wait_but_end(self) -> None:
        with ExitStack() as scope, signals.noted():
            spool = Spool(scope)
            spool.add(b"one")
            signal.raise_signal(signal.SIGINT)
            self.assertRaises(Interrupted, list, spool)

    def test_what_is_ignored_stays_so(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.noted():
            self.assertEqual(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.default_int_handler)
