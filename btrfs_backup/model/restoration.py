"""Which backup is restored, on top of what it is sent, where its copies go, and which step is next."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from posixpath import join, relpath

from btrfs_backup.errors import Failure
from btrfs_backup.model import cutter, inventory, plan, stage
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.inventory import Holdings, Inventory
from btrfs_backup.model.location import normalise
from btrfs_backup.model.outcome import Restoration, Sent
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.snapshot import Naming, Subvolume, is_backup_name, prefix_of
from btrfs_backup.model.stage import Stage


@dataclass(frozen=True)
class Site:
    """The paths of a restore, on one host.

    destination: the subvolume to create, in a folder that exists; folder: where the read-only copy goes.
    """

    destination: str
    folder: str

    @property
    def inside(self) -> bool:
        """Whether the copy goes into the subvolume that is to be created."""
        return f"{self.folder}/".startswith(f"{self.destination}/")

    def folder_in(self, top: str) -> str:
        """Where the folder, which is inside the destination, is in a copy of that, whose path is TOP."""
        return normalise(join(top, relpath(self.folder, self.destination)))


@dataclass(frozen=True)
class Plan:
    """The plan by which the backup NAME is restored.

    parent: what its stream builds upon, a snapshot that both sides have; the backup itself when the destination can
    see it: that shares its data and carries over nothing but its UUID. None: everything is sent.
    there: the read-only copy is in the folder already, and nothing has to be sent.
    """

    name: str
    site: Site
    parent: str | None = None
    there: bool = False

    @property
    def copy(self) -> str:
        return join(self.site.folder, self.name)

    @property
    def how(self) -> str:
        """How it gets there, for people."""
        if self.there:
            return "which is there already"
        if self.parent == self.name:
            return "sharing its data on the same filesystem"
        return f"on top of {self.parent}" if self.parent else "in full"


def site(destination: str, snapshot_folder: str) -> Site:
    """For a DESTINATION and a folder that is relative to it or absolute."""
    return Site(destination, normalise(join(destination, snapshot_folder)))


def naming_of(name: str, given: Naming) -> Naming:
    """The naming of the backup NAME; GIVEN was asked for. Raises Failure when it is another one."""
    if given.prefix and name not in given:
        raise Failure(
            f"the name of the backup '{name}' does not begin with the prefix '{given.prefix}'",
            f"Its prefix is '{prefix_of(name)}': leave out the option '-p', or correct it.",
        )
    return Naming(prefix_of(name))


def restorable(held: Inventory, snapshots: bool) -> Holdings:
    """What can be restored of HELD: complete backups.

    When there are none, or SNAPSHOTS are meant, all that are read-only: those in the snapshot folder of a source were
    not received. Whatever cannot be restored is foreign here, with the reason.
    """
    usable = inventory.backups(held, {}).complete
    if snapshots or not usable:
        usable = {name: each for name, each in inventory.snapshots(held).complete.items() if name not in held.marks}
    judged = {name: inventory.judge(each, None, marked=name in held.marks)[1] for name, each in held.subvolumes.items()}
    judged |= dict.fromkeys(held.others, "it is not a subvolume")
    return Holdings(usable, (), {name: judged[name] for name in sorted(judged) if name not in usable})


def choose(held: Holdings, wanted: str, place: str, naming: Naming, now: datetime) -> Subvolume:
    """The backup WANTED, or the newest one at NOW if that is empty, of those HELD at PLACE. Raises Failure."""
    if wanted in held.foreign:
        what_to_do = "Choose another backup; its folder as SOURCE means the newest complete one."
        if held.foreign[wanted] == inventory.UNWRITTEN:
            command = shlex.join(("rmdir", join(place, stage.entry(wanted))))
            what_to_do += f"\n  To take it all the same, remove its mark: {command}"
        raise Failure(f"'{wanted}' in '{place}' cannot be restored: {held.foreign[wanted]}", what_to_do)
    if not wanted and not held.complete:
        newest = max(held.foreign)
        raise Failure(
            f"there is no complete backup in '{place}': {newest} is none: {held.foreign[newest]}",
            "Restore from another folder, or from the snapshots of the source.",
        )
    return held.complete[wanted or naming.newest(held.complete, now) or max(held.complete)]


def no_backups(place: str, naming: Naming, entries: Collection[str]) -> Failure:
    """What to tell when none of the ENTRIES of PLACE is named by NAMING."""
    prefixes = sorted({prefix_of(name) for name in entries if is_backup_name(name)})
    there = ", ".join(f"'{prefix}'" if prefix else "none" for prefix in prefixes[:8]) + (
        ", ..." if prefixes[8:] else ""
    )
    what_to_do = (
        f"Give the right prefix with '-p'. Prefixes there: {there}."
        if prefixes
        else "SOURCE is a backup or a folder of backups, DEST the subvolume that is to be made of it."
    )
    return Failure(f"no backups named {naming.prefix}YYYYMMDD-HHMMSS are in '{place}'", what_to_do)


def decide(
    chosen: Subvolume,
    backups: Mapping[str, Subvolume],
    site: Site,
    held: Holdings,
    visible: bool = False,
    incremental: bool = True,
) -> Plan:
    """How the backup CHOSEN gets to SITE, whose folder has the snapshots HELD; BACKUPS are those beside it.

    VISIBLE: the destination can see the backup, on the same filesystem. Raises Failure when its name is occupied.
    """
    alike = {
        name
        for name, each in held.complete.items()
        if name in backups and each.stream_uuid == backups[name].stream_uuid
    }
    if chosen.name in alike:
        return Plan(chosen.name, site, there=True)
    if chosen.name in {*held.complete, *held.foreign}:
        why = held.foreign.get(chosen.name, "it is another snapshot than the one that was backed up under that name")
        raise Failure(
            f"'{join(site.folder, chosen.name)}' is in the way of the read-only copy: {why}",
            "Rename or delete it, or choose another folder with '-f'.",
        )
    if not incremental:
        return Plan(chosen.name, site)
    if visible:
        return Plan(chosen.name, site, chosen.name)
    return Plan(chosen.name, site, plan.Lineage(chosen, backups).parent(chosen.name, frozenset(alike)))


# --- step by step ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Receive:
    """Receive the backup into the stage, on top of PARENT or in full, on from the checkpoints AHEAD.

    useless: what is deleted there before. because: what went wrong the time before, None when there was none.
    named: the parent is named by its UUID there.
    """

    parent: str | None
    ahead: tuple[Checkpoint, ...] = ()
    useless: tuple[Subvolume, ...] = ()
    because: Failure | None = None
    named: bool = False


@dataclass(frozen=True)
class Arrival:
    """The outcome of a Receive.

    failure: why not all of it is there and on disk; blames_parent: its parent is of no use; spoiled: no part of it is.
    unproved: the stream is not the one that was cut off; the checkpoints that it does agree with.
    wrong: why what has come is not what was expected, empty when it is; mistaken: since another subvolume was taken for
    the parent. found: what is in the stage of that which came.
    """

    sent: Sent
    failure: Failure | None = None
    blames_parent: bool = False
    spoiled: bool = False
    unproved: tuple[Checkpoint, ...] | None = None
    wrong: str = ""
    mistaken: bool = False
    found: tuple[Subvolume, ...] = ()


@dataclass(frozen=True)
class Progress:
    """The state of a restore, and the REPORT of it. receive: what is next, None when all of it is there.

    earlier: subvolumes that earlier tries have left in the stage. failure: why it cannot go on; spoiled: and no part of
    what has come in is of use. placing: the destination is made by now, in one step.
    """

    report: Restoration
    receive: Receive | None = None
    earlier: tuple[Subvolume, ...] = ()
    failure: Failure | None = None
    spoiled: bool = False
    placing: bool = False

    @property
    def keeps_parts(self) -> bool:
        """Whether the next try can go on with what is in the stage, if this one ends here."""
        return self.receive is not None and not self.spoiled

    def after(self, step: Receive, came: Arrival) -> "Progress":
        """The state after STEP, of which that CAME."""
        if came.unproved is not None and len(came.unproved) < len(step.ahead):
            gone = cutter.useless(self.earlier, came.unproved[-1]) if came.unproved else self.earlier
            return self._once_more(Receive(step.parent, came.unproved, tuple(gone), came.failure))
        name = self.report.backup
        if came.mistaken and not step.named:
            hint = "Sending it again, so that the parent is named by its UUID there."
            again = Failure(f"another subvolume was taken for {step.parent}", hint)
            return self._once_more(Receive(step.parent, (), (*self.earlier, *came.found), again, named=True))
        if step.parent and (why := came.wrong or (came.blames_parent and came.failure)):
            useless = Failure(f"restoring {name} failed: {why}", "Sending it in full.")
            return self._once_more(Receive(None, (), (*self.earlier, *came.found), useless))
        if came.failure:
            hint = came.failure.hint or ("With '-I' it is sent in full." if step.parent else "")
            failed = Failure(f"restoring {name} failed: {came.failure.message}", hint)
            return replace(self, failure=failed, spoiled=came.spoiled)
        if came.wrong:
            wrong = Failure(
                f"{name} has arrived, but {came.wrong}", "Nothing of it is kept. Try again, in full with '-I'."
            )
            return replace(self, failure=wrong, spoiled=True)
        return replace(self, receive=None, report=replace(self.report, sent=came.sent))

    def _once_more(self, step: Receive) -> "Progress":
        left = tuple(each for each in self.earlier if each not in step.useless)
        return replace(self, receive=step, earlier=left)


def begin(plan: Plan, report: Restoration, resumed: Stage | None, far: bool) -> Progress:
    """The state when a restore begins. RESUMED: the stage to go on with; FAR: the stream comes from another machine."""
    if plan.there:
        return Progress(report)
    earlier = resumed.subvolumes if resumed else ()
    ahead = cutter.checkpoints(earlier, far)
    gone = cutter.useless(earlier, ahead[-1]) if ahead else []
    left = tuple(each for each in earlier if each not in gone)
    return Progress(report, Receive(plan.parent, tuple(ahead), tuple(gone)), left)


# --- what is told of it ----------------------------------------------------------------------------------------------


def has_served(left: Stage, name: str, far: bool) -> bool:
    """Whether what is LEFT of tries to restore NAME is of no use any more when the destination is there.

    When only parts are in it, somebody else has made the destination.
    """
    arrived = any(each.name == name and each.readonly for each in left.subvolumes)
    return arrived or not cutter.checkpoints(left.subvolumes, far)


def next_backup(settings: Settings, prefix: str, source: str, destination: str) -> str:
    """The command that makes the next backup of the DESTINATION, to the SOURCE that it was restored from."""
    folder = settings.snapshot_folder
    return shlex.join(
        [
            "btrfs-backup",
            *(["-p", prefix] if prefix else []),
            *(["-f", folder] if folder != "snapshot" else []),
            *(word for option in settings.ssh_options for word in ("--ssh-opt", option)),
            *(["--ssh-sudo"] if settings.ssh_sudo else []),
            destination,
            source,
        ]
    )
