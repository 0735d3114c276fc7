"""Lets each system call of the program itself fail in turn: whatever the kernel refuses, a run ends as promised.

python3 -m tests.inject [COUNT [SEED]]        (as root, with strace)
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
from pathlib import Path

from tests.real.machine import TOP, Disk, fast_folder, is_readonly, names, random_file, sh

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
        self.source, self.usb = self.disks[0].path / "home", self.disks[1].path / "backups"
        sh("btrfs", "subvolume", "create", self.source)
        random_file(self.source / "file", 1)
        self.before: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        for _ in range(2):
            self._count()

    def _run(self, *options: str) -> tuple[int | None, str]:
        """Status, None when it does not end, and messages of a run under strace with OPTIONS."""
        command = [sys.executable, "-S", "-c", _CODE, "-N", "2", "-n", "2", str(self.source), str(self.usb)]
        run = subprocess.Popen(
            [str(STRACE), "-qq", "-o", str(self.trace), *options, *command],
            env={**os.environ, "PYTHONPATH": str(TOP)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            return run.wait(_LONGEST) and run.returncode, run.communicate(timeout=1)[0]
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return None, run.communicate()[0]

    def _count(self) -> None:
        status, said = self._run("-e", f"trace=access,{','.join(map('?{}'.format, _ERRORS))}")
        assert status == 0, said
        start, _, rest = self.trace.read_text(errors="replace").partition(_BEGIN)
        self.before, self.calls = (Counter(re.findall(r"^(\w+)\(", text, re.MULTILINE)) for text in (start, rest))

    def cases(self) -> list[tuple[str, str, int]]:
        """Call, error, and which of the calls it meets; in an order of chance."""
        found = [
            (call, error, self.before[call] + number)
            for call, errors in _ERRORS.items()
            for error in errors
            for number in range(1, self.calls[call] + 1)
        ]
        self.random.shuffle(found)
        return found

    def fail(self, call: str, error: str, number: int) -> list[str]:
        """What was wrong with a run in which that CALL failed."""
        status, said = self._run("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}")
        wrong = [words for words in _BAD if words in said]
        if status not in (0, 1, 3, 10):
            wrong.append(f"status {status}" if status is not None else "it did not end")
        if status in (1, 3, 10) and "error: " not in said:
            wrong.append(f"status {status} without a word")
        if status == 0 and not self._is_good():
            wrong.append("status 0, and the newest backup is not there")
        return [*wrong, said] if wrong else []

    def _is_good(self) -> bool:
        newest = names(self.source / "snapshot")[-1]
        return newest in names(self.usb) and is_readonly(self.usb / newest)

    def close(self) -> None:
        """The next run heals what is left."""
        try:
            self._count()
            assert self._is_good()
        finally:
            for disk in self.disks:
                disk.unmount()


def main(count: int, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="btrfs-backup-inject-", dir=fast_folder()) as folder:
        injector = Injector(Path(folder), seed)
        bad = 0
        cases = injector.cases()[:count]
        try:
            for case in cases:
                if wrong := injector.fail(*case):
                    bad += 1
                    print(f"--- {case}, seed {seed}:", *wrong, sep="\n", flush=True)
        finally:
            injector.close()
    print(f"{len(cases)} calls failed, {bad} runs ended otherwise than promised")
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    sys.exit(main(words[0] if words else 500, words[1] if len(words) > 1 else int(time.time())))
