# SPDX-License-Identifier: Apache-2.0
"""Base: a bootable image and the memory of the guest that was booted from it."""

from __future__ import annotations

from openstack import resource


class Base(resource.Resource):
    """A base of the cloud. Its id is that of the disk image."""

    resource_key = "base"
    resources_key = "bases"
    base_path = "/os-cloudlet/bases"
    allow_fetch = True
    allow_list = True
    allow_delete = True
    _query_mapping = resource.QueryParameters("name")

    #: Status of the disk image: queued, saving, active, ...
    status: str = resource.Body("status")
    #: public, private, shared or community.
    visibility: str = resource.Body("visibility")
    #: The project that the images belong to.
    project_id: str = resource.Body("project_id")
    #: What the base is, wherever it is: 64 hexadecimal digits.
    base_id: str = resource.Body("base_id")
    #: The image that holds the memory.
    memory_image_id: str = resource.Body("memory_image_id")
    #: Memory of the guest, MiB; a flavor must have exactly this.
    memory_mb: int = resource.Body("memory_mb", type=int)
    #: Processors of the guest; a flavor must have exactly this.
    vcpus: int = resource.Body("vcpus", type=int)
    #: Least disk of a flavor, GiB.
    min_disk_gb: int = resource.Body("min_disk_gb", type=int)
    #: Size of the disk image, bytes.
    disk_bytes: int = resource.Body("disk_bytes", type=int)
    #: Size of the memory image, bytes.
    memory_bytes: int = resource.Body("memory_bytes", type=int)
    #: ISO 8601, UTC.
    created_at: str = resource.Body("created_at")
