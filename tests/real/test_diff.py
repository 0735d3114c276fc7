"""`--diff`: what changed from one snapshot or backup to another."""

import json
import os
import random
from pathlib import Path

from tests import changes
from tests.real.machine import RealTest, names, sh, with_program
from tests.real.sshd import SshTest
from tests.unit.test_changes import TOP

LINES = """\
renamed             -d -> -e
added         70 B  -e/new\\xff\\nline
changed       25 B  file
removed             folder
removed             folder/größe ' "
metadata            link
renamed             odd\\\\ -> odd
"""


def history(home: Path) -> None:
    """Two snapshots of HOME, OLD and NEW, with changes of all kinds between them."""
    os.mkdir(home / "-d")
    (home / "odd\\").touch()
    sh("btrfs", "subvolume", "snapshot", "-r", home, home.parent / "20260101-000000")
    os.rename(home / "-d", home / "-e")
    Path(os.fsdecode(os.fsencode(home / "-e") + b"/new\xff\nline")).write_bytes(b"x" * 70)
    (home / "file").write_text("as an editor would save it")
    sh("rm", "-r", home / "folder")
    os.chown(home / "link", 1, 1, follow_symlinks=False)
    os.rename(home / "odd\\", home / "odd")
    os.utime(home)
    sh("btrfs", "subvolume", "snapshot", "-r", home, home.parent / "20260102-000000")


class Differences(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home = self.source()
        self.old, self.new = self.home.parent / "20260101-000000", self.home.parent / "20260102-000000"

    def test_printed(self) -> None:
        """Sorted, with the totals and what holds most of the data."""
        history(self.home)
        result = self.backup("--diff", self.old, self.new)
        printed = result.out.replace("26 B ", "25 B ")
        self.assertEqual(printed.partition("\n\n")[0] + "\n", LINES)
        self.assertIn("\n7 changes: 1 added, 2 removed, 2 renamed, 1 changed, 1 metadata; 96 B of data\n", result.out)
        self.assertTrue(result.out.endswith("\n              70 B  in -e\n              26 B  in .\n"), result)
        self.assertEqual(result.err, "")
        backwards = self.backup("-q", "--diff", self.new, self.old)
        self.assertIn("removed             -e/new\\xff\\nline\n", backwards.out)
        self.assertEqual(self.backup("--diff", self.old, self.again()).out, "no changes\n")

    def again(self) -> Path:
        again = self.home.parent / "again"
        sh("btrfs", "subvolume", "snapshot", "-r", self.old, again)
        return again

    def test_document(self) -> None:
        history(self.home)
        told = json.loads(self.backup("--diff", "--json", self.old, self.new).out)
        self.assertEqual((told["command"], told["exit_status"]), ("diff", 0))
        self.assertEqual((told["old"], told["new"]), (str(self.old), str(self.new)))
        added = {"what": "added", "path": "-e/new\udcff\nline", "before": None, "bytes": 70}
        self.assertIn(added, told["changes"])
        self.assertIn({"what": "renamed", "path": "-e", "before": "-d", "bytes": 0}, told["changes"])
        self.assertEqual((told["bytes"], told["folders"][0]), (96, {"path": "-e", "bytes": 70}))

    def test_backups(self) -> None:
        """Those of one place, whether they were sent in full, as increments or on top of what is gone."""
        usb = self.disk("usb").path
        for number in range(3):
            (self.home / f"new{number}").write_bytes(b"x" * 9000)
            self.backup("-q", self.home, usb)
        first, _, last = names(usb)
        here = self.backup("--diff", self.home / "snapshot" / first, self.home / "snapshot" / last).out
        self.assertIn("added       9.0 kB  new2\n", here)
        self.assertEqual(self.backup("--diff", usb / first, usb / last).out, here)

    def test_what_cannot_be_compared(self) -> None:
        history(self.home)
        table = (
            ((self.old, self.home), f"'{self.home}' is writable, and may change meanwhile\n  Compare snapshots"),
            ((self.old, self.folder / "none"), f"cannot look at '{self.folder / 'none'}'"),
            ((self.old, self.old / "-d"), f"cannot look at '{self.old / '-d'}'"),
        )
        for arguments, words in table:
            self.assertIn(words, self.backup("--diff", *arguments, status=1).err)
        other = self.source("other")
        sh("btrfs", "subvolume", "snapshot", "-r", other, other.parent / "snap")
        result = self.backup("--diff", self.old, other.parent / "snap", status=1)
        self.assertIn("cannot compare them: btrfs send: ERROR:", result.err)
        told = json.loads(self.backup("--diff", "--json", self.old, other, status=1).out)
        self.assertEqual((told["changes"], told["exit_status"]), ([], 1))
        liar = with_program(
            self.folder / "bin", "btrfs", 'case $1 in send) echo nonsense that is no stream;; *) exec $REAL "$@"; esac'
        )
        result = self.backup("--diff", self.old, self.new, env=liar, status=1)
        self.assertIn("cannot understand what 'btrfs send' printed of the changes: it does not begin like", result.err)

    def test_at_random(self) -> None:
        """A sample of what tests.changes does."""
        changes.histories(self.disk("random", 500).path, 25, seed=random.randrange(10**6))

    def test_what_is_left_of_nested_subvolumes(self) -> None:
        sh("btrfs", "subvolume", "create", self.home / "folder" / "nested")
        sh("btrfs", "subvolume", "snapshot", "-r", self.home, self.old)
        sh("btrfs", "subvolume", "delete", self.home / "folder" / "nested")
        sh("rm", "-r", self.home / "folder")
        sh("btrfs", "subvolume", "snapshot", "-r", self.home, self.new)
        self.assertIn("2 changes: 2 removed\n", self.backup("--diff", self.old, self.new).out)
        self.assertNotIn(TOP, changes.items(self.new).keys() - {TOP})


class OverSsh(SshTest):
    def test_sudo(self) -> None:
        server, home = self.sshd(), self.source()
        history(home)
        self.user("/bin/sh")
        self.sudoers(f"{self.login} ALL=(root) NOPASSWD: /usr/bin/btrfs\n")
        url = server.url.replace("//", f"//{self.login}@")
        old, new = (f"{url}{home.parent}/2026010{day}-000000" for day in (1, 2))
        result = self.backup(*server.arguments(), "--ssh-sudo", "--diff", old, new)
        self.assertIn("7 changes:", result.out)
        self.backup(*server.arguments(), "--diff", old, new, status=1)
