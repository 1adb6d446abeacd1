# SPDX-License-Identifier: Apache-2.0
"""Whether a base, an overlay and a flavor fit together; what is wrong is told with both values."""

from __future__ import annotations

from dataclasses import dataclass

from cloudlet_ext.api import errors
from cloudlet_ext.api import image as properties
from cloudlet_ext.api.image import ACTIVE, BASE, OVERLAY, Image


@dataclass(frozen=True)
class Flavor:
    """Of a flavor what a base asks for. ``disk_gb`` 0: as large as the image. ``more_disks``: swap, ephemeral."""

    name: str
    memory_mb: int
    vcpus: int
    disk_gb: int
    more_disks: bool = False


@dataclass(frozen=True)
class Devices:
    """What a server gets besides its flavor: disks that are not of its image, network cards, a config drive.

    None where the request does not tell.
    """

    more_disks: int = 0
    network_cards: int | None = None
    config_drive: bool = False


def check_base(image: Image) -> None:
    """:class:`errors.NotABase`, :class:`errors.ImageNotActive`, :class:`errors.BaseUnnamed`."""
    if image.kind != BASE:
        raise errors.NotABase(id=image.id, found=image.kind)
    if image.status != ACTIVE:
        raise errors.ImageNotActive(what="base", id=image.id, found=image.status)
    if image.digest(properties.BASE_ID) is None:
        raise errors.BaseUnnamed(id=image.id, found=image.properties.get(properties.BASE_ID))


def check_memory(base: Image, memory: Image | None) -> None:
    """A base's disk image against its memory image: copies of an image have its properties, but not its memory.

    :class:`errors.MemoryMissing`, :class:`errors.MemoryOfAnother`, :class:`errors.ImageNotActive`.
    """
    if memory is None:
        raise errors.MemoryMissing(id=base.id, memory=base.properties.get(properties.MEMORY_IMAGE))
    of = memory.properties.get(properties.BASE_IMAGE)
    if of != base.id:
        raise errors.MemoryOfAnother(id=base.id, memory=memory.id, found=of)
    if memory.status != ACTIVE:
        raise errors.ImageNotActive(what="base memory", id=memory.id, found=memory.status)


def check_overlay(overlay: Image, base: Image, limit_bytes: int) -> None:
    """An overlay against the base that it is to be synthesised with; ``limit_bytes`` 0 for no limit.

    :class:`errors.NotAnOverlay`, :class:`errors.ImageNotActive`, :class:`errors.WrongBase`,
    :class:`errors.OverlayTooLarge`.
    """
    if overlay.kind != OVERLAY:
        raise errors.NotAnOverlay(id=overlay.id, found=overlay.kind)
    if overlay.status != ACTIVE:
        raise errors.ImageNotActive(what="overlay", id=overlay.id, found=overlay.status)
    expected, found = (image.digest(properties.BASE_ID) for image in (overlay, base))
    if expected is None or expected != found:
        raise errors.WrongBase(overlay=overlay.id, expected=expected, image=base.id, found=found)
    if limit_bytes and (overlay.size_bytes or 0) > limit_bytes:
        raise errors.OverlayTooLarge(overlay=overlay.id, found=overlay.size_bytes, limit=limit_bytes)


def check_flavor(flavor: Flavor, base: Image) -> None:
    """A flavor against a base: QEMU loads a state only into as much memory and as many CPUs as it was captured with.

    What the image does not tell is not checked. :class:`errors.FlavorUnfit`.
    """
    memory_mb, vcpus = base.number(properties.MEMORY_MB), base.number(properties.VCPUS)
    if memory_mb is not None and flavor.memory_mb != memory_mb:
        raise _unfit(flavor, base, f"{flavor.memory_mb} MiB of memory", f"{memory_mb} MiB", "exactly as much")
    if vcpus is not None and flavor.vcpus != vcpus:
        raise _unfit(flavor, base, f"{flavor.vcpus} vCPUs", str(vcpus), "exactly as many")
    if flavor.disk_gb and flavor.disk_gb < base.min_disk_gb:
        raise _unfit(flavor, base, f"a disk of {flavor.disk_gb} GiB", f"{base.min_disk_gb} GiB", "at least as much")
    if flavor.more_disks:
        raise _unfit(flavor, base, "an ephemeral or swap disk", "one disk alone", "no other")


def check_devices(devices: Devices, base: Image) -> None:
    """Devices against a base: QEMU loads a state only into the devices that it was captured with.

    What the image does not tell is not checked. :class:`errors.DevicesUnfit`.
    """
    if devices.more_disks:
        raise errors.DevicesUnfit(image=base.id, expected="no disk but that of its image", found=devices.more_disks)
    cards = base.number(properties.NETWORK_CARDS)
    if None not in (cards, devices.network_cards) and cards != devices.network_cards:
        raise errors.DevicesUnfit(image=base.id, expected=f"{cards} network cards", found=devices.network_cards)
    # A base that has one asks Nova for it by itself.
    if devices.config_drive and base.properties.get(properties.CONFIG_DRIVE) == "False":
        raise errors.DevicesUnfit(image=base.id, expected="no config drive", found="one")


def _unfit(flavor: Flavor, base: Image, found: str, expected: str, relation: str) -> errors.FlavorUnfit:
    return errors.FlavorUnfit(flavor=flavor.name, found=found, image=base.id, expected=expected, relation=relation)
