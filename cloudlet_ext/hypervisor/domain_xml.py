# SPDX-License-Identifier: Apache-2.0
"""What libvirt's description of a domain tells and must tell: the machine of a captured guest, and its likeness.

A state moves between two domains when QEMU builds the same machine for both. So the machine of a captured guest is read
from the description of the *running* domain, in which libvirt has written out what it chose itself (version of the
machine, CPU, addresses of all devices), and is written into the description of the domain that shall take the state.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from cloudlet_ext.hypervisor import domain_cards, errors, machine_check

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
MAPPED_RAM = "cloudlet-ram"
"""Name of the memory block of a domain on a mapped base; libvirt has one of its own beside it, never touched."""

_UNITS = {"b": 1, "bytes": 1, "kb": 1000, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30}
_CPU_NOISE = {"numa", "cache", "maxphysaddr"}
_TOPOLOGY_LEVELS = ("sockets", "cores", "threads")
"""What libvirt wants to be told of a topology; further levels (dies, clusters) it writes or not, and 1 is none."""
_MUST_MATCH = ("kind", "accelerator", "machine_type", "cpu", "vcpus", "memory_bytes", "devices")


@dataclass(frozen=True)
class DomainMachine:
    """The guest-visible machine of a libvirt domain. ``cpu``: its ``<cpu>`` element; ``devices``: address attributes of
    every device that has an address, by a name made of what it is; ``macs``: of its network cards, in the order of
    their addresses; ``extra`` may name ``cards_without_rom``."""

    accelerator: str
    machine_type: str
    cpu: str
    vcpus: int
    memory_bytes: int
    devices: dict[str, dict[str, str]]
    macs: list[str]
    genid: bool = False
    kind: str = "libvirt"
    agent: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {known.name: getattr(self, known.name) for known in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DomainMachine:
        """The reverse; :class:`errors.BadMachine` names what is wrong. The values may be anybody's."""
        kind = values.get("kind")
        if kind != "libvirt":
            raise errors.BadMachine(field="kind", reason=f"a machine of libvirt expected, found {kind!r}")
        known = {one.name for one in fields(cls)}
        if set(values) != known:
            wrong = sorted(set(values) ^ known)
            raise errors.BadMachine(field=wrong[0], reason="unknown or missing")
        machine_check.check(values)
        without_rom = values["extra"].get(machine_check.CARDS_WITHOUT_ROM, [])
        devices, macs, without_rom = domain_cards.in_order(values["devices"], values["macs"], without_rom)
        return cls(**{**values, "devices": devices, "macs": macs, "extra": _extra(without_rom)})

    @property
    def cards_without_rom(self) -> list[str]:
        """The names of the network cards that have no boot ROM."""
        return list(self.extra.get(machine_check.CARDS_WITHOUT_ROM, ()))

    def with_roms_of(self, other: DomainMachine) -> DomainMachine:
        """The same machine with a boot ROM for every card that has one here or there.

        QEMU takes the state of either card into either. But a guest that had a ROM keeps the register of its address,
        and where nothing is behind that, the guest's firmware sets many megabytes aside for it at the next reboot.
        """
        without_rom = [name for name in self.cards_without_rom if name in other.cards_without_rom]
        return replace(self, extra=_extra(without_rom))

    def require_same(self, found: DomainMachine, what: str) -> None:
        """:class:`errors.MachineMismatch` names the first thing in which ``found`` differs, and both values."""
        for name in _MUST_MATCH:
            mine, other = getattr(self, name), getattr(found, name)
            if name == "cpu":
                name, mine, other = _cpu_difference(mine, other)
            if mine == other:
                continue
            if name == "devices":
                for device in sorted(set(mine) | set(other)):
                    if mine.get(device) != other.get(device):
                        mine, other, name = mine.get(device), other.get(device), f"device {device}"
                        break
            raise errors.MachineMismatch(what=what, field=name, expected=mine, found=other)


def _extra(without_rom: list[str]) -> dict[str, Any]:
    return {machine_check.CARDS_WITHOUT_ROM: without_rom} if without_rom else {}


def parse(text: str) -> ET.Element:
    """The root of a description; prefixes of its name spaces are kept for when it is written again."""
    for _, (prefix, uri) in ET.iterparse(io.BytesIO(text.encode()), events=("start-ns",)):
        if prefix:
            ET.register_namespace(prefix, uri)
    ET.register_namespace("qemu", QEMU)
    return ET.fromstring(text)


def describe(text: str) -> DomainMachine:
    """The machine of a running domain (``virDomainGetXMLDesc`` without flags)."""
    root = parse(text)
    os_type = root.find("./os/type")
    if os_type is None:
        raise errors.BadMachine(field="os", reason="the domain has no machine type")
    cpu = root.find("cpu")
    without_rom = [name for name, one in _named(root) if one.tag == "interface" and not domain_cards.has_rom(one)]
    return DomainMachine(
        accelerator="kvm" if root.get("type") == "kvm" else "tcg",
        machine_type=os_type.get("machine", ""),
        cpu="" if cpu is None else _cpu_text(cpu),
        vcpus=int(root.findtext("vcpu", "1")),
        memory_bytes=_bytes(root.find("memory")),
        devices={name: address for name, address in _devices(root) if address},
        macs=[domain_cards.mac(card) for card in domain_cards.of(root)],
        genid=root.find("genid") is not None,
        extra=_extra(without_rom),
    )


