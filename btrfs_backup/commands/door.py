"""What comes in from a client of `--serve`: any number of streams, each a new subvolume in an attempt of its own.

`btrfs receive` looks for parents and for what is to be cloned on the whole filesystem. Here they have to be in the
folder that is served.
"""

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from posixpath import join

from btrfs_backup.model import stage
from btrfs_backup.model.gate import Expected, Gate
from btrfs_backup.model.sendstream import Beginning, BrokenStream
from btrfs_backup.system import btrfs, process, signals
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.paths import is_complete, is_plain
from btrfs_backup.system.pipes import Pipe
from btrfs_backup.system.process import Child, Children, Command
from btrfs_backup.system.tools import title

_PIECE = 1 << 20
_GLANCE = 0.01  # seconds
_GRACE = 5.0


def let_in(children: Children, source: int, argv: Argv, attempt: str, top: str, start: str) -> Child:
    """The receiver ARGV, which has ended: it got what could be read from SOURCE, as far as that was let through.

    attempt: where it receives; top, start: see Door. Raises ValueError when something was not let through.
    """
    pipe = Pipe()
    try:
        receiver = children.start(Command(argv, title(argv)), pipe.reader, stdout=2, tied=True, stderr=2)
        pipe.close_reader()
        door = Door(top, start, attempt, receiver, lambda: process.written(pipe.writer, gate.release()))
        gate = Gate([], door.admit)
        while signals.wait([source]) and (piece := os.read(source, _PIECE)):
            if not process.written(pipe.writer, gate.feed(piece)):
                break
        pipe.close_writer()
        children.wait([receiver])
        return receiver
    except BrokenStream as error:
        # Before its input ends, which it could take for the end of what it was to get.
        receiver.signal(signal.SIGKILL)
        receiver.reaped_within(_GRACE)
        raise ValueError(f"what came in: {error}") from None
    finally:
        pipe.close()


class Door:
    """The judge of the streams that a RECEIVER gets in an ATTEMPT.

    top: the folder that is served; start: how paths in it begin, from the top of the filesystem. flush: lets the
    receiver have all that was let through.
    """

    def __init__(self, top: str, start: str, attempt: str, receiver: Child, flush: Callable[[], object]) -> None:
        self._top, self._start = top, start
        self._flush = flush
        self._attempt = attempt
        self._receiver = receiver
        self._sources: dict[str, list[str]] = {}  # the paths of what was found here by its UUID
        self._begun: dict[str, str] = {}  # the UUIDs of the streams, by the paths of what is made of them

    def admit(self, beginning: Beginning) -> Expected:
        """Raises BrokenStream when it may not be received."""
        name = os.fsdecode(beginning.name)
        if stage.UNPRINTABLE.search(name) or "/" in name:
            raise BrokenStream(f"{name[:200]!r} is no name of a backup")
        parents = self._parents(beginning.parent) if beginning.parent else []
        self._begun[join(self._attempt, name)] = beginning.uuid
        plain = partial(self._is_plain, parents)
        return Expected(beginning.name, beginning.uuid, beginning.parent, plain, self._source)

    def _source(self, uuid: str) -> Callable[[bytes], bool]:
        """Like Expected.others: a part of a stream takes data from what the first one was built upon."""
        if uuid not in self._sources:
            self._sources[uuid] = self._parents(uuid)
        return partial(self._is_plain, self._sources[uuid])

    def _parents(self, uuid: str) -> list[str]:
        """The paths of all that `btrfs receive` may take for UUID: it looks for that on the whole filesystem."""
        top, start = self._top, self._start
        lists = (btrfs.list_all(top), btrfs.list_children(top), btrfs.list_children(self._attempt))
        endings = process.run_together([Command(argv, title(argv)) for argv in lists])
        every, *own = (btrfs.parse_list(os.fsdecode(ended.stdout)) for ended in endings)
        here = {each.id: path.removeprefix(start) for path, each in chain(*own) if path.startswith(start)}
        found = {each.id for _, each in every if uuid in (each.received_uuid, each.uuid)}
        begun = [path for path, its in self._begun.items() if its == uuid]
        if any(ended.status for ended in endings) or not (found or begun) or not found <= here.keys():
            raise BrokenStream(f"cannot find parent subvolume {uuid} here, and nowhere else on the filesystem")
        return [*begun, *(join(top, here[number]) for number in found)]

    def _is_plain(self, parents: Sequence[str], path: bytes) -> bool:
        if any(each in self._begun for each in parents):
            self._flush()
        for each in parents:
            # One that has just passed has to be there first; nothing changes in it from then on.
            while each in self._begun and not is_complete(each) and not self._receiver.reaped_within(_GLANCE):
                pass
        return all(is_complete(each) and is_plain(each, path) for each in parents)
