# SPDX-License-Identifier: Apache-2.0
"""Likeness: whether two machine descriptions, of either kind, are of machines that a state can move between."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.hypervisor.domain_xml import DomainMachine
from cloudlet_ext.hypervisor.machine import MachineDescription

_LIBVIRT = "libvirt"


def same_machine(expected: dict[str, Any], found: dict[str, Any]) -> None:
    """:class:`errors.MachineMismatch` with both values, :class:`errors.BadMachine`; what a base and an overlay tell."""
    if expected == found:
        return
    what = "The overlay does not fit its base"
    if expected.get("kind") == _LIBVIRT:
        DomainMachine.from_dict(expected).require_same(DomainMachine.from_dict(found), what)
    else:
        MachineDescription.from_dict(expected).require_same(MachineDescription.from_dict(found), what)
