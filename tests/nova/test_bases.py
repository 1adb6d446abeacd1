# SPDX-License-Identifier: Apache-2.0
"""/os-cloudlet/bases."""

from __future__ import annotations

from cloudlet_ext import operation_id
from tests.nova.cloud import ADMIN, MANAGER, MEMBER, MINE, Cloud
from tests.nova.conftest import BASE_ID, Images, make_base

NOBODYS = "00000000-0000-4000-8000-000000000000"


def test_show(cloud: Cloud, images: Images) -> None:
    shown = cloud.request(MEMBER, "GET", f"/os-cloudlet/bases/{images.base}").json["base"]
    created_at = shown.pop("created_at")
    assert created_at.endswith("Z")
    assert shown == {
        "id": images.base,
        "name": "ubuntu",
        "status": "active",
        "visibility": "private",
        "project_id": MINE,
        "base_id": BASE_ID,
        "memory_image_id": images.memory,
        "memory_mb": 512,
        "vcpus": 1,
        "min_disk_gb": 2,
        "disk_bytes": 50,
        "memory_bytes": 100,
    }


def test_index(cloud: Cloud, images: Images) -> None:
    bases = cloud.request(MEMBER, "GET", "/os-cloudlet/bases").json["bases"]
    by_id = {base["id"]: base for base in bases}
    assert {images.base, images.public_base} <= set(by_id)
    assert images.their_base not in by_id
    assert not {images.memory, images.overlay, images.plain} & set(by_id)
    assert by_id[images.base] == cloud.request(MEMBER, "GET", f"/os-cloudlet/bases/{images.base}").json["base"]
    assert by_id[images.public_base]["memory_bytes"] == 100
    # The memory image of this one is private to somebody else.
    assert by_id[images.half_public_base]["memory_bytes"] is None


def test_index_by_name_and_in_pages(cloud: Cloud, images: Images) -> None:
    names = [base["name"] for base in cloud.request(MEMBER, "GET", "/os-cloudlet/bases?name=ubuntu").json["bases"]]
    assert names == ["ubuntu"]
    assert cloud.request(MEMBER, "GET", "/os-cloudlet/bases?name=none").json == {"bases": []}
    everything = [base["id"] for base in cloud.request(MEMBER, "GET", "/os-cloudlet/bases").json["bases"]]
    paged: list[str] = []
    while True:
        marker = f"&marker={paged[-1]}" if paged else ""
        page = cloud.request(MEMBER, "GET", f"/os-cloudlet/bases?limit=1{marker}").json["bases"]
        if not page:
            break
        assert len(page) == 1
        paged.append(page[0]["id"])
    assert paged == everything
    assert cloud.request(MEMBER, "GET", f"/os-cloudlet/bases?marker={NOBODYS}").status_int == 400
    for query in ("limit=x", "limit=-1", "marker=x", "colour=red", "limit=1&limit=2", "name=%ff"):
        assert cloud.request(MEMBER, "GET", f"/os-cloudlet/bases?{query}").status_int == 400, query


def test_what_is_no_base_is_not_there(cloud: Cloud, images: Images) -> None:
    for image in (images.overlay, images.plain, images.memory, NOBODYS, "x", "%2e%2e"):
        for method in ("GET", "DELETE"):
            assert cloud.request(MEMBER, method, f"/os-cloudlet/bases/{image}").status_int == 404, image
    assert cloud.glance.get(MEMBER, images.plain) is not None


def test_delete_takes_both_images(cloud: Cloud) -> None:
    base, memory = make_base(cloud, MEMBER, "to-be-deleted")
    answer = cloud.request(MEMBER, "DELETE", f"/os-cloudlet/bases/{base}")
    assert (answer.status_int, answer.body) == (204, b"")
    assert cloud.glance.get(MEMBER, base) is None
    assert cloud.glance.get(MEMBER, memory) is None
    assert cloud.request(MEMBER, "DELETE", f"/os-cloudlet/bases/{base}").status_int == 404


