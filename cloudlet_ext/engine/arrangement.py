# SPDX-License-Identifier: Apache-2.0
"""Arrangement: the order in which the slots of a plan stand in its file.

The working set by rank; then by home, each slot next to the one of lowest home that it resembles. All that has a number
for each slot lies in scratch columns, and is gone through some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import PIECE_CHUNKS, Numbers
from cloudlet_ext.engine.plan import OverlayPlan
from cloudlet_ext.engine.scratch import Column, filled
from cloudlet_ext.engine.similarity import Groups, similar
from cloudlet_ext.engine.table import ChunkKind, ChunkTable
from cloudlet_ext.engine.table_builder import TableBuilder


@dataclass(frozen=True)
class Arrangement:
    """What stands at each place of the file.

    ``slots``: the plan's slots, ``homes``: their homes; shape (slots,). ``table`` refers to places. ``edges``: where
    the sections working set, disk and memory begin, and where the last one ends.
    """

    slots: Numbers
    homes: Numbers
    table: ChunkTable
    edges: tuple[int, int, int, int]


def arrange(plan: OverlayPlan, order: Numbers) -> Arrangement:
    """Arrange the slots of ``plan``; ``order`` is the working set. DiskFull when its scratch folder has no room."""
    folder = plan.slots.folder
    homes = _Homes(plan, folder)
    groups = similar(len(homes.ascending), lambda numbers: plan.slots.read(homes.ascending[numbers]))
    slots: Column[np.int64] = Column(folder, np.int64)
    taken = filled(folder, np.bool_, plan.slots.slots).rows
    for needed in _needed(plan.table, order, taken):
        slots.append(needed)
    first = len(slots)
    on_disk = 0
    for leads, numbers in _side_by_side(len(homes.ascending), groups):
        rest = homes.ascending[numbers]
        free = ~taken[rest]
        slots.append(rest[free])
        on_disk += int((leads[free] < homes.on_disk).sum())
    placed, place = Column(folder, np.int64), filled(folder, np.int64, plan.slots.slots).rows
    for at in range(0, len(slots), PIECE_CHUNKS):
        piece = slots.rows[at : at + PIECE_CHUNKS]
        placed.append(homes.of[piece])
        place[piece] = np.arange(at, at + len(piece))
    table = _moved(plan.table, place, folder)
    return Arrangement(slots.rows, placed.rows, table, (0, first, first + on_disk, len(slots)))


class _Homes:
    """Homes of all slots.

    ``of``: by slot. ``ascending``: the slots in the order of their homes; the first ``on_disk`` are on the disk.
    """

    def __init__(self, plan: OverlayPlan, folder: Path) -> None:
        homes = filled(folder, np.int64, plan.slots.slots)
        self.of: Numbers = homes.rows
        self.of[:] = -1
        ascending: Column[np.int64] = Column(folder, np.int64)
        self.on_disk = 0
        for numbers, kinds, sources in plan.table.pieces():
            stored = kinds == ChunkKind.STORED
            numbers, slots = numbers[stored], sources[stored]
            # A slot's home is the first chunk that refers to it, in this piece or in an earlier one.
            first = _first_of_each(slots)
            first = first[self.of[slots[first]] < 0]
            self.of[slots[first]] = numbers[first]
            ascending.append(slots[first])
            self.on_disk += int((numbers[first] < plan.base.layout.disk_chunks).sum())
        self.ascending: Numbers = ascending.rows


def _first_of_each(values: Numbers) -> Numbers:
    """Ascending places of the first of all equal values."""
    return np.sort(np.unique(values, return_index=True)[1])


def _needed(table: ChunkTable, order: Numbers, taken: NDArray[np.bool_]) -> Iterator[Numbers]:
    """Slots of the working set in the order of first need, each once; notes them as ``taken``."""
    for at in range(0, len(order), PIECE_CHUNKS):
        kinds, sources = table.lookup(order[at : at + PIECE_CHUNKS])
        slots = sources[kinds == ChunkKind.STORED]
        slots = slots[~taken[slots]]
        slots = slots[_first_of_each(slots)]
        taken[slots] = True
        yield slots


def _side_by_side(count: int, groups: Groups) -> Iterator[tuple[Numbers, Numbers]]:
    """The numbers from 0 to ``count``, each member of a group behind the group's leader: (leaders, numbers)."""
    by_lead = np.lexsort((groups.members, groups.leads))
    members, leads = groups.members[by_lead], groups.leads[by_lead]
    for at in range(0, count, PIECE_CHUNKS):
        end = min(at + PIECE_CHUNKS, count)
        own = np.ones(end - at, dtype=np.bool_)
        own[groups.members[slice(*np.searchsorted(groups.members, (at, end)))] - at] = False
        alone = at + np.flatnonzero(own)
        part = slice(*np.searchsorted(leads, (at, end)))
        lead, numbers = np.concatenate((alone, leads[part])), np.concatenate((alone, members[part]))
        ordered = np.lexsort((numbers, lead))
        yield lead[ordered], numbers[ordered]


def _moved(table: ChunkTable, place: Numbers, folder: Path) -> ChunkTable:
    """The same content with each slot renumbered to its place."""
    builder = TableBuilder(folder)
    try:
        for numbers, kinds, sources in table.pieces():
            stored = kinds == ChunkKind.STORED
            sources[stored] = place[sources[stored]]
            builder.add(numbers, kinds, sources)
        return builder.table()
    finally:
        builder.close()
