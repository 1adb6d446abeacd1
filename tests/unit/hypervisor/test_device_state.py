# SPDX-License-Identifier: Apache-2.0
"""Stored device state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import BadDeviceState

STATE = DeviceState(b"\x07\0\0\0\x02pc", b"all devices")


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_round_trip(configuration: bytes, devices: bytes) -> None:
    state = DeviceState(configuration, devices)
    assert DeviceState.decode(state.encode()) == state


def test_golden_bytes() -> None:
    head = b"CLDLTDEV" + b"\x01\0" + b"\0\0" + b"\x07\0\0\0" + b"\x0b\0\0\0"
    assert STATE.encode() == head + STATE.configuration + STATE.devices


def test_every_truncation_and_extension_is_refused() -> None:
    data = STATE.encode()
    for length in range(len(data)):
        with pytest.raises(BadDeviceState) as caught:
            DeviceState.decode(data[:length])
        assert caught.value.exit_code == 3
    with pytest.raises(BadDeviceState, match=f"{len(data) + 1} bytes, {len(data)} declared"):
        DeviceState.decode(data + b"\0")


@pytest.mark.parametrize(
    ("at", "byte", "reason"),
    [(0, ord("X"), "magic"), (8, 2, "version 2, this program reads 1"), (10, 1, "version"), (12, 8, "declared")],
)
def test_other_heads_are_refused(at: int, byte: int, reason: str) -> None:
    data = bytearray(STATE.encode())
    data[at] = byte
    with pytest.raises(BadDeviceState, match=reason):
        DeviceState.decode(bytes(data))
