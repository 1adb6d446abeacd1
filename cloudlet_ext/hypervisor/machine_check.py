# SPDX-License-Identifier: Apache-2.0
"""Machine check: whether a stored description of a libvirt domain's machine tells of a machine, and of nothing else.

What it tells goes into the description of a domain that libvirt defines and starts, and whoever may make an image may
have written it. So only those elements and attributes are taken that libvirt writes for a CPU and for addresses, with
values of their usual form; all else is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from cloudlet_ext.hypervisor import errors

ADDRESS_FIELDS = ("type", "domain", "bus", "slot", "function", "controller", "target", "unit", "port")
CARDS_WITHOUT_ROM = "cards_without_rom"

_MAX_CPU_CHARACTERS = 1 << 16
"""Of the text of a CPU: a model with three hundred features has a quarter of it."""
_MAX_DEVICES = 1024
_MAX_NAME_CHARACTERS = 256
_MAX_VCPUS = 1 << 16
_MAX_MEMORY_BYTES = 1 << 50

_MACHINE_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAC = re.compile(r"([0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5})?")
_CPU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+ -]{0,63}")
_ADDRESS_TYPE = re.compile(r"[a-z][a-z0-9-]{0,23}")
_ADDRESS_NUMBER = re.compile(r"0x[0-9A-Fa-f]{1,8}|[0-9]{1,8}(\.[0-9]{1,3}){0,5}")


def _words(*allowed: str) -> re.Pattern[str]:
    return re.compile("|".join(allowed))


_TOPOLOGY = ("sockets", "dies", "clusters", "modules", "cores", "threads")
_COUNT = re.compile(r"[1-9][0-9]{0,4}")

_CPU_ATTRIBUTES = {
    "mode": _words("custom", "host-model", "host-passthrough", "maximum"),
    "match": _words("minimum", "exact", "strict"),
    "check": _words("none", "partial", "full"),
}
_CPU_CHILDREN = {
    "model": {"fallback": _words("allow", "forbid"), "vendor_id": re.compile(r"[A-Za-z0-9 ]{12}")},
    "vendor": {},
    "topology": dict.fromkeys(_TOPOLOGY, _COUNT),
    "feature": {"policy": _words("force", "require", "optional", "disable", "forbid"), "name": _CPU_NAME},
}
"""Elements within a CPU, and their attributes."""


def check(values: Mapping[str, Any]) -> None:
    """:class:`errors.BadMachine` names the first field of a machine that is not of its form, and why."""
    for name, is_right in _FIELDS.items():
        if not is_right(values[name]):
            raise errors.BadMachine(field=name, reason=f"{_EXPECTED[name]} expected, found {_shown(values[name])}")
    _check_cpu(values["cpu"], values["vcpus"])
    for device, address in values["devices"].items():
        _check_address(device, address)


def _is_number(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 < value <= most


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "accelerator": lambda value: value in ("kvm", "tcg"),
    "machine_type": lambda value: isinstance(value, str) and _MACHINE_TYPE.fullmatch(value) is not None,
    "cpu": lambda value: isinstance(value, str) and len(value) <= _MAX_CPU_CHARACTERS,
    "vcpus": _is_number(_MAX_VCPUS),
    "memory_bytes": _is_number(_MAX_MEMORY_BYTES),
    "devices": lambda value: isinstance(value, dict) and len(value) <= _MAX_DEVICES,
    "macs": lambda value: (
        isinstance(value, list)
        and len(value) <= _MAX_DEVICES
        and all(isinstance(mac, str) and _MAC.fullmatch(mac) for mac in value)
    ),
    "genid": lambda value: isinstance(value, bool),
    "agent": lambda value: isinstance(value, bool),
    "extra": lambda value: (
        isinstance(value, dict)
        and set(value) <= {CARDS_WITHOUT_ROM}
        and all(
            isinstance(names, list) and len(names) <= _MAX_DEVICES and all(isinstance(name, str) for name in names)
            for names in value.values()
        )
    ),
}
_EXPECTED = {
    "accelerator": "kvm or tcg",
    "machine_type": "the name of a machine type",
    "cpu": f"text of at most {_MAX_CPU_CHARACTERS} characters",
    "vcpus": f"a positive number up to {_MAX_VCPUS}",
    "memory_bytes": f"a positive number up to {_MAX_MEMORY_BYTES}",
    "devices": f"at most {_MAX_DEVICES} devices by name",
    "macs": "a list of MAC addresses",
    "genid": "true or false",
    "agent": "true or false",
    "extra": f"an object with {CARDS_WITHOUT_ROM} at most, {_MAX_DEVICES} names",
}


def _check_cpu(text: str, vcpus: int) -> None:
    """The text of a ``<cpu>`` element with a topology of so many threads or none, or nothing."""
    if not text:
        return
    if "<!" in text or "<?" in text:
        raise errors.BadMachine(field="cpu", reason="declarations are not expected in it")
    try:
        cpu = ET.fromstring(text)
    except ET.ParseError as failure:
        raise errors.BadMachine(field="cpu", reason=f"no XML: {failure}") from None
    if cpu.tag != "cpu":
        raise errors.BadMachine(field="cpu", reason=f"an element cpu expected, found {_shown(cpu.tag)}")
    _check_attributes(cpu, _CPU_ATTRIBUTES)
    for child in cpu:
        allowed = _CPU_CHILDREN.get(child.tag)
        if allowed is None or len(child):
            found = child.tag if allowed is None else f"an element within {child.tag}"
            expected = ", ".join(_CPU_CHILDREN)
            raise errors.BadMachine(field="cpu", reason=f"only {expected} expected in it, found {_shown(found)}")
        _check_attributes(child, allowed)
        if child.tag == "topology" and math.prod(map(int, child.attrib.values())) != vcpus:
            raise errors.BadMachine(field="cpu", reason=f"a topology of {vcpus} threads expected, found {child.attrib}")
        content = (child.text or "").strip()
        if content and not _CPU_NAME.fullmatch(content):
            raise errors.BadMachine(field="cpu", reason=f"the name of a {child.tag} expected, found {_shown(content)}")


def _check_attributes(element: ET.Element, allowed: Mapping[str, re.Pattern[str]]) -> None:
    for name, value in element.attrib.items():
        pattern = allowed.get(name)
        if pattern is None or not pattern.fullmatch(value):
            what = f"attribute {name} of {element.tag}"
            raise errors.BadMachine(field="cpu", reason=f"{_shown(what)} cannot be {_shown(value)}")


def _check_address(device: Any, address: Any) -> None:
    if not isinstance(device, str) or len(device) > _MAX_NAME_CHARACTERS:
        raise errors.BadMachine(field="devices", reason=f"a name expected, found {_shown(device)}")
    if not isinstance(address, dict):
        raise errors.BadMachine(field=f"device {device}", reason=f"an address expected, found {_shown(address)}")
    for name, value in address.items():
        pattern = _ADDRESS_TYPE if name == "type" else _ADDRESS_NUMBER
        if name not in ADDRESS_FIELDS or not isinstance(value, str) or not pattern.fullmatch(value):
            raise errors.BadMachine(
                field=f"device {device}", reason=f"its address cannot have {_shown(name)} {_shown(value)}"
            )


def _shown(value: Any) -> str:
    """A value for a message: not longer than need be."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
