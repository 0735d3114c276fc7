"""Runs commands. Children belong to a scope: whatever way it is left, they are ended and reaped."""

import errno
import logging
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import IO

from btrfs_backup.errors import Failure, Interrupted, MissingProgram
from btrfs_backup.system import hints, signals

log = logging.getLogger(__name__)

STDERR_KEPT = 32 * 1024
# Far more than the longest list that a command prints which is kept: of 100,000 subvolumes.
OUTPUT_KEPT = 64 << 20
_LONGEST_LINE = 400  # characters of a message; more of one is no message
_GRACE = 5.0  # seconds between asking a child to end and killing it
_READ = 64 * 1024
_READS_AT_END = 64  # more than a pipe holds; somebody left behind may go on writing for ever
_TICK = 0.2  # seconds
_GLANCE = 0.02  # seconds between looks at what cannot tell that it has ended
_PR_SET_PDEATHSIG = 1
# What btrfs prints when all is well, and ssh when a shared connection takes no more commands.
_CHATTER = ("At subvol ", "At snapshot ", "Chroot to ", "mux_client_", "Warning: Permanently added ")
# Exit status of a server that deletes its backups itself (see commands.serve).
DECLINED = 77
SSH_FAILED = 255  # exit status of ssh itself, as opposed to that of the command


@dataclass(frozen=True)
class Command:
    """A command line. ARGV is given to the kernel as it is; no shell is involved.

    title: how messages call it. own_session: detached from the terminal, so that neither Ctrl-Z nor Ctrl-C reaches
    it; a stopped and continued `btrfs send` silently breaks its stream. logged: each line of its stderr goes to the
    log as it comes. env: added to our environment. inherit: descriptors of ours that it gets.
    login: what to type after `ssh` to get to the machine on which
    it really runs, empty when that is this one. privileged: it has all rights there, so that it does not fail for
    lack of them. last_words: tells why the connection broke that it goes through.
    """

    argv: tuple[str, ...]
    title: str
    own_session: bool = True
    logged: bool = False
    env: Mapping[str, str] = field(default_factory=lambda: {"LC_ALL": "C"})
    inherit: tuple[int, ...] = ()
    login: str = ""
    privileged: bool = False
    last_words: Callable[[], str] | None = None


# Commands one behind the other, each reading what the one before writes.
Pipeline = tuple[Command, ...]


@dataclass(frozen=True)
class Ended:
    """A child process that has ended. status: exit status, or -N when ended by signal N.

    stderr: what it printed, where that counts as messages, and its messages; of each the last 32 KiB at most.
    """

    command: Command
    status: int
    stdout: bytes
    stderr: str

    @property
    def died_of_broken_pipe(self) -> bool:
        return self.status in (-signal.SIGPIPE, 128 + signal.SIGPIPE)

    @property
    def said(self) -> str:
        """What it printed on stderr, or why the connection broke that it went through."""
        broke = self.status == SSH_FAILED and self.command.last_words and self.command.last_words()
        return broke or self.stderr

    @property
    def spoken(self) -> list[str]:
        """The lines of what it said, without those that tell of no trouble."""
        lines = [line.strip() for line in self.said.splitlines()]
        return [line for line in lines if line and not line.startswith(_CHATTER)]

    def words(self) -> str:
        """The last lines of what it said, or how it ended when it did not say anything."""
        if spoken := self.spoken:
            return "; ".join(line[-_LONGEST_LINE:] for line in spoken[-3:])
        if self.status < 0:
            return f"it was ended by signal {-self.status} ({signal.strsignal(-self.status)})"
        if self.status == SSH_FAILED and self.command.login:
            return "ssh failed, or it was ended by a signal there, without a message"
        return f"it ended with exit status {self.status} and no message"


class CommandFailed(Failure):
    """A command was run and did not succeed. Its message begins with what one was TRYING to do, if that is given."""

    def __init__(self, ended: Ended, trying: str = "") -> None:
        # Some programs say their own name.
        words = ended.words().removeprefix(f"{ended.command.title}: ")
        what_to_do = hints.hint(ended.said, ended.command.login, _privileged(ended.command), ended.status)
        message = ": ".join(filter(None, (trying, ended.command.title, words)))
        super().__init__(message, what_to_do, hints.brief(ended.said))
        self.ended = ended
        self.declined = ended.status == DECLINED
        self.lacks_rights = hints.wants_rights(ended.said) and not _privileged(ended.command)


