"""Spellings of SOURCE and DEST, and the one identity behind them."""

import unittest

from btrfs_backup.errors import UsageError
from btrfs_backup.model.location import Location, Scheme, identity, normalise, overwrites_itself, parse

CWD = "/home/anna"


class LocalTest(unittest.TestCase):
    def test_spellings_of_a_path(self) -> None:
        """Absolute or relative to the working directory, a local path has one normalised form."""
        table = {
            "/": "/",
            "//": "/",
            "///": "/",
            "/.": "/",
            "/..": "/",
            "/a/../..": "/",
            "/backup": "/backup",
            "/backup/": "/backup",
            "/backup///": "/backup",
            "//backup": "/backup",
            "///backup//home": "/backup/home",
            "/backup/./home/.": "/backup/home",
            "/backup/old/../home": "/backup/home",
            "/../backup": "/backup",
            ".": "/home/anna",
            "./": "/home/anna",
            "..": "/home",
            "usb": "/home/anna/usb",
            "usb/": "/home/anna/usb",
            "./usb": "/home/anna/usb",
            "../bob/usb": "/home/bob/usb",
            "../../..": "/",
            "~/usb": "/home/anna/~/usb",
            "/a b": "/a b",
            " ": "/home/anna/ ",
            "/a\nb": "/a\nb",
            "/a#b?c%20": "/a#b?c%20",
            "/a:b@c": "/a:b@c",
            "/...": "/...",
            "a:/b": "/home/anna/a:/b",
            "./ftp://x": "/home/anna/ftp:/x",
            "1://x": "/home/anna/1:/x",
            "/ssh://nas/x": "/ssh:/nas/x",
            "-x": "/home/anna/-x",
            "/\udcff": "/\udcff",
        }
        for spelling, path in table.items():
            with self.subTest(spelling=spelling):
                found = parse(spelling, CWD)
                self.assertEqual(found, Location(Scheme.LOCAL, path=path))
                self.assertEqual(found.identity, path)
                self.assertEqual(str(found), path)

    def test_working_directory_may_be_the_root(self) -> None:
        self.assertEqual(parse("usb", "/").identity, "/usb")
        self.assertEqual(parse("../usb", "/").identity, "/usb")

    def test_normalise(self) -> None:
        for path, wanted in {"/": "/", "//": "/", "//a//": "/a", "/a/./b/../c/": "/a/c", "/a/\n": "/a/\n"}.items():
            with self.subTest(path=path):
                self.assertEqual(normalise(path), wanted)


