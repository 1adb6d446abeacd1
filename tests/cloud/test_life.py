# SPDX-License-Identifier: Apache-2.0
"""What a user may do with a server that began with a captured state, and what not while its overlay arrives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions
from openstack.compute.v2.server import Server

from benchmarks.file_server import FileServer
from benchmarks.shaper import Shaper
from tests.cloud.cloud import WAN, Cloud, wait_until
from tests.cloud.conftest import Boot
from tests.cloud.images import Images, Site

SLOW_MBIT = 3.0
"""The site's overlay needs some 17 s at this rate."""

Start = Callable[[str], tuple[Server, str]]


@pytest.fixture(params=["base-resume", "synthesis"])
def start(request: pytest.FixtureRequest, boot: Boot, site: Site, images: Images) -> Start:
    """``start(name)``: a server of the base, or of the overlay, that has arrived whole; its address."""

    def start(name: str) -> tuple[Server, str]:
        metadata = {"overlay_url": f"glance:{site.overlay}"} if request.param == "synthesis" else {}
        server, address = boot(name, image="site-base", metadata=metadata)
        images.ended(server.id)
        return server, address

    return start


@contextlib.contextmanager
def slow_link(cloud: Cloud, site: Site, folder: Path, rate_mbit: float = SLOW_MBIT) -> Iterator[tuple[str, Shaper]]:
    """URL of the overlay behind a thin link, and the link."""
    file = folder / "app.cloudlet"
    if not file.exists():
        cloud.connect("member").image.download_image(site.overlay, output=str(file))
    with FileServer(folder) as server, Shaper(server.address, rate_mbit=rate_mbit, rtt_ms=1, listen=f"{WAN}:0") as link:
        yield server.url(file.name, link.address), link


def test_it_lives_as_any_other(cloud: Cloud, start: Start) -> None:
    compute = cloud.connect("member").compute
    server, address = start("life")
    nonce = cloud.fetched(address)

    compute.suspend_server(server)
    cloud.settled(server, "SUSPENDED")
    compute.resume_server(server)
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) == nonce
    compute.pause_server(server)
    cloud.settled(server, "PAUSED")
    compute.unpause_server(server)
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) == nonce

    compute.reboot_server(server, "HARD")
    cloud.settled(server, "ACTIVE")
    rebooted = wait_until("another nonce", lambda: (now := cloud.fetched(address)) != nonce and now)
    compute.stop_server(server)
    cloud.settled(server, "SHUTOFF")
    compute.start_server(server)
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) not in (nonce, rebooted)

    compute.rescue_server(server)
    cloud.settled(server, "RESCUE")
    compute.unrescue_server(server)
    cloud.settled(server, "ACTIVE")
    cloud.fetched(address)


def test_its_disk_moves_as_any_other(cloud: Cloud, start: Start, images: Images) -> None:
    """Snapshot, shelve, resize: the disk is whole, and an image made of it is no base."""
    compute = cloud.connect("member").compute
    server, address = start("life")
    nonce = cloud.fetched(address)
    snapshot = compute.create_server_image(server, "life-snapshot", wait=True)
    images.delete_later(snapshot.id)
    shown = cloud.admin.image.get_image(snapshot.id)
    assert not [name for name in {**shown.properties, **shown} if name.startswith("cloudlet_")]
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) == nonce, "a snapshot disturbs nobody"

    compute.shelve_server(server)
    cloud.settled(server, "SHELVED_OFFLOADED")
    compute.unshelve_server(server)
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) != nonce

    host = cloud.admin.compute.get_server(server.id).compute_host
    with cloud.only_host(host):
        compute.resize_server(server, compute.find_flavor("m1.small"))
        cloud.settled(server, "VERIFY_RESIZE")
    compute.confirm_server_resize(server)
    cloud.settled(server, "ACTIVE")
    assert int(cloud.shell(address, "grep MemTotal /proc/meminfo").split()[1]) > 150 << 10


def test_it_is_rebuilt_as_it_was_made(cloud: Cloud, start: Start, site: Site) -> None:
    compute = cloud.connect("member").compute
    server, address = start("life")
    cloud.shell(address, "echo changed >/www/changed; echo changed >/dev/vda")
    compute.rebuild_server(server, image=site.base)
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) == site.nonce
    assert cloud.fetch(address, "/changed") is None
    if server.metadata:
        assert cloud.fetched(address, "/secret").strip() == site.secret


