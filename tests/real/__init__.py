"""Tests of the whole command on loop-mounted btrfs; they need root."""

import unittest

from tests.side_by_side import load


def load_tests(loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str | None) -> unittest.TestSuite:
    return load(__file__, loader, pattern)
