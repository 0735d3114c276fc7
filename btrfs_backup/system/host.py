"""Where a command runs: on this machine, or on another one by way of ssh."""

import logging
import os
import re
import shlex
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from posixpath import basename, dirname

from btrfs_backup.errors import Failure, MissingProgram
from btrfs_backup.model.location import Location, Scheme
from btrfs_backup.system import btrfs, process, ssh, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.compression import METHODS
from btrfs_backup.system.process import Command, CommandFailed, Ended, Pipeline
from btrfs_backup.system.ssh import Access, Connection

log = logging.getLogger(__name__)

_NOT_FOUND = 127  # exit status of shells; csh and sudo have but words
_VERSIONS = (btrfs.VERSION, tools.read(btrfs.STREAM_VERSION))
LEARNING = [[argv] for argv in (tools.PROBE_FLOCK, *_VERSIONS)]  # what Host.learn asks for in turn
_NO_FLOCK = re.compile("flock: (command )?not found", re.IGNORECASE)


@dataclass(frozen=True)
class Host:
    """A machine on which commands run. connection: how to get there; None for this machine."""

    connection: Connection | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.connection.place.host if self.connection else "this machine"

    def command(self, argv: Argv, logged: bool = False) -> Command:
        """What has to be started here so that ARGV runs on the host. Raises Failure when it cannot be reached."""
        if self.connection:
            return self.connection.command(argv, tools.title(argv), logged)
        return Command(argv, tools.title(argv), logged=logged)

    def sender(self, argv: Argv, compress: str, logged: bool, through: Argv = ()) -> Pipeline:
        """What writes the output of ARGV here, THROUGH something on another machine, and compressed on its way.

        Raises Failure like `command`.
        """
        if not self.connection:
            return (self.command(argv, logged),)
        zip_, unzip = METHODS.get(compress, ((), ()))
        sent = self.connection.command(
            argv, tools.title(argv), logged, after=[each for each in (through, zip_) if each]
        )
        return (sent, Command(unzip, compress)) if unzip else (sent,)

    def receiver(self, argv: Argv, compress: str, logged: bool, locked: str, inherit: tuple[int, ...]) -> Pipeline:
        """What reads the input of ARGV here, which holds the lock on the folder LOCKED as long as it runs.

        INHERIT: descriptors that hold it here. Raises Failure like `command`.
        """
        if not self.connection:
            return (Command(argv, tools.title(argv), logged=logged, inherit=inherit),)
        held = tools.locked(locked, argv) if self.has_flock else argv
        if compress not in METHODS:
            return (self.connection.command(held, tools.title(argv), logged),)
        zip_, unzip = METHODS[compress]
        return Command(zip_, compress), self.connection.command(held, tools.title(argv), logged, before=unzip)

    @cached_property
    def has_flock(self) -> bool:
        """Whether it has a program `flock`; told when it has none. Raises Failure when it cannot be reached."""
        ended = self.ended(tools.PROBE_FLOCK)
        if ended.status != _NOT_FOUND and not _NO_FLOCK.search(ended.said):
            return True
        log.warning(
            "there is no program 'flock' on %s: take care that no two runs work on one folder there at the same time",
            self.name,
        )
        return False

    def learn(self, compressed_data: bool) -> None:
        """Find out what will be wanted of another machine that takes or sends streams; see LEARNING."""
        with suppress(Failure):
            if self.connection and self.has_flock and compressed_data:
                _ = self._btrfs_versions

    @property
    def can_receive_compressed_data(self) -> bool:
        """Whether btrfs-progs there can read send protocol 2. Raises Failure."""
        return self._btrfs_versions[0] >= btrfs.COMPRESSED_RECEIVER

    @property
    def can_send_compressed_data(self) -> bool:
        """Whether kernel and btrfs-progs there can write send protocol 2. Raises Failure."""
        progs, kernel = self._btrfs_versions
        return progs >= btrfs.COMPRESSED_SENDER and kernel >= 2

    @cached_property
    def _btrfs_versions(self) -> tuple[tuple[int, int], int]:
        """Of btrfs-progs, and the highest version of the send protocol that the kernel knows. Raises Failure."""
        progs, kernel = self.ended_together(*_VERSIONS)
        if progs.status:
            raise CommandFailed(progs, "cannot ask for the version of btrfs-progs")
        known = kernel.stdout.strip()
        return btrfs.parse_version(os.fsdecode(progs.stdout)), int(known) if known.isdigit() else 1

    def has(self, method: str) -> bool:
        """Whether it has the program for a METHOD of compression. Raises Failure when it cannot be reached."""
        return self.can_run(METHODS[method][0])

    def can_run(self, argv: Argv) -> bool:
        """Whether ARGV, which needs no rights, ends well there. Raises Failure when it cannot be reached."""
        try:
            return (self.connection.program(argv) if self.connection else self.ended(argv)).status == 0
        except MissingProgram:
            return False

    def ask(self, *pipelines: Sequence[Argv]) -> None:
        """Ask another machine for what PIPELINES come to, which change nothing and will be wanted next."""
        if self.connection:
            self.connection.ask(pipelines)

    def ended(self, argv: Argv, ahead: Sequence[Sequence[Argv]] = ()) -> Ended:
        """Run ARGV on the host; its exit status is the caller's business. Raises Failure when it cannot be run.

        AHEAD: what another machine is asked for behind it, see `ask`.
        """
        return self.in_turn([argv], ahead)[0]

    def ended_together(self, *argvs: Argv) -> list[Ended]:
        """Run all ARGVS on the host, here at the same time; like `ended`."""
        return self.piped_together(*([argv] for argv in argvs))

    def piped_together(self, *pipelines: Sequence[Argv]) -> list[Ended]:
        """Run all PIPELINES on the host, of which the first command may need rights; like `ended`."""
        if self.connection:
            return self.connection.ended(pipelines)
        return process.run_together([_local(each) for each in pipelines])

    def in_turn(self, argvs: Sequence[Argv], ahead: Sequence[Sequence[Argv]] = ()) -> list[Ended]:
        """Run ARGVS on the host, one when the one before has ended, however that was; like `ended`."""
        if self.connection:
            return self.connection.ended([[argv] for argv in argvs], ahead)
        return [process.run(Command(argv, tools.title(argv))) for argv in argvs]

    def both(self, first: Argv, second: Argv) -> Command:
        """What runs FIRST, and SECOND when that has ended well, on the host; it ends as FIRST does.

        Raises Failure like `command`.
        """
        if self.connection:
            return self.connection.both(first, second)
        return Command(ssh.both(first, second, sudo=False), tools.title(first))

    def run(self, argv: Argv, trying: str, ahead: Sequence[Sequence[Argv]] = ()) -> str:
        """Run ARGV on the host and return what it printed.

        TRYING begins the message of the Failure that is raised when it does not exit with 0. AHEAD: see `ended`.
        """
        ended = self.ended(argv, ahead)
        if ended.status:
            raise CommandFailed(ended, trying)
        return os.fsdecode(ended.stdout)

    def run_together(self, argvs: Sequence[Argv], trying: str) -> list[str]:
        """Run all ARGVS on the host; like `run`."""
        endings = self.ended_together(*argvs)
        for ended in endings:
            if ended.status:
                raise CommandFailed(ended, trying)
        return [os.fsdecode(ended.stdout) for ended in endings]

    def read(self, path: str) -> str | None:
        """The text of the file at PATH on the host, None when there is none. Raises Failure."""
        if self.connection:
            return self._read_remote(path)
        try:
            # Not to wait for somebody at the other end of a named pipe.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Failure(f"cannot read '{path}': it is not a regular file", "Move it away.")
                text = file.read(process.OUTPUT_KEPT + 1)
                if len(text) > process.OUTPUT_KEPT:
                    raise process.TooMuch(f"'{path}' holds")
                return os.fsdecode(text)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failure(f"cannot read '{path}': {error.strerror}", "It has to be a file that you may read.") from None

    def _read_remote(self, path: str) -> str | None:
        ended = self.ended(tools.read(path))
        if not ended.status:
            return os.fsdecode(ended.stdout)
        # cat says in whatever language that there is none; an empty list says it in all.
        here = ("find", dirname(path) + "/", "-mindepth", "1", "-maxdepth", "1", "-name", basename(path))
        if self.run(here, f"cannot read '{path}'"):
            raise CommandFailed(ended, f"cannot read '{path}'")
        return None

    def typed(self, *argv: str) -> str:
        """ARGV as a user would type it, on the host."""
        return shlex.join(argv) + (f" (on {self.connection.place.host})" if self.connection else "")


def _local(pipeline: Sequence[Argv]) -> Command:
    """What runs PIPELINE on this machine."""
    first, *others = pipeline
    if not others:
        return Command(first, tools.title(first))
    return Command(("sh", "-c", " | ".join(('"$@"', *map(shlex.join, others))), "sh", *first), tools.title(first))


class Hosts(ExitStack):
    """The machines of a run, one for each user and host and port. Leaving the scope ends their connections."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access
        self._here = Host()
        self._hosts: dict[tuple[str, str, int | None], Host] = {}

    def at(self, place: Location) -> Host:
        """The machine that PLACE is on. Nothing is connected before a command runs there."""
        if place.scheme is not Scheme.SSH:
            return self._here
        key = (place.user, place.host, place.port)
        if key not in self._hosts:
            self._hosts[key] = Host(Connection(place, self._access, self))
        return self._hosts[key]
