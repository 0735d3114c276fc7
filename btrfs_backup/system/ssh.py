"""Commands on another machine: argv wrapped for ssh, and the one connection that they share."""

import math
import os
import re
import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model.location import Location
from btrfs_backup.system import hints, process
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.process import Child, Children, Command, CommandFailed

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

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
_WORDS_KEPT = 32 * 1024
_MOST_WORDS = 1 << 20  # bytes that ssh may say while it logs in
_LOGGING_IN = 10  # seconds, beside those for connecting


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


# Its programs speak the language of that machine unless they are told. sudo passes it on.
_PLAIN_WORDS: Argv = ("env", "LC_ALL=C")


def line(argv: Argv, sudo: bool) -> str:
    """The command line that runs ARGV. Only plain commands go under sudo, so that a sudoers file can list them."""
    return " ".join(map(quote, (*_PLAIN_WORDS, *(("sudo", "-n") if sudo else ()), *argv)))


def sequence(steps: Sequence[Argv], reader: Argv, sudo: bool) -> str:
    """Runs STEPS and then READER, up to the first that fails; READER alone gets our stdin."""
    return " && ".join([*(f"{line(step, sudo)} </dev/null" for step in steps), line(reader, sudo)])


_QUOTED = re.compile(r"(?:[A-Za-z0-9_./:,@%+\x80-\U0010ffff-]|\\[^\n]|'\n+')+|''")
_NEXT = " </dev/null && "


def read(request: str) -> list[list[Argv]]:
    """What REQUEST, a command line for the other side, was made of: pipelines, one behind the other. No shell reads it.

    Raises ValueError unless it is just what is made here of these.
    """
    steps = [[_words(each) for each in step.split(" | ")] for step in request.split(_NEXT)]
    if _NEXT.join(" | ".join(line(argv, sudo=False) for argv in step) for step in steps) != request:
        raise ValueError("it is not quoted as this program does it")
    return steps


