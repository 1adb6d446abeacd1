# SPDX-License-Identifier: Apache-2.0
"""How the extension presents itself."""

from __future__ import annotations

from typing import Any

from cloudlet_ext import __version__
from cloudlet_ext.api.microversion import MAX_VERSION, MIN_VERSION
from cloudlet_ext.api.sources import MAX_LENGTH

CAPABILITIES = [
    "base-create",
    "base-precache",
    "base-resume",
    "operation-cancel",
    "overlay-create",
    "synthesis",
]

EXTENSION = {
    "alias": "os-cloudlet",
    "description": "Base VMs, overlays and synthesis.",
    "links": [],
    "name": "Cloudlet",
    "namespace": "http://docs.openstack.org/compute/ext/fake_xml",
    "updated": "2026-11-22T00:00:00Z",
}
"""In the form of the other extensions' entries, whose namespaces Nova no longer keeps apart."""


def show(options: Any) -> dict[str, Any]:
    """Version, capabilities and limits; ``options`` is the group ``[cloudlet]``."""
    return {
        "version": __version__,
        "min_version": MIN_VERSION,
        "max_version": MAX_VERSION,
        "capabilities": CAPABILITIES,
        "limits": {
            "max_workers_per_host": options.max_workers,
            "operation_timeout_s": options.operation_timeout,
            "operation_keep_hours": options.operation_keep_hours,
            "max_overlay_bytes": options.max_overlay_mb * 2**20 or None,
            "max_overlay_url_length": MAX_LENGTH,
            "overlay_sources": list(options.overlay_sources),
            "require_signed_overlays": options.require_signed_overlays,
        },
    }
