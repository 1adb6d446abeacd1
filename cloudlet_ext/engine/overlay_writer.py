# SPDX-License-Identifier: Apache-2.0
"""Write overlays: slots in the order in which they will be wanted, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cloudlet_ext.engine.arrangement import Arrangement, arrange
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
    SEGMENTS_LIMIT,
    WORKING_SET,
    Manifest,
)
from cloudlet_ext.engine.order import encode_order, merge_orders
from cloudlet_ext.engine.output import atomic_output, no_space_named
from cloudlet_ext.engine.overlay import OverlayFile, segment_prefix
from cloudlet_ext.engine.plan import BaseContent, OverlayPlan
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.slots import SlotFile
from cloudlet_ext.engine.statistics import Statistics

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
    """Places of the slots of one segment."""

    section: str
    first: int
    slots: int


class _Groups:
    """Segments of at most ``most`` slots; those of the working set are small, to come soon. Made when asked for."""

    def __init__(self, edges: tuple[int, int, int, int], most: int) -> None:
        self._parts: list[tuple[int, str, int, int, int]] = []
        count = 0
        for section, first, end in zip(SECTIONS, edges[:-1], edges[1:], strict=True):
            size = SEGMENT_SLOTS if section == WORKING_SET else most
            self._parts.append((count, section, first, end, size))
            count += -(-(end - first) // size)
        self._count = count
        self.is_large = most > SEGMENT_SLOTS

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Group]:
        return (self[number] for number in range(self._count))

    def __getitem__(self, number: int) -> _Group:
        before, section, first, end, size = next(part for part in reversed(self._parts) if part[0] <= number)
        at = first + (number - before) * size
        return _Group(section, at, min(size, end - at))


class _Tasks:
    """What there is to compress, segment by segment; made when asked for."""

    def __init__(self, groups: _Groups, plan: OverlayPlan, arranged: Arrangement) -> None:
        self._groups, self._plan, self._arranged = groups, plan, arranged

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Callable[[], Content]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Callable[[], Content]:
        return partial(self._content, self._groups[number])

    def _content(self, group: _Group) -> Content:
        places = slice(group.first, group.first + group.slots)
        prefix = segment_prefix(self._arranged.homes[places], self._plan.base)
        return Content(self._plan.slots.read(self._arranged.slots[places]).tobytes(), prefix)


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
    behind on failure. Raises OutputExists, OutputBusy, DiskFull; TooLarge, if no reader would take it.

    It takes 250 MB of memory, whatever the size of the plan.
    """
    order = np.empty(0, dtype=np.int64) if order is None else order
    with atomic_output(out, replace) as fd, no_space_named(out), SegmentSpool(out) as spool:
        arranged = arrange(plan, order)
        groups = _grouped(arranged, level)
        tasks = _Tasks(groups, plan, arranged)
        chosen = choose_level(level, tasks)
        spool.add_table(arranged.table, max(chosen, 9), plan.slots.folder)
        spool.add_content(DEVICE, device_state, chosen)
        if len(order):
            spool.add_content(ORDER, encode_order(order), max(chosen, 9))
        done = 0
        frames = compress_all(tasks, chosen, groups.is_large)
        for group, (content, stored) in zip(groups, frames, strict=True):
            has_prefix = bool(content.prefix)
            spool.add(CHUNKS, stored, len(content.data), group.section, group.slots, has_prefix)
            done += len(content.data)
            progress(done, plan.slots.slots * CHUNK_BYTES)
        manifest = Manifest(plan.base.base_id, plan.base.layout, machine, tuple(spool.segments))
        header = write_container(fd, OVERLAY, manifest, spool)
        file_bytes = HEADER_BYTES + header.manifest_stored_bytes + spool.stored_bytes
    return OverlaySummary(out, header.manifest_digest.hex(), file_bytes, chosen, plan.statistics)


def _grouped(arranged: Arrangement, level: int | str) -> _Groups:
    """Large segments for who asks for the smallest file, or where small ones would be too many."""
    if level == AUTO or int(level) < _LARGE_LEVEL:
        groups = _Groups(arranged.edges, SEGMENT_SLOTS)
        if len(groups) <= SEGMENTS_LIMIT // 2:
            return groups
    return _Groups(arranged.edges, LARGE_SEGMENT_SLOTS)


def reorder_overlay(
    overlay: OverlayFile,
    base: BaseContent,
    orders: list[Numbers],
    out: Path,
    scratch: Path,
    *,
    level: int | str = AUTO,
    replace: bool = False,
    progress: Progress = no_progress,
) -> OverlaySummary:
    """Write ``overlay`` again to ``out`` with the union of ``orders`` and its own as working set.

    ``out`` may be the overlay's own path with ``replace``. A signature does not survive: the
    content is another. ``scratch``: folder for all of the content, unpacked; DiskFull.
    """
    with SlotFile(scratch) as slots:
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
