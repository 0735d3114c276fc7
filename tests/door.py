"""Requests and streams of a client that has its key, and root, against `--serve`: nothing that is there is touched.

python3 -m tests.door [--requests 2000] [--seed 1]        (as root)

Other backups, those of a neighbour, and files outside are looked at after each request. Half of the requests are steps
of pushes, with something wrong in some of them; the others are anything.
"""

import argparse
import itertools
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from btrfs_backup.commands.serve import Kind, requests, serve
from btrfs_backup.errors import Failure
from btrfs_backup.model import inventory, sendstream
from btrfs_backup.model.sendstream import Attribute, Command, frame, uuid_bytes
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.system import btrfs, session, ssh, tools
from btrfs_backup.system.folder import look
from btrfs_backup.system.host import Host
from tests.real.machine import Disk, fast_folder, sh, show, start_command, tree

SECRET = b"what only the neighbour knows " * 200
Answer = tuple[int, bytes, bytes]
_WORD = "0123456789abcdef" * 2
IN_SESSION = ssh.line(session.shell(_WORD), False, ssh.PLAIN_WORDS)
ENDINGS = re.compile(rb"\n%s \d+ (\d+)\n" % _WORD.encode())


def request_in_session(number: int, argv: tuple[str, ...]) -> bytes:
    return session.encode(_WORD, number, ssh.line(argv, sudo=False))


def ask_in_session(folder: Path, *argvs: tuple[str, ...]) -> list[Answer]:
    """What a client of FOLDER gets that asks for ARGVS in one session."""
    _, out, err = ask(folder, IN_SESSION, b"".join(itertools.starmap(request_in_session, enumerate(argvs, 1))))
    outs, errs = ENDINGS.split(out), ENDINGS.split(err)
    return [(int(outs[2 * each + 1]), outs[2 * each], errs[2 * each]) for each in range(1, len(argvs) + 1)]


def ask(folder: Path, request: str, given: bytes = b"") -> Answer:
    """What a client of FOLDER gets for a REQUEST, with its input GIVEN: exit status and output, as sshd has it."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(given)
        stdin.seek(0)
        with _in_place(stdin.fileno(), out.fileno(), err.fileno()):
            try:
                status = serve(str(folder), request)
            except Failure as failure:
                status = 1
                print(failure, file=sys.stderr, flush=True)
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


@contextmanager
def _in_place(*ours: int) -> Iterator[None]:
    """OURS are the standard streams as long as the scope lasts."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    log = logging.getLogger("btrfs_backup")
    handlers, propagate = log.handlers, log.propagate
    try:
        for number, our in enumerate(ours):
            os.dup2(our, number)
        with open(2, "w", buffering=1, errors="backslashreplace", closefd=False) as words:
            before, sys.stderr = sys.stderr, words
            log.handlers, log.propagate = [logging.StreamHandler(words)], False
            yield
    finally:
        sys.stderr = before
        log.handlers, log.propagate = handlers, propagate
        for number, each in enumerate(kept):
            os.dup2(each, number)
            os.close(each)


def stream(snapshot: Path, parent: Path | None = None) -> bytes:
    argv = ["btrfs", "send", "-q", *(["-p", str(parent)] if parent else []), str(snapshot)]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def renamed(original: bytes, **changes: object) -> bytes:
    """The stream with another first command."""
    first = sendstream.beginning(original)
    assert first
    end = 17 + len(first.frame())
    return original[:17] + replace(first, **changes).frame() + original[end:]  # type: ignore[arg-type]


