"""How fast it is, beside plain shell pipes in the same run: `sudo python3 -m tests.bench` (`--help` for more).

Every case times several ways to do the same thing, interleaved, and prints the median of each and the median of its
ratios to the first one, round by round; a round before these does not count, since it finds the memory cold. Programs
that are not installed are left out.

The disks are files, in memory where there is enough of it, whose space is taken beforehand: a disk has not to find
memory for what is written to it. They are as fast as the processor is. Those of the cases `slow-disk` and
`several-slow` are slowed down to what disks do.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

from tests.real.machine import TOP, Disk, fast_folder, names, random_file, sh
from tests.real.sshd import Proxy, Sshd

Way = Callable[[], object]

TRIP = 0.1  # seconds

THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")


def main() -> int:
    parser = argparse.ArgumentParser(description="measure btrfs-backup beside plain shell pipes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--megabytes", type=int, default=2000, help="size of a full backup (default: 2000)")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("The benchmark mounts btrfs filesystems, which needs root.", file=sys.stderr)
        return 1
    found = {}
    for name in options.cases or CASES:
        with ExitStack() as cleanup:
            bench = Bench(cleanup, options.megabytes)
            found[name] = measure(CASES[name](bench), bench.clean, options.rounds)
        if not options.json:
            print_table(name, found[name])
    if options.json:
        print(json.dumps(found, indent=4))
    return 0


def measure(ways: dict[str, Way], clean: Way, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds (median), and ratio to the first way (median, least, most), of ROUNDS behind one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + rounds):
        for name, way in ways.items():
            clean()
            started = time.monotonic()
            way()
            if number:
                seconds[name].append(time.monotonic() - started)
    first = next(iter(seconds.values()), [])
    figures = {}
    for name, its in seconds.items():
        ratios = [one / other for one, other in zip(its, first, strict=True)]
        figures[name] = {
            "seconds": statistics.median(its),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
    return figures


def print_table(case: str, figures: dict[str, dict[str, float]]) -> None:
    """In the case `trips` with the time beyond the first way, in round trips."""
    title, first = f"{'trips':>8}" if case == "trips" else "", next(iter(figures.values()), {})
    print(f"{case}\n  {'':34}{'seconds':>9}{'ratio':>8}{'least':>8}{'most':>8}{title}")
    for name, row in figures.items():
        beyond = f"{(row['seconds'] - first['seconds']) / TRIP:8.1f}" if title else ""
        print(f"  {name:34}{row['seconds']:9.3f}{row['ratio']:8.2f}{row['least']:8.2f}{row['most']:8.2f}{beyond}")
    sys.stdout.flush()


class Bench:
    """A source with a subvolume `home`, destinations, and ways to fill them."""

    def __init__(self, cleanup: ExitStack, megabytes: int) -> None:
        self.cleanup = cleanup
        self.megabytes = megabytes
        self.folder = Path(tempfile.mkdtemp(prefix="btrfs-backup-bench-", dir=fast_folder()))
        cleanup.callback(shutil.rmtree, self.folder)
        self.pool = self.disk("pool")
        self.home = self.pool / "home"
        self.snapshots = self.home / "snapshot"
        self.destinations = [self.disk("d0")]
        self.kept: set[str] = set()
        sh("btrfs", "subvolume", "create", self.home)
        self.snapshots.mkdir()

    def disk(self, name: str) -> Path:
        """Of a size that holds the source and an increment, or the many files with two copies of their metadata."""
        disk = Disk(self.folder, self.folder / name, self.megabytes * 5 // 4 + 1500, solid=True)
        self.cleanup.callback(disk.unmount)
        return disk.path

    def slow_down(self, path: Path) -> None:
        """Have the disk at PATH write 150 MB a second."""
        device = sh("findmnt", "-no", "SOURCE", path).strip()
        number = sh("lsblk", "-dno", "MAJ:MIN", device).strip()
        THROTTLE.write_text(f"{number} {150_000_000}")
        self.cleanup.callback(THROTTLE.write_text, f"{number} 0")

    def snapshot(self, number: int = 0) -> str:
        name = f"{datetime(2026, 1, 1) + timedelta(hours=number):%Y%m%d-%H%M%S}"
        sh("btrfs", "subvolume", "snapshot", "-r", self.home, self.snapshots / name)
        return name

    def clean(self) -> None:
        """Nothing at the destinations but what is kept, no records; all of it written out."""
        for destination in self.destinations:
            if gone := [destination / name for name in names(destination) if name not in self.kept]:
                sh("btrfs", "subvolume", "delete", "-c", *gone)
                sh("btrfs", "subvolume", "sync", destination)
        for state in self.snapshots.glob(".*_transfers"):
            state.unlink()
        os.sync()

    def keep(self, name: str, *destinations: Path) -> None:
        """Have a backup NAME at the DESTINATIONS from the beginning."""
        for destination in destinations:
            self.shell(self.pipe(name, None, destination))
        self.kept.add(name)

    def pipe(self, name: str, parent: str | None, destination: Path, between: str = "") -> str:
        on = f"-p {self.snapshots / parent} " if parent else ""
        return f"btrfs -q send {on}{self.snapshots / name} {between}| btrfs -q receive {destination}"

    def shell(self, script: str) -> None:
        subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)

    def ours(self, *arguments: object) -> Way:
        words = [sys.executable, "-m", "btrfs_backup", "-q", "-S", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(TOP)}
        return lambda: subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)

    def plain(self, name: str, parent: str | None = None) -> dict[str, Way]:
        """A shell pipe; the same with all of it on disk at the end, as after a run; through programs that buffer."""
        target = self.destinations[0]
        ways: dict[str, Way] = {"shell pipe": lambda: self.shell(self.pipe(name, parent, target))}
        written_out = f"{self.pipe(name, parent, target)} && sync -f {target}"
        ways["shell pipe, written out"] = lambda: self.shell(written_out)
        for program, words in (("pv", "pv -q"), ("mbuffer", "mbuffer -q -m 64M")):
            if shutil.which(program):
                ways[program] = lambda words=words: self.shell(self.pipe(name, parent, target, f"| {words} "))  # type: ignore[misc]
        return ways

    def many_files(self, count: int = 50_000) -> None:
        for number in range(count):
            folder = self.home / f"{number // 500}"
            folder.mkdir(exist_ok=True)
            (folder / str(number)).write_bytes(os.urandom(2000))

    def large_files(self, share: float = 1.0) -> None:
        for number in range(20):
            random_file(self.home / f"large{number}", int(self.megabytes * share) // 20)


def full_large(bench: Bench) -> dict[str, Way]:
    bench.large_files()
    return {**bench.plain(bench.snapshot()), "btrfs-backup": bench.ours(bench.home, bench.destinations[0])}


def full_small(bench: Bench) -> dict[str, Way]:
    bench.many_files()
    return {**bench.plain(bench.snapshot()), "btrfs-backup": bench.ours(bench.home, bench.destinations[0])}


def increment_large(bench: Bench) -> dict[str, Way]:
    bench.large_files()
    bench.keep(old := bench.snapshot(), bench.destinations[0])
    random_file(bench.home / "large0", bench.megabytes // 20)
    new = bench.snapshot(1)
    return {**bench.plain(new, old), "btrfs-backup": bench.ours(bench.home, bench.destinations[0])}


def increment_small(bench: Bench) -> dict[str, Way]:
    bench.many_files()
    bench.keep(old := bench.snapshot(), bench.destinations[0])
    for number in range(0, 50_000, 20):
        (bench.home / f"{number // 500}" / str(number)).write_bytes(os.urandom(2000))
    new = bench.snapshot(1)
    return {**bench.plain(new, old), "btrfs-backup": bench.ours(bench.home, bench.destinations[0])}


def several(bench: Bench) -> dict[str, Way]:
    bench.large_files(share=0.25)  # all of the disks are in memory
    bench.snapshot()
    bench.destinations += [bench.disk("d1"), bench.disk("d2")]
    two, three = bench.destinations[:2], bench.destinations
    runs = [bench.ours(bench.home, each) for each in three]
    return {
        "two runs": lambda: [run() for run in runs[:2]],
        "one destination": runs[0],
        "two, shared": bench.ours(bench.home, *two),
        "two, --no-shared-stream": bench.ours("--no-shared-stream", bench.home, *two),
        "three runs": lambda: [run() for run in runs],
        "three, shared": bench.ours(bench.home, *three),
    }


def several_slow(bench: Bench) -> dict[str, Way]:
    """Destinations that write 150 MB a second each."""
    if not can_slow_down():
        return {}
    ways = several(bench)
    for each in bench.destinations:
        bench.slow_down(each)
    return ways


def slow_disk(bench: Bench) -> dict[str, Way]:
    """A destination that writes 150 MB a second."""
    if not can_slow_down():
        return {}
    bench.large_files(share=0.25)
    target = bench.destinations[0]
    bench.slow_down(target)
    ways = bench.plain(bench.snapshot())
    return {**ways, "btrfs-backup": bench.ours(bench.home, target)}


def can_slow_down() -> bool:
    if not THROTTLE.exists():
        print("This kernel cannot slow down a disk (cgroup v1, blkio).", file=sys.stderr)
    return THROTTLE.exists()


def tiny_increments(bench: Bench) -> dict[str, Way]:
    stamps = []
    for number in range(31):
        (bench.home / f"file{number}").write_text(str(number))
        stamps.append(bench.snapshot(number))
    target = bench.destinations[0]
    bench.keep(stamps[0], target)
    pairs = "; ".join(bench.pipe(new, old, target) for old, new in itertools.pairwise(stamps))
    ways: dict[str, Way] = {"shell loop of pairs": lambda: bench.shell(pairs)}
    ways["shell loop, written out"] = lambda: bench.shell(f"{pairs}; sync -f {target}")
    return {**ways, "btrfs-backup": bench.ours(bench.home, target)}


def idle(bench: Bench) -> dict[str, Way]:
    """A thousand snapshots on both sides, and nothing to do."""
    stamps = [bench.snapshot(number) for number in range(1000)]
    target = bench.destinations[0]
    bench.ours(bench.home, target)()
    bench.kept.update(stamps)
    ways = {"python3 -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)}
    ways |= {"btrfs-backup": bench.ours(bench.home, target)}
    if shutil.which("btrbk"):
        config = bench.folder / "btrbk.conf"
        config.write_text(
            "timestamp_format long\nsnapshot_create no\nsnapshot_preserve_min all\ntarget_preserve_min all\n"
            f"volume {bench.pool}\n snapshot_dir home/snapshot\n subvolume home\n  target {target}\n"
        )
        ways["btrbk"] = lambda: subprocess.run(["btrbk", "-q", "-c", str(config), "run"], check=True)
    return ways


def compressed(bench: Bench) -> dict[str, Way]:
    """A source that is compressed on its filesystem, by half or so."""
    sh("mount", "-o", "remount,compress=zstd", bench.pool)
    half = [os.urandom(1 << 16) + bytes(1 << 16) for _ in range(16)]
    for number in range(20):
        with (bench.home / f"half{number}").open("wb") as file:
            for _ in range(bench.megabytes // 40):
                file.writelines(half)
    name = bench.snapshot()
    ways = {title: way for title, way in bench.plain(name).items() if title.startswith("shell pipe")}
    ways["btrfs-backup"] = bench.ours(bench.home, bench.destinations[0])
    ways["--no-compressed-data"] = bench.ours("--no-compressed-data", bench.home, bench.destinations[0])
    return ways


def over_ssh(bench: Bench) -> dict[str, Way]:
    server = Sshd(bench.folder / "sshd")
    bench.cleanup.callback(server.stop)
    bench.large_files()
    name = bench.snapshot()
    target = bench.destinations[0]
    login = " ".join(f"-o {option}" for option in server.options) + f" -p {server.port} {server.address}"
    ways: dict[str, Way] = {
        "shell pipe": lambda: bench.shell(
            f"btrfs -q send {bench.snapshots / name} | ssh {login} btrfs -q receive {target}"
        ),
        "btrfs-backup": bench.ours(*server.arguments(), bench.home, f"{server.url}{target}"),
    }
    for method in ("zstd", "lz4"):
        if shutil.which(method):
            options = (*server.arguments(), "--compress", method)
            ways[f"--compress {method}"] = bench.ours(*options, bench.home, f"{server.url}{target}")
    return ways


def trips(bench: Bench) -> dict[str, Way]:
    """Small transfers to and from a machine that is TRIP seconds away, forth and back."""
    server = Sshd(bench.folder / "sshd")
    bench.cleanup.callback(server.stop)
    proxy = Proxy(server.port, delay=TRIP / 2)
    bench.cleanup.callback(proxy.close)
    server.know(proxy.port)
    nas, usb, far = bench.destinations[0], bench.disk("d1"), f"ssh://{server.address}:{proxy.port}"
    login = [word for option in server.options for word in ("-o", option)] + ["-p", str(proxy.port), server.address]
    stamps = itertools.count()
    push = bench.ours(*server.arguments(), bench.home, f"{far}{nas}")
    pull = bench.ours(*server.arguments(), f"{far}{bench.home}", usb)

    def snapshots(count: int) -> Callable[[], None]:
        def take() -> None:
            for _ in range(count):
                (bench.home / "file").write_bytes(os.urandom(1000))
                bench.snapshot(next(stamps))

        return take

    def sent() -> None:
        push()
        pull()

    steps: dict[str, tuple[Callable[[], None], Way]] = {
        "ssh true": (sent, lambda: subprocess.run(["ssh", *login, "true"], check=True)),
        "nothing, pushed": (sent, push),
        "nothing, pulled": (sent, pull),
        "--status": (sent, bench.ours("--status", *server.arguments(), bench.home, f"{far}{nas}")),
        "an increment, pushed": (snapshots(1), push),
        "an increment, pulled": (snapshots(1), pull),
        "ten increments, pushed": (snapshots(10), push),
    }
    snapshots(1)()
    preparing = itertools.cycle([prepare for prepare, _ in steps.values()])
    bench.clean = lambda: next(preparing)()  # type: ignore[method-assign]
    return {name: way for name, (_, way) in steps.items()}


CASES: dict[str, Callable[[Bench], dict[str, Way]]] = {
    "full-large": full_large,
    "full-small": full_small,
    "increment-large": increment_large,
    "increment-small": increment_small,
    "several": several,
    "several-slow": several_slow,
    "slow-disk": slow_disk,
    "tiny-increments": tiny_increments,
    "idle": idle,
    "compressed": compressed,
    "ssh": over_ssh,
    "trips": trips,
}


if __name__ == "__main__":
    sys.exit(main())
