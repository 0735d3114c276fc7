"""The stages in which backups are received."""

import unittest

from btrfs_backup.cli import parser as cli
from btrfs_backup.model import stage
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import FILE, FOLDER, SUBVOLUME, Stage

NAME = "20261124-120000"
ENTRY = f".{NAME}.receiving"
UUID = "89abcdef-0000-1111-2222-333333333333"
ONE, TWO = "nas-123-0123abcd", "my-host.lan-4-ffffffff"


class Names(unittest.TestCase):
    def test_there_and_back(self) -> None:
        for name in (NAME, f"a.b-{NAME}", f".x.receiving-{NAME}", f"x.receiving.2-{NAME}", "a\nb", "ä\udcff"):
            with self.subTest(name):
                entry, taken = stage.entry(name), set[str]()
                self.assertEqual(entry, f".{name}.receiving")
                for _ in range(3):
                    self.assertEqual(stage.name_of(entry), name)
                    taken.add(entry)
                    entry = stage.entry(name, frozenset(taken))
                    self.assertNotIn(entry, taken)

    def test_taken(self) -> None:
        """The first one that is free."""
        table: list[tuple[list[str], str]] = [
            ([], ENTRY),
            ([f"{ENTRY}.2", ".20261125-120000.receiving"], ENTRY),
            ([ENTRY], f"{ENTRY}.2"),
            ([ENTRY, f"{ENTRY}.2", f"{ENTRY}.4"], f"{ENTRY}.3"),
        ]
        for taken, wanted in table:
            with self.subTest(taken=taken):
                self.assertEqual(stage.entry(NAME, frozenset(taken)), wanted)

    def test_length(self) -> None:
        """It has to be the name of a file, of 255 bytes at most."""
        name = "x" * cli.LONGEST_PREFIX + NAME
        taken = frozenset({stage.entry(name), *(f"{stage.entry(name)}.{number}" for number in range(2, 999))})
        self.assertLessEqual(len(stage.entry(name, taken)), 255)

    def test_no_stages(self) -> None:
        for entry in (
            "",
            NAME,
            ENTRY[1:],
            f"{ENTRY}x",
            ENTRY.upper(),
            f"{ENTRY}.",
            f"{ENTRY}.x",
            f"{ENTRY}.2.2x",
            f"{ENTRY}.1000",
            f"x{ENTRY}",
            ".receiving",
            "..receiving",
        ):
            with self.subTest(entry):
                self.assertIsNone(stage.name_of(entry))


class Attempts(unittest.TestCase):
    def test_names(self) -> None:
        """Whatever the host is called, it is recognised, and is the name of one folder."""
        table = {
            "nas": ("nas-123-000000000123abcd", "process 123 on nas"),
            "my-host.lan": ("my-host.lan-123-000000000123abcd", "process 123 on my-host.lan"),
            "a/b c\nd": ("a_b_c_d-123-000000000123abcd", "process 123 on a_b_c_d"),
            "größe": ("gr__e-123-000000000123abcd", "process 123 on gr__e"),
            "": ("localhost-123-000000000123abcd", "process 123 on localhost"),
            "x" * 300: ("x" * 64 + "-123-000000000123abcd", "process 123 on " + "x" * 64),
        }
        for host, (wanted, who) in table.items():
            with self.subTest(host):
                name = stage.attempt(host, 123, 0x0123ABCD)
                self.assertEqual(name, wanted)
                found = stage.found(ENTRY, NAME, FOLDER, {name: FOLDER}, {})
                self.assertEqual((found.attempts, found.foreign), ((name,), ""))
                self.assertEqual(stage.who(found), who)

    def test_of_which_snapshot(self) -> None:
        """The names of older attempts do not tell."""
        told = stage.attempt("nas", 1, 2, UUID)
        self.assertEqual(stage.found(ENTRY, NAME, FOLDER, {told: FOLDER}, {}).attempts, (told,))
        other = UUID.replace("8", "7")
        for attempts, wanted in (((), True), ((ONE,), True), ((told,), False), ((ONE, told), False)):
            with self.subTest(attempts=attempts):
                found = Stage(ENTRY, NAME, attempts)
                self.assertEqual((found.is_of(UUID), found.is_of(other)), (True, wanted))

    def test_who(self) -> None:
        self.assertEqual(stage.who(Stage(ENTRY, NAME)), "an unknown process")
        both = Stage(ENTRY, NAME, (ONE, TWO))
        self.assertEqual(stage.who(both), "process 4 on my-host.lan")


