# SPDX-License-Identifier: Apache-2.0
"""Unix sockets by their directory's descriptor: a socket's path is limited to 107 bytes, a directory's is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED = 0o660
"""Mode of a socket for those whom the access list of its folder names; see :mod:`cloudlet_ext.hypervisor.access`."""


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
