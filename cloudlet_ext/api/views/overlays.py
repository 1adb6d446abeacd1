# SPDX-License-Identifier: Apache-2.0
"""How overlays look."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api import image as properties
from cloudlet_ext.api.image import Image


def show(overlay: Image) -> dict[str, Any]:
    """An overlay."""
    return {
        "id": overlay.id,
        "name": overlay.name,
        "status": overlay.status,
        "visibility": overlay.visibility,
        "project_id": overlay.owner,
        "overlay_id": overlay.digest(properties.OVERLAY_ID),
        "base_id": overlay.digest(properties.BASE_ID),
        "base_image_id": overlay.image_id(properties.BASE_IMAGE),
        "memory_mb": overlay.number(properties.MEMORY_MB),
        "vcpus": overlay.number(properties.VCPUS),
        "size_bytes": overlay.size_bytes,
        "created_at": overlay.created_at,
    }
