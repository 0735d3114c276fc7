"""What a machine lacks costs whatever needs it, and nothing else; it is told in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.real.machine import OUTSTANDING, TOP, Result, lying_btrfs, names, path_with, sh, with_program
from tests.real.sshd import Sshd, SshTest

WITHOUT = """
import os, sys
def refused(*arguments):
    raise PermissionError(1, "Operation not permitted")
for name in sys.argv.pop(1).split(","):
    setattr(os, name, refused)
from btrfs_backup.__main__ import run
run()
"""


class OddMachine(SshTest):
    def shell(self, script: str, *arguments: object, code: str = "") -> Result:
        """Run SCRIPT, in which "$@" is the command with ARGUMENTS; CODE: Python that runs it."""
        command = [sys.executable, "-S", *(["-c", code] if code else ["-m", "btrfs_backup"]), *map(str, arguments)]
        done = subprocess.run(
            ["bash", "-c", script, "bash", *command],
            env={**os.environ, "PYTHONPATH": str(TOP)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertNotIn("Traceback", done.stderr)
        return Result(done.returncode, done.stdout, done.stderr)


class Streams(OddMachine):
    def test_closed(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for count, closed in enumerate((">&-", "2>&-", "<&-", "<&- >&- 2>&-"), 1):
            with self.subTest(closed):
                self.assertEqual(self.shell(f'"$@" {closed}', "-v", "debug", source, usb).status, 0)
                self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))
                self.assertEqual(len(names(usb)), count)

    def test_messages_that_cannot_be_written(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        self.assertEqual(self.shell('"$@" 2>/dev/full', source, usb).status, 0)
        self.assertEqual(self.shell('"$@" 2> >(true); wait', source, usb).status, 0)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))


class Folders(OddMachine):
    def test_current_one_is_deleted(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        gone = f'mkdir {self.folder}/gone; cd {self.folder}/gone; rmdir {self.folder}/gone; "$@"'
        (self.folder / "arguments").write_text(f"{source}\n{usb}\n")
        self.assertEqual(self.shell(gone, source, usb).status, 0)
        self.assertEqual(self.shell(gone, f"@{self.folder}/arguments").status, 0)
        self.assertEqual(len(names(usb)), 2)
        for arguments, words in (
            ((source, "usb"), "'usb' is relative to the current folder, which is gone"),
            (("@arguments",), "cannot read the argument file arguments: the current folder does not exist any more"),
        ):
            result = self.shell(gone, *arguments)
            self.assertEqual(result.status, 2, result)
            self.assertIn(words, result.err)

    def test_no_temporary_one(self) -> None:
        source, usb, server = self.source(), self.disk("usb").path, self.sshd()
        # What is in them stays to be seen: perhaps this program is.
        script = (
            "for each in /tmp /var/tmp /usr/tmp; do [ ! -d $each ] || "
            "{ mount --rbind $each $each && mount -o remount,bind,ro $each; }; done; cd /; "
        )
        # Python would take the current folder.
        script += 'mount -t tmpfs none /media; mkdir /media/x; mount -o remount,ro /media; cd /media/x; exec "$@"'
        there = f"{server.url}{self.disk('nas').path}/x"
        result = self.shell(f"unshare -m bash -c '{script}' bash \"$@\"", *server.arguments(), source, there, usb)
        self.assertEqual(result.status, 10, result)
        self.assertRegex(
            result.err, f"error: {there}: cannot keep a connection to 127.0.0.1, without a temporary folder: No usable"
        )
        self.assertIn("  Another folder can be named by TMPDIR", result.err)
        self.assertIn(f"{usb}: sent 1 snapshot", result.err)


class Kernel(OddMachine):
    def test_without_what_is_new_or_forbidden(self) -> None:
        source, usb, server = self.source(), self.disk("usb").path, self.sshd()
        places = [usb, f"{server.url}{self.disk('nas').path}/x", f"shell://cat > {self.folder}/stream"]
        for _ in range(2):
            result = self.shell('"$@"', "pidfd_open,memfd_create", *server.arguments(), source, *places, code=WITHOUT)
            self.assertEqual(result.status, 0, result)
        self.assert_complete(usb, source / "snapshot", names(source / "snapshot"))

    def test_without_a_part_of_the_library(self) -> None:
        """Python tells of it with a traceback."""
        source, usb = self.source(), self.disk("usb").path
        code = "import sys\nsys.modules['_hashlib'] = sys.modules['_blake2'] = None\n"
        result = self.shell('"$@"', "unused", source, usb, code=code + WITHOUT)
        self.assertEqual(result.status, 0, result)

    def test_what_nothing_is_prepared_for(self) -> None:
        """It ends what it hits, but neither the summary nor the document."""
        source, usb = self.source(), self.disk("usb").path
        for option in ("-v=info", "--json"):
            wrong = WITHOUT.replace("PermissionError", "ZeroDivisionError")
            result = self.shell('"$@"', "replace", option, source, usb, code=wrong)
            self.assertEqual(result.status, 10, result)
            self.assertRegex(
                result.err, r"error: unforeseen: ZeroDivisionError: .* \(line \d+ of .*\)\n  Please report"
            )
            summary = '"exit_status": 10' if option == "--json" else f"{usb}: sent nothing"
            self.assertIn(summary, result.out + result.err)


class Limits(OddMachine):
    def test_few_files_for_many_destinations(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        places = [usb / str(number) for number in range(10)] + [f"shell://cat > {self.folder}/{each}" for each in "ab"]
        for number in (64, 48):
            result = self.shell(f'ulimit -n {number}; "$@"', "--no-compressed-data", source, *places)
            self.assertEqual(result.status, 0, result)
        for number in (64, 48, 32):
            result = self.shell(f'ulimit -n {number}; "$@"', "--verify", source, *places[:10])
            self.assertEqual(result.status, 0, result)
            self.assertEqual(result.err.count("no difference"), 20)
        for place in places[:10]:
            self.assert_complete(Path(place), source / "snapshot", names(source / "snapshot"))

    def test_none_for_anything(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        for number, words in {
            10: "cannot run mkdir: Too many open files: 'mkdir'",
            5: "Too many open files",
        }.items():
            with self.subTest(number):
                result = self.shell(f'ulimit -n {number}; "$@"', source, usb)
                self.assertEqual(result.status, 1, result)
                self.assertIn(words, result.err)
                self.assertIn("The limit on open files is low", result.err)

    def test_no_more_processes(self) -> None:
        code = WITHOUT.replace("PermissionError(1,", "BlockingIOError(11,").replace("not permitted", "unavailable")
        code = code.replace("setattr(os, name", "import _posixsubprocess, subprocess; setattr(subprocess, name")
        source = self.source()
        result = self.shell('"$@"', "_fork_exec", source, code=code.replace("(*arguments)", "(*arguments, **more)"))
        self.assertIn("A limit on processes or memory is reached", result.err)


class Places(OddMachine):
    def test_links_that_lead_nowhere(self) -> None:
        source, usb, good = self.source(), self.disk("usb").path, self.disk("good").path
        (usb / "dangling").symlink_to("/nowhere/at/all")
        (usb / "loop").symlink_to("loop")
        result = self.shell('"$@"', source, usb / "dangling", usb / "loop", usb / "loop" / "x", good)
        self.assertEqual(result.status, 10, result)
        for name in ("dangling", "loop", "loop/x"):
            self.assertIn("A symbolic link that leads nowhere", self.shell('"$@"', source, usb / name).err)
            self.assertRegex(result.err, rf"error: {usb}/{name}: .*\b(File exists|symbolic links)")
        self.assertIn(f"{good}: sent 1 snapshot", result.err)

    def test_chroot_whose_root_is_no_mount(self) -> None:
        source = self.source()
        script = (
            f"mkdir {self.folder}/root; cd {self.folder}/root; for each in /*; do if [ -L $each ]; then cp -P $each .; "
            'elif [ -d $each ]; then mkdir .$each; mount --rbind $each .$each; fi; done; mkdir usb; exec chroot . "$@"'
        )
        result = self.shell(f"unshare -m bash -c '{script}' bash \"$@\"", source, "/usb")
        self.assertEqual(result.status, 10, result)
        self.assertIn("error: /usb: cannot find out on which filesystem '/usb' is\n  The root of a chroot", result.err)

    def test_readonly_subvolume(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        sh("btrfs", "subvolume", "create", usb / "sub")
        sh("btrfs", "property", "set", usb / "sub", "ro", "true")
        result = self.shell('"$@"', source, usb / "sub")
        self.assertIn("or is it in a read-only subvolume (see 'btrfs property get -ts PATH ro')?", result.err)

    def test_swap_file(self) -> None:
        source = self.source()
        sh("btrfs", "filesystem", "mkswapfile", "-s", "16m", source / "swap")
        sh("swapon", source / "swap")
        self.addCleanup(sh, "swapoff", source / "swap")
        result = self.shell('"$@"', source)
        self.assertEqual(result.status, 1, result)
        self.assertRegex(result.err, "Text file busy\n  A swap file that is in use is in it")


class Nightly(SshTest):
    def test_what_lasts_is_warned_of_once(self) -> None:
        """With '-q' a good run prints nothing, night after night. Whoever asks for the status is told."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        (source / "snapshot" / "20200101-000000").write_text("mine")
        (usb / "20200102-000000").mkdir()
        (usb / ".20200103-000000.receiving").write_text("mine")
        sh("btrfs", "subvolume", "snapshot", "-r", source, source / "snapshot" / "20990101-000000")
        odd = [
            f"{source}/snapshot: leaving 20200101-000000 alone: it is not a subvolume",
            f"{source}/snapshot: 20990101-000000 lies in the future",
            f"{usb}: leaving 20200102-000000 alone: it is not a subvolume",
            f"{usb}: leaving .20200103-000000.receiving alone: it is a file",
        ]
        night = ("-q", source, usb)
        for told in (self.backup(*night), self.backup("--status", *night)):
            for each in odd:
                self.assertIn(f"warning: {each}", told.err)
        for _ in range(2):
            self.assertEqual(self.backup(*night).err, "")
        (usb / "20200102-000000").rmdir()
        self.assertEqual(self.backup(*night).err, "")
        (usb / "20200102-000000").mkdir()
        self.assertEqual(self.backup(*night).err, f"warning: {odd[2]}\n")
        for each in odd:
            self.assertIn(each, self.backup(source, usb).err)


