"""A `btrfs` program that lies, hangs, screams or dies: a clear error and the right status, and nothing is lost."""

import time
from collections.abc import Iterable

from tests.real.inside import InsideTest
from tests.real.machine import Result, lying_btrfs, names, on_record, path_with, show

# Ten megabytes, from which the end counts.
SCREAM = "head -c 10000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 'ERROR: that is enough' >&2"
# What a program that is asked something may answer; each goes behind a pattern of its arguments.
ANSWERS = {
    "another language": '"$REAL" "$@" | sed "s/ID /Kennung /; s/uuid/eindeutig/; s/UUID/Eindeutig/"; exit',
    "other columns": '"$REAL" "$@" | awk \'{ $1 = ""; print }\'; exit',
    "cut off": '"$REAL" "$@" | head -c 70; exit 0',
    "nothing": "exit 0",
    "no text": "head -c 5000 /dev/urandom; exit 0",
    "screams": f"{SCREAM}; exit 1",
    "hangs": "sleep 0.5; exit 1",
    "killed": "kill -9 $$",
    "not installed": "exit 127",
}


class Lying(InsideTest):
    """Each lie is told to a run that has something to send and something to delete."""

    def setUp(self) -> None:
        super().setUp()
        self.original, self.usb = self.source(), self.disk("usb").path
        self.snapshots = self.original / "snapshot"
        for _ in range(2):
            self.honest_run()

    def honest_run(self) -> None:
        """All is well afterwards, whatever was before."""
        self.backup("-q", "-N", "3", "-n", "3", self.original, self.usb)
        self.assertEqual(on_record(self.snapshots), {})
        self.assertLessEqual(set(names(self.snapshots)), set(names(self.usb)))
        for name in names(self.usb):
            shown = show(self.usb / name)
            self.assertEqual((shown["Flags"], shown["Received UUID"] == "-"), ("readonly", False))
        for name in names(self.snapshots):
            self.assert_same(self.usb / name, self.snapshots / name)

    def lie(self, lies: str, status: int, *says: str, options: Iterable[str] = ("-N", "1", "-n", "1")) -> Result:
        """Run with LIES; its exit status is STATUS, each of SAYS is in its messages, and nothing is lost."""
        good = names(self.usb)[-1]
        before = show(self.usb / good)["UUID"]
        (self.original / "file").write_text(str(time.monotonic()))
        lying = lying_btrfs(self.folder / "lies", lies)
        started = time.monotonic()
        result = self.backup(*options, self.original, self.usb, status=status, env=path_with(lying))
        self.assertLess(time.monotonic() - started, 20)
        for words in says:
            self.assertIn(words, result.err)
        # With every command line in it, when that is asked for.
        self.assertLess(len(result.err), 12000 if "debug" in options else 6000)
        self.assert_nothing_lost(good, before, result)
        return result

    def assert_nothing_lost(self, good: str, uuid: str, result: Result) -> None:
        """GOOD was the newest backup: it is still there, or was superseded by a good one. What is owed is on record."""
        newest = names(self.snapshots)[-1]
        arrived = newest in names(self.usb) and show(self.usb / newest)["Flags"] == "readonly"
        if result.status == 0:
            self.assertTrue(arrived)
        if arrived:
            self.assertEqual(show(self.usb / newest)["Received UUID"], show(self.snapshots / newest)["UUID"])
            self.assert_same(self.usb / newest, self.snapshots / newest)
        else:
            self.assertEqual(show(self.usb / good)["UUID"], uuid)
            self.assertIn(good, names(self.snapshots))
        if newest != good and not arrived:
            self.assertIn("FAILED", result.err)


class Looking(Lying):
    def test_lists(self) -> None:
        for how, answer in ANSWERS.items():
            with self.subTest(how):
                result = self.lie(f'"subvolume list"*) {answer} ;;', 10, f"{self.original}: FAILED, took 2")
                self.assertRegex(result.err, "subvolume list|does not show it once")
                self.assertNotIn("deleted", result.err)
        self.honest_run()

    def test_lists_of_the_destination(self) -> None:
        for how, answer in list(ANSWERS.items())[::2]:
            with self.subTest(how):
                result = self.lie(f'"subvolume list"*{self.usb}) {answer} ;;', 10, f"{self.usb}: FAILED, sent nothing")
                self.assertRegex(result.err, "subvolume list|does not show it once")
                self.assertNotIn(f"{self.usb}: deleted", result.err)
        self.honest_run()

    def test_what_is_read_only(self) -> None:
        """That list alone says so; when it is empty, nothing is believed, and nothing taken for a transfer."""
        before = names(self.usb)
        result = self.lie(f'"subvolume list"*-r*{self.usb}*) exit 0 ;;', 10, "has arrived, but")
        self.assertNotIn("cut off", result.err)
        self.assertLessEqual(set(names(self.usb)[:-1]), set(before))
        self.honest_run()

    def test_rows_that_are_missing_or_double(self) -> None:
        for lie in ("head -n -1", "tail -n +2", "sed p"):
            with self.subTest(lie):
                self.lie(f'"subvolume list"*{self.usb}) "$REAL" "$@" | {lie}; exit 0 ;;', 10, "does not show it once")
        self.honest_run()

    def test_shows(self) -> None:
        """Of the subvolume before, and of the backup after a transfer."""
        for how, answer in ANSWERS.items():
            for what in (f'"{self.original}"', f'"{self.usb}/2"*'):
                with self.subTest(how, what=what):
                    result = self.lie(f'"subvolume show "{what}) {answer} ;;', 10, "FAILED")
                    self.assertIn("subvolume show", result.err)
        self.honest_run()

    def test_filesystems(self) -> None:
        """The kernel is asked instead."""
        for how, answer in ANSWERS.items():
            with self.subTest(how):
                self.lie(f'"filesystem show"*) {answer} ;;', 0)
        self.honest_run()

    def test_versions(self) -> None:
        """Where it matters it counts as old."""
        for how, answer in list(ANSWERS.items())[3:]:
            with self.subTest(how):
                result = self.lie(f'"--version"*) {answer} ;;', 0, options=["-v", "debug"])
                self.assertNotIn("--compressed-data", result.err)
        self.honest_run()


