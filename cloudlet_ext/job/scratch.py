# SPDX-License-Identifier: Apache-2.0
"""The network of a scratch guest, for a process that has no privileges: a daemon of oslo.privsep has it.

What comes from the guest never reaches that daemon: it hands out sockets, and the worker connects them and reads.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from oslo_privsep import daemon

from cloudlet_ext import privsep
from cloudlet_ext.hypervisor.errors import NetworkFailed
from cloudlet_ext.hypervisor.scratch_network import Neighbour, ScratchNetwork
from cloudlet_ext.job import errors

_TAP = re.compile(r"clr[0-9a-f]{8}[0-9]{1,3}")
_RENDEZVOUS = re.compile(r"cloudlet-[0-9a-f]{32}")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_TIMEOUT_S = 10.0

_made: list[ScratchNetwork] = []
"""In the daemon: the one network that it serves."""


# What the daemon does. What is raised here is raised again in the worker, from its type and its text.


@privsep.context.entrypoint  # type: ignore[untyped-decorator]  # oslo.privsep has no types
def make() -> None:
    """Make the network; OSError."""
    if _made:
        raise OSError("there is one already")
    _made.append(_told(ScratchNetwork))


@privsep.context.entrypoint  # type: ignore[untyped-decorator]  # oslo.privsep has no types
def take(tap: str, address: str) -> None:
    """Move the tap device of a scratch guest into the network and give it this side's address; OSError, ValueError."""
    if not _TAP.fullmatch(tap):
        raise ValueError(f"{tap!r} is no tap device of a scratch guest")
    known = ipaddress.ip_interface(address).with_prefixlen if address else ""
    _told(_made[0].take, Neighbour(tap, known))


@privsep.context.entrypoint  # type: ignore[untyped-decorator]  # oslo.privsep has no types
def forget() -> None:
    """Forget the MACs of the network; OSError."""
    _told(_made[0].forget)


@privsep.context.entrypoint  # type: ignore[untyped-decorator]  # oslo.privsep has no types
def send_socket(family: int, rendezvous: str) -> None:
    """Give the worker a socket of the network, by an abstract unix socket on which it waits; OSError, ValueError."""
    if family not in _FAMILIES:
        raise ValueError(f"family {family!r}")
    _send(_made[0].open_socket, family, rendezvous)


@privsep.context.entrypoint  # type: ignore[untyped-decorator]  # oslo.privsep has no types
def send_dhcp_socket(tap: str, rendezvous: str) -> None:
    """The same with a socket of a DHCP server on the tap device of a scratch guest; OSError, ValueError."""
    if not _TAP.fullmatch(tap):
        raise ValueError(f"{tap!r} is no tap device of a scratch guest")
    _send(_made[0].open_dhcp_socket, tap, rendezvous)


def _send(make: Callable[[Any], socket.socket], what: Any, rendezvous: str) -> None:
    if not _RENDEZVOUS.fullmatch(rendezvous):
        raise ValueError(f"{rendezvous!r} is no rendezvous")
    with (
        _told(make, what) as given,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
    ):
        connection.settimeout(_TIMEOUT_S)
        connection.connect(f"\0{rendezvous}")
        socket.send_fds(connection, [b"\0"], [given.fileno()])


def _told(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except NetworkFailed as failure:
        raise OSError(str(failure)) from failure


# What the worker does.


class LentNetwork:
    """A :class:`ScratchNetwork` of a daemon; :class:`errors.NotPrivileged` when there can be none."""

    def __init__(self) -> None:
        with _raised():
            make()

    def take(self, neighbour: Neighbour) -> None:
        """See :meth:`ScratchNetwork.take`."""
        with _raised():
            take(neighbour.tap, neighbour.address)

    def forget(self) -> None:
        """See :meth:`ScratchNetwork.forget`."""
        with _raised():
            forget()

    def open_socket(self, family: int) -> socket.socket:
        """See :meth:`ScratchNetwork.open_socket`."""
        return self._lent(lambda rendezvous: send_socket(int(family), rendezvous))

    def open_dhcp_socket(self, tap: str) -> socket.socket:
        """See :meth:`ScratchNetwork.open_dhcp_socket`."""
        return self._lent(lambda rendezvous: send_dhcp_socket(tap, rendezvous))

    def _lent(self, send: Callable[[str], None]) -> socket.socket:
        rendezvous = f"cloudlet-{secrets.token_hex(16)}"
        with _raised(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"\0{rendezvous}")
            listener.listen()
            send(rendezvous)
            return _receive(listener)

    def close(self) -> None:
        """The network goes with its daemon."""
        privsep.context.stop()


Network = ScratchNetwork | LentNetwork


def _receive(listener: socket.socket) -> socket.socket:
    """The socket that root, and nobody else, has given."""
    listener.settimeout(_TIMEOUT_S)
    while True:
        connection, _ = listener.accept()
        with connection:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(peer)[1] != 0:
                continue
            connection.settimeout(_TIMEOUT_S)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            if not descriptors:
                raise OSError("no socket came")
            return socket.socket(fileno=descriptors[0])


@contextlib.contextmanager
def _raised() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, daemon.FailedToDropPrivileges) as failure:
        raise NetworkFailed(command="privsep", reason=str(failure)) from failure


def prepare(helper: str) -> None:
    """Make sure that there can be a network, before anything else is done; :class:`errors.NotPrivileged`."""
    if os.geteuid() == 0:
        return
    privsep.use_helper(helper)
    try:
        privsep.context.start()
    except (OSError, daemon.FailedToDropPrivileges) as failure:
        raise errors.NotPrivileged(helper=helper, reason=str(failure)) from failure


def network() -> Network:
    """A network for a scratch guest; :class:`NetworkFailed`."""
    return ScratchNetwork() if os.geteuid() == 0 else LentNetwork()
