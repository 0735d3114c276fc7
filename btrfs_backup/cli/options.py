"""What the parser knows of each option and argument, for the texts that are made of it. Pure."""

import argparse
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option, or an argument that is none.

    names: its spellings; none for an argument. value: how its value is called, empty when it takes none.
    optional: the value may be left out, and is joined to the name with '='. choices: all the values that it can have.
    repeated: it may be given several times.
    """

    names: tuple[str, ...]
    value: str
    optional: bool
    choices: tuple[str, ...]
    repeated: bool
    help: str

    @property
    def is_folder(self) -> bool:
        return self.value in ("SOURCE", "DEST", "DIR")

    @property
    def brief(self) -> str:
        """Its help, cut to one line."""
        return textwrap.shorten(self.help, 72, placeholder=" ...")


def groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[Option]]]:
    """Each group of the help that is not empty: its title, and what is in it, in the order of the help."""
    # argparse has no public way to ask for these.
    for group in parser._action_groups:
        options = [_option(action, parser.prog) for action in group._group_actions if action.help != argparse.SUPPRESS]
        if options:
            yield group.title or "", options


def _option(action: argparse.Action, prog: str) -> Option:
    choices = tuple(map(str, action.choices or ()))
    metavar = action.metavar or (f"{{{','.join(choices)}}}" if choices else action.dest.upper())
    return Option(
        names=tuple(action.option_strings),
        value="" if action.nargs == 0 else str(metavar),
        optional=action.nargs == "?",
        choices=choices,
        repeated=action.nargs == "*" or isinstance(action, argparse._AppendAction),
        help=(action.help or "") % {**vars(action), "prog": prog},
    )
