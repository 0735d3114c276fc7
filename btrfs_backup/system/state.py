"""The state files in the snapshot folder: the records, read and replaced atomically, on a host."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from posixpath import basename, dirname, join

from btrfs_backup.errors import Failure
from btrfs_backup.model import records
from btrfs_backup.model.records import Records
from btrfs_backup.system import hints
from btrfs_backup.system.host import Host
from btrfs_backup.system.process import CommandFailed, TooMuch

OUTSTANDING = ".outstanding_transfers"
COMPLETED = ".completed_transfers"

IN_TURN = (OUTSTANDING, COMPLETED)  # as they are read
NAMES = frozenset(IN_TURN)
_LOST = {
    OUTSTANDING: "Nothing is deleted at the source in this run, since unfinished transfers are not known.",
    COMPLETED: "Nothing is deleted at the source in this run. A disk that is away may need a full transfer.",
}


def read(host: Host, folder: str, aside: bool) -> tuple[Records, tuple[Failure, ...]]:
    """The records in FOLDER, and why some could not be understood.

    What cannot be is moved ASIDE, so that the next run begins without it. Raises Failure when that is not possible.
    """
    known: Records = records.NONE
    failures = []
    for name, parse in zip(IN_TURN, (records.parse_outstanding, records.parse_completed), strict=True):
        path = join(folder, name)
        try:
            known |= parse(host.read(path) or "")
        except (Failure, ValueError) as error:
            perhaps_good = isinstance(error, Failure) and not isinstance(error, TooMuch)
            if perhaps_good and host.ended(("find", path, "-prune", "-type", "f", "-print")).stdout:
                raise
            why = error.message if isinstance(error, Failure) else f"the state file '{path}' is broken: {error}"
            moved = f"; it was moved to '{_moved_aside(host, path, why)}'" if aside else ""
            failures.append(Failure(f"{why}{moved}", _LOST[name]))
    return known, tuple(failures)


def _moved_aside(host: Host, path: str, why: str) -> str:
    """Rename PATH, since WHY; its new path. Raises Failure."""
    find = ("find", dirname(path) + "/", "-mindepth", "1", "-maxdepth", "1", "-name", f"{basename(path)}.broken-*")
    taken = {basename(line) for line in host.run(find, f"{why}; cannot list '{dirname(path)}'").split("\n")}
    moved = next(f"{path}.broken-{number}" for number in count(1) if f"{basename(path)}.broken-{number}" not in taken)
    host.run(("mv", "--", path, moved), f"{why}; it cannot be moved aside")
    return moved


def write(host: Host, folder: str, new: Records, old: Records) -> None:
    """Replace those files of which NEW differs from OLD, which they hold. Raises Failure."""
    # In this order: what was delivered must not be forgotten, or it would be sent again.
    forms = {COMPLETED: records.format_completed, OUTSTANDING: records.format_outstanding}
    if texts := {join(folder, name): form(new) for name, form in forms.items() if form(new) != form(old)}:
        replace(host, texts)


def replace(host: Host, texts: Mapping[str, str]) -> None:
    """Replace the files at these paths by these TEXTS, one after the other, each atomically; mode and owner stay.

    Raises Failure; then the old one is whole.
    """
    if host.connection:
        ended = host.connection.replace(texts)
        if ended.status:
            raise CommandFailed(ended, f"cannot write {' and '.join(map(repr, texts))}")
        return
    for path, text in texts.items():
        _replace(path, text)


def _replace(path: str, text: str) -> None:
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
