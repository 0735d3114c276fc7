"""A sample of long use, and clocks that are wrong: names go up, and what was just taken stays."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from btrfs_backup.cli import parser as cli
from btrfs_backup.model.outcome import Report
from btrfs_backup.model.settings import Settings
from tests import year
from tests.real.machine import RealTest, names


class Year(RealTest):
    def test_some_runs_of_a_year(self) -> None:
        """All of it is for `python3 -m tests.year`."""
        year.Simulation(self, seed=2).simulate(days=365, runs=120)

    def test_some_days(self) -> None:
        year.Simulation(self, seed=5).simulate(days=9, runs=40)


@contextmanager
def local_time(zone: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


class Clocks(RealTest):
    # In Berlin summer time ends at 01:00 UTC, when it is 03:00 and becomes 02:00.
    # UTC, the name, and whether others are said to lie in the future.
    TIMES = (
        ("2026-10-24T22:30", "home20261025-003000", False),
        ("2026-10-25T00:30", "home20261025-023000", False),
        ("2026-10-25T00:59", "home20261025-025900", False),
        # The hour begins again.
        ("2026-10-25T01:00", "home20261025-025901", False),
        ("2026-10-25T01:30", "home20261025-025902", False),
        ("2026-10-25T01:59:01", "home20261025-025903", False),
        ("2026-10-25T02:00", "home20261025-030000", False),
        # The same second, then set back by a minute.
        ("2026-10-25T02:00", "home20261025-030001", False),
        ("2026-10-25T01:59", "home20261025-030002", False),
        # Right again, then far in the future, right again, and far in the past.
        ("2026-10-26T02:00", "home20261026-030000", False),
        ("2038-01-19T03:14:08", "home20380119-041408", False),
        ("2026-10-27T02:00", "home20261027-030000", True),
        ("2026-10-28T02:00", "home20261028-030000", True),
        ("2001-01-01T00:00", "home20010101-010000", True),
    )

    def test_names_go_up_and_the_future_stays(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        settings = cli.parse(["-N", "1", "-n", "1", "-p", "home", str(source), str(usb)])
        with local_time("Europe/Berlin"):
            for utc, wanted, ahead in self.TIMES:
                now = datetime.fromtimestamp(datetime.fromisoformat(utc).replace(tzinfo=timezone.utc).timestamp())
                with self.subTest(utc):
                    (source / "file").write_text(utc)
                    future = [name for name in names(usb) if ahead and name > wanted]
                    report, said = self.run_at(now, settings)
                    self.assertFalse(report.failed)
                    self.assertEqual(report.snapshot, wanted)
                    self.assertEqual("lies in the future" in said, ahead)
                    self.assert_complete(usb, source / "snapshot", [wanted, *future])

    def run_at(self, now: datetime, settings: Settings) -> tuple[Report, str]:
        """Its report, and what it said."""
        world = year.carried_out(settings, now)
        return world.report(), "\n".join(str(each.what) for each in world.messages)

    def test_policies_and_a_newest_in_the_future(self) -> None:
        """Periods of the future do not push out what is taken now."""
        source, usb = self.source(), self.disk("usb").path
        settings = cli.parse(["-N", "2d", "-n", "1h 1y", str(source), str(usb)])
        for now in (datetime(2030, 5, 1), datetime(2026, 5, 1), datetime(2026, 5, 2), datetime(2031, 5, 3)):
            report, _ = self.run_at(now, settings)
            self.assertIn(report.snapshot, names(source / "snapshot"))
            self.assertIn(report.snapshot, names(usb))
        self.assertEqual(names(source / "snapshot"), ["20300501-000000", "20310503-000000"])
        self.assertEqual(names(usb), ["20310503-000000"])
