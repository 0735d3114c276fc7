"""What a run came to, as values, and the exit status. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING

from btrfs_backup.errors import Failure, Interrupted, LockHeld, UsageError

if TYPE_CHECKING:  # few runs need them
    from btrfs_backup.model.manifest import Comparison
    from btrfs_backup.model.survey import Place, Row


class Exit(IntEnum):
    DONE = 0
    NOTHING_DONE = 1
    USAGE = 2
    LOCKED = 3
    FAILED = 10
    SIGNAL = 128  # plus the number of the signal


@dataclass(frozen=True)
class Sent:
    """A transfer that ended well, or would take place. parent: None when it was sent in full.

    bytes, seconds: None where they are not known before.
    """

    snapshot: str
    parent: str | None
    bytes: int | None
    seconds: float | None


@dataclass
class Tally:
    """What happened at one place: the source, or a destination. Grows during the run.

    kept: names of snapshots or backups there at the end, each with the reasons; None when it is not known.
    absent: it was not there, and that is no failure.
    verified: what came of the comparison of its backups.
    cleared: names of cut-off transfers that would be deleted. free: bytes that are free there, where that was asked.
    """

    place: str
    sent: list[Sent] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    kept: dict[str, list[str]] | None = None
    outstanding: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    absent: bool = False
    verified: "list[Comparison]" = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    free: int | None = None

    @property
    def failed(self) -> bool:
        return bool(self.failures) or any(each.differences for each in self.verified)


@dataclass
class Report:
    """What happened in a run. snapshot: the one that was taken."""

    source: Tally
    snapshot: str | None = None
    destinations: list[Tally] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(tally.failed for tally in (self.source, *self.destinations))


@dataclass
class Survey:
    """What is where: a row for each snapshot, its columns the source and the PLACES."""

    source: Tally
    destinations: list[Tally] = field(default_factory=list)
    rows: "list[Row]" = field(default_factory=list)
    places: "list[Place]" = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(place.too_old for place in self.places) or any(
            tally.failed for tally in (self.source, *self.destinations)
        )


@dataclass
class Restoration:
    """What became of a restore. source: the folder of the backup; destination: the subvolume to create.

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
    failures: list[Failure] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.failures)


def exit_status(report: Report | Survey | Restoration | None, ended_by: BaseException | None) -> int:
    """The status for a run that came to REPORT or was ended by an error before it had done its work."""
    if isinstance(ended_by, Interrupted):
        return Exit.SIGNAL + ended_by.signum
    if isinstance(ended_by, UsageError):
        return Exit.USAGE
    if isinstance(ended_by, LockHeld):
        return Exit.LOCKED
    if ended_by:
        return Exit.NOTHING_DONE
    return Exit.FAILED if report and report.failed else Exit.DONE
