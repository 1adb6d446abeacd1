# SPDX-License-Identifier: Apache-2.0
"""The compute driver, as far as it can be told without libvirt."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from nova import conf as nova_conf
from nova.compute import provider_tree
from nova.virt.libvirt import driver as libvirt_driver

from cloudlet_ext.nova.driver import CloudletDriver


@pytest.fixture
def _stock_traits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nova's own part asks libvirt; what it would set stands for it."""

    def update(self: Any, tree: provider_tree.ProviderTree, node: str, allocations: Any = None) -> None:
        tree.add_traits(node, "HW_CPU_X86_VMX")

    monkeypatch.setattr(libvirt_driver.LibvirtDriver, "update_provider_tree", update)
    yield
    nova_conf.CONF.clear_override("virt_type", group="libvirt")


@pytest.mark.usefixtures("_stock_traits")
def test_placement_is_told_who_can_resume_bases() -> None:
    tree = provider_tree.ProviderTree()
    tree.new_root("node", str(uuid.uuid4()))
    tree.add_traits("node", "CUSTOM_OF_THE_OPERATOR")
    driver = CloudletDriver.__new__(CloudletDriver)
    stock = {"CUSTOM_OF_THE_OPERATOR", "HW_CPU_X86_VMX"}
    for virt_type, ours in (("kvm", {"CUSTOM_CLOUDLET"}), ("qemu", {"CUSTOM_CLOUDLET"}), ("lxc", set())):
        nova_conf.CONF.set_override("virt_type", virt_type, group="libvirt")
        driver.update_provider_tree(tree, "node")
        assert tree.data("node").traits == stock | ours, virt_type
