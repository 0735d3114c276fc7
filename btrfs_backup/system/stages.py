"""The only place that acts in stages (see model.stage): they are opened, received into, published from and removed."""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from posixpath import dirname, join

from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.model import cutter, stage
from btrfs_backup.model.arrival import Found
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import SUBVOLUME, Stage
from btrfs_backup.system import btrfs, lock, tools
from btrfs_backup.system.folder import AT_ONCE, Folder, Sending
from btrfs_backup.system.lock import Held
from btrfs_backup.system.process import Command, Pipeline


@dataclass(frozen=True)
class Attempt:
    """An attempt to receive into a stage of FOLDER. entry: the name of the stage; name: of the attempt in it.

    mounting: of the filesystem of the folder when it began. held: the lock on the stage.
    earlier: what was in the stage before, when it goes on with that.
    """

    folder: Folder
    entry: str
    name: str
    mounting: tuple[str, str]
    held: Held
    earlier: Stage | None = None

    @property
    def path(self) -> str:
        return self.folder.at(join(self.entry, self.name))

    def receiver(self, how: Sending) -> Pipeline:
        """What reads streams and receives them here, and nowhere else. Raises Failure."""
        argv = btrfs.receive(self.path, how.debug)
        place = self.folder.at(self.entry)
        return self.folder.host.receiver(argv, how.compress, how.debug, place, self.held.inherit)

    def marking(self, salt: str) -> Callable[[], Command]:
        """Gives what has all that was received written to the disk, and marks that if it can. SALT: see cutter.mark.

        Raises Failure.
        """
        numbers = itertools.count()
        written = tools.write_out(self.folder.path)
        return lambda: self.folder.host.both(written, btrfs.create(join(self.path, cutter.mark(salt, next(numbers)))))

    def remounted(self) -> Failure | None:
        """What to say when its filesystem may not be what it was when it began. Then nobody knows what is on disk."""
        try:
            if self.folder.mounting() == self.mounting:
                return None
        except Failure as failure:
            return failure
        return Failure("its filesystem was mounted again while data came in", "The next run sends it again.")

    def ask_for_proof(self, parent: str | None) -> None:
        """Ask another machine to write out what has arrived, for what is there then, and for the PARENT of that."""
        if self.folder.host.connection:
            self.folder.host.ask(*self.folder.proving(join(self.entry, self.name), parent))

    def contents(self) -> Found:
        """What is in it. Raises Failure, LockHeld when somebody else is at work in its stage."""
        self.held.confirm()
        inside = replace(self.folder, path=self.path, info=replace(self.folder.info, path=self._real))
        kinds, held = inside.found()
        other = [path for path, kind in kinds.items() if kind != SUBVOLUME or path not in held]
        return Found(held, other, self.earlier.subvolumes if self.earlier else ())

    @property
    def _real(self) -> str:
        return join(self.folder.info.path, self.entry, self.name)

    def publish(self, names: Sequence[str]) -> Mapping[str, Subvolume]:
        """Give the backups NAMES their names, oldest first; the subvolumes that are in the folder then. Raises Failure.

        A snapshot writes out what it is taken of and commits, and keeps the received UUID. Seen: on an existing name
        btrfs would try to make it inside of that.
        """
        places = {name: self.folder.at(name) for name in names}
        trying = {name: f"cannot publish the backup '{place}'" for name, place in places.items()}
        steps = {trying[name]: btrfs.snapshot(join(self.path, name), place) for name, place in places.items()}
        return self.folder.found_behind(steps)[1]

    def remove(self, subvolumes: Sequence[Subvolume], commit: bool) -> None:
        """Remove the stage with the SUBVOLUMES in it. Raises Failure."""
        earlier = self.earlier or Stage(self.entry, "")
        held = (*earlier.subvolumes, *subvolumes)
        whole = replace(earlier, attempts=(*earlier.attempts, self.name), subvolumes=held)
        # With a commit it is that of a failure, and perhaps on another filesystem by now.
        if commit:
            remove(self.folder, whole, commit)
        elif not _removed_in_one_go(self.folder, whole):
            there = {each.uuid for each in self.folder.listed().values()}
            remove(self.folder, replace(whole, subvolumes=tuple(each for each in held if each.uuid in there)), commit)

    def leave(self) -> None:
        """Remove it when it is empty, and leave what was in the stage before. Raises Failure."""
        self.folder.host.ended(tools.remove_folder(self.path))


def left(folder: Folder, name: str) -> list[Stage]:
    """The stages for NAME in FOLDER that hold what is left of transfers. Raises Failure, LockHeld when one is alive."""
    kinds, below = folder.found()
    stages = []
    for entry in [each for each in kinds if stage.name_of(each) == name]:
        found = folder.stage_at(entry, name, kinds, below)
        if found.holder:
            what = f"'{folder.at(name)}' is being received already, by {found.holder}"
            raise LockHeld(what, "Wait until that has ended.")
        stages.append(found)
    return stages


