"""Never a wrong deletion, never a wrong parent: what is whose is told by UUIDs, and what is not ours is said."""

import fcntl
import json
import os
from datetime import datetime, timedelta
from pathlib import Path

from tests.real.inside import InsideTest
from tests.real.machine import (
    COMPLETED,
    OUTSTANDING,
    TOP,
    Result,
    is_readonly,
    lying_btrfs,
    names,
    on_record,
    path_with,
    sh,
    shares,
    show,
    tree,
    wait_for,
)

_SET_FLAGS = 0x4008941A  # BTRFS_IOC_SUBVOL_SETFLAGS


def identities(folder: Path) -> dict[str, tuple[str, str]]:
    """UUID and received UUID of each subvolume in FOLDER, by name."""
    shown = {name: show(folder / name) for name in names(folder)}
    return {name: (each["UUID"], each["Received UUID"]) for name, each in shown.items()}


def set_writable(path: Path, writable: bool) -> None:
    """As btrfs-progs before 5.14.2 did it: a received UUID stays."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _SET_FLAGS, (0 if writable else 2).to_bytes(8, "little"))
    finally:
        os.close(descriptor)


class Identity(InsideTest):
    def wait_until_later_than(self, name: str) -> None:
        """What is taken from here on has a later name."""
        time = datetime.strptime(name, "%Y%m%d-%H%M%S")
        wait_for(lambda: datetime.now() > time + timedelta(seconds=1))

    def assert_on_top_of(self, result: Result, backups: Path, child: str, parent: str) -> None:
        self.assertRegex(result.err, f"(sending|sent) {child} on top of {parent}")
        self.assertTrue(shares(backups / child, backups / parent))


class AnotherSource(Identity):
    def test_same_second_without_prefix(self) -> None:
        """Two sources whose names are all the same share a folder: the second gets nothing in, and deletes nothing."""
        home, usb = self.pair()
        srv = self.subvolume(home.parent / "srv")
        (srv / "snapshot").mkdir()
        taken = names(usb)
        for name in taken:
            sh("btrfs", "subvolume", "snapshot", "-r", srv, srv / "snapshot" / name)
        before = identities(usb)
        result = self.backup("-S", "-n", "1", srv, usb, status=10)
        self.assertIn(f"cannot send {taken[1]}: '{usb}/{taken[1]}' is in the way", result.err)
        self.assertIn(f"leaving {taken[0]} alone: it is a copy of another snapshot", result.err)
        self.assertRegex(result.err, f"{usb}: FAILED, sent nothing, 1 outstanding")
        self.assertEqual(identities(usb), before)
        [known] = on_record(srv / "snapshot", COMPLETED)[str(usb)].values()
        self.assertEqual(known["blocked"], [taken[1]])
        # Its next snapshot has a name of its own: sent, but not on top of what belongs to the other one.
        result = self.backup("-n", "1", srv, usb)
        own = names(srv / "snapshot")[-1]
        self.assertIn(f"sending {own} in full", result.err)
        self.assertEqual({name: identities(usb)[name] for name in taken}, before)
        self.assert_same(usb / own, srv / "snapshot" / own)

    def test_mistaken_for_the_one_of_the_backups(self) -> None:
        """It is told as long as none of its own has arrived there, and retention deletes nothing meanwhile."""
        home, usb = self.pair()
        other = self.subvolume(home.parent / "other")
        told = (
            f"warning: {usb}: 2 backups there cannot be proved to be of this source, and '-n' neither counts nor "
            f"deletes them: {', '.join(names(usb))}\n  Of another source? Then use another folder or a prefix ('-p'). "
            "Of this one, whose records were lost? Then '--adopt' counts them from then on.\n"
        )
        before = names(usb)
        self.wait_until_later_than(before[-1])
        planned = self.backup("--dry-run", "-n", "1", other, usb)
        self.assertEqual((planned.err, planned.out.count("would delete")), (told, 0))
        (other / "snapshot").mkdir()
        self.assertIn(told, self.backup("--status", other, usb).err)
        result = self.backup("-n", "1", other, usb)
        self.assertIn(told, result.err)
        self.assertEqual(names(usb), [*before, names(other / "snapshot")[0]])
        # However often: each of the two sources counts its own.
        for prefix in ("", "x-"):
            self.assertNotIn("another source", self.backup("-p", prefix, "-n", "1", other, usb).err)
        self.assertLessEqual(set(before), set(names(usb)))
        self.wait_until_later_than(names(other / "snapshot")[-2])
        self.backup("-n", "1", home, usb)
        self.assertIn(names(other / "snapshot")[-2], names(usb))
        self.assertIn("adopted 1 backup: ", self.backup("--adopt", home, usb).err)

    def test_somebody_has_deleted_what_was_delivered(self) -> None:
        """As another source does that was mistaken for this one; it is told once, and sent again."""
        home, usb = self.pair()
        newest = names(usb)[-1]
        sh("btrfs", "subvolume", "delete", usb / newest)
        told = f"warning: {usb}: {newest} was delivered there, and somebody has deleted it\n"
        self.assertIn(told, self.backup("--status", home).err)
        self.assertEqual(self.backup("-q", home, usb).err, told)
        self.assertIn(newest, names(usb))
        self.assertEqual(self.backup("-q", home, usb).err, "")

    def test_its_partial_backup_is_no_parent_and_no_backup(self) -> None:
        """A transfer of another source that was cut off under a name that this one does not have."""
        source, usb = self.pair()
        sh("btrfs", "subvolume", "create", usb / "20990101-000000")
        result = self.backup("-n", "1", source, usb)
        self.assertIn("leaving 20990101-000000 alone", result.err)
        self.assertEqual(len(names(usb)), 2)
        self.assertIn("20990101-000000", names(usb))


class Copies(Identity):
    def test_beside_the_backups(self) -> None:
        """Writable and read-only snapshots of backups under names of the user's own concern nobody."""
        source, usb = self.pair()
        old, new = names(usb)
        sh("btrfs", "subvolume", "snapshot", usb / new, usb / f"{new}-work")
        sh("btrfs", "subvolume", "snapshot", "-r", usb / old, usb / "keep")
        (usb / f"{new}-work" / "mine").write_text("precious")
        result = self.backup("-n", "1", source, usb)
        self.assertIn(f"on top of {new}", result.err)
        self.assertNotIn("alone", result.err)
        newest = names(source / "snapshot")[-1]
        self.assertEqual(names(usb), sorted([newest, f"{new}-work", "keep"]))
        self.assertEqual((usb / f"{new}-work" / "mine").read_text(), "precious")
        self.assert_same(usb / newest, source / "snapshot" / newest)

    def test_writable_copy_in_place_of_the_backup(self) -> None:
        """It looks like a transfer that was cut off, but for what it was made from."""
        source, usb = self.pair()
        old, new = names(usb)
        (usb / new).rename(usb / "original")
        sh("btrfs", "subvolume", "snapshot", usb / "original", usb / new)
        self.check_changed(source, usb, old, new, "is a writable copy of the backup")

    def test_read_only_copy_in_place_of_the_backup(self) -> None:
        """It keeps the received UUID, and is as good."""
        source, usb = self.pair()
        new = names(usb)[-1]
        (usb / new).rename(usb / "original")
        sh("btrfs", "subvolume", "snapshot", "-r", usb / "original", usb / new)
        result = self.backup(source, usb)
        self.assertIn(f"on top of {new}", result.err)
        (usb / "original").rename(self.folder / "usb" / "kept")
        self.backup("-n", "1", source, usb)
        self.assertEqual(names(usb), [names(source / "snapshot")[-1], "kept"])

    def test_made_writable(self) -> None:
        """By btrfs-progs of today, which clear the received UUID."""
        source, usb = self.pair()
        old, new = names(usb)
        sh("btrfs", "property", "set", "-f", "-ts", usb / new, "ro", "false")
        self.check_changed(source, usb, old, new, "was received and is writable")

    def test_made_writable_and_read_only_again(self) -> None:
        source, usb = self.pair()
        old, new = names(usb)
        sh("btrfs", "property", "set", "-f", "-ts", usb / new, "ro", "false")
        (usb / new / "mine").write_text("precious")
        sh("btrfs", "property", "set", "-ts", usb / new, "ro", "true")
        self.check_changed(source, usb, old, new, "is read-only and has no received UUID")

    def test_made_writable_by_older_programs(self) -> None:
        """These leave the received UUID."""
        source, usb = self.pair()
        old, new = names(usb)
        set_writable(usb / new, True)
        self.check_changed(source, usb, old, new, "was received and is writable")

    def test_cut_off_before_the_last_step_is_no_change(self) -> None:
        """`btrfs receive` sets the received UUID, then read-only. An older version has it on record as begun."""
        source, usb = self.pair()
        old, new = names(usb)
        (source / "snapshot" / COMPLETED).unlink()
        set_writable(usb / new, True)
        record = {old: {"parent_locks": [str(usb)]}, new: {"locks": [str(usb)]}}
        (source / "snapshot" / OUTSTANDING).write_text(json.dumps(record))
        result = self.backup("-S", source, usb)
        self.assertIn(f"deleting {new}, a transfer that was cut off", result.err)
        self.assert_on_top_of(result, usb, new, old)
        self.assert_complete(usb, source / "snapshot", [old, new])
        self.assertEqual(on_record(source / "snapshot"), {})

    def test_failed_at_the_last_step(self) -> None:
        """It is deleted at once, like any other part."""
        source, usb = self.pair()
        newest = self.folder / "newest"
        lies = lying_btrfs(
            self.folder / "lies",
            'receive*) "$REAL" "$@" || exit; n=$(ls -d "$last"/2* | tail -n 1)\n'
            "python3 -c \"from tests.real.test_identity import *; set_writable(Path('$n'), True)\"\n"
            f'echo "$n" >{newest}; exit 1 ;;',
        )
        self.backup(source, usb, status=10, env={**path_with(lies), "PYTHONPATH": str(TOP)})
        self.assertTrue(newest.read_text().startswith(str(usb)))
        self.assertEqual(len(names(usb)), 2)
        self.backup(source, usb)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def check_changed(self, source: Path, usb: Path, old: str, new: str, why: str) -> None:
        """What was made of the backup NEW is neither deleted, nor a parent, nor counted; and that is said."""
        if not is_readonly(usb / new):
            (usb / new / "mine").write_text("precious")
        before, content = identities(usb)[new], tree(usb / new)
        result = self.backup(source, usb, status=10)
        self.assertIn(f"cannot send {new}: '{usb}/{new}' is in the way: it {why}", result.err)
        newest = names(source / "snapshot")[-1]
        self.assert_on_top_of(result, usb, newest, old)
        self.assert_same(usb / newest, source / "snapshot" / newest)
        self.assertEqual(on_record(source / "snapshot"), {})
        [known] = on_record(source / "snapshot", COMPLETED)[str(usb)].values()
        self.assertEqual(known["blocked"], [new])
        # Retention does not concern it either.
        for _ in range(2):
            result = self.backup("-n", "1", source, usb)
            self.assertIn(f"leaving {new} alone: it {why}", result.err)
        self.assertEqual((identities(usb)[new], tree(usb / new)), (before, content))
        # As the error said: out of the way, and the backup is made good.
        (usb / new).rename(usb / "mine")
        result = self.backup(source, usb)
        self.assertIn(f"sent {new}", result.err)
        self.assert_same(usb / new, source / "snapshot" / new)
        self.assertEqual(on_record(source / "snapshot"), {})
        self.assertEqual(tree(usb / "mine"), content)

    def test_names_swapped_by_hand(self) -> None:
        source, usb = self.pair(3)
        one, two, three = names(usb)
        (usb / one).rename(usb / "x")
        (usb / two).rename(usb / one)
        (usb / "x").rename(usb / two)
        before = identities(usb)
        result = self.backup("-n", "2", source, usb)
        for name in (one, two):
            self.assertIn(f"leaving {name} alone: it is a copy of another snapshot", result.err)
        self.assert_on_top_of(result, usb, names(source / "snapshot")[-1], three)
        self.assertLessEqual(before.items(), identities(usb).items())

    def test_snapshot_replaced_at_the_source(self) -> None:
        """Another snapshot under the old name: the backup under that name is not of it."""
        source, usb = self.pair()
        old, new = names(usb)
        sh("btrfs", "subvolume", "delete", source / "snapshot" / new)
        sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / new)
        before = identities(usb)
        result = self.backup(source, usb, status=10)
        self.assertIn(f"cannot send {new}", result.err)
        self.assert_on_top_of(result, usb, names(source / "snapshot")[-1], old)
        self.assertLessEqual(before.items(), identities(usb).items())


