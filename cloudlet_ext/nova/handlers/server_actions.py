# SPDX-License-Identifier: Apache-2.0
"""POST /servers/{server_id}/action: our actions among Nova's, and Nova's ``rebuild`` where a base is concerned."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from typing import Any

from nova import exception
from oslo_utils import strutils

from cloudlet_ext import operation_id
from cloudlet_ext.api import errors
from cloudlet_ext.api import image as properties
from cloudlet_ext.api.schemas import server_actions as schemas
from cloudlet_ext.nova import start_request, task_states
from cloudlet_ext.nova.call import Call, parse_json
from cloudlet_ext.nova.capture_request import Capture, inherited_properties
from cloudlet_ext.nova.operation_search import IMAGE_PROPERTY
from cloudlet_ext.policies import bases as base_policies
from cloudlet_ext.policies import overlays as overlay_policies

_NOVA_RULES = {"stop": "os_compute_api:servers:stop", "delete": "os_compute_api:servers:delete"}


def create_base(call: Call) -> Any:
    """Make a base of a server: two images, one for the disk and one for the memory."""
    server = _server(call)
    call.authorize(base_policies.CREATE, server.project_id)
    call.query(schemas.NO_QUERY)
    name = call.body(schemas.BASE, "cloudlet-base")["cloudlet-base"]["name"]
    capture = Capture(call.services, call.context, server, "cloudlet-base", task_states.BASE_CREATE)
    capture.check()
    images = {"base-disk": str(uuid.uuid4()), "base-memory": str(uuid.uuid4())}
    identifier = operation_id.new(server.host)
    disk, memory = capture.begin(
        _base_images(capture, name, images),
        lambda: call.services.rpc.create_base(call.context, server, identifier, name, images),
    )
    shown = {
        key: {"id": image.id, "name": image.name, "status": image.status}
        for key, image in (("base-disk", disk), ("base-memory", memory))
    }
    return call.answer(202, {**shown, "operation": identifier}, schemas.BASE_ANSWER)


def create_overlay(call: Call) -> Any:
    """Make an overlay of what a server has become since its base."""
    server = _server(call)
    call.authorize(overlay_policies.CREATE, server.project_id)
    call.query(schemas.NO_QUERY)
    wanted = call.body(schemas.OVERLAY_FINISH, "cloudlet-overlay-finish")["cloudlet-overlay-finish"]
    name, on_finish = wanted["overlay-name"], wanted.get("on-finish", schemas.RESUME)
    if on_finish in _NOVA_RULES:
        call.authorize(_NOVA_RULES[on_finish], server.project_id)
    if server.system_metadata.get(IMAGE_PROPERTY % properties.TYPE) != properties.BASE:
        raise errors.ServerHasNoBase(id=server.uuid)
    capture = Capture(call.services, call.context, server, "cloudlet-overlay-finish", task_states.OVERLAY_CREATE)
    capture.check(on_finish)
    image_id, identifier = str(uuid.uuid4()), operation_id.new(server.host)
    (overlay,) = capture.begin(
        [_overlay_image(capture, name, image_id)],
        lambda: call.services.rpc.create_overlay(
            call.context, server, identifier, name, image_id, on_finish, wanted.get("record")
        ),
    )
    return call.answer(202, {"overlay-id": overlay.id, "operation": identifier}, schemas.OVERLAY_FINISH_ANSWER)


ACTIONS: dict[str, Callable[[Call], Any]] = {"cloudlet-base": create_base, "cloudlet-overlay-finish": create_overlay}


ROUTE = "server_actions.act"


def may_be_ours(environ: dict[str, Any]) -> bool:
    """A first look at the body of an action, which can be read again: most are Nova's, and have no time to lose.

    A name may be written with escapes, so that a body that has any is looked at more closely.
    """
    length = environ.get("CONTENT_LENGTH") or ""
    if not length.isdecimal():
        return True
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)
    return b'"cloudlet-' in body or b'"rebuild"' in body or b"\\u" in body


def act(call: Call) -> Any:
    """The answer to an action of ours; None when it is one of Nova's after all, and a rebuild has passed our checks."""
    try:
        document = parse_json(call.request.body)
    except errors.NotJson:
        return None
    if not isinstance(document, dict):
        return None
    for name, handler in ACTIONS.items():
        if name in document:
            call.accept()
            return handler(call)
    if isinstance(document.get("rebuild"), dict):
        _check_rebuild(call, document["rebuild"])
    return None


def _check_rebuild(call: Call, wanted: dict[str, Any]) -> None:
    try:
        server = _server(call)
    except errors.NotFound:
        return  # Nova tells it in its own words
    start_request.rebuild(call, server, wanted)


def _server(call: Call) -> Any:
    identifier = call.args["server_id"]
    try:
        return call.services.compute.get(call.context, identifier, expected_attrs=["flavor"])
    except exception.InstanceNotFound:
        raise errors.NotFound(what="server", id=identifier) from None


def _base_images(capture: Capture, name: str, images: dict[str, str]) -> list[dict[str, Any]]:
    server, flavor = capture.server, capture.server.flavor
    config_drive = strutils.bool_from_string(server.config_drive)
    disk = capture.image(
        name,
        {
            **inherited_properties(server),
            "id": images["base-disk"],
            "disk_format": "qcow2",
            "min_ram": flavor.memory_mb,
            "min_disk": flavor.root_gb,
            properties.TYPE: properties.BASE,
            properties.NEEDS_TRAIT: properties.REQUIRED,
            properties.MEMORY_IMAGE: images["base-memory"],
            properties.MEMORY_MB: str(flavor.memory_mb),
            properties.VCPUS: str(flavor.vcpus),
            properties.CONFIG_DRIVE: str(config_drive),
            **({"img_config_drive": "mandatory"} if config_drive else {}),
        },
    )
    memory = capture.image(
        f"{name} memory",
        {
            "id": images["base-memory"],
            "disk_format": "raw",
            "os_hidden": True,
            properties.TYPE: properties.MEMORY,
            properties.BASE_IMAGE: images["base-disk"],
        },
    )
    return [disk, memory]


def _overlay_image(capture: Capture, name: str, image_id: str) -> dict[str, Any]:
    server, flavor = capture.server, capture.server.flavor
    base_id = server.system_metadata.get(IMAGE_PROPERTY % properties.BASE_ID)
    return capture.image(
        name,
        {
            "id": image_id,
            "disk_format": "raw",
            properties.TYPE: properties.OVERLAY,
            properties.BASE_IMAGE: server.image_ref,
            properties.SERVER_NAME: server.display_name,
            properties.MEMORY_MB: str(flavor.memory_mb),
            properties.VCPUS: str(flavor.vcpus),
            **({properties.BASE_ID: base_id} if base_id else {}),
        },
    )
