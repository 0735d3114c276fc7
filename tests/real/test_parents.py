"""Increments that a destination cannot take: another parent is tried, then a full stream, in the same run."""

import re
from pathlib import Path

from tests.real.machine import Result, lying_btrfs, names, on_record, path_with, random_file, shares, show, tree
from tests.real.sshd import SshTest
from tests.real.test_identity import set_writable

# An increment begins with the command SNAPSHOT (2), a full stream with SUBVOL (1): the byte after header and length.
NO_INCREMENTS = r"""
    receive*)
        head -c 22 >"$here/first.$$"
        if [ "$(od -An -tu1 -j21 -N1 "$here/first.$$" | tr -d ' ')" = 2 ]; then
            echo x >>"$here/refused"
            echo "ERROR: cannot find parent subvolume" >&2
            exit 1
        fi
        cat "$here/first.$$" - | "$REAL" "$@"
        exit ;;"""


class Parents(SshTest):
    def pair(self, backups: int = 2, megabytes: int = 256) -> tuple[Path, Path]:
        source, usb = self.source(), self.disk("usb", megabytes).path
        for number in range(backups):
            (source / "file").write_text(f"state {number}")
            self.backup("-q", source, usb)
        return source, usb

    def liar(self, lies: str, name: str = "lies") -> Path:
        return lying_btrfs(self.folder / name, lies)

    def tries(self, result: Result, place: object, snapshot: str) -> list[str]:
        """How SNAPSHOT was sent to PLACE, each time: on top of which parent, or "full"."""
        found = re.findall(
            rf"^{re.escape(str(place))}: sending {snapshot} (?:on top of (.*)|in full(?:, because .*)?)$",
            result.err,
            re.M,
        )
        return [parent or "full" for parent in found]

    def assert_good(self, source: Path, usb: Path, name: str, parent: str | None) -> None:
        self.assert_same(usb / name, source / "snapshot" / name)
        self.assertEqual(show(usb / name)["Received UUID"], show(source / "snapshot" / name)["UUID"])
        others = [usb / parent] if parent else [usb / other for other in names(usb) if other != name]
        self.assertEqual(any(shares(usb / name, other) for other in others), bool(parent))
        self.assertEqual(on_record(source / "snapshot"), {})

    def test_parent_that_was_changed_behind_its_back(self) -> None:
        """It keeps its received UUID and is read-only again, so it looks complete; the increment does not fit on it."""
        source, usb = self.pair(3)
        one, two, three = names(usb)
        set_writable(usb / three, True)
        for path in (usb / three / "file", usb / three / "link"):
            path.unlink()
        set_writable(usb / three, False)
        (source / "file").write_text("a change that needs what was there")
        (source / "link").unlink()
        result = self.backup(source, usb)
        fourth = names(source / "snapshot")[-1]
        self.assertEqual(self.tries(result, usb, fourth), [three, two])
        self.assert_good(source, usb, fourth, two)
        self.assertIn(one, names(usb))

    def test_no_increments_at_all(self) -> None:
        """As it is said: one other parent, then in full; however many there are to choose from."""
        for count in (1, 2, 4):
            with self.subTest(count):
                self.setUp()
                source, usb = self.pair(count)
                held = names(usb)
                lies = self.liar(NO_INCREMENTS)
                result = self.backup(source, usb, env=path_with(lies))
                name = names(source / "snapshot")[-1]
                self.assertEqual(self.tries(result, usb, name), [*held[::-1][:2], "full"])
                self.assertRegex(result.err, "warning: .*cannot find parent subvolume")
                self.assertNotIn("FAILED", result.err)
                self.assert_good(source, usb, name, None)

    def test_several_that_are_missing(self) -> None:
        source, usb = self.pair(1)
        for _ in range(2):
            self.backup("-q", source)
        self.backup(source, usb, env=path_with(self.liar(NO_INCREMENTS)))
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_over_ssh(self) -> None:
        source, nas = self.source(), self.disk("nas").path
        plain = self.sshd()
        self.backup("-q", *plain.arguments(), source, f"{plain.url}{nas}")
        lies = self.liar(NO_INCREMENTS)
        server = self.sshd(name="lying", path=path_with(lies)["PATH"])
        result = self.backup(*server.arguments(), source, f"{server.url}{nas}")
        old, new = names(source / "snapshot")
        self.assertEqual(self.tries(result, f"{server.url}{nas}", new), [old, "full"])
        self.assert_good(source, nas, new, None)

    def test_the_other_destination_is_served_once(self) -> None:
        source, usb = self.pair()
        nas = self.disk("nas").path
        self.backup("-q", "-S", source, nas)
        refusing = NO_INCREMENTS.replace("receive*)", f"receive*{usb}/*)")
        result = self.backup(source, usb, nas, env=path_with(self.liar(refusing)))
        *_, older, old, new = ["", *names(source / "snapshot")]
        self.assertEqual(self.tries(result, nas, new), [old])
        self.assertEqual(self.tries(result, usb, new), [old, older, "full"])
        for destination in (usb, nas):
            self.assert_complete(destination, source / "snapshot", names(source / "snapshot"))

    def test_full_disk_is_not_a_matter_of_the_parent(self) -> None:
        source = self.source()
        disk = self.disk("usb", 120)
        for _ in range(2):
            self.backup("-q", source, disk.path)
        random_file(source / "large", 20)
        filler = disk.fill()
        room = filler.stat().st_size >> 20
        filler.unlink()
        random_file(disk.path / "filler", room - 10)
        result = self.backup(source, disk.path, status=10)
        old, new = names(source / "snapshot")[1:]
        self.assertEqual(self.tries(result, disk.path, new), [old])
        self.assertIn("No space left", result.err)

    def test_no_room_for_the_full_stream(self) -> None:
        """Then it failed: nothing is left behind, and it is on record."""
        source = self.source()
        disk = self.disk("usb", 120)
        random_file(source / "large", 60)
        self.backup("-q", source, disk.path)
        held = tree(disk.path)
        result = self.backup(source, disk.path, status=10, env=path_with(self.liar(NO_INCREMENTS)))
        old, new = names(source / "snapshot")
        self.assertEqual(self.tries(result, disk.path, new), [old, "full"])
        self.assertIn("No space left", result.err)
        self.assertIn(f"{disk.path}: FAILED", result.err)
        self.assertEqual((names(disk.path), tree(disk.path)), ([old], held))
        record = on_record(source / "snapshot")
        self.assertEqual(record[new], {"locks": [str(disk.path)]})
        self.backup("-S", source, disk.path)
        self.assert_good(source, disk.path, new, old)

    def test_shell_commands_are_not_tried_again(self) -> None:
        """They cannot tell why they fail, and a full stream may be just what nobody wants there."""
        source, starts = self.source(), self.folder / "starts"
        command = f'shell://echo x >>{starts}; cat >/dev/null; test -z "$BTRFS_BACKUP_PARENT"'
        self.backup(source, command)
        result = self.backup(source, command, status=10)
        self.assertIn("FAILED", result.err)
        self.assertEqual(starts.read_text(), "x\nx\n")
