"""Where streams come from and go to: a folder of snapshots or backups on a host, and a shell command."""

import fcntl
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from posixpath import basename, join

from btrfs_backup.errors import Failure
from btrfs_backup.model import cutter, stage
from btrfs_backup.model.cutter import Checkpoint
from btrfs_backup.model.inventory import Inventory
from btrfs_backup.model.sendstream import BrokenStream, beginning, uuid_text
from btrfs_backup.model.snapshot import Naming, Subvolume
from btrfs_backup.model.stage import Stage
from btrfs_backup.system import btrfs, hints, lock, paths, ssh, tools
from btrfs_backup.system.btrfs import Argv
from btrfs_backup.system.host import Host
from btrfs_backup.system.paths import PathInfo, examine, is_plain
from btrfs_backup.system.process import DECLINED, Command, CommandFailed, Ended, Pipeline, lacking

# A login shell gets a command line as one argument, of 128 KiB at most (execve(2), MAX_ARG_STRLEN).
_LONGEST_LINE = 120_000
AT_ONCE = 16  # commands that delete
_SUBVOLUME_INFO = 0x81F8943C  # BTRFS_IOC_GET_SUBVOL_INFO
_FS_INFO = 0x8400941F  # BTRFS_IOC_FS_INFO: what it tells has 1024 bytes, the UUID from the 16th on


@dataclass(frozen=True)
class Sending:
    """The form of a stream. compress: method on the way through ssh, or "no"; compressed_data: send protocol 2."""

    debug: bool = False
    compress: str = "no"
    compressed_data: bool = False


