"""A guided run on throw-away btrfs filesystems, for a newcomer: `sudo python3 -m tests.demo [FOLDER]`."""

import argparse
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from tests.real.machine import (
    OUTSTANDING,
    Disk,
    child_running,
    fast_folder,
    kill,
    names,
    sh,
    shares,
    show,
    staged,
    start_command,
    tree,
    untimed,
    wait_for,
)

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
DISK_SIZE = 1500  # MB; the images are sparse, about half of one is used
FILM_SIZE = 150  # MB; long enough under way to be cut off
MOST = 300 << 20  # bytes of a folder that is copied
CUT_OFF_AT = 20 << 20  # bytes received

# Relative to the temporary folder, which is the working folder of the demo.
HOME = Path("laptop/home")
SNAPSHOTS = HOME / "snapshot"
BACKUPS = Path("usb/backups")
OTHERS = Path("disk2/backups")
HELP = """\
Shows btrfs-backup at work on three small btrfs filesystems, which are made in a temporary folder and deleted at the
end: first backups, two disks, a run that is killed, what is deleted and kept, --status, and a restore. It takes about
20 seconds. Nothing else on this machine is touched.
"""


def main() -> int:
    """Set up, show every step, clean up; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.demo", description=HELP)
    parser.add_argument("folder", nargs="?", help="a folder of yours whose files are copied and used as the data")
    given = parser.parse_args().folder
    own = Path(given).resolve() if given else None
    if missing := what_is_missing() or (what_is_wrong(own) if own else ""):
        print(missing, file=sys.stderr)
        return 1
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    for each in SIGNALS:
        signal.signal(each, leave)
    checks = Checks()
    try:
        with ExitStack() as cleanup:
            set_up(cleanup)
            make_a_subvolume(own)
            for step in (
                back_up,
                back_up_a_change,
                add_a_disk,
                cut_off_a_backup,
                heal,
                compare,
                prune,
                look,
                restore,
            ):
                step(checks)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        # A command that had to succeed did not, or something that was waited for did not come.
        checks.hold((False, f"the demo could not go on: {error}"))
    return checks.summary()


def what_is_missing() -> str:
    """What a user has to do before the demo can run; empty when nothing."""
    if os.geteuid() != 0:
        return "The demo mounts two small btrfs filesystems, which needs root: sudo python3 -m tests.demo"
    absent = [program for program in ("btrfs", "mkfs.btrfs") if not shutil.which(program)]
    if absent:
        return f"The demo needs {' and '.join(absent)}: install btrfs-progs (on openSUSE: btrfsprogs)."
    return ""


def what_is_wrong(own: Path) -> str:
    """Why the folder of a user cannot be used; empty when it can."""
    if not own.is_dir():
        return f"{own} is no folder."
    size = sum(path.lstat().st_size for path in own.rglob("*"))
    return (
        f"{own} is too large for the small disks of the demo: {size} bytes, of {MOST} at most." if size > MOST else ""
    )


def leave(signum: int, frame: FrameType | None) -> None:
    """End the demo by way of all clean-up, which further signals do not disturb."""
    ignore_signals()
    print(f"\nEnded by {signal.Signals(signum).name}.")
    raise SystemExit(128 + signum)


def ignore_signals() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


# --- the stage -------------------------------------------------------------------------------------------------------


def set_up(cleanup: ExitStack) -> None:
    """Make the filesystems in a temporary folder and go there; CLEANUP gets what undoes it."""
    with undisturbed():
        folder = Path(tempfile.mkdtemp(prefix="demo-", dir=fast_folder()))
        cleanup.callback(shutil.rmtree, folder)
        for name in ("laptop", "usb", "disk2"):
            cleanup.callback(Disk(folder, folder / name, DISK_SIZE).unmount)
        cleanup.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        cleanup.callback(ignore_signals)
    tell("""
        This demo backs up a subvolume on a small btrfs filesystem, "laptop", to two others, "usb" and "disk2". They
        are made for it and deleted at its end. Lines that begin with $ are commands, run as they are shown.""")
    say_command(f"cd {folder}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals wait until the end of the scope, so that nothing is made without its clean-up."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Checks:
    """What the demo has checked on the way."""

    def __init__(self) -> None:
        self.held = 0
        self.failed: list[str] = []

    def hold(self, *claims: tuple[bool, str]) -> None:
        """Say of each claim whether it holds."""
        print()
        for holds, what in claims:
            print(f"{'Checked' if holds else 'FAILED'}: {what}")
            self.held += holds
            self.failed += [] if holds else [what]

    def summary(self) -> int:
        """Say what the checks came to, after the clean-up; returns the exit status."""
        print(f"\nEverything is cleaned up. {self.held} checks held, {len(self.failed)} failed.")
        for what in self.failed:
            print(f"FAILED: {what}")
        return 1 if self.failed else 0


# --- what is shown ---------------------------------------------------------------------------------------------------


def title(text: str) -> None:
    print(f"\n\n=== {text} ===")


def tell(text: str) -> None:
    """Print a paragraph."""
    print()
    for line in text.strip().splitlines():
        print(line.strip())


def say_command(command: str) -> None:
    print(f"\n    $ {command}")


def shell(command: str) -> None:
    """Run COMMAND in a shell, showing it and what it prints."""
    say_command(command)
    for line in sh("sh", "-c", command).splitlines():
        print(f"    {line}")


@contextmanager
def program(*arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """Run btrfs-backup in this scope, showing the command, all that it prints, and how it ended."""
    say_command(" ".join(map(str, ("btrfs-backup", *arguments))))
    with start_command(*arguments, stderr=subprocess.STDOUT) as process:
        try:
            yield process
            assert process.stdout
            for line in process.stdout:
                print(f"    {untimed(line)}", end="")
        finally:
            process.kill()
    status = process.returncode
    print(
        f"    (exit status {status})"
        if status >= 0
        else f"    ({signal.strsignal(-status)}: exit status {128 - status})"
    )


def run_program(*arguments: object) -> int:
    """Run btrfs-backup to its end; its exit status."""
    with program(*arguments) as process:
        pass
    return process.returncode


# --- the steps -------------------------------------------------------------------------------------------------------


def make_a_subvolume(own: Path | None) -> None:
    """The data that is to be backed up: with what is in a folder of the user's OWN."""
    title("1. Something to back up")
    tell("""
        What btrfs-backup backs up is a subvolume: a folder that btrfs can take snapshots of.""")
    shell(f"btrfs subvolume create {HOME}")
    shell(f"echo 'Dear diary' > {HOME}/diary.txt")
    shell(f"head -c 5000000 /dev/urandom > {HOME}/photo.jpg")
    if own:
        shell(f"cp -a {shlex.quote(str(own))}/. {HOME}/")


