# SPDX-License-Identifier: Apache-2.0
"""Unmovable: hardware of a server whose state cannot be captured, and into which none can be loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nova import exception, objects
from nova.virt import hardware

from cloudlet_ext.api.image import Image

PASSTHROUGH = "a PCI device of the host"

_BY_FLAVOR_AND_IMAGE: tuple[tuple[Callable[[Any, Any], Any], str], ...] = (
    # libvirt gives such guests several blocks of memory; a base's is one.
    (hardware.numa_get_constraints, "a NUMA topology, pinned CPUs or huge pages"),
    (hardware.get_vtpm_constraint, "a virtual TPM"),
    (hardware.get_mem_encryption_constraint, "encrypted memory"),
)
_BY_EXTRA_SPEC = (
    (re.compile(r"pci_passthrough:alias"), PASSTHROUGH),
    (re.compile(r"resources\w*:VGPU"), "a virtual GPU"),
    (re.compile(r"accel:device_profile"), "an accelerator"),
    (re.compile(r"hw:pmem"), "persistent memory"),
)


def of(flavor: Any, image_meta: Any) -> str | None:
    """What a server of Nova's flavor and image has, in words; None where all can be moved.

    Values that Nova does not accept are Nova's to tell.
    """
    for look, what in _BY_FLAVOR_AND_IMAGE:
        try:
            found = look(flavor, image_meta)
        except (exception.NovaException, ValueError):
            continue
        if found is not None:
            return what
    for pattern, what in _BY_EXTRA_SPEC:
        if any(pattern.fullmatch(name) and value for name, value in flavor.extra_specs.items()):
            return what
    return None


def of_server(server: Any) -> str | None:
    """What a server has, in words; None where all can be moved."""
    if server.pci_requests.requests:
        return PASSTHROUGH
    if server.numa_topology is not None:
        return _BY_FLAVOR_AND_IMAGE[0][1]
    return of(server.flavor, server.image_meta)


def image_meta(image: Image) -> Any:
    """An image as Nova's :func:`of` wants it; without properties that Nova does not accept, which it tells itself."""
    return objects.ImageMeta.from_dict({"id": image.id, "properties": _accepted(image.properties)})


def _accepted(properties: Mapping[str, str]) -> dict[str, str]:
    accepted = {}
    for name, value in properties.items():
        try:
            objects.ImageMetaProps.from_dict({name: value})
        except (exception.NovaException, ValueError, TypeError):
            continue
        accepted[name] = value
    return accepted
