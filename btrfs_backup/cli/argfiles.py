"""Expands @FILE arguments. Pure: the reader of files is passed in."""

from collections.abc import Callable, Sequence
from posixpath import dirname, isabs, join, normpath

from btrfs_backup.errors import UsageError

# Returns the text of the file at an absolute path; raises OSError or ValueError (undecodable).
Reader = Callable[[str], str]


class Written(str):
    """An argument that is written in a file. origin: the file, behind those that include it, and the line."""

    origin: str

    def __new__(cls, text: str, origin: str) -> "Written":
        written = super().__new__(cls, text)
        written.origin = origin
        return written


def expand(argv: Sequence[str], read: Reader, cwd: str) -> list[str]:
    """ARGV with each @FILE replaced by the arguments in that file, each of them Written; relative names start at CWD.

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
            "A value that begins with '@' is given as --option=@value."
            if "/~" not in path
            else "No shell replaces '~' behind '@': write the whole path.",
        ) from None
    arguments: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith("@"):
            arguments += _expand([stripped], read, dirname(path), (*chain, path))
        elif "\0" in line:
            raise UsageError(f"{including}, line {number}: it holds a NUL character", "Save the file as UTF-8.")
        elif stripped and not stripped.startswith("#"):
            arguments += [Written(each, f"{including}, line {number}") for each in _line(stripped)]
    return arguments


def _line(line: str) -> list[str]:
    """The arguments in one line: an option, with its value if there is one, or a positional argument."""
    option, *value = line.split(maxsplit=1)
    if not option.startswith("-") or not value or "=" in option:
        return [line]
    # argparse would take a value that begins with a dash for an option of its own.
    return [f"{option}={value[0]}"] if value[0].startswith("-") else [option, value[0]]
