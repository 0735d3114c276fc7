"""Streams through real pipes, with ordinary programs at their ends; and who made a transfer fail."""

import os
import signal
import sys
import time
import unittest

from btrfs_backup.errors import Interrupted, MissingProgram
from btrfs_backup.system import stream
from btrfs_backup.system.pipes import Chain, Outlet
from btrfs_backup.system.process import Command, Ended
from btrfs_backup.system.stream import Receiver
from tests.unit.test_sendstream import HEADER, STREAM, frame

MUCH = 1_500_000


def shell(script: str, checked: bool = False) -> Receiver:
    return Receiver((Command(("sh", "-c", script), "the receiver"),), checked)


def sender(script: str) -> Command:
    return Command(("sh", "-c", script), "the sender")


def numbers(count: int) -> Command:
    """A sender of COUNT bytes that are not all the same."""
    return sender(f"seq 1 100000000 | head -c {count}")


class Transfers(unittest.TestCase):
    def setUp(self) -> None:
        self.descriptors = set(os.listdir("/proc/self/fd"))

    def tearDown(self) -> None:
        self.assertEqual(set(os.listdir("/proc/self/fd")), self.descriptors)

    def sums(self, receivers: list[Receiver], source: Command) -> tuple[stream.Transferred, list[str]]:
        """Run it, each receiver printing something on its standard error; what failed, and those words."""
        done = stream.transfer((source,), receivers, "trying")
        return done, ["" if failure is None else failure.message for failure in done.failures]

    def test_each_gets_everything(self) -> None:
        """A wrong checksum is an exit status."""
        for count in (1, 4):
            with self.subTest(count):
                check = f'[ "$(cksum)" = "$(seq 1 100000000 | head -c {MUCH} | cksum)" ]'
                done, failures = self.sums([shell(check)] * count, numbers(MUCH))
                self.assertEqual(failures, [""] * count)
                self.assertEqual(done.bytes, MUCH)

    def test_the_others_go_on(self) -> None:
        """Those that die, refuse or stop reading drop out, wherever they stand."""
        good = shell(f"[ $(wc -c) = {MUCH} ]")
        table = {
            "exit 3": "trying: the receiver: it ended with exit status 3 and no message",
            "head -c 100000 >/dev/null; echo full >&2; exit 1": "trying: the receiver: full",
            "head -c 100000 >/dev/null": "trying: the receiver ended before it had read the whole stream",
            "exec <&-; sleep 0.1": "trying: the receiver ended before it had read the whole stream",
            "sleep 9 <&0 & exit 0": "trying: the receiver ended before it had read the whole stream",
            "kill -9 $$": "trying: the receiver: it was ended by signal 9 (Killed)",
            "cat >/dev/null; echo late >&2; exit 1": "trying: the receiver: late",
        }
        for script, words in table.items():
            for place in range(2):
                with self.subTest(script, place=place):
                    receivers = [good]
                    receivers.insert(place, shell(script))
                    wanted = [""]
                    wanted.insert(place, words)
                    self.assertEqual(self.sums(receivers, numbers(MUCH))[1], wanted)

    def test_all_drop_out(self) -> None:
        """Then the sender is not kept busy for nothing."""
        done, failures = self.sums([shell("exit 3"), shell("head -c 9 >/dev/null; exit 4")], sender("yes"))
        self.assertEqual(
            [words[-26:] for words in failures],
            ["exit status 3 and no message"[-26:], "exit status 4 and no message"[-26:]],
        )
        self.assertLess(done.bytes, 1 << 30)

    def test_the_sender_fails(self) -> None:
        done, failures = self.sums(
            [shell("cat >/dev/null"), shell("cat >/dev/null; exit 1")], sender("echo x; echo bad >&2; exit 2")
        )
        self.assertEqual(failures, ["trying: the sender: bad"] * 2)
        self.assertEqual(done.bytes, 2)

    def test_nothing_read_of_little(self) -> None:
        _, failures = self.sums([shell("true"), shell("cat >/dev/null")], sender("sleep 0.1; echo x"))
        self.assertEqual(failures, ["trying: the receiver ended before it had read the whole stream", ""])
        _, failures = self.sums([shell("sleep 0.1")], sender("echo x"))
        self.assertEqual(failures, ["trying: the receiver ended before it had read the whole stream"])

    def test_checked(self) -> None:
        """Only for those that ask for it; the others get on with what comes."""
        text = STREAM.hex()
        whole = Command(
            (sys.executable, "-c", f"import sys; sys.stdout.buffer.write(bytes.fromhex('{text}'))"), "sender"
        )
        cut = Command(
            (sys.executable, "-c", f"import sys; sys.stdout.buffer.write(bytes.fromhex('{text}')[:-1])"), "sender"
        )
        receivers = [
            shell("cat >/dev/null", True),
            shell("cat >/dev/null"),
            shell(f"[ $(wc -c) = {len(STREAM)} ]", True),
        ]
        self.assertEqual(self.sums(receivers, whole)[1], ["", "", ""])
        broken = "trying: the stream is broken: it breaks off before its end"
        self.assertEqual(self.sums(receivers, cut)[1], [broken, "", broken])
        self.assertEqual(self.sums(receivers[1:2], cut)[1], [""])
        wrong = "trying: the stream is broken: it does not begin like the output of 'btrfs send'"
        self.assertEqual(self.sums(receivers[:1], numbers(MUCH))[1], [wrong])

    def test_programs_that_cannot_be_started(self) -> None:
        for source, receiver in (("sh", "no-such-program"), ("no-such-program", "cat")):
            with self.assertRaises(MissingProgram):
                stream.transfer(
                    (Command((source,), source),), [shell("cat"), Receiver((Command((receiver,), receiver),))], "x"
                )

    def test_a_signal_ends_it(self) -> None:
        """With full pipes everywhere, and readers that do not read."""

        def interrupt(signum: int, frame: object) -> None:
            raise Interrupted(signum)

        before = signal.signal(signal.SIGALRM, interrupt)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        for receivers in ([shell("sleep 60")], [shell("sleep 60"), shell("cat >/dev/null"), shell("sleep 60", True)]):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with self.assertRaises(Interrupted):
                stream.transfer((sender("exec yes"),), receivers, "x")


