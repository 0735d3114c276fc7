"""Random histories of subvolumes on btrfs: what `--diff` tells of two snapshots is what their trees tell.

    sudo python3 -m tests.changes --histories 500 --seed 1

In each history a tree is changed at random between two snapshots: files are made, written, cut, copied, renamed, given
other names and removed, folders too, also with nested subvolumes in them. In every other one all names of a file count
as one thing, as they are in a stream.
"""

import argparse
import os
import random
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from btrfs_backup.model.changes import ADDED, CHANGED, METADATA, REMOVED, RENAMED, Change, Comparison
from tests.real.machine import Disk, fast_folder, sh
from tests.unit.test_changes import TOP, Item, expected, path, told

NAMES = [b"a", b"b", b"c", b"-d", b"\xff\xfe", b"e\nf", b"g h"]
IN_BETWEEN = b"o257-7-0"  # of a form that streams use


def items(top: Path) -> dict[int, Item]:
    """The tree below TOP, without the stubs of nested subvolumes."""
    found = {TOP: item(os.fsencode(top), frozenset())}
    for folder, folders, files in os.walk(os.fsencode(top)):
        number = os.lstat(folder).st_ino
        folders[:] = [each for each in folders if os.lstat(os.path.join(folder, each)).st_ino not in (2, TOP)]
        for name in folders + files:
            at = os.path.join(folder, name)
            inode = os.lstat(at).st_ino
            known = found.get(inode)
            found[inode] = item(at, (known.names if known else frozenset()) | {(number, name)})
    return found


def item(at: bytes, names: frozenset[tuple[int, bytes]]) -> Item:
    status = os.lstat(at)
    data: object = None
    if stat.S_ISREG(status.st_mode):
        with open(at, "rb") as file:
            data = file.read()
    attributes = {
        name: os.getxattr(at, name, follow_symlinks=False) for name in os.listxattr(at, follow_symlinks=False)
    }
    rest = status.st_mode, status.st_uid, sorted(attributes.items())
    return Item(names, data, rest, stat.S_ISDIR(status.st_mode))


def between(old: Path, new: Path) -> list[Change]:
    """What the stream without data tells."""
    comparison = Comparison()
    argv = ["btrfs", "send", "-q", "--no-data", "-p", str(old), str(new)]
    comparison.feed(subprocess.run(argv, capture_output=True, check=True).stdout)
    return comparison.finish()


class Gardener:
    """Changes the tree below TOP at random."""

    def __init__(self, top: Path, dice: random.Random, links: bool) -> None:
        self.top, self.dice, self.links = os.fsencode(top), dice, links

    def pick(self, folders: bool = False) -> bytes:
        """Something in the tree, or a FOLDER."""
        found = [self.top] if folders else []
        for folder, names, files in os.walk(self.top):
            own = [os.path.join(folder, each) for each in names]
            names[:] = [os.path.basename(each) for each in own if os.lstat(each).st_ino not in (2, TOP)]
            found += [os.path.join(folder, each) for each in (names if folders else [*names, *files])]
        return self.dice.choice(sorted(found)) if found else self.top

    def fresh(self) -> bytes:
        return os.path.join(self.pick(folders=True), self.dice.choice(NAMES))

    def act(self) -> None:
        acts = [self.write, self.write, self.folder, self.special, self.rename, self.rename, self.rename, self.over]
        acts += [self.swap, self.remove, self.remove, self.cut, self.mode, self.attribute, self.read, self.save]
        acts += [self.again, self.copy, self.nested, *([self.link] * 3 if self.links else [])]
        with suppress(OSError, shutil.Error, AssertionError):
            self.dice.choice(acts)()

    def write(self) -> None:
        at = self.fresh() if self.dice.random() < 0.5 else self.pick()
        if self.dice.random() < 0.05:
            at = os.path.join(self.top, IN_BETWEEN)
        if not os.path.islink(at) and (os.path.isfile(at) or not os.path.lexists(at)):
            with open(at, "r+b" if os.path.exists(at) else "xb") as file:
                file.seek(self.dice.choice([0, 5000, 100_000]))
                file.write(self.dice.randbytes(self.dice.choice([1, 3000, 70_000])))

    def folder(self) -> None:
        os.mkdir(self.fresh())

    def special(self) -> None:
        self.dice.choice([os.mkfifo, lambda at: os.symlink(b"to", at), lambda at: os.mknod(at, 0o60600, 7)])(
            self.fresh()
        )

    def rename(self) -> None:
        at, to = self.pick(), self.fresh()
        if not os.path.lexists(to) and at != self.top:
            os.rename(at, to)

    def over(self) -> None:
        if (at := self.pick()) != self.top:
            os.rename(at, self.pick())

    def swap(self) -> None:
        one, other = self.pick(), self.pick()
        if self.top not in (one, other) and one != other and os.path.dirname(one) == os.path.dirname(other):
            between = os.path.join(self.top, b"between")
            for at, to in ((one, between), (other, one), (between, other)):
                os.rename(at, to)

    def remove(self) -> None:
        if (at := self.pick()) == self.top:
            return
        if not os.path.isdir(at) or os.path.islink(at):
            os.unlink(at)
            return
        for folder, names, _ in os.walk(at):
            for each in names:
                if os.lstat(os.path.join(folder, each)).st_ino == TOP:
                    sh("btrfs", "subvolume", "delete", os.fsdecode(os.path.join(folder, each)))
        shutil.rmtree(at)

    def cut(self) -> None:
        os.truncate(self.pick(), self.dice.choice([0, 2, 4096, 200_000]))

    def mode(self) -> None:
        if not os.path.islink(at := self.pick()):
            os.chmod(at, self.dice.choice([0o600, 0o755, 0o4711]))
        os.chown(at, self.dice.choice([0, 1000]), 0, follow_symlinks=False)

    def attribute(self) -> None:
        os.setxattr(self.pick(), "user.x", self.dice.randbytes(3))

    def read(self) -> None:
        os.utime(self.pick(), (1, self.dice.randrange(10**9)), follow_symlinks=False)

    def save(self) -> None:
        """As editors do: a new file takes the place of the old one."""
        at = self.pick()
        if os.path.isfile(at) and not os.path.islink(at):
            with open(at + b"~", "xb") as file:
                file.write(self.dice.randbytes(100))
            os.rename(at + b"~", at)

    def again(self) -> None:
        """A folder is replaced by a copy."""
        at = self.pick(folders=True)
        if at != self.top:
            shutil.copytree(at, os.path.join(self.top, b"copy"), symlinks=True)
            shutil.rmtree(at)
            os.rename(os.path.join(self.top, b"copy"), at)

    def copy(self) -> None:
        if os.path.isfile(at := self.pick()) and not os.path.lexists(to := self.fresh()):
            sh("cp", "--reflink=always", "--", os.fsdecode(at), os.fsdecode(to))

    def nested(self) -> None:
        if self.dice.random() < 0.1:
            sh("btrfs", "subvolume", "create", os.fsdecode(self.fresh()))

    def link(self) -> None:
        os.link(self.pick(), self.fresh(), follow_symlinks=False)


