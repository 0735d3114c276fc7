"""Bring back one file or folder of a backup. Nothing is overwritten, and it has its name only when it is whole."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from posixpath import basename, dirname, join

from btrfs_backup.errors import Failure
from btrfs_backup.model.location import Location
from btrfs_backup.model.outcome import Restoration
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, inside, prefix_of
from btrfs_backup.system import process, tools
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.paths import examine
from btrfs_backup.system.process import Children, CommandFailed
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.transfer import cause

log = logging.getLogger(__name__)


def restore(settings: Settings, publish: Callable[[Restoration], None]) -> None:
    """Copy the file or folder SOURCE to the new name DEST, and PUBLISH what came of it. Raises Failure."""
    source, [to] = settings.source, settings.destinations
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        here, there = hosts.at(source), hosts.at(to)
        backup = _check_source(here, source)
        folder = examine(there, dirname(to.path))
        if not (folder.exists and folder.is_directory):
            made = there.typed("mkdir", "-p", dirname(to.path))
            raise Failure(f"the folder '{dirname(to.path)}', in which it is to be, does not exist", f"Make it: {made}")
        if _is_there(there, to.path):
            raise _exists(to)
        name = basename(backup)
        taken = Naming(prefix_of(name)).time(name)
        report = Restoration(source.identity, to.identity, name, taken)
        publish(report)
        if not settings.dry_run:
            log.info("%s: copying %s", to, source)
            _bring(here, source.path, there, to)
            publish(replace(report, done=True))


def _check_source(host: Host, source: Location) -> str:
    """The path of the backup that it is in. Raises Failure unless something is there, and no link leads to it."""
    tops = ((backup, below, examine(host, backup)) for backup, below in inside(source.path))
    backup, below, top = next((each for each in tops if each[2].exists and each[2].is_subvolume), ("", "", None))
    if not top:
        raise Failure(f"'{source}' is in no backup that is there", "Is the disk mounted, and the path right?")
    folder = examine(host, dirname(source.path))
    if not folder.exists or not _is_there(host, source.path):
        raise Failure(f"there is no '{source}'", "'--find' tells which backups have a file, and where.")
    if folder.path != join(top.path, dirname(below)).rstrip("/"):
        raise Failure(f"a symbolic link leads to '{source}', out of its place", "Name the place it leads to.")
    return backup


def _is_there(host: Host, path: str) -> bool:
    """Whether there is something at PATH, be it a link that leads to nothing. Raises Failure."""
    ended = host.ended(tools.versions(0, "*", "*", path))
    if ended.status not in (0, 1):
        raise CommandFailed(ended, f"cannot look at '{path}'")
    return bool(ended.stdout)


def _exists(to: Location) -> Failure:
    return Failure(f"there is something at '{to}' already", "Give another name, or move it away.")


def _bring(here: Host, path: str, there: Host, to: Location) -> None:
    """By way of a folder beside it, into which nobody else can look. Raises Failure."""
    stage = join(dirname(to.path), f".restoring-{os.getpid()}-{time.time_ns():x}")
    there.run(("mkdir", "-m", "700", "--", stage), f"cannot make a folder beside '{to.path}'")
    trying, copy = f"cannot copy '{path}'", join(stage, basename(path))
    try:
        if here == there:
            there.run(tools.copy(path, copy), trying)
        else:
            _pack(here, path, there, stage, trying)
        there.run(tools.move(copy, to.path), f"cannot move '{copy}' to its place")
        if _is_there(there, copy):
            raise _exists(to)
        there.run(tools.write_out(dirname(to.path)), f"cannot write out the filesystem of '{to.path}'")
    finally:
        there.ended(tools.remove_tree(stage))


def _pack(here: Host, path: str, there: Host, stage: str, trying: str) -> None:
    """From one machine to another. Raises Failure."""
    commands = (here.command(tools.pack(dirname(path), basename(path))), there.command(tools.unpack(stage)))
    with process.lacking(trying), open(os.devnull, "rb") as nothing, Children() as children:
        reader, writer = os.pipe()
        try:
            started = [children.start(commands[0], nothing.fileno(), writer)]
            started.append(children.start(commands[1], reader, tied=True))
        finally:
            os.close(reader)
            os.close(writer)
        children.wait(started)
        if failed := cause([started[0].ended], [started[1].ended], left_early=False):
            raise CommandFailed(failed, trying)
