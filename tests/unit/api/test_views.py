# SPDX-License-Identifier: Apache-2.0
"""What is answered fits the schemas, whatever properties an image has."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from cloudlet_ext import conf
from cloudlet_ext.api import image as properties
from cloudlet_ext.api import validation
from cloudlet_ext.api.image import Image
from cloudlet_ext.api.schemas import bases, operations, overlays, root
from cloudlet_ext.api.views import bases as bases_view
from cloudlet_ext.api.views import operations as operations_view
from cloudlet_ext.api.views import overlays as overlays_view
from cloudlet_ext.api.views import root as root_view

ID = "6f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55"
NAMES = [
    properties.BASE_ID,
    properties.OVERLAY_ID,
    properties.MEMORY_IMAGE,
    properties.BASE_IMAGE,
    properties.MEMORY_MB,
    properties.VCPUS,
]
VALUES = st.sampled_from(["", "5", "-5", "x", ID, "a" * 64, "A" * 64, "٣"]) | st.text()


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.none() | st.integers(0, 1 << 60), st.none() | st.text())
def test_images(given_properties: dict[str, str], size: int | None, name: str | None) -> None:
    image = Image(ID, name, "queued", "shared", None, size, 0, "2026-01-01T00:00:00Z", properties=given_properties)
    validation.check({"base": bases_view.show(image, None)}, bases.SHOW_ANSWER, "response")
    validation.check({"base": bases_view.show(image, image)}, bases.SHOW_ANSWER, "response")
    validation.check({"overlay": overlays_view.show(image)}, overlays.SHOW_ANSWER, "response")


def operation(**changes: Any) -> dict[str, Any]:
    server = {
        "id": ID,
        "project_id": "p",
        "user_id": "u",
        "host": "compute1",
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:00+00:00",
    }
    return {**operations_view.of_server(server, "synthesis", None), **changes}


def test_operations() -> None:
    shown = operations_view.show(operation(secret="x"), with_host=True)
    validation.check({"operation": shown}, operations.SHOW_ANSWER, "response")
    assert shown["host"] == "compute1"
    assert shown["state"] == "queued"
    assert operations_view.show(operation(), with_host=False)["host"] is None


def test_the_extension_itself() -> None:
    options = cfg.ConfigOpts()
    conf.register(options)
    options([])
    shown = root_view.show(options.cloudlet)
    validation.check({"cloudlet": shown}, root.SHOW_ANSWER, "response")
    assert shown["max_version"] == "1.0"
    assert shown["limits"]["max_overlay_bytes"] is None
