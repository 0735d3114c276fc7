"""State files and the run lock on a host: read, replaced atomically, locked."""

import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from posixpath import basename, dirname

from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.system import hints, process, signals
from btrfs_backup.system.host import Host
from btrfs_backup.system.process import Child, Children, CommandFailed
from btrfs_backup.system.ssh import Connection

log = logging.getLogger(__name__)

_LOCK_INTERVAL = 0.5  # seconds between tries to get a lock
_LETTING_GO = 2.0  # seconds for a lock on another machine to be dropped
_NOT_FOUND = 127  # exit status of shells; csh and sudo have but words
_NO_FLOCK = re.compile("flock: (command )?not found", re.IGNORECASE)


def read(host: Host, path: str) -> str | None:
    """The text of the file at PATH, or None when there is none. Raises Failure."""
    if host.connection:
        return _read_remote(host, path)
    try:
        # Not to wait for somebody at the other end of a named pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Failure(f"cannot read '{path}': it is not a regular file", "Move it away.")
            return os.fsdecode(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"cannot read '{path}': {error.strerror}", "It has to be a file that you may read.") from None


def replace(host: Host, path: str, text: str) -> None:
    """Replace the file at PATH atomically; its mode and owner stay. Raises Failure; then the old one is whole."""
    if host.connection:
        _replace_remote(host, host.connection, path, text)
        return
    new = f"{path}.new"
    try:
        _write_new(new, os.fsencode(text), like=path)
        os.replace(new, path)
        _fsync_folder(dirname(path))
    except OSError as error:
        with suppress(OSError):
            os.unlink(new)
        why = error.strerror or str(error)
        what_to_do = hints.hint(why, "", os.geteuid() == 0)
        raise Failure(f"cannot write '{path}': {why}", what_to_do, hints.brief(why)) from None


