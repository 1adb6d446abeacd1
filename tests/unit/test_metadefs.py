# SPDX-License-Identifier: Apache-2.0
"""The descriptions of image properties that Glance is given are those of the properties that are written."""

from __future__ import annotations

import json
from pathlib import Path

from cloudlet_ext.api import image

METADEFS = json.loads((Path(__file__).parents[2] / "etc/metadefs/cloudlet.json").read_text())


def test_every_property_is_described() -> None:
    constants = {value for name, value in vars(image).items() if name.isupper() and isinstance(value, str)}
    written = {value for value in constants if value.startswith(image.PREFIX)} - {image.PREFIX}
    assert set(METADEFS["properties"]) == written


def test_every_type_is_named() -> None:
    types = {image.BASE, image.MEMORY, image.OVERLAY}
    assert set(METADEFS["properties"][image.TYPE]["enum"]) == types


def test_every_description_is_a_sentence() -> None:
    for name, one in METADEFS["properties"].items():
        assert one["title"] and one["description"].endswith("."), name
