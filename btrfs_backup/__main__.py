"""The entry: messages, signals, and the only place that exits."""

from btrfs_backup.system import signals

signals.end_at_once()
# ruff: noqa: E402 (what follows takes a while to be read)

import gc
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from btrfs_backup.cli import checks, parser
from btrfs_backup.errors import Failure, Interrupted
from btrfs_backup.model.outcome import Exit, Outcome, Report, Restoration, Survey, exit_status
from btrfs_backup.model.settings import Settings
from btrfs_backup.report import terminal
from btrfs_backup.report.terminal import harmless
from btrfs_backup.report.text import (
    copied,
    differences,
    intentions,
    pruned,
    restore_intentions,
    restored,
    summary,
    verification_summary,
)
from btrfs_backup.system import hints, process

if TYPE_CHECKING:
    from btrfs_backup.model.changes import Changes
    from btrfs_backup.model.versions import Versions
    from btrfs_backup.model.world import World

log = logging.getLogger("btrfs_backup")

_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what ARGV (default: the arguments of this process) asks for; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    terminal.open_closed_streams()
    _set_up_messages(argv)
    try:
        return _main(argv)
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
    for warning in checks.warnings(settings):
        log.warning("%s", warning)
    with signals.noted(), process.guarded():
        status = _serve(settings.source.path) if settings.serve else _carry_out(settings)
        late = signals.unheard()
    return Exit.SIGNAL + late if late else status


def run() -> NoReturn:
    """The same for this process, which ends with that status."""
    gc.disable()  # looking for garbage takes a tenth of a short run, and a long one makes none to speak of
    status = main()
    terminal.drop_unwritten()
    gc.freeze()  # Python looks for it once more when it ends
    sys.exit(status)


def _serve(folder: str) -> int:
    """Do what a client asks of FOLDER; the exit status of that."""
    from btrfs_backup.commands.serve import serve

    try:
        if (request := os.environ.get("SSH_ORIGINAL_COMMAND")) is None:
            what = (
                "'--serve' is for sshd, which tells what a client asks for in SSH_ORIGINAL_COMMAND, and that is not set"
            )
            raise Failure(what, "See '--manual server'. With sudo, it has to keep that variable: 'env_keep'.")
        return serve(folder, request)
    except Failure as failure:
        log.error("%s", failure)
        return exit_status(None, failure)
    except Interrupted as interrupted:
        return exit_status(None, interrupted)


def _carry_out(settings: Settings) -> int:
    """Do what is asked for, and tell what came of it: to people, or in a document to programs."""
    began = datetime.now().astimezone()
    task = _task(settings)
    ended_by = _run(task)
    error = ended_by if isinstance(ended_by, Failure) else None
    if isinstance(ended_by, Interrupted):
        error = Failure(task.interrupted(_name(ended_by.signum)))
        log.error("%s", error)
    elif ended_by and not error:
        assert isinstance(ended_by, Exception)
        error = _unforeseen(ended_by)
    about = task.about()
    status = exit_status(about, ended_by)
    try:
        if settings.json:
            from btrfs_backup.report.document import document

            ended, interrupted = datetime.now().astimezone(), isinstance(ended_by, Interrupted)
            terminal.line(document(task.name, began, ended, status, error, about, interrupted))
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
    """One thing that the program can be asked for.

    work: does it; about: what came of it so far; tell: lines for the log, and whether each is about a failure; print:
    lines for stdout; interrupted: what to say when the signal of that name has ended it.
    """

    name: str
    work: Callable[[], None]
    about: "Callable[[], Report | Survey | Restoration | Changes | Versions]"
    tell: Callable[[], Iterable[tuple[bool, str]]] | None = None
    print: Callable[[], Iterable[str]] | None = None
    interrupted: Callable[[str], str] = "ended by {}".format


# Each imports what it needs by itself: a run that has nothing to do spends most of its time on starting.


def _task(settings: Settings) -> _Task:
    if settings.restore:
        return _restoration(settings)
    if settings.verify:
        return _verification(settings)
    if settings.diff:
        return _comparison(settings)
    if settings.find:
        return _search(settings)
    if settings.prune:
        return _pruning(settings)
    return _backup(settings)


def _backup(settings: Settings) -> _Task:
    """A run, and what looks like one: a dry run, a look at how things stand, a copy."""
    from btrfs_backup.commands.run import Real, Supposed, run

    kept = _Kept()
    actor: type[Real] = Supposed if settings.dry_run or settings.status else Real
    if settings.copy:
        from btrfs_backup.commands.copy import Copy, SupposedCopy

        actor = SupposedCopy if settings.dry_run else Copy

    def work() -> None:
        with ExitStack() as scope:
            run(actor(settings, scope), kept)

    def report() -> Report:
        nothing = tuple(Outcome(each.identity) for each in settings.destinations)
        return kept.world.report() if kept.world else Report(Outcome(settings.source.identity), None, nothing)

    if settings.status:
        return _status(settings, work, kept)
    if settings.dry_run:
        return _Task("dry-run", work, report, print=lambda: intentions(report()))
    if settings.copy:
        goes_on = "ended by {}; the same command goes on"
        return _Task("copy", work, report, lambda: copied(report()), interrupted=goes_on.format)

    def interrupted(name: str) -> str:
        if kept.world and kept.world.can_go_on:
            return f"ended by {name}; what has arrived of a large transfer is kept, and the next run goes on from there"
        return f"ended by {name}; what is recorded as outstanding is sent by the next run"

    return _Task("run", work, report, lambda: summary(report()), interrupted=interrupted)


