"""The versions of a file, by what was found at its path."""

import unittest

from btrfs_backup.errors import Failure, UsageError
from btrfs_backup.model.versions import Found, Look, Versions, Wanted, parse

A, B, C, D = (f"2026010{day}-000000" for day in (1, 2, 3, 4))


class WantedTest(unittest.TestCase):
    def test_paths(self) -> None:
        table = {
            "a/b": Wanted(("a", "b")),
            "./a//b/": Wanted(("a", "b")),
            "/home/a": Wanted(("a",)),
            "a/*/b?": Wanted(("a",), ("*", "b?")),
            "[x": Wanted((), ("[x",)),
            "\udcff\n": Wanted(("\udcff\n",)),
        }
        for path, wanted in table.items():
            with self.subTest(path):
                self.assertEqual(Wanted.read(path, "/home"), wanted)
        self.assertEqual(Wanted.read("/etc/x", "/"), Wanted(("etc", "x")))
        for path in ("", "/", ".", "/home", "/homes/a", "a/../b", "../a", "a\0"):
            with self.subTest(path), self.assertRaises(UsageError):
                Wanted.read(path, "/home")

    def test_fits(self) -> None:
        table = {
            ("a/b", "a/b"): True,
            ("a/b", "a/b/c"): False,
            ("a/*", "a/.b"): True,
            ("a/*", "a/b/c"): False,
            ("*/x*/y", "p/xq/y"): True,
            ("[1].txt", "[1].txt"): True,
            ("[1].txt", "1.txt"): True,
            ("[1].txt", "2.txt"): False,
        }
        for (path, found), fits in table.items():
            with self.subTest((path, found)):
                self.assertEqual(Wanted.read(path, "/").fits(found), fits)

    def test_patterns_of_find(self) -> None:
        self.assertEqual(Wanted.read("a/b", "/").last, ("*", r"\*"))
        self.assertEqual(Wanted.read("a/[1]\\?*", "/").last, ("[1]\\?*", r"\[1\]\\\?\*"))


class Parsing(unittest.TestCase):
    def test_printed(self) -> None:
        printed = f"257 f 3 1700000000.1234567890 /b/{A}/d/e\nf\x00258 d 0 -1.5000000000 /b/{B}/d\0"
        found = parse(printed, "/b")
        self.assertEqual(found[A, "d/e\nf"], Found("d/e\nf", 257, "f", 3, 1_700_000_000_123_456_789))
        self.assertEqual(found[B, "d"].kind, "d")
        self.assertEqual(parse("", "/b"), {})

    def test_strange(self) -> None:
        for printed in ("welcome\0", f"1 f 3 1.0000000000 /b/{A}\0"):
            with self.assertRaises(Failure) as failed:
                parse(printed, "/b")
            self.assertIn("cannot make versions of what 'find' printed", failed.exception.message)


class Rows(unittest.TestCase):
    def rows(self, *looks: "tuple[str, dict[str, Found]]") -> list[tuple[str, str, tuple[int, ...], str]]:
        """(first, last, places, note) of each version of the file f in places with (names, what is there)."""
        seen = [Look(f"/{number}", tuple(names.split()), {"f": its}) for number, (names, its) in enumerate(looks)]
        return [(each.first, each.last, each.places, each.note) for each in Versions("f", seen).all]

    def test_table(self) -> None:
        one, two = Found("f", 257, "f", 3, 10), Found("f", 257, "f", 4, 20)
        anew, there, renamed = Found("f", 300, "f", 3, 10), Found("f", 500, "f", 3, 10), Found("g", 257, "f", 3, 10)
        every = f"{A} {B} {C} {D}"
        table = (
            ([(every, {A: one, B: one, C: two, D: two})], [(A, B, (0,), ""), (C, D, (0,), "")]),
            ([(every, {B: one})], [(B, B, (0,), "")]),
            ([(every, {A: one, C: one})], [(A, A, (0,), ""), (C, C, (0,), "deleted in between")]),
            ([(every, {A: one, C: anew})], [(A, A, (0,), ""), (C, C, (0,), "deleted in between, made anew")]),
            ([(every, {A: one, B: anew})], [(A, A, (0,), ""), (B, B, (0,), "made anew")]),
            ([(every, {A: renamed, B: one})], [(A, A, (0,), ""), (B, B, (0,), "renamed from g")]),
            # Inode numbers are those of a place, and what one place lacks another one has.
            ([(every, {A: one, B: one}), (f"{A} {B} {C}", {A: there, B: there, C: there})], [(A, C, (0, 1), "")]),
            ([(f"{C} {D}", {C: one, D: one}), (f"{A} {B}", {A: there, B: there})], [(A, D, (0, 1), "")]),
            ([("", {})], []),
        )
        for looks, wanted in table:
            with self.subTest(wanted):
                self.assertEqual(self.rows(*looks), wanted)

    def test_where_to_copy_from(self) -> None:
        """The newest at the first place that has it."""
        one = Found("d/f", 257, "f", 3, 10)
        looks = [Look("/s", (B,), {"d/f": {B: one}}), Look("ssh://nas/b", (A, B, C), {"d/f": {A: one, B: one, C: one}})]
        [version] = Versions("d/f", looks).all
        self.assertEqual(version.copy, f"/s/{B}/d/f")
        [version] = Versions("d/f", looks[1:]).all
        self.assertEqual(version.copy, f"ssh://nas/b/{C}/d/f")

    def test_folders_have_no_size(self) -> None:
        one, two = Found("f", 257, "d", 3, 10), Found("f", 257, "d", 4, 10)
        self.assertEqual(len(self.rows((f"{A} {B}", {A: one, B: two}))), 1)


if __name__ == "__main__":
    unittest.main()
