"""Nothing that a name, a record or another machine says is executed, used as an option, or plays with the terminal."""

import json
import os
import stat
from pathlib import Path

from tests.real.machine import (
    COMPLETED,
    OUTSTANDING,
    RealTest,
    lying_btrfs,
    make_program,
    names,
    path_with,
    sh,
    with_program,
)
from tests.real.sshd import SshTest

# An operating system command of terminals: sets their title.
TITLE = "\x1b]0;pwned\x07"


class Records(RealTest):
    def test_places_that_are_commands_or_options(self) -> None:
        """A shell command is run when it is typed, and never because a record names it."""
        source, usb, witness = self.source(), self.disk("usb").path, self.folder / "witness"
        self.backup("-q", source)
        [name] = names(source / "snapshot")
        run = f"touch {witness}"
        hostile = [
            f"shell://{run}",
            f"shell://cat >/dev/null; {run}",
            f"ssh://-oProxyCommand={run}/x",
            f"ssh://-oProxyCommand={run}@localhost/x",
            f"ssh://[-oProxyCommand={run}]/x",
            "-oProxyCommand=x",
            "--help",
            "-rf",
            f"$({run})",
            f"`{run}`",
            f"; {run}",
            f"/; {run}",
            f"/$({run})",
            "/--version",
            "",
            "\n",
            f"/{TITLE}",
        ]
        record = {name: {"locks": [*hostile, str(usb)], "parent_locks": hostile}}
        (source / "snapshot" / OUTSTANDING).write_text(json.dumps(record))
        result = self.backup("-S", "--locked-dests", source, status=10)
        self.assertFalse(witness.exists(), result)
        self.assertIn(f"'--locked-dests' runs no shell command that only the records name: shell://{run}\n", result.err)
        self.assertIn("Name it as a DEST if it is yours. Or have it forgotten: name it, with '-S -T ", result.err)
        self.assertIn("'ssh://-oProxyCommand=", result.err)
        self.assertIn("the records name something that is no destination: '-rf' is not absolute", result.err)
        self.assertNotIn("\x1b", result.err)
        self.assertNotIn("usage", result.err)
        self.assertEqual(names(usb), [name])
        # One that is typed is run, and is no trouble.
        record = {name: {"locks": [f"shell://cat >{witness}"]}}
        (source / "snapshot" / OUTSTANDING).write_text(json.dumps(record))
        self.backup("-S", "--locked-dests", source, f"shell://cat >{witness}")
        self.assertTrue(witness.exists())

    def test_they_are_shown_as_they_are(self) -> None:
        source = self.source()
        self.backup("-q", source)
        [name] = names(source / "snapshot")
        witness = self.folder / "witness"
        record = {name: {"locks": [f"/x{TITLE}", f"shell://touch {witness}"]}}
        (source / "snapshot" / OUTSTANDING).write_text(json.dumps(record))
        for option in ("--status", "--dry-run", "--json"):
            result = self.run_command("-S", option, "-v", "debug", "--locked-dests", source)
            self.assertNotIn("\x1b", result.out + result.err)
            self.assertIn("pwned", result.out + result.err)
        self.assertFalse(witness.exists())


class Names(SshTest):
    def foreign(self) -> list[str]:
        run = f"touch {self.folder}/witness".replace("/", "$(printf '\\057')")
        stamp = "20200101-000000"
        odd = [f"-{stamp}", f"{stamp}\n{run}", f"{stamp};{run}", f"x\n{stamp}"]
        return [f"$({run})", f"; {run} ;", f"`{run}`", "-rf", "--", "*", *odd]

    def test_foreign_names(self) -> None:
        """Subvolumes and files of such names, on both sides, here and through ssh; pruning goes on beside them."""
        server, source, usb, nas = self.sshd(), self.source(), self.disk("usb").path, self.disk("nas").path
        self.backup("-q", *server.arguments(), source, usb, f"{server.url}{nas}")
        for number, name in enumerate(self.foreign()):
            for folder in (source / "snapshot", usb, nas):
                if number % 2:
                    sh("btrfs", "subvolume", "create", "--", folder / name)
                else:
                    (folder / name).write_text("")
        for _ in range(2):
            result = self.backup(*server.arguments(), "-N1", "-n1", source, usb, f"{server.url}{nas}")
            self.backup(*server.arguments(), "-N1", "-n1", f"{server.url}{source}", usb, f"{server.url}{nas}")
        self.assertFalse((self.folder / "witness").exists(), result)
        for folder in (source / "snapshot", usb, nas):
            self.assertLessEqual(set(self.foreign()), set(names(folder)))
            self.assertEqual(len(names(folder)), len(self.foreign()) + 1)


