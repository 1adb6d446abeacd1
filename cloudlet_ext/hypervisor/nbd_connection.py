# SPDX-License-Identifier: Apache-2.0
"""One NBD connection: a thread that takes requests, and threads that answer them out of order."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cloudlet_ext.exception import CloudletError
from cloudlet_ext.hypervisor import nbd_protocol as nbd
from cloudlet_ext.hypervisor.nbd_handshake import Disconnected, Handshake, receive

LOG = logging.getLogger(__name__)

MAX_PENDING = 16
"""Requests that QEMU keeps in flight on one connection (MAX_NBD_REQUESTS in its block/nbd.c): with
a thread for each of them none waits for another. A client that sends more waits for its own."""
MAX_PENDING_BYTES = 32 << 20
"""A further request is taken only when all in work are not more than this, so that memory stays
bounded."""

ReadFunction = Callable[[int, int], bytes | bytearray | memoryview]
"""(offset, length) -> exactly ``length`` bytes. May block; may raise."""
ReadHook = Callable[[int, int], None]


@dataclass(frozen=True)
class Export:
    """What is shown: a disk of ``size_bytes`` (a multiple of 4096)."""

    name: str
    size_bytes: int
    read: ReadFunction
    on_read: ReadHook | None


@dataclass(frozen=True)
class _Request:
    cookie: int
    offset: int
    length: int


class Connection:
    """Serves ``sock`` from `start` until the client leaves or `abort`."""

    def __init__(self, sock: socket.socket, export: Export, number: int) -> None:
        self._sock = sock
        self._export = export
        self._name = f"nbd-{export.name or 'disk'}-{number}"
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._send_lock = threading.Lock()
        self._room = threading.Condition()
        self._pending = 0
        self._pending_bytes = 0
        self._aborted = False
        self._workers: list[threading.Thread] = []
        # Daemons: a read that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the connection's thread still runs."""
        return self._thread.is_alive()

    def abort(self) -> None:
        """Hang up; threads end as soon as their reads return."""
        with self._room:
            self._aborted = True
            self._room.notify_all()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def join(self, deadline: float) -> bool:
        """Wait until ``deadline`` (time.monotonic) for the threads' end; whether they ended."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            if Handshake(self._sock, self._export.name, self._export.size_bytes).run():
                self._transmit()
        except (Disconnected, OSError) as error:
            LOG.debug("%s: hung up: %s", self._name, error or type(error).__name__)
        finally:
            self.abort()
            for _ in self._workers:
                self._queue.put(None)
            for worker in self._workers:
                worker.join()
            self._sock.close()

    def _transmit(self) -> None:
        while True:
            record = receive(self._sock, nbd.REQUEST.size)
            magic, _, command, cookie, offset, length = nbd.REQUEST.unpack(record)
            if magic != nbd.REQUEST_MAGIC:
                raise Disconnected(f"request magic {magic:#x}")
            if command == nbd.CMD_DISC:
                return
            if command == nbd.CMD_READ:
                self._take_read(_Request(cookie, offset, length))
            elif command == nbd.CMD_FLUSH:
                self._reply(cookie, 0)
            elif command == nbd.CMD_WRITE:
                self._discard(length)
                self._reply(cookie, nbd.EPERM)
            elif command in (nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES):
                self._reply(cookie, nbd.EPERM)
            else:
                self._reply(cookie, nbd.EINVAL)

    def _discard(self, length: int) -> None:
        """Read past the payload of a write, to find the next request."""
        if length > nbd.MAXIMUM_REQUEST:
            raise Disconnected(f"a write of {length} bytes")
        while length:
            length -= len(receive(self._sock, min(length, 1 << 16)))

    def _take_read(self, request: _Request) -> None:
        end = request.offset + request.length
        if not 0 < request.length <= nbd.MAXIMUM_REQUEST or end > self._export.size_bytes:
            self._reply(request.cookie, nbd.EINVAL)
            return
        if self._export.on_read is not None:
            self._export.on_read(request.offset, request.length)
        with self._room:
            while not self._aborted and self._full(request.length):
                self._room.wait()
            if self._aborted:
                raise Disconnected("aborted")
            self._pending += 1
            self._pending_bytes += request.length
            if self._pending > len(self._workers):
                self._add_worker()
        self._queue.put(request)

    def _full(self, length: int) -> bool:
        if not self._pending:
            return False
        return self._pending >= MAX_PENDING or self._pending_bytes + length > MAX_PENDING_BYTES

    def _add_worker(self) -> None:
        name = f"{self._name}-read-{len(self._workers)}"
        worker = threading.Thread(target=self._work, name=name, daemon=True)
        self._workers.append(worker)
        worker.start()

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            if not self._aborted:
                self._answer(request)
            with self._room:
                self._pending -= 1
                self._pending_bytes -= request.length
                self._room.notify()

    def _answer(self, request: _Request) -> None:
        try:
            data = self._read(request.offset, request.length)
        except (OSError, CloudletError) as error:
            LOG.info("%s: read of %d bytes at %d: %s", self._name, request.length, request.offset, error)
            self._reply(request.cookie, nbd.EIO)
        except Exception:
            # The border to QEMU: whatever went wrong, it is told an I/O error and the disk lives
            # on.
            LOG.exception("%s: read of %d bytes at %d", self._name, request.length, request.offset)
            self._reply(request.cookie, nbd.EIO)
        else:
            self._reply(request.cookie, 0, data)

    def _read(self, offset: int, length: int) -> memoryview:
        """Widened to whole blocks for clients that did not ask for the smallest block."""
        first = offset - offset % nbd.MINIMUM_BLOCK
        last = -(-(offset + length) // nbd.MINIMUM_BLOCK) * nbd.MINIMUM_BLOCK
        view = memoryview(self._export.read(first, last - first)).cast("B")
        if len(view) != last - first:
            raise ValueError(f"{len(view)} bytes were read, expected {last - first}")
        return view[offset - first : offset - first + length]

    def _reply(self, cookie: int, error: int, data: memoryview | None = None) -> None:
        """Send a reply whole; a client that is gone is noticed by the thread that takes
        requests."""
        header = nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, cookie)
        with self._send_lock, suppress(OSError):
            if data is None:
                self._sock.sendall(header)
                return
            sent = self._sock.sendmsg((header, data))
            if sent < len(header):
                self._sock.sendall(header[sent:])
                sent = len(header)
            if sent < len(header) + len(data):
                self._sock.sendall(data[sent - len(header) :])
