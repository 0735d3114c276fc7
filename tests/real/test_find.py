"""`--find`: the versions of a file or folder. `--restore BACKUP/FILE`: one of them."""

import json
import os
import re
import signal
from datetime import datetime
from pathlib import Path

from btrfs_backup.system import hints
from tests.real.machine import RealTest, extent, names, sh, wait_for, with_program
from tests.real.sshd import SshTest

ODD = os.fsdecode(b"-\xff\n [1]'.txt")


def rows(out: str) -> list[tuple[str, str, str, str, str]]:
    """Of the table: from, to, size, where, and the copy."""
    found = re.findall(r"^(\S+)  (\S*) +(\S+ B|\S+ kB|folder)  \S+ \S+  (.+)\n    (.+)$", out, re.MULTILINE)
    return [tuple(map(str.strip, each)) for each in found]  # type: ignore[misc]


class Versions(RealTest):
    def setUp(self) -> None:
        super().setUp()
        self.home = self.source()
        self.snapshots = self.home / "snapshot"
        self.snapshots.mkdir()
        self.day = 0

    def take(self) -> str:
        self.day += 1
        name = f"202601{self.day:02}-000000"
        sh("btrfs", "subvolume", "snapshot", "-r", self.home, self.snapshots / name)
        return name

    def test_a_life(self) -> None:
        """A file is written, renamed, deleted, and made anew."""
        file, usb = self.home / "folder" / ODD, self.disk("usb").path
        file.write_text("one")
        one = self.take(), self.take()
        file.write_text("three")
        three = self.take()
        self.backup("-q", "-S", self.home, usb)
        os.rename(file, self.home / "other")
        four = self.take()
        os.rename(self.home / "other", file)
        file.write_text("fives")
        os.utime(file, ns=(0, 5_000_000_000))
        five = self.take()
        file.unlink()
        self.take()
        file.write_text("fives")
        os.utime(file, ns=(0, 5_000_000_000))
        seven = self.take()
        result = self.backup("--find", f"folder/{ODD}", self.home, usb)
        shown, other = "folder/-\\xff\\n [1]'.txt", "other"
        self.assertTrue(result.out.startswith(f"source: {self.snapshots}\n1: {usb}\n\n"), result)
        self.assertEqual(
            rows(result.out),
            [
                (*one, "3 B", "source, 1", f"{self.snapshots}/{one[1]}/{shown}"),
                (three, "", "5 B", "source, 1", f"{self.snapshots}/{three}/{shown}"),
                (five, "", "5 B", "source", f"{self.snapshots}/{five}/{shown} (deleted in between)"),
                (seven, "", "5 B", "source", f"{self.snapshots}/{seven}/{shown} (deleted in between, made anew)"),
            ],
        )
        self.assertIn(datetime.fromtimestamp(5).strftime("%Y-%m-%d %H:%M:%S"), result.out)
        self.assertEqual(self.backup("-q", "--find", file, self.home, usb).out, result.out)
        told = json.loads(self.backup("--json", "--find", "other", self.home, usb).out)
        self.assertEqual((told["command"], told["exit_status"]), ("find", 0))
        first = told["versions"][0]
        self.assertEqual((first["first"], first["last"], first["bytes"]), (*one, 3))
        self.assertEqual(first["path"], f"folder/{ODD}")
        self.assertEqual(first["places"], [str(self.snapshots), str(usb)])
        notes = [(each["first"], each["path"], each["note"]) for each in told["versions"]]
        self.assertIn((four, other, f"renamed from folder/{ODD}"), notes)
        self.assertEqual(Path(first["copy"]).read_text(), "one")

    def test_renamed_several_times(self) -> None:
        """Also into other folders, and in backups whose snapshots are gone."""
        usb = self.disk("usb").path
        for name in ("a", "b", "folder/c", "folder/d"):
            os.rename(self.home / "file", self.home / "now") if self.day else None
            os.rename(self.home / ("now" if self.day else "file"), self.home / name)
            self.take()
            os.rename(self.home / name, self.home / "file")
        self.backup("-q", "-S", "-N1", self.home, usb)
        for wanted in ("a", "b", "folder/d"):
            out = self.backup("--find", wanted, self.home, usb).out
            found = [(copy.rpartition("-000000/")[2], where) for _, _, _, where, copy in rows(out)]
            expected = [
                ("a", "1"),
                ("b (renamed from a)", "1"),
                ("folder/c (renamed from b)", "1"),
                ("folder/d (renamed from folder/c)", "source, 1"),
            ]
            self.assertEqual(found, expected, out)

    def test_wildcards(self) -> None:
        for name in ("a1.txt", "a2.txt", "a3", "[1].txt"):
            (self.home / "folder" / name).write_text(name)
        self.take()
        table = {
            "folder/*.txt": ["[1].txt", "a1.txt", "a2.txt"],
            "f*/a?.txt": ["a1.txt", "a2.txt"],
            "*/[1].txt": ["[1].txt"],
            "folder/[1].txt": ["[1].txt"],
            "./folder//a3/": ["a3"],
        }
        for wanted, expected in table.items():
            out = self.backup("--find", wanted, self.home).out
            self.assertEqual([copy.rpartition("/")[2] for *_, copy in rows(out)], expected, out)
        self.assertEqual(
            [size for _, _, size, _, _ in rows(self.backup("--find", "folder", self.home).out)], ["folder"]
        )

    def test_processes_do_not_depend_on_how_many_snapshots_there_are(self) -> None:
        counts = []
        for _ in range(2):
            for _ in range(10):
                self.take()
            counts.append(self.backup("-v", "debug", "--find", "file", self.home).err.count("running: "))
        self.assertEqual(counts[0], counts[1])

    def test_nothing(self) -> None:
        """Neither what is not there, nor what is behind a link."""
        (self.home / "way").symlink_to("/etc")
        self.take()
        for wanted in ("none", "way/passwd", "way/pass*"):
            result = self.backup("--find", wanted, self.home, status=1)
            self.assertIn(
                f"no snapshot or backup that could be looked at holds '{wanted}'\n  Is it spelled", result.err
            )
        self.assertEqual(len(rows(self.backup("--find", "way", self.home).out)), 1)
        fails = with_program(self.folder / "bin", "readlink", 'case "$*" in *-z*) exit 7; esac; exec $REAL "$@"')
        result = self.backup("--find", "file", self.home, env=fails, status=1)
        self.assertIn(f"cannot search '{self.snapshots}': readlink: it ended with exit status 7", result.err)
        for wanted in ("/elsewhere/file", "../file", "/", str(self.home)):
            result = self.backup("--find", wanted, self.home, status=2)
            self.assertIn(f"'{wanted}' is no path of a file or folder in '{self.home}'\n  Give it", result.err)

    def test_places_that_are_away(self) -> None:
        """Are told of, and the others are searched."""
        usb, none = self.disk("usb").path, "ssh://127.0.0.1:1/none"
        self.take()
        self.backup("-q", "-S", self.home, usb)
        away = self.disk("away")
        self.backup("-q", "-S", self.home, away.path / "b")
        away.unmount()
        result = self.backup("--find", "file", self.home, usb, away.path / "b", none, "shell://cat >&2", status=10)
        self.assertEqual(rows(result.out)[0][3], "source, 1")
        self.assertIn("the disk is absent", result.err)
        self.assertIn("shell://cat >&2: not searched: what a shell command did", result.err)
        self.backup("--skip-absent-dests", "--find", "file", self.home, usb, away.path / "b", none)


