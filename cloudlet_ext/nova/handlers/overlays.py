# SPDX-License-Identifier: Apache-2.0
"""/os-cloudlet/overlays."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api import errors
from cloudlet_ext.api.image import OVERLAY
from cloudlet_ext.api.schemas import overlays as schemas
from cloudlet_ext.api.views import overlays as view
from cloudlet_ext.nova.call import Call
from cloudlet_ext.nova.handlers.images import list_options, reader_project
from cloudlet_ext.policies import overlays as policies


def index(call: Call) -> Any:
    """The overlays that the user can read."""
    call.authorize(policies.INDEX, call.context.project_id)
    options = list_options(call, schemas.INDEX_QUERY)
    found = call.services.catalogue.list(call.context, OVERLAY, **options)
    return call.answer(200, {"overlays": [view.show(overlay) for overlay in found]}, schemas.INDEX_ANSWER)


def show(call: Call) -> Any:
    """One overlay."""
    call.query(schemas.NO_QUERY)
    overlay = call.services.catalogue.get_of_kind(call.context, OVERLAY, call.args["overlay_id"])
    call.authorize(policies.SHOW, reader_project(call, overlay))
    return call.answer(200, {"overlay": view.show(overlay)}, schemas.SHOW_ANSWER)


def delete(call: Call) -> Any:
    """Delete an overlay's image."""
    call.query(schemas.NO_QUERY)
    overlay = call.services.catalogue.get_of_kind(call.context, OVERLAY, call.args["overlay_id"])
    call.authorize(policies.DELETE, overlay.owner)
    if overlay.protected:
        raise errors.ImageProtected(what="overlay", id=overlay.id)
    call.services.catalogue.delete(call.context, overlay.id)
    return call.answer(204, None, schemas.DELETE_ANSWER)
