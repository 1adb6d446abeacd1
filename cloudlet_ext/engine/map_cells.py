# SPDX-License-Identifier: Apache-2.0
"""Cells of a map: the chunks of disk and memory, a few to a cell, laid out as bands like lines of text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.statistics import ChunkClass, chunk_classes
from cloudlet_ext.engine.table import ChunkTable

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


def cell_classes(table: ChunkTable, layout: Layout, base_numbers: Numbers | None) -> NDArray[np.uint8]:
    """CellClass of every chunk, shape (total chunks,).

    ``base_numbers``: the chunks of the base that are not zero; without them nothing is known to be EMPTY.
    """
    classes = chunk_classes(table, layout)
    if base_numbers is not None:
        empty = classes == ChunkClass.UNCHANGED
        empty[base_numbers] = False
        classes[empty] = CellClass.EMPTY
    return classes


def strip(
    name: str, size: int, classes: NDArray[np.uint8], in_working_set: NDArray[np.bool_], most_cells: int
) -> Strip:
    """A strip of at most ``most_cells`` cells; ``classes`` and ``in_working_set`` have one value per chunk."""
    per_cell = max(1, -(-len(classes) // most_cells))
    column = per_cell * BAND_ROWS
    padded = -len(classes) % column
    grid = np.pad(classes, (0, padded), constant_values=CellClass.NOTHING).reshape(-1, per_cell)
    marked = np.pad(in_working_set, (0, padded)).reshape(-1, column)
    return Strip(name, size, per_cell, _dominant(grid), marked.mean(axis=1))


def _dominant(grid: NDArray[np.uint8]) -> Pixels:
    """Of each row the class that matters: the most frequent of those that differ from the base, if there is any."""
    counts = np.stack([(grid == kind).sum(axis=1, dtype=np.int32) for kind in CellClass], axis=1)
    changed = counts[:, CellClass.ZERO : CellClass.STORED + 1]
    # Of equal numbers the later class: what is stored is what costs.
    last = changed.shape[1] - 1 - np.argmax(changed[:, ::-1], axis=1)
    kind = np.where(changed.any(axis=1), last + CellClass.ZERO, CellClass.EMPTY)
    kind[(kind == CellClass.EMPTY) & (counts[:, CellClass.UNCHANGED] > 0)] = CellClass.UNCHANGED
    kind[counts[:, CellClass.NOTHING] == grid.shape[1]] = CellClass.NOTHING
    share = counts[np.arange(len(grid)), kind] / grid.shape[1]
    shade = np.searchsorted(_SHADE_FROM, share, side="right") - 1
    pixels: Pixels = (kind * SHADES + np.maximum(shade, 0)).astype(np.uint8)
    return pixels