@dataclass(frozen=True)
class Folder:
    """A folder that holds snapshots or backups. path: absolute, on HOST; info: what was found at the path."""

    host: Host
    path: str
    info: PathInfo

    def at(self, name: str) -> str:
        return join(self.path, name)

    @property
    def exists(self) -> bool:
        return self.info.exists

    def inside(self, name: str) -> "Folder":
        """The folder NAME in it, which exists."""
        return Folder(self.host, self.at(name), replace(self.info, path=join(self.info.path, name), exists=True))

    def free(self) -> int | None:
        """Bytes that are free on its filesystem, None when that is not known. Raises Failure."""
        ended = self.host.ended(btrfs.usage(self.info.path))
        return None if ended.status else btrfs.parse_usage(os.fsdecode(ended.stdout))

    def created(self) -> "Folder":
        """It, made with its parents when it is missing. Raises Failure."""
        if self.exists:
            return self
        self.create()
        return look(self.host, self.path)

    def create(self) -> None:
        """Make it, with its parents; nobody else can look into it. Raises Failure."""
        self.host.run(tools.make_folder(self.path), f"cannot create the folder '{self.path}'")

    def filesystem(self) -> str:
        """UUID of the filesystem that it is on. Raises Failure."""
        return self._identified(self.host.ended_together(*self._identity()))[0]

    def mounting(self) -> tuple[str, str]:
        """The UUID of its filesystem, and what is another one whenever that is mounted again. Raises Failure."""
        if not self.host.connection:
            uuid, number = self._identified([])
            with lacking(f"cannot read '{tools.BOOT_ID}'"), open(tools.BOOT_ID, encoding="ascii") as file:
                return uuid, f"{file.read()}{number}"
        *told, boot = self.host.ended_together(*self._mounted())
        uuid, number = self._identified(told)
        return uuid, f"{os.fsdecode(boot.stdout)}{number}"

    def made(self, argv: Argv, trying: str) -> tuple[str, str]:
        """What `mounting` tells behind ARGV, which makes something in it. Raises Failure like `Host.run`."""
        self.host.run(argv, trying, [[each] for each in self._mounted()])
        return self.mounting()

    def _identity(self) -> list[Argv]:
        """What tells which filesystem it is on, when it is on another machine."""
        return _identity(self.info.path) if self.host.connection else []

    def proving(self, inside: str, parent: str | None) -> list[list[Argv]]:
        """What tells, on another machine, what `write_out`, `mounting`, `found` in the folder INSIDE it and
        `show_parent` of PARENT ask for in turn."""
        parents = [[btrfs.show(self.at(parent))], self._head(parent)] if parent else []
        asked = (tools.write_out(self.path), *self._mounted(), *_listing(self.at(inside)))
        return [*([argv] for argv in asked), *parents]

    def _mounted(self) -> list[Argv]:
        return [*self._identity(), tools.read(tools.BOOT_ID)]

    def _identified(self, told: Sequence[Ended]) -> tuple[str, str]:
        """The UUID of its filesystem, and the number of its mounting, by what was TOLD. Raises Failure."""
        known, numbers = None, {}
        if self.host.connection:
            fsid, found = (os.fsdecode(ended.stdout) for ended in told)
            rows = (row.partition(" ") for row in found.splitlines())
            numbers = {basename(path): number for number, _, path in rows}
            known = btrfs.filesystem_among(fsid.strip(), list(numbers))
        elif known := _filesystem_here(self.info.path):
            with suppress(OSError):
                numbers[known] = str(os.stat(tools.mounting(known)).st_ino)
        if known:
            return known, numbers.get(known, "")
        # Works for mount points only, and when no other mount of btrfs is covered. Seen: it overlooks one while other
        # filesystems are mounted and unmounted.
        argv = btrfs.filesystem_show(self.info.mount.point)
        ended = self.host.ended(argv)
        trying = f"cannot identify the filesystem of '{self.path}'"
        printed = self.host.run(argv, trying) if ended.status else os.fsdecode(ended.stdout)
        return btrfs.parse_filesystem_uuid(printed), ""

    def label(self, filesystem: str) -> str:
        """The label of the FILESYSTEM of that UUID that it is on; empty when there is none, or on another machine."""
        with suppress(OSError), open(f"/sys/fs/btrfs/{filesystem}/label", "rb") as file:
            return "" if self.host.connection else os.fsdecode(file.read()).strip()
        return ""

    def inventory(self, naming: Naming, names_suffice: bool = False) -> Inventory:
        """What it holds under names of NAMING. Raises Failure.

        The number of processes does not depend on how much that is, except for what seems to be cut off. When
        NAMES_SUFFICE, a user without the right to list subvolumes gets them without UUIDs, one process for each.
        """
        if not self.exists:
            return Inventory(exists=False)
        entries, endings = self._look_into()
        without_rights = names_suffice and endings[0].status and btrfs.NOT_PERMITTED in endings[0].said
        listed, readonly = ("", "") if without_rights else self._printed(endings)
        ours = [name for name in sorted(entries) if name in naming]
        wanted = [name for name in ours if entries[name] == stage.SUBVOLUME]
        rows: Sequence[tuple[str, Subvolume]] = []
        if without_rights:
            below = {name: self._without_uuids(name) for name in wanted}
        else:
            rows = btrfs.parse_list(listed, readonly)
            below = _subvolumes(rows, self.info.mount.inside(self.info.path))
        if unlisted := [name for name in wanted if name not in below]:
            raise Failure(
                f"'{self.at(unlisted[0])}' is a subvolume, but 'btrfs subvolume list' does not show it once",
                "Look at it with 'btrfs subvolume show'; delete or rename it if it is not yours.",
            )
        own = {below[name].received_uuid for name in wanted}
        received = Counter(each.received_uuid for _, each in rows if each.received_uuid)
        return Inventory(
            {name: self._looked_at(below[name]) for name in wanted},
            frozenset(name for name in ours if entries[name] != stage.SUBVOLUME),
            tuple(
                self.stage_at(entry, name, entries, below)
                for entry in sorted(entries)
                if (name := stage.name_of(entry)) and name in naming
            ),
            elsewhere=frozenset(uuid for uuid, count in received.items() if count > (uuid in own)),
        )

    def stage_at(self, entry: str, name: str, entries: Mapping[str, str], below: Mapping[str, Subvolume]) -> Stage:
        """What was found as ENTRY; ENTRIES and the subvolumes BELOW: by their paths from here."""
        start = f"{entry}/"
        inside = {path.removeprefix(start): kind for path, kind in entries.items() if path.startswith(start)}
        staged = {path.removeprefix(start): each for path, each in below.items() if path.startswith(start)}
        found = stage.found(entry, name, entries[entry], inside, staged)
        if found.attempts and lock.is_held(self.host, self.at(entry)):
            return replace(found, holder=stage.who(found))
        return replace(found, subvolumes=self._with_change(entry, staged)) if found.subvolumes else found

    def _with_change(self, entry: str, staged: Mapping[str, Subvolume]) -> tuple[Subvolume, ...]:
        """Those STAGED in ENTRY, with when that was changed which a transfer would go on behind. Raises Failure."""
        known = dict(sorted(staged.items()))
        for far in (False, True):
            while ahead := cutter.checkpoints(known.values(), far):
                path = next(path for path, each in known.items() if each.uuid == ahead[-1].source)
                if known[path].changed_transid is not None:
                    break
                [begun] = self.host.piped_together(self._head(join(entry, path)))
                known[path] = replace(known[path], changed_transid=_transid(begun) or 0)
        return tuple(known.values())

    def _without_uuids(self, name: str) -> Subvolume:
        trying = f"cannot ask whether '{self.at(name)}' is read-only"
        return Subvolume(name, "", readonly="ro=true" in self.host.run(btrfs.get_readonly(self.at(name)), trying))

    def names(self) -> list[str]:
        """The names of all its entries, none when it does not exist. Raises Failure."""
        if not self.exists:
            return []
        return [path for path in self._entries() if "/" not in path]

    def _kinds(self, found: str) -> dict[str, str]:
        """The kind of each entry in what tools.entries prints, by its path from here. Raises Failure.

        Another machine may print anything: what is not in the folder says nothing of it.
        """
        counts, top = Counter(found.split("\0")[:-1]), self.path.rstrip("/") + "/"
        if strange := next((path for path in counts if not path.startswith(top) or path == top), None):
            raise Failure(
                f"cannot understand what 'find' printed: {strange[:200]!r} is not in '{self.path}'",
                "A login shell must not print anything by itself when commands are run by ssh.",
            )
        kinds = {1: stage.FILE, 2: stage.SUBVOLUME, 3: stage.FOLDER}
        return {path.removeprefix(top): kinds.get(count, stage.FILE) for path, count in counts.items()}

    def _looked_at(self, entry: Subvolume) -> Subvolume:
        """ENTRY as it is shown when it is listed as writable: on this it depends whether it is deleted."""
        if entry.readonly or not entry.uuid:
            return entry
        return replace(self.show(entry.name), name=entry.name, parent_received_uuid=entry.parent_received_uuid)

    def show(self, name: str) -> Subvolume:
        """What btrfs tells of the subvolume NAME in it. Raises Failure."""
        printed = self.host.run(btrfs.show(self.at(name)), f"cannot look at '{self.at(name)}'")
        return btrfs.parse_show(printed)

    def show_parent(self, name: str) -> Subvolume:
        """Like `show`, for a snapshot, with the transaction in which it was changed last, where that is known."""
        shown, begun = self.host.piped_together([btrfs.show(self.at(name))], self._head(name))
        if shown.status:
            raise CommandFailed(shown, f"cannot look at '{self.at(name)}'")
        return replace(btrfs.parse_show(os.fsdecode(shown.stdout)), changed_transid=_transid(begun))

    def _head(self, name: str) -> list[Argv]:
        """What writes the first command of its stream."""
        return [btrfs.send(self.at(name), None, data=False), tools.head(btrfs.BEGINNING)]

    def plain(self, name: str) -> Callable[[bytes], bool]:
        """Tells whether a path in the subvolume NAME leads to its end without a symbolic link. Raises Failure."""
        if not self.host.connection:
            return partial(is_plain, self.at(name))
        printed = self.host.run(tools.find(self.at(name), tools.LINKS), f"cannot look for links in '{self.at(name)}'")
        links = frozenset(map(os.fsencode, printed.split("\0")[:-1]))
        return lambda path: links.isdisjoint(itertools.accumulate(path.split(b"/"), lambda *names: b"/".join(names)))

    def writing_out(self) -> Command:
        """What has all that its filesystem holds on disk. Raises Failure."""
        return self.host.command(tools.write_out(self.path))

    def write_out(self) -> None:
        """Have all that its filesystem holds on disk. Raises Failure."""
        self.host.run(tools.write_out(self.path), f"cannot write out the filesystem of '{self.path}'")

    def delete(self, judged: Sequence[Subvolume], convert_rw: bool = False, commit: bool = True) -> dict[str, Failure]:
        """Delete the subvolumes that were JUDGED; the names of those that could not be, with the reasons.

        What has the name of one of them by now is deleted only when it is that one, by its UUID. Users without the
        right to list subvolumes have only names.
        """
        nameless = [each for each in judged if not each.uuid]
        failures = self._delete_by_path([each.name for each in nameless], convert_rw)
        proved = [each for each in judged if each.uuid]
        try:
            there = {each.uuid: path for path, each in self.listed().items()} if proved else {}
        except Failure as failure:
            return failures | {each.name: failure for each in proved}
        names = {path: uuid for uuid, path in there.items()}
        for each in proved:
            if each.uuid not in there and each.name in names:
                what = f"another subvolume has the name '{self.at(each.name)}' by now"
                failures[each.name] = Failure(what, "Nothing was deleted there; the next run judges it again.")
        wanted = [each for each in proved if each.uuid in there]
        if convert_rw:
            return failures | self._delete_by_path([there[each.uuid] for each in wanted], convert_rw)
        said: dict[str, Ended] = {}
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            argvs = [btrfs.delete_by_id(each.id, self.info.mount.point) for each in some]
            said |= {each.uuid: end for each, end in zip(some, self.host.ended_together(*argvs), strict=True)}
            if declined := next((end for end in said.values() if end.status == DECLINED), None):
                failed = CommandFailed(declined, f"cannot delete in '{self.path}'")
                return failures | {each.name: failed for each in wanted}
        if commit and wanted:
            # Seen: several 'btrfs subvolume delete -c' at once wait half a minute for each other's commit.
            self.host.ended(btrfs.commit(self.path), [[btrfs.list_children(self.path)]])
        try:
            return failures | self._not_deleted(wanted, said)
        except Failure as failure:
            return failures | {each.name: failure for each in wanted}

    def ask_before_deletion(self) -> None:
        """Ask another machine for what `filesystem` and `delete` begin with."""
        if self.host.connection:
            self.host.ask(*([argv] for argv in (*self._identity(), btrfs.list_children(self.path))))

    @property
    def declines_deletion(self) -> bool:
        """Whether its host deletes what is in it by itself. Raises Failure."""
        return self.host.connection is not None and self.host.ended(btrfs.PROBE_DELETE).status == DECLINED

    def _not_deleted(self, wanted: Sequence[Subvolume], said: Mapping[str, Ended]) -> dict[str, Failure]:
        """Those WANTED that are still there, with what btrfs SAID of each."""
        failures: dict[str, Failure] = {}
        left = {each.uuid: path for path, each in self.listed().items()} if wanted else {}
        if remaining := [each for each in wanted if each.uuid in left]:
            inode = self.host.ended(tools.inode(self.info.mount.point)).stdout.strip()
            if inode != b"%d" % btrfs.SUBVOLUME_INODE:
                # A bind mount of a folder; btrfs takes the number only at the root of a subvolume.
                return self._delete_by_path([left[each.uuid] for each in remaining], False)
        for each in remaining:
            undone = f"'btrfs subvolume delete' did not fail, but what it deleted is still there, in '{self.path}'"
            failed = CommandFailed(said[each.uuid], f"cannot delete '{self.at(each.name)}'")
            failures[each.name] = failed if said[each.uuid].status else Failure(undone, btrfs.DOUBT)
        return failures

    def found_behind(self, steps: Mapping[str, Argv]) -> tuple[dict[str, str], dict[str, Subvolume]]:
        """What is `found` behind STEPS, by what they are trying. Raises Failure, also when one of them fails.

        Here, nothing goes on then; another machine is asked for all of it in one go.
        """
        if not self.host.connection:
            for trying, argv in steps.items():
                self.host.run(argv, trying)
            return self.found()
        endings = self.host.in_turn(list(steps.values()), listing(self.path))
        for trying, ended in zip(steps, endings, strict=True):
            if ended.status:
                raise CommandFailed(ended, trying)
        return self.found()

    def found(self) -> tuple[dict[str, str], dict[str, Subvolume]]:
        """The kinds of all entries, and the subvolumes below it, by their paths from here. Raises Failure."""
        entries, endings = self._look_into()
        listed, readonly = self._printed(endings)
        return entries, _subvolumes(btrfs.parse_list(listed, readonly), self.info.mount.inside(self.info.path))

    def _look_into(self) -> tuple[dict[str, str], list[Ended]]:
        """The kinds of all entries, by their paths from here, and how the lists of subvolumes ended. Raises Failure."""
        found = {} if self.host.connection else self._entries()
        endings = self.host.ended_together(*self._asked())
        if self.host.connection:
            found = self._kinds(*self._printed([endings.pop()]))
        return found, endings

    def _asked(self) -> list[Argv]:
        return _listing(self.path) if self.host.connection else _lists(self.path)

    def _printed(self, endings: Sequence[Ended]) -> list[str]:
        for ended in endings:
            if ended.status:
                raise CommandFailed(ended, f"cannot list what is in '{self.path}'")
        return [os.fsdecode(ended.stdout) for ended in endings]

    def _entries(self) -> dict[str, str]:
        """The kinds of all entries, by their paths from here. Raises Failure."""
        if self.host.connection:
            return self._kinds(self.host.run(tools.entries(self.path), f"cannot list '{self.path}'"))
        try:
            return paths.entries(self.path)
        except OSError as error:
            why = error.strerror or ""
            what_to_do = hints.hint(why, "", os.geteuid() == 0)
            raise Failure(f"cannot list what is in '{self.path}': {why}", what_to_do) from None

    def listed(self) -> dict[str, Subvolume]:
        """The subvolumes below it, by their paths from here; all of them look writable. Raises Failure."""
        printed = self.host.run(btrfs.list_children(self.path), f"cannot list the subvolumes in '{self.path}'")
        return _subvolumes(btrfs.parse_list(printed), self.info.mount.inside(self.info.path))

    def _delete_by_path(self, paths: Sequence[str], convert_rw: bool) -> dict[str, Failure]:
        failures: dict[str, Failure] = {}
        # One by one when they are made writable: nobody may find several left half-way.
        for some in [[path] for path in paths] if convert_rw else portions(paths, self.at):
            try:
                for path in some if convert_rw else ():
                    self._make_writable(path)
                self.host.run(btrfs.delete([self.at(path) for path in some]), f"cannot delete in '{self.path}'")
            except Failure as failure:
                failures |= {basename(path): failure for path in self._still_there(some)}
        undone = f"'btrfs subvolume delete' did not fail, but what it deleted is still there, in '{self.path}'"
        supposed = [path for path in paths if basename(path) not in failures]
        return failures | {basename(path): Failure(undone, btrfs.DOUBT) for path in self._still_there(supposed)}

    def sync(self) -> None:
        """Wait until deleted subvolumes are really gone. Raises Failure.

        Seen: the kernel begins with them up to half a minute later, but at once behind a commit.
        """
        for argv in (btrfs.commit(self.path), btrfs.sync(self.path)):
            self.host.run(argv, f"cannot wait for deleted subvolumes in '{self.path}'")

    def _make_writable(self, name: str) -> None:
        trying = f"cannot make '{self.at(name)}' writable"
        try:
            self.host.run(btrfs.make_writable(self.at(name), force=False), trying)
        except Failure:
            self.host.run(btrfs.make_writable(self.at(name), force=True), trying)

    def _still_there(self, paths: Sequence[str]) -> list[str]:
        if not paths:
            return []
        try:
            found = self._entries()
        except Failure:
            return list(paths)
        return [path for path in paths if path in found]

    def sender(self, name: str, parent: str | None, how: Sending, ahead: Checkpoint | None = None) -> Pipeline:
        """What writes the stream of the snapshot NAME on top of PARENT. Raises Failure.

        AHEAD: that of another machine is written up to the head of that checkpoint, and goes on where it is; between
        the two come hashes of what is left out, so that the same has not to travel again.
        """
        argv = btrfs.send(self.at(name), self._parent(parent), how.debug, how.compressed_data)
        through = tools.leave_out(ahead.head, [length for length, _ in ahead.ranges]) if ahead else ()
        return self.host.sender(argv, how.compress, how.debug, through)

    def estimate(self, name: str, parent: str | None) -> Command:
        """What writes the same stream without the data. Raises Failure."""
        return self.host.command(btrfs.send(self.at(name), self._parent(parent), data=False))

    def _parent(self, name: str | None) -> str | None:
        return self.at(name) if name else None


