# SPDX-License-Identifier: Apache-2.0
"""Probes of a guest in a scratch network: when it counts as answering."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cloudlet_ext.hypervisor.scratch_network import ScratchNetwork
from cloudlet_ext.job import errors

_ATTEMPT_TIMEOUT_S = 5.0
_PAUSE_S = 0.05
_BODY_LIMIT_BYTES = 64 << 20

Attempt = Callable[[], bool]


def parse(text: str, address: str, console: Path) -> Attempt:
    """One attempt of ``tcp:PORT``, ``http://:PORT/PATH`` or ``console:TEXT``: whether the guest has answered."""
    if text.startswith("console:"):
        wanted = text.removeprefix("console:").encode()
        return lambda: console.exists() and wanted in console.read_bytes()
    found = re.fullmatch(r"(tcp:|http://:)(\d{1,5})(/\S*)?", text)
    if found is None:
        raise errors.BadJob(field="record", reason=f"{text!r} is no probe")
    port, path = int(found[2]), found[3] or "/"
    if found[1] == "tcp:":
        return lambda: _accepts(address, port)
    return lambda: _replies(address, port, path)


def wait(attempt: Attempt, network: ScratchNetwork, check: Callable[[], None], timeout_s: float) -> None:
    """Attempt until the guest answers; :class:`errors.NotRecorded`. ``check`` may raise what makes waiting useless."""
    deadline, last = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        check()
        try:
            if network.call(attempt):
                return
        except (OSError, http.client.HTTPException) as failure:
            last = str(failure) or type(failure).__name__
        time.sleep(_PAUSE_S)
    raise errors.NotRecorded(timeout_s=timeout_s, reason=last)


def _accepts(address: str, port: int) -> bool:
    with socket.create_connection((address, port), timeout=_ATTEMPT_TIMEOUT_S):
        return True


def _replies(address: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=_ATTEMPT_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read(_BODY_LIMIT_BYTES)
        if response.status >= 400:
            raise OSError(f"HTTP status {response.status}")
        return True
    finally:
        connection.close()
