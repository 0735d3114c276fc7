"""What setup.py says about the package, read without setuptools, which need not be there."""

import re
import runpy
import sys
import unittest
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from btrfs_backup import __version__

TOP = Path(__file__).resolve().parents[2]


def metadata() -> dict[str, Any]:
    """What setup.py gives to setuptools; for its packages, where it has them looked for."""
    said: dict[str, Any] = {}
    setuptools = ModuleType("setuptools")
    setuptools.setup = said.update  # type: ignore[attr-defined]
    setuptools.find_packages = lambda include: include  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, setuptools=setuptools):
        runpy.run_path(str(TOP / "setup.py"))
    return said


class Metadata(unittest.TestCase):
    def test_one_version(self) -> None:
        self.assertEqual(metadata()["version"], __version__)
        holders = [
            str(path.relative_to(TOP))
            for path in (TOP / "setup.py", *sorted((TOP / "btrfs_backup").rglob("*.py")))
            if __version__ in path.read_text(encoding="utf-8")
        ]
        self.assertEqual(holders, ["btrfs_backup/__init__.py"])
        self.assertIn(f"    btrfs-backup {__version__}\n", (TOP / "README.rst").read_text(encoding="utf-8"))

    def test_versions_of_python(self) -> None:
        self.assertEqual(metadata()["python_requires"], ">=3.10")
        named = re.findall(r"Python :: (3\.\d+)", "\n".join(metadata()["classifiers"]))
        self.assertEqual(named, ["3.10", "3.11", "3.12", "3.13"])

    def test_command(self) -> None:
        [command] = metadata()["entry_points"]["console_scripts"]
        name, module, function = re.split(" = |:", command)
        self.assertEqual(name, "btrfs-backup")
        self.assertTrue(callable(getattr(import_module(module), function)))

    def test_every_folder_is_a_package(self) -> None:
        self.assertEqual(metadata()["packages"], ["btrfs_backup", "btrfs_backup.*"])
        files = [path for path in (TOP / "btrfs_backup").rglob("[!.]*.*") if path.suffix != ".pyc"]
        [data] = metadata()["package_data"]["btrfs_backup"]
        for path in files:
            if path.suffix != ".py":
                self.assertTrue(path.match(data), "a package has other files only when setup.py names them")
                continue
            self.assertTrue((path.parent / "__init__.py").exists(), path)

    def test_nothing_else_has_to_be_installed(self) -> None:
        self.assertNotIn("install_requires", metadata())

    def test_nothing_is_built_in_the_clone(self) -> None:
        """Root may install, and the clone is somebody else's."""
        options = metadata()["options"]
        for folder in (options["build"]["build_base"], options["egg_info"]["egg_base"]):
            self.assertFalse(Path(folder).is_relative_to(TOP), folder)

    def test_description_and_licence(self) -> None:
        self.assertEqual(metadata()["long_description"], (TOP / "README.rst").read_text(encoding="utf-8"))
        self.assertEqual(metadata()["license"], "MIT")
        self.assertRegex((TOP / "LICENSE").read_text(), r"^MIT License\n\nCopyright \(c\) \d+ The btrfs-backup contrib")


if __name__ == "__main__":
    unittest.main()
