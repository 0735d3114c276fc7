"""The command lines of the file tools, those of another machine as well as ours. No I/O here.

What `--serve` answers is built by the same functions (see commands.serve).
"""

import itertools
import re
from collections.abc import Sequence
from posixpath import dirname, join

from btrfs_backup.model.snapshot import STUB_INODE
from btrfs_backup.system import btrfs
from btrfs_backup.system.btrfs import Argv

BOOT_ID = "/proc/sys/kernel/random/boot_id"  # random(4)
# It has a folder for each filesystem that is mounted. Seen: each mounting gets a new inode number; with a second mount
# of the same filesystem, and a remount, it stays.
_MOUNTED = "/sys/fs/btrfs"
# Prints the number of each with its path.
_NUMBERED = ("-exec", "stat", "-c", "%i %n", "{}", "+")
MOUNTED: Argv = ("find", _MOUNTED + "/", "-mindepth", "1", "-maxdepth", "1", "-name", "*-*-*-*-*", *_NUMBERED)
PROBE_FLOCK: Argv = ("flock", "-V")

# Neither the links of folders tell anything, nor the size of what is no file. %P is the path below the top, in which
# there is no //.
_FACTS = r"%y %m %U:%G {} %T@ {} %P//%l\0"
_FOLDER, _FILE, _OTHER = (_FACTS.format(*each) for each in (("-", "-"), ("%n", "%s"), ("%n", "-")))
# With -z names are printed as they are. Nothing else tells sha256sum, which may print nothing for hours, that nobody
# waits any more: it is ended when its stdin ends, which is that of find, also through ssh and sudo.
_HASH = (
    'exec 3<&0; sha256sum -z -- "$@" & hash=$!; { read -r end <&3; kill $hash; } & '
    "wait $hash; code=$?; kill $!; exit $code"
)
_GETFATTR = ("getfattr", "-d", "-m", "-", "-e", "hex", "-h", "--absolute-names", "--")
PROBE_ATTRIBUTES: Argv = (*_GETFATTR, "/")  # whether there is one that knows the options
# What find has to do to list all but the data and the extended attributes, and to list these. By way of find, nothing
# else needs a rule under sudo.
_STAT = ("-exec", "stat", "--printf", r"%t:%T %n\0", "{}", "+")  # find does not know the numbers of devices
_FOLDER_OR_FILE = ("-type", "d", "-printf", _FOLDER, "-o", "-type", "f", "-printf", _FILE)
ENTRIES: Argv = (*_FOLDER_OR_FILE, "-o", "-printf", _OTHER, "(", "-type", "b", "-o", "-type", "c", ")", *_STAT)
CHECKSUMS: Argv = ("-type", "f", "-exec", "sh", "-c", _HASH, "sh", "{}", "+")
ATTRIBUTES: Argv = ("-exec", *_GETFATTR, "{}", "+")
LISTS = (ENTRIES, CHECKSUMS, ATTRIBUTES)


def title(argv: Argv) -> str:
    """How messages call ARGV: the program and its subcommands, `btrfs subvolume delete`."""
    words = itertools.takewhile(lambda word: word[:1].isalpha(), argv[1:3] if argv[0] == "btrfs" else ())
    return " ".join((argv[0], *words))


def ancestors(path: str) -> list[str]:
    """PATH and the folders above it, up to the root."""
    found = [path]
    while found[-1] not in ("/", ""):
        found.append(dirname(found[-1]))
    return found


def look(path: str) -> Argv:
    """Prints inode number and mode of PATH and of all above it, as far as they exist, that of a folder PATH twice.

    What is mounted when it is used is not mounted when it is looked at, but when something in it is.
    """
    return ("stat", "-L", "-c", "%i %f", "--", join(path, "."), *ancestors(path))


def resolve(path: str) -> Argv:
    return ("readlink", "-f", "--", path)


def read(path: str) -> Argv:
    return ("cat", "--", path)


def inode(path: str) -> Argv:
    return ("stat", "-c", "%i", "--", path)


def length(path: str) -> Argv:
    """Prints the bytes of a file."""
    return ("stat", "-c", "%s", "--", path)


def mounting(uuid: str) -> str:
    """The path of what has another inode number whenever the filesystem UUID is mounted again."""
    return f"{_MOUNTED}/{uuid}"


def filesystem_id(path: str) -> Argv:
    """Prints the number that btrfs.filesystem_among understands."""
    return ("stat", "-f", "-c", "%i", "--", path)


def entries(path: str) -> Argv:
    """Lists what is in the folder PATH, and what is in the stages and the attempts in these."""
    # Names may hold newlines, hence -print0; the path of a subvolume comes twice, that of a folder three times.
    # The slash follows a link.
    top = path.rstrip("/") + "/"
    inside = re.sub(r"([][*?\\])", r"\\\1", top) + ".*.receiving*"
    subvolume = ("-type", "d", "-inum", str(btrfs.SUBVOLUME_INODE), *["-print0"] * 2)
    kinds = ("(", *subvolume, "-o", "-type", "d", *["-print0"] * 3, "-o", "-print0", ")")
    return ("find", top, "-mindepth", "1", "-maxdepth", "3", *kinds, "(", "-path", inside, "-o", "-prune", ")")


