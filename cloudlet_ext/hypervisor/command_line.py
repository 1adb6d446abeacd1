# SPDX-License-Identifier: Apache-2.0
"""Command line of a QEMU process for a machine description."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlet_ext.hypervisor import errors
from cloudlet_ext.hypervisor.log_keeper import CONSOLE_PIPE
from cloudlet_ext.hypervisor.machine import RAM_ID, MachineDescription

TOP_NODE, BASE_NODE, VIEW_NODE, FILL_NODE = "top", "base", "view", "fill"


@dataclass(frozen=True)
class Files:
    """Where a server's files are. Relative names are in its directory, in which QEMU runs.

    ``memory`` is the page file of a base when the guest's RAM shall be a private map of it,
    ``view_socket`` the socket of the NBD server that stands for the disk below the top layer.
    """

    disk: Path
    base_disk: Path | None
    base_format: str = "qcow2"
    memory: Path | None = None
    view_socket: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None


def file_node(path: Path, image_format: str, node: str, **more: Any) -> dict[str, Any]:
    """Block node of an image file."""
    return {
        "driver": image_format,
        "node-name": node,
        "file": {"driver": "file", "filename": str(path), "aio": "threads", "discard": "unmap"},
        **more,
    }


def base_node(path: Path, image_format: str) -> dict[str, Any]:
    """Block node of a base disk: never written, read by many."""
    node = file_node(path, image_format, BASE_NODE)
    node["read-only"] = True
    node["file"]["read-only"] = True
    return node


def disk_nodes(files: Files) -> list[dict[str, Any]]:
    """Block nodes of a server's disk, bottom first; the last one is its own layer.

    What is below is a node of its own: as part of the layer's options it would be mixed with the name in its header.
    """
    below: str | None = None
    nodes = []
    if files.view_socket is not None:
        server = {"type": "unix", "path": str(files.view_socket)}
        nbd = {"driver": "nbd", "server": server, "export": "disk", "read-only": True}
        below = VIEW_NODE
        nodes.append({"driver": "raw", "node-name": below, "file": nbd, "read-only": True})
    elif files.base_disk is not None:
        below = BASE_NODE
        nodes.append(base_node(files.base_disk, files.base_format))
    nodes.append(top_node(files.disk, below))
    return nodes


def top_node(disk: Path, below: str | None) -> dict[str, Any]:
    """Block node of a server's own layer over the node ``below``."""
    more = {"discard": "unmap", "detect-zeroes": "unmap", "backing": below}
    return file_node(disk, "qcow2", TOP_NODE, **more)


def devices(machine: MachineDescription, generation: str) -> list[str]:
    """Devices of model 1, all at fixed addresses; ``generation`` is the VM generation id (a UUID).

    Not the default display, USB or optical devices: a server has no use for them, and each is state to carry.
    """
    if machine.model != 1:
        raise errors.BadMachine(field="model", reason=f"device model {machine.model} is unknown, expected 1")
    parts = [
        {"driver": "virtio-blk-pci", "id": "disk0", "drive": TOP_NODE, "addr": "0x2", "discard": True},
        {"driver": "virtio-net-pci", "id": "nic0", "netdev": "net0", "mac": machine.mac, "addr": "0x3", "romfile": ""},
        {
            "driver": "virtio-balloon-pci",
            "id": "balloon0",
            "addr": "0x4",
            "iothread": "hints",
            "free-page-hint": True,
            "free-page-reporting": True,
        },
        {"driver": "virtio-rng-pci", "id": "rng0", "rng": "random", "addr": "0x5"},
        {"driver": "virtio-serial-pci", "id": "ports", "addr": "0x6"},
        {"driver": "virtserialport", "bus": "ports.0", "nr": 1, "chardev": "agent", "name": "org.qemu.guest_agent.0"},
        {"driver": "vmgenid", "guid": generation, "id": "generation"},
    ]
    arguments = ["-object", "iothread,id=hints", "-object", "rng-random,id=random,filename=/dev/urandom"]
    for part in parts:
        arguments += ["-device", json.dumps(part)]
    return arguments


def memory(machine: MachineDescription, page_file: Path | None) -> list[str]:
    """RAM: plain, or a private map of a base's page file.

    ``readonly=on,rom=off`` (QEMU 8.2) maps a file that is opened for reading only: nothing that QEMU does to discard
    RAM can then reach the file, which other servers share.
    """
    if page_file is None:
        backend = f"memory-backend-ram,id={RAM_ID},size={machine.memory_bytes}"
    else:
        backend = (
            f"memory-backend-file,id={RAM_ID},size={machine.memory_bytes},"
            f"mem-path={_escape(page_file)},share=off,readonly=on,rom=off"
        )
    return ["-object", backend, "-m", f"size={machine.memory_bytes // 1024}k"]


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")


def command_line(
    machine: MachineDescription, files: Files, *, generation: str, incoming: bool, isolated: bool = False
) -> list[str]:
    """All arguments of QEMU; sockets and logs are relative to its directory.

    Its system calls are limited as libvirt limits them: a guest that breaks out of its devices can start no program.
    """
    arguments = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on"]
    arguments += ["-machine", f"{machine.machine_type},accel={machine.accelerator},memory-backend={RAM_ID},vmport=off"]
    # Under KVM a CPU that lacks what its model promises would be another machine than the one that is described.
    cpu = f"{machine.cpu},enforce" if machine.accelerator == "kvm" else machine.cpu
    arguments += ["-cpu", cpu, "-smp", str(machine.vcpus), "-rtc", "base=utc"]
    arguments += memory(machine, files.memory)
    if machine.direct_kernel:
        if files.kernel is None:
            raise errors.BadMachine(field="direct_kernel", reason="the base has no kernel")
        arguments += ["-kernel", str(files.kernel), "-append", machine.kernel_cmdline or ""]
        if machine.direct_initrd and files.initrd is not None:
            arguments += ["-initrd", str(files.initrd)]
    for node in disk_nodes(files):
        arguments += ["-blockdev", json.dumps(node)]
    # An isolated guest reaches neither this host (10.0.2.2 is its loopback) nor anything beyond; forwards work.
    arguments += ["-netdev", f"user,id=net0,restrict={'on' if isolated else 'off'}"]
    arguments += ["-chardev", "socket,id=agent,path=agent.sock,server=on,wait=off"]
    # Two named pipes, not a socket: the guest's terminal never sees a client come or go.
    arguments += ["-chardev", f"file,id=console,path={CONSOLE_PIPE},append=on,input-path=console.in"]
    arguments += ["-serial", "chardev:console"]
    arguments += devices(machine, generation)
    arguments += [
        "-chardev",
        "socket,id=monitor,path=qmp.sock,server=on,wait=off",
        "-mon",
        "chardev=monitor,mode=control",
    ]
    if incoming:
        arguments += ["-incoming", "defer"]
    return arguments
