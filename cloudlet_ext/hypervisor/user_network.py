# SPDX-License-Identifier: Apache-2.0
"""QEMU's user network: what its part of the device state knows of the guest."""

from __future__ import annotations

_SECTION = b"\x05slirp"
_REACH_BYTES = 4096
"""The leases stand within the first bytes of the section, which holds no guest connections."""


def move_lease(devices: bytes, old_mac: str, new_mac: str) -> bytes:
    """Device state in which the DHCP lease of ``old_mac`` belongs to ``new_mac``.

    A guest that gets an address of its own on the wire keeps its IP address then, and with it its port forwards. The
    network device's own record is left alone: it follows when the guest sets the address.
    """
    begin = devices.find(_SECTION)
    if begin < 0 or old_mac == new_mac:
        return devices
    end = begin + _REACH_BYTES
    old, new = (bytes.fromhex(mac.replace(":", "")) for mac in (old_mac, new_mac))
    return devices[:begin] + devices[begin:end].replace(old, new) + devices[end:]