class SshTest(unittest.TestCase):
    def test_parts(self) -> None:
        """User, host, port and path are told apart; the identity is the normalised spelling."""
        table: dict[str, tuple[str, str, int | None, str, str]] = {
            "ssh://nas/backups": ("", "nas", None, "/backups", "ssh://nas/backups"),
            "ssh://nas/backups/": ("", "nas", None, "/backups", "ssh://nas/backups"),
            "ssh://nas//backups//": ("", "nas", None, "/backups", "ssh://nas/backups"),
            "ssh://nas/a/./b/../c": ("", "nas", None, "/a/c", "ssh://nas/a/c"),
            "ssh://nas/../c": ("", "nas", None, "/c", "ssh://nas/c"),
            "ssh://nas/": ("", "nas", None, "/", "ssh://nas/"),
            "ssh://nas///": ("", "nas", None, "/", "ssh://nas/"),
            "ssh://root@nas/b": ("root", "nas", None, "/b", "ssh://root@nas/b"),
            "ssh://@nas/b": ("", "nas", None, "/b", "ssh://nas/b"),
            "ssh://nas:22/b": ("", "nas", 22, "/b", "ssh://nas:22/b"),
            "ssh://nas:1/b": ("", "nas", 1, "/b", "ssh://nas:1/b"),
            "ssh://nas:65535/b": ("", "nas", 65535, "/b", "ssh://nas:65535/b"),
            "ssh://root@nas.example.org:2222/b": (
                "root",
                "nas.example.org",
                2222,
                "/b",
                "ssh://root@nas.example.org:2222/b",
            ),
            "ssh://192.0.2.7/b": ("", "192.0.2.7", None, "/b", "ssh://192.0.2.7/b"),
            "ssh://[::1]/b": ("", "::1", None, "/b", "ssh://[::1]/b"),
            "ssh://[::1]:22/b/": ("", "::1", 22, "/b", "ssh://[::1]:22/b"),
            "ssh://root@[2001:db8::7]:22/b": ("root", "2001:db8::7", 22, "/b", "ssh://root@[2001:db8::7]:22/b"),
            "ssh://[fe80::1%eth0]/b": ("", "fe80::1%eth0", None, "/b", "ssh://[fe80::1%eth0]/b"),
        }
        for spelling, (user, host, port, path, wanted) in table.items():
            with self.subTest(spelling=spelling):
                found = parse(spelling, CWD)
                self.assertEqual(found, Location(Scheme.SSH, path=path, user=user, host=host, port=port))
                self.assertEqual(found.identity, wanted)
                self.assertEqual(str(found), wanted)

    def test_path_is_literal(self) -> None:
        """From the first slash after the host on, nothing has a meaning of its own."""
        paths = (
            "/a#b",
            "/a?b=c",
            "/a%20b",
            "/a%2Fb",
            "/a b",
            "/ a ",
            "/a'b\"c",
            "/a\nb",
            "/a\n",
            "/a\\b",
            "/$HOME;rm",
            "/a:22",
            "/root@nas",
            "/[::1]",
            "/~/x",
            "/ssh:",
            "/ä\udcff",
        )
        for path in paths:
            for host in ("nas", "root@nas:22", "[::1]"):
                with self.subTest(path=path, host=host):
                    found = parse(f"ssh://{host}{path}", CWD)
                    self.assertEqual(found.path, path)
                    self.assertEqual(found.identity, f"ssh://{host}{path}")

    def test_not_understood(self) -> None:
        """Every wrong spelling is a usage error, with an example of a right one."""
        spellings = (
            "ssh://",
            "ssh:///",
            "ssh:///backups",
            "ssh://nas",
            "ssh://nas:22",
            "ssh://root@",
            "ssh://root@/b",
            "ssh://:22/b",
            "ssh://nas:/b",
            "ssh://nas:0/b",
            "ssh://nas:-1/b",
            "ssh://nas:+22/b",
            "ssh://nas: 22/b",
            "ssh://nas:65536/b",
            "ssh://nas:99999/b",
            "ssh://nas:2_2/b",
            "ssh://nas:port/b",
            "ssh://nas:\u0662\u0662/b",
            "ssh://nas:\u00b2/b",
            "ssh://nas:22:23/b",
            "ssh://::1/b",
            "ssh://2001:db8::7/b",
            "ssh://[::1/b",
            "ssh://::1]/b",
            "ssh://[]/b",
            "ssh://[::1]22/b",
            "ssh://[::1]x/b",
            "ssh://nas[1]/b",
            "ssh://-oProxyCommand=x/b",
            "ssh://root@-oProxyCommand=x/b",
            "ssh://[-oProxyCommand=x]/b",
            "ssh://-lroot@nas/b",
        )
        for spelling in spellings:
            with self.subTest(spelling=spelling), self.assertRaises(UsageError) as caught:
                parse(spelling, CWD)
            with self.subTest(spelling=spelling):
                self.assertIn(spelling, caught.exception.message)
                self.assertIn("ssh://root@nas", caught.exception.hint)

    def test_what_means_something_to_a_shell(self) -> None:
        """A host or a user that stands in a state file reaches the commands of an ssh configuration (%h, %r)."""
        for evil in ("$(id)", "`id`", "a;b", "a&b", "a|b", "a<b", "a>b", "a'b", 'a"b', "a\nb", "a\x7fb", "a{b}", "(b)"):
            for spelling in (f"ssh://{evil}/x", f"ssh://{evil}@nas/x", f"ssh://a@{evil}:22/x"):
                with self.subTest(spelling), self.assertRaises(UsageError) as caught:
                    parse(spelling, "/")
                said = "the host or the user holds characters that mean something to a shell"
                self.assertTrue(
                    caught.exception.message.endswith(said) or "is not of the form" in caught.exception.message
                )
        for spelling in ("ssh://host_1.x-y/x", "ssh://[fe80::1%eth0]/x", "ssh://DOM\\me@nas/x", "ssh://a@b+c@nas/x"):
            self.assertEqual(parse(spelling, "/").identity, spelling)

    def test_port_of_very_many_digits(self) -> None:
        """A number that Python refuses to convert is a usage error as well."""
        with self.assertRaises(UsageError):
            parse(f"ssh://nas:{'9' * 5000}/b", CWD)


