# SPDX-License-Identifier: Apache-2.0
"""Machine description: what two QEMU processes must share for a state to move between them."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from cloudlet_ext.hypervisor import errors

RAM_ID = "pc.ram"
"""Name of the main RAM block: what QEMU calls it in the stream."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

_MUST_MATCH = ("accelerator", "machine_type", "cpu", "vcpus", "memory_bytes", "disk_bytes", "kernel_cmdline", "model")


@dataclass(frozen=True)
class MachineDescription:
    """The guest-visible machine. Sizes in bytes; ``mac`` is the address that the captured guest had.

    ``model`` numbers the set of devices and their addresses (:func:`cloudlet_ext.hypervisor.command_line.devices`);
    ``agent`` tells that the captured guest ran a guest agent; ``direct_kernel`` that QEMU loads a kernel (and an
    initrd) that are parts of the base.
    """

    accelerator: str
    machine_type: str
    cpu: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    mac: str
    kernel_cmdline: str | None = None
    direct_kernel: bool = False
    direct_initrd: bool = False
    agent: bool = False
    model: int = 1
    qemu_version: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MachineDescription:
        """The reverse; :class:`errors.BadMachine` names the field that is unknown, missing or of the wrong type."""
        known = {field.name: field for field in fields(cls)}
        for name in values:
            if name not in known:
                raise errors.BadMachine(field=name, reason="unknown")
        for name, field in known.items():
            if name not in values and field.default is MISSING:
                raise errors.BadMachine(field=name, reason="missing")
        machine = cls(**values)
        for name, field in known.items():
            value = getattr(machine, name)
            kind = str(field.type)
            fits = (
                (kind == "str" and isinstance(value, str))
                or (kind == "bool" and isinstance(value, bool))
                or (kind == "int" and isinstance(value, int) and not isinstance(value, bool) and value >= 0)
                or (kind == "str | None" and (value is None or isinstance(value, str)))
            )
            if not fits:
                raise errors.BadMachine(field=name, reason=f"{kind} expected, found {json.dumps(value)}")
        if not _MAC.fullmatch(machine.mac):
            raise errors.BadMachine(field="mac", reason=f"network address expected, found {json.dumps(machine.mac)}")
        return machine

    def with_mac(self, mac: str) -> MachineDescription:
        """The same machine with another network address."""
        return replace(self, mac=mac)

    def require_same(self, found: MachineDescription, what: str) -> None:
        """:class:`errors.MachineMismatch` names the first field in which ``found`` differs, and both values."""
        for name in _MUST_MATCH:
            mine, other = getattr(self, name), getattr(found, name)
            if mine != other:
                raise errors.MachineMismatch(what=what, field=name, expected=mine, found=other)
