"""Commands on another machine: argv wrapped for ssh, and the one connection that they share."""

import logging
import math
import os
import re
import secrets
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model.location import Location
from btrfs_backup.system import hints, process, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.process import SSH_FAILED, Command, CommandFailed, Ended
from btrfs_backup.system.session import Session, shell
from btrfs_backup.system.tools import title

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

log = logging.getLogger(__name__)

# What ssh does by itself is to wait for ever. Option -> the value that means so, and a better one: a dead connection
# is noticed within a minute, after ServerAliveCountMax (3) times the interval. A slow one answers in between.
_PATIENCE = {"ServerAliveInterval": ("0", "10"), "ConnectTimeout": ("none", "30")}
_SHARING = ("controlmaster", "controlpath", "controlpersist")
# What a configuration may ask for that suits interactive use only, or lends the other side what it does not need.
# Option -> the value that is needed.
_PLAIN = {
    "RemoteCommand": "none",
    "StdinNull": "no",
    "ForkAfterAuthentication": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
}
# sockaddr_un holds 108 bytes, to which ssh adds 17 while it binds; and much else means something in a ControlPath.
_GOOD_FOLDER = re.compile(r"/[A-Za-z0-9_./-]{0,69}")
_FOLDER_PREFIX = "btrfs-backup-"
_LOGGING_IN = 10  # seconds, beside those for connecting
_REAPING = 1.0  # seconds for ssh to end when it has no connection


@dataclass(frozen=True)
class Access:
    """The way to all ssh hosts. options: values for `ssh -o`; sudo: run each command there under sudo."""

    options: tuple[str, ...] = ()
    sudo: bool = False


def quote(word: str) -> str:
    """WORD for the login shell on the other side, which may be any.

    Backslashes mean the same to sh, csh and fish, and keep even `!` from csh, which single quotes do not. Only a
    newline needs quotes; csh knows no way to take one.
    """
    quoted = re.sub(r"[^A-Za-z0-9_./:,@%+\n\x80-\U0010ffff-]", r"\\\g<0>", word)
    return re.sub(r"\n+", r"'\g<0>'", quoted) or "''"


# Its programs speak the language of that machine unless they are told. sudo passes it on; a session has it.
PLAIN_WORDS: Argv = ("env", "LC_ALL=C")


def line(argv: Argv, sudo: bool, words: Argv = ()) -> str:
    """The command line that runs ARGV, WORDS before it.

    Only plain commands go under sudo, so that a sudoers file can list them.
    """
    return " ".join(map(quote, (*words, *(("sudo", "-n") if sudo else ()), *argv)))


def replacing(path: str, text: str, sudo: bool) -> str:
    """Puts a file with TEXT in place of that at PATH, whose mode and owner it gets, when it is on disk as a whole."""
    new = f"{path}.new"
    # It begins as a copy, for the sake of mode and owner. An empty file is as good as none.
    steps = (tools.remove_file(new), ("touch", "--", path), ("cp", "-p", "--", path, new))
    given = f"printf %s {shlex.quote(text)} | {line(('dd', f'of={new}', 'conv=fsync', 'status=none'), sudo)}"
    whole = f'[ "$({line(tools.length(new), sudo)})" = {len(os.fsencode(text))} ]'
    moved = line(("mv", "-f", "--", new, path), sudo)
    return " && ".join((*(line(step, sudo) for step in steps), given, whole, moved))


_QUOTED = re.compile(r"(?:[A-Za-z0-9_./:,@%+\x80-\U0010ffff-]|\\[^\n]|'\n+')+|''")


def read(request: str) -> list[Argv]:
    """The pipeline that REQUEST, a command line for the other side, was made of. No shell reads it.

    Raises ValueError unless it is just what is made here of that.
    """
    pipeline = [_words(each) for each in request.split(" | ")]
    if " | ".join(line(argv, sudo=False) for argv in pipeline) != request:
        raise ValueError("it is not quoted as this program does it")
    return pipeline


def _words(text: str) -> Argv:
    return tuple(re.sub(r"\\(.)|'(\n*)'", r"\1\2", word) for word in _QUOTED.findall(text))


def both(first: Argv, second: Argv, sudo: bool) -> Argv:
    """Runs FIRST, and SECOND when that has ended well; ends as FIRST does."""
    return ("sh", "-c", f"{line(first, sudo)} && {{ {line(second, sudo)} || :; }}")


def in_both(argv: Argv) -> list[str]:
    """The lines that `both` made ARGV of; none when it did not."""
    match = re.fullmatch(r"(.*) && \{ (.*) \|\| :; \}", argv[2], re.DOTALL) if len(argv) == 3 else None
    return [match[1], match[2]] if match and argv[:2] == ("sh", "-c") else []


def argv(place: Location, options: Sequence[str], *arguments: str) -> Argv:
    """ssh with values for -o, the first of which win, and ARGUMENTS that come before the host."""
    values = [word for value in options for word in ("-o", value)]
    port = ("-p", str(place.port)) if place.port else ()
    user = ("-l", place.user) if place.user else ()
    return ("ssh", *values, *arguments, *port, *user, "--", place.host)


