"""KEEP policies: how they are spelled, and what they keep."""

import random
import unittest
from collections.abc import Iterable
from datetime import date, datetime, timedelta

from btrfs_backup.model.retention import KEEP_ALL, Kept, Policy, Verdict, decide, decide_by_time, parse
from btrfs_backup.model.snapshot import Naming

NAMING = Naming()
LAST = datetime.max  # nothing lies in the future
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


# --- a second opinion ------------------------------------------------------------------------------------------------


def iso_week(day: date) -> tuple[int, int]:
    """The ISO year and week, by their definition: a week belongs to the year that its Thursday is in."""
    thursday = day + timedelta(days=3 - day.weekday())
    return thursday.year, (thursday - date(thursday.year, 1, 1)).days // 7 + 1


def label(name: str, unit: str) -> str:
    """What is the same for two names in the same period."""
    stamp = name[-15:]
    if unit == "w":
        year, week = iso_week(date(int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8])))
        return f"{year}-W{week}"
    return stamp[: {"h": 11, "d": 8, "m": 6, "y": 4}[unit]]


def kept_by(text: str, names: Iterable[str]) -> set[str]:
    """What the policy of this spelling keeps: walk back from the newest and count the periods that are met."""
    backwards = sorted(names, reverse=True)
    if text in ("all", "0"):
        return set(backwards)
    kept = set(backwards[:1])
    for word in text.split():
        if word.isdigit():
            kept.update(backwards[: int(word)])
            continue
        met: list[str] = []
        for name in backwards:
            if label(name, word[-1]) not in met:
                met.append(label(name, word[-1]))
                if len(met) <= int(word[:-1]):
                    kept.add(name)
    return kept


class ByTime(unittest.TestCase):
    def test_times_count_and_names_do_not(self) -> None:
        """In the order that is given, where times are equal."""
        days = {"z": 1, "a": 1, "y": 3, "c": 9, "b": 9}
        times = {name: datetime(2026, 1, day) for name, day in days.items()}
        table = {
            "1": "b",
            "2": "bc",
            "7d": "bya",
            "2d": "by",
            "1w": "b",
            "all": "zaycb",
        }
        for policy, kept in table.items():
            with self.subTest(policy):
                verdict = decide_by_time(parse(policy), times, (), {})
                self.assertEqual({each.name for each in verdict.kept}, set(kept))
        verdict = decide_by_time(parse("1"), times, ["b"], {"z": ["being received"]})
        self.assertEqual(
            verdict,
            Verdict(
                (Kept("z", ("being received",)), Kept("c", ("latest 1 of 1",)), Kept("b", ("lies in the future",))),
                ("a", "y"),
            ),
        )


class SecondOpinionTest(unittest.TestCase):
    def test_iso_week(self) -> None:
        """Dates whose ISO week is known from the calendar on the wall."""
        table = {
            date(2026, 12, 27): (2026, 52),
            date(2026, 12, 28): (2026, 53),
            date(2027, 1, 3): (2026, 53),
            date(2027, 1, 4): (2027, 1),
            date(2028, 1, 2): (2027, 52),
            date(2028, 2, 29): (2028, 9),
            date(2024, 12, 30): (2025, 1),
        }
        for day, wanted in table.items():
            with self.subTest(day=day):
                self.assertEqual(iso_week(day), wanted)

    def test_it_can_count(self) -> None:
        names = ["20260101-000000", "20260101-120000", "20260102-000000", "20260105-000000"]
        self.assertEqual(kept_by("2d", names), {"20260102-000000", "20260105-000000"})
        self.assertEqual(kept_by("3d", names), set(names[1:]))
        self.assertEqual(kept_by("2w", names), {"20260102-000000", "20260105-000000"})
        self.assertEqual(kept_by("2", names), set(names[2:]))


# --- spelling --------------------------------------------------------------------------------------------------------


