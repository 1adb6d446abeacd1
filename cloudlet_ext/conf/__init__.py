# SPDX-License-Identifier: Apache-2.0
"""Options: the group ``[cloudlet]`` of nova.conf, read by nova-api and nova-compute alike."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

GROUP = cfg.OptGroup(
    "cloudlet",
    title="Cloudlet",
    help="Base VMs, overlays and synthesis. The same values are expected on the API hosts and on the compute hosts.",
)


class Network(types.ConfigType):  # type: ignore[misc]  # oslo.config has no types
    """An IPv4 or IPv6 network in CIDR notation, kept as text in its usual form."""

    def __init__(self) -> None:
        super().__init__(type_name="network")

    def __call__(self, value: object) -> str:
        return str(ipaddress.ip_network(str(value)))

    def __repr__(self) -> str:
        return "Network"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def _formatter(self, value: object) -> str:
        return str(value)


STORAGE = [
    cfg.StrOpt(
        "state_path",
        sample_default="$state_path/cloudlet",
        help="Folder of the compute host for cached bases, operations and work in progress.",
    ),
    cfg.IntOpt(
        "base_cache_mb",
        default=0,
        min=0,
        help="How much of the disk the cached bases of a compute host may take, in MiB; 0 for no limit. Bases that "
        "servers run on are never removed.",
    ),
    cfg.IntOpt("base_cache_days", default=30, min=1, help="Cached bases that were not used for so long are removed."),
    cfg.IntOpt(
        "operation_keep_hours", default=24, min=1, help="How long operations that have ended can still be shown."
    ),
]

WORK = [
    cfg.IntOpt(
        "max_workers",
        default=2,
        min=1,
        help="Operations that run at once on a compute host; others wait in the order in which they came.",
    ),
    cfg.IntOpt(
        "queue_timeout",
        default=1800,
        min=1,
        help="Seconds that a server which is to be synthesised or resumed waits for its turn on the compute host; its "
        "creation fails then. While it waits it is one of Nova's max_concurrent_builds of that host.",
    ),
    cfg.IntOpt(
        "spare_workers",
        default=1,
        min=0,
        help="Worker processes that wait for the next operation, so that it begins a second or two sooner. Each takes "
        "some 60 MiB of memory.",
    ),
    cfg.IntOpt(
        "operation_timeout",
        default=3600,
        min=1,
        help="Seconds after which an operation that has not ended is ended, and undone.",
    ),
    cfg.IntOpt(
        "record_timeout",
        default=60,
        min=1,
        help="Seconds within which a guest has to answer the probe by which its working set is recorded.",
    ),
    cfg.StrOpt(
        "placement",
        default="auto",
        choices=[
            ("auto", "what is sooner, by the size of the overlay and the speed of its source"),
            ("early", "the guest runs at once, its memory follows"),
            ("mapped", "the base's memory is mapped, the overlay is fetched before the guest runs"),
        ],
        help="How the memory of a synthesised server is put in place.",
    ),
    cfg.ListOpt(
        "worker_command",
        default=[sys.executable, "-m", "cloudlet_ext.cmd.worker"],
        sample_default="python3,-m,cloudlet_ext.cmd.worker",
        help="The command that carries out one operation; by default run by the Python of nova-compute.",
    ),
]

COMPUTE_API = [
    cfg.StrOpt(
        "compute_region_name",
        help="Region of this cloud's compute API, which compute hosts ask to stop or delete a server after its overlay "
        "was made; that of [placement] where it is not set.",
    ),
    cfg.ListOpt(
        "compute_interfaces",
        default=["internal", "public"],
        item_type=types.String(choices=["internal", "public", "admin"]),
        help="Interfaces of that compute API's endpoint in the catalogue, the most wanted first.",
    ),
]

SOURCES = [
    cfg.ListOpt(
        "overlay_sources",
        default=["glance:", "https:"],
        help="Where overlays may come from. 'glance:' for images of this cloud; 'https:' or 'http:' for any host; "
        "'https://HOST[:PORT][/FOLDER/]' for one, where HOST may begin with '*.' for all hosts of a domain. Files of a "
        "host are never a source.",
    ),
    cfg.ListOpt(
        "allowed_networks",
        default=[],
        item_type=Network(),
        help="Networks (CIDR) that overlays may be fetched from although their addresses are not public. Addresses of "
        "metadata services stay refused.",
    ),
    cfg.IntOpt(
        "max_overlay_mb",
        default=0,
        min=0,
        help="Overlays that are larger are refused, in MiB; 0 for no limit.",
    ),
    cfg.BoolOpt(
        "require_signed_overlays",
        default=False,
        help="Refuse overlays that are not signed by a key of the keyring: without a keyring, all of them.",
    ),
    cfg.StrOpt(
        "keyring",
        help="Folder of the compute host with the public keys (PEM, Ed25519) that overlays may be signed with.",
    ),
]

OPTS = [*STORAGE, *WORK, *COMPUTE_API, *SOURCES]


def register(conf: Any) -> None:
    """Make ``conf.cloudlet`` known. To be called when the configuration files have been read; any number of times."""
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)
    # A reference to $state_path from the option of the same name would be one to itself.
    nova_state_path = conf.state_path if "state_path" in conf else "/var/lib/nova"
    conf.set_default("state_path", str(Path(nova_state_path) / "cloudlet"), group=GROUP.name)


def list_opts() -> list[tuple[Any, list[Any]]]:
    """For oslo-config-generator."""
    return [(GROUP, OPTS)]
