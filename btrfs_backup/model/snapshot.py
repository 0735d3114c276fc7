"""Snapshots: their names, their order, the next name, and what btrfs tells of a subvolume."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from btrfs_backup.errors import Failure

_FORMAT = "%Y%m%d-%H%M%S"
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)", re.ASCII)
STAMP_LENGTH = 15

# Inode number of the empty folder that stands for a nested subvolume in a snapshot (BTRFS_EMPTY_SUBVOL_DIR_OBJECTID).
STUB_INODE = 2


@dataclass(frozen=True)
class Subvolume:
    """A subvolume, as btrfs describes it. UUIDs as 36 characters, empty where there is none.

    id: its number in its filesystem, 0 when it is not known.
    sent_transid: the transaction of the source in which its original was last changed when it was sent.
    made_transid, received_transid, changed_transid: the transactions in which it was made, was received as a whole, and
    was changed last; None where that is not known.
    received_at: when it was received as a whole; known also when its received UUID was cleared since.
    parent_received_uuid: that of its parent, where it is known.
    """

    name: str
    uuid: str
    parent_uuid: str = ""
    received_uuid: str = ""
    readonly: bool = True
    received_at: datetime | None = None
    parent_received_uuid: str = ""
    id: int = 0
    sent_transid: int | None = None
    made_transid: int | None = None
    received_transid: int | None = None
    changed_transid: int | None = None

    @property
    def stream_uuid(self) -> str:
        """The received UUID that a complete copy of this snapshot carries.

        `btrfs send` writes the received UUID of a snapshot that was itself received, and its own UUID otherwise
        (Linux, fs/btrfs/send.c, send_subvol_begin).
        """
        return self.received_uuid or self.uuid

    @property
    def was_changed(self) -> bool:
        """Whether a read-only snapshot was changed since it was made, by way of writable and back, as far as is known.

        Seen: neither its own snapshots nor a balance nor read-only set twice change the number. What was received and
        is no snapshot of that got its content after it was made, and tells nothing.
        """
        made, changed = self.made_transid or 0, self.changed_transid or 0
        return 0 < made < changed and self.was_made_whole

    @property
    def was_made_whole(self) -> bool:
        """Whether it is known that it had its content when it was made: as a snapshot, also of what was received."""
        return not self.received_uuid or 0 < (self.received_transid or 0) < (self.made_transid or 0)


@lru_cache(1 << 14)
def _time(stamp: str) -> datetime | None:
    """What is meant by YYYYMMDD-HHMMSS, None when it is anything else."""
    # Matched strictly: strptime takes "0261123-..." for the year 261.
    if not (match := _STAMP.fullmatch(stamp)):
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _horizon(now: datetime) -> datetime:
    """What is later than that lies in the future at NOW: by more than an hour.

    By one hour more in the repeated hour at the end of daylight saving time (NOW.fold is 1 there), when names of the
    first pass look like the future.
    """
    margin = timedelta(hours=1 + now.fold)
    return min(now.replace(fold=0), datetime.max - margin) + margin


@dataclass(frozen=True)
class Naming:
    """Names of the form PREFIX + YYYYMMDD-HHMMSS, in local time."""

    prefix: str = ""

    def time(self, name: str) -> datetime | None:
        """When the snapshot NAME was taken (naive local time), or None when the name is not one of ours."""
        return _time(name[len(self.prefix) :]) if name.startswith(self.prefix) else None

    def __contains__(self, name: str) -> bool:
        return self.time(name) is not None

    def name(self, time: datetime) -> str:
        # Not strftime alone: it does not pad years before 1000.
        return f"{self.prefix}{time.year:04}{time.strftime(_FORMAT[2:])}"

    def is_ahead(self, name: str, now: datetime) -> bool:
        """Whether NAME lies in the future at NOW (naive local time), by more than an hour."""
        return bool(self.ahead([name], now))

    def ahead(self, names: Iterable[str], now: datetime) -> list[str]:
        """Those of NAMES that lie in the future at NOW, sorted."""
        horizon = _horizon(now)
        return sorted(name for name in names if (time := self.time(name)) and time > horizon)

    def newest(self, names: Iterable[str], now: datetime) -> str | None:
        """The name of ours that sorts last among those that do not lie in the future at NOW, or else among all."""
        horizon = _horizon(now)
        own = ((time <= horizon, name) for name in names if (time := self.time(name)))
        return max(own, default=(False, None))[1]

    def next(self, now: datetime, names: Iterable[str]) -> str:
        """A name, not among NAMES, for a snapshot taken at NOW (naive local time).

        It sorts after each one of ours that does not lie in the future. Raises Failure at the end of the calendar.
        """
        taken = set(names)
        newest = self.newest(taken, now)
        wanted = self.name(now)
        if newest is None or newest < wanted or self.is_ahead(newest, now):
            return wanted
        time = self.time(newest)
        assert time is not None
        try:
            while (name := self.name(time)) in taken:
                time += timedelta(seconds=1)
        except OverflowError:
            raise Failure(f"no name sorts after '{newest}'", "Delete or rename that snapshot.") from None
        return name


def prefix_of(name: str) -> str:
    """The prefix of a name that is of the form PREFIX + YYYYMMDD-HHMMSS."""
    return name[:-STAMP_LENGTH]


def is_backup_name(name: str) -> bool:
    """Whether NAME is of the form PREFIX + YYYYMMDD-HHMMSS, with whatever prefix."""
    return name in Naming(prefix_of(name))


def inside(path: str) -> list[tuple[str, str]]:
    """What may be the backup that PATH is in, by its name, the topmost first, and the path there; none for a backup."""
    names = path.split("/")
    places = [number for number, name in enumerate(names, 1) if is_backup_name(name)]
    if len(names) in places:
        return []
    return [("/".join(names[:number]), "/".join(names[number:])) for number in places]
