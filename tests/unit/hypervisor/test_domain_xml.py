# SPDX-License-Identifier: Apache-2.0
"""Descriptions of domains: the machine that one tells, its likeness, and a scratch copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cloudlet_ext.hypervisor import domain_cards, domain_xml, errors, scratch_domain
from cloudlet_ext.hypervisor.domain_xml import DiskView
from cloudlet_ext.hypervisor.scratch_domain import ScratchDomain

RUNNING = """
<domain type='qemu' id='55' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>instance-00000059</name>
  <uuid>8ad42901-1587-4c38-9098-878feb9fdafe</uuid>
  <genid>efce328a-3a25-46ca-87cb-fb2fdecf0b83</genid>
  <metadata><owner/></metadata>
  <memory unit='KiB'>131072</memory>
  <vcpu placement='static'>1</vcpu>
  <sysinfo type='smbios'>
    <system><entry name='uuid'>8ad42901-1587-4c38-9098-878feb9fdafe</entry></system>
  </sysinfo>
  <os><type arch='x86_64' machine='pc-i440fx-10.0'>hvm</type></os>
  <cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model><topology sockets='1' cores='1'/></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/instances/1/disk' index='1'/>
      <backingStore type='file' index='2'><format type='raw'/><source file='/base'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
    </disk>
    <interface type='bridge'>
      <mac address='fa:16:3e:ff:38:9c'/>
      <source bridge='br-int'/>
      <virtualport type='openvswitch'/>
      <target dev='tap1'/>
      <model type='virtio'/>
      <mtu size='1442'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </interface>
    <serial type='tcp'>
      <source mode='bind' host='0.0.0.0' service='10000'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <console type='tcp'><target type='serial' port='0'/></console>
    <channel type='unix'>
      <source mode='bind' path='/run/agent.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <graphics type='vnc' port='5900'/>
  </devices>
  <seclabel type='dynamic' model='dac'><label>+0:+0</label></seclabel>
  <qemu:commandline>
    <qemu:arg value='-object'/><qemu:arg value='memory-backend-file,id=cloudlet-ram,mem-path=/bases/memory'/>
    <qemu:arg value='-incoming'/><qemu:arg value='defer'/>
  </qemu:commandline>
