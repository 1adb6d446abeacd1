# SPDX-License-Identifier: Apache-2.0
"""Job overlay-create: what a server has become, told as the difference to its base, kept as an image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine import qcow2
from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.index import IndexLookup
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.overlay_writer import OverlaySummary, write_overlay
from cloudlet_ext.engine.plan import OverlayPlan, plan_overlay
from cloudlet_ext.engine.qcow2 import Qcow2Image, Qcow2Layers
from cloudlet_ext.hypervisor import migration
from cloudlet_ext.hypervisor.domain_xml import MAPPED_RAM, DomainMachine
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.hypervisor.machine import RAM_ID
from cloudlet_ext.hypervisor.stream import RamBlock
from cloudlet_ext.job import errors
from cloudlet_ext.job.base_cache import BaseCache, fetch_images
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.job.guest import DomainGuest, running_guest, scratch_folder
from cloudlet_ext.job.images import Images
from cloudlet_ext.worker.overlay_creation import MemoryChanges, require_blocks
from cloudlet_ext.worker.report import Report

_TRIM_TIMEOUT_S = 30
_NAMES = {MAPPED_RAM: RAM_ID}


def run(job: dict[str, Any], channel: Channel, report: Report) -> dict[str, Any]:
    """Capture, compare, compress, upload; what the operation has to tell."""
    if job.get("record"):
        # oslo.privsep, which it needs, costs a process half a second and 40 MiB.
        from cloudlet_ext.job import working_set

        working_set.require_recordable(job)
    images, cache = Images.of_job(job), BaseCache.of_job(job)
    fetch = fetch_images(images, job["base_image"], job["base_memory_image"], report)
    with scratch_folder(job) as scratch, cache.using(job["base_id"], fetch, report) as base:
        out = scratch / "overlay.cloudlet"
        with running_guest(job) as guest:
            require_over(guest.disk_path(), job["disk_below"])
            machine = guest.machine()
            DomainMachine.from_dict(base.machine).require_same(machine, "The server's machine is not its base's")
            if machine.agent:
                report.stage("trim")
                _trim(guest)
            description = guest.description
            report.stage("capture")
            plan, state, pause_s = _plan(guest, base, scratch, report)
        try:
            report.stage("compress")
            summary = write_overlay(
                out, plan, machine.to_dict(), state, level=job.get("level", "auto"), progress=report.progress
            )
        finally:
            plan.close()
        needed_first = 0
        if job.get("record"):
            with scratch_folder(job) as room:
                summary, needed_first = working_set.record(job, out, description, cache, base, room, report)
        report.stage("upload")
        images.update(job["overlay_image"], cloudlet_overlay_id=summary.overlay_id, cloudlet_base_id=base.base_id)
        images.upload(job["overlay_image"], out, report.progress)
    return {**_facts(summary), "working_set_chunks": needed_first, "pause_s": pause_s}


def require_over(disk: Path, below: str) -> None:
    """:class:`errors.ImageUnsuitable` unless a server's disk is a layer over its base's, a file called ``below``.

    Nova takes the layer away where it moves a server by a snapshot and the base's image is no more. Then nothing tells
    what the disk has lost since the base.
    """
    found = Path(qcow2.backing_path(disk) or "nothing").name
    if found != below:
        raise errors.ImageUnsuitable(
            image=disk.name,
            reason=f"it is a layer over {found}, no more over its base's disk {below}, and so does not tell what has "
            "changed; make a base of the server instead",
        )


def _facts(summary: OverlaySummary) -> dict[str, Any]:
    return {"overlay_id": summary.overlay_id, "overlay_bytes": summary.file_bytes, "level": summary.level}


def _trim(guest: DomainGuest) -> None:
    try:
        guest.monitor.agent("guest-fstrim", _TRIM_TIMEOUT_S)
    except HypervisorError:
        pass


def _plan(guest: DomainGuest, base: Base, scratch: Path, report: Report) -> tuple[OverlayPlan, bytes, float]:
    known = IndexLookup(base.index, scratch)

    def check(blocks: tuple[RamBlock, ...]) -> None:
        require_blocks([replace(block, name=_NAMES.get(block.name, block.name)) for block in blocks], base.layout)

    with (
        migration.captured(guest.process, guest.monitor, scratch, report.progress, check) as capture,
        Qcow2Image.open(guest.disk_path()) as top,
    ):
        memory = MemoryChanges(capture.memory.renamed(_NAMES), base.layout)
        pauses: list[float] = []

        def disk_done() -> None:
            """The disk was read: the guest may write to it again. Its memory was copied before."""
            if capture.was_running:
                guest.monitor.execute("cont")
            pauses.append(time.monotonic() - capture.paused_at)

        report.stage("compare")
        disk = _DiskChanges(top, base.layout)
        plan = plan_overlay(base, disk, memory, scratch, report.progress, disk_done, known)
        return plan, capture.state.encode(), pauses[0]


class _DiskChanges:
    """What a server's own layer tells, within the base's disk, as a plan's changes."""

    def __init__(self, top: Qcow2Image, layout: Layout) -> None:
        self._layers, self._name, self._layout = Qcow2Layers([top]), top.path.name, layout

    @property
    def count(self) -> int:
        """Chunks."""
        return sum(len(numbers) for numbers, _ in self.spans())

    @property
    def reader(self) -> Qcow2Layers:
        """Gives their content."""
        return self._layers

    def spans(self) -> Iterator[tuple[Numbers, NDArray[np.bool_]]]:
        """Some at a time; :class:`errors.ImageUnsuitable` at content beyond the base's disk, which no overlay holds."""
        for numbers, zero in self._layers.spans():
            inside = numbers < self._layout.disk_chunks
            if not (inside | zero).all():
                raise errors.ImageUnsuitable(
                    image=self._name,
                    reason=f"the server has written beyond its base's disk of {self._layout.disk_bytes} bytes; "
                    "make a base of the larger disk first",
                )
            yield numbers[inside], zero[inside]
