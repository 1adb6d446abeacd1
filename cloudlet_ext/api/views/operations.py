# SPDX-License-Identifier: Apache-2.0
"""How operations look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudlet_ext.api.schemas.operations import OPERATION

_FIELDS: tuple[str, ...] = tuple(OPERATION["properties"])

ENDED = frozenset({"succeeded", "failed", "cancelled"})


def show(operation: Mapping[str, Any], with_host: bool) -> dict[str, Any]:
    """An operation as a compute host tells it; its host only for those who may know."""
    seen = {name: operation[name] for name in _FIELDS}
    if not with_host:
        seen["host"] = None
    return seen


def of_server(server: Mapping[str, Any], kind: str, error: str | None) -> dict[str, Any]:
    """The operation of a server that no compute host has begun: waiting for one, or failed on the way there.

    ``server``: id, project_id, user_id, host, created_at, updated_at.
    """
    return {
        "id": server["id"],
        "type": kind,
        "state": "queued" if error is None else "failed",
        "stage": None,
        "stages": [],
        "done_bytes": 0,
        "total_bytes": 0,
        "rate_bytes_per_s": None,
        "estimate_s": None,
        "server_id": server["id"],
        "project_id": server["project_id"],
        "user_id": server["user_id"],
        "host": server["host"],
        "images": {},
        "error": error,
        "result": None,
        "created_at": server["created_at"],
        "updated_at": server["updated_at"],
    }
