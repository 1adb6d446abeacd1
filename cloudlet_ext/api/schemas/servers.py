# SPDX-License-Identifier: Apache-2.0
"""Schemas of what is added to Nova's own POST /servers.

The request's other fields, and the rest of the answer, are Nova's and are checked by Nova.
"""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api.schemas import parameters as p
from cloudlet_ext.api.sources import MAX_LENGTH

OVERLAY_URL = "overlay_url"

OVERLAY_URL_VALUE: p.Part = {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH}

CREATE_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {"server": {"type": "object"}, "synthesis": p.fields({"operation": p.UUID})},
    "required": ["server", "synthesis"],
    "additionalProperties": False,
}
