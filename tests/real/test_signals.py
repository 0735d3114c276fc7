"""Signals end a run at whatever moment they come, and further ones do not wait."""

import fcntl
import os
import random
import signal
import time

from tests.real.machine import RealTest, random_file, wait_for, with_program
from tests.real.sshd import SshTest
from tests.storm import Storm


class Signals(RealTest):
    def test_at_random_moments(self) -> None:
        storm = Storm(self.folder, random.randrange(1 << 32))
        self.addCleanup(storm.close)
        ended = 0
        for _ in range(20):
            by_signal, wrong = storm.disturb()
            self.assertFalse(wrong, "\n".join(wrong))
            ended += by_signal
        self.assertTrue(ended)

    def test_a_second_one_is_heard(self) -> None:
        """The first one asks a program to end that does not want to."""
        source, usb = self.source(), self.disk("usb").path
        random_file(source / "large", 10)
        script = (
            f"""case $1 in receive) trap '' TERM; touch {self.folder}/begun; sleep 60;; *) exec $REAL "$@";; esac"""
        )
        run = self.start(source, usb, env=with_program(self.folder / "bin", "btrfs", script))
        wait_for((self.folder / "begun").exists)
        run.send_signal(signal.SIGINT)
        time.sleep(0.5)
        self.assertIsNone(run.poll())
        again = time.monotonic()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=20)
        self.assertLess(time.monotonic() - again, 2)
        self.assertEqual(run.returncode, 130, err)
        self.assertIn(f"{usb}: sent nothing, 1 outstanding", err)

    def test_while_it_waits_for_the_lock(self) -> None:
        source = self.source()
        (source / "snapshot").mkdir()
        descriptor = os.open(source / "snapshot", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        run = self.start("--lock-wait", "60", source)
        assert run.stderr
        run.stderr.readline()
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=10)
        self.assertEqual(run.returncode, 143)


class Ssh(SshTest):
    def test_while_the_status_is_found_out(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        run = self.start("--ssh-opt=ProxyCommand=sleep 60", "-v", "debug", "--status", source, usb, "ssh://nowhere/x")
        assert run.stderr
        for line in run.stderr:
            if "ControlMaster=yes" in line:
                break
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=20)
        self.assertEqual(run.returncode, 130, err)
        self.assertIn("ended by SIGINT", err)
        self.assertEqual(out, "")

    def test_while_it_connects(self) -> None:
        source = self.source()
        run = self.start("--ssh-opt=ProxyCommand=sleep 60", "-v", "debug", source, "ssh://nowhere/x")
        assert run.stderr
        for line in run.stderr:
            if "ControlMaster=yes" in line:
                break
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=10)
        self.assertEqual(run.returncode, 130, err)
        self.assertIn("ssh://nowhere/x: sent nothing", err)