class ValueTest(unittest.TestCase):
    def test_parts_that_are_not_given(self) -> None:
        found = Location(Scheme.SSH)
        self.assertEqual((found.path, found.user, found.host, found.port, found.command), ("", "", "", None, ""))

    def test_can_be_a_key_and_does_not_change(self) -> None:
        found = parse("/b", CWD)
        self.assertEqual({found: 1}[parse("/b/", CWD)], 1)
        with self.assertRaises(AttributeError):
            found.path = "/c"  # type: ignore[misc]

    def test_schemes(self) -> None:
        self.assertEqual([scheme.value for scheme in Scheme], ["local", "ssh", "shell"])


class ShellTest(unittest.TestCase):
    def test_command_is_literal(self) -> None:
        """What follows shell:// belongs to the shell: nothing is normalised."""
        for command in ("cat > /x/", "true", " cat", "cat\n", "a//b/../c", "ssh://nas/x", "cat | (sh -c 'x # y')", "/"):
            with self.subTest(command=command):
                found = parse(f"shell://{command}", CWD)
                self.assertEqual(found, Location(Scheme.SHELL, command=command))
                self.assertEqual(found.identity, f"shell://{command}")

    def test_no_command(self) -> None:
        for spelling in ("shell://", "shell:// ", "shell://\n\t"):
            with self.subTest(spelling=spelling), self.assertRaises(UsageError):
                parse(spelling, CWD)

    def test_overwrites_itself(self) -> None:
        """It writes to a name that is the same for each stream."""
        table = {
            True: (
                "cat > /x",
                "cat >/x/home.btrfs",
                "cat>x",
                "zstd 1> '/my disk/x.zst'",
                "cat >| /x",
                "gpg -e 2>/dev/null > /x/.gpg",
                "dd bs=1M of=/x/home",
                "ssh nas 'cat > /x/home'",
            ),
            False: (
                "cat > /x/$BTRFS_BACKUP_SNAPSHOT",
                "cat > /x/y; echo $BTRFS_BACKUP_SNAPSHOT",
                'ssh nas "cat > /x/${BTRFS_BACKUP_SNAPSHOT}.btrfs"',
                "cat > /x/$(date +%s)",
                "cat > /x/`date +%s`.btrfs",
                "cat > $NEW",
                "cat >> /x/all",
                "cat > /dev/null",
                "cat >/dev/nst0",
                "ssh nas receive 2> /x/log",
                "restic backup --stdin 2>&1 >&2",
                "tee >(sha256sum) | ssh nas receive",
                "btrfs receive /x",
                "",
            ),
        }
        for wanted, commands in table.items():
            for command in commands:
                with self.subTest(command=command):
                    self.assertIs(overwrites_itself(command), wanted)


