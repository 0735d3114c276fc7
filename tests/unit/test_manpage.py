"""The manual page that is made from the parser."""

import argparse
import re
import shutil
import subprocess
import unittest

from btrfs_backup.cli import manpage, manual
from btrfs_backup.cli import parser as cli
from btrfs_backup.cli.options import Option, groups

SIGNS = {"(rs": "\\", "-": "-", "(aq": "'", "(dq": '"', "(ga": "`", "(ha": "^", "(ti": "~", "&": ""}

ODD = {
    "ODD": """\
Title
=====

.Section
--------

A ``-x`` of **bold** text::

    $ literal ``code``

      .more

* one
  and more

  - no list::

      code

* two

2. number::

       indented

``term``
    what it
    means
"""
}


def odd_parser() -> argparse.ArgumentParser:
    """One whose texts hold all that means something to groff."""
    parser = argparse.ArgumentParser(
        prog="odd",
        usage="%(prog)s [options] PLACE",
        description=".SH is no request here",
        epilog="'quoted' at the start\n\nsome words: of a section\n\nmany:\n  .B a\\b\n\n  -x\n\nThe end",
        add_help=False,
    )
    group = parser.add_argument_group(".group")
    group.add_argument("place", metavar="PLACE", help='a "\\fBplace\\fR" - it\'s `here`, ~ or ^')
    group.add_argument("--of-%", default="50", help=".5 of it, %(default)s %% by %(prog)s")
    group.add_argument("--way", nargs="?", choices=("up", "down"), help="which")
    group.add_argument("--hidden", help=argparse.SUPPRESS)
    return parser


def plain(source: str) -> str:
    """What a reader of the SOURCE sees, but for requests."""
    return re.sub(r"\\(\(..|f[BIR]|.)", lambda match: SIGNS.get(match[1], ""), source)


class Signs(unittest.TestCase):
    def test_requests_and_escapes_are_text(self) -> None:
        page = manpage.page(odd_parser(), "1.0-x", ODD)
        for wanted in (
            '.TH ODD 8 "" "odd 1.0\\-x"',
            "\\fBodd\\fR [options] PLACE",
            "\\&.SH is no request here",
            "\\(aqquoted\\(aq at the start",
            ".SS \\&.group",
            "a \\(dq\\(rsfBplace\\(rsfR\\(dq \\- it\\(aqs \\(gahere\\(ga, \\(ti or \\(ha",
            "\\fB\\-\\-of\\-%\\fR \\fIOF_%\\fR\n\\&.5 of it, 50 % by odd",
            "\\fB\\-\\-way\\fR[=\\fI{up,down}\\fR]",
            ".SH SOME WORDS\nof a section",
            ".SH MANY\n.EX\n  .B a\\(rsb\n.EE\n.PP\n.EX\n  \\-x\n.EE\n.PP\nThe end",
        ):
            with self.subTest(wanted):
                self.assertIn(wanted, page)
        self.assertNotIn("hidden", page)

    def test_chapters(self) -> None:
        page = manpage.page(odd_parser(), "1", ODD)
        section = page[page.index(".SH ODD") : page.index(".SH SEE")]
        self.assertEqual(
            section.splitlines(),
            [
                ".SH ODD",
                ".SS \\&.Section",
                *(".PP", "A \\-x of bold text:"),
                *(".PP", ".EX", "    $ literal \\(ga\\(gacode\\(ga\\(ga", ".EE"),
                *(".PP", ".EX", "      .more", ".EE"),
                *('.IP "*" 4', "one", "and more"),
                "\\- no list:",
                *(".PP", ".EX", "      code", ".EE"),
                *('.IP "*" 4', "two"),
                *('.IP "2." 4', "number:"),
                *(".PP", ".EX", "       indented", ".EE"),
                *(".PP", ".TP", "term", "what it", "means"),
            ],
        )

    def test_only_known_requests(self) -> None:
        for parser in (odd_parser(), cli.parser()):
            requests = {
                line.split()[0]
                for line in manpage.page(parser, "1", manual.in_man_page()).splitlines()
                if line[:1] in (".", "'")
            }
            self.assertLessEqual(requests, {".TH", ".SH", ".SS", ".TP", ".PP", ".IP", ".EX", ".EE"})

    def test_no_bare_hyphen(self) -> None:
        """It would be printed as a typographic one, which cannot be copied into a command."""
        self.assertNotRegex(manpage.page(cli.parser(), "1", manual.in_man_page()), r"(?<!\\)-")

    def test_plain_ascii(self) -> None:
        """It can be printed whatever the locale."""
        self.assertTrue(manpage.page(cli.parser(), "1", manual.in_man_page()).isascii())


class Content(unittest.TestCase):
    def test_every_option_with_its_value_and_help(self) -> None:
        page = plain(manpage.page(cli.parser(), "1", manual.in_man_page()))
        options = [option for _, options in groups(cli.parser()) for option in options]
        self.assertGreater(len(options), 25)
        for option in options:
            with self.subTest(option.names):
                value = f"[={option.value}]" if option.optional else f" {option.value}" if option.value else ""
                head = ", ".join(f"{name}{value}" for name in option.names) or option.value
                self.assertIn(f"\n.TP\n{head}\n{option.help}\n", page)

    def test_all_of_the_other_text(self) -> None:
        page = plain(manpage.page(cli.parser(), "1", manual.in_man_page()))
        for line in f"{cli.parser().description}\n{cli.parser().epilog}".splitlines():
            with self.subTest(line):
                self.assertIn(re.sub("^[a-z ]+: ?", "", line), page)

    def test_sections(self) -> None:
        sections = re.findall("^[.]SH (.*)$", manpage.page(cli.parser(), "1", manual.in_man_page()), re.MULTILINE)
        self.assertEqual(sections[:5], ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "NOTES"])
        self.assertIn("EXIT STATUS", sections)
        self.assertIn("EXAMPLES", sections)
        self.assertEqual(sections[-4:], ["FILES", "RESTORE", "JSON", "SEE ALSO"])

    def test_all_of_the_chapters(self) -> None:
        """Every word, and the commands as they are."""
        page = plain(manpage.page(cli.parser(), "1", manual.in_man_page()))
        for chapter in manual.in_man_page().values():
            for line in chapter.splitlines()[2:]:
                self.assertIn(re.sub(r"``|\*\*|^ *([*]|\d+\.) +|^ *::$|:$|^-+$", "", line).strip(), page)


@unittest.skipUnless(shutil.which("groff"), "groff is not installed")
class Rendered(unittest.TestCase):
    def test_without_warnings(self) -> None:
        for parser in (odd_parser(), cli.parser()):
            page = manpage.page(parser, "1.0", {**ODD, **manual.in_man_page()})
            done = subprocess.run(
                ["groff", "-man", "-ww", "-Tutf8", "-P-cbou"], input=page, capture_output=True, text=True, check=True
            )
            self.assertEqual(done.stderr, "")
            read = " ".join(re.sub("\N{HYPHEN}\n +", "", done.stdout).split())
            for _, options in groups(parser):
                for option in options:
                    self.check(option, read)

    def check(self, option: Option, read: str) -> None:
        for name in option.names:
            self.assertIn(name, read)
        # Long words may be broken anywhere, a URL for example.
        for word in option.help.split():
            if len(word) < 12:
                self.assertIn(word, read)


if __name__ == "__main__":
    unittest.main()