def _privileged(command: Command) -> bool:
    return command.privileged if command.login else os.geteuid() == 0


def run(command: Command, stdin: bytes = b"") -> Ended:
    """Run COMMAND to its end. Raises Failure when it cannot be started; its exit status is the caller's business."""
    return run_together([command], stdin)[0]


def run_together(commands: Sequence[Command], stdin: bytes = b"") -> list[Ended]:
    """Run COMMANDS, all at the same time, to their ends. Raises like `run`."""
    with lacking("cannot run programs"), _given(stdin) as source, Children() as children:
        started = [children.start(command, stdin=source.fileno(), capture=True) for command in commands]
        children.wait(started)
        if endless := next((child for child in started if child.endless), None):
            raise TooMuch(f"'{endless.command.title}' printed")
        return [child.ended for child in started]


class TooMuch(Failure):
    """More came than can be honest. WHAT begins the message."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} more than {OUTPUT_KEPT >> 20} MiB, which is not looked at", "Something is wrong there."
        )


def _given(stdin: bytes) -> IO[bytes]:
    """A file that holds STDIN. Raises OSError."""
    if not stdin:
        return open(os.devnull, "rb")
    file = scratch()
    file.write(stdin)
    file.seek(0)
    return file


def scratch() -> IO[bytes]:
    """A file without a name: in memory, or in a temporary folder when the kernel has none there. Raises OSError."""
    try:
        return open(os.memfd_create("btrfs-backup"), "w+b")
    except (OSError, AttributeError):  # before Linux 3.17, forbidden, or a Python without it
        import tempfile

        return tempfile.TemporaryFile()


def written(writer: int, piece: memoryview) -> bool:
    """Whether all of PIECE could be written, and somebody reads it."""
    try:
        while piece:
            piece = piece[os.write(writer, piece) :]
    except BrokenPipeError:
        return False
    return True


@contextmanager
def lacking(trying: str) -> Iterator[None]:
    """What the machine does not give in this scope, such as files or processes, is a Failure.

    Its message begins with what one was TRYING to do.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise Failure(f"{trying}: {why}", hints.hint(why, "", os.geteuid() == 0), hints.brief(why)) from None


class _Guard:
    """A shell that kills our children, and theirs, when we have been killed and could not.

    It reads from a pipe which ones run, each time that changes: those with a session of their own by a minus and its
    number. One that has just been started tells by itself, with a plus. The end of the pipe is that of the program.
    """

    SCRIPT = """
trap '' HUP INT TERM
while read -r now; do
    case $now in +*) running="$running ${now#+}" ;; *) running=$now ;; esac
done
end() {
    [ $# -gt 0 ] || return
    started=
    case $1 in -*) ;; *) read -r started <"/proc/$1/task/$1/children" ;; esac
    kill -s KILL -- "$1"
    shift
    end $started "$@"
}
end $running
"""

    def __init__(self) -> None:
        self._running: dict[int, str] = {}
        self._writer = -1

    @contextmanager
    def posted(self) -> Iterator[None]:
        """The scope in which it does so. On a machine that does not let it start there is none."""
        try:
            reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(reader, True)
            with open(reader, "rb") as heard, open(os.devnull, "r+b") as nothing:
                argv = ("sh", "-c", self.SCRIPT)
                shell = subprocess.Popen(argv, stdin=heard, stdout=nothing, stderr=nothing, start_new_session=True)
        except OSError as error:
            log.debug("nobody ends the children of this program when it is killed: %s", error)
            shell = None
        try:
            yield
        finally:
            if self._writer >= 0:
                os.close(self._writer)
                self._writer = -1
            if shell:
                shell.wait()

    @property
    def is_posted(self) -> bool:
        return self._writer >= 0

    def add(self, child: "Child") -> None:
        self._running[child.pid] = f"-{child.pid}" if child.command.own_session else str(child.pid)
        self._tell()

    def remove(self, child: "Child") -> None:
        self._running.pop(child.pid, None)
        self._tell()

    def _tell(self) -> None:
        self._write(" ".join(self._running.values()))

    def report(self) -> None:
        """In a child: tell that it is there, since we may be killed before we can."""
        self._write(f"+{os.getpid()}")

    def _write(self, line: str) -> None:
        if self._writer >= 0:
            with suppress(OSError):
                os.write(self._writer, f"{line}\n".encode())


_guard = _Guard()
guarded = _guard.posted


