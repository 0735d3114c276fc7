"""The command line: argv -> Settings."""

import contextlib
import io
import os
import tempfile
import unittest
from pathlib import Path

from btrfs_backup import __version__, cli
from btrfs_backup.errors import UsageError
from btrfs_backup.model.retention import KEEP_ALL, Policy


class Options(unittest.TestCase):
    def test_defaults(self) -> None:
        settings = cli.parse(["/home"])
        self.assertEqual((settings.source.identity, settings.destinations), ("/home", ()))
        self.assertEqual((settings.folder_path, settings.naming.prefix), ("/home/snapshot", ""))
        self.assertEqual((settings.keep_snapshots, settings.keep_backups), (KEEP_ALL, KEEP_ALL))
        self.assertEqual((settings.verbosity, settings.progress, settings.btrfs_debug), ("info", True, False))
        self.assertTrue(settings.take_snapshot and settings.transfer and settings.incremental and settings.fs_checks)
        off = (settings.sync, settings.convert_rw, settings.remove_locks, settings.locked_dests)
        self.assertEqual(off, (False,) * 4)

    def test_each(self) -> None:
        for arguments, name, value in (
            ("-v debug", "verbosity", "debug"),
            ("--verbosity error", "verbosity", "error"),
            ("-q", "verbosity", "warning"),
            ("-q", "progress", False),
            ("-q -v error", "verbosity", "error"),
            ("-v debug --quiet", "verbosity", "warning"),
            ("-d", "btrfs_debug", True),
            ("--btrfs-debug", "btrfs_debug", True),
            ("-P", "progress", False),
            ("--no-progress", "progress", False),
            ("-N 3", "keep_snapshots", Policy(3)),
            ("--num-snapshots 0", "keep_snapshots", KEEP_ALL),
            ("-n 2,7d", "keep_backups", Policy(2, (("d", 7),))),
            ("--num-backups=all", "keep_backups", KEEP_ALL),
            ("-S", "take_snapshot", False),
            ("--no-snapshot", "take_snapshot", False),
            ("-f snaps", "folder_path", "/home/snaps"),
            ("--snapshot-folder /snaps/../x/", "folder_path", "/x"),
            ("-T", "transfer", False),
            ("--no-transfer", "transfer", False),
            ("-I", "incremental", False),
            ("--no-incremental", "incremental", False),
            ("-s", "sync", True),
            ("--sync", "sync", True),
            ("-w", "convert_rw", True),
            ("--convert-rw", "convert_rw", True),
            ("--remove-locks", "remove_locks", True),
            ("--locked-dests", "locked_dests", True),
            ("--skip-fs-checks", "fs_checks", False),
            ("--latest-only", "keep_snapshots", Policy(1)),
            ("--snapshot-fol s", "folder_path", "/home/s"),
        ):
            with self.subTest(arguments):
                self.assertEqual(getattr(cli.parse([*arguments.split(), "/home"]), name), value)

    def test_prefix(self) -> None:
        for argument in ("-phome-", "--snapshot-prefix=home-"):
            self.assertEqual(cli.parse([argument, "/home"]).naming.prefix, "home-")

    def test_options_between_locations(self) -> None:
        settings = cli.parse(["/home", "-N", "3", "/usb", "-q", "/nas"])
        self.assertEqual([each.identity for each in settings.destinations], ["/usb", "/nas"])

    def test_one_identity_is_one_destination(self) -> None:
        settings = cli.parse(["/home/", "/usb", "/usb/", "/x/../usb", "/nas"])
        self.assertEqual([each.identity for each in settings.destinations], ["/usb", "/nas"])

    def test_relative_paths(self) -> None:
        settings = cli.parse(["home", "../usb"])
        self.assertEqual(settings.source.path, os.path.join(os.getcwd(), "home"))
        self.assertEqual(settings.destinations[0].path, os.path.join(os.path.dirname(os.getcwd()), "usb"))

    def test_double_dash(self) -> None:
        settings = cli.parse(["-q", "--", "-home", "-S"])
        self.assertEqual(settings.source.path, os.path.join(os.getcwd(), "-home"))
        self.assertEqual(settings.destinations[0].path, os.path.join(os.getcwd(), "-S"))
        self.assertTrue(settings.take_snapshot)

    def test_argument_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "args").write_bytes(b"# comment\n /home \n-p  a b\n@more\r\n")
            Path(folder, "more").write_bytes(b"/us\xff b\n")
            settings = cli.parse([f"@{folder}/args", "-q"])
        self.assertEqual(settings.naming.prefix, "a b")
        self.assertEqual([each.path for each in settings.destinations], [os.fsdecode(b"/us\xff b")])


class Refusals(unittest.TestCase):
    def test_usage_errors(self) -> None:
        for arguments, says in (
            ([], "no SOURCE"),
            (["--wrong", "/home"], "--wrong"),
            (["-v", "loud", "/home"], "loud"),
            (["-n", "0h", "/home"], "would keep nothing"),
            (["-N", "3x", "/home"], "'3x'"),
            (["-N", "-1", "/home"], "-N"),
            (["-p", "a/b", "/home"], "'a/b'"),
            (["-p", "a\nb", "/home"], "control character"),
            (["/home", ""], "empty"),
            (["/home", "ftp://x/y"], "ftp://"),
            (["/home", "/home/snapshot/"], "is the snapshot folder"),
            (["@/no/such/file"], "/no/such/file"),
        ):
            with self.subTest(arguments), self.assertRaises(UsageError) as caught:
                cli.parse(arguments)
            self.assertIn(says, str(caught.exception))
            self.assertTrue(caught.exception.hint)

    def printed(self, option: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out, self.assertRaises(SystemExit) as caught:
            cli.parse([option])
        self.assertEqual(caught.exception.code, 0)
        return out.getvalue()

    def test_help_explains_every_option(self) -> None:
        text = self.printed("--help")
        for action in cli.parser()._actions:
            self.assertTrue(action.help, action)
            for option in action.option_strings:
                self.assertRegex(text, rf"(?m)^  .*{option}\b")
        self.assertLessEqual(max(map(len, text.splitlines())), 120)

    def test_version(self) -> None:
        self.assertEqual(self.printed("--version"), f"btrfs-backup {__version__}\n")