def write_out(path: str) -> Argv:
    """Has all that the filesystem of PATH holds on disk.

    Without that, a backup whose machine loses its power within half a minute is read-only and has its received UUID
    afterwards, and lacks data. It fails when data could not be written since (syncfs(2)).
    """
    return ("sync", "-f", "--", path)


def make_folder(path: str) -> Argv:
    """Makes it with its parents; nobody else can look into it."""
    return ("mkdir", "-p", "-m", "700", "--", path)


def make_stage(stage: str, attempt: str) -> Argv:
    """Makes the folder ATTEMPT in a STAGE that is made, too. It goes on behind what it could not make."""
    return ("mkdir", "-m", "700", "--", stage, attempt)


def remove_folder(path: str) -> Argv:
    return ("rmdir", "--", path)


def remove_tree(path: str) -> Argv:
    """Removes it with all that is in it; links are not followed."""
    return ("rm", "-rf", "--", path)


def remove_file(path: str) -> Argv:
    return ("rm", "-f", "--", path)


def make_attempt(attempt: str) -> Argv:
    """Makes an attempt in a stage that is there."""
    return ("mkdir", "-m", "700", "--", attempt)


def head(size: int) -> Argv:
    """Hands on the first SIZE bytes, and not one more is read."""
    return ("dd", "bs=1", f"count={size}")


_BLOCK = 1 << 20


def _just(count: int) -> str:
    """Hands on COUNT bytes and reads no more. Seen: head of busybox reads up to a block more."""
    blocks, rest = divmod(count, _BLOCK)
    pieces = ((_BLOCK, blocks), (rest or 1, min(rest, 1)))
    reads = "; ".join(f"dd bs={size} count={number} iflag=fullblock" for size, number in pieces)
    return f"{{ {reads}; }} 2>/dev/null"


def leave_out(head: int, lengths: Sequence[int]) -> Argv:
    """Hands on HEAD bytes, in place of what has these LENGTHS the hashes, as sha256sum prints them, and the rest."""
    hashed = (f"{_just(length)} | sha256sum" for length in lengths)
    return ("sh", "-c", "; ".join((_just(head), *hashed, "exec cat")))


def leaves_out(argv: Argv) -> bool:
    """Whether ARGV is what `leave_out` makes."""
    *begin, script = argv if len(argv) == 3 else ("", "")
    some = r"dd bs=\d{1,7} count=\d{1,14} iflag=fullblock"
    just = rf"\{{ {some}; {some}; \}} 2>/dev/null"
    return begin == ["sh", "-c"] and bool(re.fullmatch(rf"{just}(; {just} \| sha256sum)*; exec cat", script, re.ASCII))


def hold(path: str, shared: bool = False) -> Argv:
    """Holds a lock on PATH as long as its input lasts, which it prints when it has it; ends with 1 when others do."""
    return ("flock", "-n", *(["-s"] if shared else []), path, "cat")


def hold_folder(folder: str, shared: bool = False) -> Argv:
    """The same for a FOLDER; flock makes a file of that name where nothing is, unless told that it is a folder."""
    return hold(f"{folder}/.", shared)


def is_held(folder: str) -> Argv:
    """Ends with 1 when somebody holds a lock on FOLDER."""
    return ("flock", "-n", f"{folder}/.", "true")


def locked(folder: str, argv: Argv) -> Argv:
    """ARGV, which shares the lock on FOLDER as long as it runs."""
    return ("flock", "-n", "-s", f"{folder}/.", *argv)


def versions(depth: int | str, name: str, same: str, *starts: str) -> Argv:
    """Lists what is at STARTS, or so many folders below them, and has a name like one of two patterns."""
    deep = ("-mindepth", str(depth), "-maxdepth", str(depth))
    return ("find", *starts, *deep, "(", "-name", name, "-o", "-name", same, ")", "-printf", r"%i %y %s %T@ %p\0")


# Extended attributes of all kinds, and access control lists, which are of another kind for tar.
_TAR = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")


def pack(folder: str, name: str) -> Argv:
    """Writes NAME in FOLDER, with all that is in it, as an archive."""
    return ("tar", "--create", "--format=posix", "--sparse", *_TAR, "-C", folder, "--", f"./{name}")


def unpack(folder: str) -> Argv:
    """Reads an archive into FOLDER. GNU tar does not let it lead out of there."""
    return ("tar", "--extract", "--same-owner", "--preserve-permissions", *_TAR, "-C", folder)


def copy(path: str, to: str) -> Argv:
    """Copies PATH with all that is in it; on one filesystem the data is shared."""
    return ("cp", "-R", "-d", "--preserve=all", "--reflink=auto", "--", path, to)


def move(path: str, to: str) -> Argv:
    """Moves PATH to the name TO unless there is something, without a word."""
    return ("mv", "-n", "-T", "--", path, to)


def resolve_all(*paths: str) -> Argv:
    """Prints where each of PATHS leads to, as far as it is there."""
    return ("readlink", "-f", "-z", "--", *paths)


LINKS: Argv = ("-type", "l", "-printf", r"%P\0")


def find(top: str, what: Argv) -> Argv:
    """find in the folder TOP, without the stubs of nested subvolumes, which are not sent."""
    return ("find", f"{top}/", "-xdev", "-type", "d", "-inum", str(STUB_INODE), "-prune", "-o", *what)
