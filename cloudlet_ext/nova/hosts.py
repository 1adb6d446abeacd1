# SPDX-License-Identifier: Apache-2.0
"""Compute hosts: which there are in all cells, and how to ask several of them at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import oslo_messaging
from nova import context as nova_context
from nova import exception, objects, servicegroup
from oslo_log import log as logging

from cloudlet_ext.api import errors
from cloudlet_ext.nova import rpcapi

LOG = logging.getLogger(__name__)

_AT_ONCE = 16

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Host:
    """A compute host. ``cell`` is its CellMapping; ``enabled``: new servers may come to it."""

    name: str
    up: bool
    enabled: bool
    cell: Any


def all_hosts(context: Any) -> list[Host]:
    """All compute hosts of the cells that answer, by name."""
    group = servicegroup.API()
    admin = nova_context.get_admin_context()
    answers = nova_context.scatter_gather_skip_cell0(
        admin, objects.ServiceList.get_by_binary, "nova-compute", include_disabled=True
    )
    cells = {cell.uuid: cell for cell in nova_context.CELLS}
    hosts = []
    for uuid, services in answers.items():
        if nova_context.is_cell_failure_sentinel(services):
            LOG.warning("Cell %s does not answer; its compute hosts are left out.", uuid)
            continue
        for service in services:
            up = bool(group.service_is_up(service))
            hosts.append(Host(service.host, up, not service.disabled, cells[uuid]))
    return sorted(hosts, key=lambda host: host.name)


def find(context: Any, name: str) -> Host:
    """A host by its name; :class:`errors.HostUnknown`."""
    for host in all_hosts(context):
        if host.name == name:
            return host
    raise errors.HostUnknown(host=name)


def is_up(context: Any, name: str) -> bool:
    """Whether nova-compute reports itself on a host of the cell that the context is targeted at."""
    try:
        service = objects.Service.get_by_compute_host(context.elevated(), name)
    except exception.ComputeHostNotFound:
        return False
    return bool(servicegroup.API().service_is_up(service))


def ask(what: str, question: Callable[[], Answer]) -> Answer:
    """The answer of one host; :class:`errors.HostSilent` when it does not come. ``what`` stands for it in the text."""
    try:
        return question()
    except oslo_messaging.MessagingTimeout:
        raise errors.HostSilent(what=what, seconds=rpcapi.CALL_TIMEOUT_S) from None


class Silence:
    """Which hosts did not answer lately: a host without our driver never does, and a list need not wait for it."""

    def __init__(self, lasts_s: float = 60.0) -> None:
        self._lasts_s = lasts_s
        self._since: dict[str, float] = {}

    def note(self, host: str) -> None:
        """It did not answer now."""
        self._since[host] = time.monotonic()

    def holds(self, host: str) -> bool:
        """Whether it is not to be asked yet."""
        since = self._since.get(host)
        return since is not None and time.monotonic() - since < self._lasts_s


def ask_all(
    context: Any, hosts: Iterable[Host], question: Callable[[Any, str], Answer], silence: Silence
) -> list[Answer]:
    """The answers of those hosts that do answer; ``question`` is given a context of the host's cell, and its name."""

    def one(host: Host) -> list[Answer]:
        with nova_context.target_cell(context, host.cell) as targeted:
            try:
                return [question(targeted, host.name)]
            except oslo_messaging.MessagingTimeout:
                LOG.warning("Compute host %s did not answer; it is left out.", host.name)
                silence.note(host.name)
                return []

    asked = [host for host in hosts if host.up and not silence.holds(host.name)]
    if not asked:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(asked)), thread_name_prefix="cloudlet-ask") as pool:
        return [answer for answers in pool.map(one, asked) for answer in answers]
