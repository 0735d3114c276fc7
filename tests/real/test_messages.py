"""What is said when a program that is needed fails: what was tried, the program's own words, and what to do."""

import os
import shutil

from tests.real.machine import OUTSTANDING, RealTest, lying_btrfs, make_program, names, path_with, sh, with_program
from tests.real.sshd import SshTest

SPOILED = "ERROR: spoiled"


class SpoiledPrograms(RealTest):
    def spoiled(self, program: str, words: str, script: str = f"echo '{SPOILED}' >&2; exit 9") -> dict[str, str]:
        """An environment in which PROGRAM does something else, SCRIPT, when WORDS are among its arguments."""
        shutil.rmtree(self.folder / "spoiled", ignore_errors=True)
        spoiling = f'for last; do :; done\ncase " $* " in *" {words} "*) {script};; esac\nexec "$REAL" "$@"'
        return with_program(self.folder / "spoiled", program, spoiling)

    def test_whichever_fails(self) -> None:
        """One run each; the words of the program end the first line of the message."""
        source, usb = self.source(), self.disk("usb").path
        for _ in range(2):
            self.backup(source, usb)
        snapshots, new = source / "snapshot", usb / "new"
        table: list[tuple[str, str, list[object], int, str]] = [
            ("mkdir", "-p", [new], 10, f"{new}: cannot create the folder '{new}'"),
            ("btrfs", "subvolume snapshot", [usb], 10, f"{source}: cannot take the snapshot '2"),
            ("btrfs", "subvolume list", [usb], 10, f"{source}: cannot list what is in '{snapshots}'"),
            ("btrfs", "property set", ["-w", "-n1", usb], 10, f"cannot make '{usb}/{names(usb)[0]}' writable"),
            (
                "btrfs",
                "subvolume delete",
                ["-n1", usb],
                10,
                f"1 deletion failed: cannot delete '{usb}/{names(usb)[0]}'",
            ),
            ("btrfs", "subvolume sync", ["-s", "-n1", usb], 10, f"cannot wait for deleted subvolumes in '{usb}'"),
        ]
        for program, words, arguments, status, message in table:
            with self.subTest(program, words=words):
                result = self.backup(source, *arguments, status=status, env=self.spoiled(program, words))
                self.assertIn(message, result.err)
                [line] = [line for line in result.err.splitlines() if message in line]
                self.assertTrue(line.startswith("error: "), line)
                title = f"{program} {words}" if program == "btrfs" else program
                self.assertTrue(line.endswith(f": {title.removesuffix(f' {usb}')}: {SPOILED}"), line)

    def test_a_backup_that_is_wrong_although_all_programs_are_content(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        receive = (
            '$REAL "$@" || exit; for each in "$last"/*; do $REAL property set -f -ts "$each" ro false; done; exit 0'
        )
        result = self.backup(source, usb, status=10, env=self.spoiled("btrfs", "receive", receive))
        [name] = names(source / "snapshot")
        self.assertIn(f"error: {usb}: {name} has arrived, but it is writable, and not a backup\n", result.err)
        self.assertIn("\n  Nothing of it is kept.\n", result.err)
        self.assertEqual(os.listdir(usb), [])

    def test_a_state_file_that_is_none(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        (source / "snapshot" / OUTSTANDING).mkdir(parents=True)
        result = self.backup(source, usb, status=10)
        path = source / "snapshot" / OUTSTANDING
        self.assertIn(
            f"error: {source}: cannot read '{path}': Is a directory; it was moved to '{path}.broken-1'\n", result.err
        )

    def test_a_record_that_names_no_destination(self) -> None:
        source = self.source()
        (source / "snapshot").mkdir()
        record = source / "snapshot" / OUTSTANDING
        record.write_text('{"20260101-000000": {"locks": ["ftp://nas/b"]}}')
        result = self.backup("--locked-dests", source, status=10)
        self.assertIn(
            f"error: {source}: the records name something that is no destination: "
            "'ftp://nas/b': 'ftp://' is not known\n"
            f"  Correct it with an editor: {record}\n",
            result.err,
        )

    def test_without_rights_to_list(self) -> None:
        """Then it is asked of each one whether it is read-only."""
        source = self.source()
        self.backup(source)
        refuse = "subvolume\\ list*) echo 'ERROR: Operation not permitted' >&2; exit 1;;\n"
        spoil = f"property\\ get*) echo '{SPOILED}' >&2; exit 9;;"
        result = self.backup(source, status=10, env=path_with(lying_btrfs(self.folder / "lies", refuse + spoil)))
        [name, _] = names(source / "snapshot")
        self.assertIn(f"cannot ask whether '{source}/snapshot/{name}' is read-only: btrfs property get: ", result.err)

    def test_restoring(self) -> None:
        """Nothing is left behind, or it is told what is."""
        source, usb = self.source(), self.disk("usb").path
        self.backup(source, usb)
        [name] = names(usb)
        new = source.parent / "new"
        stage = source.parent / ".new.receiving"
        sh("btrfs", "subvolume", "create", usb / "29991231-235959")
        sh("btrfs", "property", "set", usb / "29991231-235959", "ro", "true")
        fails = f"echo '{SPOILED}' >&2; exit 9"
        result = self.backup("--restore", usb, new, status=1, env=self.spoiled("find", "-exec rmdir"))
        self.assertRegex(result.err, f"error: cannot clear the folder '{stage}/[^/]+/new/snapshot': find: {SPOILED}\n")
        self.assertFalse(new.exists())
        table: list[tuple[dict[str, str], str]] = [
            (self.spoiled("mv", "--"), rf"error: cannot move '{stage}/\S+/new' to its place: mv: {SPOILED}\n"),
            (
                path_with(lying_btrfs(self.folder / "1", f"subvolume\\ snapshot*) {fails};;")),
                rf"error: cannot make the snapshot '{stage}/\S+/new': btrfs subvolume snapshot: {SPOILED}\n",
            ),
            (
                path_with(lying_btrfs(self.folder / "2", f"subvolume\\ snapshot*|subvolume\\ delete*) {fails};;")),
                f"warning: {new}: not all could be removed; the next try does it: cannot delete '",
            ),
            (
                path_with(
                    lying_btrfs(
                        self.folder / "3", 'subvolume\\ snapshot\\ -r*) exec "$REAL" subvolume snapshot "$4" "$5";;'
                    )
                ),
                f"error: the read-only copy of {name} has not kept its received UUID\n  Is the program",
            ),
            (
                path_with(
                    lying_btrfs(
                        self.folder / "4",
                        'receive*) "$REAL" "$@"; for each in "$last"/*; do '
                        '"$REAL" property set -f -ts "$each" ro false; done; exit 0;;',
                    )
                ),
                f"error: {name} has arrived, but it is writable, and not a backup",
            ),
        ]
        for environment, message in table:
            with self.subTest(message):
                result = self.backup("--restore", usb, new, status=1, env=environment)
                self.assertRegex(result.err, message)
                self.assertFalse(new.exists())
        result = self.backup("--restore", usb, new)
        self.assertIn(f"warning: {usb}: passing over 29991231-235959: it is read-only and has no received", result.err)
        self.assert_same(new / "snapshot" / name, usb / name)


class SpoiledProgramsElsewhere(SshTest):
    def test_what_only_another_machine_says(self) -> None:
        tools = self.folder / "spoiled"
        tools.mkdir()
        server, source, usb = self.sshd(path=path_with(tools)["PATH"]), self.source(), self.disk("usb").path
        there = f"{server.url}{source}"
        host = server.address
        table = {
            ("cat", "exit 0"): f"error: cannot find out on which filesystem '{source}' is\n"
            "  Is /proc/self/mountinfo readable?\n",
            ("stat", "echo Hello; exit 0"): "error: cannot understand what 'stat' printed: 'Hello'\n"
            "  A login shell must not print anything by itself when commands are run by ssh.\n",
            ("flock", "echo 'flock: bad weather' >&2; exit 66"): f"error: cannot lock the snapshot folder '{source}/"
            f"snapshot': flock on {host}: flock: bad weather\n",
        }
        for (name, script), message in table.items():
            with self.subTest(name):
                make_program(tools, name, script)
                result = self.backup(*server.arguments(), there, usb, status=1)
                (tools / name).unlink()
                self.assertEqual(result.err, message)
        make_program(tools, "flock", "echo 'flock: not found' >&2; exit 127")
        result = self.backup("-q", *server.arguments(), there, usb)
        self.assertEqual(
            result.err,
            "warning: there is no program 'flock' on 127.0.0.1: take care that no two runs work on one folder there at "
            "the same time\n",
        )

    def test_what_fails_there(self) -> None:
        tools = self.folder / "spoiled"
        server, source, usb = self.sshd(path=path_with(tools)["PATH"]), self.source(), self.disk("usb").path
        self.backup(source)
        for program, message in {
            "stat": f"cannot look at '{source}'",
            "readlink": f"cannot resolve '{source}'",
            "find": f"cannot list '{source}/snapshot'",
        }.items():
            with self.subTest(program):
                fake = make_program(tools, program, f"echo '{SPOILED}' >&2; exit 9") / program
                result = self.backup(*server.arguments(), f"{server.url}{source}", usb, status=1)
                fake.unlink()
                self.assertIn(f"error: {message}: {program} on {server.address}: {SPOILED}\n", result.err)

    def test_a_host_that_is_not_there(self) -> None:
        source = self.source()
        result = self.backup("--ssh-opt=BatchMode=maybe", source, "ssh://localhost/b", status=10)
        self.assertIn("error: ssh://localhost/b: cannot connect to localhost: ssh: ", result.err)
        self.assertIn("\n  See the values of '--ssh-opt': each is what 'ssh -o' takes, such as Port=22.\n", result.err)
        sh("btrfs", "subvolume", "show", source / "snapshot" / names(source / "snapshot")[0])