def qemu_ids(capabilities: str) -> tuple[int | None, int | None]:
    """User and group ids as which libvirt runs QEMU, from ``virConnectGetCapabilities`` (None: it does not say)."""
    for model in ET.fromstring(capabilities).iterfind("./host/secmodel"):
        for label in model.iterfind("baselabel"):
            found = re.fullmatch(r"\+(\d+):\+(\d+)", label.text or "")
            if model.findtext("model") == "dac" and found:
                return int(found[1]), int(found[2])
    return None, None


def _first_disk(root: ET.Element) -> ET.Element:
    for disk in root.iterfind("./devices/disk"):
        if disk.get("device", "disk") == "disk":
            return disk
    raise errors.BadMachine(field="disk", reason="the domain has none")


def disk_path(text: str) -> Path:
    """The file of the first disk; BadMachine when it is none (a volume, for instance)."""
    disk = _first_disk(parse(text))
    source, driver = disk.find("source"), disk.find("driver")
    if disk.get("type") != "file" or source is None or driver is None or driver.get("type") != "qcow2":
        raise errors.BadMachine(field="disk", reason=f"a qcow2 file expected, found type {disk.get('type')}")
    return Path(source.get("file", ""))


def disk_target(text: str) -> str:
    """What libvirt calls the first disk, for instance ``vda``."""
    target = _first_disk(parse(text)).find("target")
    return "" if target is None else target.get("dev", "")


def layer_below_view(text: str) -> str | None:
    """What libvirt calls the image below an arriving layer (``vda[3]``); None when the first disk has no such layer."""
    disk = _first_disk(parse(text))
    target, below = disk.find("target"), disk.find("./backingStore[@type='network']/backingStore")
    if target is None or below is None:
        return None
    return f"{target.get('dev')}[{below.get('index')}]"


def _topology(cpu: str) -> tuple[dict[str, str] | None, str]:
    """How a CPU's threads are spread, None where the text does not tell, and the text without it."""
    if "<topology" not in cpu:
        return None, cpu
    root = ET.fromstring(cpu)
    found = root.find("topology")
    if found is None:
        return None, cpu
    root.remove(found)
    return dict(found.attrib), _cpu_text(root)


def _cpu_difference(mine: str, other: str) -> tuple[str, Any, Any]:
    """What is to be compared of two CPUs, under which name. Bases of former versions tell of no topology."""
    my_topology, my_rest = _topology(mine)
    other_topology, other_rest = _topology(other)
    if my_rest == other_rest and my_topology is not None:
        return "CPU topology", my_topology, other_topology
    return "cpu", my_rest, other_rest


def _cpu_text(cpu: ET.Element) -> str:
    kept = ET.Element("cpu", {key: value for key, value in sorted(cpu.attrib.items()) if key != "migratable"})
    for child in cpu:
        if child.tag not in _CPU_NOISE:
            known = sorted(child.attrib.items())
            if child.tag == "topology":
                known = [(level, count) for level, count in known if level in _TOPOLOGY_LEVELS or count != "1"]
            piece = ET.SubElement(kept, child.tag, dict(known))
            piece.text = (child.text or "").strip() or None
    return ET.tostring(kept, encoding="unicode") if len(kept) or kept.attrib else ""


def _bytes(element: ET.Element | None) -> int:
    if element is None or not (element.text or "").strip().isdecimal():
        raise errors.BadMachine(field="memory", reason="a number expected")
    return int(element.text or "0") * _UNITS[element.get("unit", "KiB").lower()]


def _name(device: ET.Element, seen: dict[str, int]) -> str:
    target, model = device.find("target"), device.find("model")
    parts = [device.tag]
    parts += [device.get(key, "") for key in ("type", "index", "device") if device.tag not in ("interface", "disk")]
    parts.append(device.get("model", ""))
    if device.tag == "disk":
        parts.append(device.get("device", "disk"))
    if target is not None:
        keys = ("dev", "bus") if device.tag == "disk" else ("name",) if device.tag == "channel" else ()
        parts += [target.get(key, "") for key in keys]
    if model is not None and device.tag in ("interface", "video", "rng"):
        parts.append(model.get("type", "") or (model.text or ""))
    name = " ".join(part for part in parts if part)
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name} #{seen[name]}"


def _named(root: ET.Element) -> list[tuple[str, ET.Element]]:
    """Every device by its name. Those of one name are numbered; network cards in the order of their addresses."""
    seen: dict[str, int] = {}
    others = [device for device in root.iterfind("./devices/*") if device.tag != "interface"]
    return [(_name(device, seen), device) for device in [*others, *domain_cards.of(root)]]


def _devices(root: ET.Element) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for name, device in _named(root):
        address = device.find("address")
        attributes = {} if address is None else address.attrib
        found.append((name, {key: attributes[key] for key in machine_check.ADDRESS_FIELDS if key in attributes}))
    return found