class Child:
    """A running or ended process; made by Children.start."""

    def __init__(
        self,
        command: Command,
        popen: "subprocess.Popen[bytes]",
        capture: bool | Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self.command = command
        self._on_end = on_end
        self._over = False
        self.endless = False  # it printed more than is kept, and was ended for that
        self._popen = popen
        self._pidfd = _pidfd(popen.pid)
        self._stdout = bytearray()
        # What it prints may come between two pieces of a message.
        self._words = bytearray(), bytearray()
        self._unlogged = [b"", b""]
        keep_output = capture if callable(capture) else self._keep_output if capture else partial(self._keep_words, 0)
        self._readers = [
            (stream, _reader(stream.fileno(), keep))
            for stream, keep in (
                (popen.stdout, keep_output),
                (popen.stderr, partial(self._keep_words, 1)),
            )
            if stream
        ]

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.returncode is None

    @property
    def can_be_watched(self) -> bool:
        """Whether its end can be waited for, and need not be asked for."""
        return self._pidfd >= 0

    @property
    def ended(self) -> Ended:
        """How it ended; only to be asked when it is not running."""
        self.finish()
        words = b"".join(self._words).decode(errors="replace")
        return Ended(self.command, self._popen.returncode, bytes(self._stdout), words)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have its end and its messages watched; the data of each key is to be called, and tells whether to go on."""
        if self.can_be_watched:
            selector.register(self._pidfd, selectors.EVENT_READ, self._reap)
        for stream, read in self._readers:
            selector.register(stream, selectors.EVENT_READ, read)

    def unregister(self, selector: selectors.BaseSelector) -> None:
        """Undo `register`, as far as that is to be undone."""
        for descriptor in (self._pidfd, *(stream.fileno() for stream, _ in self._readers)):
            with suppress(KeyError, ValueError):
                selector.unregister(descriptor)

    def finish(self) -> None:
        """Read what is left in its pipes and close them. What a process that it left behind still writes is lost."""
        for stream, read in self._readers:
            for _ in range(_READS_AT_END):
                if not read():
                    break
            stream.close()
        self._readers = []
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def signal(self, number: int) -> None:
        if self.command.own_session:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            return
        # It is in our process group; what it started has to end with it.
        for pid in [self.pid, *_descendants(self.pid)]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def reaped_within(self, seconds: float) -> bool:
        """Whether it has ended, after SECONDS at most. Raises Interrupted like `signals.wait`."""
        until = time.monotonic() + seconds
        while self._popen.poll() is None:
            if (left := until - time.monotonic()) <= 0:
                return False
            if self.can_be_watched:
                signals.wait([self._pidfd], left)
            else:
                signals.wait([], min(left, _GLANCE))
        self._reap()
        return True

    def _reap(self) -> bool:
        if not self._over:
            self._popen.wait()
            self._over = True
            _guard.remove(self)
            self._on_end()
        return False

    def _keep_output(self, data: bytes) -> None:
        self._stdout += data
        if len(self._stdout) > OUTPUT_KEPT:
            self._stdout.clear()
            self.endless = True
            self.signal(signal.SIGKILL)

    def _keep_words(self, number: int, data: bytes) -> None:
        """NUMBER: 1 for messages, 0 for what is printed and counts as such."""
        words = self._words[number]
        words += data
        del words[:-STDERR_KEPT]
        if self.command.logged:
            *lines, self._unlogged[number] = (self._unlogged[number] + data).split(b"\n")
            if len(self._unlogged[number]) > STDERR_KEPT:
                lines, self._unlogged[number] = [*lines, self._unlogged[number]], b""
            for line in lines:
                log.info("%s: %s", self.command.title, line.decode(errors="replace"))


class Children:
    """The scope that owns child processes. Leaving it ends and reaps those that still run."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        further = None
        for number in (signal.SIGTERM, signal.SIGKILL):
            running = [child for child in self._children if child.running]
            for child in running:
                child.signal(number)
            until = time.monotonic() + _GRACE
            try:
                for child in running:
                    child.reaped_within(until - time.monotonic())
            except Interrupted as interrupted:
                further = interrupted  # whoever asks again does not want to wait
        for child in self._children:
            child.finish()
        if further:
            raise further

    def start(
        self,
        command: Command,
        stdin: int,
        stdout: int | None = None,
        capture: bool | Callable[[bytes], None] = False,
        on_end: Callable[[], None] = lambda: None,
        tied: bool = False,
        stderr: int = subprocess.PIPE,
    ) -> Child:
        """Start COMMAND; STDIN and STDOUT are file descriptors and stay the caller's.

        CAPTURE keeps its stdout, or is called with each piece of it; without STDOUT and CAPTURE what it prints there
        counts as its messages. ON_END is called when it has ended. One that is TIED does not outlive us, however we
        die; starting it takes a few milliseconds more.
        STDERR: where its messages go, instead of into what is kept of them.
        Raises Failure when it cannot be started.
        """
        log.debug("running: %s", shlex.join(command.argv))
        try:
            popen = subprocess.Popen(
                command.argv,
                stdin=stdin,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=stderr,
                start_new_session=command.own_session,
                env={**os.environ, **command.env},
                pass_fds=command.inherit,
                preexec_fn=_die_with(os.getpid(), command.own_session) if tied else None,
            )
        except (OSError, ValueError) as error:
            raise _cannot_start(command, error) from None
        child = Child(command, popen, capture, on_end)
        _guard.add(child)
        self._children.append(child)
        return child

    def wait(self, awaited: Sequence[Child], tick: Callable[[], None] | None = None) -> None:
        """Wait until those AWAITED have ended; meanwhile call TICK a few times a second, which may start others.

        All are listened to. Raises Interrupted when a signal comes, or has come.
        """
        with selectors.PollSelector() as selector:
            for descriptor in signals.waker():
                selector.register(descriptor, selectors.EVENT_READ, lambda: True)
            listening: list[Child] = []
            while any(child.running for child in awaited):
                signals.check()
                for child in self._children:
                    if child.running and child not in listening:
                        child.register(selector)
                        listening.append(child)
                blind = [child for child in listening if not child.can_be_watched]
                events = selector.select(_GLANCE if blind else _TICK if tick else None)
                if tick:
                    tick()
                for child in blind:
                    child.reaped_within(0)
                for key, _ in events:
                    handle: Callable[[], bool] = key.data
                    if not handle():
                        selector.unregister(key.fileobj)
                # At once: while a long transfer goes on, thousands may be started and end.
                for child in [each for each in listening if not each.running]:
                    child.unregister(selector)
                    child.finish()
                    listening.remove(child)
                    self._children.remove(child)
        # One that is for all our processes may have ended them, too.
        signals.check()
        for child in self._children:
            if not child.running:
                child.finish()


def _descendants(pid: int) -> list[int]:
    """Process ids of the children of PID, and of theirs (proc_pid_task(5))."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listed:
            children = [int(word) for word in listed.read().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *_descendants(child))]


def _pidfd(pid: int) -> int:
    """What can be read when the process PID has ended; -1 where there is none (before Linux 5.3, or forbidden)."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):  # or a Python without it
        return -1


def _reader(fd: int, keep: Callable[[bytes], None]) -> Callable[[], bool]:
    """A function that reads once from FD without waiting, hands on what it got and tells whether more may come."""
    os.set_blocking(fd, False)

    def read() -> bool:
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return False
        keep(data)
        return bool(data)

    return read


def _die_with(parent: int, alone: bool) -> Callable[[], None]:
    """For a child that writes to a destination: it must not outlive us, however we die (prctl(2)).

    The next run would take its work for a transfer that was cut off, and both would write under the same name.
    ALONE: it starts no others. Whoever does is stopped, so that the guard still finds these, and ends all of them.
    """
    # Only here, since it takes time; and not in the child, which must not wait for another thread of ours.
    import ctypes

    libc = ctypes.CDLL(None)

    def tie() -> None:
        if not alone:
            _guard.report()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if alone or not _guard.is_posted else signal.SIGSTOP)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return tie


def _cannot_start(command: Command, error: OSError | ValueError) -> Failure:
    program = command.argv[0]
    if isinstance(error, ValueError):
        return Failure(
            f"cannot run {command.title}: an argument cannot be given to a program: {error}",
            "Look for characters that no file name can hold, perhaps in a state file.",
        )
    if isinstance(error, FileNotFoundError):
        return MissingProgram(
            f"cannot run {command.title}: there is no program '{program}' in PATH", hints.package(program)
        )
    scarce = error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
    limit = hints.hint(os.strerror(error.errno), "", os.geteuid() == 0) if scarce and error.errno else ""
    return Failure(
        f"cannot run {command.title}: {error.strerror}: '{program}'",
        limit or "It is in PATH. Is it executable, and made for this machine?",
    )
