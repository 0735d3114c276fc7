"""The run lock: an advisory lock on the snapshot folder, on a host."""

import fcntl
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from posixpath import join
from typing import TypeVar

from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.system import hints, signals, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.host import Host
from btrfs_backup.system.process import Child, Children, CommandFailed, lacking

T = TypeVar("T")

log = logging.getLogger(__name__)

LOCK = ".btrfs-backup.lock"  # in the folder of snapshots
_LOCK_INTERVAL = 0.5  # seconds between tries to get a lock
_READ = 1 << 16
_LETTING_GO = 2.0  # seconds for a lock on another machine to be dropped


def is_held(host: Host, folder: str) -> bool:
    """Whether a process holds a lock on FOLDER. Where that is not known, none does. Raises Failure."""
    if host.connection:
        return host.has_flock and host.ended(tools.is_held(folder)).status == 1
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@dataclass(frozen=True)
class Held:
    """A lock. inherit: descriptors that hold it here, also in children; confirm: waits until it is held elsewhere.

    confirm raises LockHeld when somebody else has it, Failure when it is not possible.
    """

    inherit: tuple[int, ...] = ()
    confirm: Callable[[], None] = lambda: None


@contextmanager
def staged(host: Host, folder: str, shared: bool) -> Iterator[Held]:
    """Hold the lock on the stage FOLDER as long as the scope lasts.

    SHARED with its receivers, and on another machine to be confirmed; or else to remove it. Raises LockHeld when
    somebody else is at work there, Failure when it is not possible.
    """
    with ExitStack() as held:
        if host.connection:
            confirm = held.enter_context(_remote_lock(host, folder, tools.hold_folder(folder, shared), shared))
            yielded = Held(confirm=partial(_at_work, folder, confirm))
            if not shared:
                yielded.confirm()
        else:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            take = partial(held.enter_context, _local_lock(host, folder, kind))
            yielded = Held((_at_work(folder, take),))
        yield yielded


def _at_work(folder: str, take: Callable[[], T]) -> T:
    """What TAKE gives, which takes the lock on a stage."""
    try:
        return take()
    except LockHeld:
        raise LockHeld(f"somebody else is at work in '{folder}'", "Nothing was touched there; run it again.") from None