class OverSsh(SshTest):
    def test_sudo(self) -> None:
        """With a rename that is followed."""
        server, home, nas = self.sshd(), self.source(), self.disk("nas").path
        (home / "folder" / ODD).write_text("one")
        self.backup("-q", home, nas)
        os.rename(home / "folder" / ODD, home / "new")
        self.backup("-q", "-N1", home, nas)
        self.user("/bin/sh")
        programs = ("btrfs", "cat", "find", "readlink", "stat")
        self.sudoers(f"{self.login} ALL=(root) NOPASSWD: {', '.join(f'/usr/bin/{each}' for each in programs)}\n")
        url = server.url.replace("//", f"//{self.login}@")
        for source in (home, f"{url}{home}"):
            out = self.backup(*server.arguments(), "--ssh-sudo", "--find", "new", source, f"{url}{nas}").out
            first, second = names(nas)
            place = source if source == home else f"{url}{home}"
            expected = [
                (first, "", "3 B", "1", f"{url}{nas}/{first}/folder/-\\xff\\n [1]'.txt"),
                (
                    second,
                    "",
                    "3 B",
                    "source, 1",
                    f"{place}/snapshot/{second}/new (renamed from folder/-\\xff\\n [1]'.txt)",
                ),
            ]
            self.assertEqual(rows(out), expected)


