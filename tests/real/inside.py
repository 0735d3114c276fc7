"""The command in the process of the test, which is much faster where there are many runs."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from btrfs_backup.__main__ import main
from tests.real.machine import RealTest, Result


class InsideTest(RealTest):
    def run_command(self, *arguments: object, env: dict[str, str] | None = None, **more: object) -> Result:
        """What the command does not foresee gets through to the test."""
        self.assertFalse(more)
        said = [io.TextIOWrapper(io.BytesIO(), errors="backslashreplace", write_through=True) for _ in range(2)]
        with redirect_stdout(said[0]), redirect_stderr(said[1]), mock.patch.dict(os.environ, env or {}):
            status = main(list(map(str, arguments)))
        out, err = (each.buffer.getvalue().decode() for each in said)  # type: ignore[attr-defined]
        return Result(status, out, err)

    def pair(self, backups: int = 2) -> tuple[Path, Path]:
        """A source, and a disk with some backups of it, each different."""
        source, usb = self.source(), self.disk("usb").path
        for number in range(backups):
            (source / "file").write_text(f"state {number}")
            self.backup("-q", source, usb)
        return source, usb
