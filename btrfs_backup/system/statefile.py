"""The two JSON files in the snapshot folder that outlive a run."""

from collections.abc import Callable
from posixpath import join
from typing import TypeVar

from btrfs_backup.errors import Failure, StateFileBroken
from btrfs_backup.model import records as transfers
from btrfs_backup.model.records import Completed, Outstanding, Records
from btrfs_backup.system import files, hints
from btrfs_backup.system.host import Host

OUTSTANDING = ".outstanding_transfers"
COMPLETED = ".completed_transfers"

NAMES = frozenset({OUTSTANDING, COMPLETED})

_Value = TypeVar("_Value")


class StateFiles:
    """The records on disk. `records` is always what the files hold: it changes only after they did.

    incomplete: something could not be written, so that they do not tell everything that is still needed.
    read_only: that is because their filesystem is. Perhaps the kernel made it so because the disk fails, and what is
    on it should be saved: nobody is kept from working on without records. Nothing can be deleted there either.
    full: that is because their filesystem is.
    """

    def __init__(self, host: Host, folder: str) -> None:
        """Reads both files. Raises StateFileBroken when one cannot be read or does not parse."""
        self._host = host
        self.incomplete = False
        self.read_only: Failure | None = None
        self.full = False
        self._outstanding_path = join(folder, OUTSTANDING)
        self._completed_path = join(folder, COMPLETED)
        self.records = Records(
            self._read(self._outstanding_path, transfers.parse_outstanding),
            self._read(self._completed_path, transfers.parse_completed),
        )

    def save_outstanding(self, outstanding: Outstanding) -> None:
        """Replace the records of outstanding transfers if they changed. Raises Failure."""
        changed = outstanding != self.records.outstanding
        if changed and self._replace(self._outstanding_path, transfers.format_outstanding(outstanding)):
            self.records = Records(outstanding, self.records.completed)

    def save_completed(self, completed: Completed) -> None:
        """Replace the records of completed transfers if they changed. Raises Failure."""
        changed = completed != self.records.completed
        if changed and self._replace(self._completed_path, transfers.format_completed(completed)):
            self.records = Records(self.records.outstanding, completed)

    def _replace(self, path: str, text: str) -> bool:
        """Whether it could be done; False when the filesystem is read-only. Raises Failure."""
        try:
            files.replace(self._host, path, text)
        except Failure as failure:
            self.incomplete = True
            if failure.brief == hints.READ_ONLY:
                self.read_only = self.read_only or failure
                return False
            self.full = self.full or failure.brief == hints.DISK_FULL
            # It is told where it hits, and that is a destination.
            raise Failure(failure.message, failure.hint, failure.brief and f"source: {failure.brief}") from None
        return True

    def _read(self, path: str, parse: Callable[[str], _Value]) -> _Value:
        try:
            return parse(files.read(self._host, path) or "")
        except Failure as failure:
            raise StateFileBroken(failure.message, self._way_out(path)) from None
        except ValueError as error:
            raise StateFileBroken(f"the state file '{path}' is broken: {error}", self._way_out(path)) from None

    def _way_out(self, path: str) -> str:
        lost = (
            "unfinished transfers lose their protection"
            if path == self._outstanding_path
            else "a disk that is away may need a full transfer"
        )
        return (
            f"Nothing is transferred or deleted until it is mended, or moved away; then {lost}:\n"
            f"  {self._host.typed('mv', path, path + '.broken')}"
        )