class ParseTest(unittest.TestCase):
    def test_policies(self) -> None:
        everything = Policy(3, (("h", 24), ("d", 7), ("w", 4), ("m", 12), ("y", 5)))
        table = {
            "all": KEEP_ALL,
            " all ": KEEP_ALL,
            "0": KEEP_ALL,
            " 0": KEEP_ALL,
            "1": Policy(1),
            "3": Policy(3),
            "03": Policy(3),
            " 3\n": Policy(3),
            "3,": Policy(3),
            "999999999": Policy(999_999_999),
            "7d": Policy(0, (("d", 7),)),
            "0 7d": Policy(0, (("d", 7),)),
            "3 0d": Policy(3),
            "3 0d 2w": Policy(3, (("w", 2),)),
            "3 24h 7d 4w 12m 5y": everything,
            "3,24h,7d,4w,12m,5y": everything,
            "3, 24h,7d ,  4w\t12m,,5y": everything,
            "5y 12m 4w 7d 24h 3": everything,
            "1h": Policy(0, (("h", 1),)),
            "1w": Policy(0, (("w", 1),)),
            "1m": Policy(0, (("m", 1),)),
            "999999999y": Policy(0, (("y", 999_999_999),)),
        }
        for text, wanted in table.items():
            with self.subTest(text=text):
                self.assertEqual(parse(text), wanted)

    def test_keep_all(self) -> None:
        self.assertEqual(KEEP_ALL, Policy(None, ()))
        self.assertNotEqual(parse("1"), KEEP_ALL)

    def test_no_policies(self) -> None:
        """The error quotes the word that is wrong, if it is one word."""
        table = {
            "x": "'x'",
            "All": "'All'",
            "all 3": "'all'",
            "3 all": "'all'",
            "all all": "'all'",
            "-1": "'-1'",
            "+1": "'+1'",
            "3 -1d": "'-1d'",
            "1.5": "'1.5'",
            "1_0": "'1_0'",
            "3;7d": "'3;7d'",
            "7 d": "'d'",
            "d": "'d'",
            "d7": "'d7'",
            "7D": "'7D'",
            "7dd": "'7dd'",
            "7d4w": "'7d4w'",
            "7s": "'7s'",
            "\u0663": "'\u0663'",
            "\u00b2": "'\u00b2'",
            "3\u0669d": "'3\u0669d'",
            "3 4": "'4'",
            "3 3": "'3'",
            "7d 7d": "'7d'",
            "7d 0d": "'0d'",
            "all7d": "'all7d'",
        }
        for text, word in table.items():
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                parse(text)
            with self.subTest(text=text):
                self.assertIn(word, str(caught.exception))

    def test_would_keep_nothing(self) -> None:
        for text in ("", " ", ",", "0d", "0h 0d 0w 0m 0y", "0 0d", "0,0y"):
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                parse(text)
            with self.subTest(text=text):
                self.assertIn("nothing", str(caught.exception))

    def test_huge_numbers(self) -> None:
        """A number beyond all reason is either taken or refused with a short text, and never anything else."""
        for digits in (10, 30, 5000):
            for unit in ("", "h", "y"):
                with self.subTest(digits=digits, unit=unit):
                    try:
                        policy = parse("9" * digits + unit)
                    except ValueError as error:
                        self.assertNotIn("set_int_max_str_digits", str(error))
                    else:
                        self.assertEqual(decide(policy, NAMING, ["20260101-000000"], {}, LAST).dropped, ())


# --- what is kept ----------------------------------------------------------------------------------------------------


def kept(text: str, names: Iterable[str]) -> list[str]:
    return [each.name for each in decide(parse(text), NAMING, names, {}, LAST).kept]


