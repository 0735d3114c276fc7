"""What is done in stages, and to what is in them, on a host whose programs are made up."""

import unittest
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from unittest.mock import patch

from btrfs_backup.cli import parser
from btrfs_backup.commands.destination import BackupFolder
from btrfs_backup.errors import Failure, LockHeld
from btrfs_backup.model.snapshot import Subvolume
from btrfs_backup.model.stage import Stage
from btrfs_backup.system import btrfs, paths, stages
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.folder import Folder
from btrfs_backup.system.host import Host
from btrfs_backup.system.lock import Held
from btrfs_backup.system.mounts import Mount
from btrfs_backup.system.paths import PathInfo
from btrfs_backup.system.process import Command, Ended
from btrfs_backup.system.stages import Attempt
from btrfs_backup.system.tools import title

NAME, OTHER = "20261124-120000", "20261125-120000"
ENTRY, ATTEMPT = f".{NAME}.receiving", "nas-1-0123abcd"
UUIDS = {name: f"{digit * 8}-aaaa-bbbb-cccc-{digit * 12}" for name, digit in ((NAME, "1"), (OTHER, "2"), ("mine", "3"))}
BROKEN = "ERROR: the disk says no"


@dataclass(frozen=True)
class MadeUp(Host):
    """failing: programs that fail, by the beginnings of their command lines. held: the subvolumes there, by paths.

    stuck: UUIDs of those that cannot be deleted. inode: of the mount point. ran: command lines, but for those that ask.
    """

    failing: tuple[str, ...] = ()
    held: dict[str, str] = field(default_factory=dict)
    stuck: tuple[str, ...] = ()
    inode: int = 256
    ran: list[str] = field(default_factory=list)

    def ended(self, argv: Argv, ahead: Sequence[Sequence[Argv]] = ()) -> Ended:
        line = " ".join(argv)
        asks = ("btrfs subvolume list", "btrfs filesystem show", "stat", "cat")
        if not line.startswith(asks):
            self.ran.append(line)
        if line.startswith(self.failing):
            return Ended(Command(argv, title(argv)), 1, b"", BROKEN)
        return Ended(Command(argv, title(argv)), 0, self.printed(argv, line).encode(), "")

    def ended_together(self, *argvs: Argv) -> list[Ended]:
        return [self.ended(argv) for argv in argvs]

    def in_turn(self, argvs: Sequence[Argv], ahead: Sequence[Sequence[Argv]] = ()) -> list[Ended]:
        return self.ended_together(*argvs)

    def printed(self, argv: Argv, line: str) -> str:
        if line.startswith("btrfs filesystem show"):
            return f"Label: none  uuid: {UUIDS['mine']}\n"
        if line.startswith("btrfs subvolume list"):
            return "".join(
                f"ID {256 + int(uuid[0])} gen 9 top level 5 parent_uuid - received_uuid - uuid {uuid} path {path}\n"
                for path, uuid in self.held.items()
            )
        if line.startswith("btrfs subvolume delete") and "-i" in argv:
            number = argv[argv.index("-i") + 1]
            self.delete(lambda path, uuid: str(256 + int(uuid[0])) == number and self.inode == 256)
        elif line.startswith("btrfs subvolume delete"):
            self.delete(lambda path, uuid: f"/{path}" in argv)
        return f"{self.inode}\n" if line.startswith("stat -c %i") else ""

    def delete(self, meant: Callable[[str, str], bool]) -> None:
        for path in [path for path, uuid in self.held.items() if meant(path, uuid) and uuid not in self.stuck]:
            del self.held[path]


def folder(host: Host) -> Folder:
    return Folder(host, "/usb", PathInfo("/usb", True, True, False, Mount("/", "/", "btrfs")))


def subvolume(name: str) -> Subvolume:
    return Subvolume(name, UUIDS[name], id=256 + int(UUIDS[name][0]))


