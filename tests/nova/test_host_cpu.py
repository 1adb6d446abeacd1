# SPDX-License-Identifier: Apache-2.0
"""The CPU of a base against what libvirt and QEMU offer here: libvirt's own QEMU driver, inside this process."""

from __future__ import annotations

from dataclasses import replace

import libvirt
import pytest

from cloudlet_ext.hypervisor import host_cpu
from cloudlet_ext.hypervisor.domain_xml import DomainMachine
from cloudlet_ext.hypervisor.errors import BadMachine, CpuUnavailable

USUAL = """\
<cpu check="full" match="exact" mode="custom"><model fallback="forbid">qemu64</model>\
<feature name="hypervisor" policy="require" /><feature name="lahf_lm" policy="require" /></cpu>"""
"""As libvirt describes a running domain for which no CPU was asked for."""

MACHINE = DomainMachine("tcg", "pc-i440fx-9.2", USUAL, 1, 128 << 20, {}, [])


@pytest.fixture
def connection(real_libvirt: libvirt.virConnect) -> libvirt.virConnect:
    return real_libvirt


def with_cpu(model: str, more: str = "") -> DomainMachine:
    return replace(MACHINE, cpu=f"<cpu mode='custom' match='exact' check='full'><model>{model}</model>{more}</cpu>")


@pytest.mark.parametrize("cpu", [USUAL, "", "<cpu mode='host-passthrough' check='none'/>", "<cpu mode='maximum'/>"])
def test_what_every_host_has(connection: libvirt.virConnect, cpu: str) -> None:
    host_cpu.require(connection, replace(MACHINE, cpu=cpu), "qemu")


def test_a_model_of_which_features_are_missing(connection: libvirt.virConnect) -> None:
    """QEMU emulates no AVX-512; without the check the guest would run on, and die of an instruction later."""
    with pytest.raises(CpuUnavailable) as caught:
        host_cpu.require(connection, with_cpu("Icelake-Server"), "qemu")
    assert caught.value.expected == "Icelake-Server"
    best = connection.getDomainCapabilities(None, None, None, "qemu").partition("<mode name='host-model'")[2]
    assert f">{caught.value.found}</model>" in best
    assert str(caught.value).startswith(
        f"The base needs a CPU of model Icelake-Server, this host offers {caught.value.found} (Host CPU does not "
        "provide required features: "
    )
    assert "avx512f" in str(caught.value)
    assert "another host" in str(caught.value)


def test_a_feature_that_is_missing(connection: libvirt.virConnect) -> None:
    host_cpu.require(connection, with_cpu("Nehalem"), "qemu")
    with pytest.raises(CpuUnavailable, match=r"Nehalem.* required features: avx512f"):
        host_cpu.require(connection, with_cpu("Nehalem", "<feature policy='require' name='avx512f'/>"), "qemu")


def test_a_model_that_nobody_knows(connection: libvirt.virConnect) -> None:
    with pytest.raises(CpuUnavailable, match=r"model Nosuch, this host offers .* \(Unknown CPU model Nosuch\)"):
        host_cpu.require(connection, with_cpu("Nosuch"), "qemu")


def test_what_is_no_cpu(connection: libvirt.virConnect) -> None:
    with pytest.raises(BadMachine, match="field cpu"):
        host_cpu.require(connection, replace(MACHINE, cpu="<cpu"), "qemu")


def test_a_libvirt_that_cannot_compare() -> None:
    """It is left to the start of the domain."""
    with libvirt.open("test:///default") as connected:
        host_cpu.require(connected, with_cpu("Icelake-Server"), "qemu")
