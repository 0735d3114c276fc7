"""Signals at random moments of runs of all kinds: each one ends its run as promised, and the next run goes on.

python3 -m tests.storm [COUNT [SEED]]        (as root)
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.real.machine import Disk, fast_folder, random_file, sh, start_command
from tests.real.sshd import Sshd

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST = 30.0  # seconds that a run may take to end
# Python says so when it drops what a handler raised.
_BAD = ("Traceback", "Exception ignored", "unforeseen")


class Storm:
    """Runs of all kinds, of one source to some places, below FOLDER, each of them disturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.disks = [Disk(folder, folder / name, 256) for name in ("pool", "usb")]
        pool, usb = (disk.path for disk in self.disks)
        source, here, self.new = pool / "home", usb / "a", pool / "new"
        sh("btrfs", "subvolume", "create", source)
        random_file(source / "file", 2)
        self.server = Sshd(folder / "sshd")
        far, there = self.server.arguments(), f"{self.server.url}{usb}"
        keep = ("-N", "3", "-n", "3")
        # Of each kind: arguments, and words of the summary.
        self.kinds: list[tuple[list[object], str]] = [
            ([*keep, source, here, f"shell://cat > {usb}/$BTRFS_BACKUP_PARENT.stream"], f"{here}: sent"),
            ([*keep, *far, source, f"{there}/b"], f"{there}/b: sent"),
            ([*keep, *far, f"{self.server.url}{source}", usb / "c"], f"{usb}/c: sent"),
            (["--verify=all", source, here], ""),
            (["--verify", *far, source, f"{there}/b"], ""),
            (["--restore", here, self.new], ""),
            (["--status", *far, source, here, f"{there}/b"], ""),
            (["--dry-run", *far, source, here, f"{there}/b"], ""),
        ]
        for kind in self.kinds:
            self._calm(kind[0])
        # The rest is starting Python.
        self.longest = [self._calm(kind[0]) * 0.7 for kind in self.kinds]

    def _start(self, arguments: Sequence[object]) -> "subprocess.Popen[str]":
        for each in (*self.new.glob("snapshot/2*"), *self.new.parent.glob("new")):
            sh("btrfs", "subvolume", "delete", each)
        return start_command("-v", "debug", *arguments)

    def _calm(self, arguments: Sequence[object]) -> float:
        began = time.monotonic()
        run = self._start(arguments)
        _, err = run.communicate(timeout=_LONGEST)
        assert run.returncode == 0, err
        return time.monotonic() - began

    def disturb(self) -> tuple[bool, list[str]]:
        """One run; whether it was ended by a signal, and what was wrong."""
        (arguments, summary), longest = self.random.choice(list(zip(self.kinds, self.longest, strict=True)))
        run = self._start(arguments)
        assert run.stderr
        first = run.stderr.readline()
        time.sleep(self.random.uniform(0, longest))
        numbers = self.random.choices(_SIGNALS, k=self.random.choice((1, 1, 2, 6)))
        for number in numbers:
            run.send_signal(number)
            time.sleep(self.random.choice((0, 0, 0.001, 0.02)))
        sent = time.monotonic()
        try:
            _, err = run.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            run.kill()
            return True, [f"{numbers} did not end it", *run.communicate()]
        err = first + err
        wrong = [words for words in _BAD if words in err]
        # When all is done, a signal may still end the process as it ends any.
        # What an earlier one has left there, a comparison tells, and ends with 10.
        over = run.returncode in ((0,) if summary else (0, 10)) and time.monotonic() - sent < 1
        if not over and run.returncode not in {*(128 + each for each in numbers), *(-each for each in numbers)}:
            wrong.append(f"status {run.returncode} after {numbers}")
        if summary not in err.replace("nothing sent", "sent"):
            wrong.append("no summary")
        return not over, [" ".join(map(str, arguments)), *wrong, err] if wrong else []

    def close(self) -> None:
        try:
            for arguments, _ in self.kinds:
                self._calm(arguments)
        finally:
            self.server.stop()
            for disk in self.disks:
                disk.unmount()


def main(count: int, seed: int) -> int:
    with tempfile.TemporaryDirectory(prefix="btrfs-backup-storm-", dir=fast_folder()) as folder:
        storm = Storm(Path(folder), seed)
        ended = bad = 0
        try:
            for number in range(count):
                by_signal, wrong = storm.disturb()
                ended += by_signal
                if wrong:
                    bad += 1
                    print(f"--- run {number}, seed {seed}:", *wrong, sep="\n")
        finally:
            storm.close()
    print(f"{count} runs, {ended} ended by signals, {bad} of them not as promised")
    return 1 if bad or not ended else 0


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    sys.exit(main(words[0] if words else 1000, words[1] if len(words) > 1 else int(time.time())))
