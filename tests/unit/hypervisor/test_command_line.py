# SPDX-License-Identifier: Apache-2.0
"""Command lines, and whether a real QEMU takes them."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import process, qemu
from cloudlet_ext.hypervisor.command_line import Files, command_line, disk_nodes
from cloudlet_ext.hypervisor.errors import BadMachine
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.hypervisor.qmp import Monitor

GENERATION = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"
MACHINE = MachineDescription(
    accelerator="tcg",
    machine_type="pc-q35-8.2",
    cpu="Nehalem",
    vcpus=1,
    memory_bytes=64 << 20,
    disk_bytes=1 << 20,
    mac="52:54:00:12:34:56",
)
FILES = Files(disk=Path("disk.qcow2"), base_disk=Path("/base/disk.qcow2"))


def arguments(machine: MachineDescription = MACHINE, files: Files = FILES, **more: bool) -> list[str]:
    return command_line(machine, files, **{"generation": GENERATION, "incoming": False, **more})


def values(words: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_the_machine() -> None:
    words = arguments()
    assert values(words, "-machine") == ["pc-q35-8.2,accel=tcg,memory-backend=pc.ram,vmport=off"]
    assert values(words, "-cpu") == ["Nehalem"]
    assert values(words, "-m") == ["size=65536k"]
    assert "-incoming" not in words
    assert values(arguments(incoming=True), "-incoming") == ["defer"]
    assert "spawn=deny" in values(words, "-sandbox")[0]


def test_an_isolated_guest_reaches_nothing() -> None:
    assert values(arguments(), "-netdev") == ["user,id=net0,restrict=off"]
    assert values(arguments(isolated=True), "-netdev") == ["user,id=net0,restrict=on"]


def test_addresses_of_devices_are_fixed() -> None:
    devices = [json.loads(value) for value in values(arguments(), "-device")]
    assert [(device["driver"], device.get("addr")) for device in devices] == [
        ("virtio-blk-pci", "0x2"),
        ("virtio-net-pci", "0x3"),
        ("virtio-balloon-pci", "0x4"),
        ("virtio-rng-pci", "0x5"),
        ("virtio-serial-pci", "0x6"),
        ("virtserialport", None),
        ("vmgenid", None),
    ]
    assert devices[1]["mac"] == MACHINE.mac
    assert devices[-1]["guid"] == GENERATION
    with pytest.raises(BadMachine, match="device model 2 is unknown, expected 1"):
        arguments(replace(MACHINE, model=2))


def test_plain_and_mapped_memory() -> None:
    assert "memory-backend-ram,id=pc.ram,size=67108864" in values(arguments(), "-object")
    mapped = arguments(files=replace(FILES, memory=Path("/a,b/memory")))
    assert "memory-backend-file,id=pc.ram,size=67108864,mem-path=/a,,b/memory,share=off,readonly=on,rom=off" in values(
        mapped, "-object"
    )


def test_a_kernel_of_its_own() -> None:
    machine = replace(MACHINE, direct_kernel=True, direct_initrd=True, kernel_cmdline="quiet a=b,c")
    with pytest.raises(BadMachine, match="the base has no kernel"):
        arguments(machine)
    words = arguments(machine, replace(FILES, kernel=Path("/k"), initrd=Path("/i")))
    assert [values(words, option) for option in ("-kernel", "-append", "-initrd")] == [["/k"], ["quiet a=b,c"], ["/i"]]
    # A kernel that the machine does not have is not loaded.
    assert "-kernel" not in arguments(MACHINE, replace(FILES, kernel=Path("/k")))


def test_disk_over_a_base_that_is_never_written() -> None:
    base, top = disk_nodes(FILES)
    assert base["read-only"] and base["file"]["read-only"]
    assert (top["driver"], top["backing"], top["file"]["filename"]) == ("qcow2", base["node-name"], "disk.qcow2")
    view, top = disk_nodes(replace(FILES, view_socket=Path("view.sock")))
    assert view["file"]["server"] == {"type": "unix", "path": "view.sock"}
    assert top["backing"] == view["node-name"]
    (top,) = disk_nodes(replace(FILES, base_disk=None))
    assert top["backing"] is None


@pytest.mark.parametrize("mapped", [False, True])
def test_qemu_takes_it(tmp_path: Path, mapped: bool) -> None:
    """The machine comes up, in a folder whose name has all that needs escaping."""
    folder = tmp_path / "a, b='c\""
    folder.mkdir()
    base = folder / "base,disk.qcow2"
    memory = folder / "me,mory"
    memory.write_bytes(b"")
    with memory.open("r+b") as file:
        file.truncate(MACHINE.memory_bytes + (1 << 20))
    memory.chmod(0o444)
    for image, more in ((base, []), (folder / "disk.qcow2", ["-F", "qcow2", "-b", str(base)])):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, str(image), "1M"], check=True)
    found = qemu.find()
    machine = replace(MACHINE, machine_type=found.newest_q35)
    files = Files(disk=Path("disk.qcow2"), base_disk=base, memory=memory if mapped else None)
    words = command_line(machine, files, generation=GENERATION, incoming=True)
    started = process.spawn(found.binary, words, folder)
    try:
        with Monitor(started.monitor_path, 30, alive=lambda: started.alive) as monitor:
            assert monitor.status() == "inmigrate"
            devices = monitor.execute("query-pci")[0]["devices"]
            assert {device["qdev_id"] for device in devices if device["qdev_id"]} == {
                "disk0",
                "nic0",
                "balloon0",
                "rng0",
                "ports",
            }
            (block,) = monitor.execute("query-block")
            assert (block["qdev"], block["inserted"]["file"]) == (
                "/machine/peripheral/disk0/virtio-backend",
                "disk.qcow2",
            )
            assert monitor.execute("query-vm-generation-id")["guid"] == GENERATION
            assert monitor.human("hostfwd_add net0 tcp:127.0.0.1:0-:22") == ""
    finally:
        started.kill()
    assert "error" not in started.log_tail().lower(), started.log_tail()
