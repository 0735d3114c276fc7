"""Breaks the connection at random bytes of runs that have little to send, and checks what is left.

    sudo python3 -m tests.soak --breaks 100 --seed 1

Such a run consists of small commands: looks, locks, records, stages, publishing, deletions. After each break records
and backups are whole; the next run brings all right.
"""

import json
import random
from collections.abc import Callable
from contextlib import suppress

from tests.real.machine import COMPLETED, OUTSTANDING, RealTest, names, show
from tests.real.sshd import Proxy, Sshd

FIRST = 3000  # bytes of a login, about


class Breaks:
    """A source on which somebody works, and its backups there and back. broken: how many runs did not end well."""

    def __init__(self, test: RealTest, seed: int) -> None:
        self.test = test
        self.dice = random.Random(seed)
        self.source, self.nas, self.usb = test.source(), test.disk("nas").path, test.disk("usb").path
        test.folder.chmod(0o755)
        self.server = Sshd(test.folder / "sshd")
        test.addCleanup(self.server.stop)
        self.proxy = Proxy(self.server.port)
        test.addCleanup(self.proxy.close)
        self.server.know(self.proxy.port)
        far = f"ssh://{self.server.address}:{self.proxy.port}"
        self.ways = {"push": (self.source, f"{far}{self.nas}"), "pull": (f"{far}{self.source}", self.usb)}
        self.usual = dict.fromkeys(self.ways, 0)  # bytes through the proxy in a run
        self.broken = 0

    def run(self, way: str, *options: str) -> tuple[int, str]:
        policy = ("-N", "3", "-n", "3")
        result = self.test.run_command(*options, *policy, *self.server.arguments(), *self.ways[way])
        return result.status, result.err

    def step(self) -> str:
        """One run that is broken, and one that brings all right."""
        way = self.dice.choice(list(self.ways))
        if not self.usual[way]:
            self.go_on(way)
        (self.source / f"file{self.dice.randrange(5)}").write_bytes(self.dice.randbytes(self.dice.randrange(3000)))
        at = self.dice.randrange(FIRST, self.usual[way] + FIRST)
        self.proxy.limit = self.proxy.moved + at
        status, err = self.run(way)
        self.proxy.limit = 1 << 60
        self.broken += status != 0
        self.test.assertIn(status, (0, 1, 10), err)
        self.check(way, f"{way} broken at {at}: {err}")
        self.go_on(way)
        return f"{way} broken at {at} of about {self.usual[way]}: exit {status}"

    def go_on(self, way: str) -> None:
        before = self.proxy.moved
        status, err = self.run(way)
        self.test.assertEqual(status, 0, err)
        self.usual[way] = self.proxy.moved - before
        self.check(way, err)
        place = self.nas if way == "push" else self.usb
        self.test.assertEqual([each.name for each in place.iterdir() if each.name.startswith(".")], [], err)
        newest = names(self.source / "snapshot")[-1]
        self.test.assertEqual(names(place)[-1], newest, err)
        self.test.assert_same(place / newest, self.source / "snapshot" / newest)

    def check(self, way: str, what: str) -> None:
        """Records can be read, and what has the name of a backup is one of the snapshot of that name."""
        folder = self.source / "snapshot"
        for name in (OUTSTANDING, COMPLETED):
            with suppress(FileNotFoundError):
                text = (folder / name).read_text()
                self.test.assertIsInstance(json.loads(text or "{}"), dict, what)
        self.test.assertEqual([each for each in folder.iterdir() if ".broken-" in each.name], [], what)
        for place in (self.nas, self.usb):
            for name in names(place):
                told = show(place / name)
                self.test.assertEqual(told["Flags"], "readonly", what)
                if (folder / name).exists():
                    self.test.assertEqual(told["Received UUID"], show(folder / name)["UUID"], what)


def soak(test: RealTest, breaks: int, seed: int, tell: Callable[[str], object] = lambda line: None) -> int:
    """How many of the runs that were broken did not end well."""
    found = Breaks(test, seed)
    for number in range(breaks):
        tell(f"{number + 1}: {found.step()}")
    return found.broken
