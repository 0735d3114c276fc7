"""What came of a command, as values, and the exit status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING

from btrfs_backup.errors import Failure, Interrupted, LockHeld, UsageError
from btrfs_backup.model.sizes import Sizes

if TYPE_CHECKING:  # few runs need them
    from btrfs_backup.model.changes import Changes
    from btrfs_backup.model.manifest import Comparison
    from btrfs_backup.model.versions import Versions


class Exit(IntEnum):
    """The exit statuses, a contract with scripts."""

    DONE = 0
    NOTHING_DONE = 1
    USAGE = 2
    LOCKED = 3
    FAILED = 10
    SIGNAL = 128  # plus the number of the signal


@dataclass(frozen=True)
class Sent:
    """A transfer that ended well, or would take place. parent: None when it was sent in full.

    bytes, seconds: None where they are not known before. resumed_from: bytes that were there from an earlier transfer.
    because: why it would be sent in full although there are backups.
    """

    snapshot: str
    parent: str | None
    bytes: int | None
    seconds: float | None
    resumed_from: int = 0
    because: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run at one place: the source, or a destination.

    cleared: names of transfers that were cut off, and deleted.
    kept: names of snapshots or backups there at the end, each with the reasons; None when it is not known.
    outstanding: names of the snapshots that it still lacks.
    absent: it was not there, and that is no failure.
    verified: what came of the comparison of its backups.
    free: bytes that are free there, and sizes: of what is there, where that was asked.
    """

    place: str
    sent: tuple[Sent, ...] = ()
    cleared: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    kept: Mapping[str, tuple[str, ...]] | None = None
    outstanding: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    absent: bool = False
    verified: "tuple[Comparison, ...]" = ()
    free: int | None = None
    sizes: Sizes | None = None

    @property
    def failed(self) -> bool:
        return bool(self.failures) or any(each.differences for each in self.verified)


@dataclass(frozen=True)
class Report:
    """The outcome of a whole run. snapshot: the one that was taken."""

    source: Outcome
    snapshot: str | None = None
    destinations: tuple[Outcome, ...] = ()

    @property
    def failed(self) -> bool:
        return any(outcome.failed for outcome in (self.source, *self.destinations))


@dataclass(frozen=True)
class Row:
    """A snapshot in the table of --status. states: at the source and at each destination, in words.

    because: why it is kept at the source, and kept: at each destination; empty where it is not, or is not there.
    age: None when its name lies in the future.
    """

    snapshot: str
    states: tuple[str, ...]
    because: tuple[str, ...] = ()
    kept: tuple[tuple[str, ...], ...] = ()
    age: timedelta | None = None


@dataclass(frozen=True)
class Partial:
    """A transfer that was cut off and goes on. bytes: of its stream that are there, of SIZE in all if that is known.

    since: when it was begun.
    """

    snapshot: str
    bytes: int
    size: int | None
    since: datetime | None


@dataclass(frozen=True)
class Place:
    """A destination in the table of --status.

    reachable: it could be looked at, or is a shell command. newest: its newest complete backup, or the newest known
    from the records when it is not reachable. owed: snapshots, sorted. too_old: the newest one is. parts: of what is
    owed. disk: the UUID of the filesystem that is there; label: of that filesystem. sizes: of what is there.
    """

    location: str
    reachable: bool
    newest: str | None
    age: timedelta | None
    owed: tuple[str, ...] = ()
    too_old: bool = False
    failures: tuple[Failure, ...] = ()
    parts: tuple[Partial, ...] = ()
    disk: str = ""
    label: str = ""
    sizes: Sizes | None = None


@dataclass(frozen=True)
class Survey:
    """The table of --status: a row for each snapshot, its columns the source and the PLACES."""

    source: Outcome
    rows: tuple[Row, ...] = ()
    places: tuple[Place, ...] = ()

    @property
    def failed(self) -> bool:
        return self.source.failed or any(place.too_old or place.failures for place in self.places)


@dataclass(frozen=True)
class Restoration:
    """The outcome of a restore. source: the folder of the backup; destination: the subvolume to create.

    taken: when the snapshot was taken; copy: path of the read-only copy; sent: None when nothing had to travel;
    go_on: the command that makes the next backup; done: the destination is there, and whole.
    intended: how it would get there, in a dry run; free: bytes that are free there, where that was asked.
    """

    source: str
    destination: str
    backup: str = ""
    taken: datetime | None = None
    copy: str = ""
    sent: Sent | None = None
    go_on: str = ""
    done: bool = False
    intended: str = ""
    free: int | None = None
    failures: tuple[Failure, ...] = ()

    @property
    def failed(self) -> bool:
        return bool(self.failures)


def exit_status(
    outcome: "Report | Survey | Restoration | Changes | Versions | None", ended_by: BaseException | None
) -> int:
    """The status of a command that came to OUTCOME, or was ended by an error before it had done its work."""
    if isinstance(ended_by, Interrupted):
        return Exit.SIGNAL + ended_by.signum
    if isinstance(ended_by, UsageError):
        return Exit.USAGE
    if isinstance(ended_by, LockHeld):
        return Exit.LOCKED
    if isinstance(ended_by, Failure):
        return Exit.NOTHING_DONE
    if ended_by:
        return Exit.FAILED  # unforeseen, in the middle of a run
    return Exit.FAILED if outcome and outcome.failed else Exit.DONE


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def span(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
