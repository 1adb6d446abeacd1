# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that can be cut from another thread, at any stage, and that obey deadlines."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator

from urllib3.connection import HTTPConnection, HTTPSConnection

from cloudlet_ext.engine.errors import SourceClosed, SourceInterrupted, SourceRefused
from cloudlet_ext.engine.source_policy import SourcePolicy

POLL_S = 0.1
"""How often a connection that is being set up looks whether it was cut."""


Origin = tuple[str, str, int | None]
"""Scheme, host, port (None for the scheme's own)."""

Addresses = list[tuple[int, tuple[object, ...]]]
"""Address families and socket addresses."""

_keys = itertools.count()


class Scissors:
    """Cuts the connections of one source: all on close, one when its deadline has passed.

    A timeout of a socket limits the silence between two bytes; a server that drips header bytes
    would never exceed it. So requests and answers' headers are given a deadline, watched by one
    thread.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._handles: dict[int, socket.socket] = {}
        self._deadlines: dict[int, float] = {}
        self._watch: threading.Thread | None = None
        self.closed = threading.Event()

    def hold(self, key: int, connected: socket.socket) -> None:
        """Take a second handle of the socket of connection ``key``: it survives being wrapped by
        TLS."""
        with self._change:
            self._drop(key)
            self._handles[key] = connected.dup()
            if self.closed.is_set():
                self._cut(key)

    def release(self, key: int) -> None:
        """Forget connection ``key``, which is closed."""
        with self._change:
            self._drop(key)

    def _drop(self, key: int) -> None:
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.close()

    @contextlib.contextmanager
    def deadline(self, key: int, seconds: float) -> Iterator[None]:
        """Cut connection ``key`` if the block takes longer than ``seconds``, and raise TimeoutError
        after it: the library takes a header that was cut for a complete one."""
        with self._change:
            self._deadlines[key] = time.monotonic() + seconds
            if self._watch is None:
                self._watch = threading.Thread(target=self._watch_deadlines, name="source-deadlines", daemon=True)
                self._watch.start()
            self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                is_over = self._deadlines.pop(key, None) is None
        if is_over or self.closed.is_set():
            raise TimeoutError(f"no answer within {seconds:g} s")

    def _watch_deadlines(self) -> None:
        with self._change:
            while not self.closed.is_set():
                now = time.monotonic()
                for key, end in list(self._deadlines.items()):
                    if end <= now:
                        del self._deadlines[key]
                        self._cut(key)
                soonest = min(self._deadlines.values(), default=None)
                self._change.wait(None if soonest is None else max(0.01, soonest - now))

    def _cut(self, key: int) -> None:
        handle = self._handles.get(key)
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut everything, now and in future."""
        with self._change:
            self.closed.set()
            for key in self._handles:
                self._cut(key)
            self._change.notify_all()
            watch = self._watch
        if watch is not None and watch is not threading.current_thread():
            watch.join(timeout=1.0)


class _Cuttable(HTTPConnection):
    """What the two kinds of connection have in common: set-up in steps, and a handle to cut
    them."""

    def prepare(self, origin: Origin, name: str, scissors: Scissors, policy: SourcePolicy) -> None:
        """Set by the source right after construction; ``name`` is for messages."""
        self.origin = origin
        self._name = name
        self.scissors = scissors
        self.key = next(_keys)
        self._timeout_s = policy.timeout_s
        self._policy = policy

    def _new_conn(self) -> socket.socket:
        end = time.monotonic() + self._timeout_s
        problem = "no address"
        addresses = self._addresses(end)
        for index, (family, address) in enumerate(addresses):
            # The last address gets its share of the time even if those before do not answer.
            now = time.monotonic()
            share_end = now + (end - now) / (len(addresses) - index)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:  # This machine may not have IPv6.
                problem = str(error)
                continue
            try:
                problem = self._establish(sock, address, share_end)
                if not problem:
                    self.scissors.hold(self.key, sock)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.settimeout(self._timeout_s)
                    return sock
            except BaseException:
                sock.close()
                raise
            sock.close()
        raise self._interrupted(f"cannot connect to {self.host} port {self.port} ({problem})")

    def _establish(self, sock: socket.socket, address: tuple[object, ...], end: float) -> str:
        """Connect; an empty string, or why not."""
        sock.setblocking(False)
        code = sock.connect_ex(address)
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while code == errno.EINPROGRESS:
            self._check_open()
            if time.monotonic() >= end:
                return "no answer"
            if poll.poll(POLL_S * 1000):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return errno.errorcode.get(code, str(code)) if code else ""

    def _addresses(self, end: float) -> Addresses:
        host = self.host.strip("[]")
        try:
            # A number needs no look-up, and so no thread.
            found = _look_up(host, self.port, socket.AI_NUMERICHOST)
        except OSError:
            found = self._looked_up(host, end)
        for _, address in found:
            self._check_address(str(address[0]))
        return found

    def _looked_up(self, host: str, end: float) -> Addresses:
        # A name look-up cannot be cut, so it is left behind in a thread of its own.
        answer: queue.SimpleQueue[Addresses | OSError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                answer.put(_look_up(host, self.port))
            except OSError as error:
                answer.put(error)

        self._check_open()
        threading.Thread(target=look_up, name="source-look-up", daemon=True).start()
        while True:
            self._check_open()
            with contextlib.suppress(queue.Empty):
                found = answer.get(timeout=POLL_S)
                break
            if time.monotonic() >= end:
                raise self._interrupted(f"no answer to the look-up of {host}")
        if isinstance(found, OSError):
            raise self._interrupted(f"cannot look up {host} ({found})")
        return found

    def _check_address(self, text: str) -> None:
        # Checked on what the name resolved to, so that a name cannot point inwards later.
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        local = address.is_loopback or address.is_link_local or address.is_unspecified
        if (local or address.is_multicast) and not self._policy.local_allowed:
            raise SourceRefused(source=self._name, reason=f"{address} is a loopback or link-local address")
        reason = self._policy.refuse_address(text) if self._policy.refuse_address is not None else None
        if reason is not None:
            raise SourceRefused(source=self._name, reason=reason)

    def _check_open(self) -> None:
        if self.scissors.closed.is_set():
            raise SourceClosed(source=self._name)

    def _interrupted(self, reason: str) -> SourceInterrupted:
        return SourceInterrupted(source=self._name, offset=0, reason=reason)

    def discard(self) -> None:
        """Close the connection for good. (The library calls close() itself, while a body is
        read.)"""
        self.close()
        self.scissors.release(self.key)


def _look_up(host: str, port: int, flags: int = 0) -> Addresses:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError(f"{host!r} is no host name") from error
    return [(int(entry[0]), entry[4]) for entry in found]


class PlainConnection(_Cuttable):
    """http."""


class TlsConnection(_Cuttable, HTTPSConnection):
    """https."""


Connection = PlainConnection | TlsConnection


def new_connection(
    origin: Origin,
    *,
    name: str,
    scissors: Scissors,
    policy: SourcePolicy,
    context: ssl.SSLContext | None,
) -> Connection:
    """A connection that is not yet established. ``policy.timeout_s`` limits its set-up and every
    silence."""
    connection: Connection
    scheme, host, port = origin
    if scheme == "https":
        connection = TlsConnection(host, port, timeout=policy.timeout_s, ssl_context=context)
    else:
        connection = PlainConnection(host, port, timeout=policy.timeout_s)
    connection.prepare(origin, name, scissors, policy)
    return connection
