"""Compare backups with their snapshots, file by file. Changes nothing; read it from top to bottom."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime

from btrfs_backup.commands.destination import stand
from btrfs_backup.commands.run import open_source
from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model import inventory, manifest, records
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.manifest import Comparison
from btrfs_backup.model.outcome import Outcome, Report
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.report import terminal
from btrfs_backup.report.terminal import progress_line
from btrfs_backup.report.text import findings
from btrfs_backup.system import state, trees
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.trees import Reading, Tree

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Side:
    """The source with its snapshots, or a destination with its backups.

    chosen: those that are to be compared, by name. broken: something failed, so that nothing more is read there.
    """

    place: str
    folder: Folder
    chosen: Mapping[str, Subvolume] = field(default_factory=dict)
    attributes: bool = True
    broken: bool = False
    absent: bool = False
    failures: list[Failure] = field(default_factory=list)
    verified: list[Comparison] = field(default_factory=list)

    def fail(self, failure: Failure, broken: bool = True) -> None:
        self.broken = self.broken or broken
        if not any(str(failure) == str(told) for told in self.failures):
            self.failures.append(failure)
            log.error("%s: %s", self.place, failure)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.place, failures=tuple(self.failures), absent=self.absent, verified=tuple(self.verified))


def verify(settings: Settings, publish: Callable[[Report], None]) -> None:
    """Compare what SETTINGS asks for, and PUBLISH what came of it so far.

    What concerns one destination ends up in the report. Raises Failure when nothing could be done at all.
    """
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        source = open_source(replace(settings, take_snapshot=False), hosts)
        snapshots = inventory.snapshots(source.folder.inventory(settings.naming)).complete
        ours = _Side(settings.source.identity, source.folder, snapshots)
        known: Records = records.NONE
        if settings.skip_absent:
            known, broken = state.read(source.host, source.folder.path, aside=False)
            for failure in broken:
                ours.fail(failure, broken=False)
        destinations = []
        for each in settings.destinations:
            if each.scheme is Scheme.SHELL:
                log.warning("%s: not verified: what a shell command did with the streams cannot be read", each)
                continue
            side = _Side(each.identity, source.folder)
            destinations.append(side)
            try:
                side.folder, _ = stand(hosts.at(each), each, settings, known)
                side.chosen = _choose(side, ours.chosen, settings)
            except Failure as failure:
                side.broken = True
                if isinstance(failure, Absent) and settings.skip_absent:
                    side.absent = True
                    log.info("%s: skipped: %s", side.place, failure.message)
                else:
                    side.fail(failure)
        _find_out_about_attributes([ours, *destinations])
        publish(Report(ours.outcome, None, tuple(each.outcome for each in destinations)))
        for name in sorted({name for each in destinations for name in each.chosen}):
            _compare(name, ours, [each for each in destinations if name in each.chosen], settings)
            publish(Report(ours.outcome, None, tuple(each.outcome for each in destinations)))


def _choose(side: _Side, snapshots: Mapping[str, Subvolume], settings: Settings) -> Mapping[str, Subvolume]:
    """The backups of SNAPSHOTS that are to be compared. Raises Failure when there is none."""
    if not side.folder.exists:
        raise Failure("it does not exist", "Is the disk mounted, and the path right?")
    holdings = inventory.backups(side.folder.inventory(settings.naming), snapshots)
    for name, why in holdings.foreign.items():
        if name in snapshots:
            look = side.folder.host.typed("btrfs", "subvolume", "show", side.folder.at(name))
            failure = Failure(f"{name} is not the backup of the snapshot of that name: {why}", f"Look at it: {look}")
            side.fail(failure, broken=False)
    for name in holdings.partial:
        if name in snapshots:
            log.warning("%s: %s is not verified: it is a transfer that was cut off", side.place, name)
    common = {name: backup for name, backup in holdings.complete.items() if name in snapshots}
    if not common:
        raise Failure(
            "there is no backup of a snapshot that the source still has",
            "Are SOURCE, '-f' and '-p' those of the backups? Otherwise back up first.",
        )
    return common if settings.verify == "all" else _newest(common, settings.naming)


def _newest(common: Mapping[str, Subvolume], naming: Naming) -> Mapping[str, Subvolume]:
    newest = naming.newest(common, datetime.now())
    return {name: backup for name, backup in common.items() if name == newest}


def _find_out_about_attributes(sides: Sequence[_Side]) -> None:
    """A host that lacks the program is told of once."""
    asked: dict[Host, bool] = {}
    for each in sides:
        try:
            if each.chosen and each.folder.host not in asked:
                asked[each.folder.host] = trees.can_list_attributes(each.folder.host)
                if not asked[each.folder.host]:
                    log.warning(
                        "no suitable program 'getfattr' on %s: extended attributes, such as access control lists and "
                        "capabilities, are not compared with what is there",
                        each.folder.host.name,
                    )
        except Failure as failure:
            each.fail(failure)
        each.attributes = asked.get(each.folder.host, False)


def _compare(name: str, ours: _Side, destinations: Sequence[_Side], settings: Settings) -> None:
    """Read the snapshot NAME and its backups, all at the same time, and compare them."""
    sides = [each for each in (ours, *destinations) if not each.broken]
    if ours.broken or len(sides) < 2:
        return
    for each in sides[1:]:
        log.info("%s: comparing %s", each.place, name)
    with ExitStack() as scope:
        read = {each: Tree(each.folder.host, each.folder.at(name), scope) for each in sides}
        try:
            trees.read(list(read.values()), [read[each] for each in sides if each.attributes], _watch(name, settings))
        except Failure as failure:
            ours.fail(failure)
            return
        finally:
            terminal.clear()
        whole = [each for each in sides if _is_whole(each, name, read[each])]
        if ours in whole:
            results = {each: _result(name, ours, each, read) for each in whole[1:]}
            if all(map(_is_good, results.values())) or _is_there(ours, name):
                for each, result in results.items():
                    _tell(each, name, result)


def _watch(name: str, settings: Settings) -> trees.Watch | None:
    if not (settings.progress and terminal.possible()):
        return None
    rate = terminal.Rate()

    def show(reading: Reading) -> None:
        if reading.files is None:
            terminal.show(f"comparing {name}, listed {reading.listed} entries")
            return
        title = f"comparing {name}, {reading.files} of {reading.all_files} files"
        speed = rate(reading.seconds, reading.bytes)
        terminal.show(progress_line(title, reading.bytes, speed, reading.all_bytes, {}))

    return show


def _is_whole(side: _Side, name: str, tree: Tree) -> bool:
    """Whether what was read can be compared; what went wrong is told."""
    if not (failure := tree.failure or tree.unread):
        return True
    if not _is_there(side, name):
        return False
    if tree.failure:
        side.fail(failure)
        return False
    side.fail(failure, broken=False)
    return True


def _is_there(side: _Side, name: str) -> bool:
    """Whether nobody has deleted NAME while it was read, which is told."""
    gone = ""
    try:
        if name not in side.folder.names():
            gone = "deleted"
        elif side.folder.show(name).uuid != side.chosen[name].uuid:
            gone = "replaced"
    except Failure as failure:
        log.debug("%s: cannot tell whether %s is still there: %s", side.place, name, failure)
    if gone:
        side.fail(
            Failure(f"{name} was {gone} while it was compared", "Verify when no other run is at work."), broken=False
        )
    return not gone


def _result(name: str, ours: _Side, theirs: _Side, read: Mapping[_Side, Tree]) -> Comparison | Failure:
    attributes = ours.attributes and theirs.attributes
    try:
        return manifest.compare(name, read[ours].records(attributes), read[theirs].records(attributes))
    except Failure as failure:
        return failure


def _is_good(result: Comparison | Failure) -> bool:
    return isinstance(result, Comparison) and not result.differences


def _tell(side: _Side, name: str, result: Comparison | Failure) -> None:
    """Unless the reason for a bad result is that the backup is gone."""
    if not _is_good(result) and not _is_there(side, name):
        return
    if isinstance(result, Failure):
        side.fail(result, broken=False)
        return
    side.verified.append(result)
    log.info("%s: compared %s: %s", side.place, name, findings([result]))