def _filesystem_here(path: str) -> str | None:
    """UUID of the filesystem of PATH on this machine, None when the kernel does not tell (linux/btrfs.h)."""
    told = bytearray(1024)
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.ioctl(descriptor, _FS_INFO, told)
        finally:
            os.close(descriptor)
    return uuid_text(bytes(told[16:32])) if any(told[16:32]) else None


def made_at(path: str) -> tuple[str, int]:
    """The UUID of the subvolume at PATH on this machine, and when it was made, in seconds. Raises Failure.

    By struct btrfs_ioctl_get_subvol_info_args (linux/btrfs.h).
    """
    told = bytearray(504)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.ioctl(descriptor, _SUBVOLUME_INFO, told)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Failure(
            f"cannot tell when '{path}' was made: {error.strerror}", "This needs Linux 4.18 or later."
        ) from None
    return uuid_text(bytes(told[296:312])), int.from_bytes(told[392:400], "little")


def look(host: Host, path: str) -> Folder:
    """The folder at PATH, which need not exist. Changes nothing. Raises Failure."""
    return Folder(host, path, examine(host, path))


def _lists(path: str) -> list[Argv]:
    return [btrfs.list_children(path), btrfs.list_children(path, readonly_only=True)]


def _listing(path: str) -> list[Argv]:
    return [*_lists(path), tools.entries(path)]