class Tree(RealTest):
    """A snapshot of files with all that they can have."""

    def setUp(self) -> None:
        super().setUp()
        self.home = self.source()
        at = self.home / "folder" / ODD
        at.write_bytes(os.urandom(100_000))
        os.setxattr(at, "user.note", b"x\0y")
        os.setxattr(self.home / "folder", "trusted.note", b"z")
        os.chown(at, 1000, 1001)
        at.chmod(0o4751)
        os.link(at, self.home / "folder" / "same")
        (self.home / "folder" / "-empty").mkdir()
        (self.home / "folder" / "20200101-000000" / "x").mkdir(parents=True)
        (self.home / "nowhere").symlink_to("/nowhere")
        os.utime(at, ns=(0, 1_234_567_890_123_456_789))
        os.utime(self.home / "folder", ns=(0, 1_234_567_890_123_456_789))
        self.backup("-q", self.home)
        [name] = names(self.home / "snapshot")
        self.snapshot = self.home / "snapshot" / name

    def assert_alike(self, one: Path, other: Path) -> None:
        """With owner, mode, time, and attributes."""
        for each in (one, *one.rglob("*")):
            same = other / each.relative_to(one)
            for fact in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_nlink"):
                if not (fact == "st_size" and each.is_dir()):
                    self.assertEqual(getattr(each.lstat(), fact), getattr(same.lstat(), fact), (each, fact))
            self.assertEqual(
                {
                    name: os.getxattr(each, name, follow_symlinks=False)
                    for name in os.listxattr(each, follow_symlinks=False)
                },
                {
                    name: os.getxattr(same, name, follow_symlinks=False)
                    for name in os.listxattr(same, follow_symlinks=False)
                },
            )
            if each.is_file() and not each.is_symlink():
                self.assertEqual(each.read_bytes(), same.read_bytes())


