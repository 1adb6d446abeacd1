# SPDX-License-Identifier: Apache-2.0
"""What fails in a cloud: the reason is told, servers that ran go on, and nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from openstack import exceptions
from openstack.compute.v2.server import Server

from tests.cloud import host_side
from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.host_side import Freezer
from tests.cloud.images import Images
from tests.cloud.inventory import running_domains
from tests.cloud.servers import Boot, Shared
from tests.cloud.site import BASE, Site, slow_link

WANT_BASE = {"cloudlet-base": {"name": "failing"}}
WANT_OVERLAY = {"cloudlet-overlay-finish": {"overlay-name": "failing"}}

FOREIGN_CPU = "<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>Icelake-Server</model></cpu>"
"""With AVX-512, which QEMU does not emulate."""


@dataclass(frozen=True)
class Source:
    """A server of the site's base that runs."""

    server: Server
    address: str
    host: str


@pytest.fixture(scope="module")
def kept(cloud: Cloud, site: Site) -> Iterator[Shared]:
    servers = Shared(cloud, {"source": {"image": BASE}})
    yield servers
    servers.delete()


@pytest.fixture
def shared(cloud: Cloud, kept: Shared) -> Source:
    server, address = kept.servers()["source"]
    return Source(server, address, str(cloud.admin.compute.get_server(server.id).compute_host))


def assert_as_before(cloud: Cloud, source: Source, site: Site) -> None:
    """It runs, nothing is being done with it, and it has forgotten nothing."""
    cloud.settled(source.server, "ACTIVE")
    assert cloud.fetched(source.address) == site.nonce


def last_errors(cloud: Cloud, server: Server) -> list[str]:
    """Names of our events that ended with an error, of what was done with a server last."""
    compute = cloud.admin.compute
    last = max(compute.server_actions(server), key=lambda action: action.start_time)
    events = compute.get_server_action(last.request_id, server.id).events
    failed = [event["event"] for event in events if event["result"] == "Error"]
    return [name for name in failed if name.startswith("cloudlet_")]


@pytest.mark.parametrize(
    ("wanted", "stage"), [(WANT_BASE, "capture"), (WANT_BASE, "upload"), (WANT_OVERLAY, "compare")]
)
def test_a_capture_loses_its_worker(
    cloud: Cloud, shared: Source, freeze: Freezer, images: Images, site: Site, wanted: dict[str, dict], stage: str
) -> None:
    operation_id = images.begin(shared.server, wanted)
    host_side.kill(freeze(operation_id, stage))
    operation = images.ended(operation_id, state="failed")
    assert "ended early" in operation["error"]
    assert_as_before(cloud, shared, site)
    wait_until("an event with an error", lambda: last_errors(cloud, shared.server))


def test_a_guest_loses_its_feeder(cloud: Cloud, boot: Boot, freeze: Freezer, site: Site, tmp_path: Path) -> None:
    with slow_link(cloud, site, tmp_path) as url:
        server = cloud.active(boot.begin("fed", image=BASE, metadata={"overlay_url": url}))
        host_side.kill(freeze(server.id, "personalise"))
        operation = cloud.operation_ended(server.id)
    assert operation["state"] == "failed"
    assert operation["error"].startswith(cloud.settled(server, "ERROR").fault["message"])


def test_nova_compute_is_killed(
    cloud: Cloud, shared: Source, boot: Boot, freeze: Freezer, site: Site, images: Images, tmp_path: Path
) -> None:
    """While a guest is fed (the worker goes on), before another runs, and, on the other host, during a capture."""
    (other,) = [host for host in cloud.hosts if host != shared.host][:1]
    services = [host_side.compute_service(cloud, host) for host in (shared.host, other)]
    with slow_link(cloud, site, tmp_path, rate_mbit=1.5) as url:
        metadata = {"overlay_url": url}
        with cloud.only_host(other):
            fed = cloud.active(boot.begin("fed", image=BASE, metadata=metadata))
            unborn = boot.begin("unborn", image=BASE, metadata=metadata)
            workers = [freeze(unborn.id, "start")]
        capture = images.begin(shared.server, WANT_BASE)
        workers.append(freeze(capture, "disk"))
        with host_side.killed(cloud, *services):
            known = host_side.known_operation(cloud, fed.id)
            assert known is not None and known["state"] == "running", known
            freeze.release(*workers)

        captured = images.ended(capture, state="failed")
        assert "nova-compute was restarted" in captured["error"]
        assert_as_before(cloud, shared, site)

        never_ran = cloud.operation_ended(unborn.id)
        assert never_ran["state"] == "failed"
        assert "before the server ran" in never_ran["error"]
        broken = cloud.settled(unborn, "ERROR")
        assert not [one for one in running_domains(cloud) if broken.instance_name in one]

        # The next nova-compute hears how it ended.
        images.ended(fed.id)
    _, address = cloud.answers(fed)
    assert cloud.fetched(address, "/secret").strip() == site.secret
    cloud.settled(fed, "ACTIVE")
    cloud.connect("member").compute.reboot_server(fed, "HARD")
    cloud.settled(fed, "ACTIVE")


