"""The README and the manual: they say what the program does, and can be read everywhere."""

import configparser
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from btrfs_backup.cli import argfiles
from btrfs_backup.cli import parser as cli
from btrfs_backup.errors import Failure
from btrfs_backup.model.changes import Change, Changes
from btrfs_backup.model.manifest import Comparison, Difference
from btrfs_backup.model.outcome import Outcome, Partial, Place, Report, Restoration, Row, Sent, Survey
from btrfs_backup.model.sizes import Sizes
from btrfs_backup.model.versions import Found, Look, Versions
from btrfs_backup.report.document import document

TOP = Path(__file__).parents[2]
MANUAL = sorted((TOP / "btrfs_backup" / "manual").iterdir())
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (TOP / "README.rst", *MANUAL)}
NOW = datetime(2026, 1, 4).astimezone()
FAILURE = Failure("what", "hint")
SIZES = Sizes({"s": 1}, 1, 1)
PROGRAM = "/usr/local/bin/btrfs-backup"


def section(text: str, title: str) -> str:
    """What is below the heading TITLE, up to the next one of a section."""
    [found] = re.findall(rf"^{re.escape(title)}\n-{{{len(title)}}}\n\n(.*)", text, re.DOTALL | re.MULTILINE)
    return re.split(r"^.+\n-{3,}\n\n", found, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str) -> list[str]:
    """The literal blocks in TEXT."""
    return [
        re.sub(r"^ {4}", "", block, flags=re.MULTILINE)
        for block in re.findall(r"::\n\n((?: {4}.*\n|\n(?= {4}))+)", text + "\n")
    ]


class Documents(unittest.TestCase):
    """Every field of every document is in the tables, and no other one."""

    HEAD = "Every document"

    def described(self, title: str) -> set[str]:
        return set(re.findall(r"^``([\w.\[\]*]+)``$", section(TEXTS["json.rst"], title), re.MULTILINE))

    def found(self, command: str, about: Report | Survey | Restoration | Changes | Versions) -> set[str]:
        whole = json.loads(document(command, NOW, NOW, 10, FAILURE, about))
        fields = set(paths({**whole, "source": None} if isinstance(about, Report) else whole))
        self.assertLessEqual(self.described(self.HEAD), fields)
        return fields - self.described(self.HEAD) - ({"source"} if isinstance(about, Report) else set())

    def test_run(self) -> None:
        outcome = Outcome(
            "/b",
            sent=(Sent("s", "p", 1, 1.0),),
            cleared=("c",),
            deleted=("d",),
            kept={"k": ("why",)},
            outstanding=("o",),
            failures=(FAILURE,),
            verified=(Comparison("v", 1, 1, (Difference("x", "it is missing"),)),),
            sizes=SIZES,
        )
        found = self.found("run", Report(Outcome("/a"), "s", (outcome,)))
        self.assertEqual(found, self.described("Run, dry run, verify"))

    def test_status(self) -> None:
        rows = (Row("s", ("complete", "missing"), ("why",), (("why",),)),)
        parts = (Partial("s", 1, 2, NOW),)
        survey = Survey(
            Outcome("/a", failures=(FAILURE,), sizes=SIZES),
            rows,
            (Place("/b", True, "s", None, ("s",), False, (FAILURE,), parts, sizes=SIZES),),
        )
        found = {field.replace("./b", ".*") for field in self.found("status", survey)}
        self.assertEqual(found, self.described("Status of all"))

    def test_restore(self) -> None:
        about = Restoration("/b", "/a", "s", NOW, "/c", Sent("s", "p", 1, 1.0), "x", failures=(FAILURE,))
        self.assertEqual(self.found("restore", about), self.described("A restore"))

    def test_find(self) -> None:
        file = Found("x", 257, "f", 3, 10)
        about = Versions("x", [Look("/b", ("s",), {"x": {"s": file}}), Look("/c", ("t",), failure=FAILURE)])
        self.assertEqual(self.found("find", about), self.described("Versions"))

    def test_diff(self) -> None:
        about = Changes("/b/1", "/b/2", [Change("renamed", "x/y", "z", 1)])
        self.assertEqual(self.found("diff", about), self.described("What changed"))


