"""The commands that the README and the manual show, run as they stand there: they print what is shown.

In a mount namespace of their own, with the disks of the examples. What is mounted at /data there is at /srv, a folder
that every machine has. `...` in an output stands for any lines; names of snapshots, sizes, times and UUIDs may differ.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.real.machine import TOP, RealTest, make_program, sh, untimed
from tests.real.sshd import SSHD, free_port

NAME = re.compile(r"\d{8}-\d{6}")
TAKEN = re.compile(rf"took snapshot \S*?({NAME.pattern})")

DISKS = """
export PATH={folder}/bin:$PATH LC_ALL=C COLUMNS=80 TMPDIR={folder}
sudo() {{ "$@"; }}
mount -t tmpfs none /mnt
disk() {{
    truncate -s 300M {folder}/$1.img
    mkfs.btrfs -q -f {folder}/$1.img
    mkdir -p $2
    mount -o loop {folder}/$1.img $2
}}
disk data /srv
disk usb /mnt/usb
disk disk2 /mnt/disk2
disk pool /mnt/pool
mkdir /mnt/box
pictures() {{
    for each in anna boat cake; do head -c 3M /dev/urandom >$1/$each.jpg; done
}}
photos() {{
    btrfs subvolume create /srv/photos
    pictures /srv/photos
}}
echo "{folder}/usb.img /mnt/usb btrfs loop 0 0" >{folder}/fstab
mount --bind {folder}/fstab /etc/fstab
{sshd} -D -e -f {folder}/sshd_config 2>{folder}/sshd.log &
"""

# The machines of each text: the heading at which a new one begins, and what is there then.
MACHINES = {
    "README.rst": {
        "btrfs-backup": "photos",
        "First backup": "mkdir /srv/old && pictures /srv/old",
    },
    "tour.rst": {"A recorded session": "photos"},
    "restore.rst": {"Restore": "photos; for each in 1 2; do btrfs-backup /srv/photos /mnt/usb/photos; done"},
    "failures.rst": {
        "When something fails": "photos; btrfs-backup /srv/photos /mnt/{usb,disk2}/photos; umount /mnt/disk2"
    },
    "destinations.rst": {"One folder for several sources": "photos; btrfs subvolume create /srv/music"},
    "status.rst": {
        "Look before and after": "photos; for each in 1 2; do btrfs-backup /srv/photos /mnt/usb/photos; done",
        "What is there: --status": "photos; btrfs-backup /srv/photos /mnt/{usb,disk2}/photos; umount /mnt/disk2; "
        "btrfs-backup /srv/photos /mnt/{usb,disk2}/photos",
        "How much space: --sizes": "photos; change() { head -c $1 /dev/urandom >/srv/photos/new.jpg; "
        "btrfs-backup /srv/photos /mnt/usb/photos; }; head -c 4M /dev/urandom >/srv/photos/old.jpg; change 2M; "
        "change 8M; rm /srv/photos/old.jpg; change 3M; change 1M; sleep 2",
    },
    "server.rst": {
        "A server that cannot be emptied": "photos; mkdir /mnt/pool/laptop; "
        "for each in 1 2; do btrfs-backup /srv/photos /mnt/pool/laptop/photos; done"
    },
    "timers.rst": {"Monitoring": "photos; btrfs-backup /srv/photos /mnt/usb/photos"},
    "json.rst": {"JSON": "photos; btrfs-backup /srv/photos /mnt/usb/photos"},
    "verify.rst": {"Verify": "photos; btrfs-backup /srv/photos /mnt/usb/photos"},
    "copy.rst": {
        "A new disk in place of an old one": "photos; for each in 1 2; do btrfs-backup /srv/photos /mnt/usb/photos; "
        "done; mkdir /mnt/disk2/photos"
    },
    "find.rst": {
        "Versions of a file": "photos; echo 1 2 3 >/srv/photos/todo.txt; touch -d '2026-11-24 08:46:55' "
        "/srv/photos/todo.txt; backup() { btrfs-backup /srv/photos /mnt/usb/photos; }; backup; backup; "
        "mv /srv/photos/todo.txt /srv/photos/list.txt; backup; echo 4 5 >>/srv/photos/list.txt; backup"
    },
    "diff.rst": {
        "What changed": "photos; btrfs-backup /srv/photos /mnt/usb/photos; cd /srv/photos; mkdir 2026; "
        "mv anna.jpg 2026; rm boat.jpg; head -c 2M /dev/urandom >2026/dog.jpg; chmod 600 cake.jpg; cd /; "
        "btrfs-backup /srv/photos /mnt/usb/photos"
    },
    "migration.rst": {
        "Coming from btrbk": "btrfs subvolume create /srv/music; mkdir /srv/btrbk /mnt/usb/old; "
        "btrfs subvolume snapshot -r /srv/music /srv/btrbk/music.20261124T0827; "
        "btrfs send /srv/btrbk/music.20261124T0827 | btrfs receive /mnt/usb/old"
    },
    "files.rst": {"Files and names": "photos; btrfs subvolume create /srv/music"},
}


@dataclass(frozen=True)
class Example:
    command: str
    output: str


def examples(text: str) -> list[Example]:
    """The commands behind `$` in the literal blocks of TEXT, each with what is shown below it."""
    found = []
    # Up to a line that is less indented than the first one.
    for block, _ in re.findall(r"::\n\n((?=( +)).*\n(?:\2.*\n|\n)*)", text + "\n"):
        for command, output in re.findall(r"^\$ ((?:.*\\\n)*.*)\n?((?:(?!\$ ).*\n?)*)", textwrap.dedent(block), re.M):
            found.append(Example(command, output.strip("\n")))
    return found


def parts(text: str, headings: Sequence[str]) -> Iterator[str]:
    """TEXT, divided at HEADINGS; what is before the first is left out."""
    starts = [re.search(rf"^{re.escape(each)}\n[=-]{{{len(each)}}}$", text, re.M) for each in headings]
    assert all(starts), headings
    places = [each.start() for each in starts if each] + [len(text)]
    yield from (text[begin:end] for begin, end in pairwise(places))


def alike(shown: str, printed: str) -> bool:
    """Whether PRINTED is what is SHOWN, except for what differs from run to run."""
    return re.fullmatch(_any(_plain(shown)), _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    """TEXT without what differs from run to run."""
    text = re.sub(r"\n {20,}|\n   (?=\S)", " ", text)  # the last column and the last lines of a table
    text = re.sub(r"\b\d+ (min|h|d|minutes?|hours?|days?)\b( \d+ (minutes?|hours?))?", "AGE", text)
    text = re.sub(r' \(disk "\w+"\)', "", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8}(?=\))", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z)?(\+\d\d:\d\d)?", "TIME", text)
    text = re.sub(r"\d{8}-\d{6}", "NAME", text)
    text = re.sub(r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE", text)
    text = re.sub(r"SIZE in [\d.]+ s(, SIZE/s)?", "SIZE", text)
    return re.sub(r"^ +|[ -]+$", "", re.sub(r" {2,}", "  ", text), flags=re.MULTILINE)


def _any(shown: str) -> str:
    """A pattern in which `...` stands for anything, and on a line of its own for any lines."""
    pattern = re.escape(shown).replace(r"\.\.\.", ".*?")
    return re.sub(r"(^|\\\n)\.\*\?(\\\n|$)", r"(?:.*)\n?", pattern)


class Machine:
    """A shell on a machine with the disks of the examples.

    BEGIN is run there first; the snapshots that it takes have these NAMES in the text.
    """

    def __init__(self, folder: Path, begin: str, names: Sequence[str]) -> None:
        make_tools(folder)
        self.names: dict[str, str] = {}
        self.shell = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        self.run(DISKS.format(folder=folder, sshd=SSHD))
        self.names.update(zip(names, TAKEN.findall(self.run(begin)), strict=False))

    def run(self, command: str) -> str:
        """What COMMAND prints."""
        assert self.shell.stdin and self.shell.stdout
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null 2>&1\necho === $?\n")
        self.shell.stdin.flush()
        lines = []
        for line in self.shell.stdout:
            if line.startswith("=== "):
                break
            lines.append(line)
        return untimed("".join(lines)).strip("\n")

    def perform(self, example: Example) -> str:
        """What its command prints here; names in it are those of the same snapshots here."""
        command = NAME.sub(lambda match: self.names.get(match[0], match[0]), example.command)
        printed = self.run(command.replace("/data", "/srv")).replace("/srv", "/data")
        self.names.update(zip(TAKEN.findall(example.output), TAKEN.findall(printed), strict=False))
        return printed

    def end(self) -> None:
        self.shell.kill()
        self.shell.communicate()


def make_tools(folder: Path) -> None:
    """The program and an ssh that knows the machine `nas`, in the bin of FOLDER."""
    port = free_port()
    (folder / "bin").mkdir()
    for key in ("host", "id"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
    settings = (
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/id.pub",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        "SetEnv HOME=/nowhere PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    )
    (folder / "sshd_config").write_text("\n".join(settings) + "\n")
    host = f"Host nas\nHostName 127.0.0.1\nPort {port}\nIdentityFile {folder}/id\nStrictHostKeyChecking no\n"
    (folder / "ssh_config").write_text(f"{host}UserKnownHostsFile /dev/null\nLogLevel ERROR\n")
    tools = {
        "btrfs-backup": f'PYTHONPATH={TOP} exec {sys.executable} -m btrfs_backup "$@"',
        "ssh": f'exec {shutil.which("ssh")} -F {folder}/ssh_config "$@"',
    }
    for name, line in tools.items():
        make_program(folder / "bin", name, line)


@unittest.skipUnless(SSHD, "needs root, and sshd (openssh-server)")
class Examples(RealTest):
    def test_they_print_what_is_shown(self) -> None:
        for name, machines in MACHINES.items():
            path = TOP / name if name == "README.rst" else TOP / "btrfs_backup" / "manual" / name
            text = path.read_text(encoding="utf-8")
            for (heading, begin), part in zip(machines.items(), parts(text, list(machines)), strict=True):
                self.assertTrue(examples(part), heading)
                machine = Machine(Path(tempfile.mkdtemp(dir=self.folder)), begin, sorted({*NAME.findall(part)}))
                self.addCleanup(machine.end)
                for example in examples(part):
                    printed = machine.perform(example)
                    with self.subTest(f"{name}: {example.command}"):
                        if not alike(example.output, printed):
                            self.fail(f"shown:\n{example.output}\nprinted:\n{printed}")
                machine.end()


if __name__ == "__main__":
    unittest.main()
