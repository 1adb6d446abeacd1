# SPDX-License-Identifier: Apache-2.0
"""What a worker is told of a server's ports, from Nova's own record of its network; and what becomes of its trouble."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from nova.network import model

from cloudlet_ext.job import cards
from cloudlet_ext.nova import jobs
from cloudlet_ext.nova.operations import Operation
from cloudlet_ext.nova.runner import Task

MAC = "fa:16:3e:00:00:02"


def subnet(cidr: str, address: str, gateway: str | None, **meta: Any) -> model.Subnet:
    made = model.Subnet(cidr=cidr, gateway=model.IP(address=gateway, type="gateway"), **meta)
    made.add_ip(model.FixedIP(address=address, floating_ips=[model.IP(address="198.51.100.1", type="floating")]))
    return made


def instance(*subnets: model.Subnet, **network: Any) -> Any:
    """As a compute host has it: from the database."""
    known = model.Network(id="n", label="lab", subnets=list(subnets), **network)
    text = model.NetworkInfo([model.VIF(id="p", address=MAC, network=known)]).json()
    return SimpleNamespace(get_network_info=lambda: model.NetworkInfo.hydrate(text))


@pytest.mark.parametrize(
    ("meta", "handed_out"),
    [
        ({"enable_dhcp": True}, True),
        ({"enable_dhcp": False}, False),
        ({"enable_dhcp": False, "dhcp_server": "192.168.111.3"}, True),
        ({}, False),
    ],
)
def test_an_address_and_who_tells_it(meta: dict[str, Any], *, handed_out: bool) -> None:
    lab = subnet("192.168.111.0/24", "192.168.111.7", "192.168.111.1", **meta)
    (port,) = jobs.ports(instance(lab, mtu=1442))
    address = {"address": "192.168.111.7/24", "gateway": "192.168.111.1", "handed_out": handed_out}
    assert port == {"mac": MAC, "mtu": 1442, "addresses": [address]}
    # It travels as JSON, and the worker understands it.
    (card,) = cards.of_job(["fa:16:3e:00:00:01"], [MAC], json.loads(json.dumps([port])))
    assert (card.mtu, card.gateway(4), card.gateway(6)) == (1442, "192.168.111.1", "")
    assert [str(one.interface) for one in card.handed_out + card.fixed] == ["192.168.111.7/24"]


def test_several_addresses_without_gateway() -> None:
    slaac = subnet("fd00::/64", "fd00::7", None, enable_dhcp=False, ipv6_address_mode="slaac")
    (port,) = jobs.ports(instance(subnet("10.1.0.0/16", "10.1.0.9", None), slaac))
    assert port["mtu"] is None
    assert [one["address"] for one in port["addresses"]] == ["10.1.0.9/16", "fd00::7/64"]
    assert [one["handed_out"] for one in port["addresses"]] == [False, True]
    assert {one["gateway"] for one in port["addresses"]} == {None}


def test_a_port_without_an_address() -> None:
    (port,) = jobs.ports(instance())
    assert port["addresses"] == []
    assert jobs.ports(SimpleNamespace(get_network_info=model.NetworkInfo)) == []


def test_trouble_is_in_the_events_of_the_server() -> None:
    told: list[str] = []
    operation = Operation(id="o", type="base-resume", project_id="p", user_id="u", host="h")
    task = Task(SimpleNamespace(host="h", store=None), operation, None, SimpleNamespace(trouble=told.append))  # type: ignore[arg-type]
    task._heard({"event": "trouble", "text": "the guest may not answer"})
    assert told == ["the guest may not answer"]