def back_up(checks: Checks) -> None:
    """The first backup, in full."""
    title("2. The first backup")
    tell("""
        The program takes a read-only snapshot and sends it to the backup disk: in full, because it is the first.
        The name of a snapshot and its backup is the time it was taken.""")
    status = run_program(HOME, BACKUPS)
    shell(f"ls {SNAPSHOTS} {BACKUPS}")
    checks.hold((status == 0 and len(names(BACKUPS)) == 1, "it exited with 0, and one backup is there."))


def back_up_a_change(checks: Checks) -> None:
    """The second backup, incremental."""
    title("3. A change, and an incremental backup")
    tell("""
        Only what changed since the last backup is sent. Yet the new backup is whole: it shows every file.""")
    shell(f"echo 'It works' >> {HOME}/diary.txt")
    status = run_program(HOME, BACKUPS)
    shell(f"ls {BACKUPS}/*")
    tell("""
        btrfs itself keeps account: on the backup disk, both have the data of the photo in common.""")
    first, second = (BACKUPS / name for name in names(BACKUPS))
    shell(f"btrfs filesystem du -s {first} {second}")
    checks.hold((status == 0 and shares(first, second), "the second backup shares its data with the first one."))


def add_a_disk(checks: Checks) -> None:
    """A second destination, which gets the earlier snapshots, too."""
    title("4. A second disk")
    tell("""
        A destination that joins later gets the earlier snapshots, too. Each one gets what is missing there.""")
    shell(f"echo 'Two disks are better' >> {HOME}/diary.txt")
    status = run_program(HOME, BACKUPS, OTHERS)
    taken = names(SNAPSHOTS)
    same = names(BACKUPS) == taken == names(OTHERS)
    checks.hold((status == 0 and same and len(taken) == 3, "it exited with 0, and both disks have all three."))


def cut_off_a_backup(checks: Checks) -> None:
    """A backup that is killed while btrfs receive writes."""
    title("5. A backup that is cut off")
    tell(f"""
        A film of {FILM_SIZE} MB comes, and when some of it has been written to the backup disk, the program is killed
        (SIGKILL), which is as sudden as a power cut.""")
    shell(f"head -c {FILM_SIZE}M /dev/urandom > {HOME}/film.mkv")
    with program(HOME, BACKUPS) as process:
        kill_when_receiving(process)
    tell("""
        Before it began to send, the program had recorded what is outstanding, and where. What is on record is not
        deleted: the snapshot, and the one that it builds upon.""")
    shell(f"cat {SNAPSHOTS}/{OUTSTANDING}")
    name = names(SNAPSHOTS)[-1]
    tell("""
        What has arrived is in a folder of its own, whose name begins with a dot. A backup gets its name only when it
        is complete:""")
    shell(f"ls -A {BACKUPS}")
    shown = [show(part) for part in staged(BACKUPS) if not part.name.startswith("written-")]
    checks.hold(
        (process.returncode == -signal.SIGKILL, "the program was killed in the middle of its work."),
        (name not in names(BACKUPS), f"there is no backup {name}."),
        (any(each["Received UUID"] == "-" for each in shown), "what is there is only a part of one."),
    )


