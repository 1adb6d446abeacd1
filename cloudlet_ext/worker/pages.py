# SPDX-License-Identifier: Apache-2.0
"""Pages of a target for QEMU: what goes into a mapped base, and what an early start is fed with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import SPAN_CHUNKS, Numbers
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.table import ChunkKind, ChunkTable
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor.resume import PageRun
from cloudlet_ext.hypervisor.stream import RamBlock


def ram_blocks(layout: Layout, names: Mapping[str, str] | None = None) -> tuple[RamBlock, ...]:
    """The memory regions as QEMU's blocks; ``names`` says what QEMU calls regions that it has under another name."""
    names = names or {}
    return tuple(RamBlock(names.get(region.name, region.name), region.chunks * 4096) for region in layout.memory)


def renamed(changes: Iterator[PageRun], names: Mapping[str, str]) -> Iterator[PageRun]:
    """The same with QEMU's names of the blocks."""
    for block, numbers, contents in changes:
        yield names.get(block, block), numbers, contents


def rom_pages(base: Base) -> Iterator[PageRun]:
    """All pages of the small blocks of a base: these are not mapped."""
    layout = base.layout
    for region in layout.memory[1:]:
        first = layout.start(region.name)
        yield region.name, np.arange(region.chunks), base.read(np.arange(first, first + region.chunks))


def differing_pages(view: TargetView, layout: Layout) -> Iterator[PageRun]:
    """What a mapped base needs to become the target: changed pages of the main block, all pages of the others."""
    numbers, kinds, _ = view.table.expand()
    main = layout.memory[0]
    first = layout.start(main.name)
    inside = (numbers >= first) & (numbers < first + main.chunks)
    zero = numbers[inside & (kinds == ChunkKind.ZERO)]
    if len(zero):
        yield main.name, zero - first, None
    full = numbers[inside & (kinds != ChunkKind.ZERO)]
    yield from _read(view, main.name, first, full)
    for region in layout.memory[1:]:
        first = layout.start(region.name)
        yield from _read(view, region.name, first, np.arange(first, first + region.chunks))


def _read(view: TargetView, block: str, first: int, numbers: Numbers) -> Iterator[PageRun]:
    for begin in range(0, len(numbers), SPAN_CHUNKS):
        span = numbers[begin : begin + SPAN_CHUNKS]
        yield block, span - first, view.read(span)


_HOLD_S = 1.0
"""How long pages of the base that are not in the recorded working set are held back, unless the guest answers."""


class MemorySupply:
    """Feeds an early start: pages of the working set first, then what arrives, then the base's pages.

    Page numbers are chunk numbers less those of the disk.
    """

    def __init__(
        self, base: Base, table: ChunkTable, view: TargetView, store: SlotStore, fetcher: Fetcher, order: Numbers
    ) -> None:
        self._offset = base.layout.disk_chunks
        self._view, self._store, self._fetcher = view, store, fetcher
        numbers, kinds, sources = table.expand()
        memory = numbers >= self._offset
        numbers, kinds, sources = numbers[memory], kinds[memory], sources[memory]
        in_base = base.index.numbers
        in_base = in_base[in_base >= self._offset]
        unchanged = np.setdiff1d(in_base, numbers, assume_unique=True)
        stored = kinds == ChunkKind.STORED
        here = np.union1d(unchanged, numbers[kinds == ChunkKind.BASE])
        early = order[np.isin(order, here)]
        rest = np.setdiff1d(here, early, assume_unique=True)
        self._here = np.concatenate((early, rest)) - self._offset
        self._early = len(early)
        self._given = 0
        # Pages that nobody has asked for yet would compete with the guest for the cores.
        self._released_at = time.monotonic() + (_HOLD_S if len(order) else 0.0)
        segments = store.segment_of(sources[stored]) if stored.any() else np.empty(0, np.int64)
        by_segment = np.argsort(segments, kind="stable")
        self._stored = numbers[stored][by_segment] - self._offset
        self._segments = segments[by_segment]
        self._arrivals = 0
        self._arrived: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._pushed_stored = 0

    def ready(self, pages: Numbers) -> NDArray[np.bool_]:
        """Which pages can be given now."""
        return self._view.ready(pages + self._offset)

    def zero(self, pages: Numbers) -> NDArray[np.bool_]:
        """Which pages are zero."""
        return self._view.zero(pages + self._offset)

    def contents(self, pages: Numbers) -> NDArray[np.uint8]:
        """Content of ready pages."""
        return self._view.read(pages + self._offset)

    def want(self, pages: Numbers) -> None:
        """Fetch the segments of these pages first."""
        self._fetcher.want(self._view.segments(pages + self._offset))

    def push(self, limit: int) -> Numbers:
        """The next pages to push."""
        if self._given < self._early:
            return self._next_here(min(limit, self._early - self._given))
        if not len(self._arrived):
            self._collect()
        if len(self._arrived):
            now, self._arrived = self._arrived[:limit], self._arrived[limit:]
            self._pushed_stored += len(now)
            return now
        if time.monotonic() < self._released_at:
            return self._here[:0]
        return self._next_here(limit)

    def release(self) -> None:
        """The guest has answered: push what it has not asked for."""
        self._released_at = 0.0

    def exhausted(self) -> bool:
        """Whether all pages that are not zero were given."""
        return self._given == len(self._here) and self._pushed_stored == len(self._stored)

    def _next_here(self, limit: int) -> Numbers:
        now = self._here[self._given : self._given + limit]
        self._given += len(now)
        return now

    def _collect(self) -> None:
        """Pages of the segments that have arrived since the last time."""
        while self._arrivals < len(self._store.arrivals) and not len(self._arrived):
            segment = self._store.arrivals[self._arrivals]
            self._arrivals += 1
            first, last = np.searchsorted(self._segments, [segment, segment + 1])
            self._arrived = self._stored[first:last]
