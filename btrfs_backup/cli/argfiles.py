"""Expands @FILE arguments. Pure: the reader of files is passed in."""

from collections.abc import Callable, Sequence
from posixpath import dirname, isabs, join, normpath

from btrfs_backup.errors import UsageError

# Returns the text of the file at an absolute path; raises OSError or ValueError (undecodable).
Reader = Callable[[str], str]


def expand(argv: Sequence[str], read: Reader, cwd: str) -> list[str]:
    """ARGV with each @FILE replaced by the arguments in that file; relative names start at CWD, empty if there is none.

    Raises UsageError, naming the chain of files, when one cannot be read or includes itself.
    """
    return _expand(argv, read, cwd, ())


def _expand(argv: Sequence[str], read: Reader, folder: str, chain: tuple[str, ...]) -> list[str]:
    expanded = []
    for argument in argv:
        if argument.startswith("@"):
            expanded += _file(join(folder, argument[1:]), read, chain)
        else:
            expanded.append(argument)
    return expanded


def _file(path: str, read: Reader, chain: tuple[str, ...]) -> list[str]:
    path = normpath(path)
    including = " -> ".join((*chain, path))
    if path in chain:
        raise UsageError(f"argument files include each other in a loop: {including}", "Remove one of the '@' lines.")
    try:
        if not isabs(path):
            raise ValueError("the current folder does not exist any more")
        text = read(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"cannot read the argument file {including}: {why}",
            "A value that begins with '@' is given as --option=@value.",
        ) from None
    arguments: list[str] = []
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.startswith("@"):
            arguments += _expand([stripped], read, dirname(path), (*chain, path))
        elif stripped and not stripped.startswith("#"):
            arguments += _line(stripped)
    return arguments


def _line(line: str) -> list[str]:
    """The arguments in one line: an option, with its value if there is one, or a positional argument."""
    option, *value = line.split(maxsplit=1)
    if not option.startswith("-") or not value or "=" in option:
        return [line]
    # argparse would take a value that begins with a dash for an option of its own.
    return [f"{option}={value[0]}"] if value[0].startswith("-") else [option, value[0]]