class DecideTest(unittest.TestCase):
    DAYS = tuple(f"202601{day:02}-120000" for day in range(1, 11))

    def test_nothing_there(self) -> None:
        for text in ("all", "1", "7d"):
            with self.subTest(text=text):
                self.assertEqual(decide(parse(text), NAMING, [], {}, LAST), Verdict((), ()))
                self.assertEqual(decide(parse(text), NAMING, [], {"20260101-000000": ["why"]}, LAST), Verdict((), ()))

    def test_all(self) -> None:
        verdict = decide(KEEP_ALL, NAMING, reversed(self.DAYS), {}, LAST)
        self.assertEqual(verdict, Verdict(tuple(Kept(name, ("keep all",)) for name in self.DAYS), ()))

    def test_latest(self) -> None:
        for count in range(1, 13):
            with self.subTest(count=count):
                verdict = decide(parse(str(count)), NAMING, self.DAYS, {}, LAST)
                self.assertEqual([each.name for each in verdict.kept], list(self.DAYS[-count:]))
                self.assertEqual(verdict.dropped, self.DAYS[: max(0, 10 - count)])

    def test_reasons(self) -> None:
        """Each one kept has every reason that applies, in words for the user."""
        names = ["20251230-120000", "20260101-110000", "20260101-115900", "20260102-000000"]
        verdict = decide(
            parse("1 2h 2d 2w 2m 2y"), NAMING, names, {"20251230-120000": ["outstanding for /backup"]}, LAST
        )
        self.assertEqual(
            verdict,
            Verdict(
                (
                    Kept("20251230-120000", ("month 2025-12", "year 2025", "outstanding for /backup")),
                    Kept("20260101-115900", ("hour 2026-01-01 11:00", "day 2026-01-01")),
                    Kept(
                        "20260102-000000",
                        (
                            "latest 1 of 1",
                            "hour 2026-01-02 00:00",
                            "day 2026-01-02",
                            "week 2026-W01",
                            "month 2026-01",
                            "year 2026",
                        ),
                    ),
                ),
                ("20260101-110000",),
            ),
        )

    def test_latest_are_numbered_from_the_newest(self) -> None:
        verdict = decide(parse("3"), NAMING, self.DAYS, {}, LAST)
        self.assertEqual(
            verdict.kept,
            (
                Kept(self.DAYS[-3], ("latest 3 of 3",)),
                Kept(self.DAYS[-2], ("latest 2 of 3",)),
                Kept(self.DAYS[-1], ("latest 1 of 3",)),
            ),
        )

    def test_newest_of_each_period(self) -> None:
        """Of several in one period the newest stays."""
        table = {
            "2h": (["20260101-100000", "20260101-105959", "20260101-110000", "20260101-113000"], [1, 3]),
            "2d": (["20260101-000000", "20260101-235959", "20260102-000000", "20260102-000001"], [1, 3]),
            "2w": (["20260104-000000", "20260104-235959", "20260105-000000", "20260111-235959"], [1, 3]),
            "2m": (["20260101-000000", "20260131-235959", "20260201-000000", "20260228-235959"], [1, 3]),
            "2y": (["20260101-000000", "20261231-235959", "20270101-000000", "20271231-235959"], [1, 3]),
        }
        for text, (names, places) in table.items():
            with self.subTest(text=text):
                self.assertEqual(kept(text, names), [names[place] for place in places])

    def test_same_hour_of_another_day_is_another_hour(self) -> None:
        names = ["20260101-100000", "20260102-100000", "20260103-100000"]
        self.assertEqual(kept("3h", names), names)

    def test_same_month_of_another_year_is_another_month(self) -> None:
        names = ["20240510-000000", "20250510-000000", "20260510-000000"]
        self.assertEqual(kept("3m", names), names)

    def test_same_week_of_another_year_is_another_week(self) -> None:
        """Week 53 of 2026 goes on in January; week 1 of 2027 is neither that of 2026 nor that of 2028."""
        names = ["20251229-000000", "20261228-000000", "20270103-000000", "20270104-000000", "20280103-000000"]
        self.assertEqual(kept("9w", names), [names[0], *names[2:]])

    def test_periods_that_have_any(self) -> None:
        """Gaps do not count: long pauses cost no backups."""
        table = {
            "2h": (["20260101-100000", "20260301-100000", "20260601-100000"], 2),
            "3d": (["20200101-100000", "20230101-100000", "20260101-100000"], 3),
            "2w": (["20200101-100000", "20230101-100000", "20260101-100000"], 2),
            "3m": (["20200101-100000", "20230101-100000", "20260101-100000"], 3),
            "2y": (["19990101-100000", "20100101-100000", "20260101-100000"], 2),
        }
        for text, (names, count) in table.items():
            with self.subTest(text=text):
                self.assertEqual(kept(text, names), names[-count:])

    def test_periods_are_those_of_the_names(self) -> None:
        """Not of the clock."""
        self.assertEqual(kept("1d", ["20260101-100000", "99991231-235959"]), ["99991231-235959"])
        self.assertEqual(kept("2d", ["00010101-000000", "99991231-235959"]), ["00010101-000000", "99991231-235959"])

    def test_future(self) -> None:
        """What lies in the future stays, and of the others those that would stay without it."""
        now = datetime(2026, 1, 10, 12)
        future = ["20260110-130001", "20990101-000000", "99991231-235959"]
        for text in ("1", "3", "2d", "1 3d 2w 12m 5y", "all"):
            alone = decide(parse(text), NAMING, self.DAYS, {}, now)
            verdict = decide(parse(text), NAMING, [*future, *self.DAYS], {}, now)
            with self.subTest(text):
                self.assertEqual(verdict.kept[:-3], alone.kept)
                self.assertEqual(verdict.kept[-3:], tuple(Kept(name, ("lies in the future",)) for name in future))
                self.assertEqual(verdict.dropped, alone.dropped)
        # Alone.
        self.assertEqual(decide(parse("1"), NAMING, future, {}, now).dropped, ())
        # Not more than an hour.
        self.assertEqual(decide(parse("1"), NAMING, [self.DAYS[0], "20260110-130000"], {}, now).dropped, self.DAYS[:1])
        protected = {future[0]: ["outstanding for /b"]}
        self.assertEqual(
            decide(parse("1"), NAMING, future[:1], protected, now).kept,
            (Kept(future[0], ("lies in the future", "outstanding for /b")),),
        )

    def test_newest_always_stays(self) -> None:
        """Even under a policy by hand that asks for nothing."""
        for policy in (Policy(0), Policy(0, (("d", 0),))):
            with self.subTest(policy=policy):
                self.assertEqual(
                    decide(policy, NAMING, self.DAYS, {}, LAST),
                    Verdict((Kept(self.DAYS[-1], ("newest",)),), self.DAYS[:-1]),
                )

    def test_protected(self) -> None:
        """Those protected stay with their reasons, besides what the policy keeps: they do not use up its number."""
        protected = {self.DAYS[0]: ["outstanding for /b", "parent of one outstanding for /c"], self.DAYS[-1]: ["new"]}
        verdict = decide(parse("2"), NAMING, self.DAYS, {**protected, "20990101-000000": ["not there"]}, LAST)
        self.assertEqual(
            verdict,
            Verdict(
                (
                    Kept(self.DAYS[0], ("outstanding for /b", "parent of one outstanding for /c")),
                    Kept(self.DAYS[-2], ("latest 2 of 2",)),
                    Kept(self.DAYS[-1], ("latest 1 of 2", "new")),
                ),
                self.DAYS[1:-2],
            ),
        )

    def test_protected_without_a_reason_is_not_protected(self) -> None:
        self.assertEqual(decide(parse("1"), NAMING, self.DAYS, {self.DAYS[0]: []}, LAST).dropped, self.DAYS[:-1])

    def test_prefix(self) -> None:
        """Times are read behind the prefix, digits in it or not."""
        for prefix in ("home-", "2", "20260101-000000"):
            with self.subTest(prefix=prefix):
                names = [prefix + name for name in ("20260101-110000", "20260101-120000", "20260102-110000")]
                verdict = decide(parse("2d"), Naming(prefix), names, {}, LAST)
                self.assertEqual([each.name for each in verdict.kept], names[1:])
                self.assertEqual(verdict.dropped, (names[0],))


