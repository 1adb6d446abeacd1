# SPDX-License-Identifier: Apache-2.0
"""Machine descriptions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudlet_ext.hypervisor.errors import BadMachine, MachineMismatch
from cloudlet_ext.hypervisor.machine import MachineDescription

MACHINE = MachineDescription(
    accelerator="tcg",
    machine_type="pc-q35-10.0",
    cpu="Nehalem",
    vcpus=1,
    memory_bytes=128 << 20,
    disk_bytes=64 << 20,
    mac="52:54:00:12:34:56",
    kernel_cmdline="quiet",
)


def test_round_trip() -> None:
    assert MachineDescription.from_dict(MACHINE.to_dict()) == MACHINE
    plain = replace(MACHINE, kernel_cmdline=None)
    assert MachineDescription.from_dict(plain.to_dict()) == plain


def test_fields_of_later_releases_have_a_default() -> None:
    values = MACHINE.to_dict()
    for name in ("kernel_cmdline", "direct_kernel", "direct_initrd", "agent", "model", "qemu_version"):
        del values[name]
    assert MachineDescription.from_dict(values) == replace(MACHINE, kernel_cmdline=None)


@pytest.mark.parametrize("name", ["accelerator", "machine_type", "cpu", "vcpus", "memory_bytes", "disk_bytes", "mac"])
def test_a_missing_field_is_named(name: str) -> None:
    values = MACHINE.to_dict()
    del values[name]
    with pytest.raises(BadMachine, match=f"field {name}: missing"):
        MachineDescription.from_dict(values)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("colour", "red", "unknown"),
        ("cpu", 5, "str expected, found 5"),
        ("cpu", None, "str expected, found null"),
        ("vcpus", "1", 'int expected, found "1"'),
        ("vcpus", True, "int expected, found true"),
        ("vcpus", 1.0, "int expected, found 1.0"),
        ("memory_bytes", -1, "int expected, found -1"),
        ("agent", 1, "bool expected, found 1"),
        ("kernel_cmdline", ["quiet"], "str | None expected"),
        ("mac", "", 'network address expected, found ""'),
        ("mac", "52:54:00:12:34:5g", "network address expected"),
        ("mac", "52:54:00:12:34:56\n", "network address expected"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, reason: str) -> None:
    with pytest.raises(BadMachine) as caught:
        MachineDescription.from_dict({**MACHINE.to_dict(), name: value})
    assert caught.value.field == name
    assert reason in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accelerator", "kvm"),
        ("machine_type", "pc-q35-9.2"),
        ("cpu", "host"),
        ("vcpus", 2),
        ("memory_bytes", 256 << 20),
        ("disk_bytes", 0),
        ("kernel_cmdline", None),
        ("model", 2),
    ],
)
def test_a_mismatch_names_both_values(name: str, value: Any) -> None:
    other = replace(MACHINE, **{name: value})
    with pytest.raises(MachineMismatch) as caught:
        MACHINE.require_same(other, "The overlay x does not fit its base")
    text = str(caught.value)
    assert text.startswith("The overlay x does not fit its base")
    assert f"{name} is {value}, expected {getattr(MACHINE, name)}" in text
    assert caught.value.exit_code == 5


def test_what_a_clone_has_of_its_own_may_differ() -> None:
    MACHINE.require_same(replace(MACHINE, agent=True, qemu_version="8.2.0").with_mac("52:54:00:00:00:01"), "x")
