# SPDX-License-Identifier: Apache-2.0
"""Parts of which the schemas are made."""

from __future__ import annotations

from typing import Any

Part = dict[str, Any]

UUID: Part = {"type": "string", "format": "uuid"}
UUID_OR_NULL: Part = {"type": ["string", "null"], "format": "uuid"}
TIME: Part = {"type": "string", "format": "date-time"}
TEXT: Part = {"type": "string"}
TEXT_OR_NULL: Part = {"type": ["string", "null"]}
COUNT: Part = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Part = {"type": ["integer", "null"], "minimum": 0}
NUMBER_OR_NULL: Part = {"type": ["number", "null"], "minimum": 0}
DIGEST_OR_NULL: Part = {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"}

NAME: Part = {"type": "string", "format": "name", "minLength": 1, "maxLength": 255}
BASE_NAME: Part = {"type": "string", "format": "name", "minLength": 1, "maxLength": 248}
"""The memory image's name is that of the base and `` memory``."""

LIMIT: Part = {"type": "string", "pattern": "^[0-9]{1,9}$"}
BOOLEAN_TEXT: Part = {"type": "string", "enum": ["true", "false", "True", "False", "1", "0"]}


def fields(required: Part, optional: Part | None = None) -> Part:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": sorted(required),
        "additionalProperties": False,
    }


def array(items: Part) -> Part:
    """A list of these."""
    return {"type": "array", "items": items}


EMPTY: Part = {"type": "null"}
"""An answer without a body."""

IMAGE_LIST_QUERY = fields({}, {"name": TEXT, "limit": LIMIT, "marker": UUID})
IMAGE_STATUS = TEXT
VISIBILITY: Part = {"type": "string", "enum": ["public", "private", "shared", "community"]}
