# SPDX-License-Identifier: Apache-2.0
"""Schemas of bases."""

from __future__ import annotations

from cloudlet_ext.api.schemas import parameters as p

BASE = p.fields(
    {
        "id": p.UUID,
        "name": p.TEXT_OR_NULL,
        "status": p.IMAGE_STATUS,
        "visibility": p.VISIBILITY,
        "project_id": p.TEXT_OR_NULL,
        "base_id": p.DIGEST_OR_NULL,
        "memory_image_id": p.UUID_OR_NULL,
        "memory_mb": p.COUNT_OR_NULL,
        "vcpus": p.COUNT_OR_NULL,
        "min_disk_gb": p.COUNT,
        "disk_bytes": p.COUNT_OR_NULL,
        "memory_bytes": p.COUNT_OR_NULL,
        "created_at": p.TIME,
    }
)

INDEX_QUERY = p.IMAGE_LIST_QUERY
INDEX_ANSWER = p.fields({"bases": p.array(BASE)})

NO_QUERY = p.fields({})
SHOW_ANSWER = p.fields({"base": BASE})

DELETE_ANSWER = p.EMPTY

PRECACHE = p.fields(
    {
        "precache": {
            "type": "object",
            "properties": {"host": {"type": "string", "minLength": 1, "maxLength": 255}, "all": {"const": True}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
    }
)
PRECACHE_ANSWER = p.fields({"operations": p.array(p.UUID)})
