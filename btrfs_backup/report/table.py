"""The table of --status, for people. Pure."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from itertools import groupby

from btrfs_backup.model import survey as status
from btrfs_backup.model.outcome import Partial, Place, Row, Survey, plural
from btrfs_backup.model.sizes import Sizes
from btrfs_backup.report.text import alone, freed, size

_RED, _GREEN, _YELLOW, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLOURS = {
    status.MISSING: _RED,
    status.PARTIAL: _RED,
    status.OUTSTANDING: _RED,
    status.DELIVERED: _GREEN,
    status.FOREIGN: _YELLOW,
    status.OTHER: _YELLOW,
    status.UNDER_WAY: _YELLOW,
    status.UNKNOWN: _YELLOW,
}
_GAP = "  "
_NO_PLACES = "no destination is on record: name those that you want to see after SOURCE"
_OK, _DROPPED = "ok", "to delete"
_LACKING = (status.NOTHING, status.MISSING, status.OUTSTANDING, status.UNKNOWN)
_FEW = 2  # rows alike that are shown one by one
_MANY = 15  # lines behind which the header is out of sight on a terminal of 24, and repeated
# Reasons in short: what begins like that is replaced by the word.
_WORDS = {
    "keep all": "",
    "latest ": "latest",
    "hour ": "hour",
    "day ": "day",
    "week ": "week",
    "month ": "month",
    "year ": "year",
    "newest that ": "common",
    "newest": "newest",
    "lies in ": "future",
}
_AT = {
    "outstanding for ": "needed by",
    "needed by ": "needed by",
    "parent of one outstanding for ": "needed by",
    "last delivered to ": "last at",
    "not sent to ": "blocked at",
}


def table(survey: Survey, width: int, colour: bool) -> list[str]:
    """Its lines, at most WIDTH characters long where that is possible."""
    lines = [f"source: {survey.source.place}"]
    lines += [f"{number}: {place.location}" for number, place in enumerate(survey.places, 1)] or [_NO_PLACES]
    if survey.rows:
        lines += ["", *_grid(survey, width, colour)]
    lines += [""] if survey.places or survey.source.sizes else []
    lines += _freed("source", survey.source.sizes, width)
    for number, place in enumerate(survey.places, 1):
        lines += _standing(f"{number}: ", place, width, colour)
        for part in place.parts:
            lines += _wrapped(f"{number}: {_partial(part)}", width)
        lines += _freed(str(number), place.sizes, width)
    return lines


def _grid(survey: Survey, width: int, colour: bool) -> list[str]:
    """The table; the rows that no destination has are one where several follow each other."""
    places = survey.places
    groups = [list(group) for _, group in groupby(survey.rows, partial(_alike, survey.source.sizes))]
    shown = [row for group in groups for row in group if not _folds(group)]
    heads = ["snapshot", "age", *map(str, range(1, len(places) + 1))]
    cells = {row.snapshot: _cells(row, places) for row in shown}
    widths = [max(map(len, column)) for column in zip(heads, *cells.values(), strict=True)]
    header = _GAP.join([*(head.ljust(size) for head, size in zip(heads, widths, strict=True)), "source"])
    indent = sum(widths) + len(_GAP) * len(widths)
    lines = [header]
    for group in groups:
        if _folds(group):
            lines += _wrapped(_coloured(_folded(group), group[0].states[1:], colour), width)
            continue
        for row in group:
            first, *rest = textwrap.wrap(_at_source(row, survey), max(14, width - indent)) or [""]
            padded = [text.ljust(size) for text, size in zip(cells[row.snapshot], widths, strict=True)]
            states = [_coloured(text, [state], colour) for text, state in zip(padded[2:], row.states[1:], strict=True)]
            lines.append(_GAP.join([*padded[:2], *states, first]).rstrip())
            lines += [" " * indent + more for more in rest]
    return [*lines, header] if len(lines) > _MANY else lines


def _alike(sizes: Sizes | None, row: Row) -> object:
    """What is the same for rows that can be one: of snapshots that no destination has, or needs at the source.

    SIZES: at the source; each row has its own.
    """
    lacking = len(row.states) > 1 and all(state in _LACKING for state in row.states[1:])
    needed = any(reason.startswith(tuple(_AT)) for reason in row.because)
    return row.states if lacking and not needed and not alone(sizes, row.snapshot) else row.snapshot


def _folds(group: Sequence[Row]) -> bool:
    return len(group) > _FEW


def _folded(group: Sequence[Row]) -> str:
    first, states = group[0], group[0].states
    numbers = {
        state: ", ".join(str(number) for number, each in enumerate(states[1:], 1) if each == state)
        for state in dict.fromkeys(states[1:])
    }
    which = "at the source" if states[0] == status.COMPLETE else "on record"
    told = "; ".join(f"{state} at {where}" for state, where in numbers.items() if state != status.NOTHING)
    return f"{first.snapshot} to {group[-1].snapshot}: {len(group)} {which}, {told or 'at no destination'}"


def _cells(row: Row, places: Sequence[Place]) -> list[str]:
    kept = row.kept or ((),) * len(row.states)
    states = (_state(state, because) for state, because in zip(row.states[1:], kept, strict=False))
    held = (alone(place.sizes, row.snapshot) for place in places)
    sized = (_joined(", ", *each) for each in zip(states, held, strict=False))
    return [row.snapshot, _short_age(row.age), *sized]


def _joined(by: str, *texts: str) -> str:
    return by.join(filter(None, texts))


def _state(state: str, because: Sequence[str]) -> str:
    if state != status.COMPLETE:
        return state
    words = [word for reason in because[:1] if (word := _word(reason))]
    return " ".join([_OK, *words]) if because else _DROPPED


def _word(reason: str) -> str:
    return next((word for begin, word in _WORDS.items() if reason.startswith(begin)), reason)


def _at_source(row: Row, survey: Survey) -> str:
    """The state at the source; destinations that need the snapshot are named by their numbers."""
    held = alone(survey.source.sizes, row.snapshot)
    if row.states[0] != status.COMPLETE:
        return row.states[0]
    if not row.because:
        return _joined(", ", _DROPPED, held)
    policy = [_word(each) for each in row.because if not each.startswith(tuple(_AT))]
    first = [word for word in policy[:1] if word]
    needs: dict[str, list[str]] = {}
    for reason in row.because:
        if begin := next((each for each in _AT if reason.startswith(each)), ""):
            needs.setdefault(_AT[begin], []).append(_numbered(reason.removeprefix(begin), survey.places))
    told = [f"{word} {', '.join(sorted(set(where)))}" for word, where in needs.items()]
    return "; ".join([_joined(", ", " ".join([_OK, *first]), held), *told])


def _numbered(where: str, places: Sequence[Place]) -> str:
    """The destination that a reason names, by its number; the disk there only when another one is there."""
    for number, place in enumerate(places, 1):
        rest = where.removeprefix(place.location)
        if rest != where and re.match(r" \(|,|$", rest):
            disk = re.match(r" \(filesystem (.*)\)", rest)
            return f"{number} (other disk)" if disk and place.disk and disk[1] != place.disk else str(number)
    return "another DEST"


def _coloured(text: str, states: Iterable[str], colour: bool) -> str:
    code = next((_COLOURS[each] for each in states if each in _COLOURS), _GREEN if text.startswith(_OK) else "")
    return f"{code}{text}{_PLAIN}" if colour and code else text


def _standing(head: str, place: Place, width: int, colour: bool) -> list[str]:
    """What is to be said of a destination behind HEAD; what is bad is red."""
    disk = f' (disk "{place.label}")' if place.label else ""
    told = [] if place.reachable else [("cannot be looked at", _RED)]
    if place.newest and place.age is not None:
        known = "newest complete backup" if place.reachable else "newest known backup"
        told.append((f"{known} {place.newest}, {age(place.age)} old", ""))
    else:
        told.append(("no complete backup", ""))
    if place.owed:
        told.append((f"{plural(len(place.owed), 'snapshot')} to send, since {place.owed[0]}", ""))
    if place.too_old:
        told.append(("TOO OLD", _RED))
    ends = [*"," * (len(told) - 1), ""]
    chunks = [(f"{text}{end}", code) for (text, code), end in zip(told, ends, strict=True)]
    words = [(word, code) for text, code in chunks for word in ([text] if code else text.split())]
    return _flowing(f"{head}{place.location}{disk}:", words, width, colour)


def _flowing(first: str, words: Sequence[tuple[str, str]], width: int, colour: bool) -> list[str]:
    """FIRST and WORDS in lines of at most WIDTH characters, those behind the first one indented."""
    lines, length = [first], len(first)
    for word, code in words:
        if length + 1 + len(word) > width:
            lines.append("  ")
            length = 2
        lines[-1] += f" {code}{word}{_PLAIN}" if colour and code else f" {word}"
        length += 1 + len(word)
    return lines


def _freed(where: str, sizes: Sizes | None, width: int) -> list[str]:
    if not sizes or not sizes.going:
        return []
    return _wrapped(f"{where}: deleting {sizes.going} of {len(sizes.alone)} frees {freed(sizes)}", width)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False)


def _partial(each: Partial) -> str:
    share = f"{min(99, each.bytes * 100 // each.size)} %, " if each.size else ""
    whole = f" of {size(each.size)}" if each.size else ""
    since = f", since {each.since:%Y-%m-%d %H:%M}" if each.since else ""
    return f"{each.snapshot} is partial ({share}{size(each.bytes)}{whole}){since}; the next run goes on"


def _short_age(duration: timedelta | None) -> str:
    """In one unit: `59 min`, `47 h`, `400 d`; nothing for what is not known."""
    if duration is None:
        return "-"
    minutes = int(duration.total_seconds() // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"


def age(duration: timedelta) -> str:
    """In the two units that matter: `3 days 4 hours`, `5 minutes`; nothing is younger than that."""
    minutes = max(0, int(duration.total_seconds() // 60))
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return plural(days, "day") + (f" {plural(hours, 'hour')}" if hours else "")
    if hours:
        return plural(hours, "hour") + (f" {plural(minutes, 'minute')}" if minutes else "")
    return plural(minutes, "minute")
