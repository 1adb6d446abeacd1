# SPDX-License-Identifier: Apache-2.0
"""Image: what the API needs to know of a Glance image; and the properties that make it a base or an overlay."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TYPE = "cloudlet_type"
BASE, MEMORY, OVERLAY = "base", "base-memory", "overlay"

BASE_ID = "cloudlet_base_id"
BASE_IMAGE = "cloudlet_base_image"
CONFIG_DRIVE = "cloudlet_config_drive"
MEMORY_IMAGE = "cloudlet_memory_image"
MEMORY_MB = "cloudlet_memory_mb"
MACHINE = "cloudlet_machine"
NETWORK_CARDS = "cloudlet_network_cards"
OVERLAY_ID = "cloudlet_overlay_id"
SERVER_NAME = "cloudlet_server_name"
VCPUS = "cloudlet_vcpus"

PREFIX = "cloudlet_"
PROPERTIES = (
    *(TYPE, BASE_ID, BASE_IMAGE, MEMORY_IMAGE, MEMORY_MB, MACHINE, OVERLAY_ID, SERVER_NAME, VCPUS),
    *(CONFIG_DRIVE, NETWORK_CARDS),
)

TRAIT = "CUSTOM_CLOUDLET"
"""What Placement is told of compute hosts that can resume bases."""
NEEDS_TRAIT = f"trait:{TRAIT}"
"""Property by which a base asks for such a host; its value is REQUIRED."""
REQUIRED = "required"

ACTIVE = "active"

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Image:
    """A Glance image. ``size_bytes`` is None until content is there; ``created_at`` is ISO 8601 in UTC."""

    id: str
    name: str | None
    status: str
    visibility: str
    owner: str | None
    size_bytes: int | None
    min_disk_gb: int
    created_at: str
    protected: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str | None:
        """``base``, ``base-memory``, ``overlay``; None for any other image."""
        return self.properties.get(TYPE)

    def number(self, name: str) -> int | None:
        """A property that is a whole number; None where it is missing or anything else."""
        text = self.properties.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None

    def digest(self, name: str) -> str | None:
        """A property that is a digest of 64 hex digits; None where it is missing or anything else."""
        text = self.properties.get(name, "")
        return text if _DIGEST.fullmatch(text) else None

    def image_id(self, name: str) -> str | None:
        """A property that is an image's id; None where it is missing or anything else."""
        try:
            return str(uuid.UUID(self.properties.get(name, "")))
        except ValueError:
            return None


_FIELDS = frozenset(
    (
        *("id", "name", "status", "visibility", "owner", "size", "virtual_size", "min_disk", "min_ram", "protected"),
        *("created_at", "updated_at", "checksum", "os_hash_algo", "os_hash_value", "os_hidden", "tags", "stores"),
        *("disk_format", "container_format", "file", "schema", "self", "direct_url", "locations"),
    )
)
"""What is no property of an image's own."""


def from_glance(record: Mapping[str, Any]) -> Image:
    """An image from what Glance's v2 API answers."""
    return Image(
        id=record["id"],
        name=record.get("name"),
        status=record["status"],
        visibility=record["visibility"],
        owner=record.get("owner"),
        size_bytes=record.get("size"),
        min_disk_gb=record.get("min_disk") or 0,
        created_at=record["created_at"],
        protected=bool(record.get("protected")),
        properties={name: str(value) for name, value in record.items() if name not in _FIELDS and value is not None},
    )