class Deleting(unittest.TestCase):
    def delete(self, host: MadeUp, *names: str) -> dict[str, str]:
        failures = folder(host).delete([subvolume(name) for name in names])
        return {name: failure.message for name, failure in failures.items()}

    def test_by_numbers(self) -> None:
        """Whatever has its path by then is not deleted."""
        host = MadeUp(held={f"usb/{NAME}": UUIDS[NAME], "usb/moved": UUIDS[OTHER], f"usb/{OTHER}": UUIDS["mine"]})
        self.assertEqual(self.delete(host, NAME), {})
        self.assertEqual(host.ran, ["btrfs subvolume delete -i 257 /", "btrfs filesystem sync /usb"])
        self.assertEqual(list(host.held), ["usb/moved", f"usb/{OTHER}"])

    def test_another_one_has_its_name(self) -> None:
        host = MadeUp(held={f"usb/{NAME}": UUIDS["mine"]})
        self.assertEqual(self.delete(host, NAME), {NAME: f"another subvolume has the name '/usb/{NAME}' by now"})
        self.assertEqual(host.ran, [])

    def test_one_that_has_gone(self) -> None:
        host = MadeUp(held={"usb/mine": UUIDS["mine"]})
        self.assertEqual((self.delete(host, NAME), host.ran), ({}, []))

    def test_what_fails(self) -> None:
        """Each on its own; success is believed only of what has gone."""
        held = {f"usb/{name}": UUIDS[name] for name in (NAME, OTHER)}
        host = MadeUp(failing=("btrfs subvolume delete -i 257",), held=dict(held))
        words = {NAME: f"cannot delete '/usb/{NAME}': btrfs subvolume delete: {BROKEN}"}
        self.assertEqual((self.delete(host, NAME, OTHER), list(host.held)), (words, [f"usb/{NAME}"]))
        host = MadeUp(held=dict(held), stuck=(UUIDS[NAME],))
        words = {NAME: "'btrfs subvolume delete' did not fail, but what it deleted is still there, in '/usb'"}
        self.assertEqual((self.delete(host, NAME, OTHER), list(host.held)), (words, [f"usb/{NAME}"]))
        host = MadeUp(held=dict(held))
        listed = host.ended(btrfs.list_children("/usb")).stdout.decode()
        with patch.object(MadeUp, "run", side_effect=[listed, Failure("the connection broke")]):
            self.assertEqual(self.delete(host, NAME, OTHER), dict.fromkeys((NAME, OTHER), "the connection broke"))
        host = MadeUp(failing=("btrfs subvolume list",), held=dict(held))
        failures = self.delete(host, NAME, OTHER)
        self.assertEqual((list(failures), host.ran), ([NAME, OTHER], []))

    def test_where_numbers_are_not_taken(self) -> None:
        """In a bind mount of a folder: by their paths, where the list has them."""
        host = MadeUp(failing=("btrfs subvolume delete -i",), held={"usb/moved": UUIDS[NAME]}, inode=300)
        with patch.object(paths, "entries", return_value={}):
            self.assertEqual((self.delete(host, NAME), host.held), ({}, {}))
        self.assertEqual(host.ran[2], "btrfs subvolume delete -c /usb/moved")

    def test_by_paths_without_success(self) -> None:
        failing = ("btrfs subvolume delete", "find")
        host = MadeUp(failing=failing, held={f"usb/{NAME}": UUIDS[NAME]}, inode=300)
        self.assertEqual(self.delete(host, NAME), {NAME: f"cannot delete in '/usb': btrfs subvolume delete: {BROKEN}"})


class Identifying(unittest.TestCase):
    def test_a_filesystem_that_cannot_be_identified(self) -> None:
        with self.assertRaisesRegex(Failure, "^cannot identify the filesystem of '/usb': btrfs filesystem show: "):
            folder(MadeUp(failing=("btrfs filesystem show",))).filesystem()


class Places(unittest.TestCase):
    def test_copies_of_a_filesystem_are_not_one_folder(self) -> None:
        """Its UUID and the path are the same on two machines."""
        settings = parser.parse(["-T", "/home", "/usb", "ssh://nas/usb"])
        with patch.object(paths, "entries", return_value={}):
            found = [
                BackupFolder(place, folder(MadeUp()), "uuid", settings).seen(folder(MadeUp()))
                for place in settings.destinations
            ]
        self.assertEqual([each.filesystem for each in found], ["uuid", "uuid"])
        self.assertEqual([each.inside for each in found], ["/usb", "nas/usb"])


class Listing(unittest.TestCase):
    def test_what_is_not_in_the_folder(self) -> None:
        """Another machine may print anything in place of a list."""
        for found in ("/etc/passwd\0", "/usb2/x\0", "/usb/\0", "x\0", "/usb/x\0/other\0"):
            with self.subTest(found), self.assertRaisesRegex(Failure, "cannot understand what 'find' printed"):
                folder(MadeUp())._kinds(found)
        self.assertEqual(folder(MadeUp())._kinds("/usb/x\0/usb/x\0"), {"x": "subvolume"})


