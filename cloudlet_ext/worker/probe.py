# SPDX-License-Identifier: Apache-2.0
"""Probes: when a server counts as answering."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from cloudlet_ext.exception import CloudletError
from cloudlet_ext.worker import errors
from cloudlet_ext.worker.console import ConsoleReader
from cloudlet_ext.worker.server import Server

_ATTEMPT_TIMEOUT_S = 20.0
_BODY_LIMIT_BYTES = 64 << 20
_ATTEMPT_EVERY_S = 0.25
_ATTEMPTS_AT_ONCE = 8
_LOOK_EVERY_S = 0.05
_TOLD_BYTES = 200
_LOOPBACK = "127.0.0.1"
_ACCEPTED_STATES = {"TCP[ESTABLISHED]", "TCP[CLOSE_WAIT]"}
"""The second one: the guest accepted, and has closed its side already."""


@dataclass(frozen=True)
class Answer:
    """A probe's success: what came, and seconds since the wait began."""

    elapsed_s: float
    content: bytes


class Probe(ABC):
    """One way to ask a server. ``attempt`` returns what came, or raises OSError with the reason why nothing did."""

    text: str

    def prepare(self, server: Server) -> None:  # noqa: B027 - most probes need nothing
        """Make what the attempts need, for instance a port forward."""

    @abstractmethod
    def attempt(self, server: Server, over: threading.Event) -> bytes:
        """Ask once; nobody is interested any more when ``over`` is set."""


class HttpProbe(Probe):
    """``http://:PORT/PATH``: a GET of the guest's port answers with a status below 400."""

    def __init__(self, text: str, port: int, path: str) -> None:
        self.text, self._port, self._path = text, port, path
        self._host_port = 0

    def prepare(self, server: Server) -> None:
        self._host_port = server.forward(self._port)

    def attempt(self, server: Server, over: threading.Event) -> bytes:
        connection = http.client.HTTPConnection(_LOOPBACK, self._host_port, timeout=_ATTEMPT_TIMEOUT_S)
        try:
            connection.request("GET", self._path)
            response = connection.getresponse()
            body = response.read(_BODY_LIMIT_BYTES)
        except http.client.HTTPException as failure:
            raise OSError(f"no HTTP answer: {failure!r}") from failure
        finally:
            connection.close()
        if response.status >= 400:
            raise OSError(f"HTTP status {response.status}")
        return body


class TcpProbe(Probe):
    """``tcp:PORT``: the guest accepts connections.

    QEMU's user network accepts for the guest before the guest does; what counts is the state that it reports.
    """

    def __init__(self, text: str, port: int) -> None:
        self.text, self._port = text, port
        self._host_port = 0

    def prepare(self, server: Server) -> None:
        self._host_port = server.forward(self._port)

    def attempt(self, server: Server, over: threading.Event) -> bytes:
        # One that was accepted long ago does not tell that the guest accepts now.
        before = self._accepted(server)
        with socket.create_connection((_LOOPBACK, self._host_port), timeout=_ATTEMPT_TIMEOUT_S):
            deadline = time.monotonic() + _ATTEMPT_TIMEOUT_S
            while time.monotonic() < deadline and not over.is_set():
                if self._accepted(server) - before:
                    return b""
                over.wait(0.05)
        raise OSError("the guest did not accept the connection")

    def _accepted(self, server: Server) -> set[str]:
        return accepted(server.monitor.human("info usernet"), self._host_port, self._port)


def accepted(listing: str, host_port: int, guest_port: int) -> set[str]:
    """Descriptors of connections that came in by a forward and that the guest has accepted.

    ``listing`` is QEMU's ``info usernet``: state, descriptor, source and its port, destination and its port. The source
    of what comes in by a forward is the forward itself; of what the guest opens it is the guest, to whatever port.
    """
    found = set()
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[0] in _ACCEPTED_STATES:
            descriptor, source, source_port, _, port = fields[1:6]
            if (source, source_port, port) == (_LOOPBACK, str(host_port), str(guest_port)):
                found.add(descriptor)
    return found


class ConsoleProbe(Probe):
    """``console:TEXT``: the text appears on the serial console. Each attempt reads what is new."""

    def __init__(self, text: str, wanted: bytes) -> None:
        self.text, self._wanted = text, wanted
        self._lock = threading.Lock()
        self._said: ConsoleReader | None = None
        self._tail = b""
        self._is_there = False

    def attempt(self, server: Server, over: threading.Event) -> bytes:
        with self._lock:
            if self._said is None or self._said.folder != server.folder:
                self._said, self._tail, self._is_there = ConsoleReader(server.folder), b"", False
            while not self._is_there and (piece := self._said.read()):
                seen = self._tail + piece
                self._is_there = self._wanted in seen
                self._tail = seen[-max(len(self._wanted), _TOLD_BYTES) :]
            if not self._is_there:
                last = self._tail[-_TOLD_BYTES:].decode(errors="replace").strip().splitlines()
                raise OSError(f"the console says {last[-1]!r}" if last else "the console is silent")
            self._said.close()
        return self._wanted


