# SPDX-License-Identifier: Apache-2.0
"""POST /servers with bases and overlays."""

from __future__ import annotations

from typing import Any

import pytest
import webob
from nova import objects

from tests.nova.cloud import ADMIN, EXTRA_SPECS, MEMBER, OTHER, READER, Cloud
from tests.nova.conftest import BASE_ID, OTHER_BASE_ID, Images, make_base

FITS, SMALL, WIDE, FLAT, SWAP, EPHEMERAL = "1", "2", "3", "4", "5", "6"
VERSION = "compute 2.90, cloudlet 1.0"


def create(cloud: Cloud, image: str, overlay_url: Any = None, flavor: str = FITS, **more: Any) -> webob.Response:
    who = more.pop("who", MEMBER)
    version = more.pop("version", VERSION)
    path = more.pop("path", "/servers")
    server = {"name": "s", "imageRef": image, "flavorRef": flavor, "networks": "none", **more}
    if overlay_url is not None:
        server["metadata"] = {"overlay_url": overlay_url, **more.get("metadata", {})}
    return cloud.request(who, "POST", path, {"server": server}, version)


def message(answer: webob.Response) -> str:
    (fault,) = answer.json.values()
    return str(fault["message"])


def test_synthesis(cloud: Cloud, images: Images) -> None:
    answer = create(cloud, images.base, f"glance:{images.overlay}", metadata={"colour": "red"})
    assert answer.status_int == 202, answer.text
    assert set(answer.json) == {"server", "synthesis"}
    server_id = answer.json["server"]["id"]
    assert answer.json["synthesis"] == {"operation": server_id}
    assert answer.headers.getall("OpenStack-API-Version") == ["compute 2.90", "cloudlet 1.0"]
    assert answer.headers["Location"].endswith(f"/servers/{server_id}")
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    # Nova has the request as it was, and the operation can be asked for at once.
    made = objects.BuildRequest.get_by_instance_uuid(cloud.context, server_id).instance
    assert made.metadata == {"overlay_url": f"glance:{images.overlay}", "colour": "red"}
    operation = cloud.request(MEMBER, "GET", f"/os-cloudlet/operations/{server_id}").json["operation"]
    assert (operation["type"], operation["state"]) == ("synthesis", "queued")


def test_synthesis_from_a_web_server(cloud: Cloud, images: Images) -> None:
    answer = create(cloud, images.base, "https://127.0.0.1:8443/apps/face")
    assert answer.status_int == 202, answer.text
    assert answer.json["synthesis"] == {"operation": answer.json["server"]["id"]}


def test_the_old_name_of_servers(cloud: Cloud, images: Images) -> None:
    # Its microversions know no "networks": none; what is checked is that we look at it.
    answer = create(cloud, images.base, "ftp://x/y", path="/os-volumes_boot")
    assert answer.status_int == 403


def test_a_copy_of_a_base_is_none(cloud: Cloud, images: Images) -> None:
    """Whatever has a base's properties and another disk must not get its memory."""
    stolen = {"cloudlet_type": "base", "cloudlet_base_id": BASE_ID}
    copy = cloud.glance.create(MEMBER, b"x", name="copy", cloudlet_memory_image=images.memory, **stolen)
    answer = create(cloud, copy)
    assert answer.status_int == 400
    assert images.memory in message(answer)
    assert f"belongs to image {images.base}" in message(answer)
    answer = create(cloud, images.half_public_base, f"glance:{images.overlay}")
    assert answer.status_int == 400
    assert "is not there, or not for you" in message(answer)


@pytest.mark.parametrize("base_id", ["", "A" * 64, "a" * 63])
def test_a_base_that_does_not_tell_which_it_is(cloud: Cloud, images: Images, base_id: str) -> None:
    """Compute hosts would take it for an ordinary image and boot it."""
    base, _ = make_base(cloud, MEMBER, "unnamed", base_id=base_id)
    for overlay_url in (None, "https://127.0.0.1/face"):
        answer = create(cloud, base, overlay_url)
        assert answer.status_int == 400, answer.text
        assert base in message(answer) and "cloudlet_base_id" in message(answer)