def test_soft_delete(cloud: Cloud, start: Start) -> None:
    compute = cloud.connect("member").compute
    server, address = start("life")
    cloud.fetched(address)
    with cloud.option("DEFAULT", "reclaim_instance_interval", "3600", "nova-api"):
        compute.delete_server(server)
        wait_until("soft deleted", lambda: cloud.admin.compute.get_server(server.id).status == "SOFT_DELETED")
        compute.restore_server(server)
        cloud.settled(server, "ACTIVE")
        cloud.fetched(address)


def test_others_wait_while_it_arrives(cloud: Cloud, boot: Boot, site: Site, images: Images, tmp_path: Path) -> None:
    compute = cloud.connect("member").compute
    with slow_link(cloud, site, tmp_path) as (url, _):
        server = cloud.active(boot.begin("arriving", image="site-base", metadata={"overlay_url": url}))
        wait_until("it is held", lambda: cloud.admin.compute.get_server(server.id).task_state == "cloudlet_synthesis")
        actions: dict[str, Callable[[], Any]] = {
            "suspend": lambda: compute.suspend_server(server),
            "pause": lambda: compute.pause_server(server),
            "stop": lambda: compute.stop_server(server),
            "hard reboot": lambda: compute.reboot_server(server, "HARD"),
            "soft reboot": lambda: compute.reboot_server(server, "SOFT"),
            "rescue": lambda: compute.rescue_server(server),
            "shelve": lambda: compute.shelve_server(server),
            "resize": lambda: compute.resize_server(server, compute.find_flavor("m1.small")),
            "rebuild": lambda: compute.rebuild_server(server, image=site.base),
            "snapshot": lambda: compute.create_server_image(server, "never"),
            "migrate": lambda: cloud.admin.compute.migrate_server(server),
            "base": lambda: images.begin(server, {"cloudlet-base": {"name": "never"}}),
            "overlay": lambda: images.begin(server, {"cloudlet-overlay-finish": {"overlay-name": "never"}}),
        }
        for name, act in actions.items():
            with pytest.raises((exceptions.ConflictException, AssertionError)) as caught:
                act()
            assert "cloudlet_synthesis" in str(caught.value), name
        operation = images.ended(server.id)
    assert operation["result"]["placement"] == "early"
    assert cloud.settled(server, "ACTIVE").task_state is None
    compute.suspend_server(server)
    cloud.settled(server, "SUSPENDED")


def test_a_server_is_deleted_while_it_arrives(cloud: Cloud, boot: Boot, site: Site, tmp_path: Path) -> None:
    with slow_link(cloud, site, tmp_path) as (url, _):
        server = cloud.active(boot.begin("arriving", image="site-base", metadata={"overlay_url": url}))
        cloud.delete(server)
    operation = cloud.operation_ended(server.id)
    assert (operation["state"], operation["error"]) == ("cancelled", "The server was deleted.")


def test_an_overlay_that_stops_arriving(cloud: Cloud, boot: Boot, site: Site, images: Images, tmp_path: Path) -> None:
    """The server says why it cannot go on, is not started from half a disk, and can be made anew."""
    compute = cloud.connect("member").compute
    with slow_link(cloud, site, tmp_path) as (url, _):
        server = cloud.active(boot.begin("broken", image="site-base", metadata={"overlay_url": url}))
        cloud.at_stage(server.id, "personalise")
    operation = cloud.operation_ended(server.id)
    assert operation["state"] == "failed"
    broken = cloud.settled(server, "ERROR")
    assert operation["error"].startswith(broken.fault["message"])
    assert "did not arrive whole" in operation["error"]
    compute.reboot_server(server, "HARD")
    wait_until("a reason", lambda: "rebuild it" in str(cloud.admin.compute.get_server(server.id).fault))
    assert not [one for one in cloud.running_domains() if broken.instance_name in one]
    metadata = {"overlay_url": f"glance:{site.overlay}"}
    compute.rebuild_server(cloud.settled(server, "ERROR"), image=site.base, metadata=metadata)
    whole = cloud.settled(server, "ACTIVE")
    images.ended(server.id)
    (address,) = (entry["addr"] for entries in whole.addresses.values() for entry in entries)
    assert cloud.fetched(address, "/secret").strip() == site.secret
