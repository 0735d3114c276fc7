"""Compare backups with their snapshots, file by file. Changes nothing; read it from top to bottom."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime

from btrfs_backup.commands.destination import stand
from btrfs_backup.commands.run import open_source
from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model import inventory, manifest, records
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.outcome import Outcome, Report
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.report import terminal
from btrfs_backup.report.text import findings
from btrfs_backup.system import state, tools, trees
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host, Hosts
from btrfs_backup.system.ssh import Access
from btrfs_backup.system.trees import Spool, Tree

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
    verified: list[manifest.Comparison] = field(default_factory=list)

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
        known, broken = state.read(source.host, source.folder.path, aside=False)
        for failure in broken:
            if settings.skip_absent:
                ours.fail(failure, broken=False)
            else:
                log.warning("%s: %s", ours.place, failure)
        destinations = []
        for each in settings.destinations:
            if each.scheme is Scheme.SHELL:
                log.warning("%s: not verified: what a shell command did with the streams cannot be read", each)
                continue
            side = _Side(each.identity, source.folder)
            destinations.append(side)
            try:
                side.folder, disk = stand(hosts.at(each), each, settings, known)
                side.chosen = _choose(side, ours.chosen, settings, known, disk)
            except Failure as failure:
                if isinstance(failure, Absent) and settings.skip_absent:
                    side.broken = side.absent = True
                    log.info("%s: skipped: %s", side.place, failure.message)
                else:
                    side.fail(failure)
        _find_out_about_attributes([ours, *destinations])
        publish(Report(ours.outcome, None, tuple(each.outcome for each in destinations)))
        for name in sorted({name for each in destinations for name in each.chosen}):
            wanted = [each for each in destinations if name in each.chosen]
            most = trees.most() - 1  # beside the snapshot
            for start in range(0, len(wanted), most):
                _compare(name, ours, wanted[start : start + most], settings)
                publish(Report(ours.outcome, None, tuple(each.outcome for each in destinations)))


def _choose(
    side: _Side, snapshots: Mapping[str, Subvolume], settings: Settings, known: records.Records, disk: str
) -> Mapping[str, Subvolume]:
    """The backups of SNAPSHOTS that are to be compared; what is KNOWN of those there on that DISK.

    Raises Failure when there is none.
    """
    if not side.folder.exists:
        raise Failure("it does not exist", "Is the disk mounted, and the path right?")
    old = not records.is_staged(known, side.place, disk)
    holdings = inventory.backups(side.folder.inventory(settings.naming), snapshots, old=old)
    for name, why in holdings.foreign.items():
        if name in snapshots:
            look = side.folder.host.typed("btrfs", "subvolume", "show", side.folder.at(name))
            failure = Failure(f"{name} is not the backup of the snapshot of that name: {why}", f"Look at it: {look}")
            side.fail(failure, broken=False)
    common = {name: backup for name, backup in holdings.complete.items() if name in snapshots}
    if not common:
        raise Failure(
            "there is no backup of a snapshot that the source still has",
            "Are SOURCE, '-f' and '-p' those of the backups? Otherwise back up first.",
        )
    newest = settings.naming.newest(common, datetime.now()) or ""
    promised = {*records.last_delivered(known, side.place, disk), *records.owed(known, settings.naming, side.place)}
    for name in sorted(promised.union(holdings.partial).intersection(snapshots)):
        if name > newest and name not in holdings.foreign:
            cut_off = "it is a transfer that was cut off" if name in holdings.partial else "it is not there"
            failure = Failure(f"{name} is newer than what is compared, and no backup: {cut_off}", "Back up first.")
            side.fail(failure, broken=False)
    return {name: backup for name, backup in common.items() if settings.verify == "all" or name == newest}


def _find_out_about_attributes(sides: Sequence[_Side]) -> None:
    """A host that lacks the program is told of once."""
    asked: dict[Host, bool] = {}
    for each in sides:
        host = each.folder.host
        try:
            if each.chosen and host not in asked:
                asked[host] = not host.connection or host.can_run(tools.PROBE_ATTRIBUTES)
                if not asked[host]:
                    log.warning(
                        "no suitable program 'getfattr' on %s: extended attributes, such as access control lists and "
                        "capabilities, are not compared with what is there",
                        host.name,
                    )
        except Failure as failure:
            each.fail(failure)
        each.attributes = asked.get(host, False)


def _compare(name: str, ours: _Side, destinations: Sequence[_Side], settings: Settings) -> None:
    """Read the snapshot NAME and its backups, all at the same time, and compare them."""
    sides = [each for each in (ours, *destinations) if not each.broken]
    if ours.broken or len(sides) < 2:
        return
    for each in sides[1:]:
        log.info("%s: comparing %s", each.place, name)
    with ExitStack() as scope:
        read = {each: Tree(each.folder.host, each.folder.at(name), each.attributes, Spool(scope)) for each in sides}
        try:
            trees.read(list(read.values()), _watch(name, list(read.values()), settings))
        except Failure as failure:
            ours.fail(failure)
            return
        finally:
            terminal.clear()
        whole = [each for each in sides if _is_whole(each, name, read[each])]
        results = {
            each: manifest.compare(name, read[ours].records, read[each].records, ours.attributes and each.attributes)
            for each in (whole[1:] if ours in whole else ())
        }
    if any(result.differences for result in results.values()) and not _is_there(ours, name):
        return
    for each, result in results.items():
        if not result.differences or _is_there(each, name):
            each.verified.append(result)
            log.info("%s: compared %s: %s", each.place, name, findings([result]))


def _watch(name: str, reading: Sequence[Tree], settings: Settings) -> Callable[[bool], None] | None:
    if not (settings.progress and terminal.possible()):
        return None
    rate, began = terminal.Rate(), time.monotonic()

    def show(hashing: bool) -> None:
        # The one that takes longest.
        last = max(reading, key=lambda each: not each.failure and each.sizes[-1] - each.hashed_bytes)
        speed = rate(time.monotonic() - began, last.hashed_bytes)
        line = f"comparing {name}, listed {sum(each.listed for each in reading)} entries"
        if hashing:
            title = f"comparing {name}, {last.hashed} of {len(last.sizes) - 1} files"
            line = terminal.progress_line(title, last.hashed_bytes, speed, last.sizes[-1])
        terminal.show(line)

    return show


def _is_whole(side: _Side, name: str, tree: Tree) -> bool:
    """Whether what was read can be compared; what went wrong is told."""
    if failure := tree.failure or tree.unread:
        if not _is_there(side, name):
            return False
        side.fail(failure, broken=bool(tree.failure))
    return not tree.failure


def _is_there(side: _Side, name: str) -> bool:
    """Whether nobody has deleted NAME while it was read, which is told."""
    gone = ""
    try:
        if name not in side.folder.names():
            gone = "deleted"
        elif side.folder.show(name).uuid != side.chosen[name].uuid:
            gone = "replaced"
    except Failure as unknown:
        log.debug("%s: cannot tell whether %s is still there: %s", side.place, name, unknown)
    if gone:
        failure = Failure(f"{name} was {gone} while it was compared", "Verify when no other run is at work.")
        side.fail(failure, broken=False)
    return not gone
