"""Nothing is believed, built upon or deleted without proof: what looks like a backup, parent or part and is none."""

from datetime import datetime
from pathlib import Path

from tests.real.inside import InsideTest
from tests.real.machine import COMPLETED, names, on_record, sh, show, stage, staged, tree, wait_for
from tests.real.test_identity import identities, set_writable


class Proof(InsideTest):
    def pair(self, backups: int = 2) -> tuple[Path, Path]:
        """A source, and a disk with some backups of it, each different."""
        source, usb = self.source(), self.disk("usb").path
        for number in range(backups):
            (source / "file").write_text(f"state {number}")
            self.backup("-q", source, usb)
        return source, usb

    def test_a_source_that_was_received_and_made_writable(self) -> None:
        """Its snapshots carry one received UUID, so that all increments would land on the first backup."""
        origin, usb = self.pair(1)
        [name] = names(usb)
        pool, stream = origin.parent, self.folder / "stream"
        (pool / "received").mkdir()
        sh("btrfs", "send", "-f", stream, usb / name)
        sh("btrfs", "receive", "-f", stream, pool / "received")
        home = pool / "received" / name
        set_writable(home, True)
        before = identities(usb)
        for _ in range(2):
            result = self.backup("-f", pool / "snapshots", home, usb, status=1)
            self.assertIn("received UUID", result.err)
        self.assertEqual(identities(usb), before)
        self.assertFalse((pool / "snapshots").exists() and names(pool / "snapshots"))
        # A writable snapshot of it is what the cure comes to: that one has an identity of its own.
        sh("btrfs", "subvolume", "snapshot", home, pool / "cured")
        for number in range(3):
            (pool / "cured" / "file").write_text(f"cured {number}")
            self.backup("-f", pool / "snapshots", "-p", "c-", pool / "cured", usb)
        for name in names(pool / "snapshots"):
            self.assert_same(usb / name, pool / "snapshots" / name)

    def test_a_damaged_copy_of_the_parent_beside_it(self) -> None:
        """Whichever of the two copies `btrfs receive` finds, the increment is built upon the good one or none."""
        source, disk = self.source(), self.disk("usb").path
        one, other = disk / "one", disk / "other"
        self.backup("-q", source, one)
        self.backup("-q", "-S", source, other)
        [old] = names(one)
        set_writable(one / old, True)
        for file in (one / old).rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.write_bytes(b"")
        set_writable(one / old, False)
        for number in range(2):
            (source / "new").write_text(f"new {number}")
            self.backup(source, other)
        for name in names(other):
            self.assert_same(other / name, source / "snapshot" / name)

    def test_a_snapshot_that_was_changed_after_it_was_sent(self) -> None:
        """And the source was rolled back to it: the next backup has the edit."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        snapshot = source / "snapshot" / newest
        set_writable(snapshot, True)
        (snapshot / "edit").write_text("made in the snapshot")
        set_writable(snapshot, False)
        # Rolled back: what comes now has the edit because the snapshot has it.
        rolled = source.parent / "rolled"
        sh("btrfs", "subvolume", "snapshot", snapshot, rolled)
        result = self.backup("-f", source / "snapshot", rolled, usb)
        new = names(source / "snapshot")[-1]
        self.assertIn(f"{newest}, which it builds upon, was changed after it was sent", result.err)
        self.assertEqual((usb / new / "edit").read_text(), "made in the snapshot")
        self.assert_same(usb / new, source / "snapshot" / new)

    def test_no_false_alarm(self) -> None:
        """A balance, snapshots of the parent, what was toggled without a change, a source that is defragmented."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        for top in (source / "snapshot", usb):
            sh("btrfs", "subvolume", "snapshot", top / newest, top / ".copy")
            for writable in (True, False):
                set_writable(top / newest, writable)
        for top in (source.parent, usb):
            sh("btrfs", "balance", "start", "-m", "--full-balance", top)
        sh("btrfs", "filesystem", "defragment", "-r", source)
        result = self.backup(source, usb)
        new = names(usb)[-1]
        self.assertIn(f"sending {new} on top of {newest}", result.err)
        self.assertNotIn("was changed", result.err)
        self.assertEqual(result.err.count("sending"), 1)
        self.assert_same(usb / new, source / "snapshot" / new)

    def test_work_in_place_of_a_backup(self) -> None:
        """A writable snapshot of the backup took its name, and the backup is gone: a week of work in it stays."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        sh("btrfs", "subvolume", "snapshot", usb / newest, usb / "w")
        sh("btrfs", "subvolume", "delete", usb / newest)
        (usb / "w").rename(usb / newest)
        (usb / newest / "work").write_text("a week of it")
        before, content = show(usb / newest)["UUID"], tree(usb / newest)
        for _ in range(2):
            # With this policy it is not to be sent again.
            result = self.backup("-n", "1", source, usb)
            self.assertNotIn(f"deleting {newest}", result.err)
        self.assertEqual((show(usb / newest)["UUID"], tree(usb / newest)), (before, content))

    def test_a_subvolume_made_under_the_name_of_a_snapshot(self) -> None:
        source, usb = self.pair()
        self.backup("-q", source)
        name = names(source / "snapshot")[-1]
        sh("btrfs", "subvolume", "create", usb / name)
        (usb / name / "mine").write_text("precious")
        result = self.backup("-S", source, usb, status=10)
        self.assertIn(f"cannot send {name}: '{usb}/{name}' is in the way", result.err)
        self.assertEqual((usb / name / "mine").read_text(), "precious")
        [known] = on_record(source / "snapshot", COMPLETED)[str(usb)].values()
        self.assertEqual(known["blocked"], [name])

    def test_two_sources_in_one_folder(self) -> None:
        """Each with `-n 2` and no prefix, in turn: each deletes its own, and goes on incrementally."""
        home, usb = self.source(), self.disk("usb").path
        other = self.subvolume(home.parent / "other")
        folders = {home: home / "snapshot", other: other / "snapshot"}
        for number in range(4):
            for source, folder in folders.items():
                (source / "file").write_text(f"{source.name} {number}")
                self.wait_for_another_second(usb)
                result = self.backup("-n", "2", source, usb)
                if number:
                    self.assertIn(f"on top of {names(folder)[-2]}", result.err)
                    self.assertNotIn("in full", result.err)
        kept = sorted(name for folder in folders.values() for name in names(folder)[-2:])
        self.assertEqual(names(usb), kept)
        for folder in folders.values():
            for name in names(folder)[-2:]:
                self.assert_same(usb / name, folder / name)

    def wait_for_another_second(self, usb: Path) -> None:
        """Two sources without a prefix must not take snapshots in one second."""
        newest = max(names(usb), default="")
        wait_for(lambda: datetime.now().strftime("%Y%m%d-%H%M%S") > newest)

    def test_what_is_in_the_place_of_a_stage(self) -> None:
        """A file, or a folder with something of the user's in it: told, left alone, and gone round."""
        source, usb = self.pair()
        self.backup("-q", source)
        complete, missing = names(usb)[-1], names(source / "snapshot")[-1]
        for name in (complete, missing):
            (usb / f".{name}.receiving").mkdir()
            (usb / f".{name}.receiving" / "mine").write_text("precious")
        before = identities(usb)
        result = self.backup("-S", source, usb)
        for name in (complete, missing):
            self.assertIn(f"leaving .{name}.receiving alone", result.err)
            self.assertEqual((usb / f".{name}.receiving" / "mine").read_text(), "precious")
        self.assertLessEqual(before.items(), identities(usb).items())
        self.assert_same(usb / missing, source / "snapshot" / missing)
        self.backup("-q", source)
        newest = names(source / "snapshot")[-1]
        (usb / f".{newest}.receiving").touch()
        result = self.backup("-S", source, usb)
        self.assertIn(f"leaving .{newest}.receiving alone: it is a file", result.err)
        self.assert_same(usb / newest, source / "snapshot" / newest)
        self.assertTrue((usb / f".{newest}.receiving").is_file())

    def test_a_stage_that_was_left_behind_a_complete_backup(self) -> None:
        """It is cleared, and the backup stays as it is."""
        source, usb = self.pair()
        newest = names(usb)[-1]
        before = identities(usb)
        stage(usb, newest)
        self.backup("-S", source, usb)
        self.assertEqual((identities(usb), staged(usb)), (before, []))
