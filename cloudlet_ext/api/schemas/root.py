# SPDX-License-Identifier: Apache-2.0
"""Schemas of what the extension tells of itself."""

from __future__ import annotations

from cloudlet_ext.api.schemas import parameters as p

NO_QUERY = p.fields({})

SHOW_ANSWER = p.fields(
    {
        "cloudlet": p.fields(
            {
                "version": p.TEXT,
                "min_version": p.TEXT,
                "max_version": p.TEXT,
                "capabilities": p.array(p.TEXT),
                "limits": p.fields(
                    {
                        "max_workers_per_host": p.COUNT,
                        "operation_timeout_s": p.COUNT,
                        "operation_keep_hours": p.COUNT,
                        "max_overlay_bytes": p.COUNT_OR_NULL,
                        "max_overlay_url_length": p.COUNT,
                        "overlay_sources": p.array(p.TEXT),
                        "require_signed_overlays": {"type": "boolean"},
                    }
                ),
            }
        )
    }
)
