"""The manual page, made from the parser. Pure. See groff_man(7) for its language."""

import argparse
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from btrfs_backup.cli.options import Option, groups

# So that what is copied from the page is what was meant; groff makes typographic signs of these.
_SIGNS = {"\\": r"\(rs", "-": r"\-", "'": r"\(aq", '"': r"\(dq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
_SEE_ALSO = "btrfs(8), btrfs-subvolume(8), btrfs-send(8), btrfs-receive(8), ssh(1), ssh_config(5), sudoers(5)"


def page(parser: argparse.ArgumentParser, version: str, chapters: Mapping[str, str]) -> str:
    """The source of the page. In the epilog `words: text` begins a section, and what is indented stays as it is.

    chapters: sections that are chapters of the manual, by their titles.
    """
    arguments = parser.format_usage().removeprefix(f"usage: {parser.prog}").strip()
    lines = [
        f'.TH {_text(parser.prog.upper())} 8 "" "{_text(parser.prog)} {_text(version)}"',
        ".SH NAME",
        _text(f"{parser.prog} - incremental backups of btrfs subvolumes, to local disks and over ssh"),
        ".SH SYNOPSIS",
        f"\\fB{_text(parser.prog)}\\fR {_text(arguments)}",
        ".SH DESCRIPTION",
        *_prose(parser.description or ""),
        ".SH OPTIONS",
        *(line for title, options in groups(parser) for line in _group(title, options)),
        ".SH NOTES",
        *_prose(parser.epilog or ""),
        *(line for title, chapter in chapters.items() for line in _chapter(title, chapter)),
        ".SH SEE ALSO",
        _text(_SEE_ALSO),
    ]
    return "\n".join(lines) + "\n"


def _group(title: str, options: list[Option]) -> Iterator[str]:
    yield f".SS {_text(title.capitalize())}"
    for option in options:
        yield ".TP"
        yield ", ".join(_spelling(option, name) for name in option.names) or f"\\fI{_text(option.value)}\\fR"
        yield _text(option.help)


def _spelling(option: Option, name: str) -> str:
    value = f"\\fI{_text(option.value)}\\fR"
    value = f"[={value}]" if option.optional else f" {value}" if option.value else ""
    return f"\\fB{_text(name)}\\fR{value}"


def _prose(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        title = re.match("([a-z ]+): ?", paragraph)
        yield f".SH {title[1].upper()}" if title else ".PP"
        flowing = True
        for line in paragraph[title.end() if title else 0 :].lstrip("\n").split("\n"):
            if flowing == line.startswith(" "):
                yield ".EX" if flowing else ".EE"
                flowing = not flowing
            yield _text(line)
        if not flowing:
            yield ".EE"


def _chapter(title: str, text: str) -> Iterator[str]:
    """A section made of reStructuredText: headings, paragraphs, lists, definitions, literal blocks; no tables."""
    yield f".SH {title}"
    literal: int | None = None  # indentation of the paragraph before it
    for block in re.split(r"\n\n+", text.strip())[1:]:
        lines = block.split("\n")
        indent = len(block) - len(block.lstrip())
        if literal is not None and indent > literal:
            yield from (".PP", ".EX", *map(_text, lines), ".EE")
            continue
        if re.fullmatch(r"([-~])\1+", lines[-1]):
            yield f".SS {_text(lines[0])}"
        else:
            yield from _paragraph(lines)
        item = re.match(r" *([*]|\d+\.) +", lines[-1]) or re.match(r" *([*]|\d+\.) +", lines[0])
        literal = (len(item[0]) if item else indent) if block.endswith("::") else None


def _paragraph(lines: list[str]) -> Iterator[str]:
    """Of plain text, of items of a list, or of terms with what is indented below them."""
    if not lines[0].startswith(" ") and not re.match(r"[*] |\d+\. ", lines[0]):
        yield ".PP"
    for line, following in pairwise([*lines, ""]):
        item = re.match(r"( *)([*]|\d+\.) +(.*)", line)
        if item:
            yield f'.IP "{item[2]}" 4'
        elif following.startswith("    ") and not line.startswith(" "):
            yield ".TP"
        yield _text(_plain(item[3] if item else line.strip()))


def _plain(text: str) -> str:
    """TEXT without the marks of reStructuredText."""
    return re.sub(r"``|\*\*|^:$|:(?=:$)", "", text)


def _text(text: str) -> str:
    """TEXT as it is to be read; at the beginning of a line no request."""
    text = "".join(_SIGNS.get(character, character) for character in text)
    return rf"\&{text}" if text.startswith(".") else text
