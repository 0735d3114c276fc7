"""Cuts off the power of a destination at random moments of runs, and checks what is there when it is back.

    sudo python3 -m tests.soak --outages 50 --seed 1

The disk of the destination has then what had been flushed to it, and no more. What has the name of a backup is whole;
the next run brings all right.
"""

import os
import random
import time
from collections.abc import Callable

from tests.real.machine import RealTest, names, random_file, sh, show, tree
from tests.real.test_disks import MortalDisk


class Outages:
    """A source on which somebody works, and a destination on a disk that may lose its power."""

    def __init__(self, test: RealTest, seed: int) -> None:
        self.test = test
        self.dice = random.Random(seed)
        self.source = test.source()
        self.disk = MortalDisk(test.folder, test.folder / "usb", 400)
        test.addCleanup(self.disk.detach)
        sh("sync", "-f", self.disk.below)  # or its image would be lost, too
        self.seconds = 1.0
        self.trees: dict[str, object] = {}  # of the snapshots, by their UUIDs

    def step(self) -> str:
        for number in range(self.dice.randint(1, 6)):
            (self.source / f"file{self.dice.randrange(40)}").write_bytes(
                self.dice.randbytes(self.dice.randrange(30_000))
            )
            if number == 4:
                random_file(self.source / "large", self.dice.randint(1, 30))
        delay = self.dice.uniform(0.05, self.seconds)
        command = self.test.start("-n", "3", "-N", "3", self.source, self.disk.path)
        time.sleep(delay)
        self.disk.die()
        _, err = command.communicate(timeout=120)
        self.disk.come_back()
        held = self.check(err)
        began = time.monotonic()
        result = self.test.run_command("-n", "3", "-N", "3", self.source, self.disk.path)
        self.seconds = (time.monotonic() - began) * 1.2
        self.test.assertEqual(result.status, 0, result)
        self.check(result.err)
        self.test.assertEqual([each for each in os.listdir(self.disk.path) if each.startswith(".")], [], result)
        self.test.assertEqual(names(self.disk.path)[-1], names(self.source / "snapshot")[-1])
        return f"after {delay:.2f} s: exit {command.returncode}, {held} backups there"

    def check(self, what: str) -> int:
        """Each backup is whole; how many there are."""
        for snapshot in (self.source / "snapshot").glob("2*"):
            self.trees.setdefault(show(snapshot)["UUID"], tree(snapshot))
        backups = names(self.disk.path)
        for name in backups:
            told = show(self.disk.path / name)
            self.test.assertEqual(told["Flags"], "readonly", what)
            if (snapshot := self.trees.get(told["Received UUID"])) is not None:
                self.test.assertEqual(tree(self.disk.path / name), snapshot, f"{name}: {what}")
        return len(backups)


def soak(test: RealTest, outages: int, seed: int, tell: Callable[[str], object] = lambda line: None) -> None:
    found = Outages(test, seed)
    for number in range(outages):
        tell(f"{number + 1}: {found.step()}")
