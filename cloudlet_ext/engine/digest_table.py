# SPDX-License-Identifier: Apache-2.0
"""Digest table: which row has a digest, for millions of them, in a scratch file.

An open hash table. Cells hold row numbers, the digests themselves are rows of a column. Digests are as good as random,
but a guest chooses whose: the cell of each is told by a factor that is another one in each table.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import PIECE_CHUNKS, Numbers
from cloudlet_ext.engine.digest import ChunkDigests
from cloudlet_ext.engine.scratch import filled

Words = NDArray[np.uint64]
"""Digests as two numbers each, shape (n, 2)."""

_FIRST_CELLS = 1 << 16
_CELLS_PER_ROW = 8
"""At least: so that most digests need a look at one cell, and nearly all others at two."""

_ONE = np.uint64(1)


def digest_words(digests: ChunkDigests) -> Words:
    """View digests (n, 16) as numbers, without a copy where they lie one after the other."""
    return np.ascontiguousarray(digests).view("<u8").reshape(-1, 2)


class DigestTable:
    """Rows by their digests; of rows of equal digests the one that was added first."""

    def __init__(self, folder: Path, digests: Callable[[], Words], expected: int = 0) -> None:
        """``digests()`` gives those of all rows, shape (rows, 2). ``expected``: rows that will be added."""
        self._folder = folder
        self._digests = digests
        self._count = 0
        self._factor = np.uint64(secrets.randbits(64) | 1)
        self._make_room(max(_FIRST_CELLS, 1 << (_CELLS_PER_ROW * expected - 1).bit_length() if expected else 0))

    def _make_room(self, cells: int) -> None:
        column = filled(self._folder, np.uint32, cells)
        self._cells = column.rows
        self._mask = np.uint64(cells - 1)
        self._shift = np.uint64(64 - (cells - 1).bit_length())
        column.close()

    def _first_cells(self, words: Words) -> NDArray[np.uint64]:
        """Where to look for each of the digests first."""
        return (words[:, 0] * self._factor) >> self._shift

    def find(self, words: Words) -> Numbers:
        """The row of each digest (n, 2), or -1; shape (n,)."""
        digests, found = self._digests(), np.full(len(words), -1, dtype=np.int64)
        at = self._first_cells(words)
        cells = self._cells[at]
        open_ = np.flatnonzero(cells)
        while len(open_):
            rows = cells[open_].astype(np.int64) - 1
            same = _equal(digests, rows, words, open_)
            found[open_[same]] = rows[same]
            open_ = open_[~same]
            at[open_] = (at[open_] + _ONE) & self._mask
            cells[open_] = self._cells[at[open_]]
            open_ = open_[cells[open_] != 0]
        return found

    def add(self, first: int, count: int) -> Numbers:
        """Add rows from ``first`` on, whose digests are there already; give the row that each one's digest is found at.

        That is the row itself if its digest is new, else an earlier one. DiskFull.
        """
        return self._add(first, count)[0]

    def add_new(self, first: int, count: int) -> tuple[Numbers, Numbers]:
        """The same, and rows that are not new are given up: those that are new are numbered anew, without gaps.

        Gives the row of each digest by its final number, and which of the rows are new, ascending. The caller moves
        these rows' digests to where they are now said to be.
        """
        rows, cells = self._add(first, count)
        fresh = np.flatnonzero(rows == np.arange(first, first + count))
        if len(fresh) < count:
            self._cells[cells[fresh]] = first + np.arange(len(fresh)) + 1
            final = np.zeros(count, dtype=np.int64)
            final[fresh] = first + np.arange(len(fresh))
            rows = np.where(rows >= first, final[np.maximum(rows - first, 0)], rows)
        return rows, fresh

    def _add(self, first: int, count: int) -> tuple[Numbers, NDArray[np.uint64]]:
        """Rows at which the digests of rows from ``first`` on are found, and their cells."""
        if _CELLS_PER_ROW * (self._count + count) > len(self._cells):
            self._grow(self._count + count)
        words = self._digests()[first : first + count]
        return self._insert(np.arange(first, first + count, dtype=np.int64), words)

    def _insert(self, rows: Numbers, words: Words) -> tuple[Numbers, NDArray[np.uint64]]:
        digests, result, cells = self._digests(), rows.copy(), self._first_cells(words)
        open_ = np.arange(len(rows))
        while len(open_):
            at = cells[open_]
            free = open_[self._cells[at] == 0]
            # Of several that want the same cell the last one written stays: so that is the first row.
            self._cells[cells[free][::-1]] = rows[free][::-1] + 1
            found = self._cells[at].astype(np.int64) - 1
            # Most have got a cell for themselves.
            others = np.flatnonzero(found != rows[open_])
            open_, found = open_[others], found[others]
            same = _equal(digests, found, words, open_)
            result[open_[same]] = found[same]
            open_ = open_[~same]
            cells[open_] = (cells[open_] + _ONE) & self._mask
        self._count += int((result == rows).sum())
        return result, cells

    def _grow(self, count: int) -> None:
        """Twice the room, or more: all rows are added again."""
        old = self._cells
        size = len(old)
        while size < _CELLS_PER_ROW * count:
            size *= 2
        self._make_room(size)
        self._count = 0
        for first in range(0, len(old), PIECE_CHUNKS):
            part = old[first : first + PIECE_CHUNKS]
            rows = np.sort(part[part != 0]).astype(np.int64) - 1
            self._insert(rows, self._digests()[rows])


def _equal(digests: Words, rows: Numbers, words: Words, places: Numbers) -> NDArray[np.bool_]:
    """Whether the digests of ``rows`` are the ``words`` at ``places``, shape (n,)."""
    same: NDArray[np.bool_] = digests[rows, 0] == words[places, 0]
    if same.any():
        # The other half is as good as always equal too.
        same &= digests[rows, 1] == words[places, 1]
    return same
