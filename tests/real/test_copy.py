"""`--copy`: the backups of a folder, with their history, to other places."""

import json
import os
import re
import signal
from pathlib import Path

from btrfs_backup.system import hints
from tests.real.machine import RealTest, names, random_file, sh, shares, show, wait_for
from tests.real.sshd import SshTest
from tests.real.test_resumed import is_kept


def generation(folder: Path) -> tuple[list[str], str]:
    """What changes whenever something is written to the subvolume that FOLDER is in."""
    return sorted(os.listdir(folder)), show(folder)["Generation"]


class Copies(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home, self.usb = self.source(), self.disk("usb").path / "home"
        sh("btrfs", "subvolume", "create", self.usb)
        (self.home / os.fsdecode(b"-\xff\n")).write_bytes(os.urandom(100_000))
        for _ in range(3):
            self.grow()
            self.backup("-q", self.home, self.usb)
        self.snapshots = self.home / "snapshot"

    def grow(self) -> None:
        (self.home / f"more{len(list(self.home.iterdir()))}").write_bytes(os.urandom(20_000))

    def test_a_new_disk_in_place_of_an_old_one(self) -> None:
        """All of it comes there in increments; the source goes on there, and a second copy sends what is new."""
        new, before = self.disk("new").path / "home", generation(self.usb)
        dry = self.backup("--copy", "--dry-run", self.usb, new).out
        self.assertIn(f"{new}: would send 3 snapshots: about", dry)
        self.assertFalse(new.exists())
        result = self.backup("--copy", self.usb, new)
        self.assertRegex(
            result.err, rf"\n{new}: sent 3 snapshots \(2 incremental, [\d.]+ kB in [\d.]+ s\), 3 backups there\n$"
        )
        self.assert_complete(new, self.snapshots, names(self.snapshots))
        first, second, _ = names(new)
        self.assertTrue(shares(new / first, new / second))
        self.assertEqual(generation(self.usb), before)
        self.grow()
        self.assertIn("sent 1 snapshot (1 incremental", self.backup(self.home, new).err)
        self.grow()
        self.backup("-q", self.home, self.usb)
        told = json.loads(self.backup("--copy", "--json", "-n", "2", self.usb, new).out)
        self.assertEqual((told["command"], told["exit_status"], told["snapshot"]), ("copy", 0, None))
        [there] = told["destinations"]
        self.assertEqual([each["parent"] for each in there["sent"]], [names(self.snapshots)[3]])
        self.assertEqual(names(new), names(self.snapshots)[-2:])
        self.assertIn("sent nothing, 2 backups there", self.backup("--copy", "-n2", self.usb, new).err)
        self.assertEqual(self.backup("--copy", "-q", "-n2", self.usb, new).err, "")

    def test_several_places(self) -> None:
        """From one read, while one of them is away."""
        disks = [self.disk(name).path for name in ("one", "two")]
        away = "ssh://127.0.0.1:1/none"
        result = self.backup("--copy", self.usb, *disks, away, status=10)
        self.assertIn("Connection refused", result.err)
        for each in disks:
            self.assert_complete(each, self.snapshots, names(self.snapshots))
        self.assertEqual(len(re.findall("sending .* in full", result.err)), 2)
        self.backup("--copy", "--skip-absent-dests", self.usb, *disks, away)
        self.assertIn("no difference", self.backup("--copy", "--verify=all", self.usb, *disks).err)
        sh("btrfs", "property", "set", "-f", "-ts", disks[0] / names(disks[0])[0], "ro", "false")
        (disks[0] / names(disks[0])[0] / "file").write_text("spoiled")
        result = self.backup("--copy", "--verify=all", self.usb, *disks, status=10)
        self.assertIn("its content may have changed", result.err)

    def test_what_is_copied(self) -> None:
        """Complete backups of the prefix, and neither parts nor what somebody works in."""
        self.backup("-q", "-p", "x-", self.home, self.usb)
        stamps = names(self.snapshots)
        sh("btrfs", "subvolume", "snapshot", self.usb / stamps[0], self.usb / "20200101-000000")
        sh("btrfs", "subvolume", "snapshot", "-r", self.usb, self.usb / "20200102-000000")
        (self.usb / "20200103-000000").mkdir()
        new = self.disk("new").path
        result = self.backup("--copy", self.usb, new)
        self.assertIn("20200101-000000 is not copied: it is writable, and not a backup", result.err)
        self.assertEqual(names(new), stamps[:3])
        self.backup("--copy", "-p", "x-", self.usb, new / "x")
        self.assertEqual(names(new / "x"), [stamps[3]])
        for folder in (self.folder / "none", self.home / "folder"):
            self.backup("--copy", folder, new, status=1)
        result = self.backup("--copy", self.home / "folder", new, status=1)
        self.assertIn(f"there is no complete backup in '{self.home / 'folder'}'\n  A folder of backups", result.err)
        self.assertIn("is not a folder on btrfs", self.backup("--copy", self.folder, new, status=1).err)

    def test_goes_on(self) -> None:
        """When it is cut off, and nothing of it is on record."""
        new, part = self.disk("new").path, "tests.real.small_parts"
        self.backup("--copy", "-q", self.usb, new)
        random_file(self.home / "large", 24)
        self.backup("-q", self.home, self.usb)
        run = self.start("--copy", "--rate-limit", "6M", self.usb, new, module=part)
        wait_for(lambda: is_kept(new))
        run.send_signal(signal.SIGINT)
        _, err = run.communicate()
        self.assertEqual(run.returncode, 128 + signal.SIGINT)
        self.assertIn("ended by SIGINT; the same command goes on", err)
        again = self.backup("--copy", "--json", self.usb, new, module=part)
        told = json.loads(again.out)
        [sent] = told["destinations"][0]["sent"]
        self.assertGreater(sent["resumed_from"], 1e6, again.err)
        self.assert_complete(new, self.snapshots, names(self.snapshots))


class OverSsh(SshTest):
    def test_between_machines(self) -> None:
        """Also under sudo; what is not root there may not do it."""
        home, usb, nas = self.source(), self.disk("usb").path, self.disk("nas").path
        for _ in range(2):
            self.backup("-q", home, usb)
        server = self.sshd()
        self.user("/bin/sh")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        user = server.url.replace("//", f"//{self.login}@")
        self.backup("--copy", *server.arguments(), "--ssh-sudo", f"{user}{usb}", f"{user}{nas}/1", nas / "2")
        for each in ("1", "2"):
            self.assert_complete(nas / each, home / "snapshot", names(home / "snapshot"))
        result = self.backup("--copy", *server.arguments(), f"{user}{usb}", nas / "3", status=1)
        self.assertIn("--ssh-sudo", result.err)
