"""The command line: argv -> Settings."""

import argparse
import contextlib
import io
import os
import re
import shlex
import tempfile
import textwrap
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from btrfs_backup import __version__
from btrfs_backup.cli import argfiles, checks, completion, helptext, manpage, manual
from btrfs_backup.cli import parser as cli
from btrfs_backup.errors import UsageError
from btrfs_backup.model.retention import KEEP_ALL, Policy
from btrfs_backup.model.snapshot import Naming

MANY = Policy(3, (("h", 24), ("d", 7), ("w", 4), ("m", 12), ("y", 5)))

# What is asked for when only SOURCE is given.
DEFAULTS: dict[str, Any] = {
    "snapshot_folder": "snapshot",
    "naming": Naming(""),
    "keep_snapshots": KEEP_ALL,
    "keep_backups": KEEP_ALL,
    "take_snapshot": True,
    "transfer": True,
    "incremental": True,
    "sync": False,
    "convert_rw": False,
    "remove_locks": False,
    "locked_dests": False,
    "skip_absent": False,
    "lock_wait": 0.0,
    "fs_checks": True,
    "verbosity": "info",
    "progress": True,
    "btrfs_debug": False,
    "ssh_options": (),
    "ssh_sudo": False,
    "shared_stream": True,
    "compressed_data": True,
    "compress": "no",
    "rate_limit": 0,
    "verify": "",
    "dry_run": False,
    "status": False,
    "max_age": None,
    "json": False,
    "restore": False,
    "diff": False,
    "find": "",
    "copy": False,
}

# Spellings of each option, and what differs from the defaults.
OPTIONS: tuple[tuple[tuple[tuple[str, ...], ...], dict[str, Any]], ...] = (
    ((("-v", "debug"), ("-vdebug",), ("--verbosity", "debug"), ("--verbosity=debug",)), {"verbosity": "debug"}),
    ((("-v", "info"),), {}),
    ((("-v", "warning"),), {"verbosity": "warning"}),
    ((("-v", "error"),), {"verbosity": "error"}),
    ((("-q",), ("--quiet",)), {"verbosity": "warning", "progress": False}),
    ((("-q", "-v", "info"), ("-v", "debug", "-q")), {"verbosity": "warning", "progress": False}),
    ((("-q", "-v", "error"), ("-verror", "-q")), {"verbosity": "error", "progress": False}),
    ((("-d",), ("--btrfs-debug",)), {"btrfs_debug": True}),
    ((("-P",), ("--no-progress",)), {"progress": False}),
    (
        (("-N", "3"), ("-N3",), ("-N", "3,"), ("--num-snapshots", "3"), ("--num-snapshots=3",)),
        {"keep_snapshots": Policy(3)},
    ),
    ((("-n", "3"), ("-n3",), ("--num-backups", "3"), ("--num-backups=3",)), {"keep_backups": Policy(3)}),
    ((("-N", "3 24h 7d 4w 12m 5y"), ("--num-snapshots=3,24h,7d,4w,12m,5y",)), {"keep_snapshots": MANY}),
    ((("-n", "3 24h 7d 4w 12m 5y"), ("-n3,24h,7d,4w,12m,5y",)), {"keep_backups": MANY}),
    ((("-N", "0"), ("-N", "all"), ("-n", "0"), ("-nall",)), {}),
    ((("-N", "1", "-n", "2"),), {"keep_snapshots": Policy(1), "keep_backups": Policy(2)}),
    ((("-S",), ("--no-snapshot",)), {"take_snapshot": False}),
    ((("-f", "snaps"), ("-fsnaps",), ("--snapshot-folder", "snaps")), {"snapshot_folder": "snaps"}),
    ((("-f", "/elsewhere"), ("--snapshot-folder=/elsewhere",)), {"snapshot_folder": "/elsewhere"}),
    ((("-p", "home-"), ("-phome-",), ("--snapshot-prefix", "home-")), {"naming": Naming("home-")}),
    ((("-p", ""), ("--snapshot-prefix=",)), {}),
    ((("-p=-x",), ("--snapshot-prefix=-x",)), {"naming": Naming("-x")}),
    ((("-p", "a b%d'ä\udcff"),), {"naming": Naming("a b%d'ä\udcff")}),
    ((("--snapshot-prefix=@x",),), {"naming": Naming("@x")}),
    ((("-T",), ("--no-transfer",)), {"transfer": False}),
    ((("-I",), ("--no-incremental",)), {"incremental": False}),
    ((("-s",), ("--sync",)), {"sync": True}),
    ((("-w",), ("--convert-rw",)), {"convert_rw": True}),
    ((("--remove-locks", "--locked-dests"),), {"remove_locks": True, "locked_dests": True}),
    ((("--locked-dests",),), {"locked_dests": True}),
    ((("--skip-absent-dests",), ("--skip-absent",)), {"skip_absent": True}),
    ((("--lock-wait", "90"), ("--lock-wait=90",), ("--lock-w", "90.0")), {"lock_wait": 90.0}),
    ((("--lock-wait", "0.5"),), {"lock_wait": 0.5}),
    ((("--skip-fs-checks",),), {"fs_checks": False}),
    ((("--ssh-opt", "A=1", "--ssh-opt=B=2 3"),), {"ssh_options": ("A=1", "B=2 3")}),
    ((("--ssh-sudo",),), {"ssh_sudo": True}),
    ((("--no-shared-stream",),), {"shared_stream": False}),
    ((("--no-compressed-data",),), {"compressed_data": False}),
    ((("--compress", "zstd"), ("--compress=zstd",)), {"compress": "zstd"}),
    ((("--compress", "no"),), {}),
    ((("--rate-limit", "1500"),), {"rate_limit": 1500}),
    ((("--rate-limit", "2k"), ("--rate-limit=2K",)), {"rate_limit": 2_000}),
    (
        (("--rate-limit", "20M"), ("--rate-limit", "20MB"), ("--rate-limit=20MB/s",), ("--rate-limit", "20 M/s")),
        {"rate_limit": 20_000_000},
    ),
    ((("--rate-limit", "20MiB"), ("--rate-limit=20mi/s",)), {"rate_limit": 20 * 1024**2}),
    ((("--rate-limit", "1g"),), {"rate_limit": 1_000_000_000}),
    ((("--latest-only",), ("-N5", "--latest-only")), {"keep_snapshots": Policy(1)}),
    ((("--latest-only", "-N5"),), {"keep_snapshots": Policy(5)}),
    (
        (("-STI",), ("-S", "-T", "-I"), ("-TSI",)),
        {"take_snapshot": False, "transfer": False, "incremental": False},
    ),
    ((("-swN2",), ("-sw", "-N", "2")), {"sync": True, "convert_rw": True, "keep_snapshots": Policy(2)}),
)