def test_delete_of_half_a_base(cloud: Cloud) -> None:
    base, memory = make_base(cloud, MEMBER, "half")
    cloud.glance.request(MEMBER, "DELETE", f"/v2/images/{memory}")
    assert cloud.request(MEMBER, "GET", f"/os-cloudlet/bases/{base}").json["base"]["memory_bytes"] is None
    assert cloud.request(MEMBER, "DELETE", f"/os-cloudlet/bases/{base}").status_int == 204


def test_delete_of_what_is_protected(cloud: Cloud) -> None:
    base, memory = make_base(cloud, MEMBER, "protected")
    patch = [{"op": "replace", "path": "/protected", "value": True}]
    kind = "application/openstack-images-v2.1-json-patch"
    cloud.glance.request(MEMBER, "PATCH", f"/v2/images/{base}", patch, kind)
    answer = cloud.request(MEMBER, "DELETE", f"/os-cloudlet/bases/{base}")
    assert answer.status_int == 409
    assert "protected" in answer.json["conflictingRequest"]["message"]
    assert cloud.glance.get(MEMBER, memory) is not None


def test_another_bases_memory_is_not_deleted(cloud: Cloud, images: Images) -> None:
    """A property may point at anything."""
    thief = cloud.glance.create(
        ADMIN, b"x", name="thief", cloudlet_type="base", cloudlet_memory_image=images.memory, cloudlet_base_id=BASE_ID
    )
    assert cloud.request(ADMIN, "DELETE", f"/os-cloudlet/bases/{thief}").status_int == 204
    assert cloud.glance.get(MEMBER, images.memory) is not None


def precache(cloud: Cloud, base: str, body: object, who: str = ADMIN) -> object:
    return cloud.request(who, "POST", f"/os-cloudlet/bases/{base}/precache", {"precache": body})


def test_precache_at_a_host(cloud: Cloud, images: Images) -> None:
    for host in ("compute1", "compute2"):
        answer = precache(cloud, images.base, {"host": host})
        assert answer.status_int == 202, answer.text
        (identifier,) = answer.json["operations"]
        assert operation_id.may_be_of(identifier, host)
        _, arguments = cloud.managers[host].wait_for_cast("precache_base")
        assert arguments == {"id": identifier, "image_id": images.base}


def test_precache_everywhere(cloud: Cloud, images: Images) -> None:
    answer = precache(cloud, images.base, {"all": True}, who=MANAGER)
    # Hosts that are down or do not answer are left out: their operations would never be there.
    assert len(answer.json["operations"]) == 2
    for host in ("compute1", "compute2"):
        _, arguments = cloud.managers[host].wait_for_cast("precache_base")
        assert arguments["id"] in answer.json["operations"]


def test_precache_at_a_host_that_does_not_answer(cloud: Cloud, images: Images) -> None:
    answer = precache(cloud, images.base, {"host": "silent"})
    assert answer.status_int == 504, answer.text
    assert "cloudlet driver" in answer.text


def test_precache_that_cannot_be(cloud: Cloud, images: Images) -> None:
    assert precache(cloud, images.base, {"host": "nowhere"}).status_int == 404
    down = precache(cloud, images.base, {"host": "down"})
    assert down.status_int == 503
    assert "down" in down.json["serviceUnavailable"]["message"]
    for wrong in ({}, {"host": ""}, {"host": "compute1", "all": True}, {"all": False}, {"everywhere": True}, None):
        assert precache(cloud, images.base, wrong).status_int == 400, wrong
    assert precache(cloud, images.overlay, {"all": True}).status_int == 404
    queued = cloud.glance.create(MEMBER, None, name="queued", cloudlet_type="base")
    answer = precache(cloud, queued, {"all": True})
    assert answer.status_int == 409
    assert "queued" in answer.text
    assert "active" in answer.text
    unnamed, _ = make_base(cloud, MEMBER, "unnamed", base_id="A" * 64)
    answer = precache(cloud, unnamed, {"all": True})
    assert answer.status_int == 400
    assert "cloudlet_base_id" in answer.text
