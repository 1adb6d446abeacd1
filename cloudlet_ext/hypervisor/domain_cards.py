# SPDX-License-Identifier: Apache-2.0
"""Network cards in libvirt's description of a domain, in the order of their addresses.

libvirt puts a card that was taken out and put in again behind all others, at the place in the guest that it had. The
order of the addresses stays; a description that has none yet gets them from libvirt in the order of its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

_PLACE = ("domain", "bus", "slot", "function")
_KIND = "interface"


def _place(address: Mapping[str, str]) -> tuple[int, ...]:
    """What addresses are ordered by; those that are none come last."""
    try:
        return (0, *(int(address[key], 16) for key in _PLACE))
    except (KeyError, ValueError):
        return (1,)


def of(root: ET.Element) -> list[ET.Element]:
    """The cards of a domain."""

    def place(card: ET.Element) -> tuple[int, ...]:
        address = card.find("address")
        return _place({} if address is None else address.attrib)

    return sorted(root.iterfind(f"./devices/{_KIND}"), key=place)


def interfaces(text: str) -> list[str]:
    """The descriptions of the cards of a domain."""
    return [ET.tostring(card, encoding="unicode") for card in of(ET.fromstring(text))]


def in_order(devices: dict[str, Any], macs: list[str], names: list[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The same devices, cards' MACs and cards' names with the cards numbered in the order of their addresses.

    A former version numbered them in the order of libvirt's text. MACs can be told apart where all cards are of one
    model.
    """
    new_names: dict[str, str] = {}
    cards = [name for name in devices if name.split(" ")[0] == _KIND]
    for model in {name.partition(" #")[0] for name in cards}:
        known = sorted((name for name in cards if name.partition(" #")[0] == model), key=lambda name: (len(name), name))
        places = [_place(devices[name]) for name in known]
        order = sorted(range(len(known)), key=places.__getitem__)
        new_names |= {known[old]: known[new] for new, old in enumerate(order)}
        if len(known) == len(macs):
            macs = [macs[old] for old in order]
    return (
        {new_names.get(name, name): address for name, address in devices.items()},
        macs,
        [new_names.get(name, name) for name in names],
    )


def has_rom(card: ET.Element) -> bool:
    """Whether a card has a boot ROM."""
    rom = card.find("rom")
    return rom is None or rom.get("enabled") != "no"


def set_rom(card: ET.Element, wanted: bool) -> None:
    """Give a card a boot ROM, or take it away."""
    if wanted == has_rom(card):
        return
    for old in card.findall("rom"):
        card.remove(old)
    if not wanted:
        ET.SubElement(card, "rom", {"enabled": "no"})


def mac(card: ET.Element) -> str:
    """The MAC of a card; empty where it has none."""
    found = card.find("mac")
    return "" if found is None else found.get("address", "")


def mac_of(card: str) -> str:
    """The same, of a card's description."""
    return mac(ET.fromstring(card))


def host_card_of(card: str) -> str:
    """The name of the host's end of a network card; empty where it has none."""
    target = ET.fromstring(card).find("target")
    return "" if target is None else target.get("dev", "")


def card_anew(card: str) -> str:
    """A network card for the running guest that gave it up, at the place where it was: a capture's machine is a base's.

    It has no boot ROM. While a guest's memory arrives QEMU cannot take in a memory block that was not there before.
    """
    root = ET.fromstring(card)
    for old in root.findall("alias"):
        root.remove(old)
    set_rom(root, False)
    return ET.tostring(root, encoding="unicode")


def linked(card: str, state: str) -> str:
    """A network card whose link is ``up`` or ``down``."""
    root = ET.fromstring(card)
    for old in root.findall("link"):
        root.remove(old)
    ET.SubElement(root, "link", {"state": state})
    return ET.tostring(root, encoding="unicode")
