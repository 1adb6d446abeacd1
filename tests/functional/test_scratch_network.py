# SPDX-License-Identifier: Apache-2.0
"""A network namespace for a scratch guest: who is in it hears nobody else, and it goes."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from cloudlet_ext.hypervisor.errors import NetworkFailed
from cloudlet_ext.hypervisor.scratch_network import Neighbour, ScratchNetwork

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def devices() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


@pytest.fixture
def tap() -> Iterator[tuple[str, int]]:
    """A tap device as QEMU has it, which goes when nobody has it open: name and descriptor."""
    name = f"clr{secrets.token_hex(4)}0"
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        yield name, descriptor
    finally:
        os.close(descriptor)


def is_gone(descriptor: int) -> bool:
    """Whether a tap device went with its namespace."""
    try:
        os.write(descriptor, bytes(64))
    except OSError as failure:
        return failure.errno == errno.EBADFD
    return False


def test_a_tap_moves_and_goes_with_its_network(tap: tuple[str, int]) -> None:
    name, descriptor = tap
    network = ScratchNetwork()
    try:
        network.take(Neighbour(name, "192.0.2.1/24"))
        assert name not in devices()
        with network.open_socket(socket.AF_INET) as server, network.open_socket(socket.AF_INET) as client:
            server.bind(("192.0.2.1", 0))
            server.listen()
            client.settimeout(5)
            client.connect(server.getsockname())
            assert server.accept()[0].getsockname()[0] == "192.0.2.1"
        with socket.socket() as outside, pytest.raises(OSError, match="assign"):
            outside.bind(("192.0.2.1", 0))
        with network.open_socket(socket.AF_INET6) as other:
            assert other.family == socket.AF_INET6
        assert not is_gone(descriptor)
    finally:
        network.close()
        network.close()
    deadline = time.monotonic() + 10
    while not is_gone(descriptor):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert name not in devices()


def test_what_cannot_be_made_is_told() -> None:
    network = ScratchNetwork()
    try:
        with pytest.raises(NetworkFailed, match="Cannot find device"):
            network.take(Neighbour("clrnone", "192.0.2.1/24"))
    finally:
        network.close()
