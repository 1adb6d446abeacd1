# SPDX-License-Identifier: Apache-2.0
"""A network namespace for a scratch guest: who is in it hears nobody else, and it goes."""

from __future__ import annotations

import secrets
import socket
import subprocess

import pytest

from cloudlet_ext.hypervisor import errors
from cloudlet_ext.hypervisor.scratch_network import Neighbour, ScratchNetwork


def devices() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def test_a_tap_moves_and_goes_with_its_network() -> None:
    token = secrets.token_hex(3)
    tap = f"clr{token}"
    network = ScratchNetwork(f"cloudlet-{token}")
    try:
        subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"], check=True)
        network.take(Neighbour(tap, "192.0.2.1/24"))
        assert tap not in devices()
        assert network.call(devices) == ["lo", tap]

        def listening() -> tuple[str, int]:
            with socket.create_server(("192.0.2.1", 0)) as server:
                found: tuple[str, int] = server.getsockname()
                return found

        assert network.call(listening)[0] == "192.0.2.1"
        with pytest.raises(OSError, match="assign"):
            listening()
        with pytest.raises(ZeroDivisionError):
            network.call(lambda: 1 // 0)
    finally:
        network.close()
    assert tap not in devices()
    shown = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert network.name not in shown


def test_what_cannot_be_made_is_told() -> None:
    with pytest.raises(errors.NetworkFailed, match="netns add"):
        ScratchNetwork("a/b")
    network = ScratchNetwork(f"cloudlet-{secrets.token_hex(3)}")
    try:
        with pytest.raises(errors.NetworkFailed, match="Cannot find device"):
            network.take(Neighbour("clrnone", "192.0.2.1/24"))
    finally:
        network.close()
