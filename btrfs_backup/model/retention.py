"""A KEEP policy: which snapshots or backups stay, and why."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from btrfs_backup.model.snapshot import Naming

# Each unit: its name, and what is the same for two times that share such a period.
_UNITS: dict[str, tuple[str, Callable[[datetime], object], str]] = {
    "h": ("hour", lambda time: (time.date(), time.hour), "%Y-%m-%d %H:00"),
    "d": ("day", lambda time: time.date(), "%Y-%m-%d"),
    "w": ("week", lambda time: time.isocalendar()[:2], "%G-W%V"),
    "m": ("month", lambda time: (time.year, time.month), "%Y-%m"),
    "y": ("year", lambda time: time.year, "%Y"),
}


@dataclass(frozen=True)
class Policy:
    """Keep the LATEST ones and the newest of each of the last COUNT periods of a unit; latest None: keep all."""

    latest: int | None = None
    periods: tuple[tuple[str, int], ...] = ()


KEEP_ALL = Policy()


@dataclass(frozen=True)
class Kept:
    """A snapshot or backup that stays, with the reasons."""

    name: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """kept and dropped together are all that was judged, each in the order of names."""

    kept: tuple[Kept, ...]
    dropped: tuple[str, ...]


def parse(text: str) -> Policy:
    """The policy that TEXT spells, e.g. `3`, `all`, `3 24h 7d 4w 12m 5y` (blanks or commas).

    Raises ValueError with a text for the user when it spells none or would keep nothing.
    """
    words = text.replace(",", " ").split()
    if words in (["all"], ["0"]):
        return KEEP_ALL
    counts: dict[str, int] = {}
    for word in words:
        match = re.fullmatch(r"([0-9]{1,9})([hdwmy]?)", word)
        if not match:
            raise ValueError(f"'{word}' is not a number, optionally followed by one of h d w m y")
        if match[2] in counts:
            raise ValueError(f"'{word}' names the same unit a second time")
        counts[match[2]] = int(match[1])
    if not any(counts.values()):
        raise ValueError("it would keep nothing; to keep everything use 'all'")
    latest = counts.pop("", 0)
    return Policy(latest, tuple((unit, counts[unit]) for unit in _UNITS if counts.get(unit)))


def decide(
    policy: Policy, naming: Naming, names: Iterable[str], protected: Mapping[str, Sequence[str]], now: datetime
) -> Verdict:
    """Which of NAMES stay under POLICY. The newest always stays, and so do those PROTECTED, for the reasons given.

    Those that lie in the future at NOW stay, and the others are judged as if these were not there.
    """
    times = {name: naming.time(name) for name in sorted(names)}
    return decide_by_time(policy, times, naming.ahead(times, now), protected)


def decide_by_time(
    policy: Policy,
    times: Mapping[str, datetime | None],
    ahead: Iterable[str],
    protected: Mapping[str, Sequence[str]],
) -> Verdict:
    """The same of those that have TIMES, in their order; AHEAD: those that lie in the future."""
    reasons: dict[str, list[str]] = {name: [] for name in times}
    for name in ahead:
        reasons[name].append("lies in the future")
    ordered = [name for name, because in reasons.items() if not because]
    for name, reason in _by_policy(policy, times, ordered):
        reasons[name].append(reason)
    if ordered and not reasons[ordered[-1]]:
        reasons[ordered[-1]].append("newest")
    for name, because in reasons.items():
        because.extend(protected.get(name, ()))
    return Verdict(
        tuple(Kept(name, tuple(because)) for name, because in reasons.items() if because),
        tuple(name for name, because in reasons.items() if not because),
    )


def _by_policy(
    policy: Policy, times: Mapping[str, datetime | None], ordered: Sequence[str]
) -> Iterable[tuple[str, str]]:
    if policy.latest is None:
        yield from ((name, "keep all") for name in ordered)
        return
    for place, name in enumerate(reversed(ordered[-policy.latest :] if policy.latest else ())):
        yield name, f"latest {place + 1} of {policy.latest}"
    known = [(place, name, time) for place, name in enumerate(ordered) if (time := times[name])]
    for unit, count in policy.periods:
        word, period, form = _UNITS[unit]
        newest = {period(time): (place, name, time) for place, name, time in known}
        for _, name, time in sorted(newest.values(), reverse=True)[:count]:
            yield name, f"{word} {time.strftime(form)}"