def test_snapshots_are_ordinary_images(cloud: Cloud, images: Images) -> None:
    known = {
        "image_cloudlet_type": "base",
        "image_cloudlet_base_id": BASE_ID,
        "image_cloudlet_memory_image": images.memory,
        "image_trait:CUSTOM_CLOUDLET": "required",
        "image_trait:CUSTOM_FAST": "required",
        "image_hw_disk_bus": "virtio",
        "cloudlet_started": "mapped",
        "cloudlet_arriving": "True",
    }
    server = cloud.server(image_ref=images.base, system_metadata=known)
    body = {"createImage": {"name": "snap"}}
    answer = cloud.request(MEMBER, "POST", f"/servers/{server.uuid}/action", body, "compute 2.90")
    assert answer.status_int == 202, answer.text
    made = cloud.glance.get(MEMBER, answer.json["image_id"])
    assert made is not None
    assert (made["image_type"], made["hw_disk_bus"]) == ("snapshot", "virtio")
    assert not [name for name in made if name.startswith("cloudlet_")]
    # They boot anywhere; what else the server's image asked for stays.
    assert [name for name in made if name.startswith("trait:")] == ["trait:CUSTOM_FAST"]


def test_several_servers(cloud: Cloud, images: Images) -> None:
    answer = create(cloud, images.base, f"glance:{images.overlay}", min_count=2, max_count=2)
    assert answer.json["synthesis"] == {"operation": answer.json["server"]["id"]}
    answer = create(cloud, images.base, f"glance:{images.overlay}", min_count=2, return_reservation_id=True)
    assert set(answer.json) == {"reservation_id"}


def test_resume_of_a_base(cloud: Cloud, images: Images) -> None:
    for image in (images.base, images.public_base):
        answer = create(cloud, image)
        assert answer.status_int == 202, answer.text
        assert set(answer.json) == {"server"}
    operation = cloud.request(MEMBER, "GET", f"/os-cloudlet/operations/{answer.json['server']['id']}").json["operation"]
    assert operation["type"] == "base-resume"


def test_what_is_neither_is_left_alone(cloud: Cloud, images: Images) -> None:
    for flavor in (FITS, SMALL, WIDE, FLAT):
        answer = create(cloud, images.plain, flavor=flavor, version="compute 2.90, cloudlet 99.0")
        assert answer.status_int == 202, answer.text
        assert answer.headers.getall("OpenStack-API-Version") == ["compute 2.90"]


UNFIT = [
    (SMALL, ("256 MiB", "512 MiB", "small")),
    (WIDE, ("2 vCPUs", "with 1", "wide")),
    (FLAT, ("1 GiB", "2 GiB", "flat")),
    (SWAP, ("an ephemeral or swap disk", "one disk alone", "swap")),
    (EPHEMERAL, ("an ephemeral or swap disk", "one disk alone", "ephemeral")),
]


@pytest.mark.parametrize(("flavor", "parts"), UNFIT)
def test_flavors_that_do_not_fit(cloud: Cloud, images: Images, flavor: str, parts: tuple[str, ...]) -> None:
    for overlay_url in (None, f"glance:{images.overlay}", "https://127.0.0.1/face"):
        answer = create(cloud, images.base, overlay_url, flavor)
        assert answer.status_int == 400, answer.text
        for part in (*parts, images.base):
            assert part in message(answer)


ROOT = {"boot_index": 0, "source_type": "image", "destination_type": "local"}
VOLUME = {"boot_index": -1, "source_type": "volume", "destination_type": "volume", "uuid": "a" * 32}
BLANK = {"boot_index": -1, "source_type": "blank", "destination_type": "local", "volume_size": 1}
NETWORK = {"uuid": "0f0c9a52-1f0e-4b0b-9a55-0f6f2b4e7d10"}


