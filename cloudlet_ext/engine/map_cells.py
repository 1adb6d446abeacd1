# SPDX-License-Identifier: Apache-2.0
"""Cells of a map: the chunks of disk and memory, a few to a cell, laid out as bands like lines of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import PIECE_CHUNKS, Numbers
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.statistics import ChunkClass, class_counts
from cloudlet_ext.engine.table import ChunkKind, ChunkTable

Pixels = NDArray[np.uint8]
"""Numbers of a palette, shape (rows, columns)."""

BAND_ROWS = 8
"""Cells above each other in a band; chunk numbers run down a column, then to the next one."""


class CellClass(IntEnum):
    """What a cell shows; the first ones are those of :class:`ChunkClass`."""

    UNCHANGED = ChunkClass.UNCHANGED
    ZERO = ChunkClass.ZERO
    BASE_MEMORY = ChunkClass.BASE_MEMORY
    BASE_DISK = ChunkClass.BASE_DISK
    SAME_OVERLAY = ChunkClass.SAME_OVERLAY
    STORED = ChunkClass.STORED
    EMPTY = 6
    """Zero in the base, and unchanged."""
    NOTHING = 7
    """Behind the last chunk."""


SHADES = 3
"""A cell of several chunks is paler when few of them are of its class: ``class * SHADES + shade``, 2 the fullest."""

_SHADE_FROM = (0.0, 0.25, 0.6)


@dataclass(frozen=True)
class Strip:
    """Disk or memory as a tape of cells.

    ``bytes``: its size as people know it; ``cells``: palette numbers, shape (cells,); ``marks``: share of every column
    (``BAND_ROWS`` cells) that is in the working set, shape (columns,).
    """

    name: str
    bytes: int
    chunks_per_cell: int
    cells: Pixels
    marks: NDArray[np.float64]

    def bands(self, columns: int) -> list[Pixels]:
        """The tape cut into bands of ``columns`` columns, each (BAND_ROWS, columns or, for the last, fewer)."""
        whole = self.cells.reshape(-1, BAND_ROWS).T
        return [whole[:, at : at + columns] for at in range(0, whole.shape[1], columns)]


Census = Callable[[Numbers], NDArray[np.int64]]
"""How many chunks of each :class:`CellClass` lie between ascending chunk numbers, shape (numbers - 1, classes)."""


def census_of(table: ChunkTable, layout: Layout, base_numbers: Numbers | None) -> Census:
    """The census of an overlay.

    ``base_numbers``: the chunks of the base that are not zero, ascending; without them nothing is known to be EMPTY.
    """

    def census(edges: Numbers) -> NDArray[np.int64]:
        counts = np.zeros((len(edges) - 1, len(CellClass)), dtype=np.int64)
        counts[:, : len(ChunkClass)] = class_counts(table, layout, edges)
        if base_numbers is not None:
            used = _unchanged(table, base_numbers, edges)
            counts[:, CellClass.EMPTY] = counts[:, CellClass.UNCHANGED] - used
            counts[:, CellClass.UNCHANGED] = used
        return counts

    return census


def _unchanged(table: ChunkTable, numbers: Numbers, edges: Numbers) -> NDArray[np.int64]:
    """How many of ``numbers`` that the table does not tell lie between ``edges``, shape (edges - 1,)."""
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    first, end = np.searchsorted(numbers, edges[[0, -1]]).tolist()
    for at in range(first, end, PIECE_CHUNKS):
        piece = numbers[at : min(at + PIECE_CHUNKS, end)]
        kinds, _ = table.lookup(piece)
        cells = np.searchsorted(edges, piece[kinds == ChunkKind.UNCHANGED], side="right") - 1
        counts += np.bincount(cells, minlength=len(counts))
    return counts


def strip(name: str, size: int, part: range, census: Census, working_set: Numbers, most_cells: int) -> Strip:
    """A strip of at most ``most_cells`` cells (and the rest of a column) of the chunks ``part``.

    ``working_set``: chunk numbers in any order.
    """
    per_cell = max(1, -(-len(part) // most_cells))
    column = per_cell * BAND_ROWS
    columns = -(-len(part) // column)
    edges = part.start + np.arange(columns * BAND_ROWS + 1, dtype=np.int64) * per_cell
    counts = census(np.minimum(edges, part.stop))
    counts[:, CellClass.NOTHING] = per_cell - counts.sum(axis=1)
    inside = working_set[(working_set >= part.start) & (working_set < part.stop)]
    marks = np.bincount((inside - part.start) // column, minlength=columns) / column
    return Strip(name, size, per_cell, _dominant(counts, per_cell), marks)


def _dominant(counts: NDArray[np.int64], per_cell: int) -> Pixels:
    """Of each cell the class that matters: the most frequent of those that differ from the base, if there is any."""
    changed = counts[:, CellClass.ZERO : CellClass.STORED + 1]
    # Of equal numbers the later class: what is stored is what costs.
    last = changed.shape[1] - 1 - np.argmax(changed[:, ::-1], axis=1)
    kind = np.where(changed.any(axis=1), last + CellClass.ZERO, CellClass.EMPTY)
    kind[(kind == CellClass.EMPTY) & (counts[:, CellClass.UNCHANGED] > 0)] = CellClass.UNCHANGED
    kind[counts[:, CellClass.NOTHING] == per_cell] = CellClass.NOTHING
    share = counts[np.arange(len(counts)), kind] / per_cell
    shade = np.searchsorted(_SHADE_FROM, share, side="right") - 1
    pixels: Pixels = (kind * SHADES + np.maximum(shade, 0)).astype(np.uint8)
    return pixels
