# SPDX-License-Identifier: Apache-2.0
"""Neighbours of a scratch guest: this process, on each of its network cards, where its gateway was.

Where the network hands out the guest's address, the neighbour does: the guest is personalised as after a synthesis.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from typing import Any

from cloudlet_ext.hypervisor.dhcp import Lease, LeaseServer
from cloudlet_ext.hypervisor.errors import NetworkFailed
from cloudlet_ext.hypervisor.scratch_network import Neighbour
from cloudlet_ext.job.cards import Address, Card
from cloudlet_ext.job.guest import DomainGuest
from cloudlet_ext.job.scratch import Network


class Neighbours:
    """In a network of the guest's own; ``taps`` are the host's ends of its ``cards``, in the same order."""

    def __init__(self, network: Network, taps: Sequence[str], cards: Sequence[Card]) -> None:
        self._network, self._cards = network, dict(zip(taps, cards, strict=True))
        self._servers: dict[str, LeaseServer] = {}

    def meet_all(self) -> None:
        """Be there, on every card; NetworkFailed."""
        for tap in self._cards:
            self.meet(tap)

    def meet(self, tap: str) -> None:
        """Be there on one card; again when it was replaced, for its tap is another then. NetworkFailed."""
        card = self._cards[tap]
        if tap in self._servers:
            self._servers.pop(tap).close()
        if not card.addresses:
            self._network.take(Neighbour(tap, ""))
            return
        address = card.addresses[0]
        own = _across(address)
        self._network.take(Neighbour(tap, own.with_prefixlen))
        lease = _lease(card, address, own)
        if lease is not None:
            # Without it the guest goes without its address, which is told.
            with contextlib.suppress(NetworkFailed):
                self._servers[tap] = LeaseServer(self._network.open_dhcp_socket(tap), lease)

    def close(self) -> None:
        """Hand out nothing more; may be called twice."""
        while self._servers:
            self._servers.popitem()[1].close()


class MetGuest:
    """A scratch guest for :func:`cloudlet_ext.job.personal.personalise`: whose neighbours meet its new cards."""

    def __init__(self, guest: DomainGuest, neighbours: Neighbours) -> None:
        self._guest, self._neighbours = guest, neighbours

    def ask(self, command: str, **arguments: Any) -> Any:
        """See :class:`DomainGuest`."""
        return self._guest.ask(command, **arguments)

    def memory_arrives(self) -> bool:
        """See :class:`DomainGuest`."""
        return self._guest.memory_arrives()

    def replace_cards(self) -> None:
        """See :class:`DomainGuest`."""
        self._guest.replace_cards(self._neighbours.meet)


def _across(address: Address) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """This side's address for a guest's: its gateway's, which the guest knows; or any other of its network."""
    network = address.interface.network
    if address.gateway:
        return ipaddress.ip_interface(f"{address.gateway}/{network.prefixlen}")
    other = next(one for one in network.hosts() if one != address.interface.ip)
    return ipaddress.ip_interface(f"{other}/{network.prefixlen}")


def _lease(card: Card, address: Address, own: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> Lease | None:
    if not (address.handed_out and isinstance(address.interface, ipaddress.IPv4Interface)):
        return None
    assert isinstance(own, ipaddress.IPv4Interface)
    return Lease(address.interface, own.ip, own.ip if address.gateway else None, card.mtu)
