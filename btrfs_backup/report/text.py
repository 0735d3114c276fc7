"""What a run came to, in lines for people. Pure."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from btrfs_backup.model.outcome import Outcome, Report, Restoration, Sent, plural, span
from btrfs_backup.model.sizes import Sizes

if TYPE_CHECKING:  # few runs need them
    from btrfs_backup.model.manifest import Comparison


def summary(report: Report) -> list[tuple[bool, str]]:
    """One line for the source and one for each destination, each with whether it reports a failure."""
    source = report.source
    taken = f"took {report.snapshot}" if report.snapshot else "took no snapshot"
    lines = [_line(source, [taken], "snapshot")]
    if not report.destinations:
        lines.append((False, f"{source.place}: nothing was backed up: no DEST is given"))
    lines += [_line(outcome, [_sending(outcome)], "backup") for outcome in report.destinations]
    return lines


def copied(report: Report) -> list[tuple[bool, str]]:
    """One line for each place that backups were copied to, with whether it reports a failure."""
    source = [(True, f"{report.source.place}: FAILED")] if report.source.failed else []
    return source + [_line(outcome, [_sending(outcome)], "backup") for outcome in report.destinations]


def pruned(report: Report) -> list[tuple[bool, str]]:
    """One line for a folder of backups that was pruned, with whether it reports a failure."""
    return [_line(report.source, [] if report.source.deleted else ["deleted nothing"], "backup")]


def intentions(report: Report) -> list[str]:
    """What a dry run found that a run would do, line by line."""
    lines = [f"{report.source.place}: would take snapshot {report.snapshot}"] if report.snapshot else []
    for outcome in report.destinations:
        lines += [f"{outcome.place}: {what}" for what in _intended(outcome)]
    return lines + [f"{report.source.place}: {what}" for what in (*_failing(report.source), *_pruning(report.source))]


def _intended(outcome: Outcome) -> Iterator[str]:
    if outcome.absent:
        yield f"absent, {len(outcome.outstanding)} outstanding ({span(outcome.outstanding)})"
        return
    for name in outcome.cleared:
        yield f"would delete {name}, a transfer that was cut off"
    for sent in outcome.sent:
        how = form(sent.parent)
        how += f", on from {size(sent.resumed_from)}" if sent.resumed_from else ""
        how += f", because {sent.because}" if sent.because else ""
        yield f"would send {sent.snapshot} {how}: {_volume([sent])}"
    if outcome.sent:
        yield f"would send {plural(len(outcome.sent), 'snapshot')}: {_volume(outcome.sent)}{_room(outcome.free)}"
        yield from _scarcity(outcome.sent, outcome.free)
    elif not outcome.failures:
        yield "would send nothing"
    yield from _failing(outcome)
    yield from _pruning(outcome)


def _volume(sent: Sequence[Sent]) -> str:
    known = sum(max(0, (each.bytes or 0) - each.resumed_from) for each in sent)
    more = any(each.bytes is None for each in sent)
    if not known:
        return "size not known before"
    return f"about {size(known)}{' and more' if more else ''}"


def _room(free: int | None) -> str:
    return f", {size(free)} free there" if free is not None else ""


def _scarcity(sent: Sequence[Sent], free: int | None) -> Iterator[str]:
    """Not for certain: the destination may compress what it gets."""
    if free is not None and sum((each.bytes or 0) - each.resumed_from for each in sent) > free:
        yield "would probably fill the disk: that is more than is free there"


def _failing(outcome: Outcome) -> Iterator[str]:
    yield from (f"would fail: {failure.message}" for failure in outcome.failures)


def _pruning(outcome: Outcome) -> Iterator[str]:
    kept = outcome.kept or {}
    for name in outcome.deleted:
        held = alone(outcome.sizes, name)
        yield f"would delete {name}{held and f', which alone holds {held}'}"
    if outcome.deleted and outcome.sizes and outcome.sizes.alone:
        yield f"would free {freed(outcome.sizes)} by that"
    if kept and not outcome.deleted:
        yield f"would keep all of {len(kept)}"
        return
    for name, because in kept.items():
        held = alone(outcome.sizes, name)
        yield f"would keep {name}: {', '.join(because)}{held and f'; it alone holds {held}'}"


def alone(sizes: Sizes | None, name: str) -> str:
    """How much only NAME holds; empty when that is not known."""
    if not sizes or name not in sizes.alone:
        return ""
    return f"{'at least ' if sizes.more else ''}{size(sizes.alone[name])}"


def freed(sizes: Sizes) -> str:
    """How much is freed by all that is to be deleted."""
    counted = " (compressed data counted in full)" if sizes.more else ""
    return f"{'at least ' if sizes.more_freed else ''}{size(sizes.freed)}{counted}"


def restore_intentions(report: Restoration) -> list[str]:
    """What a dry run found that a restore would do."""
    if not report.copy:
        return [f"{report.destination}: would copy {report.source}"]
    lines = [f"{report.destination}: would restore {report.backup} from {report.source}, {report.intended}"]
    if report.sent:
        begun = report.sent.resumed_from
        on = f", on from {size(begun)}" if begun else ""
        lines.append(f"{report.destination}: would send {_volume([report.sent])}{on}{_room(report.free)}")
        lines += [f"{report.destination}: {what}" for what in _scarcity([report.sent], report.free)]
    return [*lines, f"{report.destination}: its read-only copy would be {report.copy}"]


def restored(report: Restoration) -> list[tuple[bool, str]]:
    """What was restored, and how to go on; nothing when it was not."""
    if not report.done:
        return []
    if not report.copy:
        return [(False, f"{report.destination}: copied {report.source}")]
    taken = f", taken {report.taken:%Y-%m-%d %H:%M:%S}," if report.taken else ""
    sent = report.sent
    moved = pace((sent.bytes or 0) - sent.resumed_from, sent.seconds or 0) if sent else "nothing had to be sent"
    return [
        (report.failed, f"{report.destination}: restored {report.backup}{taken} from {report.source} ({moved})"),
        (False, f"its next backup, if it replaces the original (else give it a folder of its own): {report.go_on}"),
    ]


def _line(outcome: Outcome, parts: list[str], noun: str) -> tuple[bool, str]:
    if outcome.outstanding:
        parts.append(f"{len(outcome.outstanding)} outstanding ({span(outcome.outstanding)})")
    if outcome.deleted:
        parts.append(f"deleted {plural(len(outcome.deleted), noun)}")
    if outcome.kept is not None:
        parts.append(f"{plural(len(outcome.kept), noun)} there")
    if outcome.failures:
        briefs = dict.fromkeys(failure.brief for failure in outcome.failures if failure.brief)
        parts.insert(0, f"FAILED ({', '.join(briefs)})" if briefs else "FAILED")
    return bool(outcome.failures), f"{outcome.place}: {', '.join(parts)}"


def verification_summary(report: Report) -> list[tuple[bool, str]]:
    """One line for the source if it failed and for each destination, each with whether it reports a failure."""
    source = [(True, f"{report.source.place}: FAILED")] if report.source.failed else []
    return source + [(outcome.failed, f"{outcome.place}: {_verifying(outcome)}") for outcome in report.destinations]


def _verifying(outcome: Outcome) -> str:
    failed = "FAILED, " if outcome.failed else "absent, " if outcome.absent else ""
    if not outcome.verified:
        return f"{failed}compared nothing"
    names = [each.snapshot for each in outcome.verified]
    return f"{failed}compared {plural(len(names), 'backup')} ({span(names)}): {findings(outcome.verified)}"


def findings(comparisons: "Sequence[Comparison]") -> str:
    """What came of COMPARISONS: `12 files with 9.4 MB, no difference`."""
    files = plural(sum(each.files for each in comparisons), "file")
    data = size(sum(each.bytes for each in comparisons))
    count = sum(len(each.differences) for each in comparisons)
    return f"{files} with {data}, {plural(count, 'difference') if count else 'no difference'}"


def differences(report: Report) -> Iterator[str]:
    """A line for each that was found; what cannot be printed is written as Python does, a backslash twice."""
    for outcome in report.destinations:
        for comparison in outcome.verified:
            for each in comparison.differences:
                yield printable(f"{outcome.place} {comparison.snapshot}: {each.path or '.'}: {each.what}")


def printable(text: str) -> str:
    """TEXT in one line, a backslash twice."""
    return "".join(
        f"\\x{ord(each) - 0xDC00:02x}"  # a byte that is not UTF-8
        if "\udc80" <= each <= "\udcff"
        else each
        if each.isprintable() and each != "\\"
        else repr(each)[1:-1]
        for each in text
    )


def _sending(outcome: Outcome) -> str:
    if outcome.absent:
        return "absent"
    if not outcome.sent:
        return "sent nothing"
    incremental = sum(1 for sent in outcome.sent if sent.parent)
    how = f"{incremental} incremental, " if incremental else ""
    moved = size(sum(sent.bytes or 0 for sent in outcome.sent))
    before = sum(sent.resumed_from for sent in outcome.sent)
    moved += f", {size(before)} of it before" if before else ""
    if len(outcome.sent) > 1:
        moved += f"{',' if before else ''} in {sum(sent.seconds or 0 for sent in outcome.sent):.1f} s"
    return f"sent {plural(len(outcome.sent), 'snapshot')} ({how}{moved})"


def size(count: float) -> str:
    """A number of bytes with a decimal unit, e.g. 21.3 MB."""
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 1)):
        if round(count, digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def form(parent: str | None) -> str:
    """How a snapshot is sent that has that PARENT, or none."""
    return f"on top of {parent}" if parent else "in full"


def pace(count: int, seconds: float) -> str:
    """Bytes and seconds, and the rate when there is enough to tell one: `22.0 MB in 0.1 s, 259.3 MB/s`."""
    took = f"{size(count)} in {seconds:.1f} s"
    # The time of a small stream is that of starting programs and of the commit.
    return f"{took}, {size(count / seconds)}/s" if count >= 1_000_000 and seconds > 0 else took
