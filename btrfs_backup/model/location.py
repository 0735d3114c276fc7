"""A SOURCE or DEST as a user spells it, and the one identity behind the spellings."""

import re
from dataclasses import dataclass
from enum import Enum
from posixpath import join, normpath

from btrfs_backup.errors import UsageError


class Scheme(Enum):
    """The kind of a location."""

    LOCAL = "local"
    SSH = "ssh"
    SHELL = "shell"


@dataclass(frozen=True)
class Location:
    """The place of a source or destination.

    path: absolute and normalised (LOCAL, SSH); command: for `sh -c` (SHELL).
    host is without the brackets of an IPv6 address.
    """

    scheme: Scheme
    path: str = ""
    user: str = ""
    host: str = ""
    port: int | None = None
    command: str = ""

    @property
    def is_far(self) -> bool:
        """Whether it is on another machine."""
        return self.scheme is Scheme.SSH

    @property
    def identity(self) -> str:
        """The normalised spelling: what the state files hold and what locations are compared by."""
        if self.scheme is Scheme.LOCAL:
            return self.path
        if self.scheme is Scheme.SHELL:
            return f"shell://{self.command}"
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"ssh://{user}{host}{port}{self.path}"

    def __str__(self) -> str:
        return self.identity


_AS_SCP_HAS_IT = re.compile(r"((?:[\w.-]+@)?[A-Za-z][\w.-]+):(/(?!/).*)", re.DOTALL)
# What a shell would take for something else may be run where an ssh configuration has it in a command (ssh.c,
# valid_hostname, valid_ruser).
_PLAIN_HOST = re.compile(r"[^\s\x00-\x1f\x7f'`\"$\\;&<>|(){},]+")
_PLAIN_USER = re.compile(r"[^\x00-\x1f\x7f'`\"$;&<>|(){}]*(?<![\\])")
_SSH = re.compile(r"ssh://(?:([^/]*)@)?(\[[^]/]*\]|[^:/\[\]]*)(?::([^/]*))?(/.*)?", re.DOTALL)


def parse(spelling: str, cwd: str) -> Location:
    """The location that SPELLING names; relative local paths start at CWD (absolute; empty when there is none).

    Raises UsageError when it names none.
    """
    if "\0" in spelling:
        raise UsageError("a location cannot contain a NUL character", "Is it from an @FILE? Mend that file.")
    if spelling.startswith("shell://"):
        return _shell(spelling)
    if spelling.startswith("ssh://"):
        return _ssh(spelling)
    if not spelling:
        raise UsageError("a location is empty", "Give a path, ssh://[user@]host[:port]/path or shell://COMMAND.")
    if unknown := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", spelling):
        raise UsageError(
            f"'{spelling}': '{unknown[0]}' is not known",
            f"Use a path, ssh:// or shell://. For a local folder of that name write './{spelling}'.",
        )
    if scheme := re.match("(ssh|shell):", spelling):
        raise UsageError(
            f"'{spelling}' lacks the two slashes of '{scheme[0]}//'",
            f"Write '{scheme[0]}//...'. For a local folder of that name write './{spelling}'.",
        )
    if remote := _AS_SCP_HAS_IT.fullmatch(spelling):
        raise UsageError(
            f"'{spelling}' looks like a path on another machine",
            f"Write 'ssh://{remote[1]}{remote[2]}'. For a local folder of that name write './{spelling}'.",
        )
    if not (cwd or spelling.startswith("/")):
        raise UsageError(f"'{spelling}' is relative to the current folder, which is gone", "Give the whole path.")
    return Location(Scheme.LOCAL, path=normalise(join(cwd, spelling)))


def identity(recorded: str) -> str:
    """The identity of a destination named in a state file, or the text itself when it cannot be understood."""
    if not recorded.startswith(("/", "ssh://", "shell://")):
        return recorded
    try:
        return parse(recorded, "/").identity
    except UsageError:
        return recorded


_OVERWRITING = re.compile(r"(?:(?<![0-9&>=<-])1?>\|?|\bof=)\s*(?![>&(]|/dev/)[^\s;&|$`]+(?![^\s;&|]*[$`])")


def overwrites_itself(command: str) -> bool:
    """Whether a shell COMMAND seems to write each stream to the same file: to a name without any variable."""
    return "BTRFS_BACKUP_" not in command and bool(_OVERWRITING.search(command))


def normalise(path: str) -> str:
    """An absolute path without `.`, `..`, doubled and trailing slashes."""
    return "/" + normpath(path).lstrip("/")


def _shell(spelling: str) -> Location:
    command = spelling.removeprefix("shell://")
    if not command.strip():
        raise UsageError(
            "'shell://' names no command", "Example: 'shell://cat > /mnt/usb/$BTRFS_BACKUP_SNAPSHOT.btrfs'"
        )
    return Location(Scheme.SHELL, command=command)


def _ssh(spelling: str) -> Location:
    example = "Example: ssh://root@nas:22/backups or ssh://[::1]/backups"
    match = _SSH.fullmatch(spelling)
    if not match:
        raise UsageError(f"'{spelling}' is not of the form ssh://[user@]host[:port]/path", example)
    user, host, port, path = match.groups(default="")
    host = host.strip("[]")
    if not host or host.startswith("-") or user.startswith("-"):
        raise UsageError(f"'{spelling}' names no host", example)
    if not _PLAIN_HOST.fullmatch(host) or not _PLAIN_USER.fullmatch(user):
        raise UsageError(f"'{spelling}': the host or the user holds characters that mean something to a shell", example)
    if not path:
        raise UsageError(f"'{spelling}' names no path on the host", example)
    if match[3] == "":
        raise UsageError(
            f"'{spelling}' has ':' without a port", f"Write '{spelling[: match.start(3) - 1]}{path}'. {example}"
        )
    if match[3] is not None and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise UsageError(f"'{spelling}': '{port}' is not a port number", example)
    return Location(
        Scheme.SSH,
        path=normalise(path),
        user=user,
        host=host,
        port=int(port) if port else None,
    )