class OtherTest(unittest.TestCase):
    def test_empty(self) -> None:
        with self.assertRaises(UsageError):
            parse("", CWD)

    def test_unknown_scheme(self) -> None:
        """A mistyped scheme is told, not taken for a folder; the hint says how such a folder is written."""
        for spelling in ("ftp://nas/x", "sssh://nas/x", "SSH://nas/x", "Shell://true", "git+ssh://nas/x", "file:///x"):
            with self.subTest(spelling=spelling), self.assertRaises(UsageError) as caught:
                parse(spelling, CWD)
            with self.subTest(spelling=spelling):
                self.assertIn(spelling, caught.exception.message)
                self.assertIn(f"./{spelling}", caught.exception.hint)

    def test_scheme_without_its_slashes(self) -> None:
        for spelling in ("ssh:/nas/x", "ssh:nas", "ssh:", "shell:cat", "shell:/bin/cat", "shell: cat > /x"):
            with self.subTest(spelling=spelling), self.assertRaises(UsageError) as caught:
                parse(spelling, CWD)
            with self.subTest(spelling=spelling):
                self.assertIn(f"'{spelling}' lacks the two slashes of ", caught.exception.message)
                self.assertIn(f"./{spelling}", caught.exception.hint)
                self.assertEqual(parse(f"./{spelling}", CWD).identity, f"{CWD}/{spelling}")

    def test_nul(self) -> None:
        for spelling in ("\0", "/a\0b", "ssh://nas/a\0b", "ssh://n\0s/a", "shell://cat\0"):
            with self.subTest(spelling=spelling), self.assertRaises(UsageError):
                parse(spelling, CWD)


class IdentityTest(unittest.TestCase):
    def test_is_stable(self) -> None:
        """An identity, taken for a spelling, is the same location again."""
        spellings = (
            "/",
            "usb/",
            "//a/../b",
            "/a\nb ",
            "ssh://nas/",
            "ssh://root@[::1]:22/a b#c?d%41/",
            "ssh://nas/a\nb/",
            "shell://cat > /x/",
            "shell:// cat",
        )
        for spelling in spellings:
            with self.subTest(spelling=spelling):
                found = parse(spelling, CWD)
                self.assertEqual(parse(found.identity, "/elsewhere"), found)

    def test_tells_locations_apart(self) -> None:
        spellings = (
            "/b",
            "/b/c",
            "ssh://nas/b",
            "ssh://root@nas/b",
            "ssh://nas:2222/b",
            "ssh://nas2/b",
            "ssh://nas/b/c",
            "ssh://[::1]/b",
            "shell:///b",
        )
        self.assertEqual(len({parse(spelling, "/").identity for spelling in spellings}), len(spellings))

    def test_of_recorded_text(self) -> None:
        """Recorded destinations become identities; what cannot be understood is left as it is."""
        table = {
            "/backup": "/backup",
            "/backup/": "/backup",
            "//a/./b/../c//": "/a/c",
            "/": "/",
            "ssh://nas/backups": "ssh://nas/backups",
            "ssh://nas/backups/": "ssh://nas/backups",
            "ssh://root@nas:22/a//b/": "ssh://root@nas:22/a/b",
            "ssh://[::1]/a/": "ssh://[::1]/a",
            "shell://cat > x/": "shell://cat > x/",
            "": "",
            "backup/": "backup/",
            "./backup": "./backup",
            "ftp://nas/x/": "ftp://nas/x/",
            "ssh://": "ssh://",
            "ssh://nas:port/x/": "ssh://nas:port/x/",
            "shell://": "shell://",
            "/a\0b/": "/a\0b/",
        }
        for recorded, wanted in table.items():
            with self.subTest(recorded=recorded):
                self.assertEqual(identity(recorded), wanted)

    def test_of_recorded_text_with_a_port_of_very_many_digits(self) -> None:
        recorded = f"ssh://nas:{'9' * 5000}/b/"
        self.assertEqual(identity(recorded), recorded)


class DomainAccountTest(unittest.TestCase):
    def test_the_last_at_sign_ends_the_user(self) -> None:
        place = parse("ssh://me@example.org@nas:22/b", CWD)
        self.assertEqual((place.user, place.host, place.port), ("me@example.org", "nas", 22))
        self.assertEqual(place.identity, "ssh://me@example.org@nas:22/b")


if __name__ == "__main__":
    unittest.main()