def listing(path: str) -> list[list[Argv]]:
    """What the `inventory` of the folder PATH on another machine asks for."""
    return [[argv] for argv in _listing(path)]


def _identity(path: str) -> list[Argv]:
    return [tools.filesystem_id(path), tools.MOUNTED]


def asking(path: str) -> list[list[Argv]]:
    """What `look` at PATH on another machine, `filesystem`, `inventory` and `declines_deletion` ask for, in turn."""
    return [[argv] for argv in (*paths.asked(path), *_identity(path), *_listing(path), btrfs.PROBE_DELETE)]


def _transid(head: Ended) -> int | None:
    """The transaction in which that was changed last of whose stream this is the HEAD; None when that is not told."""
    with suppress(BrokenStream):
        first = beginning(head.stdout)
        return first.transid if first else None
    return None


def _subvolumes(rows: Sequence[tuple[str, Subvolume]], inside: str) -> dict[str, Subvolume]:
    """Those of ROWS, (path, subvolume), below the folder INSIDE its filesystem, by their paths from there.

    Without those that are listed more than once: a foreign subvolume may have a name that imitates a row.
    """
    times = Counter(path for path, _ in rows)
    received = {each.uuid: each.received_uuid for _, each in rows}
    start = f"{inside}/" if inside else ""
    return {
        # Asked for only of those that are writable.
        path.removeprefix(start): each
        if each.readonly
        else replace(each, parent_received_uuid=received.get(each.parent_uuid, ""))
        for path, each in rows
        if path.startswith(start) and times[path] == 1
    }


