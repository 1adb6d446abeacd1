# SPDX-License-Identifier: Apache-2.0
"""Base transfer: a base of a cloud becomes a file, a file becomes a base of a cloud."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from openstack.connection import Connection

from cloudlet_ext.engine.output import check_output
from cloudlet_ext.sdk import image_data
from cloudlet_ext.sdk.base import Base
from cloudlet_ext.sdk.base_archive import DISK, MEMORY, PARTS, Archive, ArchiveManifest, Part, write_archive
from cloudlet_ext.sdk.errors import NotBase, NotReady
from cloudlet_ext.sdk.image_data import Progress
from cloudlet_ext.sdk.proxy import memory_name

_PORTABLE_PREFIXES = ("cloudlet_", "hw_", "os_", "img_")
_PORTABLE = ("architecture", "vm_mode", "hypervisor_type")
_LOCAL = ("cloudlet_base_image", "cloudlet_memory_image", "os_hidden", "os_hash_algo", "os_hash_value")
"""Properties that belong to the guest go with it; ids and digests of the image service's own do not."""
_NEEDS_TRAIT = "trait:CUSTOM_CLOUDLET"
"""Asks the scheduler for a compute host that can resume a base."""


def images_of(connection: Connection, base: Base) -> dict[str, dict[str, Any]]:
    """Both images of a base as the image service tells them, by DISK and MEMORY. NotBase, NotReady."""
    ids = {DISK: base.id, MEMORY: base.memory_image_id}
    if not ids[MEMORY]:
        raise NotBase(image_id=base.id, missing="cloudlet_memory_image")
    images = {part: image_data.show(connection.image, image_id) for part, image_id in ids.items()}
    for image in images.values():
        if image["status"] != "active":
            raise NotReady(kind="base", name=base.name, image_id=image["id"], status=image["status"])
    return images


def save_base(connection: Connection, base: Base, path: Path, progress: Progress, replace: bool = False) -> int:
    """Write a base to one file; its size in bytes. What is missing at the end leaves no file behind.

    NotBase, NotReady, ImageDamaged, and what write_archive() raises.
    """
    check_output(path, replace)
    images = images_of(connection, base)
    parts = {part: _described(image) for part, image in images.items()}
    manifest = ArchiveManifest(base.name, base.base_id, parts)
    data = {part: image_data.fetch(connection.image, image, progress) for part, image in images.items()}
    return write_archive(path, manifest, data, replace)


def import_base(connection: Connection, archive: Archive, name: str, progress: Progress) -> str:
    """Make a base of an archive; its id. Every byte is checked before the images become usable.

    ArchiveDamaged, ArchiveTruncated; no image is left after a failure.
    """
    images = connection.image
    ids = {part: str(uuid.uuid4()) for part in PARTS}
    with image_data.undone_on_failure(images) as made:
        for part in PARTS:
            made.append(ids[part])
            image_data.create(images, _document(archive.manifest, part, ids, name))
        # The memory first: as soon as the disk image is active, the base counts as ready.
        for part in (MEMORY, DISK):
            pieces = image_data.counted(archive.pieces(part), progress)
            image_data.send(images, ids[part], pieces, archive.manifest.images[part].bytes)
    return ids[DISK]


def _described(image: dict[str, Any]) -> Part:
    return Part(
        bytes=image["size"],
        disk_format=image["disk_format"],
        container_format=image["container_format"],
        min_disk=image["min_disk"],
        min_ram=image["min_ram"],
        properties={key: value for key, value in image.items() if _is_portable(key) and isinstance(value, str)},
    )


def _is_portable(key: str) -> bool:
    return (key.startswith(_PORTABLE_PREFIXES) or key in _PORTABLE) and key not in _LOCAL


def _document(manifest: ArchiveManifest, part: str, ids: dict[str, str], name: str) -> dict[str, Any]:
    """The image of a part, as the image service wants it at its creation."""
    described = manifest.images[part]
    if part == MEMORY:
        name = memory_name(name)
    properties: dict[str, Any] = {key: value for key, value in described.properties.items() if _is_portable(key)}
    if part == DISK:
        own = {"cloudlet_type": "base", "cloudlet_memory_image": ids[MEMORY], _NEEDS_TRAIT: "required"}
    else:
        own = {"cloudlet_type": "base-memory", "cloudlet_base_image": ids[DISK]}
        properties["os_hidden"] = True
    return {
        **properties,
        **own,
        "cloudlet_base_id": manifest.base_id,
        "id": ids[part],
        "name": name,
        "disk_format": described.disk_format,
        "container_format": described.container_format,
        "min_disk": described.min_disk,
        "min_ram": described.min_ram,
        "visibility": "private",
    }
