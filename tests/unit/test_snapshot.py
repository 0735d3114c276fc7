"""Names: which are ours, their order, and the next one."""

import unittest
from datetime import datetime, timedelta

from btrfs_backup.errors import Failure
from btrfs_backup.model.snapshot import STAMP_LENGTH, Naming, Subvolume, prefix_of

STAMP = "20261123-042459"
MOMENT = datetime(2026, 11, 23, 4, 24, 59)


class MatchingTest(unittest.TestCase):
    def test_ours(self) -> None:
        table = {
            ("", STAMP): MOMENT,
            ("home", f"home{STAMP}"): MOMENT,
            ("home-", f"home-{STAMP}"): MOMENT,
            ("home2", f"home2{STAMP}"): MOMENT,
            ("2", f"2{STAMP}"): MOMENT,
            ("a.*", f"a.*{STAMP}"): MOMENT,
            (" ", f" {STAMP}"): MOMENT,
            ("ä", f"ä{STAMP}"): MOMENT,
            ("\udcff", f"\udcff{STAMP}"): MOMENT,
            (STAMP, STAMP + STAMP): MOMENT,
            ("", "20280229-000000"): datetime(2028, 2, 29),
            ("", "20000229-235959"): datetime(2000, 2, 29, 23, 59, 59),
            ("", "00010101-000000"): datetime.min,
            ("", "99991231-235959"): datetime(9999, 12, 31, 23, 59, 59),
        }
        for (prefix, name), wanted in table.items():
            with self.subTest(prefix=prefix, name=name):
                self.assertEqual(Naming(prefix).time(name), wanted)
                self.assertIn(name, Naming(prefix))

    def test_foreign(self) -> None:
        """Whatever is not exactly the prefix and a real date is not ours."""
        names = {
            "": (
                "",
                "x",
                "-",
                f"home{STAMP}",
                f"2{STAMP}",
                f" {STAMP}",
                f"{STAMP} ",
                f"{STAMP}\n",
                f"\n{STAMP}",
                f"{STAMP}x",
                f"{STAMP}0",
                f"{STAMP}.partial",
                STAMP[:-1],
                STAMP[1:],
                "0261123-042459",
                "020261123-042459",
                "20261123-42459",
                "20261123_042459",
                "20261123042459",
                "20261123--042459",
                "2026112-3042459",
                "-0261123-042459",
                "+0261123-042459",
                " 0261123-042459",
                "2026 123-042459",
                "20261123- 42459",
                "2026-11-23",
                "20261123\u2010042459",
                "20261123-04245\u0669",
                "\u0662\u0660\u0662\u06661123-042459",
                "2026112\uff13-042459",
                "20261123-04245\u00b2",
            ),
            "home": (
                STAMP,
                f"home2{STAMP}",
                f"home-{STAMP}",
                f"hom{STAMP}",
                f"Home{STAMP}",
                f"homehome{STAMP}",
                f"x-home{STAMP}",
                "home",
                "home0261123-042459",
                f"home{STAMP}\n",
            ),
            "home2": (f"home{STAMP}", "home0261123-042459", f"home22{STAMP}"),
            "home-": (f"home{STAMP}", f"home--{STAMP}", STAMP),
            "a.*": (f"abc{STAMP}", f"a.{STAMP}"),
            "é": (f"e\u0301{STAMP}",),
        }
        for prefix, foreign in names.items():
            for name in foreign:
                with self.subTest(prefix=prefix, name=name):
                    self.assertIsNone(Naming(prefix).time(name))
                    self.assertNotIn(name, Naming(prefix))

    def test_prefix_of_another_naming(self) -> None:
        """The stamp is read from a fixed place: a prefix that ends in digits does not mix with a shorter one."""
        self.assertIn("home220261123-042459", Naming("home2"))
        self.assertNotIn("home220261123-042459", Naming("home"))

    def test_dates_that_do_not_exist(self) -> None:
        stamps = (
            "00000101-000000",
            "20260001-000000",
            "20261301-000000",
            "20260100-000000",
            "20260132-000000",
            "20260431-000000",
            "20260229-000000",
            "19000229-000000",
            "20260101-240000",
            "20260101-006000",
            "20260101-000060",
            "99999999-999999",
            "00000000-000000",
        )
        for stamp in stamps:
            for prefix in ("", "home-"):
                with self.subTest(prefix=prefix, stamp=stamp):
                    self.assertIsNone(Naming(prefix).time(prefix + stamp))

    def test_time_inverts_name(self) -> None:
        moments = (
            MOMENT,
            datetime(1, 1, 1),
            datetime(999, 12, 31, 23, 59, 59),
            datetime(1000, 1, 1),
            datetime(2028, 2, 29, 12),
            datetime(9999, 12, 31, 23, 59, 59),
        )
        for prefix in ("", "home-", "0"):
            for moment in moments:
                with self.subTest(prefix=prefix, moment=moment):
                    name = Naming(prefix).name(moment)
                    self.assertEqual(len(name), len(prefix) + STAMP_LENGTH)
                    self.assertEqual(Naming(prefix).time(name), moment)
                    self.assertEqual(prefix_of(name), prefix)

    def test_name(self) -> None:
        self.assertEqual(Naming("").name(MOMENT), STAMP)
        self.assertEqual(Naming("home-").name(MOMENT), f"home-{STAMP}")
        self.assertEqual(Naming("%d").name(MOMENT), f"%d{STAMP}")
        self.assertEqual(Naming("").name(datetime(7, 2, 3, 4, 5, 6)), "00070203-040506")

    def test_fraction_of_a_second_is_cut(self) -> None:
        self.assertEqual(Naming("").name(MOMENT.replace(microsecond=999_999)), STAMP)


