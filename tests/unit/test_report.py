"""What a run came to: summary lines, exit status, and how figures are written."""

import os
import signal
import unittest
from dataclasses import replace
from datetime import datetime
from unittest import mock

from btrfs_backup.errors import Failure, Interrupted, LockHeld, UsageError
from btrfs_backup.model.manifest import Comparison, Difference
from btrfs_backup.model.outcome import Outcome, Report, Restoration, Sent, exit_status, plural, span
from btrfs_backup.report.terminal import Progress, clear, progress_line, show
from btrfs_backup.report.text import (
    differences,
    intentions,
    pace,
    restore_intentions,
    restored,
    size,
    summary,
    verification_summary,
)
from btrfs_backup.system.transfer import Moving

A, B, C = "20260101-120000", "20260102-120000", "20260103-120000"
FAILURE = Failure("it broke", "Mend it.")
FULL = Failure("cannot write", "Make room.", "disk full")


def good() -> Report:
    return Report(Outcome("/home"), A, (Outcome("/b"), Outcome("/c")))


def failed_at(place: int) -> Report:
    """A run in which something failed at the source (0) or at the first (1) or second destination."""
    places = (good().source, *good().destinations)
    source, *destinations = (
        replace(each, failures=(FAILURE,)) if number == place else each for number, each in enumerate(places)
    )
    return Report(source, A, tuple(destinations))


NEXT = "its next backup, if it replaces the original (else give it a folder of its own): "


class ExitStatusTest(unittest.TestCase):
    def test_table(self) -> None:
        """The statuses are a contract with scripts."""
        table: list[tuple[Report | None, BaseException | None, int]] = [
            (good(), None, 0),
            (Report(Outcome("/home")), None, 0),
            (None, None, 0),
            (failed_at(0), None, 10),
            (failed_at(1), None, 10),
            (failed_at(2), None, 10),
            (None, FAILURE, 1),
            (good(), FAILURE, 1),
            (failed_at(0), FAILURE, 1),
            (None, UsageError("x"), 2),
            (None, LockHeld("x"), 3),
            (good(), LockHeld("x"), 3),
            (good(), Interrupted(signal.SIGINT), 130),
            (good(), Interrupted(signal.SIGTERM), 143),
            (good(), Interrupted(signal.SIGHUP), 129),
            (failed_at(1), Interrupted(signal.SIGTERM), 143),
            (None, Interrupted(signal.SIGTERM), 143),
        ]
        for report, ended_by, wanted in table:
            with self.subTest(ended_by=ended_by, failed=report and report.failed):
                self.assertEqual(exit_status(report, ended_by), wanted)

    def test_outstanding_alone_is_no_failure(self) -> None:
        report = Report(Outcome("/home"), A, (Outcome("/b", outstanding=(A,)),))
        self.assertFalse(report.failed)
        self.assertEqual(exit_status(report, None), 0)

    def test_failed(self) -> None:
        self.assertFalse(good().failed)
        for place in (0, 1, 2):
            with self.subTest(place=place):
                self.assertTrue(failed_at(place).failed)


