# SPDX-License-Identifier: Apache-2.0
"""The minicloud itself: its services, a server from its start to its end, a restart of a service."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from openstack.compute.v2.server import Server

from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.inventory import domains
from tests.cloud.servers import Shared

ACCOUNTS = {
    "": ("admin", "admin", "admin"),
    "member": ("demo-member", "demo", "member"),
    "reader": ("demo-reader", "demo", "reader"),
    "manager": ("demo-manager", "demo", "manager"),
    "other": ("other-member", "other", "member"),
}

SERVICES = ("host", "db", "rabbitmq", "libvirtd", "vswitchd", "taps", "keystone", "glance", "placement", "neutron")
SERVICES += ("nova-api", "compute")

Neighbours = dict[str, tuple[Server, str]]


@pytest.fixture(scope="module")
def neighbours(cloud: Cloud) -> Iterator[Shared]:
    wanted = {host: {"account": "", "availability_zone": f"nova:{host}"} for host in cloud.hosts}
    servers = Shared(cloud, wanted)
    yield servers
    servers.delete()


@pytest.fixture
def shared(neighbours: Shared) -> Neighbours:
    """A server on each host, by the host's name, with its address."""
    return neighbours.servers()


def test_what_is_there(cloud: Cloud) -> None:
    rows = [line.split() for line in cloud.minicloud("status").splitlines()]
    states = {row[0]: row[2] for row in rows if len(row) > 3 and row[1].isdecimal() and row[2] in ("up", "down")}
    assert set(SERVICES) <= set(states)
    assert set(states.values()) == {"up"}
    hypervisors = {each.name: each.state for each in cloud.admin.compute.hypervisors(details=True)}
    assert hypervisors == dict.fromkeys(cloud.hosts, "up")
    for account, (user, project, role) in ACCOUNTS.items():
        session = cloud.connect(account).session
        access = session.auth.get_access(session)
        assert (access.username, access.project_name) == (user, project)
        assert role in access.role_names
    member = cloud.connect("member")
    flavors = {each.name: (each.ram, each.vcpus, each.disk) for each in member.compute.flavors()}
    assert {"m1.tiny": (128, 1, 1), "m1.small": (256, 1, 3), "m1.large": (2048, 1, 3)}.items() <= flavors.items()
    assert member.image.find_image("minicloud-guest", ignore_missing=False).status == "active"
    assert member.network.find_network("lab", ignore_missing=False).is_shared


def test_servers_answer_at_their_addresses(cloud: Cloud, shared: Neighbours) -> None:
    known = domains(cloud)
    for host, (server, address) in shared.items():
        nonce = cloud.fetched(address)
        assert re.fullmatch("[0-9a-f]{32}\n", nonce)
        assert cloud.shell(address, "cat /www/nonce; cat /sys/class/net/eth0/address").split() == [
            nonce.strip(),
            next(iter(cloud.admin.network.ports(device_id=server.id))).mac_address,
        ]
        assert f"{host} {cloud.admin.compute.get_server(server.id).instance_name}" in known


def test_servers_on_every_host_reach_each_other(cloud: Cloud, shared: Neighbours) -> None:
    nonces = {address: cloud.fetched(address) for _, address in shared.values()}
    assert len(set(nonces.values())) == len(nonces)
    for address in nonces:
        for other, nonce in nonces.items():
            assert cloud.shell(address, f"wget -q -O- http://{other}/nonce") == nonce


def test_servers_outlive_restarts(cloud: Cloud, shared: Neighbours) -> None:
    nonces = {address: cloud.fetched(address) for _, address in shared.values()}
    services = ("vswitchd", "compute")
    records = [cloud.folder / "pids" / service for service in services]
    before = [record.read_text() for record in records]
    cloud.restart(*services)
    assert all(record.read_text() != old for record, old in zip(records, before, strict=True))
    for address, nonce in nonces.items():
        assert cloud.fetched(address) == nonce


def test_a_guest_whose_tap_is_down_is_heard_again(cloud: Cloud, shared: Neighbours) -> None:
    """As Open vSwitch leaves it now and then."""
    host = cloud.hosts[-1]
    server, address = shared[host]
    nonce = cloud.fetched(address)
    (port,) = cloud.admin.network.ports(device_id=server.id)
    cloud.run("ip", "link", "set", f"tap{port.id[:11]}", "down", host=host)
    assert cloud.fetched(address) == nonce


def test_a_server_takes_a_new_network_card_and_goes(cloud: Cloud, shared: Neighbours) -> None:
    server, address = shared[cloud.hosts[-1]]
    nonce = cloud.fetched(address)
    compute = cloud.admin.compute
    old = next(iter(compute.server_interfaces(server.id)))
    compute.delete_server_interface(old.port_id, server=server.id)
    wait_until("the old card has gone", lambda: not list(compute.server_interfaces(server.id)))
    network = cloud.admin.network.find_network("lab", ignore_missing=False)
    new = compute.create_server_interface(server.id, net_id=network.id)
    assert new.mac_addr != old.mac_addr
    address = new.fixed_ips[0]["ip_address"]
    assert cloud.fetched(address) == nonce, "the guest has not run on"
    cloud.delete(server)
    assert cloud.fetch(address, "/nonce", limit_s=1.0) is None