class CommandProbe(Probe):
    """``command:COMMAND LINE``: a command on this host ends with status 0; ``$CLOUDLET_SERVER`` names the server."""

    def __init__(self, text: str, line: str) -> None:
        self.text, self._line = text, line

    def attempt(self, server: Server, over: threading.Event) -> bytes:
        environment = {
            **os.environ,
            "CLOUDLET_SERVER": server.name,
            "CLOUDLET_SERVER_DIR": str(server.folder),
            "CLOUDLET_HOME": str(server.home.path),
        }
        child = subprocess.Popen(
            ["/bin/sh", "-c", self._line],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _ATTEMPT_TIMEOUT_S
        with child:
            while time.monotonic() < deadline and not over.is_set():
                try:
                    said, _ = child.communicate(timeout=_LOOK_EVERY_S)
                except subprocess.TimeoutExpired:
                    continue
                if child.returncode:
                    raise OSError(f"the command ended with status {child.returncode}")
                return said
            # What it has started goes with it.
            os.killpg(child.pid, signal.SIGKILL)
        raise OSError("the command did not end in time")


def parse(text: str) -> Probe:
    """A probe from its text; :class:`errors.ProbeInvalid`."""
    kind, _, rest = text.partition(":")
    try:
        if kind == "http":
            parts = urlsplit(text)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            # The host is the guest, whatever its address; a path is sent as it is.
            is_guest = not parts.hostname and "@" not in parts.netloc
            if is_guest and path.isascii() and path.isprintable() and " " not in path:
                return HttpProbe(text, _port(parts.netloc.rpartition(":")[2] or "80"), path)
        if kind == "tcp":
            return TcpProbe(text, _port(rest))
        if kind == "console" and rest:
            return ConsoleProbe(text, rest.encode())
        if kind == "command" and rest:
            return CommandProbe(text, rest)
    except ValueError:
        pass
    raise errors.ProbeInvalid(text=text)


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError(text)
    return port


class _Wait:
    """Attempts that overlap: one that waits in the guest's network must not hold up the next."""

    def __init__(self, probe: Probe, server: Server) -> None:
        self.probe, self.server = probe, server
        self.changed = threading.Condition()
        self.content: bytes | None = None
        self.last = "no attempt has ended yet"
        self.under_way = 0
        self.over = threading.Event()

    def attempt(self) -> None:
        try:
            content = self.probe.attempt(self.server, self.over)
        except (OSError, CloudletError) as failure:
            with self.changed:
                self.last = str(failure)
                self.under_way -= 1
                self.changed.notify_all()
            return
        with self.changed:
            if self.content is None:
                self.content = content
            self.under_way -= 1
            self.changed.notify_all()

    def begin(self) -> None:
        self.under_way += 1
        threading.Thread(target=self.attempt, name="probe", daemon=True).start()


def wait(
    probe: Probe,
    server: Server,
    timeout_s: float,
    check: Callable[[], None] = lambda: None,
    standing_s: Callable[[], float] = lambda: 0.0,
) -> Answer:
    """Ask until the server answers.

    ``check`` is called now and then and may raise what makes waiting useless. ``standing_s`` tells for how many seconds
    the guest has had to stand still since whenever: what it grows by during the wait does not count.
    :class:`errors.ProbeTimedOut` with the last reason; :class:`errors.ServerGone` when its QEMU ends meanwhile.
    """
    trying = _Wait(probe, server)
    try:
        return _answer(trying, timeout_s, check, standing_s)
    finally:
        trying.over.set()


def _answer(trying: _Wait, timeout_s: float, check: Callable[[], None], standing_s: Callable[[], float]) -> Answer:
    probe, server = trying.probe, trying.server
    began = next_attempt = time.monotonic()
    stood_before_s = standing_s()
    while True:
        with trying.changed:
            now = time.monotonic()
            if now >= next_attempt and trying.under_way < _ATTEMPTS_AT_ONCE:
                trying.begin()
                next_attempt = now + _ATTEMPT_EVERY_S
            trying.changed.wait(min(max(next_attempt - now, 0.005), 0.25))
            if trying.content is not None:
                return Answer(time.monotonic() - began, trying.content)
        if not server.process.alive:
            raise errors.ServerGone(name=server.name, reason=server.process.log_tail())
        check()
        if time.monotonic() - began - (standing_s() - stood_before_s) > timeout_s:
            raise errors.ProbeTimedOut(name=server.name, probe=probe.text, timeout_s=timeout_s, last=trying.last)


def settle(server: Server, seconds: float) -> None:
    """Let the guest finish what it is doing; :class:`errors.ServerGone` when it ends meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not server.process.alive:
            raise errors.ServerGone(name=server.name, reason=server.process.log_tail())
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
