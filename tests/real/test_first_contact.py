"""The first things that people do with a new program, most of them wrong: each answer helps."""

import json
import os
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

from tests.real.machine import COMPLETED, OUTSTANDING, TOP, RealTest, Result, names, sh, untimed
from tests.real.sshd import SshTest

NOBODY = 65534
OWN_FOLDER = "  Backups belong in a folder of their own, best on another disk.\n"


def warning(*destinations: object) -> str:
    """That these are on the disk of the source."""
    words = "on the same filesystem as the source: that is no protection against a dead disk"
    return "".join(f"warning: {each}: {words}\n" for each in destinations)


class CommandLine(RealTest):
    def test_nothing_at_all(self) -> None:
        self.assertEqual(
            self.backup(status=2).err,
            "error: no SOURCE is given\n  Example: btrfs-backup /home /mnt/usb/home; see 'btrfs-backup --help'.\n",
        )

    def test_an_option_that_does_not_exist(self) -> None:
        self.assertEqual(
            self.backup("--exclude", "/x", "/home", "/mnt", status=2).err,
            "error: unrecognized arguments: --exclude\n  'btrfs-backup --help' explains the options.\n",
        )

    def test_source_as_destination(self) -> None:
        source = self.source()
        result = self.backup(source, f"{source}/", status=2)
        self.assertEqual(result.err, f"error: the destination '{source}' is the source itself\n{OWN_FOLDER}")
        self.assertEqual(names(source), ["file", "folder", "link"])

    def test_a_remote_path_as_scp_has_it(self) -> None:
        result = self.backup(self.source(), "root@nas:/backups", status=2)
        self.assertEqual(
            result.err,
            "error: 'root@nas:/backups' looks like a path on another machine\n"
            "  Write 'ssh://root@nas/backups'. For a local folder of that name write './root@nas:/backups'.\n",
        )

    def test_help_into_a_pipe_that_nobody_reads(self) -> None:
        for option in ("--help", "--version", "--print-man", "--print-completion=zsh"):
            reader, writer = os.pipe()
            os.close(reader)
            result = self.run_command(option, stdout=writer)
            os.close(writer)
            self.assertEqual((result.status, result.err), (-13, ""), option)

    def test_manual_page_onto_a_full_disk(self) -> None:
        with open("/dev/full", "w") as full:
            result = self.run_command("--print-man", stdout=full)
        self.assertEqual(result.status, 1)
        self.assertEqual(
            result.err,
            "error: cannot print on the standard output: No space left on device\n"
            "  Is its reader gone, or the disk full?\n",
        )


