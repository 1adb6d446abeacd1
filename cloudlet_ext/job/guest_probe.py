# SPDX-License-Identifier: Apache-2.0
"""Probes of a guest in a scratch network: when it counts as answering."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable
from typing import Protocol

from cloudlet_ext.hypervisor.domain_console import DomainConsole
from cloudlet_ext.job import errors

_CONSOLE = "console:"
_ATTEMPT_TIMEOUT_S = 5.0
_PAUSE_S = 0.05
_BODY_LIMIT_BYTES = 64 << 20


class Network(Protocol):
    """The network of a guest."""

    def open_socket(self, family: int) -> socket.socket:
        """A TCP socket of the network."""
        ...


Attempt = Callable[[Network], bool]


def is_of_console(text: str) -> bool:
    """Whether a probe asks the guest's serial port."""
    return text.startswith(_CONSOLE)


def parse(text: str, address: str, console: DomainConsole | None) -> Attempt:
    """One attempt of ``tcp:PORT``, ``http://:PORT/PATH`` or ``console:TEXT``: whether the guest has answered."""
    if is_of_console(text):
        wanted = text.removeprefix(_CONSOLE).encode()
        return lambda _: console is not None and console.has(wanted)
    found = re.fullmatch(r"(tcp:|http://:)(\d{1,5})(/\S*)?", text)
    if found is None:
        raise errors.BadJob(field="record", reason=f"{text!r} is no probe")
    port, path = int(found[2]), found[3] or "/"
    if found[1] == "tcp:":
        return lambda network: _accepts(network, address, port)
    return lambda network: _replies(network, address, port, path)


def wait(attempt: Attempt, network: Network, check: Callable[[], None], timeout_s: float) -> None:
    """Attempt until the guest answers; :class:`errors.NotRecorded`. ``check`` may raise what makes waiting useless."""
    deadline, last = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        check()
        try:
            if attempt(network):
                return
        except (OSError, http.client.HTTPException) as failure:
            last = str(failure) or type(failure).__name__
        time.sleep(_PAUSE_S)
    raise errors.NotRecorded(timeout_s=timeout_s, reason=last)


def _connected(network: Network, address: str, port: int) -> socket.socket:
    made = network.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        made.settimeout(_ATTEMPT_TIMEOUT_S)
        made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return made


def _accepts(network: Network, address: str, port: int) -> bool:
    with _connected(network, address, port):
        return True


def _replies(network: Network, address: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=_ATTEMPT_TIMEOUT_S)
    connection.sock = _connected(network, address, port)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read(_BODY_LIMIT_BYTES)
        if response.status >= 400:
            raise OSError(f"HTTP status {response.status}")
        return True
    finally:
        connection.close()
