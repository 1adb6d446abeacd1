# SPDX-License-Identifier: Apache-2.0
"""POST /servers: what Nova cannot know of bases and overlays is checked before it schedules.

``/os-volumes_boot`` is an old name of the same.
"""

from __future__ import annotations

from typing import Any

from nova import exception
from nova.api.openstack import common
from nova.compute import flavors
from oslo_utils import uuidutils

from cloudlet_ext.api import errors
from cloudlet_ext.api.image import ACTIVE, BASE, Image
from cloudlet_ext.api.schemas import servers as schemas
from cloudlet_ext.nova import start_request
from cloudlet_ext.nova.call import Call, add_version, parse_json


def create(call: Call) -> Any:
    """Nova's own answer, after our checks; None when the request has nothing to do with bases or overlays."""
    server = _server(call)
    overlay_url = start_request.overlay_url(server.get("metadata"))
    if overlay_url is not None:
        return _synthesize(call, server, overlay_url)
    base = _base(call, server)
    if base is not None:
        call.accept()
        start_request.check_base(call, base, _flavor(call, server), start_request.devices_wanted(server))
    return None


def _server(call: Call) -> dict[str, Any]:
    """The server that is described; empty when Nova will refuse the body."""
    try:
        document = parse_json(call.request.body)
    except errors.NotJson:
        return {}
    server = document.get("server") if isinstance(document, dict) else None
    return server if isinstance(server, dict) else {}


def _base(call: Call, server: dict[str, Any]) -> Image | None:
    """The image, when it is a base that Nova would start a server from. What is wrong with others Nova tells."""
    image_id, others = server.get("imageRef"), call.services.other_images
    if others.holds(str(image_id)):
        return None
    try:
        image = start_request.image_of(call, image_id)
    except errors.ApiError:
        return None
    if image is not None and image.kind != BASE:
        others.note(str(image_id))
    return image if image is not None and image.kind == BASE and image.status == ACTIVE else None


def _synthesize(call: Call, server: dict[str, Any], overlay_url: str) -> Any:
    """Check, let Nova create the server, and tell the operation: it has the server's id."""
    call.accept()
    start_request.authorize_synthesis(call, call.context.project_id, overlay_url)
    _check_synthesis(call, server, overlay_url)
    response = call.request.get_response(call.next_app)
    if response.status_int != 202:
        return response
    document = parse_json(response.body)
    # Who asks for a reservation id is not told of servers; the operations have the servers' ids all the same.
    if "server" in document:
        document["synthesis"] = {"operation": document["server"]["id"]}
        call.check_answer(document, schemas.CREATE_ANSWER)
        response.json_body = document
    add_version(response.headers, call.version)
    return response


def _check_synthesis(call: Call, server: dict[str, Any], overlay_url: str) -> None:
    # A source that is not allowed is told before anything is looked up.
    call.services.sources.parse(overlay_url)
    image_id = server.get("imageRef")
    if not uuidutils.is_uuid_like(image_id):
        raise errors.NoBaseImage()
    base = start_request.image_of(call, image_id)
    if base is None:
        raise errors.NotFound(what="image", id=image_id)
    start_request.check_base(call, base, _flavor(call, server), start_request.devices_wanted(server))
    start_request.check_overlay(call, base, overlay_url)


def _flavor(call: Call, server: dict[str, Any]) -> Any:
    """The flavor; None when it is not there, which Nova tells."""
    flavor_id = common.get_id_from_href(str(server.get("flavorRef", "")))
    try:
        return flavors.get_flavor_by_flavor_id(call.context, flavor_id, read_deleted="no")
    except exception.FlavorNotFound:
        return None