class Stages(unittest.TestCase):
    def test_mounted_anew(self) -> None:
        """Then nobody knows what of the data is on disk."""
        known = ("uuid", "boot 1")
        for found, anew in ((known, False), (("uuid", "boot 2"), True), (("another", "boot 1"), True)):
            with self.subTest(found), patch.object(Folder, "mounting", return_value=found):
                failure = Attempt(folder(MadeUp()), ENTRY, ATTEMPT, known, Held()).remounted()
                self.assertEqual("mounted again while data came in" in str(failure), anew)
        with patch.object(Folder, "mounting", side_effect=Failure("the connection broke")):
            self.assertEqual(
                str(Attempt(folder(MadeUp()), ENTRY, ATTEMPT, known, Held()).remounted()), "the connection broke"
            )

    def attempt(self, host: Host) -> Attempt:
        return Attempt(folder(host), ENTRY, ATTEMPT, ("", ""), Held())

    def test_messages(self) -> None:
        """What is told when a program fails there."""
        left = Stage(ENTRY, NAME, (ATTEMPT,))

        def open_one(host: Host) -> None:
            with stages.opened(folder(host), NAME, frozenset()):
                pass

        def go_on(host: Host) -> None:
            with stages.opened(folder(host), NAME, frozenset(), left):
                pass

        table: list[tuple[str, Callable[[Host], None], str]] = [
            ("mkdir", open_one, f"cannot make the stage '/usb/{ENTRY}': mkdir: "),
            ("mkdir", go_on, f"cannot go on in the stage '/usb/{ENTRY}': mkdir: "),
            (
                "btrfs subvolume snapshot",
                lambda host: self.attempt(host).publish([NAME]),
                f"cannot publish the backup '/usb/{NAME}': btrfs subvolume snapshot: ",
            ),
            ("rm ", lambda host: stages.remove(folder(host), left), f"cannot remove the stage '/usb/{ENTRY}': rm: "),
            (
                "rmdir",
                lambda host: stages.remove(folder(host), left),
                f"cannot remove the stage '/usb/{ENTRY}': rmdir: ",
            ),
        ]
        for program, act, words in table:
            with self.subTest(program), self.assertRaises(Failure) as caught:
                act(MadeUp(failing=(program,)))
            self.assertEqual(caught.exception.message, f"{words}{BROKEN}")

    def test_links_that_cannot_be_looked_for(self) -> None:
        """On another machine; here they are looked at one by one."""

        @dataclass(frozen=True)
        class Far(MadeUp):
            connection: object = object()  # type: ignore[assignment]

        with self.assertRaisesRegex(Failure, f"cannot look for links in '/usb/{NAME}': find: {BROKEN}"):
            folder(Far(failing=("find",))).plain(NAME)

    def test_another_run_goes_on_as_well(self) -> None:
        """Of two that have made their attempts at the same time, at least one sees the other."""
        host, left = MadeUp(), Stage(ENTRY, NAME, (ATTEMPT,))
        for others, alone in (((), True), (("other-2-0123abcd",), False)):

            def found(self: Folder, others: tuple[str, ...] = others) -> object:
                [made] = [line.rpartition("/")[2] for line in host.ran if line.startswith("mkdir")]
                return dict.fromkeys([ENTRY, *(f"{ENTRY}/{each}" for each in (ATTEMPT, made, *others))]), {}

            host.ran.clear()
            with (
                patch.object(Folder, "found", found),
                patch("btrfs_backup.system.lock.staged", lambda *_, **__: nullcontext(Held())),
            ):
                if alone:
                    with stages.opened(folder(host), NAME, frozenset(), left) as attempt:
                        self.assertEqual((attempt.entry, attempt.earlier), (ENTRY, left))
                    continue
                with (
                    self.assertRaisesRegex(LockHeld, f"'/usb/{NAME}' is being received already"),
                    stages.opened(folder(host), NAME, frozenset(), left),
                ):
                    self.fail("both go on")
            [made] = [line for line in host.ran if line.startswith("mkdir")]
            self.assertEqual(host.ran[-1], made.replace("mkdir -m 700", "rmdir"))

    def test_published(self) -> None:
        """Read-only, the oldest first; nothing goes on when one fails."""
        lines = [f"btrfs subvolume snapshot -r /usb/{ENTRY}/{ATTEMPT}/{name} /usb/{name}" for name in (NAME, OTHER)]
        host = MadeUp()
        with patch.object(paths, "entries", return_value={}):
            self.attempt(host).publish([NAME, OTHER])
        self.assertEqual(host.ran, lines)
        host = MadeUp(failing=(lines[0],))
        with self.assertRaises(Failure):
            self.attempt(host).publish([NAME, OTHER])
        self.assertEqual(host.ran, lines[:1])

    def test_removed(self) -> None:
        """Subvolumes by their numbers, then its attempts, then the stage, which has to be empty then."""
        host = MadeUp(held={f"usb/{ENTRY}/{ATTEMPT}/{NAME}": UUIDS[NAME], f"usb/{NAME}": UUIDS["mine"]})
        stages.remove(folder(host), Stage(ENTRY, NAME, (ATTEMPT,), (subvolume(NAME),)))
        self.assertEqual(
            host.ran,
            [
                "btrfs subvolume delete -i 257 /",
                "btrfs filesystem sync /usb",
                f"rm -rf -- /usb/{ENTRY}/{ATTEMPT}",
                f"rmdir -- /usb/{ENTRY}",
            ],
        )
        self.assertEqual(list(host.held), [f"usb/{NAME}"])

    def test_a_mark_of_an_older_version(self) -> None:
        host = MadeUp()
        stages.remove(folder(host), Stage(ENTRY, NAME))
        self.assertEqual(host.ran, [f"rmdir -- /usb/{ENTRY}"])

    def test_a_subvolume_that_stays(self) -> None:
        """Then nothing around it is removed."""
        host = MadeUp(held={f"usb/{ENTRY}/{ATTEMPT}/{NAME}": UUIDS[NAME]}, stuck=(UUIDS[NAME],))
        with self.assertRaisesRegex(Failure, "is still there"):
            stages.remove(folder(host), Stage(ENTRY, NAME, (ATTEMPT,), (subvolume(NAME),)))
        self.assertEqual({line.split(" ")[1] for line in host.ran}, {"subvolume", "filesystem"})


if __name__ == "__main__":
    unittest.main()
