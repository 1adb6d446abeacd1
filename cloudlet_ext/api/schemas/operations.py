# SPDX-License-Identifier: Apache-2.0
"""Schemas of operations."""

from __future__ import annotations

from cloudlet_ext.api.schemas import parameters as p

TYPES = ["base-create", "overlay-create", "synthesis", "base-resume", "base-precache"]
STATES = ["queued", "running", "succeeded", "failed", "cancelled"]

OPERATION = p.fields(
    {
        "id": p.UUID,
        "type": {"enum": TYPES},
        "state": {"enum": STATES},
        "stage": p.TEXT_OR_NULL,
        "stages": p.array(p.fields({"name": p.TEXT, "started_at": p.TIME})),
        "done_bytes": p.COUNT,
        "total_bytes": p.COUNT,
        "rate_bytes_per_s": p.NUMBER_OR_NULL,
        "estimate_s": p.NUMBER_OR_NULL,
        "server_id": p.UUID_OR_NULL,
        "project_id": p.TEXT_OR_NULL,
        "user_id": p.TEXT_OR_NULL,
        "host": p.TEXT_OR_NULL,
        "images": {
            "type": "object",
            "properties": {"base-disk": p.UUID, "base-memory": p.UUID, "overlay": p.UUID},
            "additionalProperties": False,
        },
        "error": p.TEXT_OR_NULL,
        "result": {"type": ["object", "null"]},
        "created_at": p.TIME,
        "updated_at": p.TIME,
    }
)

INDEX_QUERY = p.fields({}, {"server_id": p.UUID, "all_projects": p.BOOLEAN_TEXT})
INDEX_ANSWER = p.fields({"operations": p.array(OPERATION)})

NO_QUERY = p.fields({})
SHOW_ANSWER = p.fields({"operation": OPERATION})

CANCEL_ANSWER = p.EMPTY
