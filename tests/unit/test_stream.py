"""Streams through real pipes, with ordinary programs at their ends; and who made a transfer fail."""

import os
import random
import signal
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from unittest import mock

from btrfs_backup.errors import Failure, Interrupted, MissingProgram
from btrfs_backup.model.cutter import Checkpoint, checkpoints
from btrfs_backup.model.gate import Expected
from btrfs_backup.system import signals
from btrfs_backup.system import transfer as stream
from btrfs_backup.system.pipes import Chain, Outlet
from btrfs_backup.system.process import Command, Ended
from btrfs_backup.system.transfer import Cutting, Ending, Receiver, Sender
from tests.unit import test_cutter
from tests.unit.test_sendstream import END, FULL, HEADER, STREAM, frame, write

MUCH = 1_500_000


def shell(script: str, checked: bool = False) -> Receiver:
    return Receiver((Command(("sh", "-c", script), "the receiver"),), checked=checked)


def sender(script: str) -> Command:
    return Command(("sh", "-c", script), "the sender")


def disk(script: str) -> Callable[[], Command]:
    """What has a disk write."""
    return partial(sender, script)


def numbers(count: int) -> Command:
    """A sender of COUNT bytes that are not all the same."""
    return sender(f"seq 1 100000000 | head -c {count}")


