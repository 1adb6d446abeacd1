# SPDX-License-Identifier: Apache-2.0
"""Schemas of overlays."""

from __future__ import annotations

from cloudlet_ext.api.schemas import parameters as p

OVERLAY = p.fields(
    {
        "id": p.UUID,
        "name": p.TEXT_OR_NULL,
        "status": p.IMAGE_STATUS,
        "visibility": p.VISIBILITY,
        "project_id": p.TEXT_OR_NULL,
        "overlay_id": p.DIGEST_OR_NULL,
        "base_id": p.DIGEST_OR_NULL,
        "base_image_id": p.UUID_OR_NULL,
        "memory_mb": p.COUNT_OR_NULL,
        "vcpus": p.COUNT_OR_NULL,
        "size_bytes": p.COUNT_OR_NULL,
        "created_at": p.TIME,
    }
)

INDEX_QUERY = p.IMAGE_LIST_QUERY
INDEX_ANSWER = p.fields({"overlays": p.array(OVERLAY)})

NO_QUERY = p.fields({})
SHOW_ANSWER = p.fields({"overlay": OVERLAY})

DELETE_ANSWER = p.EMPTY
