"""The rules of the house that can be read off the source: what is pure stays pure, one module starts processes."""

import ast
import importlib
import sys
import unittest
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "btrfs_backup"

# What touches the machine, or tells the time.
IMPURE = """
    asyncio atexit concurrent fcntl getpass glob http io logging multiprocessing os pathlib platform pwd random secrets
    select selectors shutil signal socket ssl subprocess sys tempfile termios threading time urllib uuid
"""
IMPURE_NAMES = frozenset({"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"})
CLOCKS = frozenset({"now", "today", "utcnow"})

# The rooms of the house that decisions may know of.
PURE_ROOMS = ("btrfs_backup.model", "btrfs_backup.errors")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imported(path: Path) -> tuple[str, ...]:
    """What the module of the product at PATH imports."""
    package = ".".join(["btrfs_backup", *path.relative_to(PACKAGE).parts[:-1]])
    return tuple(imports(tree(path), package))


def imports(module: ast.Module, package: str) -> Iterator[str]:
    """Every name that is imported anywhere in a module of PACKAGE, as `a.b.c`; `from a import b` gives `a.b`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{origin}.{each.name}" for each in node.names)


def impurities(module: ast.Module, package: str) -> list[str]:
    """What a pure module must not do: import what touches the machine, call for input and output, ask a clock."""
    found = []
    for name in imports(module, package):
        ours = name.split(".")[0] == "btrfs_backup"
        if ours and not any(f"{name}.".startswith(f"{room}.") for room in PURE_ROOMS):
            found.append(name)
        if not ours and name.split(".")[0] in IMPURE.split():
            found.append(name)
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
            found.append(node.id)
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            found.append(node.attr)
    return found


def long_functions(module: ast.Module, most: int = 50) -> list[str]:
    """The functions of a module that have more lines than MOST."""
    functions = (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [each.name for each in functions if (each.end_lineno or 0) - each.lineno >= most]


def importers(wanted: str) -> list[str]:
    """The modules of the product that import WANTED, as paths in the package."""
    return [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if any(f"{name}.".startswith(f"{wanted}.") for name in imported(path))
    ]


class RulesTest(unittest.TestCase):
    def test_model_is_pure(self) -> None:
        modules = sorted((PACKAGE / "model").glob("*.py"))
        self.assertGreaterEqual(len(modules), 6)
        for path in modules:
            with self.subTest(path.name):
                self.assertEqual(impurities(tree(path), "btrfs_backup.model"), [])

    def test_one_module_starts_processes(self) -> None:
        self.assertEqual(importers("subprocess"), ["system/process.py"])

    def test_no_back_door_to_processes(self) -> None:
        """Nothing of `os` that starts one, either."""
        doors = ("system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp")
        for path in sorted(PACKAGE.rglob("*.py")):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                    with self.subTest(path.name, line=node.lineno):
                        self.assertFalse(node.attr in doors or node.attr.startswith(("exec", "spawn")), node.attr)

    def test_pure_modules_at_the_front_desk(self) -> None:
        """Settings, errors, argument files and printed texts know no more of the machine than the model."""
        for name in (
            "errors.py",
            *(f"cli/{name}.py" for name in ("argfiles", "options", "completion", "manpage", "helptext")),
        ):
            with self.subTest(name):
                found = impurities(tree(PACKAGE / name), "btrfs_backup")
                self.assertEqual([each for each in found if not each.startswith("btrfs_backup.cli.options.")], [])

    def test_the_machine_knows_nothing_of_the_front_desk(self) -> None:
        for path in sorted((PACKAGE / "system").glob("*.py")):
            with self.subTest(path.name):
                rooms = {name.split(".")[1] for name in imported(path) if name.startswith("btrfs_backup.")}
                self.assertLessEqual(rooms, {"system", "model", "errors"})

    def test_each_class_says_first_what_it_is(self) -> None:
        riddles = ("What", "How", "Why", "Who", "Whether", "Where", "That", "It")
        for path in sorted(PACKAGE.rglob("*.py")):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.ClassDef):
                    with self.subTest(path.name, name=node.name):
                        first = (ast.get_docstring(node) or "").partition("\n")[0]
                        self.assertTrue(first, "it has no docstring")
                        self.assertNotIn(first.split()[0], riddles)
                        self.assertFalse(first.split()[0].rstrip(",").endswith(":"), "it begins with a field")

    def test_functions_fit_a_screen(self) -> None:
        for path in sorted(PACKAGE.rglob("*.py")):
            with self.subTest(path.name):
                self.assertEqual(long_functions(tree(path)), [])

    def test_parsers_are_pure(self) -> None:
        for name in ("btrfs.py", "mounts.py"):
            with self.subTest(name):
                self.assertEqual(impurities(tree(PACKAGE / "system" / name), "btrfs_backup.system"), [])

    def test_every_module_can_be_imported(self) -> None:
        """By whatever Python runs this test."""
        for path in sorted(PACKAGE.rglob("*.py")):
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            with self.subTest(name):
                importlib.import_module(name)

    def test_nothing_but_the_standard_library(self) -> None:
        allowed = sys.stdlib_module_names | {"btrfs_backup"}
        for path in sorted(PACKAGE.rglob("*.py")):
            with self.subTest(path.name):
                self.assertEqual([name for name in imported(path) if name.split(".")[0] not in allowed], [])


class CheckerTest(unittest.TestCase):
    """The checks find what they look for."""

    def test_impurities(self) -> None:
        table: dict[str, list[str]] = {
            "import re\nfrom datetime import datetime\nfrom posixpath import join": [],
            "from btrfs_backup.model.snapshot import Naming\nfrom btrfs_backup.errors import Failure": [],
            "from btrfs_backup.model import retention": [],
            "import os": ["os"],
            "import re, os.path as path": ["os.path"],
            "from os.path import join": ["os.path.join"],
            "from os import fork as spoon": ["os.fork"],
            "def f():\n    import subprocess": ["subprocess"],
            "if True:\n    from pathlib import Path": ["pathlib.Path"],
            "import time, sys": ["time", "sys"],
            "from logging import getLogger": ["logging.getLogger"],
            "import fcntl": ["fcntl"],
            "import tempfile": ["tempfile"],
            "import shutil": ["shutil"],
            "from btrfs_backup.system import host": ["btrfs_backup.system.host"],
            "from btrfs_backup.system.host import Host": ["btrfs_backup.system.host.Host"],
            "import btrfs_backup.system.process": ["btrfs_backup.system.process"],
            "from btrfs_backup import system": ["btrfs_backup.system"],
            "from btrfs_backup import cli": ["btrfs_backup.cli"],
            "from .. import system": ["btrfs_backup.system"],
            "from ..system import host": ["btrfs_backup.system.host"],
            "from ..system.host import Host": ["btrfs_backup.system.host.Host"],
            "from . import snapshot\nfrom .snapshot import Naming\nfrom ..errors import Failure": [],
            "from btrfs_backup.models import x": ["btrfs_backup.models.x"],
            "open('x')": ["open"],
            "print(1)": ["print"],
            "datetime.now()": ["now"],
            "f = date.today": ["today"],
        }
        for text, wanted in table.items():
            with self.subTest(text=text):
                self.assertEqual(impurities(ast.parse(text), "btrfs_backup.model"), wanted)

    def test_long_functions(self) -> None:
        text = "class C:\n    def f(self):\n        a = 1\n\n        return a\n    async def g(): pass"
        self.assertEqual(long_functions(ast.parse(text), 4), [])
        self.assertEqual(long_functions(ast.parse(text), 3), ["f"])
        self.assertEqual(long_functions(ast.parse(text), 0), ["f", "g"])

    def test_importers(self) -> None:
        self.assertEqual(
            importers("shlex"),
            [
                "cli/completion.py",
                "commands/places.py",
                "commands/restore.py",
                "model/restoration.py",
                "system/host.py",
                "system/process.py",
                "system/ssh.py",
            ],
        )
        self.assertIn("system/folder.py", importers("btrfs_backup.model.inventory"))
        self.assertEqual(importers("no_such_module"), [])


if __name__ == "__main__":
    unittest.main()
