"""The table of --status, for people. Pure."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from datetime import timedelta

from btrfs_backup.model import survey as status
from btrfs_backup.model.outcome import Place, Row, Survey, plural
from btrfs_backup.report.text import size

_RED, _GREEN, _YELLOW, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
_COLOURS = {
    status.COMPLETE: _GREEN,
    status.DELIVERED: _GREEN,
    status.MISSING: _RED,
    status.PARTIAL: _RED,
    status.OUTSTANDING: _RED,
    status.FOREIGN: _YELLOW,
    status.OTHER: _YELLOW,
    status.UNDER_WAY: _YELLOW,
    status.UNKNOWN: _YELLOW,
}
_GAP = "  "
_NO_PLACES = "no destination is on record: name those that you want to see behind SOURCE"


def table(survey: Survey, width: int, colour: bool) -> list[str]:
    """Its lines, at most WIDTH characters long where that is possible."""
    lines = [f"source: {survey.source.place}"]
    lines += [f"{number}: {place.location}" for number, place in enumerate(survey.places, 1)] or [_NO_PLACES]
    if survey.rows:
        lines += ["", *_grid(survey.rows, survey.places, width, colour)]
    lines += [""] if survey.places else []
    for place in survey.places:
        lines += [_standing(place, colour), *_partial(place)]
    return lines


def _grid(rows: Sequence[Row], places: Sequence[Place], width: int, colour: bool) -> list[str]:
    heads = ["snapshot", "source", *map(str, range(1, len(places) + 1))]
    cells = [[row.snapshot, *row.states] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    indent = sum(widths) + len(_GAP) * len(widths)
    room = max(20, width - indent)
    lines = [_GAP.join([*(head.ljust(size) for head, size in zip(heads, widths, strict=True)), "kept because"])]
    for row, texts in zip(rows, cells, strict=True):
        first, *rest = textwrap.wrap("; ".join(_short(each, places) for each in row.because), room) or [""]
        padded = [text.ljust(size) for text, size in zip(texts, widths, strict=True)]
        shown = [padded[0], *(_coloured(text, colour) for text in padded[1:])]
        lines.append(_GAP.join([*shown, first]).rstrip())
        lines += [" " * indent + more for more in rest]
    return lines


def _short(reason: str, places: Sequence[Place]) -> str:
    """Destinations by their numbers, filesystems by the beginning of their UUIDs."""
    for number, place in enumerate(places, 1):
        reason = re.sub(rf"\b(to|for) {re.escape(place.location)}( \(|,|$)", rf"\1 {number}\2", reason)
    return re.sub(r"\(filesystem ([0-9a-f]{8})[-0-9a-f]*\)", r"(disk \1)", reason)


def _coloured(text: str, colour: bool) -> str:
    code = _COLOURS.get(text.rstrip()) if colour else None
    return f"{code}{text}{_PLAIN}" if code else text


def _standing(place: Place, colour: bool) -> str:
    parts = ["" if place.reachable else "cannot be looked at"]
    if place.newest and place.age is not None:
        known = "newest complete backup" if place.reachable else "newest known backup"
        parts.append(f"{known} {place.newest}, {age(place.age)} old")
    else:
        parts.append("no complete backup")
    parts.append(f"{plural(len(place.owed), 'snapshot')} owed since {place.owed[0]}" if place.owed else "")
    line = f"{place.location}: {', '.join(filter(None, parts))}"
    if place.too_old:
        line += _coloured_word(": TOO OLD", _RED, colour)
    return line


def _partial(place: Place) -> Iterator[str]:
    for each in place.parts:
        share = f"{min(99, each.bytes * 100 // each.size)} %, " if each.size else ""
        whole = f" of {size(each.size)}" if each.size else ""
        since = f", since {each.since:%Y-%m-%d %H:%M}" if each.since else ""
        how_far = f"partial ({share}{size(each.bytes)}{whole}){since}"
        yield f"{place.location}: {each.snapshot}: {how_far}; the next run goes on"


def _coloured_word(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour else text


def age(duration: timedelta) -> str:
    """In the two units that matter: `3 days 4 hours`, `5 minutes`; nothing is younger than that."""
    minutes = max(0, int(duration.total_seconds() // 60))
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return plural(days, "day") + (f" {plural(hours, 'hour')}" if hours else "")
    if hours:
        return plural(hours, "hour") + (f" {plural(minutes, 'minute')}" if minutes else "")
    return plural(minutes, "minute")
