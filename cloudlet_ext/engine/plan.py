# SPDX-License-Identifier: Apache-2.0
"""Plan: what changed against the base becomes a chunk table and slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import (
    CHUNK_BYTES,
    SPAN_CHUNKS,
    ChunkReader,
    Chunks,
    Numbers,
    is_equal,
    is_zero,
)
from cloudlet_ext.engine.digest import chunk_digests
from cloudlet_ext.engine.index import DigestIndex
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.slots import SlotFile
from cloudlet_ext.engine.statistics import Statistics, count_classes
from cloudlet_ext.engine.table import ChunkKind, ChunkTable, Kinds


class BaseContent(ChunkReader, Protocol):
    """What a plan needs of a base (base.Base has it)."""

    @property
    def base_id(self) -> str: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def index(self) -> DigestIndex: ...


@dataclass(frozen=True)
class Changes:
    """Chunks that may differ from the base, disk or memory.

    ``numbers``: global, ascending, unique; ``zero`` which of them are known to be zero (they are
    never read); both shape (n,). ``reader`` gives the others' content by global number.
    """

    numbers: Numbers
    zero: NDArray[np.bool_]
    reader: ChunkReader


@dataclass(frozen=True)
class OverlayPlan:
    """What an overlay has to say: ``table`` against ``base``, ``slots`` with the stored content."""

    base: BaseContent
    table: ChunkTable
    slots: SlotFile

    @property
    def statistics(self) -> Statistics:
        """Chunks by what they are."""
        return count_classes(self.table, self.base.layout)

    def close(self) -> None:
        """Give the space of the slots back."""
        self.slots.close()

    def __enter__(self) -> OverlayPlan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def plan_overlay(
    base: BaseContent,
    disk_changes: Changes,
    memory_pages: Changes,
    scratch: Path,
    progress: Progress = no_progress,
    after_disk: Callable[[], None] = lambda: None,
) -> OverlayPlan:
    """Find out what each changed chunk is; chunks not among the changes are unchanged.

    ``scratch``: folder for the stored content (a file without a name). Reads 1 MiB at a time;
    DiskFull when the scratch folder has no room. ``after_disk`` is called when the disk's reader is
    not needed any more.
    """
    total = len(disk_changes.numbers) + len(memory_pages.numbers)
    planner = _Planner(base, SlotFile(scratch), progress, total)
    try:
        planner.add(disk_changes)
        after_disk()
        planner.add(memory_pages)
        return OverlayPlan(base, planner.table(), planner.slots)
    except BaseException:
        planner.slots.close()
        raise


class _Planner:
    def __init__(self, base: BaseContent, slots: SlotFile, progress: Progress, total: int) -> None:
        self.base = base
        self.slots = slots
        self._progress = progress
        self._total = total
        self._done = 0
        self._next = 0
        self._slot_of: dict[bytes, int] = {}
        self._parts: list[tuple[Numbers, Kinds, Numbers]] = []

    def add(self, changes: Changes) -> None:
        numbers = changes.numbers
        if len(numbers) and (numbers[0] < self._next or (np.diff(numbers) <= 0).any()):
            raise ValueError("chunk numbers must ascend without repeats, the disk's before memory's")
        self._next = int(numbers[-1]) + 1 if len(numbers) else self._next
        for first in range(0, len(changes.numbers), SPAN_CHUNKS):
            span = slice(first, first + SPAN_CHUNKS)
            numbers, zero = changes.numbers[span], changes.zero[span]
            kinds, sources = self._span(numbers, zero, changes.reader)
            named = kinds != ChunkKind.UNCHANGED
            self._parts.append((numbers[named], kinds[named], sources[named]))
            self._done += len(numbers)
            self._progress(self._done * CHUNK_BYTES, self._total * CHUNK_BYTES)

    def table(self) -> ChunkTable:
        if not self._parts:
            empty = np.empty(0, dtype=np.int64)
            return ChunkTable.from_arrays(empty, empty.astype(np.uint8), empty)
        columns = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        numbers, kinds, sources = columns
        return ChunkTable.from_arrays(numbers, kinds, sources)

    def _span(self, numbers: Numbers, zero: NDArray[np.bool_], reader: ChunkReader) -> tuple[Kinds, Numbers]:
        """Kinds and sources of at most SPAN_CHUNKS chunks."""
        kinds = np.full(len(numbers), ChunkKind.ZERO, dtype=np.uint8)
        sources = np.zeros(len(numbers), dtype=np.int64)
        in_base = self.base.index.covers(numbers)
        kinds[zero & ~in_base] = ChunkKind.UNCHANGED
        read = np.flatnonzero(~zero)
        if not len(read):
            return kinds, sources
        content = reader.read(numbers[read])
        blank = is_zero(content)
        kinds[read[blank & ~in_base[read]]] = ChunkKind.UNCHANGED
        same = np.zeros(len(read), dtype=bool)
        compared = np.flatnonzero(in_base[read] & ~blank)
        same[compared] = is_equal(content[compared], self.base.read(numbers[read[compared]]))
        kinds[read[same]] = ChunkKind.UNCHANGED
        rest = np.flatnonzero(~blank & ~same)
        if len(rest):
            kinds[read[rest]], sources[read[rest]] = self._describe(content[rest])
        return kinds, sources

    def _describe(self, content: Chunks) -> tuple[Kinds, Numbers]:
        """Kinds (BASE or STORED) and sources of chunks that are neither zero nor unchanged."""
        digests = chunk_digests(content)
        sources = self.base.index.lookup(digests)
        found = np.flatnonzero(sources >= 0)
        # The index is only a hint: what it points to is compared before it is relied upon.
        wrong = found[~is_equal(content[found], self.base.read(sources[found]))]
        sources[wrong] = -1
        kinds = np.where(sources >= 0, ChunkKind.BASE, ChunkKind.STORED).astype(np.uint8)
        stored = np.flatnonzero(kinds == ChunkKind.STORED)
        if len(stored):
            sources[stored] = self._slots(content, digests, stored)
        return kinds, sources

    def _slots(self, content: Chunks, digests: NDArray[np.uint8], stored: Numbers) -> Numbers:
        keys = digests[stored].tobytes()
        slots, fresh = [], []
        following = self.slots.slots
        for row, at in enumerate(range(0, len(keys), 16)):
            slot = self._slot_of.setdefault(keys[at : at + 16], following)
            if slot == following:
                fresh.append(row)
                following += 1
            slots.append(slot)
        self.slots.append(content[stored[fresh]])
        return np.array(slots, dtype=np.int64)