class NewestTest(unittest.TestCase):
    def test_newest(self) -> None:
        """Only names of ours count, whatever sorts after them."""
        table: list[tuple[str, list[str], str | None]] = [
            ("", [], None),
            ("", ["x", "99999999-999999"], None),
            ("", ["20260102-000000", "20260103-000000", "20260101-000000"], "20260103-000000"),
            ("", ["20260102-000000", "home-20270101-000000", "zzz"], "20260102-000000"),
            ("home", ["home20260102-000000", "home220270101-000000"], "home20260102-000000"),
            ("", ["20260102-000000", "20990101-000000"], "20260102-000000"),
            ("", ["20980101-000000", "20990101-000000"], "20990101-000000"),
        ]
        for prefix, names, wanted in table:
            with self.subTest(prefix=prefix, names=names):
                self.assertEqual(Naming(prefix).newest(names, MOMENT), wanted)

    def test_takes_any_iterable(self) -> None:
        self.assertEqual(Naming("").newest(iter([STAMP]), MOMENT), STAMP)


class NextTest(unittest.TestCase):
    def test_next(self) -> None:
        table: dict[str, tuple[list[str], str]] = {
            "nothing there": ([], STAMP),
            "an older one": (["20261123-042458"], STAMP),
            "the same second": ([STAMP], "20261123-042500"),
            "the same second twice": ([STAMP, "20261123-042500"], "20261123-042501"),
            "the clock was set back": ([STAMP, "20261123-052459"], "20261123-052500"),
            "minute": (["20261123-045959"], "20261123-050000"),
            "by more than an hour": ([STAMP, "20261123-052500"], "20261123-042500"),
            "only names in the future": (["20261123-052500", "20990101-000000"], STAMP),
            "the next one is taken": (["20261123-052459", "20261123-052500", "20261123-052501"], "20261123-052502"),
            "foreign names": (["zzz", "99999999-999999", f"{STAMP}x", "home-20990101-000000"], STAMP),
            "order does not matter": (["20261123-050000", STAMP, "20260101-000000"], "20261123-050001"),
        }
        for case, (names, wanted) in table.items():
            with self.subTest(case):
                self.assertEqual(Naming("").next(MOMENT, names), wanted)

    def test_end_of_a_period(self) -> None:
        """The second after midnight is in the next day."""
        for newest, wanted in (
            ("20261123-235959", "20261124-000000"),
            ("20261130-235959", "20261201-000000"),
            ("20261231-235959", "20270101-000000"),
            ("20270228-235959", "20270301-000000"),
            ("20280228-235959", "20280229-000000"),
        ):
            now = datetime.strptime(newest, "%Y%m%d-%H%M%S")
            self.assertEqual(Naming("").next(now, [newest]), wanted)

    def test_prefixes_do_not_disturb_each_other(self) -> None:
        names = [f"home{STAMP}", "home220990101-000000", "20990101-000000"]
        self.assertEqual(Naming("home").next(MOMENT, names), "home20261123-042500")
        self.assertEqual(Naming("other").next(MOMENT, names), f"other{STAMP}")

    def test_fraction_of_a_second(self) -> None:
        """Two runs within one second get two names."""
        self.assertEqual(Naming("").next(MOMENT.replace(microsecond=900_000), [STAMP]), "20261123-042500")

    def test_repeated_hour(self) -> None:
        """In the second pass of the hour at the end of daylight saving time, names go on from those of the first."""
        names = ["20261025-021500", "20261025-023000", "20261025-024500"]
        for now, wanted in (
            (datetime(2026, 10, 25, 2, 15, fold=1), "20261025-024501"),
            (datetime(2026, 10, 25, 2, 30, fold=1), "20261025-024502"),
            (datetime(2026, 10, 25, 2, 45, fold=1), "20261025-024503"),
            (datetime(2026, 10, 25, 2, 59, 59, fold=1), "20261025-025959"),
            (datetime(2026, 10, 25, 3, 0), "20261025-030000"),
        ):
            with self.subTest(now=now):
                name = Naming("").next(now, names)
                self.assertEqual(name, wanted)
                self.assertGreater(name, max(names))
                names.append(name)

    def test_end_of_the_calendar(self) -> None:
        last = datetime(9999, 12, 31, 23, 59, 59)
        with self.assertRaises(Failure) as caught:
            Naming("home-").next(last, ["home-99991231-235959"])
        self.assertEqual(caught.exception.message, "no name sorts after 'home-99991231-235959'")
        self.assertTrue(caught.exception.hint)
        self.assertEqual(Naming("").next(last, ["99991231-235958"]), "99991231-235959")
        self.assertEqual(Naming("").next(last, []), "99991231-235959")
        self.assertEqual(Naming("").next(MOMENT, ["99991231-235959"]), STAMP)