class VerificationTest(unittest.TestCase):
    EQUAL = Comparison(A, 1, 2_000, ())
    UNEQUAL = Comparison(B, 12, 9_400_000, (Difference("x", "its data differs"), Difference("y", "it is missing")))

    def test_differences_are_failures(self) -> None:
        for comparisons, status in (((), 0), ((self.EQUAL,), 0), ((self.EQUAL, self.UNEQUAL), 10)):
            report = Report(Outcome("/home"), None, (Outcome("/b"), Outcome("/c", verified=comparisons)))
            with self.subTest(status=status):
                self.assertEqual(exit_status(report, None), status)

    def test_summary(self) -> None:
        table: list[tuple[Outcome, tuple[bool, str]]] = [
            (Outcome("/b"), (False, "/b: compared nothing")),
            (Outcome("/b", failures=(FAILURE,)), (True, "/b: FAILED, compared nothing")),
            (Outcome("/b", absent=True), (False, "/b: absent, compared nothing")),
            (
                Outcome("/b", verified=(self.EQUAL,)),
                (False, f"/b: compared 1 backup ({A}): 1 file with 2.0 kB, no difference"),
            ),
            (
                Outcome("/b", verified=(self.EQUAL,), failures=(FAILURE,)),
                (True, f"/b: FAILED, compared 1 backup ({A}): 1 file with 2.0 kB, no difference"),
            ),
            (
                Outcome("/b", verified=(self.EQUAL, self.UNEQUAL)),
                (True, f"/b: FAILED, compared 2 backups ({A}, {B}): 13 files with 9.4 MB, 2 differences"),
            ),
        ]
        for outcome, line in table:
            with self.subTest(line=line):
                self.assertEqual(verification_summary(Report(Outcome("/home"), None, (outcome,))), [line])

    def test_source_that_failed(self) -> None:
        report = Report(Outcome("/home", failures=(FAILURE,)), None, (Outcome("/b"),))
        self.assertEqual(verification_summary(report), [(True, "/home: FAILED"), (False, "/b: compared nothing")])

    def test_lines(self) -> None:
        """Each difference is one line that can be printed, whatever the names hold."""
        table = {
            ("a b/ß", "it is missing"): "a b/ß: it is missing",
            ("", "mode 755 instead of 700"): ".: mode 755 instead of 700",
            ("new\nline", "x"): "new\\nline: x",
            ("back\\slash 'quoted'", "x"): "back\\\\slash 'quoted': x",
            ("\udcff\x1b[0m", "x"): "\\xff\\x1b[0m: x",
            ("x", "target \n instead of \udc80"): "x: target \\n instead of \\x80",
        }
        for (path, what), wanted in table.items():
            with self.subTest(path=path):
                verified = (Comparison(A, 0, 0, (Difference(path, what),)),)
                lines = differences(Report(Outcome("/home"), None, (Outcome("/b\n", verified=verified),)))
                self.assertEqual(list(lines), [f"/b\\n {A}: {wanted}"])


class IntentionsTest(unittest.TestCase):
    def test_lines(self) -> None:
        """What a dry run prints."""
        usb = Outcome(
            "/usb",
            (Sent(B, A, 1_200_000, None), Sent(C, B, None, None)),
            deleted=(A,),
            kept={B: ("latest 2 of 2",), C: ("latest 1 of 2",)},
            cleared=(B,),
            free=5_000_000_000,
        )
        nas = Outcome("ssh://nas/b", absent=True, outstanding=(C,))
        new = Outcome("/new", (Sent(C, None, None, None, because="of '-I'"),), kept={C: ("keep all",)})
        small = Outcome("/small", (Sent(B, None, 7_000_000, None), Sent(C, B, None, None)), free=6_999_999)
        idle, bad = Outcome("/idle", kept={A: (), C: ()}), Outcome("/bad", failures=(FAILURE,))
        home = Outcome("/home", deleted=(A,), kept={C: ("latest 1 of 1", "last delivered to /usb")})
        self.assertEqual(
            "\n".join(intentions(Report(home, C, (usb, nas, new, small, idle, bad)))),
            """\
/home: would take snapshot 20260103-120000
/usb: would delete 20260102-120000, a transfer that was cut off
/usb: would send 20260102-120000 on top of 20260101-120000: about 1.2 MB
/usb: would send 20260103-120000 on top of 20260102-120000: size not known before
/usb: would send 2 snapshots: about 1.2 MB and more, 5.0 GB free there
/usb: would delete 20260101-120000
/usb: would keep 20260102-120000: latest 2 of 2
/usb: would keep 20260103-120000: latest 1 of 2
ssh://nas/b: absent, 1 outstanding (20260103-120000)
/new: would send 20260103-120000 in full, because of '-I': size not known before
/new: would send 1 snapshot: size not known before
/new: would keep all of 1
/small: would send 20260102-120000 in full: about 7.0 MB
/small: would send 20260103-120000 on top of 20260102-120000: size not known before
/small: would send 2 snapshots: about 7.0 MB and more, 7.0 MB free there
/small: would probably fill the disk: that is more than is free there
/idle: would send nothing
/idle: would keep all of 2
/bad: would fail: it broke
/home: would delete 20260101-120000
/home: would keep 20260103-120000: latest 1 of 1, last delivered to /usb""",
        )

    def test_restore(self) -> None:
        report = Restoration(
            "/usb/home",
            "/home",
            A,
            copy=f"/home/snapshot/{A}",
            sent=Sent(A, None, 3_000_000, None),
            intended="in full",
            free=9_000_000,
        )
        self.assertEqual(
            restore_intentions(report),
            [
                f"/home: would restore {A} from /usb/home, in full",
                "/home: would send about 3.0 MB, 9.0 MB free there",
                f"/home: its read-only copy would be /home/snapshot/{A}",
            ],
        )
        assert report.sent
        rest = restore_intentions(replace(report, sent=replace(report.sent, resumed_from=1_000_000)))
        self.assertEqual(rest[1], "/home: would send about 2.0 MB, on from 1.0 MB, 9.0 MB free there")
        full = "/home: would probably fill the disk: that is more than is free there"
        self.assertIn(full, restore_intentions(replace(report, free=2_000_000)))

    def test_source(self) -> None:
        self.assertEqual(intentions(Report(Outcome("/home", failures=(FAILURE,)))), ["/home: would fail: it broke"])


