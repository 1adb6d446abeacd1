# SPDX-License-Identifier: Apache-2.0
"""Servers handled by QEMU's own means: a save, its restore, an ordinary boot. For the peers."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sparse
from benchmarks.bench import Bench
from benchmarks.measure import ProcessFailed
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.hypervisor import command_line
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.hypervisor.qmp import Monitor
from cloudlet_ext.worker import server, starting

_TIMEOUT_S = 60.0
_MAPPED_RAM = [{"capability": "mapped-ram", "state": True}]


@dataclass(frozen=True)
class Save:
    """A server as files: QEMU's ``mapped-ram`` file (pages at fixed, aligned places, zero pages left out) and its disk
    layer. ``mac``: the address it had; ``save_s``: how long the guest stood still for it."""

    base: str
    memory: Path
    disk: Path
    mac: str
    save_s: float

    @property
    def memory_bytes(self) -> int:
        """Of pages that are not zero, and a little device state."""
        return sparse.used_bytes(self.memory)


def _wait_migrated(monitor: Monitor) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        info = monitor.execute("query-migrate")
        if info.get("status") == "completed":
            return
        if info.get("status") in ("failed", "cancelled") or time.monotonic() > deadline:
            raise ProcessFailed(f"migration to a file: {info}")
        time.sleep(0.01)


def save(bench: Bench, base: str, name: str, folder: Path) -> Save:
    """Pause a server of ``base`` for good and write it to files of ``folder``."""
    guest = server.load_running(bench.home, name)
    made = guest.folder / "save"
    monitor = guest.monitor
    if monitor.status() == "postmigrate":
        # QEMU saves no guest that stands still since it was captured.
        monitor.execute("cont")
    began = time.monotonic()
    monitor.execute("stop")
    monitor.execute("migrate-set-capabilities", capabilities=_MAPPED_RAM)
    monitor.execute("migrate-set-parameters", max_bandwidth=0)
    monitor.execute("migrate", uri="file:save")
    _wait_migrated(monitor)
    took = time.monotonic() - began
    done = Save(base, folder / "memory.save", folder / "disk.save", guest.record.mac, took)
    made.replace(done.memory)
    sparse.join([guest.folder / server.DISK_NAME], done.disk)
    guest.close()
    return done


def restore(bench: Bench, saved: Save, memory: Path, disk: Path, name: str) -> server.Server:
    """Have QEMU load a save; the guest runs when this returns. ``disk`` is moved."""
    with bench.home.open_base(saved.base) as base:
        machine = starting.base_machine(bench.home, base)
        guest = server.create(bench.home, name, machine, starting.EARLY, saved.base, base)
        guest.update(mac=saved.mac)
        shutil.move(disk, guest.folder / server.DISK_NAME)
        guest.launch(starting.base_files(base, memory=False), incoming=True)
        guest.monitor.execute("migrate-set-capabilities", capabilities=_MAPPED_RAM)
        guest.monitor.execute("migrate-incoming", uri=f"file:{memory}")
        if guest.monitor.wait_status({"running", "paused"}, _TIMEOUT_S) == "paused":
            guest.monitor.execute("cont")
    return guest


def boot(bench: Bench, base_name: str, image: Path, name: str) -> server.Server:
    """Boot a qcow2 image in the machine of a base, in plain memory; the kernel is the base's."""
    with bench.home.open_base(base_name) as base:
        machine = MachineDescription.from_dict(base.machine)
        guest = server.create(bench.home, name, machine, "boot", None, None)
        layer = guest.folder / server.DISK_NAME
        Qcow2Writer.create(layer, machine.disk_bytes, backing=str(image), backing_format="qcow2").close()
        files = command_line.Files(
            disk=Path(server.DISK_NAME), base_disk=image, kernel=base.kernel_path, initrd=base.initrd_path
        )
        guest.launch(files, incoming=False)
    return guest
