# SPDX-License-Identifier: Apache-2.0
"""Start request: a server that is to be started of a base, when it is made or rebuilt; what does not fit is refused.

Nova schedules, and a rebuild has no old disk left, before a compute host could find out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nova import objects
from oslo_utils import strutils, uuidutils

from cloudlet_ext.api import errors, fit, validation
from cloudlet_ext.api.image import BASE, MEMORY_IMAGE, Image
from cloudlet_ext.api.schemas import servers as schemas
from cloudlet_ext.api.sources import UrlSource
from cloudlet_ext.nova import unmovable
from cloudlet_ext.nova.call import Call
from cloudlet_ext.policies import servers as policies


def overlay_url(metadata: Any) -> str | None:
    """What a server's metadata names as its overlay; None also where Nova will refuse the metadata."""
    found = metadata.get(schemas.OVERLAY_URL) if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None


def image_of(call: Call, image_id: Any) -> Image | None:
    """The image of a request, None where there is none for this user; what the catalogue raises."""
    return call.services.catalogue.get(call.context, str(image_id)) if uuidutils.is_uuid_like(image_id) else None


def authorize_synthesis(call: Call, project_id: str, url: str) -> None:
    """``nova.exception.Forbidden``, :class:`errors.SchemaRefused`."""
    call.authorize(policies.SYNTHESIZE, project_id)
    validation.check(url, schemas.OVERLAY_URL_VALUE, "metadata overlay_url")


def check_base(call: Call, base: Image, flavor: Any, devices: fit.Devices) -> None:
    """A base against Nova's flavor, None where there is none that Nova would take, and against other devices.

    :class:`errors.FlavorUnmovable`; what :mod:`fit` raises.
    """
    fit.check_base(base)
    memory_id = base.image_id(MEMORY_IMAGE)
    fit.check_memory(base, call.services.catalogue.get(call.context, memory_id) if memory_id else None)
    fit.check_devices(devices, base)
    if flavor is None:
        return
    more_disks = bool(flavor.swap or flavor.ephemeral_gb)
    fit.check_flavor(fit.Flavor(flavor.name, flavor.memory_mb, flavor.vcpus, flavor.root_gb, more_disks), base)
    found = unmovable.of(flavor, unmovable.image_meta(base))
    if found is not None:
        raise errors.FlavorUnmovable(flavor=flavor.name, image=base.id, found=found)


def check_overlay(call: Call, base: Image, url: str) -> None:
    """An overlay's source, and the overlay where it is an image; what :mod:`fit` and :mod:`sources` raise."""
    source = call.services.sources.parse(url)
    if isinstance(source, UrlSource):
        call.services.sources.resolve(source)
        return
    overlay = call.services.catalogue.get(call.context, source.image_id)
    if overlay is None:
        raise errors.NotFound(what="overlay", id=source.image_id)
    fit.check_overlay(overlay, base, call.services.conf.cloudlet.max_overlay_mb * 2**20)


def rebuild(call: Call, server: Any, wanted: dict[str, Any]) -> None:
    """Nova's action ``rebuild``, when the image is a base or the request names an overlay.

    An overlay that the server's metadata name, and the request does not change, is of no meaning to other images.
    """
    metadata = wanted.get("metadata")
    is_given = isinstance(metadata, dict)
    url = overlay_url(metadata if is_given else server.metadata)
    image = image_of(call, wanted.get("imageRef"))
    is_base = image is not None and image.kind == BASE
    if not is_base and (url is None or not is_given):
        return
    call.accept()
    if url is not None:
        authorize_synthesis(call, server.project_id, url)
    if image is None:
        raise errors.NotFound(what="image", id=wanted.get("imageRef"))
    check_base(call, image, server.flavor, _devices_of(call, server))
    if url is not None:
        check_overlay(call, image, url)


def devices_wanted(server: Mapping[str, Any]) -> fit.Devices:
    """What the body of POST /servers asks for. What is not of its form Nova tells."""
    networks = server.get("networks")
    by_word = {"none": 0, "auto": 1}.get(networks) if isinstance(networks, str) else None
    disks = [*_list(server.get("block_device_mapping")), *_list(server.get("block_device_mapping_v2"))]
    return fit.Devices(
        more_disks=sum(not _is_root(disk) for disk in disks),
        network_cards=len(networks) if networks and isinstance(networks, list) else by_word,
        config_drive=strutils.bool_from_string(server.get("config_drive")),
    )


def _devices_of(call: Call, server: Any) -> fit.Devices:
    """What a server has that is to be rebuilt. How many cards is not looked at where Nova knows of none."""
    disks = objects.BlockDeviceMappingList.get_by_instance_uuid(call.context, server.uuid)
    return fit.Devices(
        more_disks=sum(not _is_root(disk) for disk in disks if disk.is_volume or disk.boot_index == 0),
        network_cards=len(server.get_network_info()) or None,
        config_drive=strutils.bool_from_string(server.config_drive),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_root(disk: Any) -> bool:
    """Whether a block device mapping is nothing but the local disk that is made of the image."""
    if isinstance(disk, dict):
        wanted = (str(disk.get("boot_index")), disk.get("source_type"), disk.get("destination_type", "local"))
    else:
        wanted = (str(disk.boot_index), disk.source_type, disk.destination_type)
    return wanted == ("0", "image", "local")
