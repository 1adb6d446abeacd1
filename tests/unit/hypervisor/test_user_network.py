# SPDX-License-Identifier: Apache-2.0
"""The lease of the user network in device state."""

from __future__ import annotations

from cloudlet_ext.hypervisor.user_network import move_lease

OLD, NEW = "52:54:00:12:34:56", "52:54:00:c0:ff:ee"
OLD_BYTES, NEW_BYTES = bytes.fromhex("525400123456"), bytes.fromhex("525400c0ffee")


def test_moves_the_lease_and_nothing_else() -> None:
    card = b"\x0avirtio-net" + OLD_BYTES
    lease = b"\x05slirp" + bytes(100) + OLD_BYTES + bytes(200)
    later = bytes(5000) + OLD_BYTES
    moved = move_lease(card + lease + later, OLD, NEW)
    assert moved == card + lease.replace(OLD_BYTES, NEW_BYTES) + later


def test_leaves_the_rest_alone() -> None:
    for state in (b"", OLD_BYTES * 3, b"\x05slirp", b"\x05slirp" + bytes(10)):
        assert move_lease(state, OLD, NEW) == state
    state = b"\x05slirp" + OLD_BYTES
    assert move_lease(state, OLD, OLD) == state
