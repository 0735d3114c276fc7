"""Commands wrapped for ssh and sudo, and what is made of the words of both."""

import math
import unittest
import unittest.mock
from contextlib import ExitStack
from pathlib import Path

from btrfs_backup.model import location
from btrfs_backup.system import hints, ssh
from btrfs_backup.system.lock import parse_locks


class Argv(unittest.TestCase):
    def test_words_for_any_login_shell(self) -> None:
        table = {
            "plain-word_1./:,@%+": "plain-word_1./:,@%+",
            "": "''",
            "two  words": "two\\ \\ words",
            "it's": "it\\'s",
            'a"b': 'a\\"b',
            "$HOME `id` $(id)": "\\$HOME\\ \\`id\\`\\ \\$\\(id\\)",
            "a;b&c|d<e>f": "a\\;b\\&c\\|d\\<e\\>f",
            "#?*[a]{b}~=^": "\\#\\?\\*\\[a\\]\\{b\\}\\~\\=\\^",
            "!x": "\\!x",
            "b\\s": "b\\\\s",
            "tab\tx": "tab\\\tx",
            "new\nline": "new'\n'line",
            "\n\n": "'\n\n'",
            "größe-日本": "größe-日本",
            "\udcff": "\udcff",
            "-leading": "-leading",
        }
        for word, quoted in table.items():
            with self.subTest(word):
                self.assertEqual(ssh.quote(word), quoted)

    def test_lines(self) -> None:
        self.assertEqual(ssh.line(("btrfs", "send", "/a b"), sudo=False), "btrfs send /a\\ b")
        self.assertEqual(ssh.line(("btrfs", "send", "/a b"), sudo=True), "sudo -n btrfs send /a\\ b")
        self.assertEqual(ssh.line(("id",), True, ssh.PLAIN_WORDS), "env LC_ALL\\=C sudo -n id")

    def test_read_again(self) -> None:
        """Just what was made of argument lists is read, and as these."""
        odd = (
            "x",
            "",
            "a b",
            "it's",
            'a"b',
            "$(id)",
            "a;b|c",
            " | ",
            " </dev/null && ",
            "\n\n",
            "a\n b\\",
            "\udcff",
            "ö\t!",
        )
        for word in odd:
            argv = ("btrfs", word, *odd)
            for sudo in (False, True):
                wanted = ("sudo", "-n", *argv) if sudo else argv
                with self.subTest(word, sudo=sudo):
                    self.assertEqual(ssh.read(ssh.line(argv, sudo)), [wanted])
                    self.assertEqual(ssh.read(f"zstd -d | {ssh.line(argv, sudo)}"), [("zstd", "-d"), wanted])

    def test_nothing_else_is_read(self) -> None:
        table = (
            *(
                "a  b",
                " a",
                "a ",
                "a\nb",
                "a;b",
                "a & b",
                "a && b",
                "a|b",
                "a >b",
                "a </dev/null",
                "'a b'",
                '"a"',
                "$x",
                "`a`",
            ),
            *(
                "a\\",
                "a\\\nb",
                "\\a",
                "a''",
                "''a",
                "'\n'a'\n",
                "a | | b",
                "#a",
                "~",
                "a\tb",
                "a\0b",
                "a </dev/null  && b",
                "a(b)",
            ),
        )
        for request in table:
            with self.subTest(request), self.assertRaisesRegex(ValueError, "not quoted as this program does it"):
                self.fail(str(ssh.read(request)))

    def test_ssh(self) -> None:
        table = {
            "ssh://nas/b": ("ssh", "--", "nas"),
            "ssh://me@nas/b": ("ssh", "-l", "me", "--", "nas"),
            "ssh://me@x@nas:2222/b": ("ssh", "-p", "2222", "-l", "me@x", "--", "nas"),
            "ssh://[::1]:22/b": ("ssh", "-p", "22", "--", "::1"),
        }
        for spelling, argv in table.items():
            with self.subTest(spelling):
                self.assertEqual(ssh.argv(location.parse(spelling, "/"), ()), argv)
        self.assertEqual(
            ssh.argv(location.parse("ssh://nas/b", "/"), ("A=1 2", "B=3"), "-T"),
            ("ssh", "-o", "A=1 2", "-o", "B=3", "-T", "--", "nas"),
        )

    def test_login_by_hand(self) -> None:
        """With all that the user has given, so that it does what the program does."""
        table = {
            ("ssh://nas/b",): "nas",
            ("ssh://me@nas:22/b", "IdentityFile=/root/key"): "me@nas -p 22 -o IdentityFile=/root/key",
            ("ssh://nas/b", "Port=1", "ProxyCommand=nc %h 1"): "nas -o Port=1 -o 'ProxyCommand=nc %h 1'",
        }
        for (spelling, *options), login in table.items():
            with self.subTest(login), ExitStack() as scope:
                access = ssh.Access(tuple(options))
                self.assertEqual(ssh.Connection(location.parse(spelling, "/"), access, scope).login, login)

    def test_amendments(self) -> None:
        """Only where the user's configuration waits for ever, or keeps commands from being run."""
        always, patient = "ClearAllForwardings=yes", ["ServerAliveInterval=10", "ConnectTimeout=30"]
        table = {
            "serveraliveinterval 0\nconnecttimeout none\n": [*patient, always],
            "serveraliveinterval 60\nconnecttimeout none\n": ["ConnectTimeout=30", always],
            "ServerAliveInterval 1\nconnecttimeout 5\n": [always],
            "": [*patient, always],
            "stdinnull no\nforkafterauthentication no\nremotecommand none\n": [*patient, always],
            "remotecommand tmux attach\n": [*patient, "RemoteCommand=none", always],
            "stdinnull yes\nforkafterauthentication yes\n": [
                *patient,
                "StdinNull=no",
                "ForkAfterAuthentication=no",
                always,
            ],
            "forwardagent /run/agent\nforwardx11 yes\n": [*patient, "ForwardAgent=no", "ForwardX11=no", always],
        }
        for configured, wanted in table.items():
            with self.subTest(configured):
                self.assertEqual(ssh.amendments(configured), wanted)

    def test_a_login_has_a_limit(self) -> None:
        """But where somebody can type a password."""
        table = {
            "batchmode yes\nconnecttimeout none\n": 40,
            "batchmode yes\nconnecttimeout 5\n": 15,
            "BatchMode true\n": 40,
        }
        for configured, wanted in table.items():
            with self.subTest(configured):
                self.assertEqual(ssh.login_limit(configured), wanted)
        with unittest.mock.patch.dict("os.environ", {"SSH_ASKPASS": "/usr/bin/askpass"}):
            self.assertEqual(ssh.login_limit("batchmode no\n"), math.inf)
            self.assertEqual(ssh.login_limit("batchmode yes\n"), 40)

    def test_sharing_is_left_to_the_user_who_asks_for_it(self) -> None:
        for option in ("ControlMaster=no", "controlpath none", " ControlPersist = 5 "):
            self.assertTrue(ssh.shares_by_itself(["Port=1", option]), option)
        for option in ("Port=1", "ProxyCommand=ssh -o ControlMaster=no x", "Controlled=1"):
            self.assertFalse(ssh.shares_by_itself([option]), option)


