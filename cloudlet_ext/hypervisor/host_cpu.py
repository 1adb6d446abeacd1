# SPDX-License-Identifier: Apache-2.0
"""Host CPU: whether the CPU of a captured guest can be built on this host, as libvirt and QEMU know it."""

from __future__ import annotations

import contextlib
from xml.etree import ElementTree as ET

import libvirt

from cloudlet_ext.hypervisor import errors
from cloudlet_ext.hypervisor.domain_xml import DomainMachine

_REFUSED = {libvirt.VIR_ERR_CPU_INCOMPATIBLE, libvirt.VIR_ERR_INTERNAL_ERROR}
"""Features are missing; libvirt does not know the model (for which it has no error of its own)."""

_UNKNOWN = "one that libvirt does not tell"


def require(connection: libvirt.virConnect, machine: DomainMachine, domain_type: str) -> None:
    """:class:`errors.CpuUnavailable` when a domain of ``domain_type`` (``kvm``, ``qemu``) cannot have the CPU here.

    A CPU without a model is the host's own, whatever that is, and is not checked. Where libvirt cannot compare, QEMU
    decides. :class:`errors.BadMachine` when it is no description of a CPU.
    """
    model = _model(machine.cpu)
    if model is None:
        return
    flag = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
    try:
        connection.compareHypervisorCPU(None, None, None, domain_type, machine.cpu, flag)
    except libvirt.libvirtError as failure:
        if failure.get_error_code() in _REFUSED:
            found, reason = _best(connection, domain_type), str(failure).partition(": ")[2]
            raise errors.CpuUnavailable(expected=model, found=found, reason=reason) from failure


def _model(cpu: str) -> str | None:
    try:
        return ET.fromstring(cpu).findtext("model") if cpu else None
    except ET.ParseError as failure:
        raise errors.BadMachine(field="cpu", reason=f"{failure}: {cpu[:100]!r}") from failure


def _best(connection: libvirt.virConnect, domain_type: str) -> str:
    """The model that is nearest to all that this host offers."""
    with contextlib.suppress(libvirt.libvirtError, ET.ParseError):
        capabilities = ET.fromstring(connection.getDomainCapabilities(None, None, None, domain_type))
        return capabilities.findtext("./cpu/mode[@name='host-model']/model") or _UNKNOWN
    return _UNKNOWN
