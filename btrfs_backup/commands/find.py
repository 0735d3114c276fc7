"""Find the versions of a file or folder in snapshots and backups. Changes nothing."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from posixpath import dirname, join

from btrfs_backup.commands.destination import stand
from btrfs_backup.commands.run import open_source
from btrfs_backup.errors import Absent, Failure
from btrfs_backup.model import inventory
from btrfs_backup.model.location import Scheme
from btrfs_backup.model.settings import Settings
from btrfs_backup.model.versions import Found, Look, Versions, Wanted, parse
from btrfs_backup.system import btrfs, state, tools
from btrfs_backup.system.folder import Folder, portions
from btrfs_backup.system.host import Hosts
from btrfs_backup.system.process import CommandFailed
from btrfs_backup.system.ssh import Access

log = logging.getLogger(__name__)

_MOST_NAMES = 20  # under which something is followed in each direction


def find(settings: Settings, publish: Callable[[Versions], None]) -> None:
    """Look for what SETTINGS name, and PUBLISH what was found so far. Raises Failure when nothing was."""
    wanted = Wanted.read(settings.find, settings.source.path)
    seen: list[tuple[Folder | None, Look]] = []
    with Hosts(Access(settings.ssh_options, settings.ssh_sudo)) as hosts:
        source = open_source(settings, hosts)
        known, _ = state.read(source.host, source.folder.path, aside=False)
        place = settings.source.identity.removesuffix(settings.source.path) + source.folder.path
        seen.append((source.folder, _look(place, source.folder, settings, wanted, snapshots=True)))
        for each in settings.destinations:
            if each.scheme is Scheme.SHELL:
                log.warning("%s: not searched: what a shell command did with the streams cannot be read", each)
                continue
            try:
                there, _ = stand(hosts.at(each), each, settings, known)
                seen.append((there, _look(each.identity, there, settings, wanted)))
            except Failure as failure:
                absent = isinstance(failure, Absent) and settings.skip_absent
                seen.append((None, Look(each.identity, failure=None if absent else failure)))
                log.log(logging.INFO if absent else logging.ERROR, "%s: %s", each, failure)
        looks = [look for _, look in seen]
        for folder, look in [] if wanted.rest else seen:
            _complete(folder, look, looks) if folder else None
    found = Versions(settings.find, looks)
    publish(found)
    if not found.all:
        what = f"no snapshot or backup that could be looked at holds '{settings.find}'"
        raise Failure(what, "Is it spelled as in SOURCE? Wildcards need quotes: '*.jpg'.")


def _look(place: str, there: Folder, settings: Settings, wanted: Wanted, snapshots: bool = False) -> Look:
    """What is in the folder THERE. Raises Failure."""
    held = there.inventory(settings.naming, names_suffice=snapshots)
    names = tuple((inventory.snapshots(held) if snapshots else inventory.backups(held, {})).complete)
    things: dict[str, dict[str, Found]] = {} if wanted.rest else {"/".join(wanted.start): {}}
    for (name, path), found in _found(there, names, wanted).items():
        things.setdefault(path, {})[name] = found
    if not wanted.rest:
        for order in (names[::-1], names):
            _follow(there, things["/".join(wanted.start)], order)
    return Look(place, names, things)


def _found(there: Folder, names: Sequence[str], wanted: Wanted) -> Mapping[tuple[str, str], Found]:
    """What WANTED names in the snapshots NAMES, without what is behind a symbolic link. Raises Failure."""
    found: dict[tuple[str, str], Found] = {}
    start = "/".join(wanted.start)
    above = start if wanted.rest else dirname(start)
    for some in portions(names, lambda name: there.at(join(name, start))):
        starts = [there.at(join(name, start)).rstrip("/") for name in some]
        folders = [there.at(join(name, above)).rstrip("/") for name in some]
        listing = tools.versions(len(wanted.rest), *wanted.last, *starts)
        listed, resolved = there.host.ended_together(listing, tools.resolve_all(*folders))
        # Where there is none, both say so, and end with 1.
        if listed.status not in (0, 1) or resolved.status not in (0, 1) or "Permission denied" in listed.said:
            raise CommandFailed(listed if listed.status else resolved, f"cannot search '{there.path}'")
        plain = set(_text(resolved.stdout).split("\0"))
        for (name, path), each in parse(_text(listed.stdout), there.path).items():
            if wanted.fits(path) and join(there.info.path, name, above).rstrip("/") in plain:
                found[name, path] = each
    return found


def _follow(there: Folder, thing: dict[str, Found], order: Iterable[str]) -> None:
    """Add to THING what it is called in those snapshots, in this ORDER, that come behind all in which it was found."""
    order = list(order)
    for _ in range(_MOST_NAMES if thing else 0):
        last = max(map(order.index, thing))
        inode, beyond = thing[order[last]].inode, order[last + 1 :]
        path = _called(there, beyond[0], inode) if beyond else ""
        if not path:
            return
        found = _found(there, beyond, Wanted(tuple(path.split("/"))))
        thing |= {name: each for (name, _), each in found.items() if each.inode == inode}
        if max(map(order.index, thing)) == last:
            return


def _complete(there: Folder, look: Look, looks: Sequence[Look]) -> None:
    """Add to a LOOK what is known from others to have another path in the same snapshots. Raises Failure."""
    for path, thing in look.versions.items():
        known = {name: each for other in looks for name, each in other.versions.get(path, {}).items()}
        lacking = [name for name in look.names if name in known and name not in thing]
        for called in {known[name].path for name in lacking} - {path}:
            names = [name for name in lacking if known[name].path == called]
            found = _found(there, names, Wanted(tuple(called.split("/"))))
            thing |= {name: each for (name, _), each in found.items() if each.is_like(known[name])}


def _called(there: Folder, name: str, inode: int) -> str:
    """The path of INODE in the snapshot NAME, empty where it has none or that cannot be told. Raises Failure."""
    ended = there.host.ended(btrfs.resolve_inode(inode, there.at(name)))
    top = f"{there.at(name)}/"
    # A file may have several names; each begins a line, and may hold newlines.
    first = _text(ended.stdout).removesuffix("\n").split(f"\n{top}")[0]
    return "" if ended.status else first.removeprefix(top)


def _text(printed: bytes) -> str:
    return printed.decode(errors="surrogateescape")