# As users of 0.3.1 may have abbreviated them.
ABBREVIATIONS: dict[tuple[str, ...], dict[str, Any]] = {
    ("--verbos", "error"): {"verbosity": "error"},
    ("--qui",): {"verbosity": "warning", "progress": False},
    ("--btrfs",): {"btrfs_debug": True},
    ("--no-prog",): {"progress": False},
    ("--num-snap", "3"): {"keep_snapshots": Policy(3)},
    ("--num-snap=3",): {"keep_snapshots": Policy(3)},
    ("--num-back", "3"): {"keep_backups": Policy(3)},
    ("--no-snap",): {"take_snapshot": False},
    ("--snapshot-fold", "snaps"): {"snapshot_folder": "snaps"},
    ("--snapshot-pre", "home-"): {"naming": Naming("home-")},
    ("--no-trans",): {"transfer": False},
    ("--no-incr",): {"incremental": False},
    ("--syn",): {"sync": True},
    ("--convert",): {"convert_rw": True},
    ("--remove", "--locked-dests"): {"remove_locks": True, "locked_dests": True},
    ("--locked",): {"locked_dests": True},
    ("--skip-fs",): {"fs_checks": False},
    ("--latest",): {"keep_snapshots": Policy(1)},
    ("--ssh-o", "A=1"): {"ssh_options": ("A=1",)},
    ("--ssh-s",): {"ssh_sudo": True},
}


def printed(*argv: str) -> str:
    """What the program prints before it ends well by itself."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.suppress(SystemExit):
        cli.parse(argv)
        raise AssertionError(f"{argv} is taken for a run")
    return stdout.getvalue()


class CommandLineTest(unittest.TestCase):
    def assert_settings(self, argv: Sequence[str], wanted: dict[str, Any]) -> None:
        """ARGV asks for /src, and of the options for what is WANTED and nothing else."""
        settings = cli.parse(argv)
        self.assertEqual({name: getattr(settings, name) for name in DEFAULTS}, DEFAULTS | wanted)
        self.assertEqual(settings.source.identity, "/src")

    def assert_refused(self, argv: Sequence[str], *words: str) -> UsageError:
        """ARGV is a usage error whose message holds the WORDS, and that says what to do; nothing is printed."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            self.assertRaises(UsageError) as caught,
        ):
            cli.parse(argv)
        for word in words:
            self.assertIn(word, caught.exception.message)
        self.assertTrue(caught.exception.hint)
        self.assertEqual((stdout.getvalue(), stderr.getvalue()), ("", ""))
        return caught.exception


class OptionsTest(CommandLineTest):
    def test_defaults(self) -> None:
        self.assert_settings(["/src"], {})
        self.assertEqual(cli.parse(["/src"]).destinations, ())

    def test_options(self) -> None:
        """Every option of 0.3.1, in each of its spellings, wherever it stands."""
        for spellings, wanted in OPTIONS:
            for spelling in spellings:
                for argv in ((*spelling, "/src"), ("/src", "/b", *spelling, "/c")):
                    with self.subTest(argv=argv):
                        self.assert_settings(argv, wanted)

    def test_abbreviations(self) -> None:
        for spelling, wanted in ABBREVIATIONS.items():
            with self.subTest(spelling=spelling):
                self.assert_settings((*spelling, "/src"), wanted)

    def test_last_one_counts(self) -> None:
        argv = ["-N1", "-N2", "-n", "3", "-n", "4", "-fa", "-fb", "-pa", "-pb", "-v", "debug", "-v", "error", "/src"]
        self.assert_settings(
            argv,
            {
                "keep_snapshots": Policy(2),
                "keep_backups": Policy(4),
                "snapshot_folder": "b",
                "naming": Naming("b"),
                "verbosity": "error",
            },
        )

    def test_unknown_option(self) -> None:
        for option in ("--nope", "-x", "--no-such-thing=3", "--numsnapshots"):
            with self.subTest(option=option):
                self.assert_refused([option, "/src"], option)
                self.assert_refused(["/src", "/b", option], option)

    def test_value_of_an_option_that_takes_none(self) -> None:
        for option, value in (("--verify=some", "some"), ("--dry-run=yes", "yes"), ("-S=a\nb", r"a\nb")):
            with self.subTest(option=option):
                self.assert_refused([option, "/src", "/b"], f"'{value}' cannot be given with it")

    def test_ambiguous_abbreviation(self) -> None:
        self.assert_refused(["--no", "/src"], "--no")
        self.assert_refused(["--num", "3", "/src"], "--num")

    def test_missing_value(self) -> None:
        for option in ("-N", "-n", "-f", "-p", "-v"):
            with self.subTest(option=option):
                self.assert_refused(["/src", option], option)

    def test_unwanted_value(self) -> None:
        self.assert_refused(["--sync=yes", "/src"], "--sync")

    def test_verbosity(self) -> None:
        for word in ("loud", "", "DEBUG", "critical"):
            with self.subTest(word=word):
                self.assert_refused(["-v", word, "/src"], "--verbosity")

    def test_policies(self) -> None:
        """A wrong KEEP names the option, what is wrong and examples."""
        table = {
            "": "nothing",
            "0d": "nothing",
            "0 0h": "nothing",
            "x": "'x'",
            "-1": "'-1'",
            "3 4": "'4'",
            "7d 7d": "'7d'",
            "3 7q": "'7q'",
            "all 3": "'all'",
            "1.5": "'1.5'",
        }
        for option, long in (("-N", "--num-snapshots"), ("-n", "--num-backups")):
            for text, word in table.items():
                with self.subTest(option=option, text=text):
                    self.assert_refused([f"{option}={text}" if text[:1] == "-" else option, text, "/src"], long, word)
                    self.assert_refused([f"{long}={text}", "/src"], long, word, "3 24h 7d 4w 12m 5y")

    def test_prefixes(self) -> None:
        """A prefix has to be able to begin a file name."""
        for prefix in ("/", "a/b", "home/", "../x", "a\nb", "\n", "\t", "a\0", "\x1b[0m", "\x7f"):
            with self.subTest(prefix=prefix):
                self.assert_refused([f"--snapshot-prefix={prefix}", "/src"], "--snapshot-prefix", repr(prefix))
        self.assertEqual(len(cli.parse(["-p", "ä" * 85, "/src"]).naming.prefix), 85)
        self.assert_refused(
            ["-p", "ä" * 86, "/src"], "--snapshot-prefix", "it has 172 bytes, and names have room for 170"
        )


