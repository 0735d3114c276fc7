"""`--prune`: retention where the backups are kept, by when each one arrived."""

import fcntl
import json
import os

from btrfs_backup.errors import Failure
from btrfs_backup.system import folder
from tests.real.machine import RealTest, names, sh, show, stage


class Pruning(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home, self.kept = self.source(), self.disk("nas").path / "laptop"

    def arrive(self, *stamps: str, prefix: str = "") -> list[str]:
        """Backups of those names, which arrive in this order."""
        for stamp in stamps:
            sh("btrfs", "subvolume", "snapshot", "-r", self.home, self.home / "snapshot" / f"{prefix}{stamp}")
            self.backup("-q", "-S", "-p", prefix, self.home, self.kept)
        return [f"{prefix}{stamp}" for stamp in stamps]

    def test_by_arrival(self) -> None:
        """Names evict nothing, whatever day they tell: of what has come today, the last ones stay."""
        (self.home / "snapshot").mkdir()
        came = self.arrive("20260103-000000", "19990101-000000", "20260101-000000", "20250101-000000")
        printed = self.backup("--prune", "--dry-run", "-n", "2", self.kept).out
        self.assertIn(f"would delete {came[0]}\n", printed)
        self.assertIn(f"would keep {came[3]}: latest 1 of 2\n", printed)
        self.assertEqual(names(self.kept), sorted(came))
        result = self.backup("--prune", "-n", "2", self.kept)
        self.assertIn(f"{self.kept}: deleted {came[0]}, {came[1]}\n", result.err)
        self.assertIn(f"{self.kept}: deleted 2 backups, 2 backups there\n", result.err)
        self.assertEqual(names(self.kept), sorted(came[2:]))
        self.assertIn("deleted nothing, 2 backups there", self.backup("--prune", "-n", "2", self.kept).err)
        told = json.loads(self.backup("--prune", "--json", "-n", "7d", self.kept).out)
        self.assertEqual((told["command"], told["source"]["deleted"]), ("prune", [came[2]]))
        self.assertEqual([each["name"] for each in told["source"]["kept"]], [came[3]])
        self.assertEqual(self.backup("--prune", "-q", "-n", "1", self.kept).err, "")

    def test_what_it_leaves_alone(self) -> None:
        """Other prefixes, what is foreign, stages, and what somebody receives at this moment."""
        (self.home / "snapshot").mkdir()
        came = self.arrive("20260101-000000", "20260102-000000", "20260103-000000")
        others = self.arrive("20260101-000000", "20260102-000000", prefix="x-")
        sh("btrfs", "subvolume", "create", self.kept / "20250101-000000")
        sh("btrfs", "subvolume", "snapshot", "-r", self.kept / "20250101-000000", self.kept / "20250102-000000")
        (self.kept / "20250103-000000").mkdir()
        for name in ("20240101-000000", came[0]):
            stage(self.kept, name)
        attempt = next(self.kept.glob(f".{came[0]}.receiving/*"))
        descriptor = os.open(attempt.parent, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        before = sorted(os.listdir(self.kept))
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self.backup("--prune", "-n1", self.kept)
        self.assertEqual(sorted({*before} - {came[1]}), sorted(os.listdir(self.kept)))
        self.assertLessEqual({*others}, {*names(self.kept)})
        self.backup("--prune", "-p", "x-", "-n1", self.kept)
        self.assertEqual(sorted({*before} - {came[1], others[0]}), sorted(os.listdir(self.kept)))

    def test_the_client_goes_on(self) -> None:
        """With increments upon what is left."""
        for _ in range(3):
            self.backup("-q", self.home, self.kept)
        self.backup("--prune", "-q", "-n1", self.kept)
        self.assertIn("1 incremental", self.backup("-n2", self.home, self.kept).err)

    def test_where_there_is_nothing(self) -> None:
        for path in (self.kept, self.folder):
            result = self.backup("--prune", "-n1", path, status=1)
            self.assertIn(f"'{path}' is not a folder on btrfs\n  Is the disk mounted, and the path right?", result.err)
        with self.assertRaises(Failure) as failed:
            folder.made_at(str(self.folder))
        self.assertIn(f"cannot tell when '{self.folder}' was made", failed.exception.message)

    def test_when_it_was_made(self) -> None:
        (self.home / "snapshot").mkdir()
        [name] = self.arrive("20260101-000000")
        uuid, made = folder.made_at(str(self.kept / name))
        told = show(self.kept / name)
        self.assertEqual(uuid, told["UUID"])
        self.assertEqual(sh("date", "-d", f"@{made}", "+%F %T %z").strip(), told["Creation time"])