@dataclass(frozen=True)
class DiskView:
    """A disk layer that is still arriving: a qcow2 file shown by an NBD server, over the image of the base's disk."""

    socket: Path
    export: str
    base: Path
    base_format: str


def likeness(text: str, machine: DomainMachine, mapped: Path | None, view: DiskView | None) -> str:
    """The description of a domain that waits for the state of ``machine``.

    ``mapped``: page file of the base that its memory shall be a private map of; ``view``: the disk layer below its own.
    """
    root = parse(text)
    os_type = root.find("./os/type")
    assert os_type is not None
    os_type.set("machine", machine.machine_type)
    _set_cpu(root, machine.cpu)
    _set_addresses(root, machine)
    _set_roms(root, machine)
    set_genid(root, machine.genid)
    if view is not None:
        _set_view(root, view)
    arguments = ["-incoming", "defer"]
    if mapped is not None:
        arguments = [*_mapped_arguments(mapped, machine.memory_bytes), *arguments]
    line = ET.SubElement(root, f"{{{QEMU}}}commandline")
    for value in arguments:
        ET.SubElement(line, f"{{{QEMU}}}arg", {"value": value})
    return ET.tostring(root, encoding="unicode")


def _mapped_arguments(pages: Path, size: int) -> list[str]:
    where = str(pages).replace(",", ",,")
    backend = (
        f"memory-backend-file,id={MAPPED_RAM},size={size},mem-path={where},share=off,readonly=on,rom=off,"
        "x-use-canonical-path-for-ramblock-id=off"
    )
    return ["-object", backend, "-machine", f"memory-backend={MAPPED_RAM}"]


def is_mapped(text: str) -> bool:
    """Whether a running domain's memory is a private map of a base's, as :func:`likeness` had it begin."""
    values = [argument.get("value", "") for argument in parse(text).iterfind(f"{{{QEMU}}}commandline/{{{QEMU}}}arg")]
    return any(MAPPED_RAM in value for value in values)


def plain(text: str) -> str:
    """A description without what :func:`likeness` put into it for the one start: for every later start."""
    root = parse(text)
    for line in root.findall(f"{{{QEMU}}}commandline"):
        values = [argument.get("value", "") for argument in line]
        if "-incoming" in values or any(MAPPED_RAM in value for value in values):
            root.remove(line)
    for disk in root.iterfind("./devices/disk"):
        store = disk.find("backingStore")
        if store is not None and store.get("type") == "network":
            disk.remove(store)
    return ET.tostring(root, encoding="unicode")


def with_genid(text: str, identifier: str) -> str:
    """A description with a VM generation id."""
    root = parse(text)
    set_genid(root, True, identifier)
    return ET.tostring(root, encoding="unicode")


def renew_genid(text: str, identifier: str) -> str:
    """A description with another VM generation id, where the guest has such a device."""
    return with_genid(text, identifier) if parse(text).find("genid") is not None else text


def set_genid(root: ET.Element, wanted: bool, identifier: str | None = None) -> None:
    """Give the domain a VM generation id (None: libvirt makes one up), or none where the guest had no such device."""
    for old in root.findall("genid"):
        root.remove(old)
    if wanted:
        new = ET.Element("genid")
        new.text = identifier
        root.insert(1, new)


def _set_cpu(root: ET.Element, cpu: str) -> None:
    old = root.find("cpu")
    new = ET.fromstring(cpu) if cpu else ET.Element("cpu")
    # A captured guest goes on with the topology that it knows; where none is told, Nova's stays.
    left = _CPU_NOISE | ({"topology"} if new.find("topology") is None else set())
    kept = [] if old is None else [child for child in old if child.tag in left]
    if old is not None:
        root.remove(old)
    if cpu or kept:
        new.extend(kept)
        root.append(new)


def _set_addresses(root: ET.Element, machine: DomainMachine) -> None:
    for name, device in _named(root):
        wanted = machine.devices.get(name)
        if wanted is None:
            continue
        for old in device.findall("address"):
            device.remove(old)
        ET.SubElement(device, "address", wanted)


def _set_roms(root: ET.Element, machine: DomainMachine) -> None:
    """A boot ROM for those cards that are to have one: QEMU makes a memory block of each."""
    for name, device in _named(root):
        if device.tag == "interface":
            domain_cards.set_rom(device, name not in machine.cards_without_rom)


def _set_view(root: ET.Element, view: DiskView) -> None:
    disk = _first_disk(root)
    for old in disk.findall("backingStore"):
        disk.remove(old)
    store = ET.SubElement(disk, "backingStore", {"type": "network"})
    ET.SubElement(store, "format", {"type": "qcow2"})
    source = ET.SubElement(store, "source", {"protocol": "nbd", "name": view.export})
    ET.SubElement(source, "host", {"transport": "unix", "socket": str(view.socket)})
    below = ET.SubElement(store, "backingStore", {"type": "file"})
    ET.SubElement(below, "format", {"type": view.base_format})
    ET.SubElement(below, "source", {"file": str(view.base)})
    ET.SubElement(below, "backingStore")