class Hops(Identity):
    def test_from_a_to_b_to_c_and_from_a_to_c(self) -> None:
        """Backups of backups are known as what they are: nothing is sent twice, and increments go on from either."""
        source, b = self.pair()
        c = self.disk("c").path / "backups"
        hop = self.backup("-S", "-f", ".", b, c)
        old, new = names(b)
        self.assertIn(f"sending {old} in full", hop.err)
        self.assert_on_top_of(hop, c, new, old)
        for name in (old, new):
            self.assertEqual(show(c / name)["Received UUID"], show(source / "snapshot" / name)["UUID"])
        direct = self.backup("-S", source, c)
        self.assertIn(f"{c}: sent nothing, ", direct.err)
        self.assertNotIn("alone", direct.err)
        # A third one straight to C, which B gets later; then on from B to C again.
        straight = self.backup(source, c)
        third = names(c)[-1]
        self.assert_on_top_of(straight, c, third, new)
        self.assertNotIn("was changed", straight.err)
        self.backup("-S", source, b)
        idle = self.backup("-S", "-f", ".", b, c)
        self.assertIn(f"{c}: sent nothing, ", idle.err)
        self.backup(source, b)
        hop = self.backup("-S", "-f", ".", "-N", "1", "-n", "1", b, c)
        fourth = names(source / "snapshot")[-1]
        self.assertIn(f"sending {fourth} on top of {third}", hop.err)
        self.assertEqual((names(b), names(c)), ([fourth], [fourth]))
        self.assert_same(c / fourth, source / "snapshot" / fourth)
        # Back from C, where B is lost: the source still has all of its own.
        self.assertEqual(len(names(source / "snapshot")), 4)

    def test_a_copy_of_b_made_by_hand_is_a_copy_of_a(self) -> None:
        """`btrfs send` of a backup writes the received UUID, so a disk cloned that way takes over."""
        source, b = self.pair(1)
        c = self.disk("c").path
        [name] = names(b)
        stream = self.folder / "stream"
        sh("btrfs", "send", "-f", stream, b / name)
        sh("btrfs", "receive", "-f", stream, c)
        result = self.backup("-n", "1", source, c)
        self.assertIn(f"on top of {name}", result.err)
        self.assertEqual(names(c), [names(source / "snapshot")[-1]])