class OneFile(Tree):
    def test_here(self) -> None:
        """A folder, a file, a link: on the same filesystem the data is shared."""
        to = self.home / "-back"
        result = self.backup("--restore", self.snapshot / "folder", to)
        self.assertIn(f"{to}: copied {self.snapshot / 'folder'}\n", result.err)
        self.assert_alike(self.snapshot / "folder", to)
        self.assertEqual(extent(to / ODD), extent(self.snapshot / "folder" / ODD))
        self.backup("-q", "--restore", self.snapshot / "folder" / "20200101-000000" / "x", self.home / "x")
        self.assertTrue((self.home / "x").is_dir())
        self.backup("-q", "--restore", self.snapshot / "nowhere", self.home / "there")
        self.assertEqual(os.readlink(self.home / "there"), "/nowhere")
        usb = self.disk("usb").path
        told = json.loads(self.backup("--json", "--restore", self.snapshot / "folder" / ODD, usb / ODD).out)
        self.assertEqual((told["done"], told["backup"], told["sent"]), (True, self.snapshot.name, None))
        self.assertEqual((usb / ODD).read_bytes(), (to / ODD).read_bytes())
        self.assertEqual(list(usb.iterdir()), [usb / ODD])

    def test_nothing_is_overwritten(self) -> None:
        (self.home / "dangling").symlink_to("nothing")
        (self.home / "taken").mkdir()
        for name in ("file", "dangling", "taken"):
            to = self.home / name
            for more in ((), ("--dry-run",)):
                result = self.backup(*more, "--restore", self.snapshot / "folder", to, status=1)
                self.assertIn(f"there is something at '{to}' already\n  Give another name", result.err)
        out = self.backup("--dry-run", "--restore", self.snapshot / "folder", self.home / "new").out
        self.assertEqual(out, f"{self.home / 'new'}: would copy {self.snapshot / 'folder'}\n")
        self.assertFalse((self.home / "new").exists())
        race = with_program(self.folder / "bin", "mv", f'echo later >{self.home / "new"}; exec $REAL "$@"')
        result = self.backup("--restore", self.snapshot / "folder", self.home / "new", env=race, status=1)
        self.assertIn("there is something at '", result.err)
        self.assertEqual((self.home / "new").read_text(), "later\n")
        self.assertEqual(list(self.home.glob(".restoring*")), [])

    def test_failures(self) -> None:
        (self.home / "way").symlink_to("folder")
        self.backup("-q", self.home)
        newest = self.home / "snapshot" / names(self.home / "snapshot")[-1]
        to = self.home / "new"
        table = (
            (newest / "none", to, f"there is no '{newest / 'none'}'\n  '--find' tells"),
            (newest / "none" / "none", to, f"there is no '{newest / 'none' / 'none'}'"),
            (newest / "way" / "same", to, f"a symbolic link leads to '{newest / 'way' / 'same'}', out of its place"),
            (
                newest / "file",
                to / "to",
                f"the folder '{to}', in which it is to be, does not exist\n  Make it: mkdir -p",
            ),
        )
        plain = self.home / "folder-20260101-000000"
        (plain / "20260101-000000").mkdir(parents=True)
        result = self.backup("--restore", plain / "file", to, status=1)
        self.assertIn(f"'{plain / 'file'}' is in no backup that is there\n  Is the disk mounted", result.err)
        for what, where, words in table:
            self.assertIn(words, self.backup("--restore", what, where, status=1).err)
        for program, words in {
            "cp": f"cannot copy '{newest / 'file'}': cp: no",
            "mkdir": f"cannot make a folder beside '{to}': mkdir: no",
            "mv": "to its place: mv: no",
        }.items():
            fails = with_program(self.folder / f"bin-{program}", program, "echo no >&2; exit 1")
            self.assertIn(words, self.backup("--restore", newest / "file", to, env=fails, status=1).err)
        self.assertEqual(list(self.home.glob(".restoring*")), [])
        self.assertFalse(to.exists())

    def test_ended(self) -> None:
        """Nothing of it is left."""
        slow = with_program(self.folder / "bin", "cp", f'$REAL "$@"; touch {self.folder}/begun; sleep 60')
        command = self.start("--restore", self.snapshot / "folder", self.home / "new", env=slow)
        wait_for((self.folder / "begun").exists)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=30)
        self.assertEqual(command.returncode, 128 + signal.SIGINT, err)
        self.assertIn(f"{self.home / 'new'}: ended by SIGINT; it is not restored; run the same command again", err)
        self.assertEqual([*self.home.glob(".restoring*"), *self.home.glob("new")], [])


class OneFileOverSsh(SshTest, Tree):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.sshd()

    def test_here(self) -> None:
        """To another machine, from there, and between two; also under sudo."""
        usb, options, url = self.disk("usb").path, self.server.arguments(), self.server.url
        self.backup(*options, "--restore", self.snapshot / "folder", f"{url}{usb}/-pushed")
        self.assert_alike(self.snapshot / "folder", usb / "-pushed")
        self.user("/bin/sh")
        self.sudoers(hints.sudo_rule(self.login) + "\n")
        user = url.replace("//", f"//{self.login}@")
        self.backup(*options, "--ssh-sudo", "--restore", f"{user}{self.snapshot}/folder/{ODD}", usb / "pulled")
        self.assertEqual((usb / "pulled").read_bytes(), (self.snapshot / "folder" / ODD).read_bytes())
        self.backup(*options, "--ssh-sudo", "--restore", f"{user}{self.snapshot}/folder", f"{user}{usb}/there")
        self.assert_alike(self.snapshot / "folder", usb / "there")
        other = url.replace("//", "//root@")
        self.backup(
            *options,
            "--restore",
            f"{url}{self.snapshot}/folder",
            f"{other}{usb}/relayed",
        )
        self.assert_alike(self.snapshot / "folder", usb / "relayed")
        fails = with_program(self.folder / "bin", "tar", "echo no >&2; exit 1")
        result = self.backup(*options, "--restore", f"{url}{self.snapshot}/file", usb / "new", env=fails, status=1)
        self.assertIn("cannot copy", result.err)
        self.assertEqual(sorted(each.name for each in usb.iterdir()), ["-pushed", "pulled", "relayed", "there"])
