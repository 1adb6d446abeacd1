# SPDX-License-Identifier: Apache-2.0
"""Scratch domain: a likeness of a running domain that lives for one operation, on its own network and disk."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from cloudlet_ext.hypervisor import domain_cards, domain_xml
from cloudlet_ext.hypervisor.domain_xml import DiskView, DomainMachine

_CARD_KEPT = {"mac", "model", "mtu", "driver", "address", "rom"}
"""Of a network card, what the guest sees of it."""
_OWN = ("title", "description", "metadata", "seclabel", "resource")


@dataclass(frozen=True)
class ScratchDomain:
    """What a scratch domain has for itself.

    ``taps``: names of the host's side of its network cards, in the order of the cards' addresses; and their ``macs``.
    """

    name: str
    disk: Path
    taps: tuple[str, ...]
    macs: tuple[str, ...]


def describe(text: str, machine: DomainMachine, own: ScratchDomain, view: DiskView) -> str:
    """The description of a scratch domain that waits for the state of ``machine``; ``text`` is that of the original."""
    root = domain_xml.parse(domain_xml.plain(text))
    for tag in _OWN:
        for old in root.findall(tag):
            root.remove(old)
    devices = root.find("devices")
    assert devices is not None
    _set_names(root, own.name)
    for tag in ("graphics", "console"):
        # What a host shows of a guest; libvirt makes the console of the serial port by itself.
        for old in devices.findall(tag):
            devices.remove(old)
    _set_cards(root, own)
    _set_ports(devices)
    _set_disk(devices, own.disk)
    root = domain_xml.parse(domain_xml.likeness(ET.tostring(root, encoding="unicode"), machine, None, view))
    below = root.find("./devices/disk/backingStore/backingStore/source")
    assert below is not None
    # The base's disk is shared: libvirt is not to give it to anybody.
    ET.SubElement(below, "seclabel", {"model": "dac", "relabel": "no"})
    return ET.tostring(root, encoding="unicode")


def _set_names(root: ET.Element, name: str) -> None:
    """A name and an identity of its own, which libvirt wants to find in what is shown to the guest, too."""
    identity = str(uuid.uuid4())
    for tag, text in (("name", name), ("uuid", identity)):
        element = root.find(tag)
        assert element is not None
        element.text = text
    for entry in root.iterfind("./sysinfo/system/entry[@name='uuid']"):
        entry.text = identity


def _set_cards(root: ET.Element, own: ScratchDomain) -> None:
    for card, tap, mac in zip(domain_cards.of(root), own.taps, own.macs, strict=True):
        for child in list(card):
            if child.tag not in _CARD_KEPT:
                card.remove(child)
        card.attrib.clear()
        card.set("type", "ethernet")
        for element in card.findall("mac"):
            element.set("address", mac)
        ET.SubElement(card, "target", {"dev": tap, "managed": "yes"})


def _set_ports(devices: ET.Element) -> None:
    """Serial ports go to terminals that libvirt shows, channels to sockets of libvirt's own choice."""
    for port in devices.findall("serial"):
        for child in list(port):
            if child.tag not in ("target", "address"):
                port.remove(child)
        port.set("type", "pty")
    for channel in devices.findall("channel"):
        for old in channel.findall("source"):
            channel.remove(old)


def _set_disk(devices: ET.Element, path: Path) -> None:
    for disk in devices.findall("disk"):
        if disk.get("device", "disk") == "disk":
            source = disk.find("source")
            assert source is not None
            source.attrib.clear()
            source.set("file", str(path))
            return