class Hints(unittest.TestCase):
    def test_words_of_programs(self) -> None:
        """As they were seen, with what the hint has to say here and on another machine."""
        table = {
            "ERROR: writing to f failed: No space left on device": ("disk is full", "disk is full"),
            "ERROR: cannot snapshot: Invalid cross-device link": ("option '-f'", "option '-f'"),
            "ERROR: not a btrfs filesystem: /tmp/s": ("option '-f'", "option '-f'"),
            "ERROR: could not create: Read-only file system": ("writable", "writable"),
            "ERROR: can't perform the search: Operation not permitted": ("as root", "--ssh-sudo"),
            "ERROR: not a valid btrfs filesystem: /x": ("as root", "--ssh-sudo"),
            "cat: /x: Permission denied": ("as root", "--ssh-sudo"),
            "mkdir: /x: Permission denied (os error 13)": ("as root", "--ssh-sudo"),
            "mkdir: /x: Quota exceeded": ("quota is used up", "quota is used up"),
            "cat: read error: I/O error": ("btrfs device stats", "btrfs device stats"),
            "mkdir: /x: Symbolic link loop": ("leads nowhere", "leads nowhere"),
            "sh: No file descriptors available": ("ulimit -n", "ulimit -n"),
            "ERROR: cannot snapshot: Cross-device link": ("option '-f'", "option '-f'"),
            "me@nas: Permission denied (publickey,password).": ("as root", "could not log in"),
            "Received disconnect from ::1 port 22:2: Too many authentication failures": ("", "could not log in"),
            "Host key verification failed.": ("", "check the host's key: ssh me@nas -p 1"),
            "ssh: Could not resolve hostname nas: Name or service not known": ("", "name of the host"),
            "ssh: connect to host nas port 22: Connection refused": ("", "Is the host up"),
            "ssh: connect to host nas port 22: No route to host": ("", "Is the host up"),
            "ssh: connect to host nas port 22: Host is unreachable": ("", "Is the host up"),
            "Timeout, server 127.0.0.1 not responding.": ("", "connection broke"),
            "Connection to 127.0.0.1 closed by remote host.": ("", "connection broke"),
            "bash: line 1: btrfs: command not found": ("", "Install the package btrfs-progs"),
            "sh: 1: btrfs: not found": ("", "Is 'btrfs' installed there"),
            "flock: Command not found.": ("", "Install the package util-linux"),
            "sudo: btrfs: command not found": ("", "Is 'btrfs' installed there"),
            "sh: sudo: not found": ("", "Is 'sudo' installed there"),
            "env: 'flock': No such file or directory": ("", "Install the package util-linux"),
            "env: can't execute 'btrfs': No such file or directory": ("", "Install the package btrfs-progs"),
            "zsh:1: command not found: flock": ("", "Install the package util-linux"),
            "fish: Unknown command: btrfs": ("", "Install the package btrfs-progs"),
            "sudo: a password is required": ("", "me ALL=(root) NOPASSWD: /usr/bin/btrfs, "),
            "Sorry, user me is not allowed to execute '/bin/cat x' as root on nas.": ("", "NOPASSWD"),
            "me is not in the sudoers file.": ("", "NOPASSWD"),
            'command-line line 0: no argument after keyword "foo"': ("", "'--ssh-opt'"),
            "command-line: line 0: Bad configuration option: foo": ("", "'--ssh-opt'"),
            "/x line 2: Bad port 'y'.\n/x: terminating, 1 bad configuration options": ("", "Correct that file"),
            "something else": ("", ""),
        }
        for words, (here, there) in table.items():
            with self.subTest(words):
                for login, wanted in (("", here), ("me@nas -p 1", there)):
                    said = hints.hint(words, login, False)
                    self.assertIn(wanted, said)
                    self.assertEqual(bool(said), bool(wanted))

    def test_a_shell_that_does_not_find_a_program(self) -> None:
        """Its exit status tells, while others say "not found" of much else."""
        for words, status, wanted in (
            ("sh: 1: gpgg: not found", 127, "in PATH"),
            ("sh: line 1: /bin/gpgg: No such file or directory", 127, "in PATH"),
            ("rclone: bucket: not found", 1, ""),
        ):
            with self.subTest(words):
                self.assertIn(wanted, said := hints.hint(words, "", True, status))
                self.assertEqual(bool(said), bool(wanted))

    def test_rights_are_not_the_trouble_of_those_who_have_them(self) -> None:
        for login in ("", "root@nas"):
            self.assertEqual(hints.hint("rm: cannot remove 'x': Permission denied", login, True), "")
            said = hints.hint("rm: cannot remove 'x': Operation not permitted", login, True)
            self.assertIn("lsattr", said)
            self.assertNotIn("as root", said)

    def test_what_words_come_to(self) -> None:
        """In the summary and in the hint alike."""
        table = {
            "ERROR: writing to x failed: No space left on device": ("disk full", "The disk is full"),
            "ERROR: writing to x failed: Disk quota exceeded": ("disk full", "The quota is used up"),
            "mkdir: cannot create directory 'x': Read-only file system": ("read-only", "Is it mounted read-only"),
            "ERROR: send ioctl failed with -5: Input/output error": ("", "btrfs device stats"),
            "something else": ("", ""),
        }
        for words, (short, what_to_do) in table.items():
            with self.subTest(words):
                self.assertEqual(hints.brief(words), short)
                self.assertIn(what_to_do, hints.hint(words, "", True))

    def test_rule_in_the_manual(self) -> None:
        """The same programs, under a name."""
        manual = Path(__file__).parents[2] / "btrfs_backup" / "manual" / "destinations.rst"
        text = " ".join(manual.read_text(encoding="utf-8").replace("\\\n", "").split())
        who, allowed = hints.sudo_rule("backup").split(": ")
        self.assertIn(f" Cmnd_Alias BTRFS_BACKUP = {allowed} {who}: BTRFS_BACKUP ", text)

    def test_rule_of_a_user_who_is_not_named(self) -> None:
        self.assertIn("USER ALL=(root)", hints.hint("sudo: a password is required", "nas", True))
        self.assertIn("\n  a@b ALL=(root)", hints.hint("sudo: a password is required", "a@b@nas", True))
        jump = "-o ProxyJump=c@d"
        self.assertIn("\n  USER ALL=(root)", hints.hint("sudo: a password is required", f"nas {jump}", True))
        self.assertIn("\n  a@b ALL=(root)", hints.hint("sudo: a password is required", f"a@b@nas -p 1 {jump}", True))


