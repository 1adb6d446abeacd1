# SPDX-License-Identifier: Apache-2.0
"""Pages of a target for QEMU: what goes into a mapped base, and what an early start is fed with."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import PIECE_CHUNKS, SPAN_CHUNKS, Numbers, ranges
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
    main = layout.memory[0]
    first = layout.start(main.name)
    for numbers, kinds, _ in view.table.within(first, first + main.chunks).pieces():
        zero = kinds == ChunkKind.ZERO
        if zero.any():
            yield main.name, numbers[zero] - first, None
        yield from _read(view, main.name, first, numbers[~zero])
    for region in layout.memory[1:]:
        first = layout.start(region.name)
        yield from _read(view, region.name, first, np.arange(first, first + region.chunks))


def _read(view: TargetView, block: str, first: int, numbers: Numbers) -> Iterator[PageRun]:
    for begin in range(0, len(numbers), SPAN_CHUNKS):
        span = numbers[begin : begin + SPAN_CHUNKS]
        yield block, span - first, view.read(span)


_HOLD_S = 1.0
"""How long pages of the base that are not in the recorded working set are held back, unless the guest answers."""


class _Arriving:
    """Pages by the segments that bring them.

    It takes memory for the runs of the table and for the segments, not for the pages. Where too many runs lie in many
    segments each, as in no honest file, the rest is late: these pages are given when all segments are here.
    """

    def __init__(self, table: ChunkTable, store: SlotStore, offset: int, end: int) -> None:
        columns: list[tuple[NDArray[np.int32], ...]] = [(np.empty(0, dtype=np.int32),) * 3]
        self._late: list[ChunkTable] = []
        room = 2 * store.segments
        for part in table.parts():
            part = part.within(offset, end)
            part = part.picked(part.kinds == ChunkKind.STORED)
            room += 2 * part.entries
            spanned = np.cumsum(store.spanned(part.sources, part.counts))
            early = int(np.searchsorted(spanned, room, side="right"))
            room -= int(spanned[early - 1]) if early else 0
            now = part.picked(slice(early))
            if early < part.entries:
                self._late.append(part.picked(slice(early, None)))
            run, place, counts, segments = store.divide(now.sources, now.counts)
            columns.append(tuple(one.astype(np.int32) for one in (segments, now.starts[run] + place - offset, counts)))
        self._segments, self._starts, self._counts = (np.concatenate(column) for column in zip(*columns, strict=True))
        del columns
        by_segment = np.argsort(self._segments, kind="stable")
        self._segments = self._segments[by_segment]
        self._starts, self._counts = self._starts[by_segment], self._counts[by_segment]
        self.count = int(self._counts.sum(dtype=np.int64)) + sum(part.chunks for part in self._late)
        self._offset = offset

    def of(self, segment: int) -> Iterator[Numbers]:
        """Pages that ``segment`` brings, in pieces."""
        rows = slice(*np.searchsorted(self._segments, [segment, segment + 1]))
        starts, counts = self._starts[rows].astype(np.int64), self._counts[rows].astype(np.int64)
        nothing = np.zeros(len(starts), dtype=np.int64)
        runs = ChunkTable(starts, counts, nothing.astype(np.uint8), nothing)
        for pages, _, _ in runs.pieces():
            yield pages

    def late(self) -> Iterator[Numbers]:
        """Pages that are given when all segments are here, in pieces."""
        for part in self._late:
            for numbers, _, _ in part.pieces():
                yield numbers - self._offset


class MemorySupply:
    """Feeds an early start: pages of the working set first, then what arrives, then the base's pages.

    The small blocks come before all: each goes with its device, as with a network card that the guest gives up, and a
    page of a block that is no more ends the stream. Page numbers are chunk numbers less those of the disk.
    """

    def __init__(
        self, base: Base, table: ChunkTable, view: TargetView, store: SlotStore, fetcher: Fetcher, order: Numbers
    ) -> None:
        self._offset = base.layout.disk_chunks
        self._base, self._view, self._store, self._fetcher = base, view, store, fetcher
        self._table, self._end = table, base.layout.total_chunks
        main = base.layout.memory[0]
        small = self._offset + main.chunks
        needed = order[(order >= self._offset) & (order < small)]
        blocks = self._here(ranges(small, self._end))
        first = self._here(needed[begin : begin + PIECE_CHUNKS] for begin in range(0, len(needed), PIECE_CHUNKS))
        early = np.concatenate((blocks, first))
        self._small: Numbers = blocks - self._offset
        self._early: Numbers = first - self._offset
        self._arriving = _Arriving(table, store, self._offset, self._end)
        self._rest = self._pieces(np.sort(early))
        self._next: Numbers = np.empty(0, dtype=np.int64)
        self._is_over = False
        # Pages that nobody has asked for yet would compete with the guest for the cores.
        self._released_at = time.monotonic() + (_HOLD_S if len(order) else 0.0)
        self._arrivals = 0
        self._coming: Iterator[Numbers] = iter(())
        self._late: Iterator[Numbers] | None = self._arriving.late()
        self._arrived: Numbers = np.empty(0, dtype=np.int64)
        self._pushed_stored = 0

    def _here(self, pieces: Iterable[Numbers]) -> Numbers:
        """Those that are the base's and not zero."""
        return np.concatenate([np.empty(0, dtype=np.int64), *(piece[self._is_here(piece)] for piece in pieces)])

    def _is_here(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which chunks of the memory are the base's and not zero; shape (n,)."""
        kinds, _ = self._table.lookup(numbers)
        unchanged = (kinds == ChunkKind.UNCHANGED) & self._base.index.covers(numbers)
        return np.asarray(unchanged | (kinds == ChunkKind.BASE))

    def _pieces(self, early: Numbers) -> Iterator[Numbers]:
        """All pages that are here but for the chunks ``early``, which ascend; some at a time."""
        known = self._base.index.numbers
        for numbers in ranges(self._offset, self._end):
            edges = numbers[0], numbers[-1] + 1
            if not np.diff(np.searchsorted(known, edges))[0] and not self._table.within(*edges).entries:
                continue
            here = self._is_here(numbers)
            here[early[slice(*np.searchsorted(early, edges))] - numbers[0]] = False
            if here.any():
                yield numbers[here] - self._offset

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
        if len(self._small):
            return self.push_small(limit)
        if len(self._early):
            now, self._early = self._early[:limit], self._early[limit:]
            return now
        if not len(self._arrived):
            self._collect()
        if len(self._arrived):
            now, self._arrived = self._arrived[:limit], self._arrived[limit:]
            self._pushed_stored += len(now)
            return now
        if time.monotonic() < self._released_at:
            return self._next[:0]
        if not len(self._next):
            self._next = next(self._rest, self._next)
            self._is_over = not len(self._next)
        now, self._next = self._next[:limit], self._next[limit:]
        return now

    def push_small(self, limit: int) -> Numbers:
        """The same of the small blocks alone."""
        now, self._small = self._small[:limit], self._small[limit:]
        return now

    def release(self) -> None:
        """The guest has answered: push what it has not asked for."""
        self._released_at = 0.0

    def exhausted(self) -> bool:
        """Whether all pages that are not zero were given, and push() has found nothing more."""
        return (
            self._is_over
            and not len(self._small)
            and not len(self._early)
            and self._pushed_stored == self._arriving.count
        )

    def _collect(self) -> None:
        """Pages of the segments that have arrived since the last time."""
        self._arrived = next(self._coming, self._arrived)
        while not len(self._arrived):
            if self._arrivals < len(self._store.arrivals):
                self._coming = self._arriving.of(self._store.arrivals[self._arrivals])
                self._arrivals += 1
            elif self._store.is_complete and self._late is not None:
                self._coming, self._late = self._late, None
            else:
                return
            self._arrived = next(self._coming, self._arrived)
