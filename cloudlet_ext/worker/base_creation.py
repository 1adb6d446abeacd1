# SPDX-License-Identifier: Apache-2.0
"""Base creation: boot an image, wait until it answers, capture it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.base import DISK_NAME, INITRD_NAME, KERNEL_NAME, MEMORY_NAME, finish_base
from cloudlet_ext.engine.chunks import CHUNK_BYTES, SPAN_CHUNKS, is_zero, regrouped, runs
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.output import no_space_named, pwrite_all
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.hypervisor import accelerator, command_line, images, migration, qemu
from cloudlet_ext.hypervisor.capture import CapturedMemory
from cloudlet_ext.hypervisor.errors import BadStream, ImageUnusable
from cloudlet_ext.hypervisor.machine import RAM_ID, MachineDescription
from cloudlet_ext.worker import clone, probe, server
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report

DEFAULT_CPU = "Nehalem"
"""The level that Debian, Fedora and numpy's wheels assume (SSE4.2), and that emulation offers too: a base made on one
host resumes on another."""


@dataclass(frozen=True)
class BaseRequest:
    """What to make a base of. Times in seconds, memory in MiB."""

    image: Path
    name: str
    memory_mib: int = 1024
    vcpus: int = 1
    cpu: str = DEFAULT_CPU
    wait_for: str = "console:login:"
    timeout_s: float = 300.0
    settle_s: float = 2.0
    kernel: Path | None = None
    initrd: Path | None = None
    kernel_cmdline: str | None = None


@dataclass(frozen=True)
class BaseResult:
    """A base that was made. ``memory_bytes`` and ``disk_bytes`` count what is not zero."""

    name: str
    base_id: str
    folder: Path
    memory_bytes: int
    disk_bytes: int
    boot_s: float
    accelerator: accelerator.Choice


def create_base(home: Home, request: BaseRequest, report: Report) -> BaseResult:
    """Make a base; nothing is left behind when it fails."""
    waiting = probe.parse(request.wait_for)
    image = images.inspect(request.image)
    found = qemu.find(home.qemu_cache)
    chosen = accelerator.choose(found.binary, home.accelerator_cache)
    report.note(f"accelerator: {chosen}")
    machine = _machine(request, image, found, chosen.name)
    with home.new_base(request.name) as folder, no_space_named(folder):
        for name, path in ((KERNEL_NAME, request.kernel), (INITRD_NAME, request.initrd)):
            if path is not None:
                _copy(path, folder / name)
        guest = server.create(home, server.new_name(request.name), machine, "boot", None, None)
        with server.undone_on_failure(guest):
            report.stage("boot")
            _boot(guest, image, folder, machine.disk_bytes)
            waiting.prepare(guest)
            answer = probe.wait(waiting, guest, request.timeout_s)
            report.stage("settle")
            probe.settle(guest, request.settle_s)
            machine = replace(machine, agent=clone.has_agent(guest))
            report.stage("capture")
            layout, state = _capture(home, guest, folder, machine, report)
        guest.destroy()
        report.stage("index")
        with finish_base(folder, layout, machine.to_dict(), state, report.progress) as base:
            numbers = base.index.numbers
            in_memory = int((numbers >= layout.disk_chunks).sum())
            base_id = base.base_id
    return BaseResult(
        name=request.name,
        base_id=base_id,
        folder=home.bases / request.name,
        memory_bytes=in_memory * CHUNK_BYTES,
        disk_bytes=(len(numbers) - in_memory) * CHUNK_BYTES,
        boot_s=answer.elapsed_s,
        accelerator=chosen,
    )


def _machine(
    request: BaseRequest, image: images.ImageInfo, found: qemu.Qemu, accelerator_name: str
) -> MachineDescription:
    """The machine that boots the image here."""
    return MachineDescription(
        accelerator=accelerator_name,
        machine_type=found.newest_q35,
        cpu=request.cpu,
        vcpus=request.vcpus,
        memory_bytes=request.memory_mib << 20,
        disk_bytes=-(-image.virtual_bytes // CHUNK_BYTES) * CHUNK_BYTES,
        mac=server.new_mac(),
        kernel_cmdline=request.kernel_cmdline if request.kernel else None,
        direct_kernel=request.kernel is not None,
        direct_initrd=request.initrd is not None,
        qemu_version=found.version_text,
    )


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as failure:
        reason = failure.strerror or str(failure)
        raise ImageUnusable(path=str(source), reason=reason) from failure


def _boot(guest: server.Server, image: images.ImageInfo, folder: Path, disk_bytes: int) -> None:
    disk = guest.folder / server.DISK_NAME
    backing = str(image.path.absolute())
    Qcow2Writer.create(disk, disk_bytes, backing=backing, backing_format=image.image_format).close()
    files = command_line.Files(
        disk=Path(server.DISK_NAME),
        base_disk=Path(backing),
        base_format=image.image_format,
        kernel=folder / KERNEL_NAME,
        initrd=folder / INITRD_NAME,
    )
    # Its state stays "starting": it is nobody's server, and goes with the process that makes the base.
    guest.launch(files, incoming=False)


def _capture(
    home: Home, guest: server.Server, folder: Path, machine: MachineDescription, report: Report
) -> tuple[Layout, bytes]:
    with migration.captured(guest.process, guest.monitor, home.scratch, report.progress) as capture:
        layout = memory_layout(capture.memory, machine.disk_bytes)
        write_memory(capture.memory, folder / MEMORY_NAME)
        report.stage("disk")
        images.flatten(guest.folder / server.DISK_NAME, folder / DISK_NAME)
        return layout, capture.state.encode()


def memory_layout(memory: CapturedMemory, disk_bytes: int) -> Layout:
    """Regions of a captured guest: the disk, then its memory blocks, of which the main one must be first."""
    if memory.blocks[0].name != RAM_ID:
        raise BadStream(offset=0, reason=f"the first memory block is {memory.blocks[0].name}, expected {RAM_ID}")
    blocks = (Region(block.name, "memory", block.pages) for block in memory.blocks)
    return Layout((Region("disk", "disk", disk_bytes // CHUNK_BYTES), *blocks))


def write_memory(memory: CapturedMemory, path: Path) -> None:
    """Write all pages to a sparse file: block after block, no space for pages of zeros."""
    with path.open("wb", buffering=0) as file, no_space_named(path.parent):
        os.ftruncate(file.fileno(), memory.pages * CHUNK_BYTES)
        sent = ((numbers[~zero],) for numbers, zero in memory.sent())
        for (numbers,) in regrouped(sent, SPAN_CHUNKS):
            contents = memory.read(numbers)
            full = ~is_zero(contents)
            span, contents = numbers[full], np.ascontiguousarray(contents[full])
            row = 0
            for start, count in zip(*(part.tolist() for part in runs(span)), strict=True):
                pwrite_all(file.fileno(), contents[row : row + count].reshape(-1).data, start * CHUNK_BYTES)
                row += count
