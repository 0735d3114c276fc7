"""The far end of pushes, on a machine that keeps backups: it takes new ones, shows those that are there, and no more.

sshd starts it for one key, in place of what the client asks for (sshd(8), `command=`). What the client asks for is
read as argument lists (see system.ssh), and compared with those that are known here. Each is made by the function that
makes it at the client, of paths that have been judged. No shell sees any of it.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from posixpath import basename, dirname, join

from btrfs_backup.errors import Failure
from btrfs_backup.model import cutter, stage
from btrfs_backup.model.location import normalise
from btrfs_backup.model.outcome import Exit
from btrfs_backup.model.snapshot import is_backup_name
from btrfs_backup.system import btrfs, lock, mounts, process, session, signals, ssh, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.compression import METHODS
from btrfs_backup.system.host import Host
from btrfs_backup.system.paths import is_complete, is_plain
from btrfs_backup.system.process import Child, Children, Command
from btrfs_backup.system.tools import title

log = logging.getLogger(__name__)

_ZIPS, _UNZIPS = zip(*METHODS.values(), strict=True)
_SHOWN = 500  # characters of a request
_LONGEST_WORD = 4096  # characters; no path is longer
_LONGEST_REQUEST = 1 << 20  # bytes
_PIECE = 1 << 16
_UNKNOWN = "it is nothing that a client needs for its backups"


class Kind(Enum):
    """The kind of a word in a request. Those that are paths are at or below the folder that is served."""

    LOOK = "a folder that may be looked into, which need not exist"
    FOLDER = "a folder that may be made"
    BACKUP = "a backup that is there, and complete as far as that shows"
    NEW = "the path of a backup, where nothing is yet"
    NEW_STAGE = "a stage for a backup that is not there"
    STAGE = "a stage"
    ATTEMPT = "an attempt in a stage"
    STAGED = "a subvolume in an attempt"
    MOUNT = "a mount point on the way to the folder"
    INSIDE = "a path in a backup"
    NAME = "the name of a file or folder"
    PATTERN = "a pattern for names"
    NUMBER = "a number"

    @property
    def example(self) -> str:
        return f"/\0{self.name}"


_LEVELS = {Kind.STAGED: 3, Kind.ATTEMPT: 2, Kind.STAGE: 1, Kind.NEW_STAGE: 1}
_PATTERNS = {
    Kind.NUMBER: "[0-9]{1,19}",
    Kind.NAME: r"(?!\.{1,2}\Z)[^/]+",
    Kind.PATTERN: "(?s:.*)",
}


@dataclass(frozen=True)
class Ground:
    """The folder that is served: as it is SPELLED, and where that REALLY is."""

    spelled: str
    real: str

    @cached_property
    def mounts(self) -> dict[str, mounts.Mount]:
        """The mounts that it and what is in it are on, by their points."""
        every = mounts.parse("".join(_table()))
        own = mounts.find(every, self.real)
        return {each.point: each for each in every if each == own or f"{each.point}/".startswith(f"{self.real}/")}

    def inside(self, path: str) -> str:
        """PATH, which is here, as the beginning of paths from the top of its filesystem."""
        real = join(self.real, self.located(path)).rstrip("/")
        mount = mounts.find(list(self.mounts.values()), real)
        top = mount.inside(real) if mount else real
        return f"{top}/" if top else ""

    def judge(self, kind: Kind, word: str) -> None:
        """Raises ValueError unless WORD in a request is of that KIND."""
        if kind in _PATTERNS:
            good = bool(re.fullmatch(_PATTERNS[kind], word))
        elif kind is Kind.MOUNT:
            good = word in self.mounts
        else:
            good = self._is_good(kind, self.located(word, any_name=kind is Kind.INSIDE))
        if not good:
            raise ValueError(f"{word[:200]!r} is not {kind.value}")

    def located(self, path: str, any_name: bool = False) -> str:
        """PATH from here on. Raises ValueError when it is not here, or not for certain; ANY_NAME may be in it."""
        top = next((top for top in (self.spelled, self.real) if f"{path}/".startswith(f"{top.rstrip('/')}/")), None)
        if top is None or path != normalise(path) or (stage.UNPRINTABLE.search(path) and not any_name):
            raise ValueError(f"{path[:200]!r} is not in the folder that is served")
        below = path[len(top) :].strip("/")
        if not is_plain(self.real, os.fsencode(below)):
            raise ValueError(f"{path[:200]!r} leads through a symbolic link")
        return below

    def _is_good(self, kind: Kind, below: str) -> bool:
        level, path = stage.level(below), join(self.real, below)
        if kind in _LEVELS:
            name = stage.name_of(basename(below))
            return level == _LEVELS[kind] and not (
                kind is Kind.NEW_STAGE and os.path.lexists(join(dirname(path), name or ""))
            )
        if kind is Kind.LOOK:
            return level < _LEVELS[Kind.STAGED]
        if kind is Kind.INSIDE:
            names = below.split("/")
            tops = (join(self.real, *names[: at + 1]) for at, name in enumerate(names) if is_backup_name(name))
            return not level and any(map(is_complete, tops))
        if level or kind is Kind.FOLDER:
            return not level
        named = bool(below) and is_backup_name(basename(below))
        return named and (is_complete(path) if kind is Kind.BACKUP else not os.path.lexists(path))


def _table() -> list[str]:
    with open(mounts.MOUNTINFO, encoding="utf-8", errors="surrogateescape") as table:
        return list(table)


Serve = Callable[[Ground, Argv, Sequence[str]], int]


@dataclass(frozen=True)
class Request:
    """An argument list that is served: what BUILDs it of words of those KINDS, and what SERVEs it.

    serve: is given the ground, the argument list and those words, and returns an exit status. rest: the kind of all
    further words, of which there may be any number.
    """

    build: Callable[..., Argv]
    kinds: tuple[Kind, ...]
    serve: Serve
    rest: Kind | None = None

    def words(self, argv: Argv) -> list[str] | None:
        """The words that ARGV was built of, None when it was not built by this."""
        examples = [f"{kind.example}{number}" for number, kind in enumerate(self.kinds)]
        if self.rest:
            more = len(argv) - len(self.build(*examples))
            examples += [f"{self.rest.example}{number}" for number in range(len(examples), len(examples) + more)]
        template, found = self.build(*examples), []
        places = {word: at for at, word in enumerate(template)}
        for example in examples:
            at = (
                places[example]
                if example in places
                else next(at for at, each in enumerate(template) if example in each)
            )
            shown = template[at].split(example)
            word = argv[at] if at < len(argv) else ""
            found.append(word.removeprefix(shown[0]).removesuffix(shown[1]))
        return found if self.build(*found) == argv else None

    def kinds_of(self, words: Sequence[str]) -> tuple[Kind, ...]:
        return (*self.kinds, *[self.rest] * (len(words) - len(self.kinds))) if self.rest else self.kinds


# --- what is served --------------------------------------------------------------------------------------------------


def _run(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    """Run it as it stands."""
    return _piped([argv])


def _send(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    return _piped([argv])


def _decline(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    """Backups are deleted by those who keep them."""
    return process.DECLINED


def _tell_mounts(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    """Print the lines of the mounts that matter, and of no others."""
    _print("".join(line for line in _table() if any(each.point in ground.mounts for each in mounts.parse(line))))
    return 0


def _list(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    """List the subvolumes in the folder, and no others."""
    ended = process.run(Command(argv, title(argv)))
    os.write(2, ended.stderr.encode())
    _print(btrfs.rows_below(os.fsdecode(ended.stdout), ground.inside(words[0])))
    return ended.status


def _print(text: str) -> None:
    process.written(1, memoryview(os.fsencode(text)))


def _write_out(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    return _piped([argv])


def _mark(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    """Make the mark that what was received is on the disk."""
    if not cutter.salt_of_mark(basename(words[0])):
        raise ValueError("it is no mark of a transfer")
    return _piped([argv])


def _mark_written(write_out: "partial[int]", mark: "partial[int]") -> int:
    status = write_out()
    if not status:
        mark()
    return status


def _make_stage(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    if dirname(words[1]) != words[0]:
        raise ValueError("an attempt is made in the stage that is named with it")
    return _piped([argv])


def _publish(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    staged, new = words
    if not is_complete(staged) or dirname(new) != dirname(dirname(dirname(staged))):
        raise ValueError("only what was received as a whole is published, beside its stage")
    return _piped([argv])


def _clear(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    _check_free(words[0])
    return _piped([argv])


def _check_free(place: str) -> None:
    """Raises ValueError when PLACE is in a stage that somebody on this machine, and no client, receives into."""
    names = place.split("/")
    at = "/".join(names[: next(number for number, name in enumerate(names) if stage.name_of(name)) + 1])
    if lock.is_held(Host(), at) and "(flock " not in (who := lock.holder(Host(), at)):
        raise ValueError(f"it is being received into{who}")


def _delete(ground: Ground, argv: Argv, words: Sequence[str]) -> int:
    """Delete what is in a stage. A number is never given to another subvolume."""
    number, mount = words
    ended = process.run(Command(btrfs.resolve_id(number, mount), "btrfs inspect-internal"))
    top = mount if f"{mount}/".startswith(f"{ground.real}/") else ground.real
    path, start = os.fsdecode(ended.stdout).removesuffix("\n"), ground.inside(top)
    if ended.status or not path.startswith(start):
        raise ValueError(f"there is no subvolume {number} in the folder that is served")
    staged = join(top, path.removeprefix(start))
    if stage.level(ground.located(staged)) != _LEVELS[Kind.STAGED]:
        return process.DECLINED
    _check_free(staged)
    by_path = os.lstat(mount).st_ino != btrfs.SUBVOLUME_INODE
    return _piped([btrfs.delete([staged], commit=False) if by_path else argv])


def _receive(ground: Ground, argv: Argv, words: Sequence[str], unzip: Argv = ()) -> int:
    """Receive streams from our input in an attempt, as far as they are let through."""
    attempt = words[-1]
    if words[0] not in (attempt, dirname(attempt)):
        raise ValueError("what is locked is the stage of the attempt")
    from btrfs_backup.commands.door import let_in

    with Children() as children:
        source = _started(children, [unzip] if unzip else [])
        return _status(let_in(children, source, argv, attempt, ground.real, ground.inside(ground.real)))


def _started(children: Children, argvs: Sequence[Argv]) -> int:
    """Start ARGVS one behind the other, the first with our input; what can be read from the last one."""
    stdin = 0
    for argv in argvs:
        reader, writer = os.pipe()
        try:
            children.start(Command(argv, title(argv)), stdin, writer, stderr=2)
        finally:
            os.close(writer)
            if stdin:
                os.close(stdin)
        stdin = reader
    return stdin


def _piped(argvs: Sequence[Argv]) -> int:
    """Run ARGVS, one behind the other, between our input and output; the exit status of the last one."""
    *ahead, last = argvs
    with Children() as children:
        stdin = _started(children, ahead)
        child = children.start(Command(last, title(last)), stdin, 1, stderr=2)
        if stdin:
            os.close(stdin)
        children.wait([child])
        return _status(child)


def _status(child: Child) -> int:
    status = child.ended.status
    return status if status >= 0 else 128 - status


def requests() -> Iterator[Request]:
    """All that is served, besides streams that are compressed on their way."""
    yield from _looks()
    yield from _coming_in()
    yield from _going_out()


def _fixed(argv: Argv, serve: Serve = _run) -> Request:
    return Request(lambda: argv, (), serve)


def _looks() -> Iterator[Request]:
    look, backup, mount = Kind.LOOK, Kind.BACKUP, Kind.MOUNT
    yield from map(_fixed, (btrfs.VERSION, tools.MOUNTED, tools.PROBE_FLOCK, tools.PROBE_ATTRIBUTES, *_ZIPS, *_UNZIPS))
    yield from (_fixed(tools.read(path)) for path in (btrfs.STREAM_VERSION, tools.BOOT_ID))
    yield _fixed(tools.read(mounts.MOUNTINFO), _tell_mounts)
    by_tools = (tools.look, tools.resolve, tools.filesystem_id, tools.entries)
    by_btrfs = (btrfs.show, btrfs.usage, btrfs.du, btrfs.commit, btrfs.sync)
    yield from (Request(build, (look,), _run) for build in (*by_tools, *by_btrfs))
    yield from (Request(build, (mount,), _run) for build in (tools.inode, btrfs.filesystem_show))
    yield from (Request(partial(btrfs.list_children, readonly_only=each), (look,), _list) for each in (False, True))
    yield from (Request(partial(tools.find, what=each), (backup,), _run) for each in tools.LISTS)
    yield Request(tools.versions, (Kind.NUMBER, Kind.PATTERN, Kind.PATTERN), _run, rest=Kind.INSIDE)
    yield Request(tools.resolve_all, (), _run, rest=Kind.INSIDE)
    yield Request(btrfs.resolve_inode, (Kind.NUMBER, backup), _run)
    yield Request(tools.pack, (Kind.INSIDE, Kind.NAME), _run)


def _coming_in() -> Iterator[Request]:
    look, attempt, a_stage, mount = Kind.LOOK, Kind.ATTEMPT, Kind.STAGE, Kind.MOUNT
    yield Request(tools.make_folder, (Kind.FOLDER,), _run)
    yield Request(tools.make_stage, (Kind.NEW_STAGE, attempt), _make_stage)
    yield Request(tools.is_held, (a_stage,), _run)
    yield Request(tools.make_attempt, (attempt,), _run)
    yield Request(tools.write_out, (look,), _write_out)
    yield Request(btrfs.create, (Kind.STAGED,), _mark)
    yield from (Request(partial(tools.hold_folder, shared=each), (a_stage,), _run) for each in (False, True))
    for debug in (False, True):
        yield Request(partial(btrfs.receive, debug=debug), (attempt,), _receive)
        yield Request(partial(_receive_locked, debug), (a_stage, attempt), _receive)
    yield Request(btrfs.snapshot, (Kind.STAGED, Kind.NEW), _publish)
    yield Request(btrfs.delete_by_id, (Kind.NUMBER, mount), _delete)
    yield Request(tools.remove_tree, (attempt,), _clear)
    yield from (Request(tools.remove_folder, (kind,), _clear) for kind in (attempt, a_stage))


def _going_out() -> Iterator[Request]:
    """Streams; backups are not deleted."""
    look, backup = Kind.LOOK, Kind.BACKUP
    for debug, compressed, data in (
        (False, False, True),
        (True, False, True),
        (False, True, True),
        (True, True, True),
        (False, False, False),
    ):
        send = partial(btrfs.send, debug=debug, compressed=compressed, data=data)
        yield Request(partial(send, parent=None), (backup,), _send)
        yield Request(send, (backup, backup), _send)
    yield Request(partial(btrfs.send, parent=None, data=False), (Kind.STAGED,), _send)
    yield _fixed(btrfs.PROBE_DELETE, _decline)
    yield from (Request(partial(btrfs.make_writable, force=each), (look,), _decline) for each in (False, True))


def _receive_locked(debug: bool, a_stage: str, attempt: str) -> Argv:
    return tools.locked(a_stage, btrfs.receive(attempt, debug))


# --- a request -------------------------------------------------------------------------------------------------------


def serve(folder: str, request: str) -> int:
    """Do what a client REQUESTs of FOLDER; returns the exit status. Raises Failure when that is not there.

    What is not known is refused, and nothing of it is done.
    """
    if not os.path.isdir(os.path.realpath(folder)):
        raise Failure(f"the folder '{folder}' does not exist", "Make it: it is to hold the backups of one client.")
    return _served(folder, request)


def _served(folder: str, request: str) -> int:
    try:
        return _planned(Ground(folder, os.path.realpath(folder)), ssh.read(request))()
    except ValueError as error:
        log.error("refused: %s: %s", request[:_SHOWN].replace("\n", "\\n"), error)
    except Failure as failure:
        log.error("%s", failure)
    return Exit.NOTHING_DONE


def _serve_session(ground: Ground, word: str) -> int:
    """Do what comes from a client line by line (see system.session), until nothing comes any more."""
    with open(os.dup(0), "rb", 0) as source, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        _tell_end(word, 0, 0)
        for request in _lines(source.fileno()):
            if found := session.decode(word, request):
                number, line = found
                _tell_end(word, number, _served(ground.spelled, line))
    return 0


def _tell_end(word: str, number: int, status: int) -> None:
    for each in (1, 2):
        process.written(each, memoryview(session.mark(word, number, status)))


def _lines(source: int) -> Iterator[bytes]:
    """The lines that come, without their ends; none that is cut off. Raises ValueError for one that has no end."""
    rest = b""
    while signals.wait([source]) and (piece := os.read(source, _PIECE)):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > _LONGEST_REQUEST:
            raise ValueError("a request does not come to an end")


def _planned(ground: Ground, argvs: Sequence[Argv]) -> "partial[int]":
    """What serves a pipeline of ARGVS. Raises ValueError."""
    plain = [_without(("sudo", "-n"), _without(ssh.PLAIN_WORDS, argv)) for argv in argvs]
    match plain:
        case [argv] if word := session.word_of(argv):
            return partial(_serve_session, ground, word)
        case [argv] if lines := ssh.in_both(argv):
            first, second = (_planned(ground, ssh.read(text)) for text in lines)
            if (first.func, second.func) == (_write_out, _mark):
                return partial(_mark_written, first, second)
        case [argv]:
            request, words = _known(ground, argv)
            return partial(request.serve, ground, argv, words)
        case [zip_, argv] if zip_ in _UNZIPS:
            request, words = _known(ground, argv)
            if request.serve is _receive:
                return partial(_receive, ground, argv, words, zip_)
        case [argv, *through] if len(through) < 3 and all(map(_hands_on, through)):
            if _known(ground, argv)[0].serve is _send:
                return partial(_piped, [argv, *through])
    raise ValueError(_UNKNOWN)


def _without(begin: Argv, argv: Argv) -> Argv:
    return argv[len(begin) :] if argv[: len(begin)] == begin else argv


def _hands_on(argv: Argv) -> bool:
    """Whether ARGV is what a stream that goes out may go through."""
    return argv in _ZIPS or argv == tools.head(btrfs.BEGINNING) or tools.leaves_out(argv)


def _known(ground: Ground, argv: Argv) -> tuple[Request, list[str]]:
    """The request that ARGV is, and its words, which have been judged. Raises ValueError."""
    wrong = ValueError(_UNKNOWN)
    for request in requests() if max(map(len, argv), default=0) <= _LONGEST_WORD else ():
        if (words := request.words(argv)) is not None:
            try:
                for kind, word in zip(request.kinds_of(words), words, strict=True):
                    ground.judge(kind, word)
            except ValueError as error:
                wrong = error
            else:
                return request, words
    raise wrong
