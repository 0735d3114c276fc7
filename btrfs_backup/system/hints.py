"""What to do about a message of btrfs, the kernel, ssh or sudo. Pure."""

import re

from btrfs_backup.errors import DISK_FULL, READ_ONLY

_COREUTILS = ("cat", "chmod", "cp", "dd", "mkdir", "mv", "readlink", "rm", "rmdir", "stat", "sync", "touch")
# What runs on an ssh host; with --ssh-sudo each one needs a rule there.
REMOTE_PROGRAMS = tuple(sorted(("btrfs", "find", "flock", "tar", *_COREUTILS)))

_PACKAGES = {
    "btrfs": "btrfs-progs (btrfsprogs on openSUSE)",
    "ssh": "openssh-client (openssh-clients on Fedora and openSUSE, openssh on Arch)",
    "find": "findutils",
    "flock": "util-linux",
    **dict.fromkeys(_COREUTILS, "coreutils"),
}

# env puts the name before the words, as shells and sudo do; zsh and fish put it behind.
_NOT_FOUND = re.compile(
    r"(?:command not found: |Unknown command: )([\w.+-]+)|\b([\w.+-]{1,64}): (?:command )?not found(?!:)"
    r"|^env: (?:can't execute )?'?([\w.+-]+)'?: No such file or directory",
    re.IGNORECASE | re.MULTILINE,
)
_NO_PROGRAM = 127  # exit status of a shell that does not find what it is to run
_SUDO = re.compile(r"^sudo: |is not allowed to (?:execute|run)|is not in the sudoers", re.MULTILINE)

_BRIEF = {
    "No space left on device": DISK_FULL,
    "uota exceeded": DISK_FULL,
    "Read-only file system": READ_ONLY,
}
_FULL = "free some space there. Backups keep less with '-n', snapshots with '-N'."
_ANYWHERE = (
    ("No space left on device", f"The disk is full: {_FULL}"),
    ("[Qq]uota exceeded", f"The quota is used up: {_FULL}"),
    (
        "not a btrfs filesystem",
        "That folder is on no btrfs filesystem. Is the disk mounted? The snapshot folder: see the option '-f'.",
    ),
    (
        "ross-device link",
        "The snapshot folder has to be on the filesystem of the source: see the option '-f'.",
    ),
    (
        "changed your default subvolume",
        "Increments need a mount of a subvolume, not a bind mount of a folder; or '-I'.",
    ),
    (
        "Read-only file system",
        "Is it mounted read-only (see 'findmnt'; 'dmesg' tells when the kernel did that), or is it in a read-only "
        "subvolume (see 'btrfs property get -ts PATH ro')? Make that writable.",
    ),
    (
        "Text file busy",
        "A swap file that is in use is in it: see 'swapon --show'. Give swap a subvolume of its own, or use 'swapoff'.",
    ),
    (
        "unrecognized: -printf|invalid option -- 'z'|sha256sum: .*not found",
        "To verify what is there takes find of GNU findutils, and sha256sum and stat of GNU coreutils.",
    ),
    (
        r"\.receiving.*: File exists",
        "It is being sent there already: is the same folder named twice, by different paths?",
    ),
    (
        "mkdir: .*File exists|Too many levels of symbolic links|Symbolic link loop",
        "A symbolic link that leads nowhere, or a file, is in its place: see 'ls -ld'.",
    ),
    ("No usable temporary directory", "Another folder can be named by TMPDIR in the environment."),
    (
        "Too many open files|No file descriptors available",
        "The limit on open files is low: see 'ulimit -n', or LimitNOFILE= of a systemd unit.",
    ),
    (
        "Resource temporarily unavailable|Cannot allocate memory",
        "A limit on processes or memory is reached: see 'ulimit -a', or TasksMax= and MemoryMax= of a systemd unit.",
    ),
    (
        "Input/output error|I/O error",
        "The disk may be failing: see 'dmesg', and 'btrfs device stats' of that filesystem.",
    ),
)
_DOWN = (
    "Connection refused|Connection timed out|No route to host|Host is down|Network is unreachable|Operation timed out"
    "|Host is unreachable|Network unreachable"
)
_SSH = (
    # ssh itself, when it reads its options.
    (r"^command-line:? line 0: ", "See the values of '--ssh-opt': each is what 'ssh -o' takes, such as Port=22."),
    (r": terminating, \d+ bad configuration options", "Correct that file; 'man ssh_config' explains its options."),
    (
        # Programs in Rust end such words with "(os error 13)".
        r"Permission denied \([^\s)]+\)|Too many authentication failures",
        "ssh could not log in. Does 'ssh {login}' work for the user that runs this? A key can be "
        "named with '--ssh-opt IdentityFile=PATH'.",
    ),
    (
        "Host key verification failed",
        "Log in once by hand and check the host's key: ssh {login}",
    ),
    ("Could not resolve hostname", "Is the name of the host right, and is the network up?"),
    (
        _DOWN,
        "Is the host up, and does sshd listen there? Try: ssh {login}",
    ),
    ("not responding|closed by remote host|Connection reset|Broken pipe", "The connection broke; run it again."),
)
# The last one is what `btrfs filesystem show` says to users who may not open the device.
_RIGHTS = ("Operation not permitted", "Permission denied", "not a valid btrfs filesystem")