class Restored(Identity):
    def restore(self, source: Path, usb: Path, name: str) -> Path:
        """NAME sent back to the disk of the source, and a writable snapshot of it in place of the lost SOURCE."""
        pool, stream = source.parent, self.folder / "stream"
        source.rename(pool / "lost")
        (pool / "restore").mkdir()
        sh("btrfs", "send", "-f", stream, usb / name)
        sh("btrfs", "receive", "-f", stream, pool / "restore")
        sh("btrfs", "subvolume", "snapshot", pool / "restore" / name, source)
        self.wait_until_later_than(names(usb)[-1])
        return pool / "restore" / name

    def test_backups_go_on_incrementally(self) -> None:
        """The newest backup but one is restored; the newest is not of this line, and stays."""
        source, usb = self.pair(3)
        two = names(usb)[1]
        received = self.restore(source, usb, two)
        (source / "snapshot").mkdir(exist_ok=True)
        sh("btrfs", "subvolume", "snapshot", "-r", received, source / "snapshot" / two)
        self.assertEqual(show(source / "snapshot" / two)["Received UUID"], show(usb / two)["Received UUID"])
        before = identities(usb)
        (source / "file").write_text("after the restore")
        result = self.backup(source, usb)
        fourth = names(usb)[-1]
        self.assert_on_top_of(result, usb, fourth, two)
        self.assert_same(usb / fourth, source / "snapshot" / fourth)
        self.assertLessEqual(before.items(), identities(usb).items())
        result = self.backup("-N", "1", source, usb)
        self.assert_on_top_of(result, usb, names(usb)[-1], fourth)
        self.assertEqual(len(names(usb)), 5)
        # Of what came behind the restored state the source knows nothing, before it is told.
        self.backup("-n", "2", "--adopt", source, usb)
        self.assertEqual(names(usb), names(source / "snapshot")[-2:])

    def test_without_the_read_only_copy(self) -> None:
        """Nothing is on both sides: sent in full, and the backups of before stay."""
        source, usb = self.pair(2)
        before = identities(usb)
        self.restore(source, usb, names(usb)[1])
        result = self.backup(source, usb)
        newest = names(source / "snapshot")[-1]
        self.assertIn(f"sending {newest} in full", result.err)
        # Of the last backup the records that were in it know nothing.
        self.assertIn("1 backup there cannot be proved to be of this source", result.err)
        self.assertLessEqual(before.items(), identities(usb).items())
        self.assert_same(usb / newest, source / "snapshot" / newest)

    def test_the_lost_source_goes_on_as_well(self) -> None:
        """The old subvolume and the restored one share a folder: nobody's increment goes on top of the wrong one."""
        source, usb = self.pair(2)
        one, two = names(usb)
        received = self.restore(source, usb, two)
        (source / "snapshot").mkdir(exist_ok=True)
        sh("btrfs", "subvolume", "snapshot", "-r", received, source / "snapshot" / two)
        lost = source.parent / "lost"
        (source / "file").write_text("restored")
        (lost / "file").write_text("lost")
        for _ in range(2):
            self.backup(source, usb)
            self.backup("-p", "lost-", lost, usb)
        for top, prefix in ((source, "2"), (lost, "lost-")):
            for name in [each for each in names(usb) if each.startswith(prefix) and each not in (one, two)]:
                self.assert_same(usb / name, top / "snapshot" / name)