class Locks(unittest.TestCase):
    def test_holders(self) -> None:
        text = (
            "1: POSIX  ADVISORY  WRITE 100 00:29:256 0 EOF\n"
            "2: FLOCK  ADVISORY  WRITE 200 00:29:256 0 EOF\n"
            "2: -> FLOCK  ADVISORY  WRITE 300 00:29:256 0 EOF\n"
            "3: FLOCK  ADVISORY  READ 400 00:30:1 0 EOF\n"
            "4: FLOCK  ADVISORY  WRITE 200 00:29:257 0 EOF\n"
            "5: FLOCK"
        )
        self.assertEqual(parse_locks(text), ["200", "400"])
        self.assertEqual(parse_locks(""), [])


class Both(unittest.TestCase):
    def test_read_again(self) -> None:
        """What runs two commands is taken apart where it is served."""
        for sudo in (False, True):
            first, second = ("sync", "-f", "--", "/a b && { c"), ("btrfs", "subvolume", "create", "/d || :; }'")
            made = ssh.both(first, second, sudo)
            self.assertEqual(ssh.in_both(made), [ssh.line(first, sudo), ssh.line(second, sudo)])
            prefix = ("sudo", "-n") if sudo else ()
            self.assertEqual(
                [ssh.read(each) for each in ssh.in_both(made)], [[(*prefix, *first)], [(*prefix, *second)]]
            )
        self.assertEqual(ssh.in_both(("sh", "-c", "sync")), [])
        self.assertEqual(ssh.in_both(("sh",)), [])


if __name__ == "__main__":
    unittest.main()
