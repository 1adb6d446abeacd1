# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet synthesize`` and ``base resume``: servers that are resumed, not booted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.file_server import FileServer
from tests.osc.cloud import Cloud
from tests.osc.conftest import Command
from tests.osc.service import fault

GOLDEN = Path(__file__).parents[1] / "golden/v1"
URL = "https://apps.example.org/face.cloudlet"


@pytest.fixture
def base(cloud: Cloud) -> str:
    """A base in a cloud that has one flavor and one network for it."""
    cloud.add_flavor("fits")
    cloud.add_network("private")
    return cloud.add_base("ubuntu")


def created(cloud: Cloud) -> dict[str, Any]:
    """The body of the last request for a server."""
    server: dict[str, Any] = cloud.asked("POST", "/compute/v2.1/servers")[-1].json["server"]
    return server


def test_everything_is_chosen_that_was_not_given(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_base("debian", base_id="0" * 64)
    overlay = cloud.add_overlay("face-app")
    result = run("cloudlet synthesize --overlay face-app face-1 -f json")
    sent = created(cloud)
    assert sent["imageRef"] == base
    assert sent["flavorRef"] in cloud.flavors
    assert sent["networks"] == [{"uuid": next(iter(cloud.networks))}]
    assert sent["metadata"] == {"overlay_url": f"glance:{overlay}"}
    assert result.json["id"] == result.json["operation"]
    assert result.err.splitlines() == ["Flavor: fits", "Network: private"]


def test_what_was_given_is_taken(cloud: Cloud, run: Command, base: str) -> None:
    flavor, network, other = cloud.add_flavor("large", 512, 2, 20), cloud.add_network("lan"), cloud.add_base("other")
    overlay = cloud.add_overlay()
    run(f"cloudlet synthesize --overlay {overlay} --base other --flavor large --network lan face-1")
    sent = created(cloud)
    assert (sent["imageRef"], sent["flavorRef"], sent["networks"]) == (other, flavor, [{"uuid": network}])
    run(f"cloudlet synthesize --overlay {overlay} --base {other} --flavor {flavor} --network none face-1")
    assert created(cloud)["networks"] == "none"


def test_wait_ends_when_the_guest_runs(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay()
    result = run("cloudlet synthesize --overlay face-app face-1 --wait -f json")
    assert result.json["status"] == "ACTIVE"
    assert result.json["addresses"] == "private=10.0.0.7"
    assert "capture" in result.err


def test_wait_tells_that_something_still_goes_on(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay()

    def early(request: Any) -> None:
        for server in cloud.servers.values():
            server["status"] = "ACTIVE"

    cloud.watch = early
    err = run("cloudlet synthesize --overlay face-app face-1 --wait").err
    assert "The guest runs; the rest (queued) goes on: openstack cloudlet operation show" in err


def test_a_synthesis_that_fails_ends_with_its_reason(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay()
    cloud.failure = "The CPU model Icelake is not available on edge-3."
    result = run("cloudlet synthesize --overlay face-app face-1 --wait", fails=True)
    assert "The start of server face-1" in result.err
    assert "The CPU model Icelake is not available on edge-3." in result.err


def test_a_server_that_no_host_takes_ends_with_novas_reason(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay()
    cloud.refuse("GET", ".*/os-cloudlet/operations/.*", 404, "No operation.")

    def fail(request: Any) -> None:
        for server in cloud.servers.values():
            server |= {"status": "ERROR", "fault": {"code": 500, "message": "No valid host was found."}}

    cloud.watch = fail
    assert "No valid host was found." in run("cloudlet synthesize --overlay face-app f --wait", fails=True).err


def test_a_server_that_is_deleted_meanwhile(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay()
    cloud.add("GET", "/compute/v2.1/servers/([^/]+)", lambda request, key: fault(404, "gone"))
    assert "it was deleted" in run("cloudlet synthesize --overlay face-app f --wait", fails=True).err


def test_a_short_absence_of_the_api_is_waited_out(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay()
    refusals = [fault(503, "restarting"), fault(502, "restarting")]
    show = cloud._show_operation
    cloud.add("GET", ".*/operations/([^/]+)", lambda request, key: refusals.pop() if refusals else show(request, key))
    run("cloudlet synthesize --overlay face-app f --wait")
    assert not refusals


def test_an_overlay_by_url_names_its_base(cloud: Cloud, run: Command, base: str) -> None:
    with FileServer(GOLDEN) as files:
        run(f"cloudlet synthesize --overlay {files.url('overlay')} face-1")
        assert created(cloud)["imageRef"] == base
        assert created(cloud)["metadata"] == {"overlay_url": files.url("overlay")}


def test_an_overlay_by_url_that_cannot_be_read_here(cloud: Cloud, run: Command, base: str) -> None:
    with FileServer(GOLDEN) as files:
        unread = files.url("none")
        assert "say which base: --base BASE" in run(f"cloudlet synthesize --overlay {unread} f", fails=True).err
        run(f"cloudlet synthesize --overlay {unread} --base ubuntu f")
    assert created(cloud)["imageRef"] == base


def test_a_url_that_nova_cannot_keep(cloud: Cloud, run: Command, base: str) -> None:
    url = f"{URL}?{'x' * 255}"
    assert "at most 255" in run(f"cloudlet synthesize --overlay {url} --base ubuntu f", fails=True).err
    assert not cloud.servers


def test_an_overlay_whose_base_is_not_here(cloud: Cloud, run: Command, base: str) -> None:
    cloud.add_overlay(base_id="1" * 64)
    err = run("cloudlet synthesize --overlay face-app f", fails=True).err
    assert f"was made for base {'1' * 64}, which is none of the 1 bases of this cloud" in err


def test_own_copies_of_a_base_go_before_others(cloud: Cloud, run: Command, base: str) -> None:
    cloud.images[base]["owner"] = "0" * 32
    own = cloud.add_base("mine")
    cloud.add_base("unfinished", filled=False)
    cloud.add_overlay()
    run("cloudlet synthesize --overlay face-app f")
    assert created(cloud)["imageRef"] == own


def test_overlay_and_base_must_be_whole(cloud: Cloud, run: Command) -> None:
    cloud.add_base("ubuntu", filled=False)
    cloud.add_overlay("half", data=None)
    cloud.add_overlay("whole")
    for name in ("half", "whole"):
        assert "is queued, expected active" in run(f"cloudlet synthesize --overlay {name} f", fails=True).err


def test_the_smallest_flavor_that_fits_is_taken(cloud: Cloud, run: Command) -> None:
    for name, *sizes in (("ram", 512, 1, 2), ("cpu", 256, 2, 2), ("disk", 256, 1, 1), ("none", 256, 1, 0)):
        cloud.add_flavor(name, *sizes)
    cloud.add_flavor("larger", disk=40)
    cloud.add_flavor("swap", disk=2, swap=64)
    small = cloud.add_flavor("small", disk=3)
    cloud.add_base("ubuntu")
    run("cloudlet base resume ubuntu dev-1 --network none")
    assert created(cloud)["flavorRef"] == small
    assert "metadata" not in created(cloud)


def test_no_flavor_that_fits(cloud: Cloud, run: Command) -> None:
    cloud.add_flavor("tiny", 64, 1, 1)
    cloud.add_base("ubuntu")
    err = run("cloudlet base resume ubuntu dev-1 --network none", fails=True).err
    assert "expected exactly 256 MB of RAM and 1 vCPUs" in err
    assert "the flavors here are tiny (64 MB, 1 vCPUs, 1 GB)" in err
    assert "openstack flavor create --ram 256 --vcpus 1 --disk 2 NAME" in err


def test_networks(cloud: Cloud, run: Command) -> None:
    cloud.add_flavor("fits")
    cloud.add_base("ubuntu")
    cloud.add_network("public", **{"router:external": True})
    cloud.add_network("another's", project_id="0" * 32)
    assert "has none. Make one" in run("cloudlet base resume ubuntu dev-1", fails=True).err
    shared = cloud.add_network("shared", shared=True, project_id="0" * 32)
    run("cloudlet base resume ubuntu dev-1")
    assert created(cloud)["networks"] == [{"uuid": shared}]
    cloud.add_network("lan")
    assert "has 2 (lan, shared). Say which" in run("cloudlet base resume ubuntu dev-1", fails=True).err


def test_base_resume_waits(cloud: Cloud, run: Command, base: str) -> None:
    assert run("cloudlet base resume ubuntu dev-1 --wait -f value -c status").out.strip() == "ACTIVE"
    (operation,) = cloud.operations.values()
    assert operation["type"] == "base-resume"
