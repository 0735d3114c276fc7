"""Transfers that are cut off go on where they stopped: in every direction, and with every kind of cut."""

import json
import os
import random
import unittest
from pathlib import Path

from tests.real.machine import Result, extent, names, sh, show, staged, tree
from tests.real.sshd import Proxy, SshTest

SMALL = "tests.real.small_parts"
SIZE = 24  # MB of the streams here


def grow(top: Path, seed: int, megabytes: int = SIZE) -> None:
    """Add files of all kinds to TOP."""
    dice = random.Random(seed)
    folder = top / f"folder-{seed}"
    folder.mkdir()
    for number in range(megabytes // 2):
        (folder / f"large {number}").write_bytes(dice.randbytes(1_900_000))
    for number in range(200):
        (folder / f"small {number}").write_bytes(dice.randbytes(dice.randrange(400)))
    (folder / "sparse").write_bytes(b"x")
    os.truncate(folder / "sparse", 50 << 20)
    (folder / "text").write_text("all the same " * 100_000)
    os.link(folder / "large 0", folder / "hard link")
    (folder / "link").symlink_to("large 0")
    os.mkfifo(folder / "pipe")
    os.chown(folder / "large 1", 1234, 4321)
    os.chmod(folder / "large 1", 0o4711)
    os.setxattr(folder / "large 2", "user.what", b"ever")
    sh("cp", "--reflink=always", folder / "large 3", folder / "reflink")
    os.utime(folder / "large 4", ns=(123456789, 987654321))


class ResumedTest(SshTest):
    def assert_whole(self, backup: Path, snapshot: Path) -> None:
        """BACKUP is a complete backup of SNAPSHOT, its content is equal in all respects, and nothing is staged."""
        self.assertEqual(show(backup)["Flags"], "readonly")
        self.assertEqual(show(backup)["Received UUID"], show(snapshot)["UUID"])
        self.assert_same(backup, snapshot)
        for folder in backup.glob("folder-*"):
            self.assertEqual(extent(folder / "large 3"), extent(folder / "reflink"))
            self.assertEqual((folder / "large 0").stat().st_ino, (folder / "hard link").stat().st_ino)
            self.assertEqual(os.getxattr(folder / "large 2", "user.what"), b"ever")
            self.assertEqual((folder / "large 4").stat().st_mtime_ns, 987654321)
            self.assertLess((folder / "sparse").stat().st_blocks, 1000)
        self.assertEqual([each.name for each in backup.parent.iterdir() if each.name.startswith(".")], [])

    def cut_off(self, proxy: Proxy, megabytes: float, *arguments: object) -> Result:
        """Run until so much has gone through the PROXY, and the connection breaks."""
        proxy.limit = proxy.moved + int(megabytes * 1e6)
        result = self.backup(*arguments, status=10, module=SMALL)
        kept = r"([\d.]+ MB of it are|What has arrived of it is) kept there, and the next run goes on behind that"
        self.assertRegex(result.err, kept)
        return result

    def sent(self, proxy: Proxy, *arguments: object) -> tuple[int, dict[str, object]]:
        """Run it to its end: bytes through the PROXY, and what the JSON says of the first that was sent."""
        before = proxy.moved
        result = self.backup("--json", *arguments, module=SMALL)
        [where] = json.loads(result.out)["destinations"]
        return proxy.moved - before, where["sent"][0]


class Directions(ResumedTest):
    """Cut twice, and followed to the end; the wire carries little more than the rest."""

    def there_and_back(self, source: Path, *arguments: object, proxy: Proxy, backups: Path) -> None:
        grow(source, 1)
        self.cut_off(proxy, 9, *arguments)
        kept = len(staged(backups))
        self.assertGreater(kept, 2)
        taken = self.cut_off(proxy, 7, "-S", *arguments)
        self.assertRegex(taken.err, r"sending \d+-\d+ in full, on from \d.\d MB")
        moved, sent = self.sent(proxy, "-S", *arguments)
        [name] = names(source / "snapshot")
        self.assert_whole(backups / name, source / "snapshot" / name)
        begun, size = sent["resumed_from"], sent["bytes"]
        assert isinstance(begun, int) and isinstance(size, int)
        self.assertGreater(begun, 9e6)
        self.assertLess(moved, size - begun + 1e6)
        # An increment on top, cut off as well, and what follows it.
        grow(source, 2)
        self.cut_off(proxy, 9, *arguments)
        moved, sent = self.sent(proxy, "-S", *arguments)
        self.assertEqual(sent["parent"], name)
        grow(source, 3, 10)
        self.backup(*arguments, module=SMALL)
        for name in names(source / "snapshot"):
            self.assert_whole(backups / name, source / "snapshot" / name)
        self.assertEqual(len(names(backups)), 3)

    def test_push(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 40e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        self.there_and_back(source, *server.arguments(), source, f"{url}{nas}", proxy=proxy, backups=nas)

    def test_push_compressed(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 40e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        options = ("--compress", "gzip", "--rate-limit", "60M", *server.arguments())
        self.there_and_back(source, *options, source, f"{url}{nas}", proxy=proxy, backups=nas)

    def test_pull(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 40e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        self.there_and_back(source, *server.arguments(), f"{url}{source}", nas, proxy=proxy, backups=nas)

    def test_relay(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        proxy = self.proxy(server, 40e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        arguments = (*server.arguments(), "--compress", "gzip", f"{url}{source}", f"{server.url}{nas}")
        self.there_and_back(source, *arguments, proxy=proxy, backups=nas)


class Restored(ResumedTest):
    """A restore that is cut off goes on, too."""

    def restored(self, source: Path, backup: Path, where: str, url: str, proxy: Proxy, *options: str) -> None:
        arguments = (*options, "--restore", f"{url}{backup}", where)
        proxy.limit = proxy.moved + 9_000_000
        result = self.backup(*arguments, status=1, module=SMALL)
        self.assertRegex(result.err, r"[\d.]+ MB of it are kept; the same command goes on behind them")
        proxy.limit = proxy.moved + 7_000_000
        self.backup(*arguments, status=1, module=SMALL)
        dry = json.loads(self.backup("--dry-run", "--json", *arguments, module=SMALL).out)
        before = proxy.moved
        result = self.backup("--json", *arguments, module=SMALL)
        sent = json.loads(result.out)["sent"]
        self.assertGreater(sent["resumed_from"], 9e6)
        self.assertEqual(dry["sent"]["resumed_from"], sent["resumed_from"])
        self.assertLess(proxy.moved - before, sent["bytes"] - sent["resumed_from"] + 1e6)
        new = Path(where)
        self.assertEqual(tree(new / "folder-1"), tree(source / "folder-1"))
        self.assert_same(new / "snapshot" / backup.name, backup)
        self.assertEqual(show(new / "snapshot" / backup.name)["Received UUID"], show(backup)["Received UUID"])
        self.assertEqual([each.name for each in new.parent.iterdir() if each.name.startswith(".")], [])

    def test_over_ssh(self) -> None:
        server, source, nas = self.sshd(), self.source(), self.disk("nas").path
        grow(source, 1)
        self.backup(source, nas)
        [name] = names(nas)
        proxy = self.proxy(server, 40e6)
        url = server.url.replace(str(server.port), str(proxy.port))
        where = self.disk("new").path / "home"
        self.restored(source, nas / name, str(where), url, proxy, *server.arguments())


if __name__ == "__main__":
    unittest.main()