</domain>
"""
CAPTURED = RUNNING.replace("slot='0x03'", "slot='0x07'").replace("i440fx-10.0", "i440fx-9.2")
VIEW = DiskView(Path("/run/layer.sock"), "overlay", Path("/bases/1/disk.qcow2"), "qcow2")


def arguments(text: str) -> list[str]:
    return [str(one.get("value")) for one in domain_xml.parse(text).iter(f"{{{domain_xml.QEMU}}}arg")]


def test_a_machine_is_what_the_guest_sees() -> None:
    machine = domain_xml.describe(RUNNING)
    assert (machine.accelerator, machine.machine_type, machine.vcpus) == ("tcg", "pc-i440fx-10.0", 1)
    assert machine.memory_bytes == 128 << 20
    assert machine.macs == ["fa:16:3e:ff:38:9c"]
    assert machine.genid
    assert domain_xml.DomainMachine.from_dict(machine.to_dict()) == machine
    other = domain_xml.describe(RUNNING.replace("131072", "262144"))
    with pytest.raises(errors.HypervisorError, match=r"134217728.*268435456|268435456.*134217728"):
        machine.require_same(other, "The host")


def test_a_likeness_has_the_captured_machine_and_waits() -> None:
    machine = domain_xml.describe(CAPTURED)
    text = domain_xml.likeness(domain_xml.plain(RUNNING), machine, Path("/bases/a,b/memory"), None)
    found = domain_xml.describe(text)
    machine.require_same(found, "The likeness")
    assert arguments(text)[-2:] == ["-incoming", "defer"]
    (backend,) = [argument for argument in arguments(text) if argument.startswith("memory-backend-file")]
    assert "mem-path=/bases/a,,b/memory" in backend
    assert "readonly=on" in backend


def test_what_is_for_one_start_only_is_taken_out_again() -> None:
    machine = domain_xml.describe(RUNNING)
    text = domain_xml.likeness(domain_xml.plain(RUNNING), machine, Path("/bases/memory"), VIEW)
    assert "layer.sock" in text
    plain = domain_xml.plain(text)
    assert arguments(plain) == []
    assert "layer.sock" not in plain
    assert domain_xml.plain(plain) == plain


QEMU_ARGUMENT = f"<qemu:commandline xmlns:qemu='{domain_xml.QEMU}'><qemu:arg value='-s'/></qemu:commandline>"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu", "<devices><disk type='block'><source dev='/dev/sda'/></disk></devices>"),
        ("cpu", QEMU_ARGUMENT),
        ("cpu", f"<cpu mode='custom'>{QEMU_ARGUMENT}</cpu>"),
        ("cpu", "<cpu><devices/></cpu>"),
        ("cpu", "<cpu><model xmlns='http://libvirt.org/schemas/domain/qemu/1.0'>qemu64</model></cpu>"),
        ("cpu", "<cpu><model fallback='forbid'>qemu64<arg/></model></cpu>"),
        ("cpu", "<cpu><model>qemu64,+vmx</model></cpu>"),
        ("cpu", "<cpu><vendor>a\nb</vendor></cpu>"),
        ("cpu", "<cpu><feature policy='require' name='a,b'/></cpu>"),
        ("cpu", "<cpu><feature policy='always' name='vmx'/></cpu>"),
        ("cpu", "<cpu mode='other'/>"),
        ("cpu", "<cpu><topology sockets='2' cores='1' threads='1'/></cpu>"),
        ("cpu", "<cpu><topology sockets='0' cores='1' threads='1'/></cpu>"),
        ("cpu", "<cpu><topology sockets='1' boards='1'/></cpu>"),
        ("cpu", "<cpu numa='1'/>"),
        ("cpu", "<!DOCTYPE x [<!ENTITY a 'b'>]><cpu><model>&a;</model></cpu>"),
        ("cpu", "<cpu>" + "<model/>" * 10_000 + "</cpu>"),
        ("cpu", "<cpu"),
        ("cpu", None),
        ("machine_type", "pc,accel=kvm"),
        ("machine_type", ["pc"]),
        ("accelerator", "xen"),
        ("vcpus", True),
        ("vcpus", 0),
        ("memory_bytes", 1 << 70),
        ("memory_bytes", "1"),
        ("macs", ["fa:16:3e:ff:38:9c'/>"]),
        ("macs", "fa:16:3e:ff:38:9c"),
        ("genid", "yes"),
        ("agent", 1),
        ("extra", []),
        ("extra", {"cards_without_rom": "interface"}),
        ("extra", {"cards_without_rom": [7]}),
        ("devices", [["disk", {}]]),
        ("devices", {"disk": "pci"}),
        ("devices", {"disk": {"type": 7}}),
        ("devices", {"disk": {"type": "pci", "multifunction": "on"}}),
        ("devices", {"disk": {"{http://libvirt.org/schemas/domain/qemu/1.0}slot": "0x03"}}),
        ("devices", {"disk": {"slot": "0x03' multifunction='on"}}),
        ("devices", {"disk": {"type": "../pci"}}),
        ("devices", {"d" * 1000: {}}),
        ("devices", {str(number): {} for number in range(2000)}),
    ],
)
def test_what_is_more_than_a_machine_is_refused(field: str, value: Any) -> None:
    """Whoever can make an image can make a base, and what it tells goes into what libvirt is given."""
    told = {**domain_xml.describe(RUNNING).to_dict(), field: value}
    with pytest.raises(errors.BadMachine) as refused:
        domain_xml.DomainMachine.from_dict(told)
    assert field.removesuffix("s") in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "cpu",
    [
        "",
        "<cpu check='none' mode='host-passthrough' />",
        "<cpu check='full' match='exact' mode='custom'><model fallback='forbid' vendor_id='GenuineIntel'>"
        "Skylake-Server-noTSX-IBRS</model><vendor>Intel</vendor><feature name='avx512-4vnniw' policy='require' />"
        "<feature name='sse4.1' policy='disable' /></cpu>",
    ],
)
def test_cpus_as_libvirt_writes_them(cpu: str) -> None:
    told = {**domain_xml.describe(RUNNING).to_dict(), "cpu": cpu}
    assert domain_xml.DomainMachine.from_dict(told).cpu == cpu


FOUR = RUNNING.replace(">1</vcpu>", ">4</vcpu>")
SOCKETS = FOUR.replace("<topology sockets='1' cores='1'/>", "<topology sockets='4' dies='1' cores='1' threads='1'/>")
CORES = FOUR.replace(
    "<topology sockets='1' cores='1'/>", "<topology sockets='1' dies='1' clusters='1' cores='4' threads='1'/>"
)
UNTOLD = FOUR.replace("<topology sockets='1' cores='1'/>", "")


def test_another_topology_is_told() -> None:
    """The guest would find other caches and siblings than those that its kernel has laid itself out for."""
    cores, sockets = domain_xml.describe(CORES), domain_xml.describe(SOCKETS)
    with pytest.raises(errors.MachineMismatch, match=r"CPU topology is .*'cores': '1'.* expected .*'cores': '4'"):
        cores.require_same(sockets, "This host builds another machine")
    # Older libvirts write fewer levels.
    cores.require_same(domain_xml.describe(CORES.replace("clusters='1' ", "")), "The same")
    with pytest.raises(errors.MachineMismatch, match=r"cpu is .*other.* expected .*qemu64"):
        cores.require_same(domain_xml.describe(SOCKETS.replace("qemu64", "other")), "This host")


def test_a_likeness_has_the_captured_topology() -> None:
    cores = domain_xml.DomainMachine.from_dict(domain_xml.describe(CORES).to_dict())
    found = domain_xml.likeness(domain_xml.plain(SOCKETS), cores, None, None)
    assert "cores='4'" in found.replace('"', "'") and "sockets='4'" not in found.replace('"', "'")
    cores.require_same(domain_xml.describe(found), "The likeness")


def test_a_base_that_does_not_tell_its_topology_takes_any() -> None:
    """Former versions did not keep it."""
    untold, sockets = domain_xml.describe(UNTOLD), domain_xml.describe(SOCKETS)
    untold.require_same(sockets, "This host")
    found = domain_xml.likeness(domain_xml.plain(SOCKETS), untold, None, None)
    untold.require_same(domain_xml.describe(found), "The likeness")
    assert domain_xml.describe(found).cpu == sockets.cpu
    with pytest.raises(errors.MachineMismatch, match="cpu"):
        untold.require_same(domain_xml.describe(SOCKETS.replace("qemu64", "other")), "This host")


def test_a_mapped_guest_is_known_by_its_description() -> None:
    assert domain_xml.is_mapped(RUNNING)
    assert not domain_xml.is_mapped(domain_xml.plain(RUNNING))
    machine = domain_xml.describe(RUNNING)
    early = domain_xml.likeness(domain_xml.plain(RUNNING), machine, None, VIEW)
    assert not domain_xml.is_mapped(early)


def test_a_generation_id_is_given_or_renewed() -> None:
    ours = "11111111-2222-4333-8444-555555555555"
    bare = domain_xml.plain(RUNNING).replace("<genid>efce328a-3a25-46ca-87cb-fb2fdecf0b83</genid>", "")
    assert "genid" not in bare
    assert domain_xml.parse(domain_xml.with_genid(bare, ours)).findtext("genid") == ours
    assert domain_xml.parse(domain_xml.renew_genid(RUNNING, ours)).findtext("genid") == ours
    assert domain_xml.renew_genid(bare, ours) == bare, "the captured guest had no such device"


def test_a_card_that_is_put_in_again_has_no_rom() -> None:
    """And whoever takes up its state later has none either: QEMU would miss its memory block."""
    (card,) = domain_cards.interfaces(RUNNING)
    again = domain_cards.card_anew(card)
    root = domain_xml.parse(RUNNING)
    devices = root.find("devices")
    assert devices is not None
    place = list(devices).index(devices.find("interface"))  # type: ignore[arg-type]
    devices[place] = ET.fromstring(again)
    machine = domain_xml.describe(ET.tostring(root, encoding="unicode"))
    assert domain_xml.DomainMachine.from_dict(machine.to_dict()) == machine
    machine.require_same(domain_xml.describe(RUNNING), "The server's machine")
    for text in (again, domain_xml.likeness(domain_xml.plain(RUNNING), machine, None, None)):
        (rom,) = domain_xml.parse(text).iter("rom")
        assert rom.attrib == {"enabled": "no"}
    bare, full = ET.tostring(root, encoding="unicode"), domain_xml.describe(RUNNING)
    for text in (bare, RUNNING):
        assert "<rom" not in domain_xml.likeness(domain_xml.plain(text), full, None, None)


def with_cards(*slots: int, without_rom: int = -1) -> str:
    """The domain with cards at these slots, in the order of the text; the MAC's last digit is the slot's."""
    (card,) = domain_cards.interfaces(RUNNING)
    root = domain_xml.parse(RUNNING)
    devices = root.find("devices")
    assert devices is not None
    devices.remove(devices.find("interface"))  # type: ignore[arg-type]
    for slot in slots:
        text = card.replace('slot="0x02"', f'slot="{slot:#04x}"').replace("38:9c", f"38:0{slot}")
        devices.append(ET.fromstring(domain_cards.card_anew(text) if slot == without_rom else text))
    return ET.tostring(root, encoding="unicode")


def test_cards_are_numbered_by_their_addresses() -> None:
    """libvirt puts a card that was put in again behind the others."""
    whole, again = domain_xml.describe(with_cards(5, 6, 9)), domain_xml.describe(with_cards(6, 9, 5, without_rom=5))
    whole.require_same(again, "The server's machine is not its base's")
    assert again.devices == whole.devices
    assert again.macs == whole.macs == [f"fa:16:3e:ff:38:0{slot}" for slot in (5, 6, 9)]
    assert again.cards_without_rom == ["interface virtio"]
    assert [domain_cards.mac_of(card)[-1] for card in domain_cards.interfaces(with_cards(9, 5))] == ["5", "9"]


def test_a_likeness_knows_each_card() -> None:
    """Nova's description has no addresses: its first card gets the first one."""
    machine = domain_xml.describe(with_cards(6, 5, without_rom=6))
    nova = domain_xml.parse(with_cards(1, 2))
    for card in nova.iterfind("./devices/interface"):
        card.remove(card.find("address"))  # type: ignore[arg-type]
    found = domain_xml.likeness(ET.tostring(nova, encoding="unicode"), machine, None, None)
    machine.require_same(domain_xml.describe(found), "The likeness")
    assert domain_xml.describe(found).cards_without_rom == ["interface virtio #2"]
    assert [domain_cards.mac_of(card)[-1] for card in domain_cards.interfaces(found)] == ["1", "2"]