class Scene:
    """A disk below FOLDER with what is served, a neighbour's backups, and a machine that has something to push."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.client, self.disk = (Disk(folder, folder / name, 300) for name in ("client", "nas"))
        nas = self.disk.path
        self.served, self.neighbour, self.outside = nas / "laptop", nas / "neighbour", folder / "outside"
        for each in (self.served, self.neighbour, self.outside):
            each.mkdir()
        (self.outside / "secret").write_bytes(SECRET)
        (self.served / "link").symlink_to(self.neighbour)
        (self.served / "foreign").write_text("of the administrator")
        home = self.client.path / "home"
        other = self.client.path / "other"
        for source in (home, other):
            sh("btrfs", "subvolume", "create", source)
            (source / "file").write_bytes(SECRET if source == other else b"mine" * 5000)
            (source / "way").symlink_to(self.outside)
        for number in range(3):
            (home / f"file{number}").write_bytes(os.urandom(20_000))
            self.back_up(home, self.served)
        self.back_up("-p", "neighbour-", other, self.neighbour)
        [self.theirs] = self.neighbour.glob("neighbour-*")
        self.snapshots = sorted((home / "snapshot").glob("2*"))
        self.backups = [self.served / each.name for each in self.snapshots]
        (home / "new").write_bytes(os.urandom(30_000))
        sh("btrfs", "subvolume", "snapshot", "-r", home, home / "snapshot" / "pushed")
        self.streams = [
            stream(home / "snapshot" / "pushed"),
            stream(home / "snapshot" / "pushed", self.snapshots[-1]),
            stream(self.snapshots[1], self.snapshots[0]),
        ]
        self.precious = {path: self._facts(path) for path in (*self.backups, self.theirs)}
        self.files = self._files()

    def close(self) -> None:
        for disk in (self.client, self.disk):
            disk.unmount()

    @staticmethod
    def back_up(*arguments: object) -> None:
        run = start_command("-q", *arguments)
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err

    @staticmethod
    def _facts(path: Path) -> tuple[object, ...]:
        told = show(path)
        return *(told[key] for key in ("UUID", "Received UUID", "Flags", "Subvolume ID")), tree(path)

    def _files(self) -> dict[str, object]:
        def fact(path: Path) -> object:
            its = path.lstat()
            return its.st_mode, its.st_ino, its.st_mtime_ns, path.read_bytes() if path.is_file() else b""

        return {str(path): fact(path) for path in (*self.outside.rglob("*"), *self.served.glob("[fl]*"))}

    def rows(self) -> list[tuple[str, Subvolume]]:
        lists = [btrfs.list_children(str(self.disk.path), readonly) for readonly in (False, True)]
        return btrfs.parse_list(*(sh(*argv) for argv in lists))

    def check(self) -> None:
        """Raises AssertionError when something that was there was changed, hidden or deleted."""
        listed = self.rows()
        rows = [(path, each.uuid, each.readonly) for path, each in listed]
        theirs = self.precious[self.theirs][0]
        for path, each in listed:
            assert each.parent_uuid != theirs, f"{path} was made of what the neighbour has"
        for path, facts in self.precious.items():
            row = (str(path.relative_to(self.disk.path)), facts[0], True)
            assert rows.count(row) == 1, f"{path} was changed or deleted"
        assert self._files() == self.files, "files were changed"
        held = inventory.backups(look(Host(), str(self.served)).inventory(Naming()), {})
        for path in self.backups:
            assert path.name in held.complete, f"{path} was hidden"

    def check_all(self) -> None:
        """The same of every file."""
        self.check()
        for path, facts in self.precious.items():
            assert self._facts(path) == facts, f"{path} was changed"
        for path in self.served.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert SECRET[:100] not in path.read_bytes(), f"{path} holds what the neighbour has"


class Attacker:
    """A client of a SCENE. answered: how many requests got which exit status, by what they were."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.random = scene, scene.random
        self.answered: Counter[tuple[str, int]] = Counter()
        self.known = list(requests())
        self.stages: list[Path] = []

    def step(self) -> tuple[str, str, bytes]:
        """What is asked for next: what it is, the request, and the input."""
        if self.random.random() < 0.3:
            lines = b"".join(session.encode(_WORD, number, self._request()[1]) for number in (1, 2, 3))
            return "session", IN_SESSION, lines if self.random.random() < 0.8 else lines[: -len(lines) // 4]
        return self._request()

    def _request(self) -> tuple[str, str, bytes]:
        if self.random.random() < 0.5:
            return self.of_a_push()
        what, argvs = "any", [self.argv() for _ in range(self.random.choice((1, 1, 1, 1, 2, 3)))]
        lines = [ssh.line(argv, sudo=False) for argv in argvs]
        if self.random.random() < 0.1:
            lines = [" ".join(argv) for argv in argvs]
        request = self.random.choice((" | ", " </dev/null && ", "; ", " && ", "\n", " & ")).join(lines)
        if self.random.random() < 0.2:
            at = self.random.randrange(len(request) + 1)
            cut = self.random.choice((0, 1))
            request = request[:at] + self.random.choice("'\"\\ ;|&$`\n<>()*~#!") + request[at + cut :]
        return what, request, self.random.choice(self.scene.streams)

    def argv(self) -> tuple[str, ...]:
        """One that is known, with words of the right kinds or of any; or one that nobody needs; with changes."""
        if self.random.random() < 0.25:
            argv = self.useless()
        else:
            request = self.random.choice(self.known)
            more = [request.rest] * self.random.randrange(4) if request.rest else []
            argv = request.build(*(self.word(kind) for kind in (*request.kinds, *more)))
        if self.random.random() < 0.2:
            words, at = list(argv), self.random.randrange(len(argv))
            self.random.choice(
                (
                    lambda: words.pop(at),
                    lambda: words.insert(at, self.random.choice(("-f", "-r", "-delete", "--", "-exec", "rm", "-R"))),
                    lambda: words.insert(at, self.path()),
                    lambda: words.append(self.path()),
                    lambda: words.__setitem__(at, self.path()),
                )
            )()
            argv = tuple(words)
        return argv

    def useless(self) -> tuple[str, ...]:
        path, other = self.path(), self.path()
        return self.random.choice(
            (
                ("rm", "-rf", "--", path),
                ("mv", "--", path, other),
                ("chmod", "-R", "777", "--", path),
                ("touch", "--", path),
                ("cp", "-a", "--", path, other),
                ("dd", f"of={path}", "conv=fsync", "status=none"),
                ("sh", "-c", f"rm -rf {path}"),
                ("cat", "--", path),
                ("find", f"{path}/", "-delete"),
                ("btrfs", "subvolume", "delete", path),
                ("btrfs", "subvolume", "delete", "-c", path, other),
                ("btrfs", "subvolume", "snapshot", path, other),
                ("btrfs", "subvolume", "create", path),
                ("btrfs", "property", "set", "-ts", path, "ro", "false"),
                ("btrfs", "receive", path),
                ("btrfs", "receive", "-C", "-m", "/", path),
                ("btrfs", "send", "-f", path, other),
                ("btrfs", "subvolume", "set-default", path),
                tools.entries(path),
                tools.find(path, tools.ENTRIES),
                btrfs.send(path, None),
                ("internal-sftp",),
                ("scp", "-t", path),
                ("rsync", "--server", "-logDtpr", ".", path),
                ("ln", "-s", path, other),
                ("mount", "--bind", path, other),
                ("bash",),
            )
        )

    def word(self, kind: Kind) -> str:
        scene, choose = self.scene, self.random.choice
        if kind is Kind.NUMBER:
            return choice if (choice := choose(("5", "0", "-1", *self._ids()))) else ""
        if kind is Kind.MOUNT:
            return choose((str(scene.disk.path), "/", str(scene.served), self.path()))
        if kind in (Kind.NAME, Kind.PATTERN):
            return choose(("*", "file", "link", "..", ".", "-delete", "sub/../..", "\n", self.path()))
        if self.random.random() < 0.4:
            return self.path()
        found: dict[Kind, list[Path]] = {
            Kind.BACKUP: scene.backups,
            Kind.INSIDE: [each / name for each in scene.backups for name in ("file", "link", "folder/..", "..", "-x")],
            Kind.NEW: [scene.served / self._name() for _ in range(3)],
            Kind.STAGE: sorted(scene.served.glob(".*.receiving*")),
            Kind.ATTEMPT: sorted(scene.served.glob(".*.receiving*/*")),
            Kind.STAGED: sorted(scene.served.glob(".*.receiving*/*/*")),
            Kind.FOLDER: [scene.served / "sub", scene.served / "sub" / "sub"],
        }
        return str(choose([*found.get(kind, []), *scene.backups, *[scene.served] * 3]))

    def _ids(self) -> list[str]:
        return [line.split()[1] for line in sh("btrfs", "subvolume", "list", self.scene.disk.path).splitlines()]

    def _name(self) -> str:
        return f"2026{self.random.randrange(1, 13):02}{self.random.randrange(1, 29):02}-120000"

    def path(self) -> str:
        scene, choose = self.scene, self.random.choice
        link = scene.served / "link"
        tops = (
            *scene.backups,
            scene.served,
            link,
            link,
            link / scene.theirs.name,
            scene.theirs,
            scene.neighbour,
            scene.outside,
        )
        top = choose((*tops, Path("/etc")))
        ends = (
            "/..",
            "/../neighbour",
            "/link",
            f"/link/{scene.theirs.name}",
            "//",
            "/.",
            "/x\ny",
            "/way/secret",
            "/sub",
            "/file",
        )
        stages = ("/.x.receiving", f"/.{self._name()}.receiving", f"/.{scene.backups[0].name}.receiving/h-1-01234567")
        return f"{top}{choose((*[''] * 12, *ends, *stages))}"

    def of_a_push(self) -> tuple[str, str, bytes]:
        """A step of a push, as a client makes it, or with one thing wrong."""
        scene, choose, wrong = self.scene, self.random.choice, self.random.random() < 0.3
        staged = sorted(scene.served.glob(".*.receiving*/*/*"))
        attempts = sorted(scene.served.glob(".*.receiving*/*"))
        kinds: list[tuple[str, Callable[[], tuple[str, ...]]]] = []
        made = scene.served / f".{choose((self._name(), scene.backups[0].name if wrong else self._name()))}.receiving"
        token = f"{self.random.randrange(1 << 32):08x}"
        if len(attempts) < 4:
            kinds.append(("stage", lambda: tools.make_stage(str(made), f"{made}/host-1-{token}")))
        if attempts:
            attempt = choose(attempts)
            receive = btrfs.receive(str(attempt), debug=False)
            kinds += [("receive", lambda: tools.locked(str(attempt.parent), receive))] * (1 if staged else 4)
            kinds.append(("empty", lambda: tools.remove_tree(str(attempt))))
        for place in scene.served.glob(".*.receiving"):
            kinds.append(("remove", partial(tools.remove_folder, str(place))))
        if staged:
            one = choose(staged)
            target = choose((scene.backups[0], scene.theirs, scene.neighbour / self._name())) if wrong else None
            new = target or scene.served / self._name()
            kinds += [("publish", lambda: btrfs.snapshot(str(one), str(new)))] * 2
            number = choose(self._ids()) if wrong else show(one)["Subvolume ID"]
            kinds += [("clear", lambda: btrfs.delete_by_id(number, str(scene.disk.path)))] * 4
        what, build = choose(kinds)
        argv = build()
        return what, ssh.line(argv, sudo=False), self.made() if what == "receive" else b""

    def made(self) -> bytes:
        """A stream: as it is, under another name, upon another parent, or with frames that no kernel writes."""
        choose = self.random.choice
        name = choose((self._name(), "part-1", "../x", "a/b", "x\nID 5 gen 1", "..", self.scene.backups[0].name))
        victim = show(choose((self.scene.theirs, self.scene.theirs, *self.scene.backups)))
        made = choose(self.scene.streams)
        kind = self.random.randrange(9)
        if kind < 4:
            made = renamed(made, name=self._name().encode())
        if kind == 4:
            made = renamed(made, name=os.fsencode(name))
        if kind in (5, 8):
            parent = choose((victim["UUID"], victim["Received UUID"]))
            made = renamed(made, name=self._name().encode(), parent=parent, parent_transid=1)
        if kind == 6:
            made = renamed(made, name=self._name().encode(), uuid=victim["Received UUID"])
            made += renamed(self.scene.streams[1], name=b"second", parent=victim["Received UUID"])
        if kind in (6, 7) or self.random.random() < 0.3:
            made = made[:-10] + self.evil(victim) + made[-10:]
        if self.random.random() < 0.1:
            at = self.random.randrange(len(made))
            made = choose((made[:at], made[:at] + bytes([self.random.randrange(256)]) + made[at + 1 :], made + made))
        return made

    def evil(self, victim: dict[str, str]) -> bytes:
        outside, zero = os.fsencode(self.scene.outside), bytes(8)
        path = self.random.choice((b"../../../foreign", b"l/secret", outside + b"/secret", b"", b"./x", b"way/secret"))
        made = _frame(Command.MKFILE, PATH=b"stolen", INO=bytes(8))
        cloned = _frame(
            Command.CLONE,
            PATH=b"stolen",
            FILE_OFFSET=zero,
            CLONE_LEN=(4096).to_bytes(8, "little"),
            CLONE_UUID=uuid_bytes(self.random.choice((victim["UUID"], victim["Received UUID"]))),
            CLONE_CTRANSID=zero,
            CLONE_PATH=self.random.choice((b"file", b"way/secret")),
            CLONE_OFFSET=zero,
        )
        return self.random.choice(
            (
                _frame(Command.SYMLINK, PATH=b"l", INO=zero, PATH_LINK=outside)
                + _frame(Command.WRITE, PATH=path, FILE_OFFSET=zero, DATA=b"evil"),
                _frame(Command.WRITE, PATH=path, FILE_OFFSET=zero, DATA=b"evil"),
                _frame(Command.RENAME, PATH=b"file", PATH_TO=b"../../../" + os.fsencode(self.scene.backups[0].name)),
                _frame(Command.UNLINK, PATH=path),
                made + cloned,
                frame(99, b""),
                b"more",
            )
        )

    def go_on(self) -> None:
        what, request, given = self.step()
        status, out, err = ask(self.scene.served, request, given)
        statuses = [int(each) for each in ENDINGS.findall(out)[1:]] if what == "session" else [status]
        self.answered.update((what, each) for each in statuses)
        try:
            self.scene.check()
            assert SECRET[:100] not in out + err, "it told what the neighbour has"
            assert os.fsencode(self.scene.theirs.name) not in out, "it told of the neighbour"
            assert b"Traceback" not in err
        except AssertionError as error:
            raise AssertionError(f"{error}: {request!r} was answered {status}: {out!r} {err!r}") from None


def _frame(kind: Command, **values: bytes) -> bytes:
    attributes = ((int(Attribute[name]), value) for name, value in values.items())
    packed = (number.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for number, value in attributes)
    return frame(int(kind), b"".join(packed))


def attack(folder: Path, count: int, seed: int) -> Counter[tuple[str, int]]:
    """COUNT requests to a scene below FOLDER. Raises AssertionError when one of them did harm."""
    scene = Scene(folder, seed)
    try:
        scene.check_all()
        attacker = Attacker(scene)
        for _ in range(count):
            attacker.go_on()
        scene.check_all()
        return attacker.answered
    finally:
        scene.close()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--requests", type=int, default=2000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        answered = attack(Path(folder), given.requests, given.seed)
    for (what, status), times in sorted(answered.items()):
        print(f"{what:10} exit {status:3}: {times}")
    print(f"{answered.total()} requests, and nothing was touched")


if __name__ == "__main__":
    main()
