"""The suite that runs its classes in several processes tells the same as one that does not."""

import io
import os
import re
import unittest
from unittest import mock

from tests.side_by_side import SideBySide


class Samples:
    """In here, so that nobody else runs them."""

    class Outcomes(unittest.TestCase):
        def test_good(self) -> None:
            """A description."""

        def test_failure(self) -> None:
            self.addCleanup(self.fail, "in the end")
            self.assertEqual(1, 2, "words of a failure")

        def test_error(self) -> None:
            os.stat("/no/such/file")

        @unittest.skip("needs root")
        def test_skipped(self) -> None:
            pass

        @unittest.expectedFailure
        def test_expected(self) -> None:
            self.fail()

        @unittest.expectedFailure
        def test_unexpected(self) -> None:
            pass

        def test_parts(self) -> None:
            for number in range(4):
                with self.subTest("part", number=number):
                    self.assertIn(number, (0, 1))

    class Fixtures(unittest.TestCase):
        @classmethod
        def setUpClass(cls) -> None:
            raise ValueError("words of a fixture")

        def test_never(self) -> None:
            pass

    class Dies(unittest.TestCase):
        def test_it(self) -> None:
            os._exit(3)


def told(suite: type[unittest.TestSuite], *classes: type[unittest.TestCase]) -> tuple[list[str], str, str]:
    """The lines that sum up, the last line, and everything."""
    stream = io.StringIO()
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    with mock.patch("os.sched_getaffinity", return_value={0, 1}):
        unittest.TextTestRunner(stream, verbosity=2).run(suite(map(load, classes)))
    text = stream.getvalue()
    # Python 3.10 ends no line after a test whose parts failed; what comes next on that line is a matter of chance.
    lines = [re.sub(r" in [\d.]+s$|^.* \.\.\. (?=test_)", "", line) for line in text.splitlines()]
    return sorted(line for line in lines if re.search(r"skipped '|^(FAIL:|ERROR:|UNEX|Ran )", line)), lines[-1], text


class SideBySideTest(unittest.TestCase):
    def test_the_same_as_one_by_one(self) -> None:
        classes = (Samples.Outcomes, Samples.Fixtures)
        lines, last, _ = told(unittest.TestSuite, *classes)
        found, found_last, text = told(SideBySide, *classes)
        self.assertEqual(found_last, last)
        self.assertEqual(found, lines)
        for words in ("words of a failure", "in the end", "No such file", "words of a fixture", "number=3"):
            self.assertIn(words, text)

    def test_a_worker_that_dies(self) -> None:
        with self.assertRaises(EOFError):
            told(SideBySide, Samples.Dies, Samples.Outcomes)


if __name__ == "__main__":
    unittest.main()
