# SPDX-License-Identifier: Apache-2.0
"""Servers in networks that do not tell a guest its address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.cloud import Cloud, address_of, wait_until
from tests.cloud.images import Images
from tests.cloud.servers import Boot
from tests.cloud.site import BASE, Site
from tests.cloud.test_failures import last_errors


@pytest.fixture
def silent_network(cloud: Cloud, _nothing_is_left: None) -> Iterator[str]:
    """A network whose subnet has no DHCP."""
    neutron = cloud.admin.network
    network = neutron.create_network(name="silent", shared=True)
    neutron.create_subnet(network_id=network.id, ip_version=4, cidr="192.168.113.0/24", is_dhcp_enabled=False)
    yield network.id

    def used() -> list[str]:
        return [port.id for port in neutron.ports(network_id=network.id) if port.device_owner.startswith("compute:")]

    wait_until("the ports of deleted servers are gone", lambda: not used(), seen=used)
    neutron.delete_network(network)


def test_a_guest_without_an_agent_in_a_subnet_without_dhcp(
    cloud: Cloud, site: Site, images: Images, silent_network: str, boot: Boot
) -> None:
    """Nobody can give it its address; the server runs, and its events and its operation say so."""
    server = boot.begin("silent", image=BASE, networks=[{"uuid": silent_network}])
    server = cloud.active(server)
    address = address_of(server)
    personal = images.ended(server.id)["result"]["personal"]
    assert personal["address"] is False
    assert f"does not learn its address {address}, which is in a subnet without DHCP" in personal["reason"]
    told = wait_until("an event with an error", lambda: last_errors(cloud, server))
    assert told == ["cloudlet_personalise"]
    assert cloud.settled(server, "ACTIVE").fault is None


def test_a_guest_that_asks_for_its_address(cloud: Cloud, site: Site, images: Images, boot: Boot) -> None:
    """Nobody can look into a guest without an agent, which is no failure."""
    server, _ = boot("asks", image=BASE)
    assert images.arrived(server)["result"]["personal"]["address"] is None
    assert last_errors(cloud, server) == []
