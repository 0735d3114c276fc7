"""The entry: messages, signals, and the only place that exits."""

import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from btrfs_backup import cli
from btrfs_backup.commands.backup import backup
from btrfs_backup.commands.restore import restore
from btrfs_backup.commands.verify import verify
from btrfs_backup.errors import Failure, Interrupted
from btrfs_backup.report import Report, Restoration, Tally, exit_status, restored, summary, verification_summary
from btrfs_backup.settings import Settings
from btrfs_backup.system import progress

log = logging.getLogger("btrfs_backup")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what ARGV (default: the arguments of this process) asks for; returns the exit status."""
    _set_up_messages()
    # Whoever reads our help through a pipe may have seen enough. In a run it is different.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        settings = cli.parse(sys.argv[1:] if argv is None else argv)
    except Failure as failure:
        log.error("%s", failure)
        return exit_status(None, failure)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    log.setLevel(settings.verbosity.upper())
    if settings.restore:
        return _restore(settings)
    return _verify(settings) if settings.verify else _backup(settings)


def run() -> NoReturn:
    """The same for callers that do not hand on what they get, like the start of a zipapp."""
    sys.exit(main())


def _backup(settings: Settings) -> int:
    report = Report(Tally(settings.source.identity))
    ended_by = _run(lambda: backup(settings, report))
    if isinstance(ended_by, Interrupted):
        log.error("ended by %s; what is recorded as outstanding is sent by the next run", _name(ended_by.signum))
    if not isinstance(ended_by, Failure):
        _tell(summary(report))
    return exit_status(report, ended_by)


def _restore(settings: Settings) -> int:
    report = Restoration(settings.source.identity, settings.destinations[0].identity)
    ended_by = _run(lambda: restore(settings, report))
    if isinstance(ended_by, Interrupted):
        result = "it is restored" if report.done else "it is not restored; the same command begins anew"
        log.error("%s: ended by %s; %s", report.destination, _name(ended_by.signum), result)
    _tell(restored(report))
    return exit_status(report, ended_by)


def _verify(settings: Settings) -> int:
    report = Report(Tally(settings.source.identity))
    ended_by = _run(lambda: verify(settings, report))
    if isinstance(ended_by, Interrupted):
        log.error("ended by %s", _name(ended_by.signum))
    if not isinstance(ended_by, Failure):
        _tell(verification_summary(report))
    return exit_status(report, ended_by)


def _run(command: Callable[[], None]) -> BaseException | None:
    """Run COMMAND; what ended it before it had done its work. Failures have been told."""
    try:
        with _signals_end_the_run():
            command()
    except Failure as failure:
        log.error("%s", failure)
        return failure
    except Interrupted as interrupted:
        return interrupted
    return None


def _tell(lines: Iterable[tuple[bool, str]]) -> None:
    for failed, line in lines:
        log.log(logging.ERROR if failed else logging.INFO, "%s", line)


@contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """Turn the signals that ask us to end into Interrupted; the first one counts, further ones do not disturb."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signum)

    # What our caller had ignored (nohup) stays ignored.
    handled = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, interrupt) for each in handled}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _name(signum: int) -> str:
    return signal.Signals(signum).name


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # subscriptable since Python 3.11
    """Messages do not run into the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        progress.clear()
        super().emit(record)


class _Formatter(logging.Formatter):
    """Says plainly what it is; only warnings and errors are called so."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno == logging.INFO else f"{record.levelname.lower()}: {message}"


def _set_up_messages() -> None:
    # File names need not be UTF-8.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    handler = _Handler()
    handler.setFormatter(_Formatter())
    log.handlers = [handler]
    log.propagate = False


if __name__ == "__main__":
    run()
