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

from cloudlet_ext.api import errors, fit, validation
from cloudlet_ext.api.image import ACTIVE, BASE, MEMORY_IMAGE, Image
from cloudlet_ext.api.schemas import servers as schemas
from cloudlet_ext.api.sources import UrlSource
from cloudlet_ext.nova.call import Call, add_version, parse_json
from cloudlet_ext.policies import servers as policies


def create(call: Call) -> Any:
    """Nova's own answer, after our checks; None when the request has nothing to do with bases or overlays."""
    server = _server(call)
    metadata = server.get("metadata")
    overlay_url = metadata.get(schemas.OVERLAY_URL) if isinstance(metadata, dict) else None
    if isinstance(overlay_url, str):
        return _synthesize(call, server, overlay_url)
    base = _base(call, server)
    if base is not None:
        call.accept()
        fit.check_base(base)
        _check_memory(call, base)
        _check_flavor(call, server, base)
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
    image_id = server.get("imageRef")
    if not uuidutils.is_uuid_like(image_id):
        return None
    try:
        image = call.services.catalogue.get(call.context, str(image_id))
    except errors.ApiError:
        return None
    return image if image is not None and image.kind == BASE and image.status == ACTIVE else None


def _synthesize(call: Call, server: dict[str, Any], overlay_url: str) -> Any:
    """Check, let Nova create the server, and tell the operation: it has the server's id."""
    call.accept()
    call.authorize(policies.SYNTHESIZE, call.context.project_id)
    validation.check(overlay_url, schemas.OVERLAY_URL_VALUE, "metadata overlay_url")
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
    source = call.services.sources.parse(overlay_url)
    image_id = server.get("imageRef")
    if not uuidutils.is_uuid_like(image_id):
        raise errors.NoBaseImage()
    base = _image(call, "image", str(image_id))
    fit.check_base(base)
    _check_memory(call, base)
    _check_flavor(call, server, base)
    if isinstance(source, UrlSource):
        call.services.sources.resolve(source)
    else:
        overlay = _image(call, "overlay", source.image_id)
        fit.check_overlay(overlay, base, call.services.conf.cloudlet.max_overlay_mb * 2**20)


def _image(call: Call, what: str, image_id: str) -> Image:
    image = call.services.catalogue.get(call.context, image_id)
    if image is None:
        raise errors.NotFound(what=what, id=image_id)
    return image


def _check_memory(call: Call, base: Image) -> None:
    memory_id = base.image_id(MEMORY_IMAGE)
    fit.check_memory(base, call.services.catalogue.get(call.context, memory_id) if memory_id else None)


def _check_flavor(call: Call, server: dict[str, Any], base: Image) -> None:
    """A flavor that is not there is left for Nova to tell."""
    flavor_id = common.get_id_from_href(str(server.get("flavorRef", "")))
    try:
        flavor = flavors.get_flavor_by_flavor_id(call.context, flavor_id, read_deleted="no")
    except exception.FlavorNotFound:
        return
    fit.check_flavor(fit.Flavor(flavor.name, flavor.memory_mb, flavor.vcpus, flavor.root_gb), base)
