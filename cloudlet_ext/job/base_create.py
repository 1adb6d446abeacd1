# SPDX-License-Identifier: Apache-2.0
"""Job base-create: a running server becomes a base, kept as two images; the server goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloudlet_ext.engine.base import DISK_NAME, MEMORY_NAME, Base, finish_base
from cloudlet_ext.engine.base_file import export_base
from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.hypervisor import images as disk_images
from cloudlet_ext.hypervisor import migration
from cloudlet_ext.hypervisor.domain_xml import MAPPED_RAM, DomainMachine
from cloudlet_ext.hypervisor.machine import RAM_ID
from cloudlet_ext.job.base_cache import BaseCache
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.job.guest import DomainGuest, running_guest, scratch_folder
from cloudlet_ext.job.images import Images
from cloudlet_ext.worker.base_creation import memory_layout, write_memory
from cloudlet_ext.worker.report import Report

_GIB = 1 << 30


def run(job: dict[str, Any], channel: Channel, report: Report) -> dict[str, Any]:
    """Capture, index, keep in this host's cache, upload; what the operation has to tell."""
    images = Images.of_job(job)
    disk, memory = job["disk_image"], job["memory_image"]
    with scratch_folder(job) as scratch:
        folder = scratch / "base"
        folder.mkdir(mode=0o700)
        with running_guest(job) as guest:
            report.stage("capture")
            machine = guest.machine()
            base = _capture(guest, machine, scratch, folder, report)
        with base:
            base_id, layout = base.base_id, base.layout
            report.stage("pack")
            export_base(base, scratch / "pages", with_disk=False, progress=report.progress)
        report.stage("upload")
        properties = {"cloudlet_base_id": base_id}
        images.update(memory, **properties)
        images.upload(memory, scratch / "pages", report.progress)
        images.update(
            disk,
            min_disk=-(-layout.disk_bytes // _GIB),
            cloudlet_network_cards=str(len(machine.macs)),
            cloudlet_machine=json.dumps({"machine_type": machine.machine_type, "accelerator": machine.accelerator}),
            **properties,
        )
        images.upload(disk, folder / DISK_NAME, report.progress)
        sizes = {"memory_bytes": (scratch / "pages").stat().st_size, "disk_bytes": (folder / DISK_NAME).stat().st_size}
        BaseCache.of_job(job).add(folder, base_id)
    return {"base_id": base_id, **sizes}


def _capture(guest: DomainGuest, machine: DomainMachine, scratch: Path, folder: Path, report: Report) -> Base:
    """The base directory, of a guest that stands still as long as its disk is read."""
    top = guest.disk_path()
    with Qcow2Image.open(top) as image:
        disk_bytes = image.chunks * CHUNK_BYTES
    with migration.captured(guest.process, guest.monitor, scratch, report.progress) as capture:
        memory = capture.memory.renamed({MAPPED_RAM: RAM_ID})
        layout = memory_layout(memory, disk_bytes)
        report.stage("disk")
        disk_images.flatten(top, folder / DISK_NAME)
        if capture.was_running:
            guest.monitor.execute("cont")
        write_memory(memory, folder / MEMORY_NAME)
        state = capture.state.encode()
    report.stage("index")
    return finish_base(folder, layout, machine.to_dict(), state, report.progress)
