"""A stage: the folder `.NAME.receiving` beside a backup, in which that is received.

    FOLDER/NAME                             the backup, published when it is whole, proved and on disk
    FOLDER/.NAME.receiving/ATTEMPT/NAME     the same while it comes in

A backup has its name only when it is complete, whatever happened before. Each attempt has a folder of its own: a
receiver of an earlier one that is still at work has nothing in common with it. Its name tells of which snapshot it is:
two sources can have snapshots of one name.

Versions before 1.1 received under the name itself, and marked that by an empty folder `.NAME.receiving`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from btrfs_backup.model.snapshot import Subvolume

FILE, FOLDER, SUBVOLUME = "file", "folder", "subvolume"

UNPRINTABLE = re.compile(r"[\0-\x1f\x7f]")  # a name that breaks lines could imitate others in lists
_STAGE = re.compile(r"\.(.+)\.receiving(?:\.\d{1,3})?", re.DOTALL)
_ATTEMPT = re.compile(r"[\w.-]{1,64}-\d+-[0-9a-f]{8}(?:[0-9a-f]{8}){0,2}", re.ASCII)
_TIME = 16  # hexadecimal digits, of nanoseconds


@dataclass(frozen=True)
class Stage:
    """A stage as it was found, or what has its name.

    entry: its name; name: of the backup. attempts: names of the folders in it; subvolumes: those in the attempts.
    foreign: what is in it, or is it, that is not of a transfer; empty when nothing is.
    holder: who receives into it; empty when nobody does.
    """

    entry: str
    name: str
    attempts: tuple[str, ...] = ()
    subvolumes: tuple[Subvolume, ...] = ()
    foreign: str = ""
    holder: str = ""

    @property
    def is_mark(self) -> bool:
        """Whether it may be the mark of an older version."""
        return not (self.attempts or self.foreign)

    def is_of(self, stream_uuid: str) -> bool:
        """Whether it may be of the snapshot with that stream UUID; the names of some attempts do not tell."""
        return {each.rpartition("-")[2][_TIME:] for each in self.attempts} <= {"", stream_uuid[:8]}


def entry(name: str, taken: frozenset[str] = frozenset()) -> str:
    """The name of a stage for the backup NAME that is not among those TAKEN."""
    wanted = f".{name}.receiving"
    numbered = (f"{wanted}.{number}" for number in range(2, 1000))
    return next(each for each in (wanted, *numbered) if each not in taken)


def name_of(entry: str) -> str | None:
    """The backup that the stage ENTRY is for, None when it is no stage."""
    match = _STAGE.fullmatch(entry)
    return match[1] if match else None


def level(path: str) -> int:
    """Where the relative PATH is: 0 outside of stages, 1 a stage, 2 an attempt, 3 something that was received in one.

    Raises ValueError when it is anything else in a stage.
    """
    names = path.split("/")
    inside = next((names[number:] for number, name in enumerate(names) if _STAGE.fullmatch(name)), [])
    if len(inside) > 3 or (len(inside) > 1 and not _ATTEMPT.fullmatch(inside[1])):
        raise ValueError("it is not one of the places in a stage")
    return len(inside)


def attempt(host: str, pid: int, now: int, stream_uuid: str = "") -> str:
    """The name of an attempt by the process PID on HOST to receive the snapshot with that stream UUID, if it is known.

    now: nanoseconds since 1970.
    """
    name = re.sub("[^A-Za-z0-9_.-]", "_", host)[:64] or "localhost"
    return f"{name}-{pid}-{now:0{_TIME}x}{stream_uuid[:8]}"


def who(stage: Stage) -> str:
    """Whose attempt is the latest in it, for people: `process 123 on host`."""
    latest = max((each.rsplit("-", 2)[::-1] for each in stage.attempts), default=None)
    return f"process {latest[1]} on {latest[2]}" if latest else "an unknown process"


def found(entry: str, name: str, kind: str, inside: Mapping[str, str], subvolumes: Mapping[str, Subvolume]) -> Stage:
    """What was found as ENTRY: its KIND, the kinds of all that is INSIDE it, by paths, and the SUBVOLUMES there."""
    if kind != FOLDER:
        return Stage(entry, name, foreign=f"it is a {kind}")
    attempts = tuple(sorted(path for path in inside if "/" not in path))
    strange = [each for each in attempts if inside[each] != FOLDER or not _ATTEMPT.fullmatch(each)]
    if strange:
        return Stage(entry, name, foreign=f"'{strange[0]}' is in it, which is not of a transfer")
    return Stage(entry, name, attempts, tuple(subvolumes[path] for path in sorted(subvolumes)))