@contextmanager
def lock(host: Host, folder: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the run lock of FOLDER (flock(2)) as long as the scope lasts; the kernel drops it however we end.

    It is that of a file of ours: whoever may read the folder could hold that of the folder itself for ever. Where no
    file can be made the disk is read-only, and the folder has to do. Raises LockHeld when another process has it and
    does not drop it within WAIT seconds.
    """
    target = _lock_file(host, folder)
    with ExitStack() as held:
        patience = time.monotonic() + wait
        told = False
        while True:
            try:
                with ExitStack() as trying:
                    if host.connection:
                        trying.enter_context(_remote_lock(host, target, tools.hold(target)))()
                    else:
                        trying.enter_context(_local_lock(host, target))
                    held.push(trying.pop_all())
                break
            except LockHeld as failure:
                if time.monotonic() >= patience:
                    raise
                if not told:
                    log.info("waiting: %s", failure.message)
                    told = True
            signals.wait([], min(_LOCK_INTERVAL, patience - time.monotonic()))
        yield


def asked(folder: str) -> list[Argv]:
    """What `lock` asks another machine first."""
    return [_good_file(join(folder, LOCK))]


def _good_file(path: str) -> Argv:
    return ("find", path, "-prune", "-type", "f", "-perm", "600")


def _lock_file(host: Host, folder: str) -> str:
    """The path of what is locked for FOLDER. Raises Failure when the host cannot be reached."""
    path = join(folder, LOCK)
    if not host.connection:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))
            os.chmod(path, 0o600, follow_symlinks=False)
        except (OSError, NotImplementedError):
            return path if os.path.isfile(path) and not os.path.islink(path) else folder
        return path
    if not host.ended(_good_file(path)).stdout:
        for argv in (("touch", "--", path), ("chmod", "600", "--", path)):
            if host.ended(argv).status:
                return folder
    return path


@contextmanager
def _local_lock(host: Host, folder: str, kind: int = fcntl.LOCK_EX) -> Iterator[int]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise Failure(
            f"cannot lock the snapshot folder '{_folder(folder)}': {error.strerror}",
            "Run it as root, or as the user who made its backups before.",
        ) from None
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(host, folder) from None
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _remote_lock(host: Host, folder: str, how: Argv, shared: bool = False) -> Iterator[Callable[[], None]]:
    """`flock` on the host holds the lock for a `cat` that ends when our end of its input is closed, or we die.

    HOW: see `tools.hold`. Gives what waits until it is held.
    """
    command = host.command(how)
    with Children() as children:
        with lacking(f"cannot lock the snapshot folder '{folder}'"):
            stdin, ours = os.pipe()
            theirs, stdout = os.pipe()
        with open(ours, "wb", buffering=0) as hold, open(theirs, "rb", buffering=0) as echo:
            try:
                holder = children.start(command, stdin, stdout)
            finally:
                os.close(stdin)
                os.close(stdout)
            word = secrets.token_hex(16).encode() + b"\n"
            with suppress(BrokenPipeError):
                hold.write(word)

            @cache
            def confirm() -> None:
                said = b""  # a login shell may say anything before
                while word not in said and signals.wait([echo.fileno()]) and (piece := echo.read(_READ)):
                    said = said[-_READ:] + piece
                if word not in said:
                    _explain(host, folder, holder, children)

            try:
                yield confirm
            finally:
                if not shared:
                    # We end when it has let go: the next run may follow at once.
                    hold.close()
                    holder.reaped_within(_LETTING_GO)


def _explain(host: Host, folder: str, holder: Child, children: Children) -> None:
    """Why flock did not get the lock. Raises Failure, unless there is no such program, which is told."""
    children.wait([holder])
    # A login shell may say anything; flock says nothing when somebody else has the lock.
    if holder.ended.status == 1 and not ("flock: " in holder.ended.said or hints.refused_by_sudo(holder.ended.said)):
        raise _held(host, folder)
    if host.has_flock:
        raise CommandFailed(holder.ended, f"cannot lock the snapshot folder '{_folder(folder)}'")


def _folder(target: str) -> str:
    return target.removesuffix(f"/{LOCK}")


def _held(host: Host, target: str) -> LockHeld:
    return LockHeld(
        f"another run works on the snapshot folder '{_folder(target)}'{holder(host, target)}",
        "Try again when it has ended, or let this one wait with '--lock-wait SECONDS'.",
    )


def holder(host: Host, folder: str) -> str:
    """Who holds the lock on FOLDER, for a message; empty when it is not known."""
    with suppress(Failure):
        descriptors = [f"/proc/{pid}/fd" for pid in parse_locks(host.read("/proc/locks") or "")]
        if not descriptors:
            return ""
        # Some may have ended by now, so its exit status says nothing.
        found = host.ended(("find", "-L", *descriptors, "-maxdepth", "1", "-samefile", folder)).stdout.decode()
        if match := re.match(r"/proc/(\d+)/", found):
            words = (host.read(f"/proc/{match[1]}/cmdline") or "?").split("\0")
            return f": process {match[1]} ({' '.join(words).strip()})"
    return ""


def parse_locks(text: str) -> list[str]:
    """The process ids that hold an flock, in the order of /proc/locks (proc_locks(5))."""
    # "1: FLOCK  ADVISORY  WRITE 1234 00:29:256 0 EOF"; those that wait have an arrow.
    rows = [line.split() for line in text.splitlines()]
    return list(dict.fromkeys(row[4] for row in rows if row[1:2] == ["FLOCK"] and row[4:5] and row[4].isdecimal()))
