# SPDX-License-Identifier: Apache-2.0
"""Schemas of server actions."""

from __future__ import annotations

from cloudlet_ext.api.schemas import parameters as p

NO_QUERY = p.fields({})

BASE = p.fields({"cloudlet-base": p.fields({"name": p.BASE_NAME})})

_IMAGE = p.fields({"id": p.UUID, "name": p.TEXT, "status": p.IMAGE_STATUS})
BASE_ANSWER = p.fields({"base-disk": _IMAGE, "base-memory": _IMAGE, "operation": p.UUID})

RESUME = "resume"
ON_FINISH = [RESUME, "stop", "delete"]

OVERLAY_FINISH = p.fields(
    {
        "cloudlet-overlay-finish": p.fields(
            {"overlay-name": p.NAME},
            {
                "on-finish": {"type": "string", "enum": ON_FINISH},
                "record": {"type": ["string", "null"], "format": "probe", "maxLength": 255},
            },
        )
    }
)

OVERLAY_FINISH_ANSWER = p.fields({"overlay-id": p.UUID, "operation": p.UUID})
