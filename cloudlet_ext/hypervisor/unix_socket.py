# SPDX-License-Identifier: Apache-2.0
"""Unix sockets by their directory's descriptor: a socket's path is limited to 107 bytes, a directory's is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to the socket ``path``, with that timeout set; OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with _short(path) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def listen(path: Path, backlog: int, mode: int = 0o600) -> socket.socket:
    """A socket that listens at ``path``, with these permissions; OSError, and then no such file is left."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        with _short(path) as name:
            listener.bind(name)
        bound = True
        # Nobody can connect before listen(), so that there is no moment of wider permissions.
        os.chmod(path, mode)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        if bound:
            path.unlink(missing_ok=True)
        raise
    return listener


def admit_owner(path: Path) -> None:
    """Let whoever owns the folder of a socket use it: QEMU, which libvirt may run as another user; OSError.

    Root gives it away. Another user cannot: where the folder is open to others (only its name is a secret), so is the
    socket then.
    """
    folder = path.parent.stat()
    if os.geteuid() == 0:
        os.chown(path, folder.st_uid, -1)
    elif folder.st_mode & 0o022:
        path.chmod(0o666)
