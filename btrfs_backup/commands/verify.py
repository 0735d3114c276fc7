"""Compare backups with their snapshots, file by file. Changes nothing; read it from top to bottom."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from btrfs_backup.commands.outset import open_source
from btrfs_backup.commands.visit import fail, give_up, stand
from btrfs_backup.errors import Failure, StateFileBroken
from btrfs_backup.model import inventory, manifest
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.manifest import Comparison
from btrfs_backup.model.records import Records
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.report import terminal
from btrfs_backup.report.outcome import Report, Tally
from btrfs_backup.report.terminal import progress_line
from btrfs_backup.report.text import findings
from btrfs_backup.system import trees
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.source import Source
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.statefile import StateFiles
from btrfs_backup.system.trees import Reading, Tree

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Side:
    """The source with its snapshots, or a destination with its backups.

    chosen: those that are to be compared, by name. broken: something failed, so that nothing more is read there.
    """

    folder: Folder
    tally: Tally
    chosen: Mapping[str, Subvolume] = field(default_factory=dict)
    attributes: bool = True
    broken: bool = False

    def fail(self, failure: Failure) -> None:
        self.broken = True
        fail(self.tally, failure)


def verify(settings: Settings, report: Report) -> None:
    """Compare what SETTINGS asks for and write down in REPORT what came of it.

    What concerns one destination ends up in the report. Raises Failure when nothing could be done at all.
    """
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        source, standing = open_source(replace(settings, take_snapshot=False), hosts)
        snapshots = inventory.snapshots(source.folder.look(settings.naming, standing)).complete
        ours = _Side(source.folder, report.source, snapshots)
        destinations = _destinations(settings, report, hosts)
        records = _records(source, report) if settings.skip_absent else Records({}, {})
        for each in destinations:
            try:
                each.chosen = _choose(each, ours.chosen, settings, records)
            except Failure as failure:
                each.broken = True
                give_up(each.tally, failure, settings)
        _find_out_about_attributes([ours, *destinations])
        for name in sorted({name for each in destinations for name in each.chosen}):
            _compare(name, ours, [each for each in destinations if name in each.chosen], settings)


def _destinations(settings: Settings, report: Report, hosts: Hosts) -> list[_Side]:
    sides = []
    for each in settings.destinations:
        if each.scheme is Scheme.SHELL:
            log.warning("%s: not verified: what a shell command did with the streams cannot be read", each)
        else:
            sides.append(_Side(Folder(hosts.at(each), each.path), Tally(each.identity)))
    report.destinations = [side.tally for side in sides]
    return sides


def _records(source: Source, report: Report) -> Records:
    """They tell a disk that is missing from a place that never had one."""
    try:
        return StateFiles(source.host, source.folder.path).records
    except StateFileBroken as failure:
        fail(report.source, failure)
        return Records({}, {})


def _choose(
    side: _Side, snapshots: Mapping[str, Subvolume], settings: Settings, records: Records
) -> Mapping[str, Subvolume]:
    """The backups of SNAPSHOTS that are to be compared. Raises Failure when there is none."""
    standing, _ = stand(side.folder, side.tally.place, settings, records)
    if not standing.exists:
        raise Failure("it does not exist", "Is the disk mounted, and the path right?")
    holdings = inventory.backups(side.folder.look(settings.naming, standing), snapshots)
    for name, why in holdings.foreign.items():
        if name in snapshots:
            look = side.folder.host.typed("btrfs", "subvolume", "show", side.folder.at(name))
            failure = Failure(f"{name} is not the backup of the snapshot of that name: {why}", f"Look at it: {look}")
            fail(side.tally, failure)
    for name in holdings.partial:
        if name in snapshots:
            log.warning("%s: %s is not verified: it is a transfer that was cut off", side.tally.place, name)
    common = {name: backup for name, backup in holdings.complete.items() if name in snapshots}
    if not common:
        raise Failure(
            "there is no backup of a snapshot that the source still has",
            "Are SOURCE, '-f' and '-p' those of the backups? Otherwise back up first.",
        )
    return common if settings.verify == "all" else _newest(common, settings.naming)


def _newest(common: Mapping[str, Subvolume], naming: Naming) -> Mapping[str, Subvolume]:
    newest = naming.newest(common)
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
        log.info("%s: comparing %s", each.tally.place, name)
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
    fail(side.tally, failure)
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
        log.debug("%s: cannot tell whether %s is still there: %s", side.tally.place, name, failure)
    if gone:
        fail(side.tally, Failure(f"{name} was {gone} while it was compared", "Verify when no other run is at work."))
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
        fail(side.tally, result)
        return
    side.tally.verified.append(result)
    log.info("%s: compared %s: %s", side.tally.place, name, findings([result]))
