"""Mounts a device on a folder when somebody uses that folder, as autofs and systemd do: POINT, and what to mount.

    python3 -m tests.real.automount POINT DEVICE        (in a session of its own; says "ready")

An empty DEVICE cannot be mounted. See autofs(5) and linux/auto_fs.h.
"""

import fcntl
import os
import struct
import subprocess
import sys

_READY, _FAIL = 0x9360, 0x9361
_TOKEN = struct.Struct("ii I")  # version, type, number of the request
_PACKET = 304


def main(point: str, device: str) -> None:
    reader, writer = os.pipe()
    options = f"fd={writer},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
    subprocess.run(["mount", "-i", "-t", "autofs", "-o", options, "none", point], check=True, pass_fds=[writer])
    os.close(writer)
    root = os.open(point, os.O_RDONLY)
    print("ready", flush=True)
    while packet := os.read(reader, _PACKET):
        token = _TOKEN.unpack_from(packet)[2]
        mounted = device and subprocess.run(["mount", "-o", "loop", device, point], check=False).returncode == 0
        fcntl.ioctl(root, _READY if mounted else _FAIL, token)


if __name__ == "__main__":
    main(*sys.argv[1:])
