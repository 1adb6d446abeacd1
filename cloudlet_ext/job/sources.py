# SPDX-License-Identifier: Apache-2.0
"""Which URLs a job may fetch from: the operator's rules, for the URL, for redirects, for every address connected to."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api import errors as api_errors
from cloudlet_ext.api.sources import SourceRules
from cloudlet_ext.engine.source_policy import SourcePolicy


def policy(job: dict[str, Any]) -> SourcePolicy:
    """From ``job["overlay_sources"]`` and ``job["allowed_networks"]``."""
    rules = SourceRules(job["overlay_sources"], job["allowed_networks"])

    def refuse_url(url: str) -> str | None:
        try:
            rules.parse(url)
        except api_errors.ApiError as failure:
            return str(failure).removesuffix(".")
        return None

    def refuse_address(address: str) -> str | None:
        try:
            rules.check_address("the overlay's source", address)
        except api_errors.ApiError as failure:
            return str(failure).removesuffix(".")
        return None

    return SourcePolicy(refuse_url=refuse_url, refuse_address=refuse_address, ca_file=job.get("ca_file"))