def test_nova_api_is_restarted_during_a_capture(
    cloud: Cloud, shared: Source, freeze: Freezer, images: Images, site: Site
) -> None:
    operation_id = images.begin(shared.server, WANT_OVERLAY)
    worker = freeze(operation_id, "capture")
    record = cloud.folder / "pids" / "nova-api"
    before = record.read_text()
    cloud.restart("nova-api")
    assert record.read_text() != before
    freeze.release(worker)
    images.ended(operation_id)
    assert_as_before(cloud, shared, site)


def test_rabbitmq_is_restarted_during_a_capture(
    cloud: Cloud, shared: Source, freeze: Freezer, images: Images, site: Site
) -> None:
    """The capture goes on while it is away."""
    operation_id = images.begin(shared.server, WANT_OVERLAY)
    worker = freeze(operation_id, "capture")
    record = cloud.folder / "pids" / "rabbitmq"
    before = record.read_text()
    with ThreadPoolExecutor(1) as thread:
        restart = thread.submit(cloud.restart, "rabbitmq")
        wait_until("RabbitMQ has ended", lambda: not record.exists() or record.read_text() != before)
        freeze.release(worker)
        restart.result()
    images.ended(operation_id)
    assert_as_before(cloud, shared, site)


def test_glance_is_stopped(cloud: Cloud, shared: Source, freeze: Freezer, images: Images, site: Site) -> None:
    """The images of what failed go when Glance is there again."""
    operation_id = images.begin(shared.server, WANT_OVERLAY)
    worker = freeze(operation_id, "compare")
    with host_side.killed_whole(cloud, "glance"):
        freeze.release(worker)
        operation = images.ended(operation_id, state="failed")
        assert "image service" in operation["error"], operation["error"]
        assert_as_before(cloud, shared, site)


@pytest.mark.parametrize(("folder", "size"), [("scratch", "4M"), ("bases", "256K"), ("operations", "4K")])
def test_the_disk_is_full(cloud: Cloud, shared: Source, images: Images, site: Site, folder: str, size: str) -> None:
    with host_side.small(cloud, shared.host, folder, size):
        operation = images.ended(images.begin(shared.server, WANT_OVERLAY), state="failed")
    assert "space" in operation["error"] or "room" in operation["error"], operation["error"]
    assert_as_before(cloud, shared, site)


def test_the_base_is_deleted(cloud: Cloud, shared: Source, boot: Boot, images: Images, site: Site) -> None:
    """What hosts hold of it goes on being used; where nothing is held, the reason is told."""
    made = images.capture(shared.server, WANT_BASE)
    base = made["images"]
    server, address = boot("of-a-base-that-goes", image=base["base-disk"])
    images.arrived(server)
    for image in base.values():
        cloud.admin.image.delete_image(image)
    images.capture(server, WANT_OVERLAY)
    host_side.forget_bases(cloud, made["result"]["base_id"])
    cloud.settled(server, "ACTIVE")
    operation = images.ended(images.begin(server, WANT_OVERLAY), state="failed")
    assert base["base-disk"] in operation["error"] or base["base-memory"] in operation["error"], operation["error"]
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address) == site.nonce


def test_an_overlay_is_damaged(cloud: Cloud, boot: Boot, images: Images, site: Site, tmp_path: Path) -> None:
    """In its manifest, and in what comes last."""
    file = tmp_path / "damaged.cloudlet"
    cloud.connect("member").image.download_image(site.overlay, output=str(file))
    whole, servers = file.read_bytes(), []
    for part in (0.02, 0.9):
        content = bytearray(whole)
        content[int(part * len(content))] ^= 1
        file.write_bytes(content)
        url = f"glance:{images.upload('damaged', file, site.overlay)}"
        servers.append(boot.begin("damaged", image=BASE, metadata={"overlay_url": url}))
    for server in servers:
        operation = cloud.operation_ended(server.id)
        assert operation["state"] == "failed"
        assert "digest" in operation["error"] or "damaged" in operation["error"], operation["error"]
        assert operation["error"][:100] in cloud.settled(server, "ERROR").fault["message"]


def test_a_cpu_that_the_host_lacks(cloud: Cloud, boot: Boot, images: Images, site: Site, tmp_path: Path) -> None:
    (held, *_) = (found for host in cloud.hosts if (found := host_side.cached_bases(cloud, host).get(site.base_id)))
    base = images.with_cpu(site.base, held, tmp_path, FOREIGN_CPU)
    server = boot.begin("another-cpu", image=base)
    operation = cloud.operation_ended(server.id)
    assert operation["state"] == "failed"
    for told in (operation["error"], cloud.settled(server, "ERROR").fault["message"]):
        assert "a CPU of model Icelake-Server, this host offers " in told, told
    assert "avx512f" in operation["error"]


def test_a_flavor_that_does_not_fit(cloud: Cloud, site: Site) -> None:
    with pytest.raises(exceptions.BadRequestException) as caught:
        cloud.create("unfit", image=BASE, flavor="m1.small")
    assert "256 MiB" in str(caught.value)
    assert "128 MiB" in str(caught.value)
    assert not cloud.admin.compute.find_server("unfit", all_projects=True)