@pytest.mark.parametrize(
    ("more", "expected", "found"),
    [
        ({"config_drive": True}, "no config drive", "have one"),
        ({"config_drive": "yes"}, "no config drive", "have one"),
        ({"networks": [NETWORK, NETWORK]}, "1 network cards", "have 2"),
        ({"networks": "none"}, "1 network cards", "have 0"),
        ({"block_device_mapping_v2": [VOLUME]}, "no disk but", "have 1"),
        ({"block_device_mapping_v2": [ROOT, VOLUME, BLANK]}, "no disk but", "have 2"),
        ({"block_device_mapping_v2": [{**ROOT, "destination_type": "volume"}]}, "no disk but", "have 1"),
        ({"block_device_mapping": [{"device_name": "vdb", "volume_id": "a" * 32}]}, "no disk but", "have 1"),
    ],
)
def test_devices_that_do_not_fit(cloud: Cloud, images: Images, more: dict[str, Any], expected: str, found: str) -> None:
    told = {"cloudlet_network_cards": "1", "cloudlet_config_drive": "False"}
    base, _ = make_base(cloud, MEMBER, "with one card", **told)
    for overlay_url in (None, f"glance:{images.overlay}"):
        answer = create(cloud, base, overlay_url, **{"networks": [NETWORK], **more})
        assert answer.status_int == 400, answer.text
        for part in (base, expected, found):
            assert part in message(answer)


def test_devices_that_fit(cloud: Cloud, images: Images) -> None:
    told = {"cloudlet_network_cards": "0", "cloudlet_config_drive": "True", "img_config_drive": "mandatory"}
    base, _ = make_base(cloud, MEMBER, "without cards", **told)
    for more in ({}, {"config_drive": True}, {"block_device_mapping_v2": [{**ROOT, "uuid": base}]}):
        answer = create(cloud, base, **more)
        assert answer.status_int == 202, answer.text


@pytest.mark.parametrize("name", EXTRA_SPECS)
def test_flavors_whose_servers_cannot_be_moved(cloud: Cloud, images: Images, name: str) -> None:
    flavor = cloud.flavors[name].flavorid
    for overlay_url in (None, f"glance:{images.overlay}"):
        answer = create(cloud, images.base, overlay_url, flavor)
        assert answer.status_int == 400, answer.text
        assert f"With flavor {name} and base {images.base}" in message(answer)


def test_a_base_whose_image_asks_for_what_cannot_be_moved(cloud: Cloud, images: Images) -> None:
    base, _ = make_base(cloud, MEMBER, "of numa", hw_numa_nodes="1")
    answer = create(cloud, base)
    assert answer.status_int == 400
    assert "NUMA" in message(answer)
    # What Nova does not understand it says itself, in its own words.
    base, _ = make_base(cloud, MEMBER, "of nonsense", hw_numa_nodes="many")
    assert "captured state" not in create(cloud, base).text


def test_overlays_that_do_not_fit(cloud: Cloud, images: Images) -> None:
    other = create(cloud, images.base, f"glance:{images.foreign_overlay}")
    assert other.status_int == 409
    assert OTHER_BASE_ID in message(other)
    assert BASE_ID in message(other)
    queued = create(cloud, images.base, f"glance:{images.queued_overlay}")
    assert queued.status_int == 409
    assert "queued" in message(queued)
    large = create(cloud, images.base, f"glance:{images.large_overlay}")
    assert large.status_int == 413
    assert "1048577 bytes; at most 1048576" in large.json["overLimit"]["message"]
    assert create(cloud, images.base, f"glance:{images.base}").status_int == 400
    nobodys = create(cloud, images.base, "glance:00000000-0000-4000-8000-000000000000")
    assert nobodys.status_int == 404