class Doing(Lying):
    def test_snapshots(self) -> None:
        table = {
            "exit 0": "cannot be used as one: it is not there",
            '"$REAL" subvolume snapshot "$4" "$5"; exit': "is writable",
            'mkdir "$last"; exit 0': "is not a subvolume",
            f"{SCREAM}; exit 1": "that is enough",
            "sleep 0.5; exit 1": "exit status 1 and no message",
            "kill -9 $$": "ended by signal 9",
            "exit 127": "exit status 127",
        }
        for lie, says in table.items():
            with self.subTest(lie):
                self.lie(f'"subvolume snapshot"*) {lie} ;;', 10, says, f"{self.original}: FAILED, took no snapshot")
                for name in names(self.snapshots):
                    if not (self.usb / name).exists():
                        (self.snapshots / name).rename(self.snapshots / f".{name}")
            self.honest_run()

    def test_deletions(self) -> None:
        table = {
            "exit 0": "still there",
            "echo \"Delete subvolume (no-commit): '$last'\"; exit 0": "still there",
            f"{SCREAM}; exit 1": "that is enough",
            "kill -9 $$": "ended by signal 9",
            "sleep 0.5; exit 127": "exit status 127",
        }
        for lie, says in table.items():
            with self.subTest(lie):
                held = names(self.usb)
                result = self.lie(f'"subvolume delete"*) {lie} ;;', 10, says, "deletion failed")
                self.assertNotRegex(result.err, r"deleted (2|\d+ (backup|snapshot))")
                self.assertEqual(names(self.usb)[:-1], held)
            self.honest_run()
        # It did what it was told and says that it did not.
        held = names(self.usb)
        result = self.lie('"subvolume delete"*) "$REAL" "$@"; exit 1 ;;', 0, f"deleted {len(held)} backups")
        self.honest_run()

    def test_sends(self) -> None:
        table = {
            "exit 0": "btrfs receive",
            "head -c 100000 /dev/urandom; exit 0": "btrfs receive",
            '"$REAL" "$@" | head -c 1200; exit 0': "btrfs receive",
            f"{SCREAM}; exit 1": "that is enough",
            '"$REAL" "$@" | head -c 1200; sleep 0.5; exit 1': "btrfs send: it ended with exit status 1",
            "kill -9 $$": "btrfs send: it was ended by signal 9",
            "exit 127": "btrfs send: it ended with exit status 127",
        }
        for lie, says in table.items():
            with self.subTest(lie):
                self.lie(f"send*) {lie} ;;", 10, says, f"{self.usb}: FAILED, sent nothing, 1 outstanding")
            self.honest_run()

    def test_receives(self) -> None:
        table = {
            "cat >/dev/null; exit 0": "is not there|subvolume show",
            "exit 0": "before it had read the whole stream",
            "cat >/dev/null; mkdir $last/$(date +%Y)0101-000000; exit 0": "which was not expected",
            'head -c 500 | "$REAL" "$@"; exit 0': "before it had read the whole stream",
            '"$REAL" "$@"; exit 1': "btrfs receive",
            '"$REAL" "$@"; kill -9 $$': "ended by signal 9",
            f"cat >/dev/null; {SCREAM}; exit 1": "that is enough",
            "sleep 0.5; exit 1": "exit status 1",
            "exit 127": "exit status 127",
        }
        for lie, says in table.items():
            with self.subTest(lie):
                result = self.lie(f"receive*) {lie} ;;", 10, f"{self.usb}: FAILED, sent nothing, 1 outstanding")
                self.assertRegex(result.err, says)
                for folder in self.usb.glob("*0101-000000"):
                    folder.rmdir()
            self.honest_run()

    def test_noise_is_no_failure(self) -> None:
        self.lie(f'receive*|send*|"subvolume snapshot"*|"subvolume delete"*) {SCREAM} ;;', 0, "deleted")
        self.honest_run()

    def test_everything_fails(self) -> None:
        """Then nothing at all could be done."""
        for answer in ("exit 1", "exit 127", "kill -9 $$", f"{SCREAM}; exit 1"):
            with self.subTest(answer):
                self.lie(f"*) {answer} ;;", 1, "error: ")
        self.honest_run()

    def test_everything_succeeds_without_doing_anything(self) -> None:
        result = self.lie("*) exit 0 ;;", 10)
        self.assertNotIn("sent 1", result.err)
        self.honest_run()