# --- over a long time ------------------------------------------------------------------------------------------------

# The first of hourly snapshots: week 53 of 2026, the end of two years and a leap day are to come.
FIRST = datetime(2026, 12, 1)
USUAL = "3 24h 7d 4w 12m 5y"


def by_the_calendar(now: datetime, first: datetime = FIRST) -> set[str]:
    """What USUAL keeps of hourly snapshots since FIRST at NOW (a full hour): worked out from the calendar alone."""
    stay = {now - back * HOUR for back in range(24)}
    midnight = now.replace(hour=0)
    stay |= {midnight - back * DAY - HOUR for back in range(6)}
    monday = midnight - now.weekday() * DAY
    stay |= {monday - back * 7 * DAY - HOUR for back in range(3)}
    month = midnight.replace(day=1)
    for _ in range(11):
        stay.add(month - HOUR)
        month = (month - HOUR).replace(day=1, hour=0)
    stay |= {datetime(now.year - back, 1, 1) - HOUR for back in range(4)}
    return {NAMING.name(each) for each in stay if each >= first}


class LongTimeTest(unittest.TestCase):
    def test_pruned_regularly(self) -> None:
        """Hourly snapshots for a year, pruned every 61 hours: just those are left that the calendar says."""
        policy, first = parse(USUAL), datetime(2027, 3, 10)
        there, now = set[str](), first - HOUR
        while now < datetime(2028, 3, 12):
            there |= {NAMING.name(now + hour * HOUR) for hour in range(1, 62)}
            now += 61 * HOUR
            verdict = decide(policy, NAMING, there, {}, LAST)
            left = {each.name for each in verdict.kept}
            self.assertEqual(left, by_the_calendar(now, first), now)
            self.assertEqual(left | set(verdict.dropped), there)
            self.assertFalse(left & set(verdict.dropped))
            there = left

    def test_pruned_at_any_hour(self) -> None:
        """Around the days that are special, pruning every hour leaves the same."""
        policy = parse(USUAL)
        for day in (datetime(2027, 1, 3), datetime(2028, 2, 29)):
            there = by_the_calendar(day)
            for hour in range(1, 49):
                now = day + hour * HOUR
                there = {each.name for each in decide(policy, NAMING, there | {NAMING.name(now)}, {}, LAST).kept}
                self.assertEqual(there, by_the_calendar(now), now)

    def test_never_pruned_before(self) -> None:
        """All hourly snapshots of some weeks at once: what the calendar says and what counting by hand gives."""
        for now, days in ((datetime(2027, 1, 4, 5), 30), (datetime(2028, 3, 1, 0), 40)):
            with self.subTest(now=now):
                names = [NAMING.name(now - hour * HOUR) for hour in range(24 * days)]
                found = set(kept(USUAL, names))
                self.assertEqual(found, kept_by(USUAL, names))
                self.assertEqual(found, by_the_calendar(now) & set(names))

    def test_special_periods(self) -> None:
        """The leap day is a day and the end of its month; week 53 reaches over the end of the year."""
        on_march_first = by_the_calendar(datetime(2028, 3, 1, 12))
        self.assertIn("20280229-230000", on_march_first)
        leap = ["20280228-230000", "20280229-230000", "20280301-120000"]
        self.assertEqual(kept("3d", leap), leap)
        self.assertEqual(kept("2m", leap), leap[1:])
        turn = ["20261227-230000", "20261231-230000", "20270101-120000", "20270103-230000", "20270104-000000"]
        self.assertEqual(kept("2w", turn), turn[3:])
        self.assertEqual(kept("3w", turn), [turn[0], *turn[3:]])

    def test_random_histories(self) -> None:
        """Histories with gaps and crowds against counting by hand."""
        dice = random.Random(20261123)
        for _ in range(150):
            names = self._history(dice)
            text = self._policy(dice)
            verdict = decide(parse(text), NAMING, names, {}, LAST)
            self.assertEqual({each.name for each in verdict.kept}, kept_by(text, names), (text, names))
            self.assertEqual([each.name for each in verdict.kept], sorted(each.name for each in verdict.kept))
            self.assertEqual(list(verdict.dropped), sorted(set(names) - kept_by(text, names)))
            self.assertTrue(all(each.because for each in verdict.kept))

    @staticmethod
    def _history(dice: random.Random) -> list[str]:
        moment, names = datetime(2026, 1, 1), []
        for _ in range(dice.randrange(1, 30)):
            moment += timedelta(seconds=dice.choice((1, 60, 3600, 40_000, 86_400, 604_800, 5_000_000, 40_000_000)))
            names.append(NAMING.name(moment))
        dice.shuffle(names)
        return names

    @staticmethod
    def _policy(dice: random.Random) -> str:
        words = [f"{dice.randrange(1, 6)}{unit}" for unit in ("", "h", "d", "w", "m", "y") if dice.random() < 0.5]
        return " ".join(words) or "1"


if __name__ == "__main__":
    unittest.main()
