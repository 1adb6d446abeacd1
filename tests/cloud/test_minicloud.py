# SPDX-License-Identifier: Apache-2.0
"""The minicloud itself: its services, a server from its start to its end, a restart of a service."""

from __future__ import annotations

import re

import pytest

from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.conftest import Boot

ACCOUNTS = {
    "": ("admin", "admin", "admin"),
    "member": ("demo-member", "demo", "member"),
    "reader": ("demo-reader", "demo", "reader"),
    "manager": ("demo-manager", "demo", "manager"),
    "other": ("other-member", "other", "member"),
}

SERVICES = ("host", "db", "rabbitmq", "libvirtd", "keystone", "glance", "placement", "neutron", "nova-api", "compute")


def test_status_shows_every_service(cloud: Cloud) -> None:
    rows = [line.split() for line in cloud.minicloud("status").splitlines()]
    states = {row[0]: row[2] for row in rows if len(row) > 3 and row[1].isdecimal() and row[2] in ("up", "down")}
    assert set(SERVICES) <= set(states)
    assert set(states.values()) == {"up"}


@pytest.mark.parametrize("account", ACCOUNTS)
def test_accounts(cloud: Cloud, account: str) -> None:
    connection = cloud.connect(account)
    user, project, role = ACCOUNTS[account]
    access = connection.session.auth.get_access(connection.session)
    assert (access.username, access.project_name) == (user, project)
    assert role in access.role_names


def test_every_host_is_there(cloud: Cloud) -> None:
    hypervisors = {each.name: each.state for each in cloud.admin.compute.hypervisors(details=True)}
    assert hypervisors == dict.fromkeys(cloud.hosts, "up")


def test_content(cloud: Cloud) -> None:
    member = cloud.connect("member")
    flavors = {each.name: (each.ram, each.vcpus, each.disk) for each in member.compute.flavors()}
    assert {"m1.tiny": (128, 1, 1), "m1.small": (256, 1, 3), "m1.large": (2048, 1, 3)}.items() <= flavors.items()
    assert member.image.find_image("minicloud-guest", ignore_missing=False).status == "active"
    assert member.network.find_network("lab", ignore_missing=False).is_shared


def test_a_server_answers_at_its_address(cloud: Cloud, boot: Boot) -> None:
    server, address = boot("answers")
    nonce = cloud.fetched(address)
    assert re.fullmatch("[0-9a-f]{32}\n", nonce)
    assert cloud.shell(address, "cat /www/nonce; cat /sys/class/net/eth0/address").split() == [
        nonce.strip(),
        next(iter(cloud.admin.network.ports(device_id=server.id))).mac_address,
    ]
    domain = cloud.admin.compute.get_server(server.id).instance_name
    assert f"{server.hypervisor_hostname or cloud.name} {domain}" in cloud.domains()
    cloud.delete(server)
    assert cloud.fetch(address, "/nonce", limit_s=1.0) is None


def test_servers_on_every_host_reach_each_other(cloud: Cloud, boot: Boot) -> None:
    servers = []
    for number, host in enumerate(cloud.hosts):
        servers.append(boot(f"neighbour-{number}", account="", availability_zone=f"nova:{host}"))
    addresses = [address for _, address in servers]
    nonces = [cloud.fetched(address) for address in addresses]
    assert len(set(nonces)) == len(nonces)
    for address in addresses:
        for other, nonce in zip(addresses, nonces, strict=True):
            assert cloud.shell(address, f"wget -q -O- http://{other}/nonce") == nonce


def test_a_server_takes_a_new_network_card(cloud: Cloud, boot: Boot) -> None:
    server, address = boot("replugged")
    nonce = cloud.fetched(address)
    compute = cloud.admin.compute
    old = next(iter(compute.server_interfaces(server.id)))
    compute.delete_server_interface(old.port_id, server=server.id)
    wait_until("the old card has gone", lambda: not list(compute.server_interfaces(server.id)))
    network = cloud.admin.network.find_network("lab", ignore_missing=False)
    new = compute.create_server_interface(server.id, net_id=network.id)
    assert new.mac_addr != old.mac_addr
    assert cloud.fetched(new.fixed_ips[0]["ip_address"]) == nonce, "the guest has not run on"


@pytest.mark.parametrize("service", ["nova-api", "vswitchd"])
def test_restart_of_a_service(cloud: Cloud, boot: Boot, service: str) -> None:
    _, address = boot(f"outlives-{service}")
    nonce = cloud.fetched(address)
    record = cloud.folder / "pids" / service
    before = record.read_text()
    cloud.minicloud("restart", cloud.name, service)
    assert record.read_text() != before
    assert cloud.fetched(address, limit_s=30) == nonce
    assert cloud.admin.compute.get("/servers").status_code == 200


def test_restart_of_nova_compute(cloud: Cloud, boot: Boot) -> None:
    server, address = boot("outlives-compute")
    nonce = cloud.fetched(address)
    cloud.minicloud("restart", cloud.name, "compute")
    assert cloud.fetched(address) == nonce
    cloud.delete(server)