def amendments(configured: str) -> list[str]:
    """Values for -o, CONFIGURED being the output of `ssh -G`: so that nothing waits for ever where that is not said
    otherwise, and that commands can be run."""
    settings = dict(row.lower().partition(" ")[::2] for row in configured.splitlines())
    patience = [
        f"{option}={better}"
        for option, (endless, better) in _PATIENCE.items()
        if settings.get(option.lower(), endless) == endless
    ]
    plain = [
        f"{option}={needed}" for option, needed in _PLAIN.items() if settings.get(option.lower(), needed) != needed
    ]
    return [*patience, *plain, "ClearAllForwardings=yes"]


def shares_by_itself(options: Sequence[str]) -> bool:
    """Whether the user's OPTIONS say how connections are shared."""
    return any(re.split(r"[\s=]", option.strip(), maxsplit=1)[0].lower() in _SHARING for option in options)


def login_limit(configured: str) -> float:
    """Seconds that a login may take: as many as are wanted when somebody can type a password. CONFIGURED: see
    `amendments`."""
    batch = re.search("^batchmode (yes|true)$", configured, re.MULTILINE | re.IGNORECASE)
    if not batch and _somebody_types():
        return math.inf
    found = re.search(r"^connecttimeout (\d+)$", configured, re.MULTILINE | re.IGNORECASE)
    return (int(found[1]) if found else int(_PATIENCE["ConnectTimeout"][1])) + _LOGGING_IN


