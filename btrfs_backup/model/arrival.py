"""What has come of the streams that were sent somewhere: what of it is proved, what is kept of the rest, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from btrfs_backup.errors import Failure
from btrfs_backup.model import cutter, inventory
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.plan import Batch, Snapshots
from btrfs_backup.model.sendstream import Beginning
from btrfs_backup.model.snapshot import Subvolume


@dataclass(frozen=True)
class Streamed:
    """A stream that went through, and the time it took. beginning: its first command.

    cut: it went through in parts. resumed_from: bytes of it that the receiver had before.
    """

    bytes: int
    seconds: float
    beginning: Beginning | None = None
    cut: bool = False
    resumed_from: int = 0

    def fits(self, parent: Subvolume, sent_transid: int | None) -> bool:
        """Whether its PARENT is what it was when it was sent: SENT_TRANSID is told by its copy, None where it is not.

        `btrfs receive` does not look at that. Seen: a copy of a copy tells the number that the first copy had, which
        does not matter when PARENT was never changed since it was made; the number of what was itself received still
        grows behind its reception, so that it tells nothing, but that of a read-only snapshot of that does not.
        """
        if sent_transid is None or not self.beginning:
            return True
        changed = self.beginning.parent_transid
        return changed in (0, sent_transid) or changed <= (parent.made_transid or 0) or not parent.was_made_whole


@dataclass(frozen=True)
class Ending:
    """The end of a transfer at one receiver. failure: what went wrong with the last stream that it got, or None.

    unwritten: why what it got may not be on its disk, or None. spoiled: no part of that stream is of use.
    let_go: it held up the others, which went on without it.
    """

    failure: Failure | None
    unwritten: Failure | None = None
    spoiled: bool = False
    let_go: bool = False


@dataclass(frozen=True)
class Found:
    """The content of an attempt: its subvolumes by name, all OTHER that is in it, what was in its stage EARLIER."""

    subvolumes: Snapshots = field(default_factory=dict)
    other: Sequence[str] = ()
    earlier: Sequence[Subvolume] = ()

    def strange(self, names: Sequence[str], cut: bool = False) -> str:
        """What is wrong with it when just NAMES were expected, and parts of a stream that was CUT; mostly empty.

        Where a stream may be cut, all that comes behind it is marked as well, when the disk has written it.
        """
        ours = cutter.is_ours if cut else cutter.salt_of_mark
        strange = [*self.other, *(each for each in self.subvolumes if each not in names and not ours(each))]
        return f"'{strange[0]}' came with it, which was not expected" if strange else ""

    def flaw(self, source: Subvolume, parent: str, cut: bool) -> "Flaw | None":
        """What is wrong with what SOURCE was received as, which has to be built upon the backup with the UUID PARENT.

        CUT: it came in parts.
        """
        entry = self.subvolumes.get(source.name)
        if not entry:
            return Flaw("it is not there")
        if cut:
            parts = (each for name, each in self.subvolumes.items() if cutter.is_ours(name))
            entry = replace(entry, parent_uuid=cutter.origin(entry, [*self.earlier, *parts]))
        wrong = inventory.received(entry, source, parent)
        mistaken = bool(parent) and entry.parent_uuid != parent
        return Flaw(wrong, mistaken, mistaken) if wrong else None


@dataclass(frozen=True)
class Flaw:
    """A reason why something that has arrived does not count. of_parent: it is due to its parent there.

    mistaken: another subvolume was taken for that.
    """

    what: str
    of_parent: bool = False
    mistaken: bool = False


@dataclass(frozen=True)
class Verdict:
    """The verdict on what has arrived: the first COUNT of the batches have.

    failure: what to tell of the next one; blames_parent: that is due to its parent there; mistakes_parent: another
    subvolume was taken for it.
    stays: what has come of it is of use, as far as is known up to the checkpoint KEPT.
    """

    count: int
    failure: Failure | None = None
    blames_parent: bool = False
    stays: bool = False
    kept: Checkpoint | None = None
    mistakes_parent: bool = False


@dataclass(frozen=True)
class Arrival:
    """The end of a transfer of BATCHES to a destination; the STREAMS of the first of them were begun.

    found: what there is of them, or why that is not known. held: the backups that were there before; parents: those
    of them that are built upon, as they are now. blamed: the receiver cannot use its parent. far: they come from
    another machine.
    """

    batches: Sequence[Batch]
    streams: Sequence[Streamed]
    ending: Ending
    snapshots: Snapshots
    held: Snapshots
    found: Found | Failure
    parents: Mapping[str, Subvolume] = field(default_factory=dict)
    blamed: bool = False
    far: bool = False

    def verdict(self) -> Verdict:
        """What of it counts, and what of the rest is kept."""
        ending, sent = self.ending, self.batches[: len(self.streams)]
        count, flaw = (0, Flaw(self.found.message)) if isinstance(self.found, Failure) else self._proved(self.found)
        if ending.unwritten:
            return Verdict(0, failed_to_send(sent, ending.unwritten), stays=self._stays)
        if ending.failure:
            # When all of them look well, it was the last one.
            count = max(0, min(count, len(sent) - 1))
            blamed = self.blamed or any(map(self._was_changed, sent[count : count + 1], self.streams[count:]))
            kept = None if ending.spoiled or blamed or count else self._kept
            failure = failed_to_send(sent[count : count + 1] if count < len(sent) else sent, ending.failure)
            return Verdict(count, failure, blamed, bool(kept) or self._stays, kept)
        if flaw:
            failure = Failure(f"{sent[count].snapshot} has arrived, but {flaw.what}", "Nothing of it is kept.")
            return Verdict(count, failure, flaw.of_parent, self._stays, mistakes_parent=flaw.mistaken)
        return Verdict(count)

    @property
    def _stays(self) -> bool:
        """Whether nobody can tell what there is, so that there may be parts."""
        return isinstance(self.found, Failure) and bool(self.streams) and self.streams[0].cut

    @property
    def _kept(self) -> Checkpoint | None:
        if isinstance(self.found, Failure):
            return None
        known = cutter.checkpoints([*self.found.earlier, *self.found.subvolumes.values()], self.far)
        return known[-1] if known else None

    def _proved(self, found: Found) -> tuple[int, Flaw | None]:
        """How many of those that were sent are just what was expected, from the first on; what the next one lacks."""
        sent = list(zip(self.batches, self.streams, strict=False))
        cut = bool(self.streams) and self.streams[0].cut
        if strange := found.strange([batch.snapshot for batch in self.batches], cut):
            return 0, Flaw(strange)
        for number, (batch, stream) in enumerate(sent):
            parent = found.subvolumes.get(batch.parent) or self.held.get(batch.parent) if batch.parent else None
            flaw = found.flaw(self.snapshots[batch.snapshot], parent.uuid if parent else "", stream.cut)
            if not flaw and batch.parent not in found.subvolumes and self._was_changed(batch, stream):
                flaw = Flaw(f"{batch.parent}, which it builds upon, was changed after it was sent", True)
            if flaw:
                return number, flaw
        return len(sent), None

    def _was_changed(self, batch: Batch, stream: Streamed) -> bool:
        """Whether the parent of BATCH, which was there before, is not what its STREAM supposes."""
        if not batch.parent or batch.parent not in self.parents:
            return False
        there = self.parents[batch.parent]
        fits = stream.fits(self.snapshots[batch.parent], there.sent_transid)
        return there.uuid != self.held[batch.parent].uuid or there.was_changed or not fits


def failed_to_send(batches: Sequence[Batch], failed: Failure) -> Failure:
    """What to tell when BATCHES could not be sent since something FAILED."""
    if not batches:
        return failed
    names = " to ".join(dict.fromkeys((batches[0].snapshot, batches[-1].snapshot)))
    return Failure(f"sending {names} failed: {failed.message}", failed.hint, failed.brief)
