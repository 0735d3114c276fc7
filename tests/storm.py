"""Signals at random moments of runs: each one ends its run as promised, and the next run goes on.

python3 -m tests.storm [COUNT [SEED]]        (as root)
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.real.machine import Disk, fast_folder, random_file, sh, start_command

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST = 20.0  # seconds that a run may take to end
# Python says so when it drops what a handler raised.
_BAD = ("Traceback", "Exception ignored", "unexpected")


class Storm:
    """Runs of one source to two places, below FOLDER, each of them disturbed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.disks = [Disk(folder, folder / name, 256) for name in ("pool", "usb")]
        self.source = self.disks[0].path / "home"
        sh("btrfs", "subvolume", "create", self.source)
        random_file(self.source / "file", 2)
        self.options = ["-N", "3", "-n", "3", "-v", "debug"]
        self.places = [self.disks[1].path / "a", f"shell://cat > {self.disks[1].path}/stream"]
        self._calm()
        self.longest = self._calm() * 0.7  # the rest is starting Python

    def _calm(self) -> float:
        began = time.monotonic()
        run = start_command(*self.options, self.source, *self.places)
        _, err = run.communicate(timeout=_LONGEST)
        assert run.returncode == 0, err
        return time.monotonic() - began

    def disturb(self) -> tuple[bool, list[str]]:
        """One run; whether it was ended by a signal, and what was wrong."""
        run = start_command(*self.options, self.source, *self.places)
        assert run.stderr
        first = run.stderr.readline()
        time.sleep(self.random.uniform(0, self.longest))
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
        over = run.returncode == 0 and time.monotonic() - sent < 1
        if not over and run.returncode not in {*(128 + each for each in numbers), *(-each for each in numbers)}:
            wrong.append(f"status {run.returncode} after {numbers}")
        if f"{self.places[0]}: sent" not in err.replace("nothing sent", "sent"):
            wrong.append("no summary")
        return not over, [*wrong, err] if wrong else []

    def close(self) -> None:
        try:
            self._calm()
        finally:
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