class Places(RealTest):
    def ext4(self) -> Path:
        if not shutil.which("mkfs.ext4"):
            self.skipTest("mkfs.ext4 is not installed")
        image, point = self.folder / "ext4.img", self.folder / "ext4"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        sh("mkfs.ext4", "-q", image)
        point.mkdir()
        sh("mount", "-o", "loop", image, point)
        self.addCleanup(sh, "umount", point)
        return point

    def test_other_filesystems(self) -> None:
        source, ext4 = self.source(), self.ext4()
        self.assertEqual(
            self.backup(ext4, source.parent, status=1).err,
            f"error: the source '{ext4}' is not on btrfs but on ext4\n"
            "  Only subvolumes of a btrfs filesystem can be backed up.\n",
        )
        for destination, words in (
            (ext4, "it is not on btrfs but on ext4"),
            (ext4 / "new", "the folder does not exist, and would be on ext4 instead of btrfs"),
        ):
            self.assertIn(
                f"error: {destination}: {words}\n"
                "  Is the disk mounted? A destination has to be a folder on a btrfs filesystem.\n",
                self.backup(source, destination, status=10).err,
            )
        self.assertFalse((source / "snapshot" / OUTSTANDING).exists())
        self.assertEqual(names(ext4), ["lost+found"])

    def test_snapshots_elsewhere(self) -> None:
        """Nothing is created where a snapshot cannot be."""
        source, usb, ext4 = self.source(), self.disk("usb").path, self.ext4()
        for folder in (usb / "new" / "deep", usb, ext4 / "new", ext4):
            for options in ((), ("--dry-run",)):
                with self.subTest(folder, options=options):
                    self.assertEqual(
                        self.backup(*options, "-f", folder, source, usb / "b", status=1).err,
                        f"error: the snapshot folder '{folder}' is not on the filesystem of the source\n"
                        "  A snapshot has to be there: choose another folder with '-f', or mount what is missing.\n",
                    )
        self.assertEqual((names(usb), names(ext4)), ([], ["lost+found"]))

    def test_snapshots_from_elsewhere(self) -> None:
        """Where none is taken, those that are there may come from anywhere."""
        source, usb, other = self.source(), self.disk("usb").path, self.disk("other").path
        self.backup(source, usb)
        self.backup("-S", "-f", usb, source, other / "b")
        self.assert_complete(other / "b", source / "snapshot", names(usb))

    def test_swapped(self) -> None:
        """The backups may be in a plain folder, or right in a subvolume."""
        source, usb = self.source(), self.disk("usb").path
        for folder in (usb / "backups", usb):
            self.backup(source, folder)
            before = names(folder)
            result = self.backup(folder, source, status=1)
            self.assertEqual(
                result.err,
                f"error: the source '{folder}' holds what looks like backups ({names(source / 'snapshot')[-1]}): "
                "are SOURCE and DEST swapped?\n"
                f"  SOURCE comes first. If it is right all the same: mkdir {folder}/snapshot\n",
            )
            self.assertEqual((names(folder), names(source)), (before, ["file", "folder", "link", "snapshot"]))
        (usb / "snapshot").mkdir()
        self.backup(usb, source.parent / "of usb")

    def test_a_backup_as_source(self) -> None:
        """It is read-only, whether there is a folder for its snapshots or not."""
        source, usb = self.source(), self.disk("usb").path
        for _ in range(2):
            self.backup("-q", source, usb)
        for name in names(usb):
            result = self.backup(usb / name, source.parent / "restored", status=1)
            self.assertIn(f"the source '{usb / name}' is a read-only subvolume, as snapshots and backups", result.err)
            self.assertIn("Are SOURCE and DEST swapped? A backup is restored with '--restore'.", result.err)

    def test_on_the_disk_of_the_source(self) -> None:
        """A warning in the first run of each such destination; backups are made all the same."""
        source, usb = self.source(), self.disk("usb").path
        inside, beside = source / "backups", source.parent / "backups"
        result = self.backup("-q", source, inside, usb / "b", beside, "shell://cat > /dev/null")
        self.assertEqual(result.err, warning(inside, beside))
        for folder in (inside, beside, usb / "b"):
            self.assert_complete(folder, source / "snapshot", names(source / "snapshot"))
        # In full: in two folders of one disk the parent of an increment cannot be told from its copy.
        self.assertEqual(self.backup("-q", "-I", source, beside, usb / "b").err, "")
        self.assertIn(f"\n{beside}: on the same filesystem", self.backup(source, beside).err)

    def test_on_the_disk_of_the_source_by_another_mount(self) -> None:
        source = self.source()
        point = self.folder / "elsewhere"
        point.mkdir()
        sh("btrfs", "subvolume", "create", source.parent / "@backups")
        device = sh("findmnt", "-n", "-o", "SOURCE", source.parent).strip()
        sh("mount", "-o", "subvol=@backups", device, point)
        self.addCleanup(sh, "umount", point)
        self.assertEqual(self.backup("-q", source, point).err, warning(point))


class SameHost(SshTest):
    def test_on_the_disk_of_the_source_there(self) -> None:
        """It is told when both are on one other machine; that two names mean the same machine is not looked for."""
        server, source = self.sshd(), self.source()
        there = f"{server.url}{source.parent}"
        for place, target, wanted in (
            (f"{server.url}{source}", f"{there}/one", warning(f"{there}/one")),
            (source, f"{there}/two", ""),
        ):
            self.assertEqual(self.backup("-q", "-I", *server.arguments(), place, target).err, wanted)