def test_cards_of_a_base_that_numbers_them_otherwise() -> None:
    """Former versions numbered them in the order of libvirt's text."""
    machine = domain_xml.describe(with_cards(5, 6, without_rom=5))
    first, second = "interface virtio", "interface virtio #2"
    former = machine.to_dict()
    former["devices"] = {**machine.devices, first: machine.devices[second], second: machine.devices[first]}
    former["macs"] = machine.macs[::-1]
    former["extra"] = {"cards_without_rom": [second]}
    assert domain_xml.DomainMachine.from_dict(former) == machine


def test_a_rom_of_either_is_a_rom() -> None:
    full, one, other = (domain_xml.describe(with_cards(5, 6, without_rom=slot)) for slot in (-1, 5, 6))
    assert one.with_roms_of(full).cards_without_rom == full.with_roms_of(one).cards_without_rom == []
    assert one.with_roms_of(other).cards_without_rom == []
    assert one.with_roms_of(one) == one


def test_a_scratch_domain_has_its_taps_in_the_order_of_the_cards() -> None:
    own = ScratchDomain(
        "cloudlet-1", Path("/scratch/disk"), ("clr0", "clr1"), ("52:54:00:00:00:01", "52:54:00:00:00:02")
    )
    text = scratch_domain.describe(with_cards(6, 5), domain_xml.describe(with_cards(5, 6)), own, VIEW)
    found = [(domain_cards.mac_of(one)[-1], domain_cards.host_card_of(one)) for one in domain_cards.interfaces(text)]
    assert found == [("1", "clr0"), ("2", "clr1")]


