# SPDX-License-Identifier: Apache-2.0
"""Job base-precache: a base is fetched to this host before anybody asks for it."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.job.base_cache import FETCHING, BaseCache, fetch_images
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.job.images import Images
from cloudlet_ext.worker.report import Report


def run(job: dict[str, Any], channel: Channel, report: Report) -> dict[str, Any]:
    """Verify what is here, else fetch it, and keep it; what the operation has to tell."""
    fetch = fetch_images(Images.of_job(job), job["base_image"], job["base_memory_image"], report)
    report.stage("verify")
    with BaseCache.of_job(job).using(job["base_id"], fetch, report) as base:
        return {"base_id": base.base_id, "fetched": any(name == FETCHING for name, _ in report.stages)}