@contextmanager
def lock(host: Host, folder: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the advisory lock on FOLDER (flock(2)) as long as the scope lasts; the kernel drops it however we end.

    Raises LockHeld when another process has it and does not drop it within WAIT seconds.
    """
    with ExitStack() as held:
        patience = time.monotonic() + wait
        told = False
        while True:
            try:
                held.enter_context(_remote_lock(host, folder) if host.connection else _local_lock(host, folder))
                break
            except LockHeld as failure:
                if time.monotonic() >= patience:
                    raise
                if not told:
                    log.info("waiting: %s", failure.message)
                    told = True
            signals.wait([], min(_LOCK_INTERVAL, patience - time.monotonic()))
        yield


@contextmanager
def _local_lock(host: Host, folder: str) -> Iterator[None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Failure(
            f"cannot open the snapshot folder '{folder}': {error.strerror}", "It has to be a folder that you may read."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(host, folder) from None
        yield
    finally:
        os.close(descriptor)


# --- on this machine -------------------------------------------------------------------------------------------------


def _write_new(path: str, data: bytes, like: str) -> None:
    """Write a new file durably, with mode and owner of the file LIKE, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    # O_EXCL: never through a symbolic link that somebody put there.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as new:
        with suppress(FileNotFoundError, PermissionError):
            old = os.lstat(like)
            # A link has a mode that means nothing.
            if stat.S_ISREG(old.st_mode):
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


# --- on another one --------------------------------------------------------------------------------------------------


def _read_remote(host: Host, path: str) -> str | None:
    ended = host.ended(("cat", "--", path))
    if not ended.status:
        return os.fsdecode(ended.stdout)
    # cat says in whatever language that there is none; an empty list says it in all.
    here = ("find", dirname(path) + "/", "-mindepth", "1", "-maxdepth", "1", "-name", basename(path))
    if host.run(here, f"cannot read '{path}'"):
        raise CommandFailed(ended, f"cannot read '{path}'")
    return None


def _replace_remote(host: Host, connection: Connection, path: str, text: str) -> None:
    new = f"{path}.new"
    # The new file begins as a copy, for the sake of mode and owner. An empty file is as good as none.
    copying = [("rm", "-f", "--", new), ("touch", "--", path), ("cp", "-p", "--", path, new)]
    writing = connection.sequence(copying, ("dd", f"of={new}", "conv=fsync", "status=none"), "rm, touch, cp, dd")
    ended = process.run(writing, os.fsencode(text))
    if ended.status:
        process.run(connection.command(("rm", "-f", "--", new), "rm"))
        raise CommandFailed(ended, f"cannot write '{path}'")
    # By a command of its own: when the connection breaks, dd takes what it got for everything.
    host.run(("mv", "-f", "--", new, path), f"cannot write '{path}'")


@contextmanager
def _remote_lock(host: Host, folder: str) -> Iterator[None]:
    """`flock` on the host holds the lock for a `cat` that ends when our end of its input is closed, or we die."""
    command = host.command(("flock", "-n", folder, "cat"))
    with Children() as children:
        with process.lacking(f"cannot lock the snapshot folder '{folder}'"):
            stdin, ours = os.pipe()
            theirs, stdout = os.pipe()
        with open(ours, "wb", buffering=0) as hold, open(theirs, "rb", buffering=0) as echo:
            try:
                holder = children.start(command, stdin, stdout)
            finally:
                os.close(stdin)
                os.close(stdout)
            with suppress(BrokenPipeError):
                hold.write(b"\n")
            signals.wait([echo.fileno()])
            locked = echo.read(1)
            if not locked:
                _explain(host, folder, holder, children)
            try:
                yield
            finally:
                # We end when it has let go: the next run may follow at once.
                hold.close()
                holder.reaped_within(_LETTING_GO)


def _explain(host: Host, folder: str, holder: Child, children: Children) -> None:
    """Why flock did not get the lock. Raises Failure, unless there is no such program."""
    children.wait([holder])
    missing = holder.ended.status == _NOT_FOUND or _NO_FLOCK.search(holder.ended.said)
    # A login shell may say anything; flock says nothing when somebody else has the lock.
    if holder.ended.status == 1 and not missing and not re.search("flock: |sudo", holder.ended.said):
        raise _held(host, folder)
    if not missing:
        raise CommandFailed(holder.ended, f"cannot lock the snapshot folder '{folder}'")
    log.warning(
        "there is no program 'flock' on the source's host: take care that no two runs work on '%s' at the same time",
        folder,
    )


# --- who is in the way -----------------------------------------------------------------------------------------------


def _held(host: Host, folder: str) -> LockHeld:
    return LockHeld(
        f"another run works on the snapshot folder '{folder}'{_holder(host, folder)}",
        "Try again when it has ended, or let this one wait with '--lock-wait SECONDS'.",
    )


def _holder(host: Host, folder: str) -> str:
    """Who holds the lock on FOLDER, for a message; empty when it cannot be told."""
    with suppress(Failure):
        descriptors = [f"/proc/{pid}/fd" for pid in parse_locks(read(host, "/proc/locks") or "")]
        if not descriptors:
            return ""
        # Some may have ended by now, so its exit status says nothing.
        found = host.ended(("find", "-L", *descriptors, "-maxdepth", "1", "-samefile", folder)).stdout.decode()
        if match := re.match(r"/proc/(\d+)/", found):
            words = (read(host, f"/proc/{match[1]}/cmdline") or "?").split("\0")
            return f": process {match[1]} ({' '.join(words).strip()})"
    return ""


def parse_locks(text: str) -> list[str]:
    """The process ids that hold an flock, in the order of /proc/locks (proc_locks(5))."""
    # "1: FLOCK  ADVISORY  WRITE 1234 00:29:256 0 EOF"; those that wait have an arrow.
    rows = [line.split() for line in text.splitlines()]
    return list(dict.fromkeys(row[4] for row in rows if row[1:2] == ["FLOCK"] and row[4:5] and row[4].isdecimal()))
