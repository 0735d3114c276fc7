"""What a run came to, in lines for people. Pure."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from btrfs_backup.report.outcome import Report, Restoration, Sent, Tally

if TYPE_CHECKING:  # few runs need them
    from btrfs_backup.model.manifest import Comparison


def summary(report: Report) -> list[tuple[bool, str]]:
    """One line for the source and one for each destination, each with whether it reports a failure."""
    source = report.source
    taken = f"took {report.snapshot}" if report.snapshot else "took no snapshot"
    lines = [_line(source, [taken], "snapshot")]
    lines += [_line(tally, [_sending(tally)], "backup") for tally in report.destinations]
    return lines


def intentions(report: Report) -> list[str]:
    """What a dry run found that a run would do, line by line."""
    lines = [f"{report.source.place}: would take snapshot {report.snapshot}"] if report.snapshot else []
    for tally in report.destinations:
        lines += [f"{tally.place}: {what}" for what in _intended(tally)]
    return lines + [f"{report.source.place}: {what}" for what in (*_failing(report.source), *_pruning(report.source))]


def _intended(tally: Tally) -> Iterator[str]:
    if tally.absent:
        yield f"absent, {len(tally.outstanding)} outstanding ({span(tally.outstanding)})"
        return
    for name in tally.cleared:
        yield f"would delete {name}, a transfer that was cut off"
    for sent in tally.sent:
        how = f"on top of {sent.parent}" if sent.parent else "in full"
        yield f"would send {sent.snapshot} {how}: {_volume([sent])}"
    if tally.sent:
        yield f"would send {plural(len(tally.sent), 'snapshot')}: {_volume(tally.sent)}{_room(tally.free)}"
        yield from _scarcity(tally.sent, tally.free)
    elif not tally.failures:
        yield "would send nothing"
    yield from _failing(tally)
    yield from _pruning(tally)


def _volume(sent: Sequence[Sent]) -> str:
    known = sum(each.bytes or 0 for each in sent)
    more = any(each.bytes is None for each in sent)
    if not known:
        return "size not known before"
    return f"about {size(known)}{' and more' if more else ''}"


def _room(free: int | None) -> str:
    return f", {size(free)} free there" if free is not None else ""


def _scarcity(sent: Sequence[Sent], free: int | None) -> Iterator[str]:
    """Not for certain: the destination may compress what it gets."""
    if free is not None and sum(each.bytes or 0 for each in sent) > free:
        yield "would probably fill the disk: that is more than is free there"


def _failing(tally: Tally) -> Iterator[str]:
    yield from (f"would fail: {failure.message}" for failure in tally.failures)


def _pruning(tally: Tally) -> Iterator[str]:
    kept = tally.kept or {}
    yield from (f"would delete {name}" for name in tally.deleted)
    if kept and not tally.deleted:
        yield f"would keep all of {len(kept)}"
        return
    yield from (f"would keep {name}: {', '.join(because)}" for name, because in kept.items())


def restore_intentions(report: Restoration) -> list[str]:
    """What a dry run found that a restore would do."""
    lines = [f"{report.destination}: would restore {report.backup} from {report.source}, {report.intended}"]
    if report.sent:
        lines.append(f"{report.destination}: would send {_volume([report.sent])}{_room(report.free)}")
        lines += [f"{report.destination}: {what}" for what in _scarcity([report.sent], report.free)]
    return [*lines, f"{report.destination}: its read-only copy would be {report.copy}"]


def restored(report: Restoration) -> list[tuple[bool, str]]:
    """What was restored, and how to go on; nothing when it was not."""
    if not report.done:
        return []
    taken = f", taken {report.taken:%Y-%m-%d %H:%M:%S}," if report.taken else ""
    moved = pace(report.sent.bytes or 0, report.sent.seconds or 0) if report.sent else "nothing had to be sent"
    return [
        (report.failed, f"{report.destination}: restored {report.backup}{taken} from {report.source} ({moved})"),
        (False, f"its next backup, if it replaces the original (else give it a folder of its own): {report.go_on}"),
    ]


def _line(tally: Tally, parts: list[str], noun: str) -> tuple[bool, str]:
    if tally.outstanding:
        parts.append(f"{len(tally.outstanding)} outstanding ({span(tally.outstanding)})")
    if tally.deleted:
        parts.append(f"deleted {plural(len(tally.deleted), noun)}")
    if tally.kept is not None:
        parts.append(f"{plural(len(tally.kept), noun)} there")
    if tally.failures:
        briefs = dict.fromkeys(failure.brief for failure in tally.failures if failure.brief)
        parts.insert(0, f"FAILED ({', '.join(briefs)})" if briefs else "FAILED")
    return bool(tally.failures), f"{tally.place}: {', '.join(parts)}"


def verification_summary(report: Report) -> list[tuple[bool, str]]:
    """One line for the source if it failed and for each destination, each with whether it reports a failure."""
    source = [(True, f"{report.source.place}: FAILED")] if report.source.failed else []
    return source + [(tally.failed, f"{tally.place}: {_verifying(tally)}") for tally in report.destinations]


def _verifying(tally: Tally) -> str:
    failed = "FAILED, " if tally.failed else "absent, " if tally.absent else ""
    if not tally.verified:
        return f"{failed}compared nothing"
    names = [each.snapshot for each in tally.verified]
    return f"{failed}compared {plural(len(names), 'backup')} ({span(names)}): {findings(tally.verified)}"


def findings(comparisons: "Sequence[Comparison]") -> str:
    """What came of COMPARISONS: `12 files with 9.4 MB, no difference`."""
    files = plural(sum(each.files for each in comparisons), "file")
    data = size(sum(each.bytes for each in comparisons))
    count = sum(len(each.differences) for each in comparisons)
    return f"{files} with {data}, {plural(count, 'difference') if count else 'no difference'}"


def differences(report: Report) -> Iterator[str]:
    """A line for each that was found; what cannot be printed is written as Python does, a backslash twice."""
    for tally in report.destinations:
        for comparison in tally.verified:
            for each in comparison.differences:
                yield _printable(f"{tally.place} {comparison.snapshot}: {each.path or '.'}: {each.what}")


def _printable(text: str) -> str:
    return "".join(
        f"\\x{ord(each) - 0xDC00:02x}"  # a byte that is not UTF-8
        if "\udc80" <= each <= "\udcff"
        else each
        if each.isprintable() and each != "\\"
        else repr(each)[1:-1]
        for each in text
    )


def span(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"


def _sending(tally: Tally) -> str:
    if tally.absent:
        return "absent"
    if not tally.sent:
        return "sent nothing"
    incremental = sum(1 for sent in tally.sent if sent.parent)
    how = f"{incremental} incremental, " if incremental else ""
    return f"sent {plural(len(tally.sent), 'snapshot')} ({how}{size(sum(sent.bytes or 0 for sent in tally.sent))})"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """A number of bytes with a decimal unit, e.g. 21.3 MB."""
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 1)):
        if round(count, digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def pace(count: int, seconds: float) -> str:
    """Bytes and seconds, and the rate when there is enough to tell one: `22.0 MB in 0.1 s, 259.3 MB/s`."""
    took = f"{size(count)} in {seconds:.1f} s"
    # The time of a small stream is that of starting programs and of the commit.
    return f"{took}, {size(count / seconds)}/s" if count >= 1_000_000 and seconds > 0 else took
