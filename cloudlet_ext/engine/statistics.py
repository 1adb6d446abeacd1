# SPDX-License-Identifier: Apache-2.0
"""Statistics: what the chunks of a target are, counted and as an array for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.table import ChunkKind, ChunkTable


class ChunkClass(IntEnum):
    """Where the content of a chunk comes from; in the order of a legend."""

    UNCHANGED = 0
    ZERO = 1
    BASE_MEMORY = 2
    BASE_DISK = 3
    SAME_OVERLAY = 4
    """Equal to a stored chunk with a lower number."""
    STORED = 5


@dataclass(frozen=True)
class Statistics:
    """Chunks by class (counts, not bytes)."""

    unchanged: int
    zero: int
    base_memory: int
    base_disk: int
    same_overlay: int
    stored: int


def chunk_classes(table: ChunkTable, layout: Layout) -> NDArray[np.uint8]:
    """ChunkClass of every chunk of the layout, shape (total chunks,)."""
    classes = np.zeros(layout.total_chunks, dtype=np.uint8)
    numbers, kinds, sources = table.expand()
    values = np.full(len(numbers), ChunkClass.STORED, dtype=np.uint8)
    values[kinds == ChunkKind.ZERO] = ChunkClass.ZERO
    base = kinds == ChunkKind.BASE
    values[base] = np.where(sources[base] < layout.disk_chunks, ChunkClass.BASE_DISK, ChunkClass.BASE_MEMORY)
    stored = np.flatnonzero(kinds == ChunkKind.STORED)
    again = table.homes[sources[stored]] != numbers[stored]
    values[stored[again]] = ChunkClass.SAME_OVERLAY
    classes[numbers] = values
    return classes


def count_classes(table: ChunkTable, layout: Layout) -> Statistics:
    """Chunks by class."""
    base = table.kinds == ChunkKind.BASE
    from_disk = int(table.counts[base & (table.sources < layout.disk_chunks)].sum())
    stored = table.count(ChunkKind.STORED)
    return Statistics(
        unchanged=layout.total_chunks - table.chunks,
        zero=table.count(ChunkKind.ZERO),
        base_memory=table.count(ChunkKind.BASE) - from_disk,
        base_disk=from_disk,
        same_overlay=stored - table.slots,
        stored=table.slots,
    )
