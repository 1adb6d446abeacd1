# SPDX-License-Identifier: Apache-2.0
"""Write overlays: slots in the order in which they will be wanted, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Numbers
from cloudlet_ext.engine.compression import Content, compress_all
from cloudlet_ext.engine.container import SegmentSpool, write_container
from cloudlet_ext.engine.header import HEADER_BYTES, OVERLAY
from cloudlet_ext.engine.level import AUTO, choose_level
from cloudlet_ext.engine.manifest import (
    CHUNKS,
    DEVICE,
    LARGE_SEGMENT_SLOTS,
    ORDER,
    SECTIONS,
    SEGMENT_SLOTS,
    TABLE,
    WORKING_SET,
    Manifest,
)
from cloudlet_ext.engine.order import encode_order, merge_orders
from cloudlet_ext.engine.output import atomic_output, no_space_named
from cloudlet_ext.engine.overlay import OverlayFile, segment_prefix
from cloudlet_ext.engine.plan import BaseContent, OverlayPlan
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.similarity import leaders
from cloudlet_ext.engine.slots import SlotFile
from cloudlet_ext.engine.statistics import Statistics
from cloudlet_ext.engine.table import ChunkKind, ChunkTable

_LARGE_LEVEL = 10
"""Who asks for such a level asks for the smallest file: 4 MiB segments save another 3 % of a numpy
service's overlay at level 19 (40.6 -> 39.4 MB; zstd --patch-from: 37.3 MB), for coarser fetching."""


@dataclass(frozen=True)
class OverlaySummary:
    """What was written; ``file_bytes`` its size, ``level`` that of zstd."""

    path: Path
    overlay_id: str
    file_bytes: int
    level: int
    statistics: Statistics


@dataclass(frozen=True)
class _Group:
    """Slots (final numbers) of one segment."""

    section: str
    first_slot: int
    slots: int


def write_overlay(
    out: Path,
    plan: OverlayPlan,
    machine: dict[str, Any],
    device_state: bytes,
    *,
    level: int | str = AUTO,
    order: Numbers | None = None,
    replace: bool = False,
    progress: Progress = no_progress,
) -> OverlaySummary:
    """Write ``plan`` to the file ``out``.

    ``level``: 1 to 19 or "auto"; ``order``: the working set, if one was recorded. Nothing is left
    behind on failure. Raises OutputExists, OutputBusy, DiskFull.
    """
    order = np.empty(0, dtype=np.int64) if order is None else order
    slot_at, edges = _arrange(plan, order)
    moved = np.empty_like(slot_at)
    moved[slot_at] = np.arange(len(slot_at))
    table = plan.table.with_slots(moved)
    large = level != AUTO and int(level) >= _LARGE_LEVEL
    groups = _groups(edges, LARGE_SEGMENT_SLOTS if large else SEGMENT_SLOTS)
    tasks = [_task(group, slot_at, plan, table) for group in groups]
    with atomic_output(out, replace) as fd, no_space_named(out), SegmentSpool(out) as spool:
        chosen = choose_level(level, tasks)
        spool.add_content(TABLE, table.encode(), max(chosen, 9))
        spool.add_content(DEVICE, device_state, chosen)
        if len(order):
            spool.add_content(ORDER, encode_order(order), max(chosen, 9))
        done = 0
        frames = compress_all(tasks, chosen, large)
        for group, (content, stored) in zip(groups, frames, strict=True):
            has_prefix = bool(content.prefix)
            spool.add(CHUNKS, stored, len(content.data), group.section, group.slots, has_prefix)
            done += len(content.data)
            progress(done, plan.slots.slots * CHUNK_BYTES)
        manifest = Manifest(plan.base.base_id, plan.base.layout, machine, tuple(spool.segments))
        header = write_container(fd, OVERLAY, manifest, spool)
        file_bytes = HEADER_BYTES + header.manifest_stored_bytes + spool.stored_bytes
    return OverlaySummary(out, header.manifest_digest.hex(), file_bytes, chosen, plan.statistics)


def reorder_overlay(
    overlay: OverlayFile,
    base: BaseContent,
    orders: list[Numbers],
    out: Path,
    *,
    level: int | str = AUTO,
    replace: bool = False,
    progress: Progress = no_progress,
) -> OverlaySummary:
    """Write ``overlay`` again to ``out`` with the union of ``orders`` and its own as working set.

    ``out`` may be the overlay's own path with ``replace``. A signature does not survive: the
    content is another.
    """
    with SlotFile(out.parent) as slots:
        for segment in overlay.chunk_segments:
            data = overlay.unpack(segment, overlay.container.fetch(segment), base)
            slots.append(np.frombuffer(data, dtype=np.uint8).reshape(-1, CHUNK_BYTES))
        plan = OverlayPlan(base, overlay.table, slots)
        return write_overlay(
            out,
            plan,
            overlay.machine,
            overlay.load_device(),
            level=level,
            order=merge_orders([overlay.load_order(), *orders]),
            replace=replace,
            progress=progress,
        )


def _arrange(plan: OverlayPlan, order: Numbers) -> tuple[Numbers, list[int]]:
    """Old slot at each new slot, shape (slots,), and where the sections begin and end.

    The working set by rank; then by home, each chunk next to the one of lowest home that it
    resembles.
    """
    table, disk_chunks = plan.table, plan.base.layout.disk_chunks
    homes = table.homes.of(np.arange(table.slots))
    by_home = np.argsort(homes, kind="stable")
    lead = np.empty_like(by_home)
    lead[by_home] = by_home[leaders(len(by_home), lambda numbers: plan.slots.read(by_home[numbers]))]
    beside = homes[lead]
    last = np.iinfo(np.int64).max
    ranks = np.full(table.slots, last)
    kinds, sources = table.lookup(order)
    needed = np.flatnonzero(kinds == ChunkKind.STORED)
    np.minimum.at(ranks, sources[needed], needed)
    section = np.where(ranks < last, 0, np.where(beside < disk_chunks, 1, 2))
    slot_at = np.lexsort((homes, beside, ranks, section))
    return slot_at, np.searchsorted(section[slot_at], [0, 1, 2, 3]).tolist()


def _groups(edges: list[int], most: int) -> list[_Group]:
    """Segments of at most ``most`` slots; those of the working set are small, to come soon."""
    groups: list[_Group] = []
    for section, first, end in zip(SECTIONS, edges[:-1], edges[1:], strict=True):
        size = SEGMENT_SLOTS if section == WORKING_SET else most
        groups += [_Group(section, at, min(size, end - at)) for at in range(first, end, size)]
    return groups


def _task(group: _Group, slot_at: Numbers, plan: OverlayPlan, table: ChunkTable) -> Callable[[], Content]:
    def content() -> Content:
        slots = slot_at[group.first_slot : group.first_slot + group.slots]
        homes = table.homes.of(np.arange(group.first_slot, group.first_slot + group.slots))
        return Content(plan.slots.read(slots).tobytes(), segment_prefix(homes, plan.base))

    return content