def scratch() -> ET.Element:
    own = ScratchDomain("cloudlet-1", Path("/scratch/disk"), ("clr0",), ("52:54:00:00:00:01",))
    return domain_xml.parse(scratch_domain.describe(RUNNING, domain_xml.describe(RUNNING), own, VIEW))


def test_a_scratch_domain_is_the_same_machine_by_another_name() -> None:
    root = scratch()
    text = ET.tostring(root, encoding="unicode")
    domain_xml.describe(RUNNING).require_same(domain_xml.describe(text), "The scratch domain")
    identity = root.findtext("uuid")
    assert root.findtext("name") == "cloudlet-1"
    assert identity != "8ad42901-1587-4c38-9098-878feb9fdafe"
    assert root.findtext("./sysinfo/system/entry[@name='uuid']") == identity
    assert arguments(text) == ["-incoming", "defer"], "its memory is plain"


def test_a_scratch_domain_shares_nothing_with_the_original() -> None:
    text = ET.tostring(scratch(), encoding="unicode")
    for shared in (
        "/instances/1",
        "br-int",
        "tap1",
        "openvswitch",
        "/run/agent.sock",
        "10000",
        "vnc",
        "owner",
        "+0:+0",
    ):
        assert shared not in text, shared
    root = scratch()
    card = root.find("./devices/interface")
    assert card is not None
    assert card.attrib == {"type": "ethernet"}
    assert {child.tag for child in card} == {"mac", "model", "mtu", "target", "address"}
    disk = root.find("./devices/disk")
    assert disk is not None
    assert disk.find("source").attrib == {"file": "/scratch/disk"}  # type: ignore[union-attr]
    assert disk.find("./backingStore/backingStore/source/seclabel").get("relabel") == "no"  # type: ignore[union-attr]
