"""Lets each system call of the program itself fail in turn: whatever the kernel refuses, a run ends as promised.

python3 -m tests.inject [COUNT [SEED [KIND ...]]]        (as root, with strace)

The runs are of all kinds in turn: backups, here and over ssh, restores, comparisons, looks, and what a server does.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from btrfs_backup.system import btrfs, ssh
from tests.real.machine import TOP, Disk, fast_folder, is_readonly, names, random_file, sh
from tests.real.sshd import Sshd

Case = tuple[str, str, str, int]  # kind of run, call, error, and which of the calls it meets

STRACE = shutil.which("strace")
# Each call, and errors that it may meet. What is not listed cannot fail, or Python itself does not survive it.
_ERRORS = {
    "openat": ("EMFILE", "EIO", "EACCES"),
    "read": ("EIO",),
    "write": ("ENOSPC", "EIO"),
    "newfstatat": ("EIO", "EACCES"),
    "lseek": ("EIO",),
    "ioctl": ("EIO", "ENOTTY"),
    "fcntl": ("EINVAL",),
    "pipe2": ("EMFILE", "ENFILE"),
    "poll": ("ENOMEM",),
    "vfork": ("EAGAIN", "ENOMEM"),
    "clone": ("EAGAIN",),
    "clone3": ("EAGAIN",),
    "pidfd_open": ("ENOSYS", "EPERM", "EMFILE"),
    "memfd_create": ("ENOSYS", "EPERM"),
    "getdents64": ("EIO",),
    "getcwd": ("ENOENT",),
    "flock": ("ENOLCK", "EINTR"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "EROFS"),
    "unlink": ("EACCES", "EIO"),
    "prlimit64": ("EPERM",),
    "dup2": ("EMFILE",),
}
_BEGIN = "/where the program begins"
_CODE = f"import os, btrfs_backup.__main__ as m; os.access({_BEGIN!r}, 0); m.run()"
_LONGEST = 40.0  # seconds that a run may take
_BAD = ("Traceback", "Exception ignored", "Fatal Python error")


class Injector:
    """Runs of one source to one place, below FOLDER, in each of which one system call fails."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.trace = folder / "trace"
        self.disks = [Disk(folder, folder / name, 256) for name in ("pool", "usb")]
        pool, usb = (disk.path for disk in self.disks)
        self.source, self.usb, self.new = pool / "home", usb / "backups", pool / "new"
        sh("btrfs", "subvolume", "create", self.source)
        random_file(self.source / "file", 1)
        self.server = Sshd(folder / "sshd")
        here, there = (self.source, self.usb), [f"{self.server.url}{each}" for each in (self.source, self.usb)]
        keep, far = ("-N", "2", "-n", "2"), self.server.arguments()
        # Of each kind: the arguments, and whether a run that ended well has done what it should.
        self.kinds: dict[str, tuple[list[object], Callable[[], bool]]] = {
            "backup": ([*keep, *here], self._is_backed_up),
            "push": ([*keep, *far, self.source, there[1]], self._is_backed_up),
            "pull": ([*keep, *far, there[0], self.usb], self._is_backed_up),
            "shell": ([*keep, self.source, f"shell://cat > {usb}/$BTRFS_BACKUP_SNAPSHOT.stream"], lambda: True),
            "restore": (["--restore", self.usb, self.new], (self.new / "file").exists),
            "verify": (["--verify", *here], lambda: True),
            "verify there": (["--verify", *far, self.source, there[1]], lambda: True),
            "status": (["--status", *here], lambda: True),
            "dry run": (["--dry-run", *here], lambda: True),
            "json": (["--json", *keep, *here], self._is_backed_up),
            "serve list": (["--serve", self.usb], lambda: True),
            "serve receive": (["--serve", self.usb], self._is_received),
        }
        for _ in range(2):
            self._run("backup")
        self.stream = folder / "stream"
        sh("btrfs", "send", "-f", self.stream, self.source / "snapshot" / names(self.source / "snapshot")[-1])

    def _run(self, kind: str, *options: str) -> tuple[int | None, str]:
        """Status, None when it does not end, and messages of a run of that KIND under strace with OPTIONS."""
        self._clear()
        place = self.usb / ".20200101-000000.receiving"
        attempt = place / "host-1-0123abcd"
        attempt.mkdir(parents=True)
        served = btrfs.list_children(str(self.usb)) if kind == "serve list" else btrfs.receive(str(attempt), False)
        command = [sys.executable, "-S", "-c", _CODE, *map(str, self.kinds[kind][0])]
        with open(self.stream if kind == "serve receive" else os.devnull, "rb") as given:
            run = subprocess.Popen(
                [str(STRACE), "-qq", "-o", str(self.trace), *options, *command],
                env={**os.environ, "PYTHONPATH": str(TOP), "SSH_ORIGINAL_COMMAND": ssh.line(served, sudo=False)},
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        try:
            return run.wait(_LONGEST) and run.returncode, run.communicate(timeout=1)[0]
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return None, run.communicate()[0]

    def _clear(self) -> None:
        """Nothing is left of the run before, but what is backed up."""
        staged = self.usb.glob(".20200101-*/*/*")
        for each in (*staged, *self.new.glob("snapshot/2*"), *self.new.parent.glob("new")):
            sh("btrfs", "subvolume", "delete", each)
        for stage in self.usb.glob(".20200101-*"):
            shutil.rmtree(stage)

    def cases(self, count: int, kinds: Sequence[str] = ()) -> list[Case]:
        """COUNT cases, by chance, of KINDS in turn; of all when none is given."""
        found = []
        for kind in kinds or self.kinds:
            status, said = self._run(kind, "-e", f"trace=access,{','.join(map('?{}'.format, _ERRORS))}")
            assert status == 0, said
            start, _, rest = self.trace.read_text(errors="replace").partition(_BEGIN)
            before, calls = (Counter(re.findall(r"^(\w+)\(", text, re.MULTILINE)) for text in (start, rest))
            all_of_it = [
                (kind, call, error, before[call] + number)
                for call, errors in _ERRORS.items()
                for error in errors
                for number in range(1, calls[call] + 1)
            ]
            self.random.shuffle(all_of_it)
            found.append(all_of_it)
        return list(islice((case for some in zip(*found, strict=False) for case in some), count))

    def fail(self, kind: str, call: str, error: str, number: int) -> list[str]:
        """What was wrong with a run of that KIND in which that CALL failed."""
        status, said = self._run(kind, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}")
        wrong = [words for words in _BAD if words in said]
        if status not in (0, 1, 3, 10):
            wrong.append(f"status {status}" if status is not None else "it did not end")
        if status in (1, 3, 10) and "error: " not in said.lower():
            wrong.append(f"status {status} without a word")
        if status == 0 and not self.kinds[kind][1]():
            wrong.append("status 0, and it has not done what it should")
        return [*wrong, said] if wrong else []

    def _is_backed_up(self) -> bool:
        newest = names(self.source / "snapshot")[-1]
        return newest in names(self.usb) and is_readonly(self.usb / newest)

    def _is_received(self) -> bool:
        return any(map(is_readonly, self.usb.glob(".20200101-*/*/*")))

    def close(self) -> None:
        """The next run heals what is left."""
        try:
            status, said = self._run("backup")
            assert status == 0, said
            assert self._is_backed_up()
            self._clear()
        finally:
            self.server.stop()
            for disk in self.disks:
                disk.unmount()


def main(count: int, seed: int, kinds: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="btrfs-backup-inject-", dir=fast_folder()) as folder:
        injector = Injector(Path(folder), seed)
        bad: Counter[str] = Counter()
        try:
            cases = injector.cases(count, kinds)
            for case in cases:
                if wrong := injector.fail(*case):
                    bad[case[0]] += 1
                    print(f"--- {case}, seed {seed}:", *wrong, sep="\n", flush=True)
        finally:
            injector.close()
    print(*(f"{kind}: {number}" for kind, number in Counter(case[0] for case in cases).items()), sep=", ")
    print(f"{len(cases)} calls failed, {bad.total()} runs ended otherwise than promised")
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [int(word) for word in words[:2]]
    sys.exit(main(numbers[0] if numbers else 500, numbers[1] if len(numbers) > 1 else int(time.time()), words[2:]))
