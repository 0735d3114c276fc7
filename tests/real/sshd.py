"""A real sshd on the loopback interface, with keys, port and users of its own."""

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest
from contextlib import suppress
from pathlib import Path

from tests.real.machine import RealTest, descendants, kill, sh, wait_for

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_port(address: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class Sshd:
    """A server that lets the key `id` in FOLDER log in as anybody.

    config: more lines for sshd_config(5); path: the PATH of those who log in.
    """

    def __init__(self, folder: Path, *config: str, address: str = "127.0.0.1", path: object = "") -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.address = address
        self.port = free_port(address)
        self.log = folder / "log"
        host = f"[{address}]" if ":" in address else address
        self.url = f"ssh://{host}:{self.port}"
        for key in ("host", "id"):
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
        host_key = (folder / "host.pub").read_text().rsplit(" ", 1)[0]
        self.known = folder / "known"
        self.known.write_text(f"[{address}]:{self.port} {host_key}\n")
        settings = (
            *config,
            f"Port {self.port}",
            f"ListenAddress {address}",
            f"HostKey {folder}/host",
            f"AuthorizedKeysFile {folder}/id.pub",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "LogLevel VERBOSE",
            # A default that resists quantum computers makes each login take twice as long.
            "KexAlgorithms curve25519-sha256",
            # What a shell reads from the home folder of the tester is none of our business, and may be slow.
            f"SetEnv HOME=/nowhere {f'PATH={path}' if path else ''}",
        )
        (folder / "config").write_text("\n".join(settings) + "\n")
        # For --ssh-opt.
        self.options = [
            f"IdentityFile={folder}/id",
            f"UserKnownHostsFile={self.known}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
        ]
        Path("/run/sshd").mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stderr=log
            )
        wait_for(lambda: "Server listening" in self.log.read_text() or self.process.poll() is not None)

    def arguments(self) -> list[str]:
        return [f"--ssh-opt={option}" for option in self.options]

    def know(self, port: int) -> None:
        """Have the client know this server's key under another PORT, too."""
        entry = self.known.read_text().splitlines()[0].replace(f":{self.port} ", f":{port} ")
        self.known.write_text(f"{self.known.read_text()}{entry}\n")

    def logins(self) -> int:
        """How often somebody has logged in so far."""
        return len(re.findall("Accepted (?:publickey|password)", self.log.read_text()))

    def sessions(self) -> list[int]:
        """The processes that serve connections."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in listed.split()]

    def drop_connections(self) -> None:
        """Since OpenSSH 10 a process below the one that was started holds the connection."""
        for pid in descendants(self.process.pid):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                    kill(pid)

    def stop(self) -> None:
        sessions = self.sessions() if self.process.poll() is None else []
        for pid in (self.process.pid, *sessions):
            kill(pid, signal.SIGKILL)
        self.process.wait()


class Proxy:
    """Hands bytes on between a port of its own and another one, until told not to.

    rate: bytes a second; delay: seconds on the way, in each direction; moved: bytes so far, in both directions; limit:
    of these, at which it cuts all connections.
    """

    def __init__(self, port: int, rate: float = 0, delay: float = 0) -> None:
        self.moved = 0
        self._delay = delay
        self.limit = 1 << 60
        self._target = port
        self.rate = rate
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def go_silent(self) -> None:
        """Neither hand on nor close anything from now on."""
        self._silent.set()

    def cut(self) -> None:
        """Cut all connections; new ones can be made."""
        self._close(*self._sockets)

    def close(self) -> None:
        self._close(self._listener, *self._sockets)

    def _close(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for each in (near, far):
                    # Otherwise each command waits for what is collected.
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    threading.Thread(target=self._take, args=(source, under_way), daemon=True).start()
                    threading.Thread(target=self._deliver, args=(under_way, target), daemon=True).start()

    def _take(self, source: socket.socket, under_way: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
        with suppress(OSError):
            while piece := source.recv(16 * 1024):
                if self._silent.is_set():
                    return
                self.moved += len(piece)
                if self.moved >= self.limit:
                    self.limit = 1 << 60
                    self.cut()
                if self.rate:
                    time.sleep(len(piece) / self.rate)
                under_way.put((time.monotonic() + self._delay, piece))
        under_way.put((0, b""))

    def _deliver(self, under_way: "queue.SimpleQueue[tuple[float, bytes]]", target: socket.socket) -> None:
        with suppress(OSError):
            while (due_and_piece := under_way.get())[1]:
                due, piece = due_and_piece
                time.sleep(max(0, due - time.monotonic()))
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@unittest.skipUnless(SSHD, "needs root, and sshd (openssh-server)")
class SshTest(RealTest):
    @property
    def login(self) -> str:
        """The name of `user`: tests may run twice at the same time, or have been killed."""
        return f"btrfs-backup-test-{os.getpid()}"

    def sshd(self, *config: str, name: str = "sshd", address: str = "127.0.0.1", path: object = "") -> Sshd:
        self.folder.chmod(0o755)
        server = Sshd(self.folder / name, *config, address=address, path=path)
        self.addCleanup(server.stop)
        self.assertIsNone(server.process.poll(), server.log.read_text())
        return server

    def proxy(self, server: Sshd, rate: float = 0) -> Proxy:
        """A proxy in front of SERVER, whose host key is known under its port, too."""
        proxy = Proxy(server.port, rate)
        self.addCleanup(proxy.close)
        server.know(proxy.port)
        return proxy

    def user(self, shell: str) -> str:
        """A user with that login shell and no rights; gone after the test."""
        self.addCleanup(sh, "userdel", "-r", "-f", self.login, check=False)
        home = self.folder / "home-of-user"
        sh("useradd", "-m", "-d", home, "-s", shell, "-p", "*", self.login)
        return self.login

    def sudoers(self, text: str) -> None:
        """A sudoers file with TEXT; gone after the test."""
        path = Path("/etc/sudoers.d") / self.login
        self.addCleanup(path.unlink, missing_ok=True)
        path.write_text(text)
        path.chmod(0o440)
        sh("visudo", "-c", "-q", "-f", path)

    def tools(self, *programs: str) -> Path:
        """A folder with just these PROGRAMS, to be the PATH."""
        folder = self.folder / "tools"
        folder.mkdir()
        for program in ("env", *programs):
            (folder / program).symlink_to(str(shutil.which(program)))
        return folder
