"""Cuts transfers of random trees at random bytes, and follows each of them to its end.

    sudo python3 -m tests.soak --cuts 200 --seed 1

Several cuts a transfer, in every direction: push, pull, relay and restore through a proxy that cuts, and between local
disks by killing the run. The result is compared whole with the snapshot, and what went over the wire is counted.
"""

import os
import random
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.real.machine import RealTest, names, sh, show, tree, wait_for
from tests.real.small_parts import PART
from tests.real.sshd import Proxy, Sshd

MODULE = "tests.real.small_parts"
DIRECTIONS = ("push", "pull", "relay", "restore", "local")
OVERHEAD = 300_000  # bytes of logins and small commands
WINDOW = 12 << 20  # bytes that are on their way, or not known to be on the disk


class Cuts:
    """A source whose tree changes at random, and places to send it to. cuts: how many there were."""

    def __init__(self, test: RealTest, seed: int) -> None:
        self.test = test
        self.dice = random.Random(seed)
        disk = test.disk("pool", 1200)
        disk.unmount()
        disk.mount("compress=zstd")
        self.source = test.subvolume(disk.path / "home")
        # `btrfs receive` takes whatever copy of a parent it finds on a filesystem.
        self.disks = {each: test.disk(each, 600).path for each in DIRECTIONS}
        test.folder.chmod(0o755)
        self.server = Sshd(test.folder / "sshd")
        test.addCleanup(self.server.stop)
        self.proxy = Proxy(self.server.port)
        test.addCleanup(self.proxy.close)
        self.server.know(self.proxy.port)
        self.cuts = 0
        self.said = ""

    def change(self) -> None:
        """Files of all kinds come, go, move, share data and grow."""
        dice, top = self.dice, self.source
        for _ in range(dice.randrange(2, 7)):
            folder = top / f"folder {dice.randrange(6)}"
            folder.mkdir(exist_ok=True)
            for number in range(dice.randrange(1, 30)):
                size = dice.choice((0, 1, 3, 100, 5000, 70_000, 1_500_000, 3_000_000))
                data = dice.randbytes(size) if dice.random() < 0.7 else b"all the same " * (size // 13)
                (folder / f"file {number}").write_bytes(data)
            files = [each for each in folder.iterdir() if each.is_file() and not each.is_symlink()]
            for each in dice.sample(files, min(len(files), 4)):
                other = folder / f"other {dice.randrange(10**9)}"
                match dice.randrange(6):
                    case 0:
                        each.rename(other)
                    case 1:
                        os.link(each, other)
                    case 2:
                        sh("cp", "--reflink=always", each, other)
                    case 3:
                        os.truncate(each, dice.randrange(20 << 20))
                    case 4:
                        os.setxattr(each, "user.some", dice.randbytes(20))
                    case 5:
                        each.unlink()
        folders = list(top.glob("folder *"))
        if dice.random() < 0.3:
            shutil.rmtree(dice.choice(folders))
        elif dice.random() < 0.3:
            dice.choice(folders).rename(top / f"folder {dice.randrange(10**6)}")
        if sum(each.stat().st_size for each in top.rglob("*") if each.is_file() and not each.is_symlink()) > 150 << 20:
            for each in list(top.glob("folder *"))[1:]:
                shutil.rmtree(each)

    def follow(self, number: int) -> str:
        """One transfer, in a direction of its own, with several cuts; what was done, for a message."""
        direction = DIRECTIONS[number % len(DIRECTIONS)]
        self.change()
        far = self.disks[direction] / "backups"
        far.mkdir(exist_ok=True)
        near = self.server.url.replace(str(self.server.port), str(self.proxy.port))
        ways = ([], [], ["--compress", "gzip"], ["--no-compressed-data"], ["--rate-limit", "80M"])
        options: list[object] = [*self.server.arguments(), *self.dice.choice(ways)]
        where: Path = far
        if direction == "restore":
            self.test.backup("-n", "1", self.source, far, module=MODULE)
            where = far.parent / f"restored {number}"
            arguments = ["--restore", *options, f"{near}{far / names(far)[-1]}", where]
        else:
            source, target = {
                "push": (self.source, f"{near}{far}"),
                "pull": (f"{near}{self.source}", far),
                "relay": (f"{near}{self.source}", f"{self.server.url}{far}"),
                "local": (self.source, far),
            }[direction]
            arguments = ["-n", "2", *options, source, target]
        self.said = ""
        before, cuts, there = self.proxy.moved, self.cuts, names(far)
        for count in range(self.dice.randrange(1, 5)):
            self.cut(direction, arguments if count == 0 or direction == "restore" else ["-S", *arguments], where)
        if direction != "restore" or not where.exists():
            again = ["-S"] if direction != "restore" else []
            self.test.backup(*again, *arguments, module=MODULE)
        cuts = self.cuts - cuts
        self.check(direction, where)
        if direction != "local":
            moved = self.proxy.moved - before
            there = there if direction != "restore" else []
            new = [name for name in names(where / "snapshot" if direction == "restore" else far) if name not in there]
            sent = sum(self.size(name, [*there, *new]) for name in new)
            most = 1.1 * sent + cuts * (PART + WINDOW) + OVERHEAD * 6
            self.test.assertLess(moved, most, f"{cuts} cuts of {new}, {sent} bytes\n{self.said}")
        if direction == "restore":
            sh("btrfs", "subvolume", "delete", *where.glob("snapshot/2*"), where)
        return f"{direction}: {cuts} cuts"

    def cut(self, direction: str, arguments: Sequence[object], where: Path) -> None:
        """Cut a run at a random place, which may have ended before."""
        if where.exists() and direction == "restore":
            return
        if direction == "local":
            command = self.test.start("--rate-limit", "60M", *arguments, module=MODULE)
            time.sleep(self.dice.uniform(0.1, 1.5))
            command.kill()
            command.communicate()
            self.cuts += 1
        else:
            before = self.proxy.moved
            self.proxy.limit = before + self.dice.randrange(50_000, 12 << 20)
            result = self.test.run_command(*arguments, module=MODULE)
            self.test.assertIn(result.status, (0, 1, 10), result)
            self.said += f"{self.proxy.moved - before} bytes through the proxy, {result}\n"
            self.proxy.limit = 1 << 60
            self.cuts += result.status != 0
        wait_for(lambda: not left_behind(self.test.folder))

    def size(self, name: str, there: Sequence[str]) -> int:
        """Bytes of the stream of a snapshot on top of the newest one that is older and was THERE, or in full."""
        older = [each for each in there if each < name and (self.source / "snapshot" / each).exists()]
        parent = ["-p", self.source / "snapshot" / older[-1]] if older else []
        command = shlex.join(map(str, ["btrfs", "send", "-q", *parent, self.source / "snapshot" / name]))
        return int(sh("sh", "-c", f"{command} | wc -c"))

    def check(self, direction: str, where: Path) -> None:
        """All is there, as it was, and no part is left."""
        folder = self.source / "snapshot"
        if direction == "restore":
            [name] = names(where / "snapshot")
            pairs = [(where / "snapshot" / name, folder / name)]
            self.test.assertEqual(content(where), content(folder / name))
        else:
            pairs = [(where / name, folder / name) for name in names(where)]
            self.test.assertEqual(names(where)[-1], names(folder)[-1])
        for backup, snapshot in pairs:
            self.test.assertEqual(show(backup)["Received UUID"], show(snapshot)["UUID"])
            self.test.assertEqual(content(backup), content(snapshot))
        self.test.assertEqual([*self.disks[direction].glob(".*"), *where.glob(".*")], [])


def content(top: Path) -> object:
    """Everything in TOP with its attributes, and which files are links to one."""
    inodes: dict[int, list[str]] = {}
    attributes = {}
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.relative_to(top).parts[0] != "snapshot":
            inodes.setdefault(path.stat().st_ino, []).append(str(path.relative_to(top)))
            attributes[str(path.relative_to(top))] = {each: os.getxattr(path, each) for each in os.listxattr(path)}
    names_of_trees = {name: value for name, value in tree(top).items() if not name.startswith("snapshot")}
    return names_of_trees, sorted(inodes.values()), attributes


def left_behind(folder: Path) -> list[int]:
    """The processes that still send from FOLDER or receive there."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (each / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"btrfs" and any(word.startswith(bytes(folder)) for word in words):
                found.append(int(each.name))
    return found


def soak(test: RealTest, cuts: int, seed: int, tell: Callable[[str], object] = lambda line: None) -> None:
    """Raises AssertionError, with the number of the transfer, when something is not as it should be."""
    world = Cuts(test, seed)
    number = 0
    while world.cuts < cuts:
        with test.subTest(seed=seed, transfer=number):
            tell(f"{number}: {world.follow(number)}, {world.cuts} in all")
        number += 1
