# SPDX-License-Identifier: Apache-2.0
"""What bases and overlays, both of them images, have in common as resources."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api.image import Image
from cloudlet_ext.api.validation import Schema
from cloudlet_ext.nova.call import Call


def list_options(call: Call, schema: Schema) -> dict[str, Any]:
    """Options of :meth:`Catalogue.list`; never more than Nova's own lists hold (``[api] max_limit``)."""
    query = call.query(schema)
    most: int = call.services.conf.api.max_limit
    limit = min(int(query.get("limit", most)), most)
    return {"name": query.get("name"), "limit": limit, "marker": query.get("marker")}


def reader_project(call: Call, image: Image) -> str | None:
    """The project against which reading is checked: what the owner lets others read they read as of their own."""
    if image.visibility == "private":
        return image.owner
    project_id: str | None = call.context.project_id
    return project_id