class OldPrograms(SshTest):
    """btrfs-progs 5.10, as in Debian 11, on the other side: they show less."""

    LIES = """
--version) echo "btrfs-progs v5.10.1"; exit;;
subvolume\\ show*) shown=$("$REAL" "$@") || exit; echo "$shown" | grep -v "Send t\\|Receive t"; exit;;
property\\ set\\ -f*) echo "btrfs property set: invalid option -- 'f'" >&2; exit 1;;"""

    def setUp(self) -> None:
        super().setUp()
        server = self.sshd(path=path_with(lying_btrfs(self.folder / "old", self.LIES))["PATH"])
        self.home, self.nas = self.source(), self.disk("nas").path
        self.push = [*server.arguments(), self.home, f"{server.url}{self.nas}"]

    def test_what_newer_ones_made_writable_is_left_alone(self) -> None:
        for _ in range(2):
            self.backup(*self.push)
        new = names(self.nas)[-1]
        sh("btrfs", "property", "set", "-f", "-ts", self.nas / new, "ro", "false")
        (self.nas / new / "work").write_text("of a week")
        # As if it had been sent by an older version that was killed.
        record = {new: {"locks": [str(self.push[-1])]}}
        (self.home / "snapshot" / OUTSTANDING).write_text(json.dumps(record))
        result = self.backup(*self.push, status=10)
        self.assertIn(f"cannot send {new}: '{self.push[-1]}/{new}' is in the way", result.err)
        self.backup("-n1", *self.push)
        self.assertEqual((self.nas / new / "work").read_text(), "of a week")
        self.assertEqual(names(self.nas), [new, names(self.home / "snapshot")[-1]])

    def test_whoever_shares_a_stream_with_them_is_told(self) -> None:
        new = self.disk("new").path
        if "--compressed-data" not in self.backup("-v", "debug", self.home, self.disk("usb").path).err:
            self.skipTest("this kernel or these btrfs-progs have no send protocol 2")
        self.backup(self.home)
        result = self.backup("-v", "debug", *self.push, new)
        self.assertNotIn("--compressed-data", result.err)
        self.assertEqual(result.err.count(f"{self.push[-1]}: cannot take compressed data as it is, and all"), 1)
        result = self.backup("-v", "debug", "--no-shared-stream", *self.push, new)
        self.assertIn("--compressed-data", result.err)
        self.assertNotIn("cannot take compressed data", result.err)


