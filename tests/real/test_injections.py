"""A sample of system calls that fail (see tests.inject)."""

import random
import unittest

from tests.inject import STRACE, Injector
from tests.real.machine import RealTest


@unittest.skipUnless(STRACE, "needs strace")
class Injections(RealTest):
    def test_a_sample(self) -> None:
        injector = Injector(self.folder, random.randrange(1 << 32))
        self.addCleanup(injector.close)
        for case in injector.cases(18):
            with self.subTest(case):
                self.assertEqual(injector.fail(*case), [])