class WithoutRights(RealTest):
    """As a user who is not root, with the program in one file, which that user can read."""

    def setUp(self) -> None:
        super().setUp()
        pythons = (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3")
        fit = "import sys; sys.exit(sys.version_info < (3, 10))"
        self.python = next((each for each in pythons if self.as_nobody(each, "-c", fit).status == 0), "")
        if not self.python:
            self.skipTest("there is no Python that everybody can run")
        self.folder.chmod(0o755)
        (self.folder / "z").mkdir()
        shutil.copytree(TOP / "btrfs_backup", self.folder / "z" / "btrfs_backup")
        zipapp.create_archive(self.folder / "z", self.folder / "program", main="btrfs_backup.__main__:run")

    def as_nobody(self, *argv: object) -> Result:
        options = {"user": NOBODY, "group": NOBODY, "extra_groups": (), "cwd": "/", "text": True}
        try:
            done = subprocess.run(list(map(str, argv)), capture_output=True, **options)  # type: ignore[call-overload]
        except OSError:
            return Result(126, "", "")
        return Result(done.returncode, done.stdout, done.stderr)

    def refused(self, *arguments: object, status: int, says: str) -> str:
        result = self.as_nobody(self.python, self.folder / "program", *arguments)
        self.assertEqual(result.status, status, result)
        self.assertIn(says, result.err)
        self.assertNotIn("Traceback", result.err)
        return result.err

    def test_each_thing_that_needs_root(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        root = "Run it as root, e.g. with sudo.\n"
        self.refused(source, usb, status=1, says=f"error: cannot create the folder '{source}/snapshot': mkdir: ")
        self.refused(source, usb, status=1, says=f"Permission denied\n  {root}")
        (source / "snapshot").mkdir()
        self.refused(source, usb, status=1, says=f"Operation not permitted\n  {root}")
        self.backup("-q", source)
        locked = f"error: cannot lock the snapshot folder '{source}/snapshot': Permission denied\n  Run it as root"
        err = self.refused(source, usb, status=1, says=locked)
        self.assertEqual(err.count("error: "), 1)
        (source / "snapshot").chmod(0o700)
        self.refused(
            source,
            usb,
            status=1,
            says=f"error: cannot look at '{source}/snapshot': Permission denied",
        )
        source.parent.chmod(0o700)
        self.refused(
            source,
            usb,
            status=1,
            says=f"error: cannot look at '{source.parent}': Permission denied",
        )

    def test_own_subvolume(self) -> None:
        """A snapshot of it can be taken; what goes on from there needs root, which is said once."""
        source, usb = self.source(), self.disk("usb").path
        for path in (source, usb):
            os.chown(path, NOBODY, NOBODY)
        err = self.refused(source, usb, usb / "b", status=10, says="\n  Run it as root, e.g. with sudo.\n")
        self.assertEqual((err.count("FAILED"), err.count("Run it as root")), (2, 1))
        self.assertEqual(len(names(source / "snapshot")), 1)


class WithoutBtrfsProgs(RealTest):
    def test_it_names_the_package(self) -> None:
        source, usb = self.source(), self.disk("usb").path
        tools = self.folder / "tools"
        tools.mkdir()
        for name in ("stat", "readlink", "find", "mkdir"):
            (tools / name).symlink_to(str(shutil.which(name)))
        result = self.backup(source, usb, status=1, env={"PATH": str(tools)})
        self.assertEqual(
            result.err,
            "error: cannot run btrfs subvolume show: there is no program 'btrfs' in PATH\n"
            "  Install the package btrfs-progs (btrfsprogs on openSUSE).\n",
        )


class AbsentDisk(RealTest):
    def test_on_a_root_filesystem_that_is_btrfs(self) -> None:
        """The folder of a disk that is not mounted is not taken for a destination."""
        source, root = self.source(), self.disk("root").path
        self.backup(source)
        [name] = names(source / "snapshot")
        (source / "snapshot" / COMPLETED).write_text(json.dumps({"/backups": {"0000": [name]}}))
        script = """
            mount --make-private "$0"
            for each in /*; do
                if [ -L "$each" ]; then cp -d "$each" "$0"; elif [ -d "$each" ]; then
                mkdir "$0$each" && mount --rbind "$each" "$0$each"; fi
            done
            root=$0; exec chroot "$root" "$@"
        """
        command = [sys.executable, "-m", "btrfs_backup", "-S", source, "/backups"]
        done = subprocess.run(
            ["unshare", "--mount", "--propagation=unchanged", "sh", "-e", "-c", script, str(root), *map(str, command)],
            env={**os.environ, "PYTHONPATH": str(TOP)},
            capture_output=True,
            text=True,
        )
        self.assertIn(
            "error: /backups: the disk is absent: the folder is on the root filesystem, and backups went to another "
            "filesystem\n"
            "  Mount it. If backups are to go to the root filesystem from now on, use '--remove-locks' once.\n",
            untimed(done.stderr),
        )
        self.assertEqual(done.returncode, 10)
        self.assertFalse((root / "backups").exists())