class SummaryTest(unittest.TestCase):
    def test_source(self) -> None:
        table: list[tuple[Report, tuple[bool, str]]] = [
            (Report(Outcome("/home")), (False, "/home: took no snapshot")),
            (Report(Outcome("/home"), A), (False, f"/home: took {A}")),
            (Report(Outcome("/home", kept={A: ()}), A), (False, f"/home: took {A}, 1 snapshot there")),
            (
                Report(Outcome("/home", kept={B: (), C: ()}, deleted=(A,)), C),
                (False, f"/home: took {C}, deleted 1 snapshot, 2 snapshots there"),
            ),
            (
                Report(Outcome("/home", kept={}, deleted=(A, B))),
                (False, "/home: took no snapshot, deleted 2 snapshots, 0 snapshots there"),
            ),
            (Report(Outcome("/home", failures=(FAILURE,)), A), (True, f"/home: FAILED, took {A}")),
            (
                Report(Outcome("/home", failures=(FAILURE, FULL, FULL, Failure("x", brief="read-only")))),
                (True, "/home: FAILED (disk full, read-only), took no snapshot"),
            ),
        ]
        for report, line in table:
            with self.subTest(line=line):
                nothing = (False, "/home: nothing was backed up: no DEST is given")
                self.assertEqual(summary(report), [line, nothing])

    def test_destinations(self) -> None:
        full, increment = Sent(A, None, 1_500_000, 2.0), Sent(B, A, 21_000, 0.1)
        table: list[tuple[Outcome, tuple[bool, str]]] = [
            (Outcome("/b"), (False, "/b: sent nothing")),
            (Outcome("/b", kept={A: (), B: ()}), (False, "/b: sent nothing, 2 backups there")),
            (Outcome("/b", sent=(full,)), (False, "/b: sent 1 snapshot (1.5 MB)")),
            (Outcome("/b", sent=(increment,)), (False, "/b: sent 1 snapshot (1 incremental, 21.0 kB)")),
            (Outcome("/b", sent=(full, increment)), (False, "/b: sent 2 snapshots (1 incremental, 1.5 MB in 2.1 s)")),
            (
                Outcome("/b", outstanding=(A, B, C, C), failures=(FAILURE,)),
                (True, f"/b: FAILED, sent nothing, 4 outstanding ({A} to {C})"),
            ),
            (
                Outcome("/b", outstanding=(B, C), failures=(FAILURE,)),
                (True, f"/b: FAILED, sent nothing, 2 outstanding ({B}, {C})"),
            ),
            (
                Outcome("/b", (full,), deleted=(A,), kept={B: ()}, outstanding=(C,), failures=(FAILURE, FAILURE)),
                (True, f"/b: FAILED, sent 1 snapshot (1.5 MB), 1 outstanding ({C}), deleted 1 backup, 1 backup there"),
            ),
        ]
        for outcome, line in table:
            with self.subTest(line=line):
                self.assertEqual(summary(Report(Outcome("/home"), destinations=(outcome,)))[1:], [line])

    def test_one_line_each_in_order(self) -> None:
        """A failure of one is told in its own line only."""
        lines = summary(failed_at(2))
        self.assertEqual([failed for failed, _ in lines], [False, False, True])
        self.assertEqual([line.partition(":")[0] for _, line in lines], ["/home", "/b", "/c"])
        self.assertEqual(["FAILED" in line for _, line in lines], [False, False, True])

    def test_is_repeatable(self) -> None:
        report = failed_at(1)
        self.assertEqual(summary(report), summary(report))