class AheadTest(unittest.TestCase):
    NOW = datetime(2026, 10, 25, 2, 30)

    def test_is_ahead(self) -> None:
        hour, second = timedelta(hours=1), timedelta(seconds=1)
        table = [
            (-hour, 0, False),
            (hour, 0, False),
            (hour + second, 0, True),
            (timedelta(days=400), 0, True),
            (2 * hour, 1, False),
            (2 * hour + second, 1, True),
            (timedelta(days=400), 1, True),
        ]
        for by, fold, wanted in table:
            with self.subTest(by=str(by), fold=fold):
                name = Naming("home-").name(self.NOW + by)
                now = self.NOW.replace(fold=fold)
                self.assertEqual(Naming("home-").is_ahead(name, now), wanted)
                self.assertEqual(Naming("home-").ahead(["zzz", name], now), [name] if wanted else [])

    def test_nothing_of_ours(self) -> None:
        self.assertEqual(Naming("").ahead([], self.NOW), [])
        self.assertEqual(Naming("").ahead(["home-20990101-000000", "99999999-999999"], self.NOW), [])

    def test_end_of_the_calendar(self) -> None:
        self.assertEqual(Naming("").ahead(["99991231-235959"], self.NOW), ["99991231-235959"])

    def test_names_after_the_repeated_hour_are_not_ahead(self) -> None:
        """Fifteen-minute runs through the whole night give no false alarm."""
        first = [datetime(2026, 10, 25, 2, minute) for minute in (0, 15, 30, 45)]
        second = [each.replace(fold=1) for each in first]
        names: list[str] = []
        for now in (*first, *second, datetime(2026, 10, 25, 3), datetime(2026, 10, 25, 3, 15)):
            with self.subTest(now=now, fold=now.fold):
                self.assertEqual(Naming("").ahead(names, now), [])
                names.append(Naming("").next(now, names))


class SubvolumeTest(unittest.TestCase):
    def test_stream_uuid(self) -> None:
        """A snapshot that was itself received is sent under its received UUID."""
        self.assertEqual(Subvolume("a", "own").stream_uuid, "own")
        self.assertEqual(Subvolume("a", "own", parent_uuid="parent").stream_uuid, "own")
        self.assertEqual(Subvolume("a", "own", received_uuid="origin").stream_uuid, "origin")

    def test_what_is_not_told(self) -> None:
        self.assertEqual(Subvolume("a", "own"), Subvolume("a", "own", "", "", True))


class PrefixOfTest(unittest.TestCase):
    def test_prefix_of(self) -> None:
        for prefix in ("", "home", "home-", "2", STAMP):
            with self.subTest(prefix=prefix):
                self.assertEqual(prefix_of(prefix + STAMP), prefix)


if __name__ == "__main__":
    unittest.main()