def check(old: Path, new: Path, links: bool) -> None:
    """Raises AssertionError when the stream tells something else than the trees."""
    before, after, changes = items(old), items(new), between(old, new)
    found, wanted = told(changes), None
    if not links:
        wanted = expected(before, after)
        assert found == wanted, f"too much: {found - wanted}\ntoo little: {wanted - found}"
        silent = [each for each in changes if each.what == RENAMED and each.bytes]
        written = [
            path(after, *after[n].names) for n, its in after.items() if n in before and its.data != before[n].data
        ]
        assert {each.path for each in silent} <= set(written), silent
        return
    # A file with several names is told of by one of them: all paths have to come and go as they do in the trees.
    paths = [{path(each, place): n for n, its in each.items() for place in its.names} for each in (before, after)]
    gone, came = paths[0].keys() - paths[1].keys(), paths[1].keys() - paths[0].keys()
    folders = tuple(f"{each.before}/" for each in changes if each.what == RENAMED and after[paths[1][each.path]].folder)
    told_gone = {each.before or each.path for each in changes if each.what in (RENAMED, REMOVED)}
    assert {each for each in gone if not each.startswith(folders or ("\0",))} <= told_gone, (gone, found)
    paths[1]["."] = TOP
    mentioned = {paths[1][each.path] for each in changes if each.what != REMOVED and each.path in paths[1]}
    changed = {
        n for n, its in after.items() if n not in before or (its.data, its.rest) != (before[n].data, before[n].rest)
    }
    assert changed <= mentioned, (changed - mentioned, found)
    for each in changes:
        assert each.what == REMOVED or each.path in paths[1], each
        assert each.what not in (REMOVED, RENAMED) or (each.before or each.path) in paths[0], each
        assert each.what not in (ADDED, CHANGED, METADATA) or paths[1][each.path] in mentioned, each
    assert len(came) >= sum(each.what == ADDED and each.path not in paths[0] for each in changes)


def histories(folder: Path, count: int, seed: int) -> None:
    """COUNT histories in a subvolume of FOLDER."""
    for number in range(seed, seed + count):
        dice = random.Random(number)
        top, old, new = (folder / f"{number}{each}" for each in ("", "-old", "-new"))
        sh("btrfs", "subvolume", "create", top)
        gardener = Gardener(top, dice, links=number % 2 == 0)
        for snapshot in (old, new):
            for _ in range(dice.randrange(40)):
                gardener.act()
            sh("btrfs", "subvolume", "snapshot", "-r", top, snapshot)
        try:
            check(old, new, gardener.links)
        except AssertionError as error:
            raise AssertionError(f"history {number}: {error}") from error
        for each in (old, new, top):
            for inside in sorted(each.rglob("*"), reverse=True) if each == top else ():
                if inside.lstat().st_ino == TOP:
                    sh("btrfs", "subvolume", "delete", inside)
            sh("btrfs", "subvolume", "delete", each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="btrfs-backup-changes-", dir=fast_folder()))
    disk = Disk(folder, folder / "disk", 1000)
    try:
        histories(disk.path, arguments.histories, arguments.seed)
    finally:
        disk.unmount()
        shutil.rmtree(folder)
    print(f"{arguments.histories} histories from {arguments.seed} on: the same")


if __name__ == "__main__":
    main()
