# SPDX-License-Identifier: Apache-2.0
"""/os-cloudlet/overlays."""

from __future__ import annotations

from tests.nova.cloud import MEMBER, MINE, OTHER, Cloud
from tests.nova.conftest import BASE_ID, OVERLAY_ID, Images, make_overlay


def test_show(cloud: Cloud, images: Images) -> None:
    shown = cloud.request(MEMBER, "GET", f"/os-cloudlet/overlays/{images.overlay}").json["overlay"]
    del shown["created_at"]
    assert shown == {
        "id": images.overlay,
        "name": "face",
        "status": "active",
        "visibility": "private",
        "project_id": MINE,
        "overlay_id": OVERLAY_ID,
        "base_id": BASE_ID,
        "base_image_id": None,
        "memory_mb": 512,
        "vcpus": 1,
        "size_bytes": 10,
    }


def test_index(cloud: Cloud, images: Images) -> None:
    ids = {one["id"] for one in cloud.request(MEMBER, "GET", "/os-cloudlet/overlays").json["overlays"]}
    assert {images.overlay, images.foreign_overlay, images.queued_overlay} <= ids
    assert images.base not in ids
    named = cloud.request(MEMBER, "GET", "/os-cloudlet/overlays?name=face&limit=5").json["overlays"]
    assert [one["id"] for one in named] == [images.overlay]
    assert cloud.request(MEMBER, "GET", "/os-cloudlet/overlays?x=1").status_int == 400


def test_an_overlay_under_way_has_no_size(cloud: Cloud, images: Images) -> None:
    shown = cloud.request(MEMBER, "GET", f"/os-cloudlet/overlays/{images.queued_overlay}").json["overlay"]
    assert (shown["status"], shown["size_bytes"]) == ("queued", None)


def test_delete(cloud: Cloud, images: Images) -> None:
    overlay = make_overlay(cloud, MEMBER, "to-be-deleted")
    assert cloud.request(OTHER, "DELETE", f"/os-cloudlet/overlays/{overlay}").status_int == 404
    assert cloud.request(MEMBER, "DELETE", f"/os-cloudlet/overlays/{overlay}").status_int == 204
    assert cloud.glance.get(MEMBER, overlay) is None
    assert cloud.request(MEMBER, "DELETE", f"/os-cloudlet/overlays/{images.base}").status_int == 404


def test_delete_of_what_is_protected(cloud: Cloud) -> None:
    overlay = cloud.glance.create(MEMBER, b"x", name="kept", cloudlet_type="overlay", protected=True)
    assert cloud.request(MEMBER, "DELETE", f"/os-cloudlet/overlays/{overlay}").status_int == 409
