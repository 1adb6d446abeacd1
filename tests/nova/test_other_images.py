# SPDX-License-Identifier: Apache-2.0
"""Glance is asked once about an ordinary image, and always about a base."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from cloudlet_ext.nova import other_images
from cloudlet_ext.nova.catalogue import Catalogue
from cloudlet_ext.nova.other_images import OtherImages
from tests.nova.cloud import MEMBER, OTHER, Cloud
from tests.nova.conftest import Images, make_base
from tests.nova.test_servers import SMALL, create


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids that our catalogue asks Glance for."""
    found: list[str] = []
    original = Catalogue.get

    def get(self: Catalogue, context: Any, image_id: str) -> Any:
        found.append(image_id)
        return original(self, context, image_id)

    monkeypatch.setattr(Catalogue, "get", get)
    return found


def test_an_ordinary_image_is_asked_for_once(cloud: Cloud, asked: list[str]) -> None:
    image = cloud.glance.create(MEMBER, b"x", name="ordinary")
    for _ in range(3):
        assert create(cloud, image).status_int == 202
    assert asked == [image]


def test_a_base_is_asked_for_each_time(cloud: Cloud, images: Images, asked: list[str]) -> None:
    for _ in range(3):
        assert create(cloud, images.base, flavor=SMALL).status_int == 400
    assert asked.count(images.base) == 3


def test_what_one_user_does_not_see_another_may(cloud: Cloud, asked: list[str]) -> None:
    base, _ = make_base(cloud, OTHER, "theirs alone")
    assert create(cloud, base).status_int == 400
    assert create(cloud, base, flavor=SMALL, who=OTHER).status_int == 400
    assert create(cloud, base, flavor=SMALL, who=OTHER).json["badRequest"]["message"].startswith("Flavor small")


def test_an_image_is_forgotten_after_a_while() -> None:
    now = 0.0
    known = OtherImages(lambda: now)
    known.note("one")
    now = other_images.LASTS_S - 1
    assert known.holds("one") and not known.holds("another")
    now = other_images.LASTS_S
    assert not known.holds("one")
    known.note("one")
    assert known.holds("one")


def test_those_that_were_noted_first_make_room() -> None:
    known = OtherImages()
    ids = [str(uuid.uuid4()) for _ in range(10_000)]
    for each in ids:
        known.note(each)
    held = [each for each in ids if known.holds(each)]
    assert 1000 < len(held) < 5000
    assert held == ids[-len(held) :]
