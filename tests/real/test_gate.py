"""Streams that a pulled machine has forged: none reaches anything outside its stage, and none becomes a backup."""

import os
import sys
import unittest
from pathlib import Path

from tests.real.machine import TOP, names, on_record, sh, with_program
from tests.real.sshd import SshTest

# What is put in front of the END of an honest stream: frames of the protocol, with paths that may be anything.
FORGER = """
import sys
from btrfs_backup.model.sendstream import Attribute, Command, beginning, frame, uuid_bytes
from tests.unit.test_sendstream import command, number
kind, evil = sys.argv[1], sys.argv[2].encode()
stream = sys.stdin.buffer.read()
zero = number(0)
def clone(path, uuid):
    return command("CLONE", PATH=b"stolen", FILE_OFFSET=zero, CLONE_LEN=number(4096), CLONE_UUID=uuid,
                   CLONE_CTRANSID=zero, CLONE_PATH=path, CLONE_OFFSET=zero)
parent = uuid_bytes(beginning(stream[:4096]).parent)
made = command("MKFILE", PATH=b"stolen", INO=number(9999))
write = lambda path: command("WRITE", PATH=path, FILE_OFFSET=zero, DATA=b"evil")
FRAMES = {
    "through a link": command("SYMLINK", PATH=b"l", INO=number(9999), PATH_LINK=evil) + write(b"l/victim"),
    "upwards": write(b"../../../victim"),
    "absolute": write(evil + b"/victim"),
    "rename of a neighbour": command("RENAME", PATH=b"../neighbour", PATH_TO=b"../gone"),
    "unlink upwards": command("UNLINK", PATH=b"../../victim"),
    "an empty path": write(b""),
    "a dot": write(b"./file"),
    "clone from elsewhere": made + clone(b"file", b"\\1" * 16),
    "clone through a link": made + clone(b"link", parent),
    "not of the protocol": frame(99, b""),
    "a second subvolume": frame(Command.END) + stream[:17] + stream[17:-10].replace(b"\\0\\0", b"\\0\\0"),
    "something behind the end": frame(Command.END) + b"more",
}
sys.stdout.buffer.write(stream[:-10] + FRAMES[kind] + stream[-10:])
"""
KINDS = (
    "through a link",
    "upwards",
    "absolute",
    "rename of a neighbour",
    "unlink upwards",
    "an empty path",
    "a dot",
    "clone from elsewhere",
    "not of the protocol",
    "a second subvolume",
    "something behind the end",
)


class Forged(SshTest):
    def setUp(self) -> None:
        super().setUp()
        self.home, self.usb = self.source(), self.disk("usb").path
        self.kind = self.folder / "kind"
        self.evil = self.folder / "elsewhere"
        self.evil.mkdir()
        (self.evil / "victim").write_text("precious")
        (self.folder / "forger.py").write_text(FORGER)
        python = f"PYTHONPATH={TOP} {sys.executable} {self.folder / 'forger.py'}"
        forging = (
            f'[ "$1" = send ] && [ -e {self.kind} ] || exec "$REAL" "$@"\n'
            f'"$REAL" "$@" | {python} "$(cat {self.kind})" {self.evil}'
        )
        self.server = self.sshd(path=with_program(self.folder / "forging", "btrfs", forging)["PATH"])
        self.pulled = f"{self.server.url}{self.home}"

    def assert_nothing_happened(self, folder: Path, before: list[str]) -> None:
        self.assertEqual((self.evil / "victim").read_text(), "precious")
        self.assertEqual(sorted(os.listdir(self.evil)), ["victim"])
        self.assertEqual(sorted(os.listdir(folder)), before)

    def test_pulled(self) -> None:
        """In full and as increments; the next honest run sends what was refused."""
        target = self.usb / "backups"
        self.backup(*self.server.arguments(), self.pulled, target)
        for number, kind in enumerate(KINDS):
            # Both ways for the gravest ones.
            for options in ((), ("-I",)) if number < 3 else (((), ("-I",))[number % 2],):
                with self.subTest(kind, options=options):
                    before = sorted(os.listdir(target))
                    self.kind.write_text(kind)
                    result = self.backup(*options, *self.server.arguments(), self.pulled, target, status=10)
                    # A path through a link looks like any other: the receiver is confined to its folder.
                    said = "No such file" if kind == "through a link" else "what the other machine sent was refused: "
                    self.assertIn(said, result.err)
                    self.assert_nothing_happened(target, before)
                    self.kind.unlink()
        self.backup("-S", *self.server.arguments(), self.pulled, target)
        self.assert_complete(target, self.home / "snapshot", names(self.home / "snapshot"))
        self.assertEqual(on_record(self.home / "snapshot"), {})

    def test_restored(self) -> None:
        self.backup(self.home, self.usb)
        for kind in KINDS[:4]:
            with self.subTest(kind):
                self.kind.write_text(kind)
                before = sorted(os.listdir(self.usb))
                arguments = (*self.server.arguments(), f"{self.server.url}{self.home}/snapshot", self.usb / "new")
                result = self.backup("-I", "--restore", *arguments, status=1)
                self.assertIn("No such file" if kind == "through a link" else "was refused: ", result.err)
                self.assert_nothing_happened(self.usb, before)

    def test_a_clone_through_a_link_in_the_parent(self) -> None:
        """That is refused, also where the parent is on a third machine; honest clones from the parent pass."""
        (self.home / "large").write_bytes(os.urandom(1 << 20))
        self.backup(*self.server.arguments(), self.pulled, self.usb)
        sh("cp", "--reflink=always", self.home / "large", self.home / "copy")
        self.backup(*self.server.arguments(), self.pulled, self.usb)
        self.assert_complete(self.usb, self.home / "snapshot", names(self.home / "snapshot"))
        nas = self.disk("nas").path
        self.backup(*self.server.arguments(), "-S", self.pulled, f"{self.server.url}{nas}")
        for target, where in ((self.usb, self.usb), (f"{self.server.url}{nas}", nas)):
            with self.subTest(target=target):
                before = sorted(os.listdir(where))
                self.kind.write_text("clone through a link")
                result = self.backup(*self.server.arguments(), self.pulled, target, status=10)
                self.assertIn("b'link' leads through a symlink in the parent", result.err)
                self.assert_nothing_happened(where, before)
                self.kind.unlink()
                self.backup(*self.server.arguments(), "-S", self.pulled, target)
                self.assert_complete(where, self.home / "snapshot", names(self.home / "snapshot"))
        # A restore on top of a copy that is there.
        pool = self.home.parent
        copies = pool / "copies"
        self.backup(*self.server.arguments(), "--restore", "-f", copies, f"{self.server.url}{nas}", pool / "new")
        (self.home / "more").write_bytes(os.urandom(1 << 16))
        self.backup(*self.server.arguments(), self.pulled, f"{self.server.url}{nas}")
        self.kind.write_text("clone through a link")
        arguments = ("--restore", "-f", copies, f"{self.server.url}{nas}", pool / "newer")
        result = self.backup(*self.server.arguments(), *arguments, status=1)
        self.assertIn("b'link' leads through a symlink in the parent", result.err)


if __name__ == "__main__":
    unittest.main()
