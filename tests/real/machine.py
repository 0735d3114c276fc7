"""What tests on a real machine need: throw-away btrfs filesystems, the command itself, and independent looks."""

import atexit
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

TOP = Path(__file__).resolve().parents[2]
OUTSTANDING, COMPLETED = ".outstanding_transfers", ".completed_transfers"  # in the folder of the snapshots
LOCK = ".btrfs-backup.lock"  # there, too
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"  # in front of a message
# A `btrfs` for make_program whose send breaks off.
FAILING_SEND = """[ "$1" = send ] || exec "$REAL" "$@"
"$REAL" "$@" | head -c 50000
echo 'ERROR: Input/output error' >&2
exit 1"""
SHORT = 120.0  # seconds that nothing in the tests takes

# The command is started many times, and to compile all of it each time would take longer than most of what it does.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") or sys.dont_write_bytecode:
    _compiled = tempfile.mkdtemp(prefix="btrfs-backup-compiled-")
    atexit.register(shutil.rmtree, _compiled)
    Path(_compiled).chmod(0o755)
    os.environ["PYTHONPYCACHEPREFIX"] = _compiled

# What is ignored here, as in a background job of a shell or under nohup, is ignored by the commands; what has a handler
# is not.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)


def sh(*argv: object, check: bool = True) -> str:
    """Run a command; its stdout."""
    done = subprocess.run(
        list(map(str, argv)), check=False, capture_output=True, timeout=SHORT, text=True, errors="surrogateescape"
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, argv))}: {done.stderr.strip()}")
    return done.stdout


def fast_folder() -> str | None:
    """Where disk images are made: in memory when it can hold them."""
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 2 << 30 else None


class Disk:
    """A btrfs filesystem in a file, mounted at `path`.

    solid: the file has all its space from the beginning to the end, so that writing takes no time for finding it, as
    on a disk.
    """

    def __init__(self, folder: Path, path: Path, megabytes: int, solid: bool = False) -> None:
        self.image = folder / f"{path.name}.img".replace("\n", "_")
        self.path = path
        with self.image.open("wb") as image:
            image.truncate(megabytes << 20)
            if solid:
                os.posix_fallocate(image.fileno(), 0, megabytes << 20)
        mixed = ["--mixed"] if megabytes < 200 else []
        sh("mkfs.btrfs", "-q", "-f", *(["--nodiscard"] if solid else []), *mixed, self.image)
        self.mount("nodiscard" if solid else "")

    def mount(self, options: str = "") -> None:
        self.path.mkdir(exist_ok=True)
        sh("mount", "-o", ",".join(filter(None, ["loop", options])), self.image, self.path)

    def unmount(self) -> None:
        for _ in range(50):
            if not os.path.ismount(self.path):
                return
            subprocess.run(["umount", str(self.path)], stderr=subprocess.DEVNULL, check=False)
            time.sleep(0.02 if not os.path.ismount(self.path) else 0.2)
        sh("umount", "-l", self.path)

    def fill(self) -> Path:
        """Fill it to the last byte; returns the file to delete for space."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
                        os.fsync(file.fileno())
        return filler


class Result:
    """How a run of the command ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, untimed(err)

    def __str__(self) -> str:
        return f"exit {self.status}\n--- stdout\n{self.out}--- stderr\n{self.err}"


@unittest.skipUnless(os.geteuid() == 0, "needs root, for loop-mounted btrfs")
@unittest.skipUnless(shutil.which("mkfs.btrfs"), "needs btrfs-progs")
class RealTest(unittest.TestCase):
    """Everything it makes is gone afterwards, also when the test fails."""

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        try:
            return super().run(result)
        finally:
            self.doCleanups()  # after Ctrl-C nobody else does

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="btrfs-backup-test-", dir=fast_folder()))
        self.addCleanup(shutil.rmtree, self.folder)

    def disk(self, name: str, megabytes: int = 256) -> Disk:
        disk = Disk(self.folder, self.folder / name, megabytes)
        self.addCleanup(disk.unmount)
        return disk

    def source(self, name: str = "pool", subvolume: str = "home") -> Path:
        """A subvolume with some files, on a disk of its own."""
        path = self.disk(name).path / subvolume
        return self.subvolume(path)

    def subvolume(self, path: Path) -> Path:
        sh("btrfs", "subvolume", "create", path)
        (path / "file").write_text("one")
        (path / "folder").mkdir()
        (path / "folder" / "größe ' \"").write_bytes(os.urandom(50_000))
        (path / "link").symlink_to("file")
        return path

    def start(self, *arguments: object, env: dict[str, str] | None = None, **more: object) -> "subprocess.Popen[str]":
        """Start the command; it is killed at the end of the test when it still runs."""
        process = start_command(*arguments, env=env, **more)
        self.addCleanup(_end, process)
        return process

    def run_command(self, *arguments: object, env: dict[str, str] | None = None, **more: object) -> Result:
        process = self.start(*arguments, env=env, **more)
        out, err = process.communicate(timeout=SHORT)
        result = Result(process.returncode, out, err or "")
        self.assertNotIn("Traceback", err)
        return result

    def backup(self, *arguments: object, status: int = 0, **more: object) -> Result:
        """Run the command and check its exit status."""
        result = self.run_command(*arguments, **more)  # type: ignore[arg-type]
        self.assertEqual(result.status, status, result)
        return result

    def assert_same(self, backup: Path, snapshot: Path) -> None:
        """Both hold the same tree, except for the stubs of nested subvolumes."""
        self.assertEqual(tree(backup), tree(snapshot))

    def assert_complete(self, backups: Path, snapshots: Path, names: list[str]) -> None:
        """BACKUPS holds just NAMES, each one a complete backup of the snapshot, with equal content."""
        self.assertEqual(sorted(entry.name for entry in backups.iterdir()), names)
        for name in names:
            backup, snapshot = show(backups / name), show(snapshots / name)
            self.assertEqual(backup["Flags"], "readonly")
            expected = snapshot["Received UUID"] if snapshot["Received UUID"] != "-" else snapshot["UUID"]
            self.assertEqual(backup["Received UUID"], expected)
            self.assert_same(backups / name, snapshots / name)


