# SPDX-License-Identifier: Apache-2.0
"""Nova's action rebuild, to a base: it has no old disk left when a compute host finds out what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import webob
from nova import conf, objects
from nova.network import model as network_model

from tests.nova.cloud import MEMBER, MINE, OTHER, READER, Cloud
from tests.nova.conftest import BASE_ID, OTHER_BASE_ID, Images, make_base
from tests.nova.test_servers import message

VERSION = "compute 2.1, cloudlet 1.0"


@pytest.fixture(autouse=True)
def _no_neutron(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nova's answer to a rebuild shows the server, and asks Neutron for its security groups."""
    from nova.network import security_group_api

    def bindings(context: Any, servers: list[Any], detailed: bool = False) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(security_group_api, "get_instances_security_groups_bindings", bindings)


def server(cloud: Cloud, **facts: Any) -> Any:
    """A server that Nova would rebuild."""
    made = cloud.server(node="compute1", compute_id=1, **facts)
    spec = objects.RequestSpec(
        cloud.context,
        instance_uuid=made.uuid,
        project_id=MINE,
        flavor=made.flavor,
        num_instances=1,
        image=objects.ImageMeta.from_dict({"id": made.image_ref}),
    )
    spec.create()
    return made


def rebuild(cloud: Cloud, target: Any, image: str, who: str = MEMBER, **more: Any) -> webob.Response:
    body = more.pop("body", None) or {"rebuild": {"imageRef": image, **more}}
    return cloud.request(who, "POST", f"/servers/{target.uuid}/action", body, VERSION)


def refused(cloud: Cloud, target: Any, answer: webob.Response, status: int, *parts: str) -> None:
    assert answer.status_int == status, answer.text
    for part in parts:
        assert part in message(answer)
    found = cloud.again(target)
    assert (found.task_state, found.image_ref) == (None, target.image_ref), "nothing has been begun"


def taken(cloud: Cloud, target: Any, answer: webob.Response, image: str) -> None:
    assert answer.status_int == 202, answer.text
    found = cloud.again(target)
    assert (found.task_state, found.image_ref) == ("rebuilding", image)


def test_what_fits(cloud: Cloud, images: Images) -> None:
    target = server(cloud)
    taken(cloud, target, rebuild(cloud, target, images.base), images.base)
    target = server(cloud)
    metadata = {"overlay_url": f"glance:{images.overlay}", "colour": "red"}
    taken(cloud, target, rebuild(cloud, target, images.base, metadata=metadata), images.base)
    assert cloud.again(target).metadata == metadata
    target = server(cloud, metadata={"overlay_url": f"glance:{images.overlay}"})
    taken(cloud, target, rebuild(cloud, target, images.base), images.base)
    target = server(cloud, metadata={"overlay_url": "glance:face"})
    taken(cloud, target, rebuild(cloud, target, images.base, metadata={}), images.base)


def test_other_images_are_left_alone(cloud: Cloud, images: Images) -> None:
    """An overlay that the metadata still name is a way out of nothing: Nova rebuilds to the image."""
    for facts in ({}, {"metadata": {"overlay_url": f"glance:{images.overlay}"}}, {"flavor": cloud.flavors["wide"]}):
        target = server(cloud, **facts)
        taken(cloud, target, rebuild(cloud, target, images.plain), images.plain)


@pytest.mark.parametrize("flavor", ["small", "wide", "flat"])
def test_flavors_that_do_not_fit(cloud: Cloud, images: Images, flavor: str) -> None:
    target = server(cloud, flavor=cloud.flavors[flavor])
    refused(cloud, target, rebuild(cloud, target, images.base), 400, flavor, images.base)


def test_overlays_that_do_not_fit(cloud: Cloud, images: Images) -> None:
    for overlay, status, part in [
        (f"glance:{images.foreign_overlay}", 409, OTHER_BASE_ID),
        (f"glance:{images.queued_overlay}", 409, "queued"),
        ("glance:face", 400, "UUID"),
        ("glance:../../v2/schemas/image", 400, "UUID"),
        ("ftp://x/y", 403, "allowed are"),
        ("https://10.0.0.1/x", 403, "private"),
        ("", 400, "overlay_url"),
    ]:
        target = server(cloud)
        answer = rebuild(cloud, target, images.base, metadata={"overlay_url": overlay})
        refused(cloud, target, answer, status, part)
        # The same, put there before by Nova's own ways to change metadata.
        target = server(cloud, metadata={"overlay_url": overlay})
        refused(cloud, target, rebuild(cloud, target, images.base), status, part)