class VerifyTest(CommandLineTest):
    def test_it_takes_no_place_for_a_value(self) -> None:
        """Wherever it stands, and in a file."""
        for option, wanted in (("--verify", "newest"), ("--verify=all", "all")):
            for argv in (
                (option, "/src", "/b", "/c"),
                ("/src", option, "/b", "/c"),
                ("/src", "/b", option, "-q", "/c"),
                ("/src", "/b", "/c", option),
                ("/src", option, "--", "/b", "/c"),
            ):
                with self.subTest(argv=argv):
                    settings = cli.parse(argv)
                    self.assertEqual(settings.verify, wanted)
                    self.assertEqual(PlacesTest.places(*argv), ["/src", "/b", "/c"])
        argv = argfiles.expand(["@/x"], {"/x": "--verify\n/src\n/b\n"}.__getitem__, "/")
        self.assertEqual((cli.parse(argv).verify, PlacesTest.places(*argv)), ("newest", ["/src", "/b"]))

    def test_last_one_counts(self) -> None:
        self.assertEqual(cli.parse(["--verify", "--verify=all", "/src", "/b"]).verify, "all")
        self.assertEqual(cli.parse(["--verify=all", "--verify", "/src", "/b"]).verify, "newest")

    def test_refused(self) -> None:
        table: list[tuple[tuple[str, ...], str]] = [
            (("--verify", "/src"), "DEST"),
            (("--verify", "--locked-dests", "/src"), "DEST"),
            (("--verify=all", "/src", "shell://cat", "shell://dd"), "shell command"),
            (("--verify", "--remove-locks", "/src", "/b"), "--remove-locks"),
            (("--verify=newest", "/src", "/b"), "newest"),
            (("--verify=", "/src", "/b"), "--verify"),
            (("--verif", "/src", "/b"), "--verif"),
        ]
        for argv, word in table:
            with self.subTest(argv=argv):
                self.assert_refused(argv, word)

    def test_options_of_a_backup_job_do_no_harm(self) -> None:
        argv = ("--verify", "-q", "-N3", "-n", "7d 4w", "-S", "-T", "-I", "-s", "-w", "/src", "/b", "shell://cat")
        self.assertEqual(cli.parse(argv).verify, "newest")


