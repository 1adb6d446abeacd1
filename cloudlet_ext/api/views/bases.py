# SPDX-License-Identifier: Apache-2.0
"""How bases look."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api import image as properties
from cloudlet_ext.api.image import Image


def show(base: Image, memory: Image | None) -> dict[str, Any]:
    """A base; ``memory`` is None where the user cannot read its memory image."""
    return {
        "id": base.id,
        "name": base.name,
        "status": base.status,
        "visibility": base.visibility,
        "project_id": base.owner,
        "base_id": base.digest(properties.BASE_ID),
        "memory_image_id": base.image_id(properties.MEMORY_IMAGE),
        "memory_mb": base.number(properties.MEMORY_MB),
        "vcpus": base.number(properties.VCPUS),
        "min_disk_gb": base.min_disk_gb,
        "disk_bytes": base.size_bytes,
        "memory_bytes": memory.size_bytes if memory else None,
        "created_at": base.created_at,
    }