@contextmanager
def opened(
    folder: Folder,
    name: str,
    taken: frozenset[str],
    earlier: Stage | None = None,
    useless: Sequence[Subvolume] = (),
    stream_uuid: str = "",
) -> Iterator[Attempt]:
    """A new attempt to receive NAME into a stage of FOLDER, locked as long as the scope lasts.

    stream_uuid: of the snapshot, where another one could have that name. TAKEN: names of stages that are something
    else; EARLIER: the one to go on with, without what is USELESS. Raises Failure, also when somebody receives it there
    already.
    """
    if earlier:
        with _continued(folder, earlier, useless, stream_uuid) as going_on:
            yield going_on
        return
    entry = stage.entry(name, taken)
    attempt = stage.attempt(socket.gethostname(), os.getpid(), time.time_ns(), stream_uuid)
    place = folder.at(entry)
    try:
        mounting = folder.made(tools.make_stage(place, join(place, attempt)), f"cannot make the stage '{place}'")
    except Failure:
        # It goes on behind what it could not make: the stage is that of another attempt, which could not remove it.
        folder.host.ended(tools.remove_folder(join(place, attempt)))
        raise
    with lock.staged(folder.host, place, shared=True) as held:
        yield Attempt(folder, entry, attempt, mounting, held)


@contextmanager
def _continued(folder: Folder, earlier: Stage, useless: Sequence[Subvolume], stream_uuid: str) -> Iterator[Attempt]:
    """A new attempt in a stage that is there. Raises Failure, LockHeld when there is another new one."""
    place = folder.at(earlier.entry)
    name = stage.attempt(socket.gethostname(), os.getpid(), time.time_ns(), stream_uuid)
    in_use = LockHeld(f"'{folder.at(earlier.name)}' is being received already", "Wait until that has ended.")
    if lock.is_held(folder.host, place):
        raise in_use
    mounting = folder.made(tools.make_attempt(join(place, name)), f"cannot go on in the stage '{place}'")
    attempt = Attempt(folder, earlier.entry, name, mounting, Held(), earlier)
    with lock.staged(folder.host, place, shared=True) as held:
        held.confirm()
        # Of two that have come so far, at least one sees the other.
        kinds, _ = folder.found()
        if {path for path in kinds if dirname(path) == earlier.entry} != {
            f"{earlier.entry}/{each}" for each in (*earlier.attempts, name)
        }:
            attempt.leave()
            raise in_use
        failed = folder.delete(useless, commit=False)
        left = tuple(each for each in earlier.subvolumes if each not in useless or each.name in failed)
        yield replace(attempt, held=held, earlier=replace(earlier, subvolumes=left))


def clear(folder: Folder, left: Stage) -> None:
    """Remove a stage of FOLDER that is LEFT from a transfer. Raises Failure, LockHeld when one is alive there."""
    with lock.staged(folder.host, folder.at(left.entry), shared=False):
        remove(folder, left)


def _removed_in_one_go(folder: Folder, left: Stage) -> bool:
    """Whether a stage could be removed of which all is known that is LEFT in it."""
    place = folder.at(left.entry)
    deletions = [btrfs.delete_by_id(each.id, folder.info.mount.point) for each in left.subvolumes if each.id]
    folders = [tools.remove_folder(path) for path in (*(join(place, each) for each in left.attempts), place)]
    if not folder.host.connection:
        # Measured: 30 small increments took 1.06 of the time when these were deleted one after the other.
        for start in range(0, len(deletions), AT_ONCE):
            folder.host.ended_together(*deletions[start : start + AT_ONCE])
        deletions = []
    return not folder.host.in_turn([*deletions, *folders])[-1].status


def remove(folder: Folder, left: Stage, commit: bool = True) -> None:
    """Remove a stage of FOLDER with all that is LEFT in it. Raises Failure.

    COMMIT: have its space freed at once; what has been published shares all of it, and needs none.
    """
    place = folder.at(left.entry)
    # The names in it can be forged, and are those of several attempts: what counts are the UUIDs.
    if folder.delete(left.subvolumes, commit=commit):
        for path in folder.listed():
            if path.startswith(f"{left.entry}/"):
                inside = folder.inside(path)
                inside.delete(list(inside.listed().values()), commit=commit)
        for failure in folder.delete(left.subvolumes, commit=commit).values():
            raise failure
    trying = f"cannot remove the stage '{place}'"
    for each in left.attempts:
        # What a stream has put beside the subvolume.
        folder.host.run(tools.remove_tree(join(place, each)), trying)
    folder.host.run(tools.remove_folder(place), trying)
