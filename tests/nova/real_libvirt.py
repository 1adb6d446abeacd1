# SPDX-License-Identifier: Apache-2.0
"""A libvirt of the tests' own: its QEMU driver inside this process, and domains of the smallest guest."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.hypervisor import domain_xml
from tests.functional import tiny_guest

_CONF = """
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"""
_READY_S = 60.0
_EVENTS_S = 0.5
_TICKS_AT = 0x8000

_XML = """
<domain type='qemu'>
  <name>{uuid}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    {cards}
    <serial type='file'><source path='{serial}'/></serial>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""
_CARD = "<interface type='ethernet'><mac address='{mac}'/><model type='virtio'/>{rom}</interface>"


def start_events() -> None:
    """libvirt's events, without which its QEMU driver does nothing in this process; once."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    libvirt.virEventRegisterDefaultImpl()
    libvirt.virEventAddTimeout(200, lambda timer, opaque: None, None)

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


def write_conf(root: Path) -> None:
    """What lets QEMU be this user's, in folders of this user's."""
    (root / "etc").mkdir()
    (root / "etc/qemu.conf").write_text(_CONF)


def write_disk(path: Path, backing: Path | None = None, backing_format: str = "raw") -> Path:
    """A guest's own disk; without ``backing`` over a raw one beside it that boots the smallest guest."""
    below = backing or tiny_guest.write_disk(path.with_suffix(".below"))
    Qcow2Writer.create(path, tiny_guest.DISK_BYTES, str(below), backing_format).close()
    return path


class Domain:
    """A domain that starts when told, from whichever description."""

    def __init__(self, connection: libvirt.virConnect, folder: Path, uuid: str) -> None:
        self._connection, self._folder, self.uuid = connection, folder, uuid
        self.disk, self.serial = folder / f"{uuid}.qcow2", folder / f"{uuid}.serial"
        self.handle: Any = None

    def xml(self, *macs: str, rom: str = "") -> str:
        """As Nova writes it: without addresses."""
        cards = "".join(_CARD.format(mac=mac, rom=rom) for mac in macs)
        return _XML.format(uuid=self.uuid, disk=self.disk, cards=cards, serial=self.serial)

    def start(self, xml: str, *, paused: bool = False) -> None:
        """Start it, whatever it is."""
        self.handle = self._connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    def boot(self, xml: str) -> None:
        """Start it, and wait until its guest is up."""
        self.start(xml)
        self.await_boots(1)

    def await_boots(self, count: int) -> None:
        """Wait until its guest has come up so many times."""
        deadline = time.monotonic() + _READY_S
        while not self.serial.exists() or self.serial.read_bytes().count(tiny_guest.READY) < count:
            assert time.monotonic() < deadline, self.handle.state()
            time.sleep(0.1)

    def ask(self, command: str, **arguments: Any) -> Any:
        """QEMU's answer."""
        request = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuMonitorCommand(self.handle, request, 0))["return"]

    def ticks(self) -> int:
        """How many dots its guest has printed, modulo 65536."""
        told = self.ask("human-monitor-command", **{"command-line": f"xp /1hx {_TICKS_AT:#x}"})
        return int(told.split()[-1], 16)

    def roms(self) -> dict[int, int]:
        """Sizes of the boot ROMs of its network cards by their slots."""
        (bus,) = self.ask("query-pci")
        found = {}
        for device in bus["devices"]:
            for region in device["regions"]:
                if region["bar"] == 6 and device["class_info"]["class"] == 0x200:
                    found[device["slot"]] = region["size"]
        return found

    def slots(self) -> dict[str, str]:
        """MACs of its cards by their slots, in the order of libvirt's description."""
        root = domain_xml.parse(self.handle.XMLDesc(0))
        cards = root.findall("./devices/interface")
        return {str(one.find("address").get("slot")): str(one.find("mac").get("address")) for one in cards}  # type: ignore[union-attr]

    @contextlib.contextmanager
    def stops(self) -> Iterator[list[int]]:
        """The times that its guest is paused within the block, by libvirt's reasons."""
        found: list[int] = []

        def changed(connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
            if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
                found.append(detail)

        known = self._connection.domainEventRegisterAny(
            self.handle, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, changed, None
        )
        try:
            yield found
            time.sleep(_EVENTS_S)
        finally:
            self._connection.domainEventDeregisterAny(known)

    def end(self) -> None:
        """End it, if it runs."""
        if self.handle is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self.handle.destroy()
            self.handle = None