class PlacesTest(CommandLineTest):
    @staticmethod
    def places(*argv: str) -> list[str]:
        settings = cli.parse(argv)
        return [settings.source.identity, *(each.identity for each in settings.destinations)]

    def test_source_comes_first(self) -> None:
        self.assertEqual(self.places("/src"), ["/src"])
        self.assertEqual(self.places("/src", "/c", "/b", "/a"), ["/src", "/c", "/b", "/a"])

    def test_options_between(self) -> None:
        table: list[tuple[str, ...]] = [
            ("-S", "-N", "3", "/src", "/b", "/c"),
            ("/src", "-S", "-N", "3", "/b", "/c"),
            ("/src", "/b", "-N", "3", "/c", "-S"),
            ("/src", "-N3", "/b", "-S", "/c"),
            ("-S", "/src", "-N", "3", "/b", "-q", "/c"),
            ("/src", "/b", "/c", "-SN3"),
        ]
        for argv in table:
            with self.subTest(argv=argv):
                self.assertEqual(self.places(*argv), ["/src", "/b", "/c"])
                settings = cli.parse(argv)
                self.assertEqual((settings.take_snapshot, settings.keep_snapshots), (False, Policy(3)))

    def test_double_dash(self) -> None:
        """What follows it is a place, even when it begins with a dash; what precedes it is not disturbed."""
        here = os.getcwd().rstrip("/")
        table: list[tuple[tuple[str, ...], list[str]]] = [
            (("--", "/src"), ["/src"]),
            (("--", "/src", "/b"), ["/src", "/b"]),
            (("/src", "--", "/b"), ["/src", "/b"]),
            (("/src", "/b", "--"), ["/src", "/b"]),
            (("/src", "--", "-S", "--sync", "-"), ["/src", f"{here}/-S", f"{here}/--sync", f"{here}/-"]),
            (("--", "-src", "b"), [f"{here}/-src", f"{here}/b"]),
            (("/src", "--", "/b", "--", "/c"), ["/src", "/b", f"{here}/--", "/c"]),
            (("-N", "3", "/src", "--", "/b"), ["/src", "/b"]),
        ]
        for argv, wanted in table:
            with self.subTest(argv=argv):
                self.assertEqual(self.places(*argv), wanted)
                settings = cli.parse(argv)
                self.assertEqual((settings.take_snapshot, settings.sync), (True, False))
                self.assertEqual(settings.keep_snapshots, Policy(3) if "-N" in argv else KEEP_ALL)

    def test_relative_to_the_working_directory(self) -> None:
        cwd = os.getcwd().rstrip("/")
        self.assertEqual(self.places("src", "./usb/", "a b"), [f"{cwd}/src", f"{cwd}/usb", f"{cwd}/a b"])

    def test_no_source(self) -> None:
        for argv in ((), ("-q",), ("-N", "3"), ("--locked-dests",)):
            with self.subTest(argv=argv):
                self.assert_refused(argv, "SOURCE")

    def test_empty_places(self) -> None:
        for argv in (("",), ("/src", ""), ("/src", "/b", "")):
            with self.subTest(argv=argv):
                self.assert_refused(argv)

    def test_wrong_places(self) -> None:
        """Every place is looked at, whichever it is."""
        for spelling in ("ftp://nas/x", "ssh://", "ssh://nas", "ssh://nas:port/x", "shell://"):
            for argv in ((spelling,), ("/src", spelling), ("/src", "/b", spelling)):
                with self.subTest(argv=argv):
                    self.assert_refused(argv, spelling)

    def test_words_of_a_value_without_quotes(self) -> None:
        """Not all of them became the value; the others would be places."""
        keep = "is taken for a SOURCE or DEST, and looks like a part of KEEP"
        table: dict[tuple[str, ...], str] = {
            ("-n", "7d", "4w", "/src", "/b"): "'4w'",
            ("-N", "3", "24h", "7d", "/src"): "'24h'",
            ("/src", "/b", "-n", "3,", "24h,", "7d"): "'24h,'",
            ("-n", "3", "12m"): "'12m'",
        }
        for argv, word in table.items():
            with self.subTest(argv=argv):
                self.assertIn('-n "7d 4w"', self.assert_refused(argv, f"{word} {keep}").hint)
        for argv in (("--verify", "all", "/src", "/b"), ("/src", "/b", "--verify", "all")):
            with self.subTest(argv=argv):
                refused = self.assert_refused(argv, "'all' is taken for a SOURCE or DEST, and stands behind '--verify'")
                self.assertIn("'--verify=all'", refused.hint)

    def test_places_that_look_like_words_of_a_value(self) -> None:
        cwd = os.getcwd().rstrip("/")
        for argv in (("4w", "all"), ("-n", "7d", "./4w", "all"), ("-N", "5", "1", "/4w"), ("--verify", "4w", "./all")):
            with self.subTest(argv=argv):
                words = [word for word in argv if not word.startswith("-") and word not in ("7d", "5")]
                self.assertEqual(self.places(*argv), [os.path.normpath(os.path.join(cwd, word)) for word in words])

    def test_other_kinds_of_places(self) -> None:
        wanted = ["ssh://a/src", "ssh://me@b:22/b", "shell://cat > x", "/c"]
        self.assertEqual(self.places("ssh://a//src/", "ssh://me@b:22/b/", "shell://cat > x", "/c"), wanted)
        self.assert_refused(("shell://cat", "/b"), "SOURCE cannot be a shell command")

    def test_words_of_other_programs(self) -> None:
        """Only SOURCE is where they would stand, and only what is not there is no SOURCE."""
        cwd = os.getcwd().rstrip("/")
        self.assertEqual(self.places("/src", "status", "backup"), ["/src", f"{cwd}/status", f"{cwd}/backup"])
        self.addCleanup(os.chdir, os.getcwd())
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.mkdir("restore")
            self.assertEqual(self.places("restore", "/b"), [f"{os.getcwd()}/restore", "/b"])

    def test_current_folder_that_is_gone(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.rmdir(folder)
            self.assertEqual(self.places("/src", "ssh://nas/b", "/b"), ["/src", "ssh://nas/b", "/b"])
            self.assert_refused(["/src", "b"], "'b' is relative to the current folder, which is gone")
            self.assert_refused(["@x"], "cannot read the argument file x: ")
            os.mkdir(folder)

    def test_command_that_overwrites_its_file(self) -> None:
        argv = ["/src", "/b", "shell://cat > /box/home", "shell://cat > /box/$BTRFS_BACKUP_SNAPSHOT"]
        [warning] = checks.warnings(cli.parse(argv))
        self.assertIn("shell://cat > /box/home: each stream overwrites the one before", warning)
        for option in ("--status", "--verify", "-T", "-I"):
            self.assertEqual(checks.warnings(cli.parse([option, *argv])), [])

    def test_one_destination_spelled_several_times(self) -> None:
        """It is one destination; the order is that of the first mention."""
        self.assertEqual(self.places("/src", "/c", "/b/", "/b", "//b", "/x/../b", "/c/.", "/b//"), ["/src", "/c", "/b"])

    def test_folders_within_one_another_are_different(self) -> None:
        self.assertEqual(self.places("/src", "/b", "/b/c", "/b2"), ["/src", "/b", "/b/c", "/b2"])

    def test_destination_is_the_snapshot_folder(self) -> None:
        """However either is spelled."""
        table: list[tuple[str, ...]] = [
            ("/src", "/src/snapshot"),
            ("/src/", "/src//snapshot/"),
            ("/src", "/b", "/src/../src/snapshot"),
            ("-f", "snaps", "/src", "/src/snaps"),
            ("/src", "/src/snaps", "-f", "./snaps/"),
            ("-f", "../snaps", "/src", "/snaps"),
            ("-f", "/snaps", "/src", "/snaps/"),
            ("-f", ".", "/src", "/src"),
            ("ssh://nas/src", "ssh://nas/src/snapshot/"),
        ]
        for argv in table:
            with self.subTest(argv=argv):
                self.assert_refused(argv, "snapshot folder")

    def test_folder_of_snapshots(self) -> None:
        table = {
            "snapshot": "/src/snapshot",
            "./snapshot/": "/src/snapshot",
            ".hidden/deep": "/src/.hidden/deep",
            "../snaps": "/snaps",
            "/snaps": "/snaps",
            "/snaps//x/..": "/snaps",
        }
        for spelling, wanted in table.items():
            with self.subTest(spelling=spelling):
                self.assertEqual(cli.parse(["-f", spelling, "/src", "/b"]).folder_path, wanted)

    def test_snapshot_folder_of_another_source_is_a_folder_like_others(self) -> None:
        self.assertEqual(self.places("-f", "snaps", "/src", "/src/snapshot"), ["/src", "/src/snapshot"])


class RestoreTest(CommandLineTest):
    def test_asked_for(self) -> None:
        for argv in (("--restore", "/b", "/home"), ("/b", "/home", "--restore"), ("/b", "--rest", "/home/")):
            with self.subTest(argv=argv):
                settings = cli.parse(argv)
                self.assertTrue(settings.restore)
                self.assertEqual((settings.source.identity, settings.destinations[0].identity), ("/b", "/home"))
        self.assertTrue(cli.parse(("--restore", "-Iqp", "x", "-f", "..", "ssh://nas/b", "ssh://pc/home")).restore)

    def test_folder_of_snapshots_as_source(self) -> None:
        self.assertTrue(cli.parse(("--restore", "/home.old/snapshot", "/home")).restore)

    def test_one_file(self) -> None:
        """It may have any name, also at the new place."""
        for source in ("/b/20260101-000000/x", "ssh://nas/b/home-20260101-000000/etc/my file"):
            self.assertTrue(cli.parse(("--restore", source, "/x/20260101-000000")).restores_inside)
        for source in ("/b", "/b/20260101-000000", "/b/20260101-000000/"):
            self.assertFalse(cli.parse(("--restore", source, "/x")).restores_inside)

    def test_refusals(self) -> None:
        table: dict[tuple[str, ...], str] = {
            ("/b",): "none is given",
            ("/b", "/home", "/home2"): "several are given",
            ("/b", "shell://cat"): "DEST cannot be a shell command",
            ("shell://cat", "/home"): "SOURCE cannot be",
            ("/b", "/"): "the root folder",
            ("/b", "ssh://nas/"): "the root folder",
            ("/b", "/home/x-20260101-120000"): "is one of a snapshot",
            ("-N", "3", "/b", "/home"): "'-N'",
            ("-n3", "/b", "/home"): "'-n'",
            ("-S", "-T", "/b", "/home"): "'-S', '-T'",
            ("--locked-dests", "/b", "/home"): "'--locked-dests'",
            ("--remove-locks", "/b", "/home"): "'--remove-locks'",
            ("--skip-absent-dests", "/b", "/home"): "'--skip-absent-dests'",
        }
        for argv, words in table.items():
            with self.subTest(argv=argv):
                self.assert_refused(("--restore", *argv), words)


class ArgumentFilesTest(CommandLineTest):
    TEXT = """\
        # the nightly run
        /src
        -N 3 24h
        --num-backups=7d 4w
        -p -x y
        -q

        /mnt/my disk
        """

    def test_whole_file(self) -> None:
        """What a file says, the options take: blanks, dashes and all."""
        argv = argfiles.expand(["@/etc/args", "/b"], {"/etc/args": self.TEXT}.__getitem__, "/")
        settings = cli.parse(argv)
        self.assert_settings(
            argv,
            {
                "keep_snapshots": Policy(3, (("h", 24),)),
                "keep_backups": Policy(0, (("d", 7), ("w", 4))),
                "naming": Naming("-x y"),
                "verbosity": "warning",
                "progress": False,
            },
        )
        self.assertEqual([each.identity for each in settings.destinations], ["/mnt/my disk", "/b"])

    def refused(self, text: str, *words: str) -> UsageError:
        """A file of this TEXT is a usage error, whose message names the file and has WORDS."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(text.encode())
            file.flush()
            error = self.assert_refused([f"@{file.name}"])
            message = error.message.replace(file.name, "FILE")
        for word in words:
            self.assertIn(word, message)
        return UsageError(message, error.hint)

    def test_byte_order_mark(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"\xef\xbb\xbf/src\r\n-q\r\n")
            file.flush()
            self.assert_settings([f"@{file.name}"], {"verbosity": "warning", "progress": False})

    def test_odd_lines(self) -> None:
        """What people write in files of other kinds; the file and the line are named."""
        quote, several = "begins with a quote, which would be a part of it", "seems to hold several things"
        shell, setting = "needs a shell, which replaces '~' and '$'", "looks like a setting"
        table = {
            "-n '7d 4w'": f"''7d 4w'' is taken for the value of '-n', and {quote}",
            '-f "snaps"': f"""'"snaps"' is taken for the value of '-f', and {quote}""",
            '"/mnt/my disk"': f"""'"/mnt/my disk"' is taken for a SOURCE or DEST, and {quote}""",
            "/mnt/usb # the first one": "'/mnt/usb # the first one' is taken for a SOURCE or DEST, and seems to hold a "
            "comment",
            "-p home- # x": "'home- # x' is taken for the value of '-p', and seems to hold a comment",
            "--snapshot-folder=x # y": "'x # y' is taken for the value of '--snapshot-folder', and seems to hold",
            "-q # x": "'# x' is taken for the value of '-q', and seems to hold a comment",
            "ssh://nas/b # x": "seems to hold a comment",
            "/mnt/a /mnt/b": f"'/mnt/a /mnt/b' is taken for a SOURCE or DEST, and {several}",
            "/mnt/a -q": several,
            "/mnt/a ssh://nas/b": several,
            "-f snaps -q": f"'snaps -q' is taken for the value of '-f', and {several}",
            "-S -T": "argument -S/--no-snapshot: '-T' cannot be given with it",
            "~/backup": "begins with '~', which only a shell replaces",
            "-f ~/snaps": shell,
            "$HOME/backup": shell,
            "/mnt/${USER}": shell,
            "num-backups=3": "'num-backups=3' is taken for a SOURCE or DEST, and looks like an option",
            "num_backups 3": "looks like an option",
            "quiet": "looks like an option",
            "dest = /mnt/usb": setting,
            "dest=/mnt/usb": setting,
            "snapshot-folder=/mnt/usb": "looks like an option",
            "source: /home": setting,
            "[home]": setting,
            "; words": setting,
            "run": "looks like a command",
            "--num-back 3": "unrecognized arguments: --num-back",
            "--qui": "unrecognized arguments: --qui",
            "--dryrun": "unrecognized arguments: --dryrun",
            "-n x": "argument -n/--num-backups: 'x' is not a KEEP policy",
            "-n": "argument -n/--num-backups: expected one argument",
            "--sync=yes": "argument -s/--sync: 'yes' cannot be given with it",
            "nas:/b": "'nas:/b' looks like a path on another machine",
            "ssh://nas:/b": "'ssh://nas:/b' has ':' without a port",
            "/src/snapshot/": "the destination '/src/snapshot' is the snapshot folder of the source",
            "/mnt/a\0": "it holds a NUL character",
        }
        for line, words in table.items():
            with self.subTest(line=line):
                self.assertTrue(self.refused(f"/src\n\n  {line}\n", words).message.startswith("FILE, line 3: "))

    def test_odd_source(self) -> None:
        self.refused("shell://cat", "FILE, line 1: SOURCE cannot be a shell command")
        self.refused("status", "FILE, line 1: 'status' is taken for a SOURCE or DEST, and looks like an option")

    def test_lines_that_do_not_go_together(self) -> None:
        self.refused(
            "--status\n\n--verify=all\n/src", "FILE, line 1 and FILE, line 3: '--status' and '--verify' cannot"
        )
        self.refused("--restore\n-N3\n/b\n/src", "FILE, line 1 and FILE, line 2: '-N' cannot be used with '--restore'")

    def test_line_of_an_included_file(self) -> None:
        texts = {"/a": "-q\n@b", "/b": "# x\n--nope\n"}
        self.assert_refused(
            argfiles.expand(["@/a"], texts.__getitem__, "/"), "/a -> /b, line 2: unrecognized arguments"
        )

    def test_odd_names_that_are_there(self) -> None:
        """A location that exists is meant."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("usb # 1", "a -b", "it's", "[x]", "$HOME"):
                path = Path(folder, name)
                path.mkdir()
                argv = argfiles.expand(["@/x"], {"/x": f"/src\n{path}"}.__getitem__, "/")
                with self.subTest(name):
                    self.assertEqual(PlacesTest.places(*argv), ["/src", str(path)])

    def test_odd_values_that_are_meant(self) -> None:
        text = "--ssh-opt ProxyCommand=ssh -W %h:%p '#' bastion\n/a b#c=d\nshell://echo \"$HOME\" # x > /dev/null"
        argv = argfiles.expand(["@/x"], {"/x": text}.__getitem__, "/")
        self.assertEqual(cli.parse(argv).ssh_options, ("ProxyCommand=ssh -W %h:%p '#' bastion",))

    def test_options_together(self) -> None:
        argv = argfiles.expand(["@/x"], {"/x": "-SqN3\n/src"}.__getitem__, "/")
        self.assertEqual(cli.parse(argv).keep_snapshots, Policy(3))
        # On the command line it may be abbreviated beside a file.
        self.assertFalse(cli.parse([*argv, "--no-prog"]).progress)

    def test_home_of_a_file(self) -> None:
        self.assertIn("No shell replaces '~' behind '@'", self.assert_refused(["@~/x", "/src"], "/~/x: No such").hint)

    def test_unreadable_file(self) -> None:
        self.assert_refused(["@/nowhere/no such file", "/src"], "/nowhere/no such file")


class HelpTest(unittest.TestCase):
    KEPT = (
        "-h --help --version -v --verbosity -q --quiet -d --btrfs-debug -P --no-progress -N --num-snapshots "
        "-n --num-backups -S --no-snapshot -f --snapshot-folder -p --snapshot-prefix -T --no-transfer "
        "-I --no-incremental -s --sync -w --convert-rw --remove-locks --locked-dests --skip-fs-checks --latest-only"
    )

    def test_help_mentions_every_option(self) -> None:
        text = printed("--help")
        for each in (*self.KEPT.split(), *cli.parser()._option_string_actions):
            with self.subTest(each=each):
                self.assertRegex(text, rf"(?<![\w-]){each}[ ,\n]")

    def test_short_help_fits_a_screen(self) -> None:
        """24 lines, the last of which is the prompt's, of 80 columns; what is in it is known."""
        lines = printed("-h").splitlines()
        self.assertLess(len(lines), 24)
        self.assertLessEqual(max(map(len, lines)), 80)
        options = [word for line in lines for word in re.findall(r"(?<=\s)--?[A-Za-z][\w-]*", line)]
        self.assertGreater(len(options), 10)
        self.assertLessEqual(set(options), {*cli.parser()._option_string_actions})
        self.assertIn("--help", lines[-1])
        for example in re.findall("^  btrfs-backup (.*)", printed("-h"), re.MULTILINE):
            self.assertTrue(cli.parse(shlex.split(example)))

    def test_help_is_as_wide_as_the_terminal(self) -> None:
        for columns, wanted in ((80, 80), (100, 100), (60, 60), (300, 120), (20, 40)):
            with self.subTest(columns=columns), mock.patch.dict(os.environ, COLUMNS=str(columns)):
                text = printed("--help")
                lines = [line for line in text.splitlines() if not line.startswith("  btrfs-backup ")]
                longest = max(len(line) for line in lines if " " in line.strip() and "://[" not in line)
                self.assertIn(longest, range(wanted - 8, wanted + 1) if wanted > 40 else range(30, 60))
        with mock.patch.dict(os.environ, COLUMNS="80"):
            self.assertLessEqual(max(map(len, printed("--help").splitlines())), 80)

    def test_help_is_in_two_columns(self) -> None:
        with mock.patch.dict(os.environ, COLUMNS="80"):
            text = printed("--help")
        self.assertIn("\n  -S, --no-snapshot             take no snapshot, transfer the existing ones\n", text)
        self.assertIn("\n  -p, --snapshot-prefix PREFIX  what their names begin with", text)

    def test_help_of_odd_options(self) -> None:
        """A value that may be left out, a long name, and words that fit no line."""
        parser = argparse.ArgumentParser(
            prog="x", usage="%(prog)s X", description="D", epilog="a\nb\n  c\n\nd", add_help=False
        )
        group = parser.add_argument_group("group")
        group.add_argument("--way", nargs="?", metavar="W", help="this way")
        group.add_argument("--a-very-long-name-of-an-option", action="store_true", help=f"x {'y' * 60}-z")
        wanted = f"""\
            usage: x X

            D

            group:
              --way[=W]       this way
              --a-very-long-name-of-an-option
                              x
                              {"y" * 60}-z

            a b
              c

            d
            """
        self.assertEqual(helptext.text(parser, 45), textwrap.dedent(wanted))

    def test_help_mentions_what_is_no_option(self) -> None:
        text = printed("--help")
        for word in (
            "SOURCE",
            "DEST",
            "KEEP",
            "@FILE",
            "exit status",
            "usage: btrfs-backup [options] SOURCE [DEST ...]",
        ):
            with self.subTest(word=word):
                self.assertIn(word, text)

    def test_help_says_which_way_the_exit_statuses_go(self) -> None:
        text = printed("--help")
        for status in ("0", "1", "2", "3", "10", "128+N"):
            with self.subTest(status=status):
                self.assertRegex(text, rf"(?<![\w+]){status.replace('+', '[+]')} ")

    def test_every_option_is_explained(self) -> None:
        for action in cli.parser()._actions:
            with self.subTest(action=action.dest):
                self.assertTrue(action.help)

    def test_help_needs_no_source_and_wins(self) -> None:
        self.assertTrue(printed("--help", "/src", "/b"))
        self.assertTrue(printed("/src", "-h"))

    def test_version(self) -> None:
        self.assertEqual(printed("--version"), f"btrfs-backup {__version__}\n")

    def test_texts_made_of_the_parser(self) -> None:
        """They need no SOURCE, and do not mind one."""
        for places in ((), ("/src", "/b")):
            self.assertEqual(
                printed("--print-man", *places), manpage.page(cli.parser(), __version__, manual.in_man_page())
            )
            for shell in ("bash", "zsh", "fish"):
                self.assertEqual(printed("--print-completion", shell, *places), completion.script(cli.parser(), shell))

    def test_all_end_well(self) -> None:
        for option in ("--help", "--version", "--print-man", "--print-completion=bash"):
            with (
                self.subTest(option=option),
                contextlib.redirect_stdout(io.StringIO()),
                self.assertRaises(SystemExit) as caught,
            ):
                cli.parse([option])
            with self.subTest(option=option):
                self.assertIn(caught.exception.code, (0, None))


class WordsTest(CommandLineTest):
    """What is said about a wrong command line, word by word: what is wrong, and what to do."""

    KEPT = "Run it where the backups are kept."
    TWO = "Example: btrfs-backup --diff /mnt/usb/home/20261123-042459 /mnt/usb/home/20261124-042501"
    COPY = "Example: btrfs-backup --copy /mnt/usb/home /mnt/new/home"
    NOT_APART = "'--diff' compares two that are; '--verify' compares a backup with its snapshot."
    HELP = "'btrfs-backup --help' explains the options."
    KEEP = "(examples: 5, all, '3 24h 7d 4w 12m 5y')"
    URL = "Example: ssh://root@nas:22/backups or ssh://[::1]/backups"
    OWN_FOLDER = "Backups belong in a folder of their own, best on another disk."
    TABLE = {
        (): ("no SOURCE is given", "Example: btrfs-backup /home /mnt/usb/home; see 'btrfs-backup --help'."),
        ("--nope", "/src"): ("unrecognized arguments: --nope", HELP),
        ("--dryrun", "/src"): ("unrecognized arguments: --dryrun", f"Is '--dry-run' meant? {HELP}"),
        ("--keep=3", "/src"): ("unrecognized arguments: --keep=3", f"Is '--num-backups' meant? {HELP}"),
        ("-V",): ("unrecognized arguments: -V", f"Is '--version' meant? {HELP}"),
        ("--prefix", "x", "/src"): ("unrecognized arguments: --prefix", f"Is '--snapshot-prefix' meant? {HELP}"),
        ("/src", "/b", "--No_Incr"): ("unrecognized arguments: --No_Incr", f"Is '--no-incremental' meant? {HELP}"),
        ("status", "/src"): (
            "'status' is taken for a SOURCE or DEST, and looks like an option",
            "Is '--status' meant? For a local folder of that name write './status'.",
        ),
        ("list", "/src"): (
            "'list' is taken for a SOURCE or DEST, and looks like an option",
            "Is '--status' meant? For a local folder of that name write './list'.",
        ),
        ("backup", "/src", "/b"): (
            "'backup' is taken for a SOURCE or DEST, and looks like a command",
            "Leave it out: a backup needs none. For a local folder of that name write './backup'.",
        ),
        ("/src", "~/b"): (
            "'~/b' is taken for a SOURCE or DEST, and begins with '~', which only a shell replaces",
            "Write the whole path. For a local folder of that name write './~/b'.",
        ),
        ("--rate-limit", "20", "/src"): (
            "argument --rate-limit: '20' is only 20 bytes a second (examples: 500k, 20M, 1G)",
            HELP,
        ),
        ("/src", "ssh://me@nas:/b"): (
            "'ssh://me@nas:/b' has ':' without a port",
            f"Write 'ssh://me@nas/b'. {URL}",
        ),
        ("--copy", "/b"): ("'--copy' needs folders to copy to, and none is given", COPY),
        ("--copy", "/b", "shell://cat"): ("'--copy' needs folders to copy to, not 'shell://cat'", COPY),
        ("--copy", "-f", "x", "-N2", "/b", "/c"): (
            "'-N', '-f' cannot be used with '--copy'",
            "Leave it out: nothing is taken or pruned.",
        ),
        ("--copy", "--status", "/b", "/c"): (
            "'--status' and '--copy' cannot be used together",
            "Run one after the other.",
        ),
        ("--find", "../x", "/src"): (
            "'../x' is no path of a file or folder in '/src'",
            "Give it relative to SOURCE, or in full.",
        ),
        ("--find", "x", "-N3", "/src"): (
            "'-N' cannot be used with '--find'",
            "Leave it out: nothing is taken or pruned.",
        ),
        ("--find", "x", "--dry-run", "/src"): ("'--find' changes nothing anyway", "Leave out '--dry-run'."),
        ("-n", "x", "/src"): (
            "argument -n/--num-backups: 'x' is not a KEEP policy: 'x' is not a number, optionally followed by one of "
            f"h d w m y {KEEP}",
            HELP,
        ),
        ("-N", "7d 7d", "/src"): (
            f"argument -N/--num-snapshots: '7d 7d' is not a KEEP policy: '7d' names the same unit a second time {KEEP}",
            HELP,
        ),
        ("-N", "0d", "/src"): (
            "argument -N/--num-snapshots: '0d' is not a KEEP policy: it would keep nothing; to keep everything use "
            f"'all' {KEEP}",
            HELP,
        ),
        ("--rate-limit", "fast", "/src"): (
            "argument --rate-limit: 'fast' is not a number of bytes a second (examples: 500k, 20M, 1G)",
            HELP,
        ),
        ("--lock-wait", "1m", "/src"): (
            "argument --lock-wait: '1m' is not a number of seconds (examples: 0.5, 60, 3600)",
            HELP,
        ),
        ("--restore", "/b"): (
            "'--restore' makes one subvolume DEST, and none is given",
            "Example: btrfs-backup --restore /mnt/usb/home /home",
        ),
        ("--diff", "/b/1"): ("'--diff' compares two snapshots or backups, and one is given", TWO),
        ("--diff", "/b/1", "/b/2", "/b/3"): ("'--diff' compares two snapshots or backups, and more are given", TWO),
        ("--diff", "/b/1", "/b/1/"): ("'/b/1' is given twice", "'--diff' compares two snapshots or backups."),
        ("--diff", "/b/1", "ssh://nas/b/1"): ("'/b/1' and 'ssh://nas/b/1' are not on one machine", NOT_APART),
        ("--diff", "/b/1", "shell://cat"): ("'/b/1' and 'shell://cat' are not on one machine", NOT_APART),
        ("--diff", "-n3", "/b/1", "/b/2"): (
            "'-n' cannot be used with '--diff'",
            "Leave it out: nothing is taken or pruned.",
        ),
        ("--diff", "--verify", "/b/1", "/b/2"): (
            "'--verify' and '--diff' cannot be used together",
            "Run one after the other.",
        ),
        ("--diff", "--dry-run", "/b/1", "/b/2"): ("'--diff' changes nothing anyway", "Leave out '--dry-run'."),
        ("--diff",): ("no SOURCE is given", f"{TWO}; see 'btrfs-backup --help'."),
        ("--restore", "-S", "-N1", "/b", "/src"): (
            "'-N', '-S' cannot be used with '--restore'",
            "Leave it out: nothing is taken or pruned.",
        ),
        ("--status", "--verify", "/src"): (
            "'--status' and '--verify' cannot be used together",
            "Run one after the other.",
        ),
        ("--prune", "/b"): (
            "'--prune' needs to know what to keep",
            "Example: btrfs-backup --prune -n '7d 4w 12m' /srv/laptop",
        ),
        ("--prune", "-n3", "/b", "/c"): ("'--prune' takes one folder on this machine, not '/c'", KEPT),
        ("--prune", "-n3", "ssh://nas/b"): ("'--prune' takes one folder on this machine, not 'ssh://nas/b'", KEPT),
        ("--serve", "/b", "/c"): ("'--serve' takes one folder on this machine, not '/c'", KEPT),
        ("--serve", "--prune", "/b"): ("'--prune' and '--serve' cannot be used together", "Run one after the other."),
        ("--status", "--dry-run", "/src"): ("'--status' changes nothing anyway", "Leave out '--dry-run'."),
        ("--max-age", "2d", "/src"): ("'--max-age' belongs to '--status'", "Add '--status', or leave it out."),
        ("--status", "--max-age", "2", "/src"): (
            "argument --max-age: '2' is not an age (examples: 90m, 26h, 2d, 1w)",
            HELP,
        ),
        ("--verify", "/src"): (
            "'--verify' needs a DEST",
            "Name those whose backups are to be compared with their snapshots.",
        ),
        ("-S", "-T", "--remove-locks", "/src"): (
            "'--remove-locks' needs a DEST",
            "Name those whose records are to be dropped.",
        ),
        ("--verify", "/src", "shell://cat"): (
            "'--verify' cannot verify a shell command",
            "What it did with the streams cannot be read; each stream was checked on its way to it.",
        ),
        ("--restore", "/b", "shell://cat"): (
            "DEST cannot be a shell command with '--restore', as 'shell://cat' is",
            "It is the subvolume to create.",
        ),
        ("--restore", "/b", "/"): (
            "'/', the root folder of a running system, cannot be replaced",
            "Start a rescue system, mount the disk there and restore to it: see '--manual restore'.",
        ),
        ("--restore", "/b", "/x/20260101-000000"): (
            "the name of '/x/20260101-000000' is one of a snapshot",
            "A writable subvolume of such a name looks like a backup that was cut off. Choose another name.",
        ),
        ("-p", "a/b", "/src"): (
            "argument -p/--snapshot-prefix: 'a/b' cannot begin a file name: it holds '/' or a control character",
            HELP,
        ),
        ("-f", "", "/src"): ("the snapshot folder '' is empty", "Give '-f' a name or an absolute path."),
        ("shell://cat", "/b"): (
            "SOURCE cannot be a shell command, as 'shell://cat' is",
            "A subvolume is meant: its path, or ssh://[USER@]HOST[:PORT]/PATH.",
        ),
        ("/src", "/src/"): ("the destination '/src' is the source itself", OWN_FOLDER),
        ("/src", "/src/snapshot"): (
            "the destination '/src/snapshot' is the snapshot folder of the source",
            OWN_FOLDER,
        ),
        ("/src", ""): ("a location is empty", "Give a path, ssh://[user@]host[:port]/path or shell://COMMAND."),
        ("/src", "x\0"): ("a location cannot contain a NUL character", "Is it from an @FILE? Mend that file."),
        ("/src", "root@nas:/b c"): (
            "'root@nas:/b c' looks like a path on another machine",
            "Write 'ssh://root@nas/b c'. For a local folder of that name write './root@nas:/b c'.",
        ),
        ("/src", "ftp://nas/b"): (
            "'ftp://nas/b': 'ftp://' is not known",
            "Use a path, ssh:// or shell://. For a local folder of that name write './ftp://nas/b'.",
        ),
        ("/src", "ssh://na[s/b"): ("'ssh://na[s/b' is not of the form ssh://[user@]host[:port]/path", URL),
        ("/src", "ssh:///b"): ("'ssh:///b' names no host", URL),
        ("/src", "ssh://nas"): ("'ssh://nas' names no path on the host", URL),
        ("/src", "ssh://nas:x/b"): ("'ssh://nas:x/b': 'x' is not a port number", URL),
        ("/src", "shell:// "): (
            "'shell://' names no command",
            "Example: 'shell://cat > /mnt/usb/$BTRFS_BACKUP_SNAPSHOT.btrfs'",
        ),
    }

    def test_words(self) -> None:
        for argv, (message, hint) in self.TABLE.items():
            with self.subTest(argv=argv):
                error = self.assert_refused(argv)
                self.assertEqual((error.message, error.hint), (message, hint))


class SnapshotFolderTest(unittest.TestCase):
    def test_empty(self) -> None:
        """The source itself is no folder for its snapshots."""
        with self.assertRaises(UsageError):
            cli.parse(["-f", "", "/home"])


if __name__ == "__main__":
    unittest.main()