class RestorationTest(unittest.TestCase):
    def report(self, sent: Sent | None = None, done: bool = True) -> Restoration:
        taken = datetime(2026, 1, 1, 12, 0, 7)
        return Restoration("/b", "/home", A, taken, f"/home/snapshot/{A}", sent, "btrfs-backup /home /b", done)

    def test_lines(self) -> None:
        head = f"/home: restored {A}, taken 2026-01-01 12:00:07, from /b"
        go_on = (
            False,
            f"{NEXT}btrfs-backup /home /b",
        )
        sent = self.report(Sent(A, None, 21_000_000, 2.0))
        self.assertEqual(restored(sent), [(False, f"{head} (21.0 MB in 2.0 s, 10.5 MB/s)"), go_on])
        assert sent.sent
        rest = replace(sent, sent=replace(sent.sent, resumed_from=20_000_000))
        self.assertEqual(restored(rest)[0], (False, f"{head} (1.0 MB in 2.0 s, 500.0 kB/s)"))
        self.assertEqual(restored(self.report()), [(False, f"{head} (nothing had to be sent)"), go_on])
        self.assertEqual(restored(self.report(done=False)), [])

    def test_exit_status(self) -> None:
        """Something that could not be cleared up does not undo the restore."""
        report = self.report()
        self.assertEqual(exit_status(report, None), 0)
        report = replace(report, failures=(FAILURE,))
        self.assertEqual(exit_status(report, None), 10)
        self.assertTrue(restored(report)[0][0])
        self.assertEqual(exit_status(report, FAILURE), 1)


class FiguresTest(unittest.TestCase):
    def test_size(self) -> None:
        table: dict[float, str] = {
            0: "0 B",
            1: "1 B",
            999: "999 B",
            1000: "1.0 kB",
            1049: "1.0 kB",
            21_300: "21.3 kB",
            999_900: "999.9 kB",
            1_000_000: "1.0 MB",
            21_300_000: "21.3 MB",
            1_000_000_000: "1.0 GB",
            1_000_000_000_000: "1.0 TB",
            21_300_000_000_000: "21.3 TB",
            1_000_000_000_000_000: "1000.0 TB",
            0.4: "0 B",
            12.6: "13 B",
        }
        for count, wanted in table.items():
            with self.subTest(count=count):
                self.assertEqual(size(count), wanted)

    def test_plural(self) -> None:
        for count, wanted in ((0, "0 backups"), (1, "1 backup"), (2, "2 backups"), (11, "11 backups")):
            with self.subTest(count=count):
                self.assertEqual(plural(count, "backup"), wanted)

    def test_span(self) -> None:
        for names, wanted in (((), ""), ((A,), A), ((A, B, C), f"{A}, {B}, {C}"), ((A, B, B, C), f"{A} to {C}")):
            with self.subTest(names=names):
                self.assertEqual(span(names), wanted)


