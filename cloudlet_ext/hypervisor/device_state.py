# SPDX-License-Identifier: Apache-2.0
"""Device state: what a captured stream carries besides RAM, kept opaque."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cloudlet_ext.hypervisor import errors

_MAGIC = b"CLDLTDEV"
_HEAD = struct.Struct("<8sHHII")
_VERSION = 1


@dataclass(frozen=True)
class DeviceState:
    """The configuration section and all device sections of one stream, as QEMU wrote them.

    ``configuration`` begins with the section type 0x07; ``devices`` is the run of FULL sections between the end of
    RAM and the end mark of the stream.
    """

    configuration: bytes
    devices: bytes

    def encode(self) -> bytes:
        """Magic, version, zero, the two lengths (u32, little-endian), the two parts."""
        head = _HEAD.pack(_MAGIC, _VERSION, 0, len(self.configuration), len(self.devices))
        return head + self.configuration + self.devices

    @classmethod
    def decode(cls, data: bytes) -> DeviceState:
        """Read what ``encode`` wrote; :class:`errors.BadDeviceState` when it is something else."""
        if len(data) < _HEAD.size:
            raise errors.BadDeviceState(reason=f"{len(data)} bytes, at least {_HEAD.size} expected")
        magic, version, zero, configuration, devices = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise errors.BadDeviceState(reason=f"magic {magic!r}, expected {_MAGIC!r}")
        if version != _VERSION or zero:
            raise errors.BadDeviceState(reason=f"version {version}, this program reads {_VERSION}")
        if len(data) != _HEAD.size + configuration + devices:
            raise errors.BadDeviceState(reason=f"{len(data)} bytes, {_HEAD.size + configuration + devices} declared")
        middle = _HEAD.size + configuration
        return cls(data[_HEAD.size : middle], data[middle:])