def _somebody_types() -> bool:
    """Whether ssh has a way to ask for a password: a terminal, or another program."""
    if os.environ.get("SSH_ASKPASS"):
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Connection:
    """One ssh connection to a host, made at its first use and shared by all commands there (ssh_config(5),
    ControlMaster): a password is asked for once. Small commands run in a session, others in a channel of their own.
    When the server refuses to share it, or the user's options say how it is to be shared, each of these makes its own
    connection. SCOPE ends it.
    """

    def __init__(self, place: Location, access: Access, scope: ExitStack) -> None:
        self.place = place
        self._access = access
        self._scope = scope
        self._options: tuple[str, ...] = ()
        self._session: Session | None = None
        self._patience = math.inf
        self._failure: Failure | None = None
        self._asked: dict[str, list[int]] = {}  # ahead, by the lines: the numbers of the requests

    @property
    def login(self) -> str:
        """What to type after `ssh`; the user and host come first."""
        user = f"{self.place.user}@" if self.place.user else ""
        port = (f"-p {self.place.port}",) if self.place.port else ()
        options = (f"-o {shlex.quote(option)}" for option in self._access.options)
        return " ".join((f"{user}{self.place.host}", *port, *options))

    # --- in the session ---

    def ask(self, pipelines: Sequence[Sequence[Argv]]) -> None:
        """Ask for what PIPELINES come to, which change nothing and will be wanted next; see `ended`.

        Nobody waits here, not even for the connection, unless somebody may have to type a password: for one at a time.
        """
        with suppress(Failure):  # whoever wants an answer is told
            self._ask_ahead(self._start(), pipelines)
            if self._patience == math.inf:
                self._open()

    def ended(self, pipelines: Sequence[Sequence[Argv]], ahead: Sequence[Sequence[Argv]] = ()) -> list[Ended]:
        """Run PIPELINES one after the other, each of commands that get each other's output, and ask for those AHEAD.

        What was asked for before counts when nothing else was run here since. Raises Failure when the host cannot be
        reached.
        """
        session = self._open()
        lines = list(map(self._line, pipelines))
        try:
            known = [self._asked[line].pop(0) for line in lines]
        except LookupError:
            self._asked = {}
            known = [self._send(session, line) for line in lines]
        if ahead:
            self._ask_ahead(session, ahead)
        titles = [title(pipeline[0]) for pipeline in pipelines]
        return [self._ended(session, number, its) for number, its in zip(known, titles, strict=True)]

    def program(self, argv: Argv) -> Ended:
        """Run ARGV, which needs no rights. Raises Failure like `ended`."""
        session = self._open()
        self._asked = {}
        return self._ended(session, self._send(session, line(argv, sudo=False)), title(argv))

    def replace(self, texts: Mapping[str, str]) -> Ended:
        """Put files with these TEXTS, by their paths, in place of those there, each at once or not at all.

        None behind the first that fails. Raises Failure like `ended`.
        """
        session = self._open()
        self._asked = {}
        request = " && ".join(replacing(path, text, self._access.sudo) for path, text in texts.items())
        ended = self._ended(session, self._send(session, request), "rm, touch, cp, dd, mv")
        if ended.status:
            with suppress(Failure):
                self.ended([[tools.remove_file(f"{path}.new")] for path in texts])
        return ended

    def _ask_ahead(self, session: Session, pipelines: Sequence[Sequence[Argv]]) -> None:
        for line in map(self._line, pipelines):
            self._asked.setdefault(line, []).append(self._send(session, line))

    def _send(self, session: Session, line: str) -> int:
        log.debug("running on %s: %s", self.place.host, line)
        return session.ask(line)

    def _line(self, pipeline: Sequence[Argv]) -> str:
        return " | ".join(line(each, self._access.sudo and not number) for number, each in enumerate(pipeline))

    def _ended(self, session: Session, number: int, title: str) -> Ended:
        command = self._command("", title)
        answer = session.answer(number, command.title)
        return Ended(command, *((answer.status, answer.stdout, answer.messages) if answer else (SSH_FAILED, b"", "")))

    # --- in channels of their own ---

    def command(
        self, argv: Argv, title: str, logged: bool = False, before: Argv = (), after: Sequence[Argv] = ()
    ) -> Command:
        """What runs ARGV on the host, BEFORE writing its input, AFTER reading its output in turn. These need no rights.

        Raises Failure when the host cannot be reached.
        """
        self._free()
        lines = [line(before, False, PLAIN_WORDS)] if before else []
        lines.append(line(argv, self._access.sudo, PLAIN_WORDS))
        lines += [line(each, False, PLAIN_WORDS) for each in after]
        return self._command(" | ".join(lines), title, logged)

    def both(self, first: Argv, second: Argv) -> Command:
        """What runs two commands, see the function `both`. Raises Failure like `command`."""
        self._free()
        return self._command(line(both(first, second, self._access.sudo), False, PLAIN_WORDS), title(first))

    def _free(self) -> None:
        """Have the connection for something that may change what was asked for. Raises Failure."""
        self._open()
        self._asked = {}

    def _command(self, remote: str, title: str, logged: bool = False) -> Command:
        return Command(
            (*argv(self.place, self._options, "-T"), remote),
            title=f"{title} on {self.place.host}",
            own_session=False,  # ssh may have to ask for a password
            logged=logged,
            login=self.login,
            privileged=self._access.sudo or self.place.user == "root",
            last_words=self._last_words,
        )

    # --- the connection ---

    def _open(self) -> Session:
        """The session, when it has begun. Raises Failure."""
        session = self._start()
        try:
            if not session.begun(self._patience):
                if session.child.reaped_within(_REAPING):
                    raise self._broke(session, f"cannot connect to {self.place.host}")
                session.child.signal(signal.SIGKILL)
                what_to_do = f"Does it wait for something there? Try: ssh {self.login}"
                raise Failure(f"cannot connect to {self.place.host}: the login does not come to an end", what_to_do)
            self._patience = math.inf
            if session.child.reaped_within(0):
                raise self._broke(session, f"the connection to {self.place.host} broke")
        except Failure as failure:
            self._failure = failure
            raise
        return session

    def _start(self) -> Session:
        if self._failure:
            raise self._failure
        if not self._session:
            try:
                self._session = self._connect()
            except Failure as failure:
                self._failure = failure
                raise
        return self._session

    def _connect(self) -> Session:
        given = self._access.options
        configured = process.run(self._local(argv(self.place, given, "-G")))
        if configured.status:
            raise CommandFailed(configured, f"cannot connect to {self.place.host}")
        settings = os.fsdecode(configured.stdout)
        options = (*given, *amendments(settings))
        self._patience = time.monotonic() + login_limit(settings)
        master: tuple[str, ...] = ()
        if not shares_by_itself(given):
            with process.lacking(f"cannot keep a connection to {self.place.host}, without a temporary folder"):
                folder = self._scope.enter_context(_private_folder())
            options = (*options, f"ControlPath={folder}/ssh")
            master = ("ControlMaster=yes", "ControlPersist=no")
        word = secrets.token_hex(16)
        begin = (*argv(self.place, (*options, *master), "-T"), line(shell(word), False, PLAIN_WORDS))
        self._options = (*options, "ControlMaster=no") if master else options
        return Session(self._local(begin), word, self._scope)

    def _local(self, argv: Argv) -> Command:
        return Command(argv, title="ssh", own_session=False, login=self.login)

    def _broke(self, session: Session, trying: str) -> Failure:
        failed = CommandFailed(replace(session.child.ended, stderr=session.last_words), trying)
        return Absent(failed.message, failed.hint) if hints.is_down(failed.ended.said) else failed

    def _last_words(self) -> str:
        """Why the shared connection broke, when it did; commands that went through it do not know."""
        session = self._session
        return session.last_words if session and session.child.reaped_within(_REAPING) else ""


def _private_folder() -> "TemporaryDirectory[str]":
    """A folder for the socket, named after us, so that it can be seen that we have died without removing it.

    Raises OSError.
    """
    # Only here: they take time, and most of a run that has nothing to do is starting.
    import shutil
    import tempfile

    parent = tempfile.gettempdir() if _GOOD_FOLDER.fullmatch(tempfile.gettempdir()) else "/tmp"
    for entry in os.scandir(parent):
        left = re.fullmatch(_FOLDER_PREFIX + r"(\d+)-\w+", entry.name)
        if left and not os.path.exists(f"/proc/{left[1]}"):
            with suppress(OSError):  # others may clear up, too
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    shutil.rmtree(entry.path, ignore_errors=True)
    prefix = f"{_FOLDER_PREFIX}{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
