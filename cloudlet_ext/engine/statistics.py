# SPDX-License-Identifier: Apache-2.0
"""Statistics: what the chunks of a target are, counted in all or by places for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import Numbers
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


def class_counts(table: ChunkTable, layout: Layout, edges: Numbers) -> NDArray[np.int64]:
    """How many chunks of each ChunkClass lie between ``edges`` (ascending chunk numbers), shape (edges - 1, classes).

    Told from the table's runs: it costs as much for a chunk as for a terabyte.
    """
    counts = np.zeros((len(edges) - 1, len(ChunkClass)), dtype=np.int64)

    def add(kind: ChunkClass, starts: Numbers, lengths: Numbers) -> None:
        counts[:, kind] += np.diff(_covered(starts, lengths, edges))

    for part in table.parts():
        zero, base, stored = (part.kinds == kind for kind in (ChunkKind.ZERO, ChunkKind.BASE, ChunkKind.STORED))
        add(ChunkClass.ZERO, part.starts[zero], part.counts[zero])
        starts, lengths = part.starts[base], part.counts[base]
        from_disk = _from_disk(part, layout)[base]
        add(ChunkClass.BASE_DISK, starts, from_disk)
        add(ChunkClass.BASE_MEMORY, starts + from_disk, lengths - from_disk)
        add(ChunkClass.SAME_OVERLAY, part.starts[stored], part.counts[stored])
    for starts, lengths in table.homes.runs():
        add(ChunkClass.STORED, starts, lengths)
    counts[:, ChunkClass.SAME_OVERLAY] -= counts[:, ChunkClass.STORED]
    counts[:, ChunkClass.UNCHANGED] = np.diff(edges) - counts.sum(axis=1)
    return counts


def _covered(starts: Numbers, counts: Numbers, edges: Numbers) -> Numbers:
    """Chunks of ascending, disjoint runs that lie before each of ``edges``."""
    before = np.concatenate(([0], np.cumsum(counts)))
    at = np.searchsorted(starts, edges)
    last = np.maximum(at - 1, 0)
    if not len(starts):
        return np.zeros(len(edges), dtype=np.int64)
    within = np.minimum(edges - starts[last], counts[last])
    return np.where(at > 0, before[last] + within, 0)


def _from_disk(table: ChunkTable, layout: Layout) -> Numbers:
    """Of each run how many chunks have their source on the disk: the first ones, if any."""
    return np.clip(layout.disk_chunks - table.sources, 0, table.counts)


def count_classes(table: ChunkTable, layout: Layout) -> Statistics:
    """Chunks by class."""
    from_disk = sum(int(_from_disk(part, layout)[part.kinds == ChunkKind.BASE].sum()) for part in table.parts())
    stored = table.count(ChunkKind.STORED)
    return Statistics(
        unchanged=layout.total_chunks - table.chunks,
        zero=table.count(ChunkKind.ZERO),
        base_memory=table.count(ChunkKind.BASE) - from_disk,
        base_disk=from_disk,
        same_overlay=stored - table.slots,
        stored=table.slots,
    )