def package(program: str) -> str:
    """How to get PROGRAM, empty when that is not known."""
    return f"Install the package {_PACKAGES[program]}." if program in _PACKAGES else ""


def brief(words: str) -> str:
    """What WORDS of a program or of the kernel come to, for the summary; empty when they have to be read."""
    return next((short for long, short in _BRIEF.items() if long in words), "")


def hint(stderr: str, login: str, privileged: bool, status: int = 1) -> str:
    """What to do when a command failed with the words STDERR and that exit STATUS; empty when nothing is known.

    login: what to type after `ssh` to get to where it ran, empty for this machine. privileged: it had all rights.
    """
    for pattern, what_to_do in _ANYWHERE:
        if re.search(pattern, stderr):
            return what_to_do
    if login and (what_to_do := _remote(stderr, login)):
        return what_to_do
    if status == _NO_PROGRAM and not login:
        return "Is the program that it names installed, and in PATH? That of cron and systemd is short."
    if privileged and "Operation not permitted" in stderr:
        return "Not even root may. Is it immutable (see 'lsattr -d'), in use, or is this a container?"
    if privileged or not wants_rights(stderr):
        return ""
    return "Log in there as root (ssh://root@...), or use '--ssh-sudo'." if login else "Run it as root, e.g. with sudo."


def wants_rights(stderr: str) -> bool:
    """Whether the words STDERR ask for more rights."""
    return any(words in stderr for words in _RIGHTS)


def is_down(stderr: str) -> bool:
    """Whether ssh says with the words STDERR that the other machine is not there."""
    return bool(re.search(f"{_DOWN}|Could not resolve hostname", stderr))


def refused_by_sudo(stderr: str) -> bool:
    """Whether the words STDERR are those of sudo, which does not let a command run."""
    return bool(_SUDO.search(stderr))


def sudo_rule(user: str) -> str:
    """The line for a sudoers file that lets USER do what is needed."""
    return f"{user} ALL=(root) NOPASSWD: {', '.join(f'/usr/bin/{program}' for program in REMOTE_PROGRAMS)}"


def _remote(stderr: str, login: str) -> str:
    for pattern, what_to_do in _SSH:
        if re.search(pattern, stderr, re.MULTILINE):
            return what_to_do.format(login=login)
    if missing := _NOT_FOUND.search(stderr):
        program = missing[1] or missing[2] or missing[3]
        return f"Is '{program}' installed there, and found by 'ssh {login} {program}'? {package(program)}".rstrip()
    if refused_by_sudo(stderr):
        # Options, which may hold an @, come behind it.
        user, at, _ = login.split()[0].rpartition("@")
        return f"Allow it there, with 'visudo' as root (paths as on that host):\n  {sudo_rule(user if at else 'USER')}"
    return ""
