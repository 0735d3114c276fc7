"""Sorts more than fits into memory."""

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import IO

from btrfs_backup.errors import Failure
from btrfs_backup.system import signals

_IN_MEMORY = 8 << 20  # bytes that are held before they go to a temporary file
_LENGTH = 4  # bytes in front of each record there


class Spool:
    """Gives back the records that were added in the order of their bytes, as often as wanted, one reader at a time.

    SCOPE ends the temporary files.
    """

    def __init__(self, scope: ExitStack, in_memory: int = _IN_MEMORY) -> None:
        self._scope = scope
        self._in_memory = in_memory
        self._runs: list[IO[bytes]] = []
        self._records: list[bytes] = []
        self._held = 0

    def add(self, record: bytes) -> None:
        """Raises Failure when there is no room for it."""
        self._records.append(record)
        self._held += len(record)
        if self._held > self._in_memory:
            self._write_out()

    def __iter__(self) -> Iterator[bytes]:
        self._records.sort()
        for record in heapq.merge(*map(_read, self._runs), self._records):
            signals.check()  # there may be millions
            yield record

    def _write_out(self) -> None:
        self._records.sort()
        try:
            run = tempfile.TemporaryFile()  # noqa: SIM115
            self._scope.callback(_close, run)
            for record in self._records:
                run.write(len(record).to_bytes(_LENGTH, "big") + record)
            run.flush()
        except OSError as error:
            raise Failure(
                f"cannot write a temporary file in '{tempfile.gettempdir()}': {error.strerror}",
                "Another folder can be named by TMPDIR in the environment.",
            ) from None
        self._runs.append(run)
        self._records, self._held = [], 0


def _read(run: IO[bytes]) -> Iterator[bytes]:
    run.seek(0)
    while head := run.read(_LENGTH):
        yield run.read(int.from_bytes(head, "big"))


def _close(run: IO[bytes]) -> None:
    # What could not be written is tried again, in vain.
    with suppress(OSError):
        run.close()
