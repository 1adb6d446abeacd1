# SPDX-License-Identifier: Apache-2.0
"""Cards: the network cards of a server with the addresses that Nova reports for it, and whether its guest has them."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloudlet_ext.job import errors


@dataclass(frozen=True)
class Address:
    """One address. ``handed_out``: the network tells it to whoever asks (DHCP, or router advertisements)."""

    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    gateway: str
    handed_out: bool


@dataclass(frozen=True)
class Card:
    """A network card: the MAC of the captured guest's, and what it is to have."""

    captured_mac: str
    mac: str
    mtu: int | None = None
    addresses: tuple[Address, ...] = ()

    @property
    def handed_out(self) -> list[Address]:
        """The addresses that the guest can ask the network for."""
        return [one for one in self.addresses if one.handed_out]

    @property
    def fixed(self) -> list[Address]:
        """The addresses that nobody but us tells the guest."""
        return [one for one in self.addresses if not one.handed_out]

    def gateway(self, version: int) -> str:
        """The first gateway of an IP version; empty where there is none."""
        return next((one.gateway for one in self.addresses if one.gateway and one.interface.version == version), "")


def of_job(captured_macs: list[str], macs: list[str], ports: list[dict[str, Any]]) -> list[Card]:
    """The cards in the guest's order; ``ports`` (see ``nova.jobs.ports``) in any order. :class:`errors.BadJob`."""
    known = {str(port["mac"]).lower(): port for port in ports}
    try:
        return [
            _card(str(captured).lower(), mac.lower(), known.get(mac.lower(), {}))
            for captured, mac in zip(captured_macs, macs, strict=False)
        ]
    except (KeyError, TypeError, ValueError) as failure:
        raise errors.BadJob(field="ports", reason=str(failure)) from failure


def _card(captured_mac: str, mac: str, port: dict[str, Any]) -> Card:
    addresses = [
        Address(ipaddress.ip_interface(one["address"]), one.get("gateway") or "", bool(one["handed_out"]))
        for one in port.get("addresses", [])
    ]
    return Card(captured_mac, mac, port.get("mtu"), tuple(addresses))


def missing(cards: list[Card], told: Any) -> list[str]:
    """MACs and addresses that the guest has not; ``told``: its answer to guest-network-get-interfaces."""
    macs, addresses = set(), set()
    for interface in _entries(told):
        macs.add(str(interface.get("hardware-address")).lower())
        for entry in _entries(interface.get("ip-addresses")):
            with contextlib.suppress(ValueError):
                addresses.add(ipaddress.ip_address(str(entry.get("ip-address"))))
    return [
        *(card.mac for card in cards if card.mac not in macs),
        *(str(one.interface.ip) for card in cards for one in card.addresses if one.interface.ip not in addresses),
    ]


def _entries(told: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list, if it is one: a guest may answer anything."""
    if isinstance(told, list):
        yield from (entry for entry in told if isinstance(entry, dict))