def test_bases_that_do_not_fit(cloud: Cloud, images: Images) -> None:
    stolen = {"cloudlet_type": "base", "cloudlet_base_id": BASE_ID}
    copy = cloud.glance.create(MEMBER, b"x", name="copy", cloudlet_memory_image=images.memory, **stolen)
    target = server(cloud)
    refused(cloud, target, rebuild(cloud, target, copy), 400, f"belongs to image {images.base}")
    refused(cloud, target, rebuild(cloud, target, images.half_public_base), 400, "is not there, or not for you")
    queued = cloud.glance.create(MEMBER, None, name="queued", cloudlet_type="base", cloudlet_base_id=BASE_ID)
    refused(cloud, target, rebuild(cloud, target, queued), 409, "queued")
    overlay = {"overlay_url": f"glance:{images.overlay}"}
    refused(cloud, target, rebuild(cloud, target, images.plain, metadata=overlay), 400, "'base' is expected")
    nobodys = "00000000-0000-4000-8000-000000000000"
    refused(cloud, target, rebuild(cloud, target, nobodys, metadata=overlay), 404, nobodys)


def test_the_policy_of_syntheses_holds(cloud: Cloud, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    from nova import policy

    from cloudlet_ext.policies import servers

    rule = policy._ENFORCER.registered_rules[servers.SYNTHESIZE]
    monkeypatch.setitem(policy._ENFORCER.rules, rule.name, policy._ENFORCER.rules["context_is_admin"])
    overlay = {"overlay_url": f"glance:{images.overlay}"}
    target = server(cloud)
    refused(cloud, target, rebuild(cloud, target, images.base, metadata=overlay), 403, rule.name)
    marked = server(cloud, metadata=overlay)
    refused(cloud, marked, rebuild(cloud, marked, images.base), 403, rule.name)
    taken(cloud, marked, rebuild(cloud, marked, images.base, metadata={}), images.base)


def test_names_that_are_written_with_escapes(cloud: Cloud, images: Images) -> None:
    target = server(cloud, flavor=cloud.flavors["small"])
    plain = json.dumps({"rebuild": {"imageRef": images.base}})
    for name in ("\\u0072ebuild", "reb\\u0075ild", "\\u0072\\u0065\\u0062\\u0075\\u0069\\u006c\\u0064"):
        body = plain.replace("rebuild", name).encode()
        assert json.loads(body) == json.loads(plain)
        refused(cloud, target, rebuild(cloud, target, "", body=body), 400, "256 MiB")
    body = json.dumps({"cloudlet-base": {"name": "n"}}).replace("cloudlet", "\\u0063loudlet").encode()
    assert rebuild(cloud, target, "", body=body).status_int == 202


def test_what_nova_tells(cloud: Cloud, images: Images) -> None:
    target = server(cloud)
    assert rebuild(cloud, target, images.base, who=OTHER).status_int == 404
    assert rebuild(cloud, target, images.base, who=READER).status_int == 403
    for body in ({"rebuild": []}, {"rebuild": {}}, {"rebuild": {"imageRef": 7}}, {"rebuild": {"imageRef": "x"}}):
        refused(cloud, target, rebuild(cloud, target, "", body=body), 400)


def test_an_image_service_that_does_not_answer(cloud: Cloud, images: Images) -> None:
    """Unlike a new server, this one has something to lose: nobody goes on unchecked."""
    target = server(cloud)
    working = conf.CONF.glance.api_servers
    conf.CONF.set_override("api_servers", ["http://127.0.0.1:1"], group="glance")
    try:
        refused(cloud, target, rebuild(cloud, target, images.base), 503, "image service")
    finally:
        conf.CONF.set_override("api_servers", working, group="glance")


def test_devices_that_do_not_fit(cloud: Cloud, images: Images) -> None:
    told = {"cloudlet_network_cards": "1", "cloudlet_config_drive": "False"}
    base, _ = make_base(cloud, MEMBER, "with one card", **told)
    two = network_model.NetworkInfo([network_model.VIF(id="1"), network_model.VIF(id="2")])
    for facts, part in [
        ({"volumes": ["local", "volume"]}, "would have 1"),
        ({"volumes": ["volume"]}, "would have 1"),
        ({"config_drive": "True"}, "no config drive"),
        ({"flavor": cloud.flavors["swap"]}, "swap"),
        ({"flavor": cloud.flavors["numa"]}, "NUMA"),
        ({"network_info": two}, "1 network cards"),
    ]:
        target = server(cloud, **facts)
        refused(cloud, target, rebuild(cloud, target, base), 400, part, base)
    target = server(cloud)
    taken(cloud, target, rebuild(cloud, target, base), base)
