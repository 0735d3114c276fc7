"""Where commands run and state files live: this machine."""

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.system import process
from btrfs_backup.system.process import Command


class Host:
    """A machine on which commands run."""

    def command(self, argv: tuple[str, ...], logged: bool = False) -> Command:
        """ARGV as it has to be started here so that it runs on the host."""
        return Command(argv, title=_title(argv), logged=logged)

    def run(self, argv: tuple[str, ...], trying: str) -> str:
        """Run ARGV on the host and return what it printed.

        TRYING begins the message of the Failure that is raised when it does not exit with 0.
        """
        ended = process.run(self.command(argv))
        if ended.status:
            raise process.CommandFailed(ended, trying)
        return os.fsdecode(ended.stdout)

    def attempt(self, argv: tuple[str, ...]) -> str:
        """Run ARGV on the host and return what it printed, however it ended."""
        return os.fsdecode(process.run(self.command(argv)).stdout)

    def read_file(self, path: str) -> str | None:
        """The text of a file, or None when there is none. Raises Failure."""
        try:
            return os.fsdecode(Path(path).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failure(f"cannot read '{path}': {error.strerror}") from None

    def replace_file(self, path: str, text: str) -> None:
        """Replace the file at PATH atomically; its mode and owner stay. Raises Failure; then the old one is whole."""
        new = f"{path}.new"
        try:
            _write_new(new, os.fsencode(text), like=path)
            os.replace(new, path)
            _fsync_folder(os.path.dirname(path))
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            raise Failure(f"cannot write '{path}': {error.strerror}", "Is the disk of the source full?") from None

    @contextmanager
    def lock(self, folder: str) -> Iterator[None]:
        """Hold the advisory lock on FOLDER (flock(2)); the kernel drops it when this process dies.

        Raises LockHeld when another process has it.
        """
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Failure(f"cannot open the snapshot folder '{folder}': {error.strerror}") from None
        try:
            _flock(descriptor, folder)
            yield
        finally:
            os.close(descriptor)


def _flock(descriptor: int, folder: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockHeld(
            f"another run works on the snapshot folder '{folder}'{_holder(descriptor)}", "Try again when it has ended."
        ) from None
    except OSError as error:
        raise Failure(f"cannot lock the snapshot folder '{folder}': {error.strerror}") from None


def _title(argv: tuple[str, ...]) -> str:
    """The program and its subcommands: `btrfs subvolume delete`."""
    words = itertools.takewhile(lambda word: word[:1].isalpha(), argv[1:3] if argv[0] == "btrfs" else ())
    return " ".join((argv[0], *words))


def _write_new(path: str, data: bytes, like: str) -> None:
    """Write a new file durably, with mode and owner of the file LIKE, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    # O_EXCL: never through a symbolic link that somebody put there.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as new:
        with suppress(FileNotFoundError, PermissionError):
            old = os.lstat(like)
            os.fchmod(new.fileno(), old.st_mode & 0o777)
            os.fchown(new.fileno(), old.st_uid, old.st_gid)
        new.write(data)
        new.flush()
        os.fsync(new.fileno())


def _fsync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holder(locked: int) -> str:
    """Who holds the flock on the file behind the descriptor LOCKED, for a message; empty when it cannot be told."""
    wanted = os.fstat(locked)
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            # proc_locks(5): "1: FLOCK  ADVISORY  WRITE 1234 00:29:256 0 EOF"; waiting ones have an arrow.
            if fields[1:2] == ["FLOCK"] and _has_open(int(fields[4]), wanted):
                return f": process {fields[4]} ({_command_line(int(fields[4]))})"
    return ""


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.path.samestat(os.stat(entry.path), wanted):
                    return pid != os.getpid()
    return False


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ").strip()
    return "?"
