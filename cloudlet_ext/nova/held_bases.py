# SPDX-License-Identifier: Apache-2.0
"""Which bases a compute host holds, as nova-compute tells nova-scheduler.

The way is Nova's own: what a driver puts into ``get_available_resource()["stats"]`` is kept in the host's row of
``compute_nodes`` and is the ``stats`` of the scheduler's HostState, a minute old at most. Keys and values are strings:

``cloudlet_bases``
    ``BASE_ID,BASE_ID,...``
``cloudlet_base_images``
    ``IMAGE_ID=BASE_ID,...``: the Glance images by which this host knows its bases.

The second is needed because the scheduler does not see an image's ``cloudlet_base_id``: a RequestSpec's image keeps its
id, but of its properties only those that Nova knows by name. And an image id alone does not do, because one base may be
several images (imported by two projects): what the host has under one of them serves all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

BASES = "cloudlet_bases"
BASE_IMAGES = "cloudlet_base_images"

MOST_BYTES = 16 * 1024
"""Of both values together. The column is TEXT, 65,535 bytes in MySQL for all stats of a host, and the scheduler reads
it for every host at every request; with more the host could report nothing at all. 98 bases of one image each fit."""


def to_stats(held: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The two values for (base id, image id) pairs, the most recently used first; what does not fit is left out.

    An image id may be empty: the base is here, by no image that is known.
    """
    bases: dict[str, None] = {}
    images: dict[str, str] = {}
    size = 0
    for base_id, image_id in held:
        added = 0 if base_id in bases else len(base_id) + 1
        if image_id and image_id not in images:
            added += len(image_id) + len(base_id) + 2
        if size + added > MOST_BYTES:
            break
        size += added
        bases[base_id] = None
        if image_id:
            images.setdefault(image_id, base_id)
    return {
        BASES: ",".join(bases),
        BASE_IMAGES: ",".join(f"{image_id}={base_id}" for image_id, base_id in images.items()),
    }


def bases_of(stats: Mapping[str, str | None]) -> frozenset[str]:
    """Ids of the bases that a host holds, from its stats; empty for a host that tells of none."""
    return frozenset(filter(None, (stats.get(BASES) or "").split(",")))


def base_of_image(stats: Mapping[str, str | None], image_id: str) -> str | None:
    """Id of the base that an image is, where the host knows the image."""
    for pair in (stats.get(BASE_IMAGES) or "").split(","):
        known, _, base_id = pair.partition("=")
        if known == image_id and base_id:
            return base_id
    return None
