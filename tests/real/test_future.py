"""Names that lie in the future evict nothing, and are told."""

from datetime import datetime, timedelta
from pathlib import Path

from tests import year
from tests.real.inside import InsideTest
from tests.real.machine import COMPLETED, names, on_record, sh
from tests.real.sshd import SshTest

FUTURE = ["20990101-000000", "20990101-000001", "20990102-000000"]


def forge(source: Path, *taken: str) -> None:
    """Snapshots of SOURCE under names that somebody chose."""
    (source / "snapshot").mkdir(exist_ok=True)
    for name in taken:
        sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / name)


class Future(InsideTest):
    def test_nightly_after_one_night_in_2099(self) -> None:
        """Snapshots and backups are those that there would be without that night."""
        source, usb = self.source(), self.disk("usb").path
        settings = year.cli.parse(["-N", "3 7d 4w", "-n", "7d 4w 12m", str(source), str(usb)])
        nights = [datetime(2026, 3, 1, 2) + timedelta(days=number) for number in range(40)]
        for now in (nights[0], datetime(2099, 1, 1), *nights[1:]):
            world = year.carried_out(settings, now)
            self.assertFalse(world.report().failed, world.report())
            self.assertEqual(world.taken, now.strftime("%Y%m%d-%H%M%S"))
        # The last seven days, and the Sundays of the weeks before; 9 April is a Thursday.
        days = ["20260403", "20260404", "20260405", "20260406", "20260407", "20260408", "20260409"]
        weeks = ["20260322", "20260329"]
        self.assertEqual([name[:8] for name in names(source / "snapshot")], [*weeks, *days, "20990101"])
        self.assertEqual([name[:8] for name in names(usb)], [*weeks, "20260331", *days, "20990101"])

    def test_empty_ones_evict_nothing(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for _ in range(3):
            self.backup("-q", source, usb)
        before = names(usb)
        forge(source, *FUTURE)
        for _ in range(2):
            result = self.backup("-S", "-N", "3", "-n", "3", source, usb)
            self.assertIn("20990101-000000, 20990101-000001, 20990102-000000 lie in the future", result.err)
            self.assertEqual(names(usb), [*before, *FUTURE])
            self.assertEqual(names(source / "snapshot"), [*before, *FUTURE])
        result = self.backup("-n", "3", source, usb)
        self.assertEqual(len(names(usb)), 6)
        self.assertEqual(names(usb)[:2], before[1:])
        restored = usb / "restored"
        result = self.backup("--restore", usb, restored)
        self.assertIn("passing over 20990102-000000: it lies in the future", result.err)
        self.assertEqual(names(restored / "snapshot"), names(usb)[2:3])

    def test_shell_command_gets_each_once(self) -> None:
        source, store = self.source(), self.folder / "store"
        forge(source, FUTURE[0])
        command = f"shell://cat > /dev/null && echo $BTRFS_BACKUP_SNAPSHOT >> {store}"
        for _ in range(3):
            self.backup("-N", "1", source, command)
        got = store.read_text().split()
        self.assertEqual(len(got), 4)
        self.assertEqual(len(set(got)), 4)
        [facts] = on_record(source / "snapshot", COMPLETED)[command].values()
        self.assertEqual(facts, [max(name for name in got if name != FUTURE[0]), FUTURE[0]])


class Pulled(SshTest):
    def test_forged_names_evict_nothing(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        for _ in range(2):
            self.backup("-q", *server.arguments(), f"{server.url}{source}", nas)
        before = names(nas)
        forge(source, *FUTURE)
        result = self.backup("-n", "2", "-S", *server.arguments(), f"{server.url}{source}", nas)
        self.assertIn("lie in the future", result.err)
        self.assertEqual(names(nas), [*before, *FUTURE])
        # Its real ones go on to come, also when it has deleted those that it made up.
        sh("btrfs", "subvolume", "delete", *(source / "snapshot" / name for name in FUTURE))
        result = self.backup("-n", "2", *server.arguments(), f"{server.url}{source}", nas)
        self.assertIn(f"{nas}: 20990101-000000, 20990101-000001, 20990102-000000 lie in the future", result.err)
        self.assertEqual(names(nas)[0], before[1])
        self.assertEqual(names(nas)[2:], FUTURE)
