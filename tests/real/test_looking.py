"""What is shown without doing anything: --status, --dry-run, --json."""

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any

from tests.real.machine import OUTSTANDING, RealTest, names, random_file, sh, tree
from tests.real.sshd import SshTest


def state_of(folder: Path) -> list[tuple[str, float, bytes]]:
    """The files in FOLDER, with time and content."""
    return [(each.name, each.stat().st_mtime, each.read_bytes()) for each in sorted(folder.iterdir()) if each.is_file()]


WIDE = {"COLUMNS": "400"}


class Looking(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home = self.source()
        self.usb = self.disk("usb")
        self.snapshots = self.home / "snapshot"

    def document(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        found = json.loads(self.backup(*arguments, "--json", status=status).out)
        assert isinstance(found, dict)
        self.assertEqual(found["exit_status"], status)
        return found


class DryRun(Looking):
    def test_golden(self) -> None:
        """What it would take, send and delete, and why the others stay; nothing is touched."""
        for number in range(3):
            (self.home / f"file{number}").write_text("x")
            self.backup(self.home, *([self.usb.path] if number < 2 else []))
        one, two, three = names(self.snapshots)
        before = (state_of(self.snapshots), names(self.usb.path))
        result = self.backup("--dry-run", "-N", "2", "-n", "2", self.home, self.usb.path)
        text = result.out.replace(str(self.folder), "")
        [new] = re.findall("would take snapshot (.*)", text)
        text = re.sub(r"[0-9.]+ [kMG]?B\b", "SIZE", text)
        text = re.sub("filesystem [-0-9a-f]{36}", "filesystem UUID", text)
        self.assertEqual(
            text,
            f"""\
/pool/home: would take snapshot {new}
/usb: would send {three} on top of {two}: about SIZE
/usb: would send {new} on top of {three}: size not known before
/usb: would send 2 snapshots: about SIZE and more, SIZE free there
/usb: would delete {one}
/usb: would delete {two}
/usb: would keep {three}: latest 2 of 2
/usb: would keep {new}: latest 1 of 2, newest that the source has, too
/pool/home: would delete {one}
/pool/home: would delete {two}
/pool/home: would keep {three}: latest 2 of 2
/pool/home: would keep {new}: latest 1 of 2, last delivered to /usb (filesystem UUID)
""",
        )
        self.assertEqual(result.err, "")
        self.assertEqual((state_of(self.snapshots), names(self.usb.path)), before)

    def test_a_run_does_just_that(self) -> None:
        """With a disk that lacks some, a partial, something foreign, a disk that is away, and retention."""
        away = self.disk("away")
        for _ in range(2):
            self.backup(self.home, self.usb.path, away.path)
        for _ in range(2):
            random_file(self.home / "large", 1)
            self.backup(self.home)
        away.unmount()
        taken = names(self.snapshots)
        sh("btrfs", "subvolume", "create", self.usb.path / taken[2])
        (self.usb.path / "20200101-000000").write_text("")
        arguments = ("-S", "-N", "2", "-n", "3", self.home, self.usb.path, away.path)
        planned, done = (self.document(*dry, *arguments, status=10) for dry in (["--dry-run"], []))
        for place in ("source", "destinations"):
            for wanted, found in zip(self.plain(planned[place]), self.plain(done[place]), strict=True):
                self.assertEqual(wanted, found)

    def plain(self, tallies: Any) -> list[dict[str, Any]]:
        """What has to be the same; sizes are estimates."""
        same = ("location", "state", "deleted", "kept", "outstanding")
        some = []
        for each in tallies if isinstance(tallies, list) else [tallies]:
            sent = [(one["snapshot"], one["parent"]) for one in each["sent"]]
            some.append({**{key: each[key] for key in same}, "sent": sent})
        return some

    def test_the_first_run_of_all(self) -> None:
        """There is neither a snapshot folder nor a destination; none is made."""
        result = self.backup("--dry-run", self.home, self.usb.path / "new")
        self.assertIn(": would send 2", result.out)
        self.assertFalse(self.snapshots.exists() or (self.usb.path / "new").exists())

    def test_another_run_is_not_in_the_way(self) -> None:
        self.backup(self.home, self.usb.path)
        held = os.open(self.snapshots, os.O_RDONLY)
        self.addCleanup(os.close, held)
        fcntl.flock(held, fcntl.LOCK_EX)
        self.backup("--dry-run", self.home, self.usb.path)
        self.backup("--status", self.home, self.usb.path)

    def test_a_broken_state_file(self) -> None:
        self.backup(self.home, self.usb.path)
        (self.snapshots / OUTSTANDING).write_text("{")
        self.assertIn("is broken", self.backup("--dry-run", self.home, self.usb.path, status=10).err)

    def test_estimates_are_close(self) -> None:
        random_file(self.home / "large", 8)
        self.backup(self.home)
        planned = self.document("--dry-run", "-S", self.home, self.usb.path)
        done = self.document("-S", self.home, self.usb.path)
        [about], [real] = (each["destinations"][0]["sent"] for each in (planned, done))
        self.assertAlmostEqual(about["bytes"] / real["bytes"], 1, delta=0.05)


class Status(Looking):
    def test_golden(self) -> None:
        self.backup(self.home, self.usb.path)
        self.backup(self.home)
        one, two = names(self.snapshots)
        before = (state_of(self.snapshots), tree(self.usb.path))
        sh("btrfs", "filesystem", "label", self.usb.path, "my backups")
        result = self.backup("--status", "-N", "1", self.home, self.usb.path, env=WIDE)
        self.assertEqual(
            result.out.replace(str(self.folder), ""),
            f"""\
source: /pool/home
1: /usb

snapshot         age    1        source
{one}  0 min  ok       ok; last at 1
{two}  0 min  missing  ok latest

1: /usb (disk "my backups"): newest complete backup {one}, 0 minutes old, 1 snapshot to send, since {two}
""",
        )
        self.assertEqual((state_of(self.snapshots), tree(self.usb.path)), before)

    def test_destinations_that_the_records_know(self) -> None:
        other = self.disk("other")
        self.backup(self.home, self.usb.path, other.path)
        other.unmount()
        result = self.backup("--status", self.home, status=10, env=WIDE)
        self.assertIn(f"2: {self.usb.path}\n", result.out)
        self.assertIn(f"{other.path}: cannot be looked at, newest known backup ", result.out)
        self.assertIn("the disk is absent", result.err)
        self.backup("--status", "--skip-absent-dests", self.home)

    def test_destinations_of_other_prefixes(self) -> None:
        """They have nothing of this one, and need not."""
        other = self.disk("other")
        self.backup("-p", "a-", self.home, self.usb.path)
        self.backup("-p", "b-", self.home, other.path)
        result = self.backup("--status", "--max-age", "1h", "-p", "a-", self.home)
        self.assertIn(f"1: {self.usb.path}\n", result.out)
        self.assertNotIn(str(other.path), result.out)

    def test_max_age(self) -> None:
        """For monitoring: the exit status tells."""
        self.backup(self.home, self.usb.path)
        self.backup("--status", "--max-age", "1h", self.home)
        sh("btrfs", "subvolume", "delete", self.usb.path / names(self.usb.path)[0])
        self.assertIn("TOO OLD", self.backup("--status", "--max-age", "1h", self.home, status=10).out)
        found = self.document("--status", "--max-age", "0m", self.home, status=10)
        self.assertEqual([each["too_old"] for each in found["destinations"]], [True])

    def test_before_the_first_run(self) -> None:
        """A monitor has to hear of a snapshot folder that is misspelled or not mounted."""
        result = self.backup("--status", self.home, status=1)
        self.assertIn(f"the snapshot folder '{self.snapshots}' does not exist\n  Take a snapshot first", result.err)
        self.assertFalse(self.snapshots.exists())

    def test_without_a_snapshot_folder(self) -> None:
        """What a DEST has is shown all the same."""
        self.backup(self.home, self.usb.path)
        result = self.backup("--status", "-f", "nosuch", self.home, self.usb.path, status=10)
        self.assertIn(f"error: {self.home}: the snapshot folder '{self.home}/nosuch' does not exist\n", result.err)
        self.assertIn(f"{names(self.usb.path)[0]}  0 min  other  -\n", result.out)
        found = self.document("--status", "-f", "nosuch", self.home, self.usb.path, status=10)
        self.assertIn("nosuch' does not exist", found["source"]["failures"][0]["message"])
        self.assertFalse((self.home / "nosuch").exists())

    def test_no_destination_is_known(self) -> None:
        self.backup(self.home)
        self.assertIn("no destination is on record: name those ", self.backup("--status", self.home).out)
        result = self.backup("--status", "--max-age", "1d", self.home, status=1)
        self.assertIn("'--max-age' has no backup to judge: no destination is on record\n  Name the ", result.err)

    def test_snapshots_elsewhere(self) -> None:
        """What a run refuses is not told to be well."""
        result = self.backup("--status", "-f", self.usb.path, self.home, status=1)
        self.assertIn(f"'{self.usb.path}' is not on the filesystem of the source", result.err)

    def test_source_and_destination_swapped(self) -> None:
        sh("btrfs", "subvolume", "create", self.usb.path / "backups")
        self.backup(self.home, self.usb.path / "backups")
        result = self.backup("--status", self.usb.path / "backups", self.home, status=1)
        self.assertIn("are SOURCE and DEST swapped?", result.err)


class Documents(Looking):
    def test_a_run_that_fails(self) -> None:
        """It prints a full document, too, and nothing else on stdout."""
        found = self.document(self.home, self.usb.path, "/proc/nowhere", status=10)
        self.assertEqual([each["state"] for each in found["destinations"]], ["ok", "failed"])
        self.assertEqual(found["snapshot"], names(self.snapshots)[0])
        self.assertTrue(found["destinations"][1]["failures"][0]["message"])
        found = self.document("/proc", self.usb.path, status=1)
        self.assertIn("not on btrfs", found["error"]["message"])

    def test_restore_and_verify(self) -> None:
        self.backup(self.home, self.usb.path)
        [name] = names(self.usb.path)
        found = self.document("--verify", self.home, self.usb.path)
        self.assertEqual(found["destinations"][0]["verified"][0]["differences"], [])
        new = self.home.parent / "new"
        planned = self.document("--restore", "--dry-run", self.usb.path, new)
        self.assertEqual((planned["command"], planned["done"], planned["backup"]), ("dry-run", False, name))
        self.assertFalse(new.exists())
        done = self.document("--restore", self.usb.path, new)
        self.assertEqual((done["done"], done["copy"]), (True, f"{new}/snapshot/{name}"))


class OverSsh(SshTest):
    def test_status_and_dry_run(self) -> None:
        server = self.sshd()
        source, usb = self.source(), self.disk("usb").path
        places = (*server.arguments(), f"{server.url}{source}", f"{server.url}{usb}")
        self.assertIn("would send ", self.backup("--dry-run", *places).out)
        self.backup(*places)
        self.assertIn("newest complete backup", self.backup("--status", *places, env=WIDE).out)