def untimed(messages: str) -> str:
    """MESSAGES without the time at the beginning of each line."""
    return re.sub(rf"^{TIME} ", "", messages, flags=re.MULTILINE)


def make_program(folder: Path, name: str, script: str) -> Path:
    """Make the program NAME of that shell SCRIPT in FOLDER, in which the real one is "$REAL"; returns FOLDER."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\nREAL={quote(str(shutil.which(name)))}\n{script}\n")
    path.chmod(0o755)
    return folder


def lying_btrfs(folder: Path, lies: str) -> Path:
    """Make a program `btrfs` that lies in FOLDER, which is to come first in PATH; returns FOLDER.

    LIES are branches of a `case` over the arguments in one word. Where they do not exit the real program goes on;
    it is "$REAL" there, "$last" is the last argument, and "$here" is a folder to remember things in.
    """
    here = f"here={quote(str(folder))}\nfor last; do :; done"
    return make_program(folder, "btrfs", f'{here}\ncase "$*" in\n{lies}\nesac\nexec "$REAL" "$@"')


def path_with(folder: Path) -> dict[str, str]:
    """An environment in which FOLDER comes first in PATH."""
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def with_program(folder: Path, name: str, script: str) -> dict[str, str]:
    """An environment in which the program NAME is that shell SCRIPT; see `make_program`."""
    return path_with(make_program(folder, name, script))


def start_command(
    *arguments: object, env: dict[str, str] | None = None, module: str = "btrfs_backup", **more: object
) -> "subprocess.Popen[str]":
    """Start the command, or what is in MODULE in its place, its output in pipes unless MORE says otherwise.

    The caller has to see that it ends.
    """
    pipes: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # -S: nothing but the standard library is needed, and to look for more takes time.
    return subprocess.Popen(
        [sys.executable, "-S", "-m", module, *map(str, arguments)],
        text=True,
        errors="surrogateescape",
        env={**os.environ, "PYTHONPATH": str(TOP), **(env or {})},
        **{**pipes, **more},  # type: ignore[call-overload]
    )


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


def show(path: Path) -> dict[str, str]:
    """`btrfs subvolume show`, field by field."""
    lines = sh("btrfs", "subvolume", "show", path).splitlines()[1:]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def is_readonly(path: Path) -> bool:
    return show(path)["Flags"] == "readonly"


def on_record(folder: Path, name: str = OUTSTANDING) -> dict[str, Any]:
    """What is in a state file in that FOLDER of snapshots."""
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def names(folder: Path) -> list[str]:
    """The entries of FOLDER that are no dot files."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def staged(folder: Path) -> list[Path]:
    """What is in the stages of FOLDER: transfers that are not finished."""
    return sorted(folder.glob(".*.receiving*/*/*"))


def being_received(folder: Path) -> list[str]:
    """The names of the backups that have a stage in FOLDER."""
    found = (re.fullmatch(r"\.(.+)\.receiving(\.\d+)?", each.name) for each in sorted(folder.glob(".*.receiving*")))
    return [match[1] for match in found if match]


def stage(folder: Path, name: str) -> Path:
    """Make what a transfer of NAME to FOLDER leaves that is cut off; the subvolume in its stage."""
    attempt = folder / f".{name}.receiving" / "host-1-0123abcd"
    attempt.mkdir(parents=True, mode=0o700)
    sh("btrfs", "subvolume", "create", attempt / name)
    return attempt / name


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """Every path below TOP with its type, mode, owner, modification time, and content."""
    found = {}
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_ino not in (2, 256)]
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            when = None if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            found[os.path.relpath(path, top)] = (status.st_mode, status.st_uid, status.st_gid, when, content)
    return found


def shares(one: Path, other: Path) -> bool:
    """Whether a file in ONE has its data where the same file in OTHER has it: one was received upon the other."""
    common = [path.relative_to(one) for path in one.rglob("*") if path.is_file() and not path.is_symlink()]
    large = [path for path in common if (one / path).stat().st_size > 8192 and (other / path).is_file()]
    return any(extent(one / path) == extent(other / path) for path in large)


def extent(path: Path) -> bytes:
    """Where the first extent of the file at PATH is on its filesystem (FS_IOC_FIEMAP)."""
    request = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, 1, 0, 1, 0) + bytes(56))
    with path.open("rb") as file:
        fcntl.ioctl(file, 0xC020660B, request)
    return bytes(request[40:48])


def children_of(pid: int) -> list[int]:
    """Process ids of the children of PID, without the one that guards the others."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(word) for word in listed if b"while read" not in Path(f"/proc/{word}/cmdline").read_bytes()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Process ids of the children of PID, and of theirs."""
    return [each for child in children_of(pid) for each in (child, *descendants(child))]


def child_running(pid: int, *words: str) -> int | None:
    """The child of PID whose command line begins with WORDS, if there is one."""
    for child in children_of(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if tuple(command[: len(words)]) == words:
            return child
    return None


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended. One that has lost its parent may wait long to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> Any:
    """Wait until CONDITION returns something true; returns that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.002)
    raise AssertionError(f"{condition} did not come true within {seconds} s")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def random_file(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