def portions(names: Sequence[str], path: Callable[[str], str]) -> list[list[str]]:
    """NAMES in as few portions as command lines can take, in which each one stands with its PATH."""
    portions: list[list[str]] = []
    room = 0
    for name in names:
        length = len(os.fsencode(ssh.quote(path(name)))) + 1
        room -= length
        if room < 0:
            portions.append([])
            room = _LONGEST_LINE - length
        portions[-1].append(name)
    return portions


def parent_is_to_blame(failed: Failure | None) -> bool:
    """Whether it was the receiver of an increment that FAILED, and for want of its parent."""
    if not isinstance(failed, CommandFailed) or not failed.ended.command.title.startswith("btrfs receive"):
        return False
    return btrfs.blames_parent(failed.ended.said)


@dataclass(frozen=True)
class Shell:
    """A shell command on this machine that takes streams, one at each start. It cannot be looked into."""

    host: Host
    command: str

    def receiver(self, snapshot: str, parent: str | None, prefix: str, source: str) -> Command:
        """What takes the stream of SNAPSHOT; it finds in its environment what it gets."""
        env = {
            "BTRFS_BACKUP_SNAPSHOT": snapshot,
            "BTRFS_BACKUP_PARENT": parent or "",
            "BTRFS_BACKUP_PREFIX": prefix,
            "BTRFS_BACKUP_SOURCE": source,
        }
        # In our session: it may have to ask for a passphrase.
        return Command(("sh", "-c", self.command), title="the shell command", own_session=False, env=env)
