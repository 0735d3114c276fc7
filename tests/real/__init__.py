"""Tests of the whole command on loop-mounted btrfs; they need root."""

import unittest
from pathlib import Path

from tests.side_by_side import SideBySide


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    here = Path(__file__).parent
    return SideBySide([loader.discover(str(here), pattern or "test*.py", str(here.parents[1]))])
