"""@FILE arguments."""

import errno
import os
import unittest
from collections.abc import Mapping

from btrfs_backup.cli.argfiles import Reader, Written, expand
from btrfs_backup.errors import UsageError

CWD = "/home/anna"


def reader(files: Mapping[str, str | Exception]) -> Reader:
    """A reader of files that exist only here; an exception stands for a file that cannot be read."""

    def read(path: str) -> str:
        found = files.get(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        if isinstance(found, Exception):
            raise found
        return found

    return read


def expanded(text: str) -> list[str]:
    """The arguments in a file of this text."""
    return expand(["@/etc/args"], reader({"/etc/args": text}), CWD)


class LinesTest(unittest.TestCase):
    def test_lines(self) -> None:
        table: dict[str, list[str]] = {
            "": [],
            "\n\n": [],
            "/home": ["/home"],
            "/home\n": ["/home"],
            "/home\n/backup\n": ["/home", "/backup"],
            "-S\n-T\n": ["-S", "-T"],
            "--no-snapshot": ["--no-snapshot"],
            "-N 3": ["-N", "3"],
            "--num-snapshots 3": ["--num-snapshots", "3"],
            "--num-snapshots=3": ["--num-snapshots=3"],
            "-N3": ["-N3"],
            "-N\t3": ["-N", "3"],
            "-N    3": ["-N", "3"],
            "-S   ": ["-S"],
        }
        for text, wanted in table.items():
            with self.subTest(text=text):
                self.assertEqual(expanded(text), wanted)

    def test_what_does_not_count(self) -> None:
        """Blank lines, indentation, and lines that begin with #, indented or not."""
        text = "# first\n\n   \n\t\n  /home\n\t-S\n   # -T\n#-T\n\t#\n#\n##\n    -N 3\n"
        self.assertEqual(expanded(text), ["/home", "-S", "-N", "3"])

    def test_values_are_verbatim(self) -> None:
        """Quotes, backslashes, # and blanks within a value are part of it."""
        values = (
            '"3 24h"',
            "'x'",
            "it's",
            '"',
            "a b",
            "a  b\tc",
            "a#b",
            "#b",
            "a # b",
            "a\\ b",
            "\\n",
            "$HOME",
            "~",
            "*",
            "a=b",
            "a = b",
            "=",
            "%d",
            "@x",
            "ProxyCommand=ssh -W %h:%p bastion",
            "ä\udcff",
        )
        for value in values:
            with self.subTest(value=value):
                self.assertEqual(expanded(f"-p {value}"), ["-p", value])
                self.assertEqual(expanded(f"  --snapshot-prefix  {value}\n"), ["--snapshot-prefix", value])

    def test_option_equals_value(self) -> None:
        """Behind the sign of equality, too, everything is the value, blanks included."""
        for line in (
            "--opt=a b",
            "--opt=a  b=c",
            "--opt=",
            "--opt='a b'",
            "--opt=#x",
            "--opt=-x y",
            "--opt=@x",
            "--opt= x",
        ):
            with self.subTest(line=line):
                self.assertEqual(expanded(line), [line])
                self.assertEqual(expanded(f"\t{line}\n"), [line])

    def test_positional_arguments_are_verbatim(self) -> None:
        lines = (
            "/a b",
            "/a  b\tc",
            "/it's",
            "/a#b",
            "/a -x",
            "/a=b c",
            'a "b"',
            "ssh://nas/a b",
            "shell://cat > x # y",
        )
        for line in lines:
            with self.subTest(line=line):
                self.assertEqual(expanded(line), [line])
                self.assertEqual(expanded(f"  {line}\n"), [line])

    def test_value_that_begins_with_a_dash(self) -> None:
        """It is tied to its option, so that it is not taken for another one."""
        for option in ("-p", "--snapshot-prefix"):
            for value in ("-", "-x", "--", "--sync", "-x y", "-1"):
                with self.subTest(option=option, value=value):
                    self.assertEqual(expanded(f"{option} {value}"), [f"{option}={value}"])

    def test_crlf(self) -> None:
        """Line ends of other systems are harmless."""
        text = "# comment\r\n\r\n/home\r\n  -S\r\n-p home-\r\n--opt=a b\r\n/backup\r\n"
        self.assertEqual(expanded(text), ["/home", "-S", "-p", "home-", "--opt=a b", "/backup"])

    def test_only_newlines_end_a_line(self) -> None:
        for separator in ("\x0b", "\x0c", "\x1c", "\x85", "\u2028"):
            with self.subTest(separator=separator):
                self.assertEqual(expanded(f"/a{separator}b"), [f"/a{separator}b"])


class NestingTest(unittest.TestCase):
    def test_without_files(self) -> None:
        argv = ["-N", "3", "/home", "a@b", "--opt=@x", "", "-p", "# x", " @x"]
        self.assertEqual(expand(argv, reader({}), CWD), argv)

    def test_takes_the_place_of_the_argument(self) -> None:
        files = reader({"/etc/one": "-S\n", "/etc/two": "/b\n/c\n"})
        self.assertEqual(
            expand(["-q", "@/etc/one", "/home", "@/etc/two", "-T"], files, CWD), ["-q", "-S", "/home", "/b", "/c", "-T"]
        )

    def test_twice_is_no_loop(self) -> None:
        files = reader({"/etc/a": "@b\n@c\n@b\n", "/etc/b": "-b\n@d", "/etc/c": "@d", "/etc/d": "-d"})
        self.assertEqual(expand(["@/etc/a", "@/etc/b"], files, CWD), ["-b", "-d", "-d", "-b", "-d", "-b", "-d"])

    def test_relative_names(self) -> None:
        """On the command line they start at the working directory, in a file at the folder of that file."""
        files = reader(
            {
                "/home/anna/args": "-0\n@more\n@sub/args\n@/etc/args\n@../bob/args\n@./more",
                "/home/anna/more": "-1",
                "/home/anna/sub/args": "-2\n@more\n@../more",
                "/home/anna/sub/more": "-3",
                "/etc/args": "-4\n@more",
                "/etc/more": "-5",
                "/home/bob/args": "-6\n@more",
                "/home/bob/more": "-7",
            }
        )
        wanted = ["-0", "-1", "-2", "-3", "-1", "-4", "-5", "-6", "-7", "-1"]
        for argument in ("@args", "@./args", "@/home/anna/args", "@../anna/args"):
            with self.subTest(argument=argument):
                self.assertEqual(expand([argument], files, CWD), wanted)

    def test_origin(self) -> None:
        """Each argument from a file knows the file, those that include it, and the line."""
        files = reader({"/etc/a": "# x\n\n  -N 3\n@b\n", "/etc/b": "\n/x\n"})
        found = expand(["-q", "@/etc/a"], files, CWD)
        wanted = [("-q", ""), ("-N", "/etc/a, line 3"), ("3", "/etc/a, line 3"), ("/x", "/etc/a -> /etc/b, line 2")]
        self.assertEqual([(each, each.origin if isinstance(each, Written) else "") for each in found], wanted)

    def test_name_with_blanks(self) -> None:
        files = reader({"/etc/args": "  @my file\n", "/etc/my file": "-S"})
        self.assertEqual(expand(["@/etc/args"], files, CWD), ["-S"])

    def test_comment_hides_an_include(self) -> None:
        self.assertEqual(expanded("#@/nowhere\n # @/nowhere"), [])


class ErrorsTest(unittest.TestCase):
    def fails(self, files: Mapping[str, str | Exception], argument: str = "@/etc/a") -> UsageError:
        with self.assertRaises(UsageError) as caught:
            expand(["-q", argument], reader(files), CWD)
        self.assertTrue(caught.exception.hint)
        return caught.exception

    def test_unreadable(self) -> None:
        """The chain of files that led there is named, and the system's own words."""
        nested = {"/etc/a": "-S\n@b", "/etc/b": "@sub/c"}
        table: list[tuple[Mapping[str, str | Exception], str, str]] = [
            ({}, "/etc/a", "No such file or directory"),
            (nested, "/etc/a -> /etc/b -> /etc/sub/c", "No such file or directory"),
            (
                {**nested, "/etc/sub/c": PermissionError(errno.EACCES, "Permission denied")},
                "/etc/a -> /etc/b -> /etc/sub/c",
                "Permission denied",
            ),
            ({"/etc/a": IsADirectoryError(errno.EISDIR, "Is a directory")}, "/etc/a", "Is a directory"),
        ]
        for files, chain, why in table:
            with self.subTest(chain=chain, why=why):
                message = self.fails(files).message
                self.assertEqual(message, f"cannot read the argument file {chain}: {why}")

    def test_relative_name_is_told_in_full(self) -> None:
        self.assertIn("/home/anna/args", self.fails({}, "@args").message)

    def test_nul(self) -> None:
        """As editors write that do not save UTF-8."""
        self.assertIn("/etc/a -> /etc/b, line 2: ", self.fails({"/etc/a": "@b", "/etc/b": "-q\n/\0h\0"}).message)

    def test_undecodable(self) -> None:
        undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        message = self.fails({"/etc/a": "@b", "/etc/b": undecodable}).message
        self.assertIn("/etc/a -> /etc/b", message)
        self.assertIn("invalid start byte", message)

    def test_impossible_name(self) -> None:
        self.assertIn("/etc/a -> /etc/\0", self.fails({"/etc/a": "@\0", "/etc/\0": ValueError("NUL")}).message)

    def test_loops(self) -> None:
        table: list[tuple[Mapping[str, str | Exception], str]] = [
            ({"/etc/a": "@a"}, "/etc/a -> /etc/a"),
            ({"/etc/a": "-S\n  @/etc/../etc/./a"}, "/etc/a -> /etc/a"),
            ({"/etc/a": "@b", "/etc/b": "@a"}, "/etc/a -> /etc/b -> /etc/a"),
            ({"/etc/a": "@b", "/etc/b": "@b"}, "/etc/a -> /etc/b -> /etc/b"),
            (
                {"/etc/a": "@sub/b", "/etc/sub/b": "@c", "/etc/sub/c": "@../sub/b"},
                "/etc/a -> /etc/sub/b -> /etc/sub/c -> /etc/sub/b",
            ),
        ]
        for files, chain in table:
            with self.subTest(chain=chain):
                message = self.fails(files).message
                self.assertEqual(message, f"argument files include each other in a loop: {chain}")

    def test_reader_is_asked_for_absolute_paths(self) -> None:
        asked: list[str] = []

        def read(path: str) -> str:
            asked.append(path)
            return "@../b\n" if path.endswith("a") else ""

        expand(["@x/../y/a"], read, CWD)
        self.assertEqual(asked, ["/home/anna/y/a", "/home/anna/b"])


if __name__ == "__main__":
    unittest.main()