class Found(unittest.TestCase):
    def test_transfers(self) -> None:
        """Those in any state, and the mark of an older version."""
        part, other = Subvolume(NAME, "part"), Subvolume("stray", "other")
        table: dict[str, tuple[dict[str, str], dict[str, Subvolume], Stage]] = {
            "empty": ({}, {}, Stage(ENTRY, NAME)),
            "just begun": ({ONE: FOLDER}, {}, Stage(ENTRY, NAME, (ONE,))),
            "a subvolume": (
                {ONE: FOLDER, f"{ONE}/{NAME}": SUBVOLUME},
                {f"{ONE}/{NAME}": part},
                Stage(ENTRY, NAME, (ONE,), (part,)),
            ),
            "a subvolume deep inside": (
                {ONE: FOLDER, f"{ONE}/{NAME}": SUBVOLUME},
                {f"{ONE}/{NAME}": part, f"{ONE}/{NAME}/a/b": other},
                Stage(ENTRY, NAME, (ONE,), (part, other)),
            ),
            "two attempts, and whatever a stream has put into one": (
                {ONE: FOLDER, TWO: FOLDER, f"{TWO}/file": FILE, f"{TWO}/folder": FOLDER},
                {f"{ONE}/{NAME}": part, f"{TWO}/stray": other},
                Stage(ENTRY, NAME, (TWO, ONE), (other, part)),
            ),
        }
        for what, (inside, subvolumes, wanted) in table.items():
            with self.subTest(what):
                found = stage.found(ENTRY, NAME, FOLDER, inside, subvolumes)
                self.assertEqual(found, wanted)
                self.assertEqual(found.is_mark, what == "empty")

    def test_foreign(self) -> None:
        """What no transfer makes: nothing of it may be deleted, so nothing is told of what else is in it."""
        part = {f"{ONE}/{NAME}": Subvolume(NAME, "part")}
        table: list[tuple[str, dict[str, str], str]] = [
            (FILE, {}, "it is a file"),
            (SUBVOLUME, {}, "it is a subvolume"),
            (FOLDER, {"work": FOLDER}, "'work' is in it"),
            (FOLDER, {ONE: FOLDER, "work": FOLDER, f"{ONE}/{NAME}": SUBVOLUME}, "'work' is in it"),
            (FOLDER, {ONE: FILE}, f"'{ONE}' is in it"),
            (FOLDER, {ONE: SUBVOLUME}, f"'{ONE}' is in it"),
            (FOLDER, {NAME: SUBVOLUME}, f"'{NAME}' is in it"),
            *(
                (FOLDER, {ONE: FOLDER, name: FOLDER}, f"'{name}' is in it")
                for name in (
                    f"{ONE}0",
                    f"{ONE}\n",
                    ONE.upper(),
                    "nas-123",
                    "-1-0123abcd",
                    "ä-1-0123abcd",
                    "a b-1-0123abcd",
                )
            ),
        ]
        for kind, inside, words in table:
            with self.subTest(kind=kind, inside=inside):
                found = stage.found(ENTRY, NAME, kind, inside, part)
                self.assertIn(words, found.foreign)
                self.assertEqual((found.entry, found.name, found.attempts, found.subvolumes), (ENTRY, NAME, (), ()))
                self.assertFalse(found.is_mark)


if __name__ == "__main__":
    unittest.main()