def _status(settings: Settings, work: Callable[[], None], kept: "_Kept") -> _Task:
    import shutil

    from btrfs_backup.model.survey import survey
    from btrfs_backup.report.table import table

    def about() -> Survey:
        return survey(kept.world) if kept.world else Survey(Outcome(settings.source.identity))

    def lines() -> list[str]:
        found = about()
        # A signal may have come before anything was looked at.
        nothing = kept.world is not None and kept.world.destinations and not found.places
        return [] if nothing else table(found, shutil.get_terminal_size().columns, terminal.in_colour(sys.stdout))

    return _Task("status", work, about, print=lines)


class _Kept:
    """The last world of a run, whose messages are told as they come."""

    def __init__(self) -> None:
        self.world: World | None = None

    def __call__(self, world: "World") -> None:
        told = len(self.world.messages) if self.world else 0
        self.world = world
        looks_only = world.settings.dry_run or world.settings.status
        for message in world.messages[told:]:
            # What would be done is printed at the end.
            if not looks_only or message.level in ("warning", "error"):
                level = logging.getLevelName(message.level.upper())
                log.log(level, "%s: %s" if message.place else "%s%s", message.place, message.what)


def _verification(settings: Settings) -> _Task:
    from btrfs_backup.commands.verify import verify

    reports: deque[Report] = deque([Report(Outcome(settings.source.identity))], maxlen=1)
    return _Task(
        "verify",
        lambda: verify(settings, reports.append),
        lambda: reports[0],
        lambda: verification_summary(reports[0]),
        lambda: differences(reports[0]),
    )


def _pruning(settings: Settings) -> _Task:
    from btrfs_backup.commands.prune import prune

    reports: deque[Report] = deque([Report(Outcome(settings.source.identity))], maxlen=1)
    work = partial(prune, settings, reports.append)
    if settings.dry_run:
        return _Task("dry-run", work, lambda: reports[0], print=lambda: intentions(reports[0]))
    return _Task("prune", work, lambda: reports[0], lambda: pruned(reports[0]))


def _comparison(settings: Settings) -> _Task:
    from btrfs_backup.commands.diff import diff
    from btrfs_backup.model.changes import Changes
    from btrfs_backup.report.changes import changed

    found = deque([Changes(settings.source.identity, settings.destinations[0].identity)], maxlen=1)
    return _Task("diff", lambda: diff(settings, found.append), lambda: found[0], print=lambda: changed(found[0]))


def _search(settings: Settings) -> _Task:
    from btrfs_backup.commands.find import find
    from btrfs_backup.model.versions import Versions
    from btrfs_backup.report.versions import listed

    found = deque([Versions(settings.find)], maxlen=1)
    return _Task("find", lambda: find(settings, found.append), lambda: found[0], print=lambda: listed(found[0]))


def _restoration(settings: Settings) -> _Task:
    if settings.restores_inside:
        from btrfs_backup.commands.files import restore
    else:
        from btrfs_backup.commands.restore import restore

    nothing = Restoration(settings.source.identity, settings.destinations[0].identity)
    reports: deque[Restoration] = deque([nothing], maxlen=1)

    def interrupted(name: str) -> str:
        result = "it is restored" if reports[0].done else "it is not restored; run the same command again"
        return f"{nothing.destination}: ended by {name}; {result}"

    work = partial(restore, settings, reports.append)
    if settings.dry_run:
        return _Task("dry-run", work, lambda: reports[0], print=lambda: restore_intentions(reports[0]))
    return _Task("restore", work, lambda: reports[0], lambda: restored(reports[0]), interrupted=interrupted)


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
        return error
    return None


def _unforeseen(error: Exception) -> Failure:
    """An ERROR that nothing was prepared for, which is told, as a failure."""
    import traceback

    log.debug("%s", "".join(traceback.format_exception(error)))
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = f"unforeseen: {type(error).__name__}: {error} (line {place.lineno} of {place.filename})"
    known = hints.hint(str(error), "", True) if isinstance(error, OSError) else ""
    failure = Failure(words, known or "Please report this, with what '-v debug' prints. All other messages are true.")
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
    """Plain messages: only warnings and errors are called so. The same hint is given once.

    dated: each line begins with the time; coloured: so are these two words.
    """

    def __init__(self, dated: bool, coloured: bool) -> None:
        super().__init__()
        self._dated, self._coloured = dated, coloured
        self._hints: set[str] = set()

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        for failure in [each for each in record.args or () if isinstance(each, Failure) and each.hint]:
            if failure.hint in self._hints:
                text = text.replace(str(failure), failure.message)
            self._hints.add(failure.hint)
        message = harmless(text)
        if record.levelno != logging.INFO:
            word = f"{record.levelname.lower()}:"
            colour = _COLOURS.get(record.levelno) if self._coloured else None
            message = f"{colour}{word}\x1b[0m {message}" if colour else f"{word} {message}"
        if not self._dated:
            return message
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        return "\n".join(f"{when} {line}" for line in message.split("\n"))


def _set_up_messages(argv: Sequence[str]) -> None:
    """On stderr, with the time unless whoever reads them sees it: a terminal, the journal, or a client of a server."""
    # File names need not be UTF-8.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    handler = _Handler()
    dated = not (sys.stderr.isatty() or _is_journal() or "--serve" in argv)
    handler.setFormatter(_Formatter(dated, terminal.in_colour(sys.stderr)))
    log.handlers = [handler]
    logging.raiseExceptions = False  # a message that cannot be written is lost, and no more
    log.propagate = False
    # Python's own library says there what it lacks, with a traceback. It goes on, or raises what is told.
    logging.getLogger().handlers = [logging.NullHandler()]


def _is_journal() -> bool:
    """Whether stderr goes to the journal, as systemd.exec(5) says."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


if __name__ == "__main__":
    run()