class RoundingTest(unittest.TestCase):
    def test_a_thousand_is_the_next_unit(self) -> None:
        sizes = [size(count) for count in (999, 999.7, 999_949, 999_960, 999_960_000)]
        self.assertEqual(sizes, ["999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB"])


class PaceTest(unittest.TestCase):
    def test_rate_only_when_there_is_enough(self) -> None:
        """The time of a small stream is that of starting programs: no rate."""
        for count, seconds, text in (
            (21_000_000, 2.0, "21.0 MB in 2.0 s, 10.5 MB/s"),
            (1_000_000, 1.0, "1.0 MB in 1.0 s, 1.0 MB/s"),
            (848, 2.4, "848 B in 2.4 s"),
            (2_000_000, 0.0, "2.0 MB in 0.0 s"),
        ):
            with self.subTest(text):
                self.assertEqual(pace(count, seconds), text)


class ProgressTest(unittest.TestCase):
    def test_lines(self) -> None:
        table: list[tuple[tuple[int, float, int | None], str]] = [
            ((0, 0.0, None), "0 B, 0 B/s: x"),
            ((1_500_000, 2e6, None), "1.5 MB, 2.0 MB/s: x"),
            ((5_000_000, 1e6, 20_000_000), "25 % of 20.0 MB, 1.0 MB/s, 0:15 left: x"),
            ((0, 0.0, 20_000_000), "0 % of 20.0 MB, 0 B/s: x"),
            ((10**9, 1e6, 10**10), "10 % of 10.0 GB, 1.0 MB/s, 2:30:00 left: x"),
            # An estimate may be too small.
            ((21_000_000, 1e6, 20_000_000), "99 % of 20.0 MB, 1.0 MB/s: x"),
        ]
        for (moved, rate, total), wanted in table:
            with self.subTest(wanted):
                self.assertEqual(progress_line("x", moved, rate, total), wanted)
        arrived = progress_line("x", 2_000_000, 0, 2_000_000, arrived=True)
        self.assertEqual(arrived, "2.0 MB are being written to disk: x")

    def test_all_that_waits(self) -> None:
        """When the sizes of all of them are known."""
        for waiting, wanted in (
            ((), ""),
            ((20_000_000, None), ""),
            ((20_000_000, 10_000_000), ", 0:45 for all 3"),
        ):
            line = progress_line("x", 5_000_000, 1e6, 20_000_000, False, waiting)
            self.assertEqual(line, f"25 % of 20.0 MB, 1.0 MB/s, 0:15 left{wanted}: x")

    def test_as_wide_as_the_terminal(self) -> None:
        """Without its last column; some say that they have none."""
        for columns, wanted in ((30, 29), (200, 100), (0, 79)):
            written: list[str] = []
            size = os.terminal_size((columns, 24))
            with (
                mock.patch("btrfs_backup.report.terminal._write", written.append),
                mock.patch("os.get_terminal_size", return_value=size),
                mock.patch("sys.stderr", mock.Mock()),
            ):
                show("x" * 100)
                clear()
            self.assertEqual([each.count("x") for each in written], [wanted, 0])

    def test_destinations(self) -> None:
        """All of them, and how far those are that are behind."""
        shown: list[str] = []
        with mock.patch("btrfs_backup.report.terminal.show", shown.append):
            watch = Progress(A, ("/b", "/c", "/d"), lambda: ())
            watch(Moving(90_000_000, (90_000_000, 26_000_000, 87_000_000), 1.0, None, False))
        self.assertEqual(shown, [f"90.0 MB, 90.0 MB/s: {A} to /b, /c (at 26.0 MB), /d"])


if __name__ == "__main__":
    unittest.main()
