# SPDX-License-Identifier: Apache-2.0
"""Scratch network: a network namespace in which there is a guest and who asks it, and nobody else.

A guest that is there by mistake of nobody's making, a copy of one that runs, must meet neither the original nor the
world. The namespace has no name and no file: it goes with the process that made it, however that ends. Needs the
capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN, and ``ip`` of iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cloudlet_ext.hypervisor import dhcp, errors

_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_FIRST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_TIMEOUT_S = 10.0

_SO_NO_CHECK = 11

T = TypeVar("T")


@dataclass(frozen=True)
class Neighbour:
    """How this process appears to a guest, by a tap: an address with its prefix (``192.168.1.1/24``), or none."""

    tap: str
    address: str


class ScratchNetwork:
    """A namespace, which goes with :meth:`close`. :class:`errors.NetworkFailed`."""

    def __init__(self) -> None:
        self._namespace = _in_thread(_unshare)
        try:
            self._inside("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def take(self, neighbour: Neighbour) -> None:
        """Move a tap device of a domain into the namespace, and give it this side's address."""
        where = f"/proc/self/fd/{self._namespace}"
        _ip("link", "set", "dev", neighbour.tap, "netns", where, keep=(self._namespace,))
        self._inside("link", "set", "dev", neighbour.tap, "up")
        if neighbour.address:
            family = ["nodad"] if ":" in neighbour.address else []
            self._inside("address", "add", neighbour.address, "dev", neighbour.tap, *family)

    def forget(self) -> None:
        """Which MAC has which address: a guest may have got another card, or given its own another MAC."""
        self._inside("neighbour", "flush", "all")

    def open_socket(self, family: int) -> socket.socket:
        """A TCP socket of the namespace, wherever it is used; AF_INET or AF_INET6."""
        return self._call(lambda: socket.socket(family, socket.SOCK_STREAM))

    def open_dhcp_socket(self, tap: str) -> socket.socket:
        """A socket that hears what is asked of a DHCP server by one tap device, as it is now."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                # The kernel leaves checksums to the card; a guest that reads packets itself may take those for wrong.
                for option in (socket.SO_REUSEADDR, socket.SO_BROADCAST, _SO_NO_CHECK):
                    made.setsockopt(socket.SOL_SOCKET, option, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tap.encode())
                made.bind(("", dhcp.SERVER_PORT))
            except BaseException:
                made.close()
                raise
            return made

        return self._call(make)

    def close(self) -> None:
        """Let the namespace go, and with it what is in there; may be called twice."""
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1

    def _inside(self, *words: str) -> None:
        self._call(lambda: _ip(*words))

    def _call(self, function: Callable[[], T]) -> T:
        def run() -> T:
            _libc("setns", self._namespace, _CLONE_NEWNET)
            return function()

        return _in_thread(run)


def _unshare() -> int:
    """A new namespace's descriptor. In there ports below 1024 need no capability more, for DHCP."""
    _libc("unshare", _CLONE_NEWNET)
    with contextlib.suppress(OSError):
        _FIRST_PORT.write_text("0")
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(function: Callable[[], T]) -> T:
    """Call a function that changes its thread's namespace, in a thread that does nothing else afterwards."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(function())
        except BaseException as failure:  # noqa: BLE001 - raised again by the caller
            answer.set_exception(failure)

    threading.Thread(target=run, name="scratch-network", daemon=True).start()
    return answer.result()


def _libc(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        reason = os.strerror(ctypes.get_errno())
        raise errors.NetworkFailed(command=name, reason=reason)


def _ip(*words: str, keep: tuple[int, ...] = ()) -> None:
    try:
        done = subprocess.run(
            ["ip", *words], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, pass_fds=keep
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise errors.NetworkFailed(command=f"ip {' '.join(words)}", reason=str(failure)) from failure
    if done.returncode:
        reason = done.stderr.strip() or f"status {done.returncode}"
        raise errors.NetworkFailed(command=f"ip {' '.join(words)}", reason=reason)
