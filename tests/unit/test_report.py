"""Summary lines and exit statuses."""

import unittest

from btrfs_backup.errors import Failure, Interrupted, LockHeld, MissingProgram, StateFileBroken, UsageError
from btrfs_backup.report import Report, Sent, Tally, exit_status, plural, size, summary


class ExitStatus(unittest.TestCase):
    def test_table(self) -> None:
        good = Report(Tally("/home"), destinations=[Tally("/usb")])
        bad_source = Report(Tally("/home", failures=[Failure("x")]))
        bad_destination = Report(Tally("/home"), destinations=[Tally("/usb", failures=[Failure("x")]), Tally("/nas")])
        for report, ended_by, status in (
            (good, None, 0),
            (good, Failure("no source"), 1),
            (good, MissingProgram("no btrfs"), 1),
            (None, UsageError("?"), 2),
            (good, LockHeld("busy"), 3),
            (bad_source, None, 10),
            (bad_destination, None, 10),
            (Report(Tally("/home", failures=[StateFileBroken("x")])), None, 10),
            (bad_destination, Interrupted(15), 143),
            (good, Interrupted(2), 130),
            (good, Interrupted(1), 129),
        ):
            with self.subTest(ended_by=ended_by, report=report):
                self.assertEqual(exit_status(report, ended_by), status)


class Summary(unittest.TestCase):
    def test_lines(self) -> None:
        report = Report(
            Tally("/home", deleted=["a", "b"], kept=["c"]),
            "20261123-042459",
            [
                Tally("/usb", [Sent("c", None, 21_000_000, 1.0), Sent("d", "c", 300, 1.0)], kept=["c", "d"]),
                Tally("/nas", failures=[Failure("full")], outstanding=["c", "d"]),
                Tally("/idle", kept=[]),
            ],
        )
        self.assertEqual(
            summary(report),
            [
                (False, "/home: took 20261123-042459, deleted 2 snapshots, 1 snapshot there"),
                (False, "/usb: sent 2 snapshots (1 incremental, 21.0 MB), 2 backups there"),
                (True, "/nas: FAILED, sent nothing, 2 outstanding (c, d)"),
                (False, "/idle: sent nothing, 0 backups there"),
            ],
        )

    def test_no_snapshot(self) -> None:
        self.assertEqual(summary(Report(Tally("/home"))), [(False, "/home: took no snapshot")])

    def test_words(self) -> None:
        self.assertEqual([plural(count, "backup") for count in (0, 1, 2)], ["0 backups", "1 backup", "2 backups"])
        for count, text in (
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1.5e6, "1.5 MB"),
            (2e9, "2.0 GB"),
            (5e15, "5000.0 TB"),
        ):
            self.assertEqual(size(count), text)


class Texts(unittest.TestCase):
    def test_hint_follows_on_its_own_line(self) -> None:
        self.assertEqual(str(Failure("it broke", "Mend it.")), "it broke\n  Mend it.")
        self.assertEqual(str(Failure("it broke")), "it broke")
