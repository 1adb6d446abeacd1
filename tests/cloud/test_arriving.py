# SPDX-License-Identifier: Apache-2.0
"""What a user may do, and not do, with a server while its overlay arrives; and when it stops arriving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openstack import exceptions

from tests.cloud import host_side
from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.host_side import Freezer
from tests.cloud.images import Images
from tests.cloud.inventory import running_domains
from tests.cloud.servers import Boot
from tests.cloud.site import BASE, Site, slow_link

GIVEN_UP_S = 120.0
"""A source that is away is given up after some 15 s."""


def test_others_wait_while_it_arrives(
    cloud: Cloud, boot: Boot, site: Site, images: Images, freeze: Freezer, tmp_path: Path
) -> None:
    compute = cloud.connect("member").compute
    with slow_link(cloud, site, tmp_path, rate_mbit=5) as url:
        server = cloud.active(boot.begin("arriving", image=BASE, metadata={"overlay_url": url}))
        # However long the following takes.
        worker = freeze(server.id, "run")
        wait_until("it is held", lambda: cloud.admin.compute.get_server(server.id).task_state == "cloudlet_synthesis")
        actions: dict[str, Callable[[], Any]] = {
            "suspend": lambda: compute.suspend_server(server),
            "pause": lambda: compute.pause_server(server),
            "stop": lambda: compute.stop_server(server),
            "hard reboot": lambda: compute.reboot_server(server, "HARD"),
            "soft reboot": lambda: compute.reboot_server(server, "SOFT"),
            "rescue": lambda: compute.rescue_server(server),
            "shelve": lambda: compute.shelve_server(server),
            "resize": lambda: compute.resize_server(server, cloud.flavor("m1.small")),
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
        freeze.release(worker)
        operation = images.ended(server.id)
    assert operation["result"]["placement"] == "early"
    cloud.settled(server, "ACTIVE")


def test_a_server_that_has_arrived_is_like_any_other(
    cloud: Cloud, boot: Boot, site: Site, images: Images, tmp_path: Path
) -> None:
    """Its guest has no agent: its network card was put in anew while its memory arrived."""
    compute = cloud.connect("member").compute
    with slow_link(cloud, site, tmp_path, rate_mbit=12) as url:
        server, address = boot("arrived", image=BASE, metadata={"overlay_url": url})
        assert images.ended(server.id)["result"]["placement"] == "early"
    compute.suspend_server(cloud.settled(server, "ACTIVE"))
    compute.resume_server(cloud.settled(server, "SUSPENDED"))
    cloud.settled(server, "ACTIVE")
    assert cloud.fetched(address, "/secret").strip() == site.secret
    overlay = images.capture(server, {"cloudlet-overlay-finish": {"overlay-name": "arrived"}})["images"]["overlay"]
    base = images.capture(server, {"cloudlet-base": {"name": "arrived-base"}})["images"]["base-disk"]
    likenesses = {
        "of-overlay": {"image": BASE, "metadata": {"overlay_url": f"glance:{overlay}"}},
        "of-base": {"image": base},
    }
    for likeness in [boot.begin(name, **words) for name, words in likenesses.items()]:
        _, address = cloud.answers(likeness)
        assert cloud.fetched(address, "/secret").strip() == site.secret, likeness.name


def test_a_server_is_deleted_while_it_arrives(cloud: Cloud, boot: Boot, site: Site, tmp_path: Path) -> None:
    with slow_link(cloud, site, tmp_path) as url:
        server = cloud.active(boot.begin("arriving", image=BASE, metadata={"overlay_url": url}))
        cloud.delete(server)
    operation = cloud.operation_ended(server.id)
    assert (operation["state"], operation["error"]) == ("cancelled", "The server was deleted.")


def test_an_overlay_that_stops_arriving(cloud: Cloud, boot: Boot, site: Site, images: Images, tmp_path: Path) -> None:
    """The server says why it cannot go on, is not started from half a disk, and can be made anew."""
    compute = cloud.connect("member").compute
    with slow_link(cloud, site, tmp_path) as url:
        server = cloud.active(boot.begin("broken", image=BASE, metadata={"overlay_url": url}))
        host_side.reach_stage(cloud, server.id, "personalise")
    operation = cloud.operation_ended(server.id, limit_s=GIVEN_UP_S)
    assert operation["state"] == "failed"
    broken = cloud.settled(server, "ERROR")
    assert operation["error"].startswith(broken.fault["message"])
    assert "did not arrive whole" in operation["error"]
    compute.reboot_server(server, "HARD")
    wait_until("a reason", lambda: "rebuild it" in str(cloud.admin.compute.get_server(server.id).fault))
    assert not [one for one in running_domains(cloud) if broken.instance_name in one]
    metadata = {"overlay_url": f"glance:{site.overlay}"}
    compute.rebuild_server(cloud.settled(server, "ERROR"), image=site.base, metadata=metadata)
    _, address = cloud.answers(cloud.settled(server, "ACTIVE"))
    images.ended(server.id)
    assert cloud.fetched(address, "/secret").strip() == site.secret
