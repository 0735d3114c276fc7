"""The rules of the house that imports can show."""

import ast
import unittest
from collections.abc import Iterator
from pathlib import Path

PRODUCT = Path(__file__).resolve().parents[2] / "btrfs_backup"
IMPURE = {"os", "subprocess", "fcntl", "time", "logging", "tempfile", "shutil", "sys", "pathlib", "socket", "signal"}


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class HouseTest(unittest.TestCase):
    def test_decisions_are_pure(self) -> None:
        pure = [*PRODUCT.glob("model/*.py"), PRODUCT / "argfiles.py", PRODUCT / "report.py"]
        self.assertGreater(len(pure), 6)
        for path in pure:
            for module in imports(path):
                with self.subTest(file=path.name, module=module):
                    self.assertNotIn(module.partition(".")[0], IMPURE)
                    self.assertFalse(module.startswith(("btrfs_backup.system", "btrfs_backup.commands")))

    def test_one_module_starts_processes(self) -> None:
        importers = [path.name for path in PRODUCT.rglob("*.py") if "subprocess" in imports(path)]
        self.assertEqual(importers, ["process.py"])

    def test_one_file_knows_the_command_lines_of_btrfs(self) -> None:
        for path in PRODUCT.rglob("*.py"):
            strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            if path.name not in ("btrfs.py", "process.py", "host.py", "endpoint.py"):
                self.assertNotIn("btrfs", strings, path)