def _words(text: str) -> Argv:
    words = tuple(re.sub(r"\\(.)|'(\n*)'", r"\1\2", word) for word in _QUOTED.findall(text))
    return words[len(_PLAIN_WORDS) :]


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
    ControlMaster): a password is asked for once. When the server refuses to share it, or the user's options say how
    it is to be shared, each command makes its own. SCOPE ends it.
    """

    def __init__(self, place: Location, access: Access, scope: ExitStack) -> None:
        self.place = place
        self._access = access
        self._scope = scope
        self._options: tuple[str, ...] | None = None
        self._master: Child | None = None
        self._words: IO[bytes] | None = None  # what the master says
        self._failure: Failure | None = None

    @property
    def login(self) -> str:
        """What to type after `ssh`; the user and host come first."""
        user = f"{self.place.user}@" if self.place.user else ""
        port = (f"-p {self.place.port}",) if self.place.port else ()
        options = (f"-o {shlex.quote(option)}" for option in self._access.options)
        return " ".join((f"{user}{self.place.host}", *port, *options))

    def command(
        self, argv: Argv, title: str, logged: bool = False, before: Argv = (), after: Sequence[Argv] = ()
    ) -> Command:
        """What runs ARGV on the host, BEFORE writing its input, AFTER reading its output in turn. These need no rights.

        Raises Failure when the host cannot be reached.
        """
        lines = [line(before, False)] if before else []
        lines.append(line(argv, self._access.sudo))
        lines += [line(each, False) for each in after]
        return self._command(" | ".join(lines), title, logged)

    def program(self, argv: Argv) -> Command:
        """What runs ARGV, which needs no rights, on the host. Raises Failure like `command`."""
        return self._command(line(argv, sudo=False), argv[0], False)

    def both(self, first: Argv, second: Argv, title: str) -> Command:
        """What runs two commands, see the function `both`. Raises Failure like `command`."""
        return self._command(line(both(first, second, self._access.sudo), sudo=False), title, False)

    def sequence(self, steps: Sequence[Argv], reader: Argv, title: str) -> Command:
        """What runs several commands in one go, see the function `sequence`. Raises Failure like `command`."""
        return self._command(sequence(steps, reader, self._access.sudo), title, False)

    def _command(self, remote: str, title: str, logged: bool) -> Command:
        self._open()
        assert self._options is not None
        return Command(
            (*argv(self.place, self._options, "-T"), remote),
            title=f"{title} on {self.place.host}",
            own_session=False,  # ssh may have to ask for a password
            logged=logged,
            login=self.login,
            privileged=self._access.sudo or self.place.user == "root",
            last_words=self._last_words,
        )

    def _open(self) -> None:
        if self._failure:
            raise self._failure
        try:
            if self._options is None:
                self._connect()
            if self._master and self._master.reaped_within(0):
                raise self._broke(self._master, f"the connection to {self.place.host} broke")
        except Failure as failure:
            self._failure = failure
            raise

    def _connect(self) -> None:
        given = self._access.options
        configured = process.run(self._local(argv(self.place, given, "-G")))
        if configured.status:
            raise CommandFailed(configured, f"cannot connect to {self.place.host}")
        settings = os.fsdecode(configured.stdout)
        options, limit = (*given, *amendments(settings)), login_limit(settings)
        if shares_by_itself(given):
            if limit < math.inf:
                self._try_login(options, limit)
            self._options = options
            return
        with process.lacking(f"cannot keep a connection to {self.place.host}, for want of a temporary folder"):
            folder = self._scope.enter_context(_private_folder())
            words = self._words = self._scope.enter_context(process.scratch())
        children = self._scope.enter_context(Children())
        patience = time.monotonic() + limit
        socket = f"{folder}/ssh"
        shared = (*options, f"ControlPath={socket}")
        with open(os.devnull, "rb") as nothing:
            self._master = children.start(
                self._local(argv(self.place, (*shared, "ControlMaster=yes", "ControlPersist=no"), "-N")),
                nothing.fileno(),
                # Nobody reads what it says before it has ended: in a pipe it would be stuck some day.
                stdout=words.fileno(),
                tied=True,
                stderr=words.fileno(),
            )
        # ssh makes the socket when it has logged in.
        while not os.path.exists(socket):
            if self._master.reaped_within(0.01):
                raise self._broke(self._master, f"cannot connect to {self.place.host}")
            if time.monotonic() > patience or os.fstat(words.fileno()).st_size > _MOST_WORDS:
                self._master.signal(signal.SIGKILL)
                raise self._stalled()
        self._options = (*shared, "ControlMaster=no")

    def _try_login(self, options: Sequence[str], limit: float) -> None:
        """Raises Failure when a login takes longer than LIMIT seconds."""
        with open(os.devnull, "rb") as nothing, Children() as children:
            child = children.start(self._local((*argv(self.place, options, "-T"), "true")), nothing.fileno())
            if not child.reaped_within(limit):
                raise self._stalled()

    def _stalled(self) -> Failure:
        what_to_do = f"Does it wait for something there? Try: ssh {self.login}"
        return Failure(f"cannot connect to {self.place.host}: the login does not come to an end", what_to_do)

    def _local(self, argv: Argv) -> Command:
        return Command(argv, title="ssh", own_session=False, login=self.login)

    def _broke(self, master: Child, trying: str) -> Failure:
        failed = CommandFailed(replace(master.ended, stderr=self._last_words()), trying)
        return Absent(failed.message, failed.hint) if hints.is_down(failed.ended.said) else failed

    def _last_words(self) -> str:
        """Why the shared connection broke, when it did; commands that went through it do not know."""
        if not self._master or not self._words or not self._master.reaped_within(1.0):
            return ""
        size = os.fstat(self._words.fileno()).st_size
        return os.pread(self._words.fileno(), _WORDS_KEPT, max(0, size - _WORDS_KEPT)).decode(errors="replace")


def _private_folder() -> "TemporaryDirectory[str]":
    """A folder for the socket, named after us, so that it can be told when we have died without removing it.

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
