# SPDX-License-Identifier: Apache-2.0
"""Overlay creation: what a server has become, told as the difference to its base."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import Chunks, Numbers
from cloudlet_ext.engine.index import IndexLookup
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.output import check_output
from cloudlet_ext.engine.overlay_writer import OverlaySummary, write_overlay
from cloudlet_ext.engine.plan import OverlayPlan, plan_overlay
from cloudlet_ext.engine.qcow2 import Qcow2Image, Qcow2Layers
from cloudlet_ext.hypervisor import migration
from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.hypervisor.capture import CapturedMemory
from cloudlet_ext.hypervisor.errors import HypervisorError, MachineMismatch
from cloudlet_ext.hypervisor.migration import CapturedState
from cloudlet_ext.hypervisor.stream import ROM, RamBlock
from cloudlet_ext.worker import clone, errors, overlay_care, server
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report

RUNNING, STOPPED, DELETED = "running", "stopped", "deleted"
_TRIM_TIMEOUT_S = 30.0
_NOWHERE = -1


@dataclass(frozen=True)
class OverlayResult:
    """An overlay that was written. ``pause_s``: how long the guest stood still for it."""

    summary: OverlaySummary
    create_s: float
    pause_s: float
    base_id: str


def require_blocks(blocks: Iterable[RamBlock], layout: Layout) -> None:
    """:class:`MachineMismatch` unless a guest's memory blocks are those of the base.

    A network card that was put in again has no boot ROM, and has one when the guest was booted since. So the guest may
    lack ROMs of the base, which did not change, and may have others, which are left to QEMU to load.
    """
    known = {region.name for region in layout.memory}
    found = [(block.name, block.pages) for block in blocks if block.name in known or not block.name.endswith(ROM)]
    expected = [
        (region.name, region.chunks)
        for region in layout.memory
        if (region.name, region.chunks) in found or not region.name.endswith(ROM)
    ]
    if expected != found:
        raise MachineMismatch(
            what="The server's memory does not fit its base", field="blocks", expected=expected, found=found
        )


class MemoryChanges:
    """What a capture tells of the base's memory regions, as a plan's changes."""

    def __init__(self, memory: CapturedMemory, layout: Layout) -> None:
        """See :func:`require_blocks`."""
        require_blocks(memory.blocks, layout)
        self._memory = memory
        known = {region.name: layout.start(region.name) for region in layout.memory}
        self._pages = np.cumsum([0, *(block.pages for block in memory.blocks)])[:-1]
        """The first page of each block."""
        self._chunks = np.array([known.get(block.name, _NOWHERE) for block in memory.blocks])
        """The first chunk of its region."""
        self._of_base = np.flatnonzero(self._chunks != _NOWHERE)
        """The numbers of the blocks that the base has, too."""

    @property
    def count(self) -> int:
        """Pages that were sent."""
        return sum(len(numbers) for numbers, _ in self.spans())

    @property
    def reader(self) -> MemoryChanges:
        """Gives their content."""
        return self

    def spans(self) -> Iterator[tuple[Numbers, NDArray[np.bool_]]]:
        """Their chunk numbers, and which of them are zero; some at a time."""
        for numbers, zero in self._memory.sent():
            block = np.searchsorted(self._pages, numbers, side="right") - 1
            told = self._chunks[block] != _NOWHERE
            if told.any():
                yield (numbers - self._pages[block] + self._chunks[block])[told], zero[told]

    def read(self, numbers: Numbers) -> Chunks:
        """Captured pages by chunk number, shape (n, 4096)."""
        row = np.searchsorted(self._chunks[self._of_base], numbers, side="right") - 1
        block = self._of_base[row]
        return self._memory.read(numbers - self._chunks[block] + self._pages[block])


def create_overlay(
    home: Home,
    server_name: str,
    out: Path,
    *,
    keep: str,
    level: int | str,
    report: Report,
    trim: bool = True,
    overwrite: bool = False,
) -> OverlayResult:
    """Make an overlay of a running server. After a failure the server goes on as before.

    :class:`errors.Busy` while another operation has the server, or changes the overlay that is to be replaced.
    """
    check_output(out, overwrite)
    with contextlib.ExitStack() as alone:
        if out.exists():
            alone.enter_context(overlay_care.changing(out))
        alone.enter_context(home.lock("server", server_name))
        guest = server.load_running(home, server_name)
        if guest.record.state != "running":
            raise errors.Busy(what="server", name=server_name, pid=guest.record.owner[0])
        if guest.record.base_id is None:
            raise errors.BaseMissing(overlay=server_name, base_id="none", known="")
        _, base = home.find_base(guest.record.base_id, server_name)
        began = report.elapsed_s
        with base, contextlib.closing(guest), guest.end_named():
            has_agent = clone.has_agent(guest)
            if trim and has_agent:
                report.stage("trim")
                _trim(guest, report)
            report.stage("capture")
            with _plan(home, guest, base, keep, report) as planned:
                report.stage("compress")
                machine = replace(guest.machine, mac=guest.record.mac, agent=has_agent).to_dict()
                summary = write_overlay(
                    out, planned.plan, machine, planned.state, level=level, replace=overwrite, progress=report.progress
                )
            if keep == DELETED:
                guest.destroy()
            return OverlayResult(summary, report.elapsed_s - began, planned.pause_s, base.base_id)


class _Planned:
    """A plan, the device state beside it, and the guest's pause in seconds.

    As a context: a guest that stands still since its capture goes on when the block does not end well.
    """

    def __init__(self, guest: server.Server, capture: CapturedState, plan: OverlayPlan, pause_s: float) -> None:
        self.plan, self.state, self.pause_s = plan, capture.state.encode(), pause_s
        self._guest, self._was_running = guest, capture.was_running

    def __enter__(self) -> _Planned:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.plan.close()
        if kind is not None and self._was_running:
            with contextlib.suppress(HypervisorError):
                if self._guest.monitor.status() == "postmigrate":
                    self._guest.monitor.execute("cont")


def _plan(home: Home, guest: server.Server, base: Base, keep: str, report: Report) -> _Planned:
    known = IndexLookup(base.index, home.scratch)
    check = partial(require_blocks, layout=base.layout)
    with (
        migration.captured(guest.process, guest.monitor, home.scratch, report.progress, check) as capture,
        contextlib.ExitStack() as opened,
    ):
        memory = MemoryChanges(capture.memory, base.layout)
        layers = Qcow2Layers([opened.enter_context(Qcow2Image.open(path)) for path in guest.layers])
        pauses: list[float] = []

        def disk_done() -> None:
            """The disk was read: the guest may write to it again. Its memory was copied before."""
            if keep == RUNNING and capture.was_running:
                guest.monitor.execute("cont")
            pauses.append(time.monotonic() - capture.paused_at)

        report.stage("compare")
        plan = plan_overlay(base, layers, memory, home.scratch, report.progress, disk_done, known)
        return _Planned(guest, capture, plan, pauses[0])


def _trim(guest: server.Server, report: Report) -> None:
    """Have the guest tell which disk blocks it does not use; those that it does not tell count as used."""
    try:
        with GuestAgent(guest.agent_path, _TRIM_TIMEOUT_S) as agent:
            agent.execute("guest-fstrim", timeout_s=_TRIM_TIMEOUT_S)
    except HypervisorError as failure:
        report.note(f"disk blocks that are free count as used: {failure}")