class Stages(unittest.TestCase):
    def test_those_that_have_begun_do_not_wait_for_the_others(self) -> None:
        """As when a signal comes while they are being started: here the pipe to the second one is full."""
        stream_so_far = memoryview(HEADER + frame(9, bytes(100_000)) * 2000)
        with Chain([Outlet()], 1) as chain:
            begun = chain._threads[0]
            begun.start()
            os.set_blocking(chain.inlet.writer, False)
            patience = 10
            while patience and stream_so_far:
                try:
                    stream_so_far = stream_so_far[os.write(chain.inlet.writer, stream_so_far[: 1 << 20]) :]
                except BlockingIOError:
                    patience -= 1
                    time.sleep(0.01)
            self.assertTrue(begun.is_alive())
        self.assertFalse(begun.is_alive())


class Cause(unittest.TestCase):
    def test_the_stage_that_did_not_die_of_a_broken_pipe(self) -> None:
        for send, receive, left_early, wanted in (
            (0, 0, False, None),
            (0, 0, True, None),
            (1, 0, False, "send"),
            (0, 1, False, "receive"),
            (1, 1, False, "send"),
            (1, 1, True, "receive"),
            (-signal.SIGPIPE, 1, True, "receive"),
            (-signal.SIGPIPE, 1, False, "receive"),
            (141, 1, False, "receive"),
            (-signal.SIGPIPE, 0, False, "send"),
            (-signal.SIGPIPE, 0, True, None),
            (-signal.SIGKILL, 1, False, "send"),
        ):
            with self.subTest(send=send, receive=receive):
                ends = [
                    Ended(Command((name,), name), status, b"", "")
                    for name, status in (("send", send), ("receive", receive))
                ]
                failed = stream.cause(ends[:1], ends[1:], left_early)
                self.assertEqual(failed and failed.command.title, wanted)


if __name__ == "__main__":
    unittest.main()
