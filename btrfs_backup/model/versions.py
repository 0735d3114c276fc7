"""The versions of a file or folder: what snapshots and backups hold at its path, and what it was called. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from btrfs_backup.errors import Failure, UsageError

_WILD = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Wanted:
    """A path in a subvolume that may hold wildcards. start: its names before the first that does; rest: the others."""

    start: tuple[str, ...]
    rest: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str, source: str) -> "Wanted":
        """PATH is relative to the subvolume SOURCE, or an absolute one in it. Raises UsageError."""
        inside = path.removeprefix(source.rstrip("/") + "/") if path.startswith("/") else path
        names = [name for name in inside.split("/") if name not in ("", ".")]
        if inside.startswith("/") or ".." in names or "\0" in path or not names:
            raise UsageError(
                f"'{path}' is no path of a file or folder in '{source}'", "Give it relative to SOURCE, or in full."
            )
        wild = next((at for at, name in enumerate(names) if _WILD.search(name)), len(names))
        return cls(tuple(names[:wild]), tuple(names[wild:]))

    @property
    def last(self) -> tuple[str, str]:
        """Patterns for the last of its names: as a pattern, and as it stands."""
        name = self.rest[-1] if self.rest else "*"
        return name, re.sub(r"([\\*?[\]])", r"\\\1", name)

    def fits(self, path: str) -> bool:
        """Whether it is PATH, or its wildcards stand for names in PATH."""
        names, wanted = path.split("/"), (*self.start, *self.rest)
        return len(names) == len(wanted) and all(
            name == each or (number >= len(self.start) and fnmatchcase(name, each))
            for number, (name, each) in enumerate(zip(names, wanted, strict=True))
        )


@dataclass(frozen=True)
class Found:
    """A file or folder in a snapshot or backup. kind: a letter, as find(1) has it; modified: nanoseconds."""

    path: str
    inode: int
    kind: str
    size: int
    modified: int

    @property
    def is_folder(self) -> bool:
        return self.kind == "d"

    def is_like(self, other: "Found") -> bool:
        mine, its = ((each.path, each.kind, each.modified) for each in (self, other))
        return mine == its and (self.is_folder or self.size == other.size)


def parse(printed: str, folder: str) -> dict[tuple[str, str], Found]:
    """What find PRINTED of what is in FOLDER, by snapshot and path. Raises Failure."""
    found = {}
    for item in printed.split("\0")[:-1]:
        match = re.fullmatch(r"(\d+) (\w) (\d+) (-?\d+)\.(\d{9})\d* (.*)", item, re.DOTALL | re.ASCII)
        inside = match[6].removeprefix(f"{folder.rstrip('/')}/").split("/", 1) if match else []
        if not match or len(inside) < 2:
            what = f"cannot make versions of what 'find' printed: {item[:200]!r}"
            raise Failure(what, "A login shell must not print anything by itself when commands are run by ssh.")
        name, path = inside
        found[name, path] = Found(path, int(match[1]), match[2], int(match[3]), int(match[4] + match[5]))
    return found


@dataclass(frozen=True)
class Look:
    """A place with snapshots or backups of those NAMES, and what was found in them.

    versions: of one thing each, by its path: by the name of the snapshot or backup. failure: it could not be looked at.
    """

    place: str
    names: tuple[str, ...] = ()
    versions: Mapping[str, dict[str, Found]] = field(default_factory=dict)
    failure: Failure | None = None


@dataclass(frozen=True)
class Version:
    """A version, in the snapshots FIRST to LAST. places: numbers of those that have it; copy: where one can be had.

    note: how it came after the one before.
    """

    first: str
    last: str
    found: Found
    places: tuple[int, ...]
    copy: str
    note: str = ""


@dataclass(frozen=True)
class Versions:
    """All versions of what is at PATH, each thing by itself, the oldest first."""

    path: str
    looks: Sequence[Look] = ()

    @property
    def failed(self) -> bool:
        return any(each.failure for each in self.looks)

    @property
    def all(self) -> list[Version]:
        paths = sorted({path for look in self.looks for path in look.versions})
        return [version for path in paths for version in self._of(path)]

    def _of(self, path: str) -> Iterator[Version]:
        seen = [look.versions.get(path, {}) for look in self.looks]
        names = sorted({name for look in self.looks for name in look.names})
        runs: list[list[str]] = []
        gone, notes = False, []
        for name in names:
            now = _any(seen, name)
            if not now:
                gone = bool(runs)
                continue
            before = _any(seen, runs[-1][-1]) if runs else None
            other = bool(runs) and _is_another(seen, runs[-1], name)
            if before and before.is_like(now) and not (gone or other):
                runs[-1].append(name)
            else:
                runs.append([name])
                renamed = f"renamed from {before.path}" if before and before.path != now.path else ""
                made = "made anew" if other else renamed
                notes.append(", ".join(filter(None, ("deleted in between" if gone else "", made))))
            gone = False
        for run, note in zip(runs, notes, strict=True):
            have = tuple(number for number, each in enumerate(seen) if not each.keys().isdisjoint(run))
            last = max(name for name in run if name in seen[have[0]])
            found = seen[have[0]][last]
            copy = f"{self.looks[have[0]].place.rstrip('/')}/{last}/{found.path}"
            yield Version(run[0], run[-1], found, have, copy, note)


def _any(seen: Sequence[Mapping[str, Found]], name: str) -> Found | None:
    return next((each[name] for each in seen if name in each), None)


def _is_another(seen: Sequence[Mapping[str, Found]], run: Sequence[str], name: str) -> bool:
    """Whether the inode tells, somewhere, that what is in NAME is not the same thing as in RUN."""
    for each in seen:
        known = [before for before in run if before in each]
        if name in each and known:
            return each[name].inode != each[known[-1]].inode
    return False
