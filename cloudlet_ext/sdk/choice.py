# SPDX-License-Identifier: Apache-2.0
"""Choice of what a server needs and nobody named: its flavor, its network, the base of an overlay."""

from __future__ import annotations

from collections.abc import Iterable

from openstack.compute.v2.flavor import Flavor
from openstack.network.v2.network import Network

from cloudlet_ext.sdk.base import Base
from cloudlet_ext.sdk.errors import BaseMissing, NoFlavor, NoNetwork, NotReady

_FLAVORS_TOLD = 8


def choose_flavor(base: Base, flavors: Iterable[Flavor]) -> Flavor:
    """The smallest flavor that fits: RAM and processors are the guest's own, its one disk is large enough. NoFlavor.

    A disk of 0 GB means one as large as the image; Nova allows it to few, so that it comes last.
    """
    known = list(flavors)
    fitting = [flavor for flavor in known if _fits(flavor, base)]
    if not fitting:
        raise NoFlavor(
            base=base.name,
            memory_mb=base.memory_mb,
            vcpus=base.vcpus,
            min_disk_gb=base.min_disk_gb,
            disk_gb=max(base.min_disk_gb or 0, 1),
            flavors=_told(base, known),
        )
    return min(fitting, key=lambda each: (not each.disk, each.disk, each.name))


def choose_network(networks: Iterable[Network], project_id: str | None) -> Network:
    """The only network of the project that servers can be on, its own or a shared one. NoNetwork."""
    fitting = [
        network
        for network in networks
        if not network.is_router_external and (network.is_shared or network.project_id == project_id)
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(network.name or network.id for network in fitting))
    remedy = "Say which: --network NETWORK." if fitting else "Make one, or start without: --network none."
    raise NoNetwork(found=f"{len(fitting)} ({names})" if fitting else "none", remedy=remedy)


def choose_base(base_id: str, bases: Iterable[Base], project_id: str | None, overlay: str) -> Base:
    """The base that ``overlay`` was made for; where there are several copies the project's own, then the oldest.

    BaseMissing, or NotReady when it is still being made.
    """
    known = list(bases)
    copies = [base for base in known if base.base_id == base_id]
    if not copies:
        raise BaseMissing(overlay=overlay, base_id=base_id, count=len(known))
    ready = [base for base in copies if base.status == "active"]
    if not ready:
        first = copies[0]
        raise NotReady(kind="base", name=first.name, image_id=first.id, status=first.status)
    return min(ready, key=lambda base: (base.project_id != project_id, base.created_at or "", base.id))


def _fits(flavor: Flavor, base: Base) -> bool:
    """Whether the flavor fits as far as the base tells; a captured server has no further disks."""
    if flavor.ephemeral or flavor.swap:
        return False
    has_memory = base.memory_mb in (None, flavor.ram) and base.vcpus in (None, flavor.vcpus)
    return has_memory and (not flavor.disk or flavor.disk >= (base.min_disk_gb or 0))


def _told(base: Base, flavors: list[Flavor]) -> str:
    """The flavors that come nearest, in words."""
    nearest = sorted(flavors, key=lambda flavor: (abs(flavor.ram - (base.memory_mb or 0)), flavor.vcpus, flavor.disk))
    words = [f"{each.name} ({each.ram} MB, {each.vcpus} vCPUs, {each.disk} GB)" for each in nearest]
    more = len(words) - _FLAVORS_TOLD
    return ", ".join(words[:_FLAVORS_TOLD] + ([f"and {more} more"] if more > 0 else [])) or "none"
