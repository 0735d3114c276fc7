"""What happened as one JSON document, for programs. Its fields are described in the README. Pure."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from btrfs_backup import __version__
from btrfs_backup.errors import Failure
from btrfs_backup.model.outcome import Outcome, Place, Report, Restoration, Sent, Survey
from btrfs_backup.model.sizes import Sizes

if TYPE_CHECKING:  # few runs need them
    from btrfs_backup.model.changes import Changes
    from btrfs_backup.model.versions import Versions

Value = Mapping[str, Any]


def document(
    command: str,
    began: datetime,
    ended: datetime,
    exit_status: int,
    error: Failure | None,
    about: "Report | Survey | Restoration | Changes | Versions",
    interrupted: bool = False,
) -> str:
    """The document for a COMMAND (run, dry-run, status, verify, restore, prune, diff, find, copy).

    began, ended: with their time zone.
    error: what ended it before it had done its work, INTERRUPTED when that was a signal.
    """
    fields: dict[str, Any] = {
        "program": "btrfs-backup",
        "version": __version__,
        "command": command,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round((ended - began).total_seconds(), 3),
        "exit_status": exit_status,
        "error": _failure(error) if error else None,
    }
    if isinstance(about, Report):
        fields |= _report(about, "interrupted" if interrupted else "not reached" if error else "ok")
    elif isinstance(about, Survey):
        fields |= _survey(about)
    elif isinstance(about, Restoration):
        fields |= _restoration(about)
    else:
        from btrfs_backup.model.changes import Changes

        fields |= _changes(about) if isinstance(about, Changes) else _versions(about)
    return json.dumps(fields, indent=2)


def _report(report: Report, state: str) -> Value:
    return {
        "snapshot": report.snapshot,
        "source": _outcome(report.source, state),
        "destinations": [_outcome(outcome, state) for outcome in report.destinations],
    }


def _outcome(outcome: Outcome, state: str) -> Value:
    """STATE: of whatever is neither absent nor failed."""
    return {
        "location": outcome.place,
        "state": "absent" if outcome.absent else "failed" if outcome.failed else state,
        "sent": [_sent(sent) for sent in outcome.sent],
        "cleared": outcome.cleared,
        "deleted": outcome.deleted,
        "kept": None
        if outcome.kept is None
        else [{"name": name, "because": because} for name, because in sorted(outcome.kept.items())],
        "outstanding": outcome.outstanding,
        "free_bytes": outcome.free,
        "sizes": _sizes(outcome.sizes),
        "verified": [
            {
                "snapshot": each.snapshot,
                "files": each.files,
                "bytes": each.bytes,
                "differences": [{"path": one.path, "what": one.what} for one in each.differences],
            }
            for each in outcome.verified
        ],
        "failures": [_failure(failure) for failure in outcome.failures],
    }


def _sizes(sizes: Sizes | None) -> Value | None:
    if not sizes:
        return None
    return {
        "alone": [{"name": name, "bytes": count} for name, count in sizes.alone.items()],
        "at_least": sizes.more,
        "deleting": sizes.going,
        "freed": sizes.freed,
        "freed_at_least": sizes.more_freed,
    }


def _sent(sent: Sent) -> Value:
    return {
        "snapshot": sent.snapshot,
        "parent": sent.parent,
        "bytes": sent.bytes,
        "seconds": _rounded(sent.seconds),
        "resumed_from": sent.resumed_from,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _failure(failure: Failure) -> Value:
    return {"message": failure.message, "hint": failure.hint}


def _survey(survey: Survey) -> Value:
    return {
        "source": {
            "location": survey.source.place,
            "sizes": _sizes(survey.source.sizes),
            "failures": [_failure(failure) for failure in survey.source.failures],
        },
        "snapshots": [
            {
                "name": row.snapshot,
                "source": row.states[0],
                "destinations": {
                    place.location: state for place, state in zip(survey.places, row.states[1:], strict=True)
                },
                "because": list(row.because),
                "kept": {place.location: list(kept) for place, kept in zip(survey.places, row.kept, strict=True)},
            }
            for row in survey.rows
        ],
        "destinations": [_place(place) for place in survey.places],
    }


def _place(place: Place) -> Value:
    return {
        "location": place.location,
        "label": place.label or None,
        "reachable": place.reachable,
        "newest": place.newest,
        "age_seconds": None if place.age is None else int(place.age.total_seconds()),
        "too_old": place.too_old,
        "owed": list(place.owed),
        "sizes": _sizes(place.sizes),
        "partial": [
            {
                "snapshot": each.snapshot,
                "bytes": each.bytes,
                "size": each.size,
                "since": each.since.isoformat() if each.since else None,
            }
            for each in place.parts
        ],
        "failures": [_failure(failure) for failure in place.failures],
    }


def _restoration(report: Restoration) -> Value:
    return {
        "source": report.source,
        "destination": report.destination,
        "backup": report.backup or None,
        "taken": report.taken.isoformat() if report.taken else None,
        "copy": report.copy or None,
        "sent": _sent(report.sent) if report.sent else None,
        "next_backup": report.go_on or None,
        "done": report.done,
        "failures": [_failure(failure) for failure in report.failures],
    }


def _changes(found: "Changes") -> Value:
    return {
        "old": found.old,
        "new": found.new,
        "changes": [
            {"what": each.what, "path": each.path, "before": each.before or None, "bytes": each.bytes}
            for each in found.changes
        ],
        "bytes": found.bytes,
        "folders": [{"path": path, "bytes": count} for path, count in found.folders],
    }


def _versions(about: "Versions") -> Value:
    return {
        "path": about.path,
        "places": [
            {
                "location": each.place,
                "names": list(each.names),
                "failures": [_failure(failure) for failure in [each.failure] if failure],
            }
            for each in about.looks
        ],
        "versions": [
            {
                "first": each.first,
                "last": each.last,
                "path": each.found.path,
                "bytes": None if each.found.is_folder else each.found.size,
                "modified": datetime.fromtimestamp(each.found.modified // 10**9).astimezone().isoformat(),
                "places": [about.looks[number].place for number in each.places],
                "copy": each.copy,
                "note": each.note,
            }
            for each in about.all
        ],
    }