def paths(value: object, path: str = "") -> Iterator[str]:
    """Of all that is neither a list nor an object."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from paths(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for each in value:
            yield from paths(each, f"{path}[]")
    else:
        yield path


class Timers(unittest.TestCase):
    """The files of cron, anacron and systemd, by their syntax."""

    TEXT = TEXTS["timers.rst"]
    CRON = r"[-*/,0-9]+( [-*/,0-9]+){4}  root  (.+)"
    ANACRON = r"\d+  \d+  [-\w]+  (.+)"

    def test_commands(self) -> None:
        """Each one is a backup with an @file, perhaps under a lock, and nothing that cron would change."""
        lines = [line for block in blocks(self.TEXT) for line in block.splitlines()]
        cron = [match[2] for line in lines if (match := re.fullmatch(self.CRON, line))]
        anacron = [match[1] for line in lines if (match := re.fullmatch(self.ANACRON, line))]
        started = [line.partition("=")[2] for line in lines if line.startswith("ExecStart=/")]
        self.assertEqual((len(cron), len(anacron), len(started)), (4, 2, 2))
        for command in cron + anacron + started:
            plain = re.sub(r"^(/usr/bin/)?flock (-n )?(-E 0 )?/run/lock/[-\w]+ ", "", command)
            program, *arguments = plain.split(" ")
            self.assertIn(program, ("btrfs-backup", PROGRAM))
            argv = argfiles.expand(arguments, lambda path: "/data/photos\n/mnt/usb/photos", "/")
            self.assertTrue(cli.parse(argv).destinations)
        for command in cron:
            self.assertNotIn("%", command)

    def units(self) -> dict[str, str]:
        """The blocks that are whole units, by the last file named before each."""
        found = re.findall(r"``/etc/systemd/system/(\S+?)``[^`]*?(?:``\w+``[^`]*?)?::\n\n((?: {4}.*\n|\n)+)", self.TEXT)
        return {name: re.sub(r"^ {4}", "", text, flags=re.MULTILINE) for name, text in found}

    def test_units(self) -> None:
        units = self.units()
        self.assertEqual(sorted(units), ["btrfs-backup@.service", "btrfs-backup@.timer"])
        parsed = {name: configparser.ConfigParser(interpolation=None) for name in units}
        for name, text in units.items():
            parsed[name].optionxform = str  # type: ignore[assignment, method-assign]
            parsed[name].read_string(text)
        self.assertEqual(list(parsed["btrfs-backup@.service"]), ["DEFAULT", "Unit", "Service"])
        self.assertEqual(list(parsed["btrfs-backup@.timer"]), ["DEFAULT", "Unit", "Timer", "Install"])

    @unittest.skipUnless(shutil.which("systemd-analyze"), "needs systemd-analyze")
    def test_systemd_takes_the_units(self) -> None:
        """It also tells of options that it does not know, with an exit status of 0."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in self.units().items():
                Path(folder, name).write_text(text.replace(PROGRAM, sys.executable))
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", *(f"{folder}/{name}" for name in self.units())],
                capture_output=True,
                text=True,
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""))


class Commands(unittest.TestCase):
    def test_every_option_exists(self) -> None:
        """Of those in a command that is shown."""
        known = {name.partition("=")[0] for action in cli.parser()._actions for name in action.option_strings}
        text = "\n".join(TEXTS.values())
        shown = re.findall(r"^ +(?:\$ )?(?:sudo )?btrfs-backup (.*)", text, re.MULTILINE)
        used = {option for line in shown for option in re.findall(r" (--[a-z][-a-z]*)", f" {line}")}
        self.assertGreater(len(used), 10)
        self.assertLessEqual(used, known)


class Layout(unittest.TestCase):
    def test_the_readme_is_one_page(self) -> None:
        self.assertLessEqual(TEXTS["README.rst"].count("\n"), 700)

    def test_nothing_is_wider_than_a_terminal(self) -> None:
        for name, text in TEXTS.items():
            self.assertEqual([line for line in text.splitlines() if len(line) > 80], [], name)

    def test_chapters_that_are_named_exist(self) -> None:
        """In links of the README, as commands, and as `chapter NAME`."""
        for text in TEXTS.values():
            named = re.findall(r"btrfs_backup/manual/(\w+)\.rst|--manual ([a-z]+)|chapter\s+([a-z]+)", text)
            for name in filter(None, sum(named, ())):
                self.assertIn(f"{name}.rst", TEXTS)
        linked = set(re.findall(r"btrfs_backup/manual/(\w+\.rst)", TEXTS["README.rst"]))
        self.assertEqual(linked, {*TEXTS} - {"README.rst"})


@unittest.skipUnless(find_spec("docutils"), "needs docutils")
class Rendered(unittest.TestCase):
    def test_without_warnings(self) -> None:
        from docutils.core import publish_doctree

        contributing = TOP / ".github" / "CONTRIBUTING.rst"
        for name, text in {**TEXTS, contributing.name: contributing.read_text(encoding="utf-8")}.items():
            with self.subTest(name):
                warnings = io.StringIO()
                publish_doctree(text, settings_overrides={"warning_stream": warnings})
                self.assertEqual(warnings.getvalue(), "")


if __name__ == "__main__":
    unittest.main()
