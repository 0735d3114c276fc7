"""A program `btrfs` that lies: a shell script in front of the real one."""

import os
import shutil
from pathlib import Path
from shlex import quote

REAL = str(shutil.which("btrfs"))


def lying_btrfs(folder: Path, lies: str) -> Path:
    """Make the program in FOLDER, which is to come first in PATH; returns FOLDER.

    LIES are branches of a `case` over the arguments in one word. Where they do not exit the real program goes on;
    it is "$real" there, "$last" is the last argument, and "$here" is a folder to remember things in.
    """
    folder.mkdir(exist_ok=True)
    program = folder / "btrfs"
    program.write_text(
        f"#!/bin/sh\nreal={quote(REAL)} here={quote(str(folder))}\nfor last; do :; done\n"
        f'case "$*" in\n{lies}\nesac\nexec "$real" "$@"\n'
    )
    program.chmod(0o755)
    return folder


def path_with(folder: Path) -> dict[str, str]:
    """An environment in which FOLDER comes first in PATH."""
    return {"PATH": f"{folder}:{os.environ['PATH']}"}
