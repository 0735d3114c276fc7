"""The entry: messages, signals, and the only place that exits."""

import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NoReturn

from btrfs_backup.system import hints, process, signals

signals.end_at_once()
# ruff: noqa: E402 (what follows takes a while to be read)

from btrfs_backup.cli import parser
from btrfs_backup.errors import Failure, Interrupted
from btrfs_backup.model.settings import Settings
from btrfs_backup.report import terminal
from btrfs_backup.report.outcome import Exit, Report, Restoration, Survey, Tally, exit_status
from btrfs_backup.report.terminal import harmless
from btrfs_backup.report.text import (
    differences,
    intentions,
    restore_intentions,
    restored,
    summary,
    verification_summary,
)

log = logging.getLogger("btrfs_backup")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what ARGV (default: the arguments of this process) asks for; returns the exit status."""
    terminal.open_closed_streams()
    _set_up_messages()
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except Exception as error:
        return exit_status(None, _unforeseen(error))


def _main(argv: Sequence[str]) -> int:
    # Whoever reads our help through a pipe may have seen enough. In a run it is different.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        settings = parser.parse(argv)
    except Failure as failure:
        log.error("%s", failure)
        return exit_status(None, failure)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    log.setLevel(settings.verbosity.upper())
    with signals.noted(), process.guarded():
        status = _carry_out(settings)
        late = signals.unheard()
    return Exit.SIGNAL + late if late else status


def run() -> NoReturn:
    """The same for this process, which ends with that status."""
    gc.disable()  # looking for garbage takes a tenth of a short run, and a long one makes none to speak of
    status = main()
    terminal.drop_unwritten()
    gc.freeze()  # Python looks for it once more when it ends
    sys.exit(status)


def _carry_out(settings: Settings) -> int:
    """Do what is asked for, and tell what came of it: to people, or in a document to programs."""
    began = datetime.now().astimezone()
    task = _task(settings)
    ended_by = _run(task)
    error = ended_by if isinstance(ended_by, Failure) else None
    if isinstance(ended_by, Interrupted):
        error = Failure(task.interrupted(_name(ended_by.signum)))
        log.error("%s", error)
    status = exit_status(task.about, ended_by)
    try:
        if settings.json:
            from btrfs_backup.report.document import document

            ended, interrupted = datetime.now().astimezone(), isinstance(ended_by, Interrupted)
            terminal.line(document(task.name, began, ended, status, error, task.about, interrupted))
        elif not isinstance(ended_by, Failure):
            for line in task.print() if task.print else ():
                terminal.line(line)
    except Failure as failure:
        log.error("%s", failure)
        status = status or Exit.FAILED
    # Behind what it sums up, where both go to one place.
    if task.tell and not isinstance(ended_by, Failure):
        _tell(task.tell())
    return status


@dataclass(frozen=True)
class _Task:
    """work: does it; about: what it writes down; tell: lines for the log, and whether each is about a failure;
    print: lines for stdout; interrupted: what to say when the signal of that name has ended it."""

    name: str
    about: Report | Survey | Restoration
    work: Callable[[], None]
    tell: Callable[[], Iterable[tuple[bool, str]]] | None = None
    print: Callable[[], Iterable[str]] | None = None
    interrupted: Callable[[str], str] = "ended by {}".format


# Each imports what it needs by itself: a run that has nothing to do spends most of its time on starting.


def _task(settings: Settings) -> _Task:
    source = Tally(settings.source.identity)
    if settings.restore:
        return _restoration(settings)
    if settings.status:
        import shutil

        from btrfs_backup.commands.status import look_around
        from btrfs_backup.report.table import table

        survey = Survey(source)
        width = shutil.get_terminal_size().columns
        return _Task(
            "status",
            survey,
            lambda: look_around(settings, survey),
            print=lambda: table(survey, width, terminal.in_colour()),
        )
    report = Report(source)
    if settings.verify:
        from btrfs_backup.commands.verify import verify

        return _Task(
            "verify",
            report,
            lambda: verify(settings, report),
            lambda: verification_summary(report),
            lambda: differences(report),
        )
    if settings.dry_run:
        from btrfs_backup.commands.dry_run import dry_run

        return _Task("dry-run", report, lambda: dry_run(settings, report), print=lambda: intentions(report))
    from btrfs_backup.commands.backup import backup

    recorded = "ended by {}; what is recorded as outstanding is sent by the next run"
    return _Task("run", report, lambda: backup(settings, report), lambda: summary(report), interrupted=recorded.format)


def _restoration(settings: Settings) -> _Task:
    from btrfs_backup.commands.restore import restore

    report = Restoration(settings.source.identity, settings.destinations[0].identity)

    def interrupted(name: str) -> str:
        result = "it is restored" if report.done else "it is not restored; the same command begins anew"
        return f"{report.destination}: ended by {name}; {result}"

    work = partial(restore, settings, report)
    if settings.dry_run:
        return _Task("dry-run", report, work, print=lambda: restore_intentions(report))
    return _Task("restore", report, work, lambda: restored(report), interrupted=interrupted)


def _run(task: _Task) -> BaseException | None:
    """Do the work of TASK; what ended it before it was done. Failures have been told."""
    try:
        task.work()
        signals.check()
    except Failure as failure:
        log.error("%s", failure)
        return failure
    except Interrupted as interrupted:
        return interrupted
    except Exception as error:
        about = task.about if isinstance(task.about, Restoration) else task.about.source
        about.failures.append(_unforeseen(error))
    return None


def _unforeseen(error: Exception) -> Failure:
    """An ERROR that nothing was prepared for, which is told, as a failure."""
    import traceback

    log.debug("%s", "".join(traceback.format_exception(error)))
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = f"unforeseen: {type(error).__name__}: {error} (line {place.lineno} of {place.filename})"
    known = hints.hint(str(error), "", True) if isinstance(error, OSError) else ""
    failure = Failure(words, known or "What else is said here holds. Please report this, with what '-v debug' tells.")
    log.error("%s", failure)
    return failure


def _tell(lines: Iterable[tuple[bool, str]]) -> None:
    for failed, line in lines:
        log.log(logging.ERROR if failed else logging.INFO, "%s", line)


def _name(signum: int) -> str:
    return signal.Signals(signum).name


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # subscriptable since Python 3.11
    """Messages do not run into the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        terminal.clear()
        super().emit(record)


class _Formatter(logging.Formatter):
    """Says plainly what it is; only warnings and errors are called so. The same hint is given once."""

    def __init__(self) -> None:
        super().__init__()
        self._hints: set[str] = set()

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        for failure in [each for each in record.args or () if isinstance(each, Failure) and each.hint]:
            if failure.hint in self._hints:
                text = text.replace(str(failure), failure.message)
            self._hints.add(failure.hint)
        message = harmless(text)
        return message if record.levelno == logging.INFO else f"{record.levelname.lower()}: {message}"


def _set_up_messages() -> None:
    # File names need not be UTF-8.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    handler = _Handler()
    handler.setFormatter(_Formatter())
    log.handlers = [handler]
    logging.raiseExceptions = False  # a message that cannot be written is lost, and no more
    log.propagate = False


if __name__ == "__main__":
    run()