def kill_when_receiving(process: "subprocess.Popen[str]") -> None:
    """Kill the program when its `btrfs receive` has got some data, and wait until that has ended, too."""
    receiver = wait_for(lambda: child_running(process.pid, "btrfs", "receive") or process.poll() is not None)
    assert isinstance(receiver, int) and process.poll() is None, "it ended before it began to send"
    ending = os.pidfd_open(receiver)
    try:
        wait_for(lambda: received(receiver) > CUT_OFF_AT or process.poll() is not None)
        kill(process.pid)
        assert select.select([ending], [], [], 10)[0], "btrfs receive goes on without the program"
    finally:
        os.close(ending)


def received(receiver: int) -> int:
    """How many bytes a process has read."""
    try:
        counters = Path(f"/proc/{receiver}/io").read_text()
    except OSError:
        return 0
    return int(counters.split()[1])  # "rchar: N" comes first


def heal(checks: Checks) -> None:
    """The next ordinary run sends what the one that was killed did not."""
    title("6. The next run repairs it")
    tell("""
        There is nothing to repair by hand. The same command, as on any other day, sends that snapshot, and then the
        one that it has just taken. Of a larger transfer it would go on with what has arrived; of this one it deletes
        the part.""")
    status = run_program(HOME, BACKUPS, OTHERS)
    shell(f"cat {SNAPSHOTS}/{OUTSTANDING}")
    settled = sh("cat", SNAPSHOTS / OUTSTANDING).strip() == "{}"
    checks.hold(
        (status == 0 and settled, "it exited with 0, and nothing is outstanding."),
        (not list(BACKUPS.glob(".*")), "nothing is left of the part."),
    )


def compare(checks: Checks) -> None:
    """Every backup against its snapshot, by reading all files."""
    title("7. Are they really the same?")
    tell("""
        The demo reads every backup and its snapshot: names, kinds, modes, owners, times, and the content of each file.
        It also asks btrfs whether the backup's Received UUID is the snapshot's UUID.""")
    taken = names(SNAPSHOTS)
    checks.hold(
        (len(taken) == 5 and names(BACKUPS) == taken, "each of the five snapshots has its backup."),
        *(comparison(SNAPSHOTS / name, BACKUPS / name) for name in taken),
    )


def comparison(snapshot: Path, backup: Path) -> tuple[bool, str]:
    """Whether BACKUP is a complete backup of SNAPSHOT, to btrfs and to a reader of its files."""
    expected, seen = tree(snapshot), show(backup)
    complete = (seen["Flags"], seen["Received UUID"]) == ("readonly", show(snapshot)["UUID"])
    return (
        complete and tree(backup) == expected,
        f"{backup.name} is complete, and its {len(expected)} files and folders are those of the snapshot.",
    )


def prune(checks: Checks) -> None:
    """What -N and -n delete, first in a dry run."""
    title("8. What to keep")
    tell("""
        -N says how many snapshots to keep, -n how many backups. --dry-run tells what would be done, and why.""")
    options = ("-N", "2", "-n", "3")
    before = names(BACKUPS)
    run_program("--dry-run", *options, HOME, BACKUPS)
    kept = names(BACKUPS) == before
    run_program(*options, HOME, BACKUPS)
    checks.hold(
        (kept, "the dry run deleted nothing."),
        (len(names(BACKUPS)) == 3, "three backups are left on the first disk."),
    )


def look(checks: Checks) -> None:
    """The table of what is where."""
    title("9. What is where?")
    tell("""
        The second disk had no part in the last run. So it lacks a snapshot, and one is kept for it at the source, or
        its next backup would be a full one.""")
    status = run_program("--status", "-N", "2", "-n", "3", HOME)
    checks.hold((status == 0, "it exited with 0."))


def restore(checks: Checks) -> None:
    """The subvolume is lost, and made again of its newest backup."""
    title("10. The worst day: all is lost")
    wanted = {path: about for path, about in tree(HOME).items() if not path.startswith("snapshot")}
    shell(f"btrfs subvolume delete {SNAPSHOTS}/2* {HOME}")
    tell("""
        A single file could be copied from a backup with cp. This restores everything, from the newest backup:""")
    status = run_program("--restore", BACKUPS, HOME)
    restored = {path: about for path, about in tree(HOME).items() if not path.startswith("snapshot")}
    tell("""
        The next backup sends only what has changed since:""")
    run_program(HOME, BACKUPS)
    first, second = (BACKUPS / name for name in names(BACKUPS)[-2:])
    checks.hold(
        (status == 0 and restored == wanted, f"all {len(wanted)} files and folders are there again."),
        (shares(first, second), "the backup after that shares its data with the one before."),
    )


if __name__ == "__main__":
    sys.exit(main())