class Transfers(unittest.TestCase):
    def setUp(self) -> None:
        often = mock.patch("btrfs_backup.system.process._TICK", 0.005)
        often.start()
        self.addCleanup(often.stop)
        self.descriptors = set(os.listdir("/proc/self/fd"))

    def tearDown(self) -> None:
        self.assertEqual(set(os.listdir("/proc/self/fd")), self.descriptors)

    def folder(self) -> Path:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def sums(self, receivers: list[Receiver], source: Command) -> tuple[stream.Transferred, list[str]]:
        """Run it, each receiver printing something on its standard error; what failed, and those words."""
        done = stream.transfer([Sender((source,))], receivers)
        return done, ["" if each.failure is None else each.failure.message for each in done.endings]

    def test_each_gets_everything(self) -> None:
        """A wrong checksum is an exit status."""
        for count in (1, 4):
            with self.subTest(count):
                check = f'[ "$(cksum)" = "$(seq 1 100000000 | head -c {MUCH} | cksum)" ]'
                done, failures = self.sums([shell(check)] * count, numbers(MUCH))
                self.assertEqual(failures, [""] * count)
                self.assertEqual(done.streams[0].bytes, MUCH)

    def test_the_others_go_on(self) -> None:
        """Those that die, refuse or stop reading drop out, wherever they stand."""
        good = shell(f"[ $(wc -c) = {MUCH} ]")
        table = {
            "exit 3": "the receiver: it ended with exit status 3 and no message",
            "head -c 100000 >/dev/null; echo full >&2; exit 1": "the receiver: full",
            "head -c 100000 >/dev/null": "the receiver ended before it had read the whole stream",
            "exec <&-; sleep 0.1": "the receiver ended before it had read the whole stream",
            "sleep 9 <&0 & exit 0": "the receiver ended before it had read the whole stream",
            "kill -9 $$": "the receiver: it was ended by signal 9 (Killed)",
            "cat >/dev/null; echo late >&2; exit 1": "the receiver: late",
        }
        for script, words in table.items():
            for place in range(2):
                with self.subTest(script, place=place):
                    receivers = [good]
                    receivers.insert(place, shell(script))
                    wanted = [""]
                    wanted.insert(place, words)
                    self.assertEqual(self.sums(receivers, numbers(MUCH))[1], wanted)

    def test_the_kernel_refuses_to_move_it(self) -> None:
        refusing = mock.patch("btrfs_backup.system.pipes._splice", side_effect=OSError(5, "Input/output error"))
        with refusing:
            failures = self.sums([shell("cat >/dev/null; sleep 0.1")], numbers(MUCH))[1]
        self.assertEqual(failures, ["the stream was cut off here: [Errno 5] Input/output error"])

    def test_all_drop_out(self) -> None:
        """Then the sender is not kept busy for nothing."""
        done, failures = self.sums([shell("exit 3"), shell("head -c 9 >/dev/null; exit 4")], sender("yes"))
        self.assertEqual(
            [words[-26:] for words in failures],
            ["exit status 3 and no message"[-26:], "exit status 4 and no message"[-26:]],
        )
        self.assertLess(done.streams[0].bytes, 1 << 30)

    def test_the_sender_fails(self) -> None:
        done, failures = self.sums(
            [shell("cat >/dev/null"), shell("cat >/dev/null; exit 1")], sender("echo x; echo bad >&2; exit 2")
        )
        self.assertEqual(failures, ["the sender: bad"] * 2)
        self.assertEqual(done.streams[0].bytes, 2)

    def test_nothing_read_of_little(self) -> None:
        _, failures = self.sums([shell("true"), shell("cat >/dev/null")], sender("sleep 0.1; echo x"))
        self.assertEqual(failures, ["the receiver ended before it had read the whole stream", ""])
        _, failures = self.sums([shell("sleep 0.1")], sender("echo x"))
        self.assertEqual(failures, ["the receiver ended before it had read the whole stream"])

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
        broken = "the stream is broken: it breaks off before its end"
        self.assertEqual(self.sums(receivers, cut)[1], [broken, "", broken])
        self.assertEqual(self.sums(receivers[1:2], cut)[1], [""])
        wrong = "the stream is broken: it does not begin like the output of 'btrfs send'"
        self.assertEqual(self.sums(receivers[:1], numbers(MUCH))[1], [wrong])

    def test_one_stream_after_the_other(self) -> None:
        """Each sender writes when the one before has ended; the receivers get all of it in order."""
        words = ("one", "two", "", "three")
        for count in (1, 3):
            receivers = [shell('[ "$(cat)" = "onetwothree" ]')] * count
            done = stream.transfer([Sender((sender(f"printf '{word}'"),)) for word in words], receivers)
            self.assertEqual([each.bytes for each in done.streams], [3, 3, 0, 5])
            self.assertEqual(done.endings, (Ending(None),) * count)

    def test_no_further_sender_after_a_failure(self) -> None:
        """Of a sender, by its exit status or its words, or of all receivers."""
        for bad, receiver, count, words in (
            ("printf x; echo bad >&2; exit 2", "cat >/dev/null", 2, "the sender: bad"),
            ("printf x; echo bad >&2", "cat >/dev/null; exit 1", 2, "the sender: bad"),
            ("exec yes", "head -c 4 >/dev/null; exit 4", 2, "the receiver: it ended with exit status 4 and no message"),
        ):
            with self.subTest(bad):
                senders = [Sender((sender(script),)) for script in ("printf x", bad, "printf y")]
                done = stream.transfer(senders, [shell(receiver)])
                self.assertEqual(len(done.streams), count)
                self.assertEqual([str(each.failure.message) for each in done.endings if each.failure], [words])

    def test_one_receiver_drops_out_between_two_streams(self) -> None:
        """The others get the later ones."""
        receivers = [shell("head -c 3 >/dev/null; echo full >&2; exit 1"), shell('[ "$(cat)" = "onetwo" ]')]
        senders = [Sender((sender(script),)) for script in ("printf one", "sleep 0.3; printf two")]
        done = stream.transfer(senders, receivers)
        self.assertEqual([each.failure and each.failure.message for each in done.endings], ["the receiver: full", None])
        self.assertEqual([each.bytes for each in done.streams], [3, 3])

    def ahead(self) -> tuple[list[Sender], list[str]]:
        """Three senders, the second of which ends when the third has been started; and those that have begun."""
        folder = self.folder()
        scripts = {
            "one": f"sleep 0.1; [ ! -e {folder}/two ] && printf one",
            "two": f"touch {folder}/two; until [ -e {folder}/three ]; do sleep 0.01; done; printf two",
            "three": f"touch {folder}/three; printf three",
        }
        begun: list[str] = []
        return [Sender((sender(each),), begin=partial(begun.append, name)) for name, each in scripts.items()], begun

    def test_the_next_sender_is_started_ahead(self) -> None:
        """But not while the first stream is moved: it may be a long one."""
        senders, begun = self.ahead()
        done = stream.transfer(senders, [shell('[ "$(cat)" = "onetwothree" ]')])
        self.assertEqual(done.endings, (Ending(None),))
        self.assertEqual(begun, ["one", "two", "three"])

    def test_no_further_stream_after_a_long_one(self) -> None:
        """The sender that has been started ahead is dropped."""
        senders, begun = self.ahead()
        with mock.patch("btrfs_backup.system.transfer.time.monotonic", side_effect=lambda: 100 * (len(begun) == 2)):
            done = stream.transfer(senders, [shell('[ "$(cat)" = "onetwo" ]')])
        self.assertEqual(done.endings, (Ending(None),))
        self.assertEqual((begun, len(done.streams)), (["one", "two"], 2))

    def cutting(self, *known: Checkpoint, far: bool = False) -> Cutting:
        small = mock.patch("btrfs_backup.system.pipes._SMALL", 1000)
        small.start()
        self.addCleanup(small.stop)
        return Cutting(200_000, 0.0, "1" * 16 if known else "2" * 16, known, far)

    def cut(self, text: bytes, cutting: Cutting, count: int = 1, expected: Expected | None = None) -> list[bytes]:
        """What each of COUNT receivers gets of the stream TEXT."""
        folder = self.folder()
        (folder / "stream").write_bytes(text)
        source = Sender((sender(f"cat {folder}/stream"),), expected=expected)
        self.done = stream.transfer(
            [source], [shell(f"cat >{folder}/{each}") for each in range(count)], 0, bool(expected), cutting
        )
        return [(folder / str(each)).read_bytes() for each in range(count)]

    def frames(self) -> list[bytes]:
        """Small ones and large ones."""
        dice = random.Random(1)
        return [write(dice.randbytes(dice.choice((0, 1, 100, 3000, 40_000)))) for _ in range(300)]

    def test_cut(self) -> None:
        """What goes by unseen is as whole as what is looked at; for one receiver and several, judged and not."""
        frames = self.frames()
        text = HEADER + FULL.frame() + b"".join(frames) + END
        judged = Expected(FULL.name, FULL.uuid, "", lambda _: True)
        for count, expected in ((1, None), (3, None), (1, judged)):
            for got in self.cut(text, self.cutting(), count, expected):
                receiver = test_cutter.Receiver()
                receiver.receive(got)
                self.assertGreater(len(receiver.standing), 10)
                self.assertEqual(receiver.made[receiver.standing[-1].uuid], frames)
            self.assertEqual([each.failure for each in self.done.endings], [None] * count)
            [streamed] = self.done.streams
            self.assertEqual((streamed.bytes, streamed.cut, streamed.resumed_from), (len(text), True, 0))

    def test_goes_on(self) -> None:
        frames = self.frames()
        text = HEADER + FULL.frame() + b"".join(frames) + END
        for far in (False, True):
            receiver = test_cutter.Receiver(writes=True)
            [got] = self.cut(text, self.cutting(far=far))
            receiver.receive(got[: len(got) // 2])
            [*_, known] = checkpoints(receiver.standing, far)
            kept = text
            if far:
                lines, at = b"", known.head
                for length, _ in known.ranges:
                    lines += sha256(text[at : at + length]).hexdigest().encode() + b"  -\n"
                    at += length
                kept = text[: known.head] + lines + text[at:]
            [got] = self.cut(kept, self.cutting(known, far=far))
            self.assertLess(len(got), len(text) - known.offset + 3000)
            receiver.receive(got)
            self.assertEqual(receiver.made[receiver.standing[-1].uuid], frames)
            [streamed] = self.done.streams
            self.assertEqual((streamed.bytes, streamed.resumed_from), (len(text), known.offset))
            spoiled = (
                kept.replace(kept[known.head : known.head + 40], bytes(40)) if far else text.replace(frames[3], b"")
            )
            [got] = self.cut(spoiled, self.cutting(known, far=far))
            self.assertEqual((got, self.done.unproved), (b"", ()))
            [ending] = self.done.endings
            self.assertIn("the stream is not the one that was cut off", str(ending.failure))

    def test_small_ones_are_not_cut(self) -> None:
        """Nor what is no stream at all; whoever reads it finds that out."""
        for text in (HEADER + FULL.frame() + write(b"data") + END, b"no stream"):
            [got] = self.cut(text, self.cutting())
            self.assertEqual(got, text)
            self.assertFalse(self.done.streams[0].cut)

    def test_broken_when_it_is_cut(self) -> None:
        text = HEADER + FULL.frame() + write(bytes(40_000)) * 10
        self.cut(text + bytes(100), self.cutting())
        self.assertIn("the stream was cut off here: there is something in it", str(self.done.endings[0].failure))

    def test_behind_the_first_only_small_ones_follow(self) -> None:
        """A large one waits for a transfer of its own, in which it can be cut."""
        small = (HEADER + FULL.frame() + write(b"data") + END, "small")
        large = (HEADER + FULL.frame() + write(bytes(40_000)) * 9 + END, "large")
        folder = self.folder()
        medium = (HEADER + FULL.frame() + write(bytes(40_000)) * 3 + END, "medium")
        for text, name in (small, medium, large):
            (folder / name).write_bytes(text)
        # Their sizes are measured as those of streams without data are.
        senders = [
            Sender((sender(f"cat {folder}/{each}"),), estimate=sender(f"cat {folder}/{each}"))
            for each in ("large", "small", "medium", "small", "large", "small")
        ]
        done = stream.transfer(senders, [shell(f"cat >{folder}/got")], 0, False, self.cutting())
        sizes = [len(text) for text, _ in (large, small, medium, small)]
        self.assertEqual([each.bytes for each in done.streams], sizes)
        self.assertEqual([each.cut for each in done.streams], [True, False, False, False])
        self.assertEqual(done.endings, (Ending(None),))

    def test_a_disk_is_made_to_write_while_the_stream_goes_on(self) -> None:
        """And at the end once more."""
        folder = self.folder()
        write = f"wc -c <{folder}/data >>{folder}/written"
        early = disk(f"{write}; echo early >>{folder}/written")
        receiver = Receiver(shell(f"cat >{folder}/data").pipeline, disk(write), early=early, unwritten=100)
        written = f"[ $(cat {folder}/written 2>/dev/null | grep -c early) = $step ]"
        wait = f"for try in $(seq 500); do {written} && break; sleep 0.01; done"
        slow = f"for step in 1 2; do head -c 1000 /dev/zero; {wait}; done; printf end"
        done = stream.transfer([Sender((sender(slow),))], [receiver])
        self.assertEqual(done.endings, (Ending(None),))
        self.assertEqual((folder / "written").read_text().split(), ["1000", "early", "2000", "early", "2003"])

    def test_a_disk_that_once_could_not_write(self) -> None:
        """The kernel tells that only once. The rest of the stream, which has no end here, is of no use."""
        flag = self.folder() / "failed"
        once = disk(f"[ -e {flag} ] || {{ touch {flag}; echo bad >&2; exit 1; }}")
        endless = sender("while head -c 1000 /dev/zero; do sleep 0.01; done 2>/dev/null")
        receiver = Receiver(shell("cat >/dev/null").pipeline, once, unwritten=100)
        [ending] = stream.transfer([Sender((endless,))], [receiver]).endings
        assert ending.unwritten and not ending.failure
        self.assertEqual(ending.unwritten.message, "cannot write out the filesystem: the sender: bad")

    def test_all_disks_write_at_the_same_time(self) -> None:
        """Here each waits for the other one."""
        folder = self.folder()
        os.mkfifo(folder / "fifo")
        disks = (f"echo >{folder}/fifo", f"read line <{folder}/fifo")
        done = stream.transfer(
            [Sender((numbers(MUCH),))], [Receiver(shell("cat >/dev/null").pipeline, disk(each)) for each in disks]
        )
        self.assertEqual(done.endings, (Ending(None),) * 2)

    def test_a_disk_cannot_write(self) -> None:
        receivers = [
            Receiver(shell("cat >/dev/null").pipeline, disk(each)) for each in ("true", "echo bad >&2; exit 1")
        ]
        good, bad = stream.transfer([Sender((numbers(MUCH),))], receivers).endings
        self.assertEqual((good, bad.failure), (Ending(None), None))
        assert bad.unwritten
        self.assertEqual(bad.unwritten.message, "cannot write out the filesystem: the sender: bad")

    def test_a_disk_cannot_be_reached_any_more(self) -> None:
        """That is noticed before anything is started there."""
        broken = Failure("the connection broke")
        receiver = Receiver(shell("cat >/dev/null").pipeline, mock.Mock(side_effect=broken))
        self.assertEqual(
            stream.transfer([Sender((numbers(MUCH),))], [receiver]).endings, (Ending(None, unwritten=broken),)
        )

    def test_programs_that_cannot_be_started(self) -> None:
        for source, receiver in (("sh", "no-such-program"), ("no-such-program", "cat")):
            with self.assertRaises(MissingProgram):
                stream.transfer(
                    [Sender((Command((source,), source),))], [shell("cat"), Receiver((Command((receiver,), receiver),))]
                )

    def test_a_signal_ends_it(self) -> None:
        """With full pipes everywhere, and readers that do not read."""

        for receivers in ([shell("sleep 60")], [shell("sleep 60"), shell("cat >/dev/null"), shell("sleep 60", True)]):
            with signals.noted():
                soon = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
                soon.start()
                with self.assertRaises(Interrupted):
                    stream.transfer([Sender((sender("exec yes"),))], receivers)
                soon.join()


class Stages(unittest.TestCase):
    def test_those_that_have_begun_do_not_wait_for_the_others(self) -> None:
        """As when a signal comes while they are being started: here the pipe to the second one is full."""
        stream_so_far = memoryview(HEADER + frame(9, bytes(10_000)) * 200)
        small = mock.patch("btrfs_backup.system.pipes._PIPE_SIZES", (1 << 16,))
        with small, Chain([Outlet()], 1) as chain:
            begun = chain._threads[0]
            begun.start()
            inlet = chain.inlet()
            os.set_blocking(inlet.writer, False)
            patience = 10
            while patience and stream_so_far:
                try:
                    stream_so_far = stream_so_far[os.write(inlet.writer, stream_so_far[: 1 << 20]) :]
                except BlockingIOError:
                    patience -= 1
                    time.sleep(0.01)
            self.assertTrue(begun.is_alive())
        self.assertFalse(begun.is_alive())


class HoldUp(unittest.TestCase):
    def test_enough(self) -> None:
        """It lasts, and the others are far faster."""
        mega = 1 << 20
        begun = stream.HoldUp(since=100.0, last=100.0, delivered=10 * mega, rate=80 * mega)
        for seconds, delivered, enough in (
            (3.9, 0, False),
            (4.1, 0, True),
            (5.0, 5 * 9 * mega, True),
            (5.0, 5 * 11 * mega, False),
            (60.0, 60 * 9 * mega, True),
        ):
            with self.subTest(seconds, delivered=delivered):
                self.assertEqual(begun.is_enough(100.0 + seconds, 10 * mega + delivered), enough)


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