def test_bases_that_do_not_fit(cloud: Cloud, images: Images) -> None:
    overlay = f"glance:{images.overlay}"
    plain = create(cloud, images.plain, overlay)
    assert plain.status_int == 400
    assert "'base' is expected" in message(plain)
    queued = cloud.glance.create(MEMBER, None, name="queued", cloudlet_type="base", cloudlet_base_id=BASE_ID)
    assert create(cloud, queued, overlay).status_int == 409
    assert create(cloud, "00000000-0000-4000-8000-000000000000", overlay).status_int == 404
    volume = create(cloud, "", overlay)
    assert volume.status_int == 400
    assert "imageRef" in message(volume)


def test_what_is_anothers_is_not_there(cloud: Cloud, images: Images) -> None:
    assert create(cloud, images.base, f"glance:{images.overlay}", who=OTHER).status_int == 404
    assert create(cloud, images.public_base, f"glance:{images.overlay}", who=OTHER).status_int == 404
    # Without an overlay it is Nova that says that there is no such image.
    assert create(cloud, images.base, who=OTHER).status_int == 400
    assert create(cloud, images.base, f"glance:{images.overlay}", who=READER).status_int == 403


@pytest.mark.parametrize(
    ("overlay_url", "status"),
    [
        ("", 400),
        ("glance:face", 400),
        ("https://user:word@127.0.0.1/face", 400),
        ("https:///face", 400),
        ("https://nowhere.invalid/face", 400),
        ("https://127.0.0.1/" + "a" * 250, 400),
        (7, 400),
        (None, 202),
        ("http://127.0.0.1/face", 403),
        ("file:///etc/passwd", 403),
        ("https://169.254.169.254/latest/meta-data", 403),
        ("https://[::ffff:169.254.169.254]/x", 403),
        ("https://10.0.0.1/face", 403),
        ("https://[::1]/face", 403),
    ],
)
def test_sources(cloud: Cloud, images: Images, overlay_url: Any, status: int) -> None:
    answer = create(cloud, images.base, overlay_url)
    assert answer.status_int == status, answer.text
    if status == 403:
        assert "refused" in message(answer) or "allowed are: glance:, https:" in message(answer)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"server"',
        b'{"server": []}',
        b'{"server": {"metadata": []}}',
        b'{"server": {"name": "s", "imageRef": 7, "flavorRef": 1}}',
        b'{"server": {"name": "s", "imageRef": "x", "flavorRef": "1", "metadata": {"overlay_url": ["a"]}}}',
    ],
)
def test_bodies_that_nova_refuses(cloud: Cloud, body: bytes) -> None:
    answer = cloud.request(MEMBER, "POST", "/servers", body, "compute 2.90")
    assert answer.status_int == 400
    assert answer.headers["OpenStack-API-Version"] == "compute 2.90"


def test_unknown_flavors_are_novas_to_tell(cloud: Cloud, images: Images) -> None:
    for overlay_url in (None, f"glance:{images.overlay}"):
        answer = create(cloud, images.base, overlay_url, "99")
        assert answer.status_int == 400
        assert "99" in message(answer)


def test_an_image_service_that_does_not_answer(cloud: Cloud, images: Images) -> None:
    from nova import conf

    working = conf.CONF.glance.api_servers
    conf.CONF.set_override("api_servers", ["http://127.0.0.1:1"], group="glance")
    try:
        synthesis = create(cloud, images.base, f"glance:{images.overlay}")
        assert synthesis.status_int == 503
        assert "image service" in synthesis.json["serviceUnavailable"]["message"]
        assert cloud.request(ADMIN, "GET", "/os-cloudlet/bases").status_int == 503
        # What may not be ours at all goes on to Nova, which has an answer of its own.
        assert create(cloud, images.base).status_int == 500
    finally:
        conf.CONF.set_override("api_servers", working, group="glance")
