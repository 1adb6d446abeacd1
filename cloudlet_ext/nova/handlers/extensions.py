# SPDX-License-Identifier: Apache-2.0
"""/extensions: our entry in Nova's list."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api.schemas import extensions as schemas
from cloudlet_ext.api.views.root import EXTENSION
from cloudlet_ext.nova.call import Call, parse_json

_NOVA_RULE = "os_compute_api:extensions"


def index(call: Call) -> Any:
    """Nova's list with our entry in its place."""
    response = call.request.get_response(call.next_app)
    if response.status_int == 200:
        known = parse_json(response.body)["extensions"]
        document = {"extensions": sorted([*known, EXTENSION], key=lambda extension: str(extension["alias"]))}
        call.check_answer(document, schemas.INDEX_ANSWER)
        response.json_body = document
    return response


def show(call: Call) -> Any:
    """Our entry alone."""
    call.accept()
    call.context.can(_NOVA_RULE, target={})
    return call.answer(200, {"extension": EXTENSION}, schemas.SHOW_ANSWER)
