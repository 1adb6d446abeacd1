# SPDX-License-Identifier: Apache-2.0
"""What fails in a cloud: the reason is told, servers that ran go on, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from openstack import exceptions
from openstack.compute.v2.server import Server

from tests.cloud import host_side
from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.conftest import Boot
from tests.cloud.images import Images, Site
from tests.cloud.test_life import slow_link

BASE = {"cloudlet-base": {"name": "failing"}}
OVERLAY = {"cloudlet-overlay-finish": {"overlay-name": "failing"}}

Source = Callable[[], tuple[Server, str, str]]


@pytest.fixture
def source(boot: Boot, site: Site, cloud: Cloud) -> Source:
    """``source()``: a server of the base that runs, its address, and its host."""

    def source() -> tuple[Server, str, str]:
        server, address = boot("source", image="site-base")
        return server, address, str(cloud.admin.compute.get_server(server.id).compute_host)

    return source


def assert_as_before(cloud: Cloud, server: Server, address: str, nonce: str) -> None:
    """It runs, nothing is being done with it, and it has forgotten nothing."""
    wait_until("its task state is reset", lambda: cloud.admin.compute.get_server(server.id).task_state is None)
    assert cloud.admin.compute.get_server(server.id).status == "ACTIVE"
    assert cloud.fetched(address) == nonce


def stages_with_errors(cloud: Cloud, server: Server) -> list[str]:
    """Names of the events of a server that ended with an error."""
    compute = cloud.admin.compute
    actions = [compute.get_server_action(one.request_id, server.id) for one in compute.server_actions(server)]
    return [event["event"] for action in actions for event in action.events if event["result"] == "Error"]


@pytest.mark.parametrize(("body", "stage"), [(BASE, "capture"), (BASE, "upload"), (OVERLAY, "compare")])
def test_a_capture_loses_its_worker(
    cloud: Cloud, source: Source, images: Images, site: Site, body: dict[str, dict[str, str]], stage: str
) -> None:
    server, address, _ = source()
    operation_id = images.begin(server, body)
    host_side.kill(host_side.freeze_worker(cloud, operation_id, stage))
    operation = images.ended(operation_id, state="failed")
    assert "ended early" in operation["error"]
    assert_as_before(cloud, server, address, site.nonce)
    assert [name for name in stages_with_errors(cloud, server) if name.startswith("cloudlet_")]


def test_a_guest_loses_its_feeder(cloud: Cloud, boot: Boot, site: Site, tmp_path: Path) -> None:
    with slow_link(cloud, site, tmp_path) as (url, _):
        server = cloud.active(boot.begin("fed", image="site-base", metadata={"overlay_url": url}))
        host_side.kill(host_side.freeze_worker(cloud, server.id, "personalise"))
        operation = cloud.operation_ended(server.id)
    assert operation["state"] == "failed"
    assert operation["error"].startswith(cloud.settled(server, "ERROR").fault["message"])


def test_nova_compute_is_killed_during_a_capture(cloud: Cloud, source: Source, images: Images, site: Site) -> None:
    server, address, host = source()
    operation_id = images.begin(server, BASE)
    worker = host_side.freeze_worker(cloud, operation_id, "disk")
    service = host_side.compute_service(cloud, host)
    host_side.kill(host_side.service_pid(cloud, service))
    os.kill(worker, signal.SIGCONT)
    cloud.minicloud("restart", cloud.name, service)
    operation = images.ended(operation_id, state="failed")
    assert "nova-compute was restarted" in operation["error"]
    assert_as_before(cloud, server, address, site.nonce)


def test_nova_compute_is_killed_while_a_guest_is_fed(
    cloud: Cloud, boot: Boot, site: Site, images: Images, tmp_path: Path
) -> None:
    """The worker goes on, and the next nova-compute hears how it ended."""
    with slow_link(cloud, site, tmp_path) as (url, _):
        server, address = boot("fed", image="site-base", metadata={"overlay_url": url})
        host = str(cloud.admin.compute.get_server(server.id).compute_host)
        service = host_side.compute_service(cloud, host)
        host_side.kill(host_side.service_pid(cloud, service))
        cloud.minicloud("restart", cloud.name, service)
        images.ended(server.id)
    assert cloud.fetched(address, "/secret").strip() == site.secret
    cloud.settled(server, "ACTIVE")
    cloud.connect("member").compute.reboot_server(server, "HARD")
    cloud.settled(server, "ACTIVE")


def test_nova_compute_is_killed_before_the_guest_runs(cloud: Cloud, boot: Boot, site: Site, tmp_path: Path) -> None:
    with slow_link(cloud, site, tmp_path) as (url, _):
        server = boot.begin("unborn", image="site-base", metadata={"overlay_url": url})
        worker = host_side.freeze_worker(cloud, server.id, "start")
        host = str(cloud.admin.compute.get_server(server.id).compute_host)
        service = host_side.compute_service(cloud, host)
        host_side.kill(host_side.service_pid(cloud, service))
        os.kill(worker, signal.SIGCONT)
        cloud.minicloud("restart", cloud.name, service)
        operation = cloud.operation_ended(server.id)
    assert operation["state"] == "failed"
    assert "before the server ran" in operation["error"]
    broken = cloud.settled(server, "ERROR")
    assert not [one for one in cloud.running_domains() if broken.instance_name in one]


def test_nova_api_is_restarted_during_a_capture(cloud: Cloud, source: Source, images: Images) -> None:
    server, _, _ = source()
    operation_id = images.begin(server, OVERLAY)
    worker = host_side.freeze_worker(cloud, operation_id, "capture")
    cloud.minicloud("restart", cloud.name, "nova-api")
    os.kill(worker, signal.SIGCONT)
    images.ended(operation_id)


def test_rabbitmq_is_restarted_during_a_capture(cloud: Cloud, source: Source, images: Images, site: Site) -> None:
    server, address, _ = source()
    operation_id = images.begin(server, OVERLAY)
    cloud.minicloud("restart", cloud.name, "rabbitmq")
    images.ended(operation_id)
    assert_as_before(cloud, server, address, site.nonce)


def test_glance_is_stopped(cloud: Cloud, source: Source, images: Images, site: Site) -> None:
    """The images of what failed go when Glance is there again."""
    server, address, _ = source()
    operation_id = images.begin(server, OVERLAY)
    worker = host_side.freeze_worker(cloud, operation_id, "compare")
    host_side.kill_service(cloud, "glance")
    try:
        os.kill(worker, signal.SIGCONT)
        operation = images.ended(operation_id, state="failed")
        assert "image service" in operation["error"], operation["error"]
        assert_as_before(cloud, server, address, site.nonce)
    finally:
        cloud.minicloud("restart", cloud.name, "glance")


@pytest.mark.parametrize(("folder", "size"), [("scratch", "4M"), ("bases", "256K")])
def test_the_disk_is_full(cloud: Cloud, source: Source, images: Images, site: Site, folder: str, size: str) -> None:
    server, address, host = source()
    with host_side.small(cloud, host, folder, size):
        operation = images.ended(images.begin(server, OVERLAY), state="failed")
    assert "space" in operation["error"] or "room" in operation["error"], operation["error"]
    assert_as_before(cloud, server, address, site.nonce)


def test_the_base_is_deleted(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    """What hosts hold of it goes on being used; where nothing is held, the reason is told."""
    origin, _ = boot("origin")
    base = images.capture(origin, BASE)["images"]
    server, address = boot("source", image=base["base-disk"])
    nonce = cloud.fetched(address)
    for image in base.values():
        cloud.admin.image.delete_image(image)
    images.capture(server, OVERLAY)
    host_side.forget_bases(cloud)
    operation = images.ended(images.begin(server, OVERLAY), state="failed")
    assert base["base-disk"] in operation["error"] or base["base-memory"] in operation["error"], operation["error"]
    assert_as_before(cloud, server, address, nonce)


@pytest.mark.parametrize("place", [0.02, 0.9])
def test_an_overlay_is_damaged(
    cloud: Cloud, boot: Boot, images: Images, site: Site, tmp_path: Path, place: float
) -> None:
    member = cloud.connect("member")
    file = tmp_path / "damaged.cloudlet"
    member.image.download_image(site.overlay, output=str(file))
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    whole = member.image.get_image(site.overlay).properties
    ours = {name: value for name, value in whole.items() if name.startswith("cloudlet_")}
    damaged = member.image.create_image(
        "damaged", filename=str(file), disk_format="raw", container_format="bare", wait=True, **ours
    )
    images.delete_later(damaged.id)
    server = boot.begin("damaged", image="site-base", metadata={"overlay_url": f"glance:{damaged.id}"})
    operation = cloud.operation_ended(server.id)
    assert operation["state"] == "failed"
    assert "digest" in operation["error"] or "damaged" in operation["error"], operation["error"]
    assert operation["error"][:100] in cloud.settled(server, "ERROR").fault["message"]


def test_a_flavor_that_does_not_fit(cloud: Cloud, site: Site) -> None:
    with pytest.raises(exceptions.BadRequestException) as caught:
        cloud.create("unfit", image="site-base", flavor="m1.small")
    assert "256 MiB" in str(caught.value)
    assert "128 MiB" in str(caught.value)
    assert not cloud.admin.compute.find_server("unfit", all_projects=True)
