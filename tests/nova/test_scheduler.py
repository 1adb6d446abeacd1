# SPDX-License-Identifier: Apache-2.0
"""The weigher, run by Nova's own weight handler on Nova's own host states and request specs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from nova import objects
from nova.compute import stats as compute_stats
from nova.scheduler import host_manager, weights
from nova.scheduler.weights import all_weighers
from oslo_serialization import jsonutils

from cloudlet_ext.nova import held_bases, scheduler
from cloudlet_ext.nova.scheduler import CONF, BaseWeigher

BASE, OTHER_BASE = "a1" * 32, "b2" * 32
IMAGE, SAME_BASE_IMAGE, OTHER_IMAGE = (str(uuid.uuid5(uuid.NAMESPACE_URL, name)) for name in ("one", "two", "three"))


@pytest.fixture(autouse=True)
def configuration() -> Iterator[None]:
    objects.register_all()
    yield
    CONF.clear_override("base_weight_multiplier", group="cloudlet")


def host(name: str, *held: tuple[str, str], metadata: dict[str, str] | None = None) -> host_manager.HostState:
    """A host as the scheduler knows it, after its stats went the way from a driver to the scheduler."""
    stats = compute_stats.Stats()
    stats.digest_stats(held_bases.to_stats(held))
    row = {"stats": objects.ComputeNode(stats=stats).stats}
    objects.ComputeNode._convert_stats_to_db_format(row)
    state = host_manager.HostState(name, name, str(uuid.uuid4()))
    state.stats = jsonutils.loads(row["stats"])
    state.aggregates = [objects.Aggregate(metadata=metadata)] if metadata else []
    return state


def request(image_id: str | None) -> objects.RequestSpec:
    """A request as the conductor builds it of Glance's answer."""
    properties = {"cloudlet_type": "base", "cloudlet_base_id": BASE, "hw_disk_bus": "virtio"}
    image = {"id": image_id, "properties": properties} if image_id else None
    spec = objects.RequestSpec()
    spec._image_meta_from_image(image)
    return objects.RequestSpec.obj_from_primitive(spec.obj_to_primitive())


def order(hosts: list[host_manager.HostState], spec: objects.RequestSpec) -> list[tuple[str, float]]:
    handler = weights.HostWeightHandler()
    assert handler.get_matching_classes(["cloudlet_ext.nova.scheduler.BaseWeigher"]) == [BaseWeigher]
    weighed = handler.get_weighed_objects([BaseWeigher()], hosts, spec)
    return [(each.obj.host, each.weight) for each in weighed]


def test_what_the_scheduler_sees_of_an_image() -> None:
    """The reason for the map of images: if Nova ever keeps unknown properties, it can go."""
    image = request(IMAGE).image
    assert image.id == IMAGE
    assert image.properties.hw_disk_bus == "virtio"
    assert "cloudlet_base_id" not in image.properties.to_dict()


def test_a_host_with_the_base_comes_first() -> None:
    hosts = [host("empty"), host("other", (OTHER_BASE, OTHER_IMAGE)), host("holder", (BASE, IMAGE))]
    assert order(hosts, request(IMAGE)) == [("holder", 5.0), ("empty", 0.0), ("other", 0.0)]


def test_a_base_under_another_image() -> None:
    """One host tells that the images are the same base, so that another that knows only one of them counts too."""
    hosts = [host("empty"), host("knows one", (BASE, SAME_BASE_IMAGE)), host("knows both", (BASE, IMAGE))]
    assert dict(order(hosts, request(IMAGE))) == {"knows both": 5.0, "knows one": 5.0, "empty": 0.0}


def test_a_base_without_an_image() -> None:
    hosts = [host("by no image", (BASE, "")), host("knows", (OTHER_BASE, OTHER_IMAGE), (BASE, IMAGE)), host("empty")]
    assert dict(order(hosts, request(IMAGE))) == {"by no image": 5.0, "knows": 5.0, "empty": 0.0}


@pytest.mark.parametrize("image_id", [str(uuid.uuid4()), None], ids=["unknown image", "from a volume"])
def test_other_requests_are_left_alone(image_id: str | None) -> None:
    hosts = [host("empty"), host("holder", (BASE, IMAGE))]
    assert order(hosts, request(image_id)) == [("empty", 0.0), ("holder", 0.0)]


def test_all_hosts_hold_it() -> None:
    hosts = [host("one", (BASE, IMAGE)), host("two", (BASE, IMAGE))]
    assert len({weight for _, weight in order(hosts, request(IMAGE))}) == 1


def test_the_multiplier() -> None:
    CONF.set_override("base_weight_multiplier", -1.0, group="cloudlet")
    hosts = [host("holder", (BASE, IMAGE)), host("empty")]
    assert order(hosts, request(IMAGE)) == [("empty", 0.0), ("holder", -1.0)]
    near = host("near", (BASE, IMAGE), metadata={"cloudlet_base_weight_multiplier": "2.5"})
    assert dict(order([near, *hosts], request(IMAGE))) == {"near": 2.5, "holder": -1.0, "empty": 0.0}


def test_the_base_decides_against_emptier_hosts() -> None:
    """With Nova's weighers as they come: a host that has more of everything free, and one that has the base."""
    hosts = [host("holder", (BASE, IMAGE)), host("emptier")]
    for state, free in zip(hosts, (1, 1000), strict=True):
        state.free_ram_mb, state.free_disk_mb, state.vcpus_total = free, free, free
        state.cpu_allocation_ratio = 1.0
    weighers = [
        weigher() for weigher in all_weighers() if weigher.__name__ in ("RAMWeigher", "CPUWeigher", "DiskWeigher")
    ]
    assert len(weighers) == 3
    handler = weights.HostWeightHandler()
    assert handler.get_weighed_objects(weighers, hosts, request(IMAGE))[0].obj.host == "emptier"
    assert handler.get_weighed_objects([*weighers, BaseWeigher()], hosts, request(IMAGE))[0].obj.host == "holder"


def test_the_line_of_the_guide() -> None:
    """The weigher is one more, beside all of Nova's."""
    page = Path(__file__).parents[2] / "doc/source/admin/install.rst"
    (line,) = (line for line in page.read_text().splitlines() if line.strip().startswith("weight_classes = "))
    handler = weights.HostWeightHandler()
    found = handler.get_matching_classes(line.partition("=")[2].strip().split(","))
    assert found == [*all_weighers(), BaseWeigher]


def test_one_host_alone() -> None:
    assert BaseWeigher()._weigh_object(host("holder", (BASE, IMAGE)), request(IMAGE)) == 1.0
    assert BaseWeigher()._weigh_object(host("empty"), request(IMAGE)) == 0.0
    assert BaseWeigher()._weigh_object(host("holder", (BASE, IMAGE)), request(None)) == 0.0


def test_many_bases_fit_into_the_column() -> None:
    held = [(f"{number:064x}", str(uuid.uuid4())) for number in range(1000)]
    stats = held_bases.to_stats(held)
    assert len(json.dumps(stats)) < 20_000
    kept = held_bases.bases_of(stats)
    assert 90 <= len(kept) < 110
    assert kept == {base_id for base_id, _ in held[: len(kept)]}, "the first are kept"
    assert all(held_bases.base_of_image(stats, image_id) == base_id for base_id, image_id in held[: len(kept)])
    assert held_bases.base_of_image(stats, held[-1][1]) is None


def test_options_are_listed() -> None:
    assert scheduler.list_opts() == [("cloudlet", scheduler.OPTS)]
