# SPDX-License-Identifier: Apache-2.0
"""Overlay: an image that holds how a server differs from its base, in disk and memory."""

from __future__ import annotations

from openstack import resource


class Overlay(resource.Resource):
    """An overlay of the cloud. Its id is that of the image."""

    resource_key = "overlay"
    resources_key = "overlays"
    base_path = "/os-cloudlet/overlays"
    allow_fetch = True
    allow_list = True
    allow_delete = True
    _query_mapping = resource.QueryParameters("name")

    #: Status of the image: queued, saving, active, ...
    status: str = resource.Body("status")
    #: public, private, shared or community.
    visibility: str = resource.Body("visibility")
    #: The project that the image belongs to.
    project_id: str = resource.Body("project_id")
    #: What the overlay is, wherever it is: 64 hexadecimal digits.
    overlay_id: str = resource.Body("overlay_id")
    #: The base that it was made for: 64 hexadecimal digits.
    base_id: str = resource.Body("base_id")
    #: The image of that base where the overlay was made; elsewhere it may have another id.
    base_image_id: str = resource.Body("base_image_id")
    #: Memory of the guest, MiB.
    memory_mb: int = resource.Body("memory_mb", type=int)
    #: Processors of the guest.
    vcpus: int = resource.Body("vcpus", type=int)
    #: Size of the file, bytes.
    size_bytes: int = resource.Body("size_bytes", type=int)
    #: ISO 8601, UTC.
    created_at: str = resource.Body("created_at")


def is_url(text: str) -> bool:
    """Whether an overlay is named by where it can be fetched."""
    return "://" in text
