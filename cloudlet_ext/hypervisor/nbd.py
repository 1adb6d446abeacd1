# SPDX-License-Identifier: Apache-2.0
"""NbdServer: a read-only disk over a unix socket whose reads may wait.

A disk of which parts are still on their way is shown to QEMU as complete; a read of a part that is
not there yet is answered when it has come, and holds up no other read.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cloudlet_ext.hypervisor import unix_socket
from cloudlet_ext.hypervisor.errors import NbdSocketUnusable
from cloudlet_ext.hypervisor.nbd_connection import Connection, Export, ReadFunction, ReadHook
from cloudlet_ext.hypervisor.nbd_protocol import MINIMUM_BLOCK

LOG = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
_CLOSE_LIMIT_S = 5.0


class NbdServer:
    """Listens on ``path`` from construction until `close`.

    ``read(offset, length)`` is called in several threads at once, always for whole blocks of 4096
    bytes; it may block, and what it raises becomes an I/O error of that one read. ``on_read(offset,
    length)`` is told each read as asked for, in order of arrival on its connection, before it is
    begun. Writes are refused.
    """

    def __init__(
        self,
        path: str | Path,
        size_bytes: int,
        read: ReadFunction,
        *,
        name: str = "",
        on_read: ReadHook | None = None,
        mode: int = 0o600,
    ) -> None:
        """``mode`` are the permissions of the socket. NbdSocketUnusable when it cannot be made."""
        if size_bytes <= 0 or size_bytes % MINIMUM_BLOCK:
            raise ValueError(f"size {size_bytes} is no positive multiple of {MINIMUM_BLOCK}")
        self.path = Path(path)
        self._export = Export(name, size_bytes, read, on_read)
        self._connections: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._listener = self._listen(mode)
        self._acceptor = threading.Thread(target=self._accept, name=f"nbd-{name or 'disk'}", daemon=True)
        self._acceptor.start()

    def _listen(self, mode: int) -> socket.socket:
        try:
            return unix_socket.listen(self.path, MAX_CONNECTIONS, mode)
        except OSError as error:
            raise NbdSocketUnusable(path=str(self.path), reason=error.strerror or error) from error

    @property
    def uri(self) -> str:
        """The address in the form QEMU's tools take."""
        return f"nbd+unix:///{self._export.name}?socket={self.path}"

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                # Out of file descriptors, most likely: others will be given back.
                LOG.exception("nbd %s: cannot accept", self.path)
                time.sleep(0.1)
                continue
            with self._lock:
                self._connections = [each for each in self._connections if each.alive]
                if self._closed or len(self._connections) >= MAX_CONNECTIONS:
                    sock.close()
                    continue
                connection = Connection(sock, self._export, number)
                number += 1
                self._connections.append(connection)
                connection.start()

    def close(self) -> None:
        """Hang up, end the threads, remove the socket; may be called twice.

        Whoever blocks in ``read`` must be set free by the caller before: after five seconds such
        threads are given up with a warning (they do not keep the process from ending).
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            connections = list(self._connections)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(_CLOSE_LIMIT_S)
        self._listener.close()
        with suppress(FileNotFoundError):
            self.path.unlink()
        for connection in connections:
            connection.abort()
        deadline = time.monotonic() + _CLOSE_LIMIT_S
        left = sum(not connection.join(deadline) for connection in connections)
        if left:
            LOG.warning("nbd %s: %d connections still wait in a read", self.path, left)

    def __enter__(self) -> NbdServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
