# SPDX-License-Identifier: Apache-2.0
"""Jobs for workers: what this host, its configuration and the user's request have to say."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nova import conf as nova_conf
from nova import service_auth
from nova.image import glance
from nova.virt.libvirt import imagecache
from nova.virt.libvirt import utils as libvirt_utils
from oslo_log import log as logging

from cloudlet_ext.nova.operations import Operation

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)

_DAY_S = 86400.0
_SOCKETS = Path("/run/cloudlet")
_HANDED_OUT = ("enable_dhcp", "dhcp_server", "ipv6_address_mode")
"""What Nova remembers of a subnet that tells guests their addresses."""


def folder(name: str) -> Path:
    """A folder of this host's state."""
    return Path(CONF.cloudlet.state_path) / name


def last_word(operation_id: str) -> Path:
    """Where the worker of an operation leaves its last word."""
    return folder("operations") / f"{operation_id}.last"


def remove_leavings(operation_id: str) -> None:
    """Remove what the worker of an operation has left in folders of its own: nothing, unless it was killed."""
    for parent in (folder("scratch"), _SOCKETS):
        for path in parent.glob(f"{operation_id}-*"):
            LOG.info("Removing %s, which a worker has left", path)
            shutil.rmtree(path, ignore_errors=True)


def common(context: Any, operation: Operation, in_use: Iterable[str]) -> dict[str, Any]:
    """What every job has. ``in_use``: bases that servers of this host run on.

    It holds the user's token and is given to the worker on its standard input only.
    """
    return {
        "type": operation.type,
        "operation": operation.id,
        "last_word": str(last_word(operation.id)),
        "images": {
            "endpoint": glance.generate_glance_url(context),
            "token": context.auth_token,
            "service_token": _service_token(),
            "ca_file": CONF.glance.cafile,
        },
        "cache": {
            "folder": str(folder("bases")),
            "limit_bytes": CONF.cloudlet.base_cache_mb << 20,
            "keep_s": CONF.cloudlet.base_cache_days * _DAY_S,
            "in_use": sorted(in_use),
        },
        "scratch": str(folder("scratch")),
        "sockets": str(_SOCKETS),
        "libvirt_uri": CONF.libvirt.connection_uri or "qemu:///system",
        "overlay_sources": CONF.cloudlet.overlay_sources,
        "allowed_networks": [str(network) for network in CONF.cloudlet.allowed_networks],
        "max_overlay_bytes": CONF.cloudlet.max_overlay_mb << 20,
        "require_signature": CONF.cloudlet.require_signed_overlays,
        "keyring": CONF.cloudlet.keyring,
        "placement": CONF.cloudlet.placement,
    }


def _service_token() -> str | None:
    """The token that lets a user's token that expires meanwhile be accepted; None where Nova is set up without."""
    if not CONF.service_user.send_service_user_token:
        return None
    session = service_auth.get_service_auth_session("service_user")
    token: str | None = service_auth.get_service_auth_plugin("service_user").get_token(session)
    return token


def images_type() -> str:
    """As what this host keeps root disks: ``qcow2`` where its servers can be captured and synthesised."""
    if CONF.libvirt.images_type != "default":
        return str(CONF.libvirt.images_type)
    return "qcow2" if CONF.use_cow_images else "raw"


def disk_path(instance: Any) -> str:
    """The image file of a server's own disk."""
    return str(Path(libvirt_utils.get_instance_path(instance)) / "disk")


def cached_image(image_id: str) -> str:
    """The name of the file in which Nova keeps an image, below the disks that it makes of it."""
    return str(imagecache.get_cache_fname(image_id))


def ports(instance: Any) -> list[dict[str, Any]]:
    """For each port of a server ``mac``, ``mtu`` (None: not known) and all its fixed ``addresses``.

    Each with its prefix length, ``gateway`` (or None), and whether it is ``handed_out`` by the network (DHCP, SLAAC).
    """
    return [
        {
            "mac": port["address"],
            "mtu": port["network"].get_meta("mtu"),
            "addresses": [
                {
                    "address": f"{one['address']}/{subnet['cidr'].rsplit('/', 1)[1]}",
                    "gateway": (subnet.get("gateway") or {}).get("address"),
                    "handed_out": any(subnet.get_meta(key) for key in _HANDED_OUT),
                }
                for subnet in port["network"]["subnets"]
                for one in subnet["ips"]
            ],
        }
        for port in instance.get_network_info()
    ]