class OtherMachine(SshTest):
    def test_what_it_says_is_not_done(self) -> None:
        """Each of its programs says something hostile, on both of its outputs."""
        source, usb, nas = self.source(), self.disk("usb").path, self.disk("nas").path
        witness = self.folder / "witness"
        said = rf"{TITLE}$(touch {witness});touch {witness}\n`touch {witness}`"
        shout = f"printf '%b' '{said}'\nprintf '%b' '{said}' >&2\n"
        tools = self.folder / "tools"
        tools.mkdir()
        server = self.sshd(path=path_with(tools)["PATH"])
        for number, name in enumerate(("stat", "readlink", "find", "cat", "flock", "btrfs")):
            with self.subTest(name):
                make_program(tools, name, f"{shout}exit {number % 2}")
                for arguments in ((source, usb, f"{server.url}{nas}"), (f"{server.url}{source}", usb)):
                    result = self.run_command("-N1", "-n1", "-d", *server.arguments(), *arguments)
                    self.assertIn(result.status, (0, 1, 3, 10))
                    self.assertFalse(witness.exists(), result)
                    self.assertNotIn("\x1b", result.out + result.err)
                (tools / name).unlink()
        self.assertGreater(len(names(usb)), 0)

    def test_names_that_it_makes_up(self) -> None:
        """Only what is just of our form is taken for a name, and it has to be there."""
        source, nas = self.source(), self.disk("nas").path
        up = f"../../{self.folder.name}/usb/20200101-000000"
        made_up = (up, "20200101-000000;x", "20200101-000000\\n", "-c", "x/20200101-000000x")
        found = "".join(f"{nas}/{name}\\0{nas}/{name}\\0" for name in made_up[1:])
        server = self.sshd(path=with_program(self.folder / "tools", "find", f"printf '%b' '{found}'")["PATH"])
        result = self.backup("-n1", *server.arguments(), source, f"{server.url}{nas}", status=10)
        self.assertNotIn("deleted", result.err)
        self.assertEqual(names(nas), [])
        for name, says in (("20200101-000000", "does not show it once"), (up, "cannot understand what 'find' printed")):
            make_program(self.folder / "tools", "find", f"printf '%b' '{nas}/{name}\\0{nas}/{name}\\0'")
            result = self.backup("-n1", *server.arguments(), source, f"{server.url}{nas}", status=10)
            self.assertIn(says, result.err)
            self.assertEqual(names(nas), [])


class Output(RealTest):
    def test_words_of_programs(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        lies = lying_btrfs(self.folder / "lies", f"receive*) printf '{TITLE}ERROR: no\\r\\n' >&2; exit 1 ;;")
        for options in ((), ("-d",), ("-v", "debug")):
            result = self.backup(*options, source, usb, status=10, env=path_with(lies))
            self.assertIn("\\x1b]0;pwned\\x07ERROR: no", result.err)
            self.assertNotIn("\x1b", result.err)
            self.assertNotIn("\r", result.err)


class StateFiles(RealTest):
    def modes(self, source: Path) -> list[int]:
        return [stat.S_IMODE((source / "snapshot" / name).stat().st_mode) for name in (OUTSTANDING, COMPLETED)]

    def test_modes(self) -> None:
        """Nobody else may write to them, whatever the umask is; what was taken from them stays taken."""
        source, usb = self.source(), self.disk("usb").path
        self.backup("-q", source, usb, umask=0)
        self.assertEqual(self.modes(source), [0o644, 0o644])
        for name in (OUTSTANDING, COMPLETED):
            (source / "snapshot" / name).chmod(0o600)
        self.backup("-q", source, usb, umask=0)
        self.assertEqual(self.modes(source), [0o600, 0o600])
        self.assertEqual([path.name for path in (source / "snapshot").glob("*.new")], [])

    def test_links(self) -> None:
        """The link is replaced. Neither is what it points to changed, nor does anything of the link stay."""
        source, usb, precious = self.source(), self.disk("usb").path, self.folder / "precious"
        precious.write_text("{}")
        (source / "snapshot").mkdir()
        (source / "snapshot" / OUTSTANDING).symlink_to(precious)
        (source / "snapshot" / f"{OUTSTANDING}.new").symlink_to(precious)
        os.lchown(source / "snapshot" / OUTSTANDING, 65534, 65534)
        self.backup("-q", source, usb)
        self.assertEqual(precious.read_text(), "{}")
        status = (source / "snapshot" / OUTSTANDING).lstat()
        self.assertTrue(stat.S_ISREG(status.st_mode))
        self.assertEqual((stat.S_IMODE(status.st_mode), status.st_uid), (0o644, 0))

    def test_what_is_no_file(self) -> None:
        """It is not waited for, not read, and moved aside."""
        source, usb = self.source(), self.disk("usb").path
        (source / "snapshot").mkdir()
        path = source / "snapshot" / OUTSTANDING
        for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
            path.unlink(missing_ok=True)
            make(path)
            result = self.backup(source, usb, status=10)
            self.assertIn(f"'{path}'", result.err)
            self.assertRegex(result.err, "it is not a regular file|Is a directory")
            self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
        self.assertEqual(len(list((source / "snapshot").glob(f"{OUTSTANDING}.broken-*"))), 3)
        self.backup("-q", source, usb)
