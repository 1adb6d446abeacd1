# SPDX-License-Identifier: Apache-2.0
"""What a user may do with servers that began with a captured state: one of a base, one of an overlay, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from openstack.compute.v2.server import Server

from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.images import Images
from tests.cloud.servers import Shared
from tests.cloud.site import BASE, Site


class Pair:
    """The two servers."""

    def __init__(self, cloud: Cloud, servers: dict[str, tuple[Server, str]]) -> None:
        self._cloud = cloud
        self.servers = {name: server for name, (server, _) in servers.items()}
        self.addresses = {name: address for name, (_, address) in servers.items()}

    def do(self, what: Callable[[Server], object], status: str) -> None:
        """Ask for the same for both; then both have a status."""
        for server in self.servers.values():
            what(server)
        for server in self.servers.values():
            self._cloud.settled(server, status)

    def nonces(self) -> dict[str, str]:
        """What both have drawn at their boot."""
        return {name: self._cloud.fetched(address) for name, address in self.addresses.items()}

    def nonces_after(self, *others: dict[str, str]) -> dict[str, str]:
        """What both have drawn at a boot after those by which they were known."""

        def drawn(name: str) -> str | None:
            now = self._cloud.fetch(self.addresses[name], "/nonce", limit_s=2.0)
            return now if now not in [None, *(known[name] for known in others)] else None

        return {name: wait_until(f"{name} boots", lambda name=name: drawn(name)) for name in self.addresses}


@pytest.fixture(scope="module")
def kept(cloud: Cloud, site: Site) -> Iterator[Shared]:
    overlay = {"overlay_url": f"glance:{site.overlay}"}
    servers = Shared(cloud, {"resumed": {"image": BASE}, "synthesised": {"image": BASE, "metadata": overlay}})
    yield servers
    servers.delete()


@pytest.fixture
def shared(cloud: Cloud, kept: Shared) -> Pair:
    return Pair(cloud, kept.servers())


def test_they_live_as_any_other(cloud: Cloud, shared: Pair) -> None:
    compute = cloud.connect("member").compute
    first = shared.nonces()
    shared.do(compute.suspend_server, "SUSPENDED")
    shared.do(compute.resume_server, "ACTIVE")
    assert shared.nonces() == first
    shared.do(compute.pause_server, "PAUSED")
    shared.do(compute.unpause_server, "ACTIVE")
    assert shared.nonces() == first

    shared.do(lambda server: compute.reboot_server(server, "HARD"), "ACTIVE")
    second = shared.nonces_after(first)
    shared.do(compute.stop_server, "SHUTOFF")
    shared.do(compute.start_server, "ACTIVE")
    third = shared.nonces_after(first, second)

    shared.do(compute.rescue_server, "RESCUE")
    shared.do(compute.unrescue_server, "ACTIVE")
    shared.nonces_after(third)


def test_they_are_rebuilt_as_they_were_made(cloud: Cloud, images: Images, shared: Pair, site: Site) -> None:
    compute = cloud.connect("member").compute
    for address in shared.addresses.values():
        cloud.shell(address, "echo changed >/www/changed; echo changed >/dev/vda")
    shared.do(lambda server: compute.rebuild_server(server, image=site.base), "ACTIVE")
    for server in shared.servers.values():
        images.ended(server.id)
    assert set(shared.nonces().values()) == {site.nonce}
    for address in shared.addresses.values():
        assert cloud.fetch(address, "/changed") is None
    assert cloud.fetched(shared.addresses["synthesised"], "/secret").strip() == site.secret


def test_soft_delete(cloud: Cloud, shared: Pair) -> None:
    compute = cloud.connect("member").compute
    with cloud.option("DEFAULT", "reclaim_instance_interval", "3600", "nova-api"):
        shared.do(compute.delete_server, "SOFT_DELETED")
        shared.do(compute.restore_server, "ACTIVE")
    shared.nonces()


def test_their_disks_move_as_any_other(cloud: Cloud, shared: Pair, images: Images) -> None:
    """Snapshot, shelve, resize: the disk is whole, and an image made of it is no base."""
    compute = cloud.connect("member").compute
    nonces = shared.nonces()
    snapshots = [compute.create_server_image(server, f"{name}-snapshot").id for name, server in shared.servers.items()]
    for snapshot in snapshots:
        images.delete_later(snapshot)
    for snapshot in snapshots:
        shown = wait_until("the snapshot", lambda snapshot=snapshot: active_image(cloud, snapshot))
        assert not [name for name in shown if name.startswith("cloudlet_")]
    shared.do(lambda server: None, "ACTIVE")
    assert shared.nonces() == nonces, "a snapshot disturbs nobody"

    servers = [cloud.admin.compute.get_server(server.id) for server in shared.servers.values()]
    shared.do(compute.shelve_server, "SHELVED_OFFLOADED")
    for server in servers:
        # It stays where it was; elsewhere it would be taken for something that is left.
        with cloud.only_host(server.compute_host):
            compute.unshelve_server(server)
            wait_until("a host", lambda server=server: cloud.admin.compute.get_server(server.id).compute_host)
    shared.do(lambda server: None, "ACTIVE")
    shared.nonces_after(nonces)

    for host in {server.compute_host for server in servers}:
        here = [server for server in servers if server.compute_host == host]
        # The hosts have no way to bring a disk to each other.
        with cloud.only_host(host):
            for server in here:
                compute.resize_server(server, cloud.flavor("m1.small"))
            for server in here:
                cloud.settled(server, "VERIFY_RESIZE")
    shared.do(compute.confirm_server_resize, "ACTIVE")
    for address in shared.addresses.values():
        cloud.fetched(address)
        assert int(cloud.shell(address, "grep MemTotal /proc/meminfo").split()[1]) > 150 << 10


def active_image(cloud: Cloud, image: str) -> dict[str, object] | None:
    """All that Glance tells of an image that is whole."""
    shown: dict[str, object] = cloud.admin.image.get(f"/images/{image}").json()
    return shown if shown["status"] == "active" else None