class Words(SshTest):
    """What another machine says is in its language, and in the words of its tools."""

    def there(self, **tools: str) -> Sshd:
        """A machine that speaks German unless it is told otherwise, on which these TOOLS are scripts.

        In them `say` has words of both languages, and the real program goes on behind them.
        """
        say = 'say() { [ "$LC_ALL" = C ] && echo "$1" >&2 || echo "$2" >&2; }\n'
        for name, script in tools.items():
            path = with_program(self.folder / "german", name, f'{say}{script}\nexec $REAL "$@"')["PATH"]
        return self.sshd(path=path)

    def test_a_full_source_is_pruned(self) -> None:
        say = "say 'dd: error writing: No space left on device' 'dd: Auf dem Gerät ist kein Speicherplatz verfügbar'"
        server = self.there(dd=f'case "$*" in *.new*) [ ! -e {self.folder}/full ] || {{ {say}; exit 1; }};; esac')
        source, usb = self.source(), self.disk("usb").path
        pull = [*server.arguments(), f"{server.url}{source}", usb]
        for _ in range(3):
            self.backup(*pull)
        (self.folder / "full").touch()
        result = self.backup("-N1", *pull, status=10)
        self.assertIn("The disk is full: free some space there.", result.err)
        self.assertEqual(len(names(source / "snapshot")), 2, result)

    def test_what_cannot_be_looked_at_is_not_absent(self) -> None:
        """In the words of Rust's library, too."""
        said = "stat: cannot stat: Permission denied (os error 13)"
        hidden = self.folder / "hidden"
        server = self.there(
            stat=f'for last; do :; done; $REAL "$@" 2>{self.folder}/null || {{ echo "{said}" >&2; exit 1; }}; exit'
        )
        hidden.mkdir(0o700)
        (self.folder / "null").touch()
        (self.folder / "null").chmod(0o666)
        (hidden / "usb").mkdir()
        self.user("/bin/sh")
        url = server.url.replace("//", f"//{self.login}@")
        result = self.backup("--skip-absent-dests", *server.arguments(), self.source(), f"{url}{hidden}/usb", status=10)
        self.assertIn(f"cannot look at '{hidden}/usb': stat on 127.0.0.1: ", result.err)
        self.assertIn("Log in there as root (ssh://root@...), or use '--ssh-sudo'.", result.err)
