# SPDX-License-Identifier: Apache-2.0
"""Start a server: the memory of a base resumed, not booted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.hypervisor import accelerator, command_line, qemu
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import AcceleratorMismatch, HypervisorError
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.hypervisor.resume import PageRun, connect, resume
from cloudlet_ext.worker import clone, pages, probe, server
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report

INCOMING_SOCKET = "incoming.sock"
MAPPED, EARLY, AUTO = "mapped", "early", "auto"
_LOAD_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class StartResult:
    """A server that runs. Seconds: ``load_s`` of the state, ``first_reply_s`` since QEMU's socket was there."""

    name: str
    base: str
    placement: str
    load_s: float
    first_reply_s: float | None
    forwards: dict[str, int]
    clone: clone.CloneResult


def base_machine(home: Home, base: Base) -> MachineDescription:
    """The machine of a base, once it is sure that this host can be it.

    AcceleratorMismatch says why this host has its own, MachineTypeUnknown the QEMU version here and the machine that is
    needed.
    """
    machine = MachineDescription.from_dict(base.machine)
    found = qemu.find(home.qemu_cache)
    qemu.require_machine_type(found, machine.machine_type)
    here = accelerator.choose(found.binary, home.accelerator_cache)
    if here.name != machine.accelerator:
        raise AcceleratorMismatch(
            what="This host cannot resume the base",
            expected=machine.accelerator,
            found=here.name,
            reason=here.reason,
        )
    return machine


def base_files(base: Base, *, memory: bool) -> command_line.Files:
    """QEMU's files for a server with one layer of its own on a base."""
    return command_line.Files(
        disk=Path(server.DISK_NAME),
        base_disk=base.disk_path,
        memory=base.memory_path if memory else None,
        kernel=base.kernel_path,
        initrd=base.initrd_path,
    )


def load_state(guest: server.Server, base: Base, state: DeviceState, changes: Iterable[PageRun]) -> None:
    """Send a state into a waiting QEMU over a mapped base; the guest runs when this returns."""
    process = guest.process
    guest.monitor.execute("migrate-incoming", uri=process.address(INCOMING_SOCKET))
    try:
        with connect(process.directory / INCOMING_SOCKET) as connection:
            resume(connection, pages.ram_blocks(base.layout), state, changes)
        if guest.monitor.wait_status({"running", "paused"}, _LOAD_TIMEOUT_S) == "paused":
            guest.monitor.execute("cont")
    except HypervisorError as failure:
        if guest.process.ended():
            raise guest.process.died("its state was loaded") from failure
        raise


def start_server(
    home: Home,
    base_name: str,
    name: str | None,
    forwards: dict[int, int],
    wait_for: str | None,
    timeout_s: float,
    report: Report,
) -> StartResult:
    """Start a server on a base by its name. ``forwards``: guest port -> port of this host (0: any)."""
    waiting = probe.parse(wait_for) if wait_for else None
    with home.open_base(base_name) as base:
        machine = base_machine(home, base)
        guest = server.create(home, name or server.new_name(base_name), machine, MAPPED, base_name, base)
        with server.undone_on_failure(guest):
            report.stage("start")
            disk = guest.folder / server.DISK_NAME
            Qcow2Writer.create(disk, machine.disk_bytes, backing=base.disk_path).close()
            guest.launch(base_files(base, memory=True), incoming=True)
            for guest_port, host_port in forwards.items():
                guest.forward(guest_port, host_port)
            if waiting is not None:
                waiting.prepare(guest)
            report.stage("load")
            began = report.elapsed_s
            state = clone.own_state(guest, DeviceState.decode(base.load_device()))
            load_state(guest, base, state, pages.rom_pages(base))
            load_s = report.elapsed_s - began
            first_reply_s = None
            if waiting is not None:
                probe.wait(waiting, guest, timeout_s)
                first_reply_s = report.elapsed_s - began
            report.stage("personalise")
            personal = clone.personalise(guest)
            guest.require_alive("it was given what is its own")
            guest.update(state="running")
    return StartResult(guest.name, base_name, MAPPED, load_s, first_reply_s, guest.record.forwards, personal)
