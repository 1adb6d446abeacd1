# SPDX-License-Identifier: Apache-2.0
"""Where a synthesis' worker opens its overlay: what the API let pass is checked again, since metadata can change."""

from __future__ import annotations

from typing import Any

import pytest

from cloudlet_ext.api import errors as api_errors
from cloudlet_ext.job import errors, synthesis
from cloudlet_ext.job.images import Images as ImageService
from tests.nova.cloud import MEMBER, Cloud
from tests.nova.conftest import Images


@pytest.fixture
def service(cloud: Cloud) -> ImageService:
    return ImageService(cloud.glance.url, MEMBER, None, None)


def job(overlay: str, *allowed: str) -> dict[str, Any]:
    return {"overlay": overlay, "overlay_sources": list(allowed), "allowed_networks": []}


def test_an_image_is_read(service: ImageService, images: Images) -> None:
    source = synthesis._open(job(f"glance:{images.overlay}", "glance:"), service)
    assert bytes(source.read(0, 10)) == b"o" * 10
    source.close()


def test_an_image_is_no_source_where_images_are_not_allowed(service: ImageService, images: Images) -> None:
    with pytest.raises(api_errors.SourceNotAllowed):
        synthesis._open(job(f"glance:{images.overlay}", "https:"), service)


@pytest.mark.parametrize("path", ["../../v2/schemas/image", "/{}/", "{}/../{}", "{}?x=1", "%2e%2e"])
def test_nothing_but_an_id_comes_into_the_path(service: ImageService, images: Images, path: str) -> None:
    with pytest.raises(api_errors.SourceMalformed):
        synthesis._open(job(f"glance:{path.replace('{}', images.overlay)}", "glance:"), service)


def test_a_memory_image_is_an_id_too(service: ImageService, images: Images, tmp_path: Any) -> None:
    """It is a property of the base's image, which whoever owns it may have written."""
    for wrong in ("../../v2/schemas/image", f"{images.memory}/../{images.plain}", ""):
        for act in (service.show, service.url, lambda image: service.download(image, tmp_path / "x", print)):
            with pytest.raises(errors.BadJob, match="id expected"):
                act(wrong)
    service.download(images.memory, tmp_path / "memory", lambda done, total: None)
    assert (tmp_path / "memory").read_bytes() == b"m" * 100
