# SPDX-License-Identifier: Apache-2.0
"""Whether base, overlay and flavor fit; what is wrong is told with both values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudlet_ext.api import errors, fit
from cloudlet_ext.api.fit import Devices, Flavor
from cloudlet_ext.api.image import Image, from_glance

BASE_ID, OTHER_ID = "a" * 64, "b" * 64
BASE = Image(
    id="6f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55",
    name="ubuntu-base",
    status="active",
    visibility="public",
    owner="p",
    size_bytes=1 << 30,
    min_disk_gb=5,
    created_at="2026-01-01T00:00:00Z",
    properties={
        "cloudlet_type": "base",
        "cloudlet_base_id": BASE_ID,
        "cloudlet_memory_mb": "1024",
        "cloudlet_vcpus": "2",
    },
)
OVERLAY = replace(
    BASE,
    id="7f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55",
    size_bytes=1000,
    properties={"cloudlet_type": "overlay", "cloudlet_base_id": BASE_ID},
)
FLAVOR = Flavor("m1.small", 1024, 2, 5)


def test_what_fits() -> None:
    fit.check_base(BASE)
    fit.check_overlay(OVERLAY, BASE, 0)
    fit.check_overlay(OVERLAY, BASE, 1000)
    fit.check_flavor(FLAVOR, BASE)
    fit.check_flavor(replace(FLAVOR, disk_gb=0), BASE)
    fit.check_flavor(replace(FLAVOR, disk_gb=50), BASE)
    # What the image does not tell is not checked.
    fit.check_flavor(Flavor("x", 1, 1, 0), replace(BASE, properties={"cloudlet_memory_mb": "much"}))


@pytest.mark.parametrize(
    ("flavor", "found", "expected"),
    [
        (replace(FLAVOR, memory_mb=512), "512 MiB", "1024 MiB"),
        (replace(FLAVOR, memory_mb=2048), "2048 MiB", "1024 MiB"),
        (replace(FLAVOR, vcpus=1), "1 vCPUs", "2"),
        (replace(FLAVOR, disk_gb=4), "4 GiB", "5 GiB"),
        (replace(FLAVOR, more_disks=True), "ephemeral or swap", "one disk"),
    ],
)
def test_flavors_that_do_not_fit(flavor: Flavor, found: str, expected: str) -> None:
    with pytest.raises(errors.FlavorUnfit) as refused:
        fit.check_flavor(flavor, BASE)
    assert refused.value.status == 400
    for part in (found, expected, "m1.small", BASE.id):
        assert part in str(refused.value)


SHAPED = replace(BASE, properties={**BASE.properties, "cloudlet_network_cards": "2", "cloudlet_config_drive": "False"})


def test_devices_that_fit() -> None:
    for devices in (Devices(), Devices(network_cards=2), Devices(network_cards=None)):
        fit.check_devices(devices, SHAPED)
    # What the image does not tell is not checked, and a base with a config drive asks for one itself.
    fit.check_devices(Devices(network_cards=7, config_drive=True), BASE)
    with_drive = replace(SHAPED, properties={**SHAPED.properties, "cloudlet_config_drive": "True"})
    for config_drive in (True, False):
        fit.check_devices(Devices(config_drive=config_drive), with_drive)


@pytest.mark.parametrize(
    ("devices", "found", "expected"),
    [
        (Devices(more_disks=2), "have 2", "no disk but"),
        (Devices(network_cards=0), "have 0", "2 network cards"),
        (Devices(network_cards=3), "have 3", "2 network cards"),
        (Devices(config_drive=True), "have one", "no config drive"),
    ],
)
def test_devices_that_do_not_fit(devices: Devices, found: str, expected: str) -> None:
    with pytest.raises(errors.DevicesUnfit) as refused:
        fit.check_devices(devices, SHAPED)
    assert refused.value.status == 400
    for part in (found, expected, BASE.id):
        assert part in str(refused.value)


def test_images_that_are_no_base() -> None:
    with pytest.raises(errors.NotABase, match="None"):
        fit.check_base(replace(BASE, properties={}))
    with pytest.raises(errors.NotABase, match="overlay"):
        fit.check_base(OVERLAY)
    with pytest.raises(errors.ImageNotActive, match="queued") as refused:
        fit.check_base(replace(BASE, status="queued"))
    assert refused.value.status == 409
    for found in ("short", "A" * 64, None):
        known = {name: value for name, value in BASE.properties.items() if name != "cloudlet_base_id"}
        unnamed = replace(BASE, properties=known if found is None else {**known, "cloudlet_base_id": found})
        with pytest.raises(errors.BaseUnnamed, match=str(found)) as nameless:
            fit.check_base(unnamed)
        assert nameless.value.status == 400


def test_overlays_that_do_not_fit() -> None:
    with pytest.raises(errors.NotAnOverlay, match="base"):
        fit.check_overlay(BASE, BASE, 0)
    with pytest.raises(errors.ImageNotActive, match="saving"):
        fit.check_overlay(replace(OVERLAY, status="saving"), BASE, 0)
    other = replace(BASE, properties={**BASE.properties, "cloudlet_base_id": OTHER_ID})
    with pytest.raises(errors.WrongBase, match=rf"{BASE_ID}.*{OTHER_ID}") as refused:
        fit.check_overlay(OVERLAY, other, 0)
    assert refused.value.status == 409
    with pytest.raises(errors.WrongBase):
        fit.check_overlay(
            replace(OVERLAY, properties={"cloudlet_type": "overlay"}),
            replace(BASE, properties={"cloudlet_type": "base"}),
            0,
        )
    with pytest.raises(errors.OverlayTooLarge, match=r"1000 bytes.*999") as large:
        fit.check_overlay(OVERLAY, BASE, 999)
    assert large.value.status == 413


def test_an_image_from_glance() -> None:
    image = from_glance(
        {
            "id": BASE.id,
            "name": None,
            "status": "queued",
            "visibility": "private",
            "owner": "p",
            "size": None,
            "min_disk": 0,
            "min_ram": 0,
            "created_at": "2026-01-01T00:00:00Z",
            "protected": True,
            "tags": [],
            "os_hidden": False,
            "cloudlet_type": "overlay",
            "cloudlet_vcpus": "two",
            "cloudlet_base_id": "short",
            "cloudlet_base_image": "none",
            "kernel_id": None,
        }
    )
    assert image.protected
    assert image.size_bytes is None
    assert image.kind == "overlay"
    assert set(image.properties) == {"cloudlet_type", "cloudlet_vcpus", "cloudlet_base_id", "cloudlet_base_image"}
    # Anybody may set properties: what cannot be is not passed on.
    assert image.number("cloudlet_vcpus") is None
    assert image.digest("cloudlet_base_id") is None
    assert image.image_id("cloudlet_base_image") is None
    assert replace(BASE).digest("cloudlet_base_id") == BASE_ID
