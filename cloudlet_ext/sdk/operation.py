# SPDX-License-Identifier: Apache-2.0
"""Operation: one long request, with its state and progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from openstack import resource

SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
ENDED = (SUCCEEDED, FAILED, CANCELLED)
"""States that an operation does not leave."""


class Operation(resource.Resource):
    """An operation of a compute host. That of a synthesis or a base's resumption has the server's id."""

    resource_key = "operation"
    resources_key = "operations"
    base_path = "/os-cloudlet/operations"
    allow_fetch = True
    allow_list = True
    allow_delete = True
    _query_mapping = resource.QueryParameters("server_id", "all_projects")

    #: base-create, overlay-create, synthesis, base-resume or base-precache.
    type: str = resource.Body("type")
    #: queued, running, succeeded, failed or cancelled.
    state: str = resource.Body("state")
    #: What is being done, in a word; None before the first stage.
    stage: str | None = resource.Body("stage")
    #: All stages so far: ``{"name", "started_at"}``.
    stages: list[dict[str, Any]] = resource.Body("stages", type=list)
    #: Bytes of this stage that are done.
    done_bytes: int = resource.Body("done_bytes", type=int)
    #: Bytes of this stage; 0 when not known.
    total_bytes: int = resource.Body("total_bytes", type=int)
    #: Present rate.
    rate_bytes_per_s: float | None = resource.Body("rate_bytes_per_s", type=float)
    #: Seconds until the end of the stage, as far as it can be told.
    estimate_s: float | None = resource.Body("estimate_s", type=float)
    #: The server that it belongs to.
    server_id: str | None = resource.Body("server_id")
    #: Who asked for it.
    project_id: str = resource.Body("project_id")
    user_id: str = resource.Body("user_id")
    #: The compute host that does it; only told to those who may know hosts.
    host: str | None = resource.Body("host")
    #: What it makes: image ids by "base-disk", "base-memory", "overlay".
    images: dict[str, str] = resource.Body("images", type=dict)
    #: Why it failed.
    error: str | None = resource.Body("error")
    #: What came of it; depends on the type.
    result: dict[str, Any] | None = resource.Body("result")
    #: ISO 8601, UTC.
    created_at: str = resource.Body("created_at")
    updated_at: str = resource.Body("updated_at")

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ENDED

    @property
    def share(self) -> float | None:
        """How much of the stage is done, from 0 to 1; None when not known."""
        return min(self.done_bytes / self.total_bytes, 1.0) if self.total_bytes else None


@dataclass(frozen=True)
class Begun:
    """An operation that the cloud has accepted.

    ``images``: ids of the images that it makes, by "base-disk", "base-memory", "overlay".
    """

    operation_id: str
    images: dict[str, str] = field(default_factory=dict)
