# SPDX-License-Identifier: Apache-2.0
"""Plan: what changed against the base becomes a chunk table and slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import (
    CHUNK_BYTES,
    PIECE_CHUNKS,
    ChunkReader,
    Chunks,
    Numbers,
    is_equal,
    is_zero,
    regrouped,
)
from cloudlet_ext.engine.digest import chunk_digests
from cloudlet_ext.engine.digest_table import DigestTable, digest_words
from cloudlet_ext.engine.index import DigestIndex, IndexLookup
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.scratch import Column
from cloudlet_ext.engine.slots import SlotFile
from cloudlet_ext.engine.statistics import Statistics, count_classes
from cloudlet_ext.engine.table import ChunkKind, ChunkTable, Kinds
from cloudlet_ext.engine.table_builder import TableBuilder

_SPAN_CHUNKS = 512
"""Chunks that are looked at together: 2 MiB. Measured at 512 MiB of mostly new content: 1.39, 1.30, 1.57 s of one core
with 256, 512, 1024."""


class BaseContent(ChunkReader, Protocol):
    """What a plan needs of a base (base.Base has it)."""

    @property
    def base_id(self) -> str: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def index(self) -> DigestIndex: ...


class ChangeSource(Protocol):
    """Chunks that may differ from the base, disk or memory."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def reader(self) -> ChunkReader:
        """Gives their content by global number."""
        ...

    def spans(self) -> Iterator[tuple[Numbers, NDArray[np.bool_]]]:
        """Some at a time: global numbers, ascending and unique, and which of these are known to be zero (they are
        never read); both shape (n,)."""
        ...


@dataclass(frozen=True)
class Changes:
    """The same of arrays, shape (n,), which are as long as there are chunks."""

    numbers: Numbers
    zero: NDArray[np.bool_]
    reader: ChunkReader

    @property
    def count(self) -> int:
        """Chunks."""
        return len(self.numbers)

    def spans(self) -> Iterator[tuple[Numbers, NDArray[np.bool_]]]:
        """Some at a time."""
        for first in range(0, len(self.numbers), PIECE_CHUNKS):
            yield self.numbers[first : first + PIECE_CHUNKS], self.zero[first : first + PIECE_CHUNKS]


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
    disk_changes: ChangeSource,
    memory_pages: ChangeSource,
    scratch: Path,
    progress: Progress = no_progress,
    after_disk: Callable[[], None] = lambda: None,
    known: IndexLookup | None = None,
) -> OverlayPlan:
    """Find out what each changed chunk is; chunks not among the changes are unchanged.

    ``scratch``: folder for the stored content, the table and the digests (files without names), 4.2 kB for each stored
    chunk; none of it is in this process's memory. Reads 2 MiB at a time; DiskFull when the scratch folder has no room.
    ``after_disk`` is called when the disk's reader is not needed any more. ``known``: of the base's index; whoever has
    a guest stand still meanwhile makes it before, since it takes the longer the larger the base is.
    """
    known = known or IndexLookup(base.index, scratch)
    planner = _Planner(base, known, scratch, progress, disk_changes.count + memory_pages.count)
    try:
        planner.add(disk_changes)
        after_disk()
        planner.add(memory_pages)
        return OverlayPlan(base, planner.table.table(), planner.slots)
    except BaseException:
        planner.slots.close()
        raise
    finally:
        planner.close()


class _Planner:
    def __init__(self, base: BaseContent, known: IndexLookup, scratch: Path, progress: Progress, total: int) -> None:
        self.base = base
        self.slots = SlotFile(scratch)
        self.table = TableBuilder(scratch)
        self._known = known
        self._digests = digests = Column(scratch, np.uint64, 2)
        # Not of this planner: what refers to itself would keep its scratch files.
        self._slot_of = DigestTable(scratch, lambda: digests.rows)
        self._progress = progress
        self._total = total
        self._done = 0
        self._next = 0

    def close(self) -> None:
        """Give back what only planning needs."""
        self.table.close()
        self._digests.close()

    def add(self, changes: ChangeSource) -> None:
        for numbers, zero in regrouped(changes.spans(), _SPAN_CHUNKS):
            if numbers[0] < self._next or (np.diff(numbers) <= 0).any():
                raise ValueError("chunk numbers must ascend without repeats, the disk's before memory's")
            self._next = int(numbers[-1]) + 1
            kinds, sources = self._span(numbers, zero, changes.reader)
            named = kinds != ChunkKind.UNCHANGED
            self.table.add(numbers[named], kinds[named], sources[named])
            self._done += len(numbers)
            self._progress(self._done * CHUNK_BYTES, self._total * CHUNK_BYTES)

    def _span(self, numbers: Numbers, zero: NDArray[np.bool_], reader: ChunkReader) -> tuple[Kinds, Numbers]:
        """Kinds and sources of at most _SPAN_CHUNKS chunks."""
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
        sources = self._known.find(digests)
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
        words = digest_words(digests[stored])
        first = len(self._digests)
        self._digests.append(words)
        slots, fresh = self._slot_of.add_new(first, len(words))
        self._digests.truncate(first)
        self._digests.append(words[fresh])
        self.slots.append(content[stored[fresh]])
        return slots
