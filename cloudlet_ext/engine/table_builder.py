# SPDX-License-Identifier: Apache-2.0
"""Builder of chunk tables: chunks are given some at a time, runs are kept in scratch files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.scratch import Column
from cloudlet_ext.engine.table import ChunkKind, ChunkTable, Kinds

_BATCH_CHUNKS = 1 << 14
"""Chunks that are coded as runs together."""


class TableBuilder:
    """Takes what single chunks are, in ascending order."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for the scratch files."""
        self._starts: Column[np.int64] = Column(folder, np.int64)
        self._counts: Column[np.int64] = Column(folder, np.int64)
        self._kinds: Column[np.uint8] = Column(folder, np.uint8)
        self._sources: Column[np.int64] = Column(folder, np.int64)
        self._waiting: list[tuple[Numbers, Kinds, Numbers]] = []
        self._chunks = 0

    def add(self, numbers: Numbers, kinds: Kinds, sources: Numbers) -> None:
        """Single chunks behind all that were given before; shapes (n,). DiskFull."""
        if not len(numbers):
            return
        self._waiting.append((numbers, kinds, sources))
        self._chunks += len(numbers)
        if self._chunks >= _BATCH_CHUNKS:
            self._code()

    def table(self) -> ChunkTable:
        """The table of all that was given, whose columns are maps of the scratch files; nothing can be added to it."""
        self._code()
        table = ChunkTable(self._starts.rows, self._counts.rows, self._kinds.rows, self._sources.rows)
        self.close()
        return table

    def close(self) -> None:
        """Give the space back, unless a table holds it."""
        for column in (self._starts, self._counts, self._kinds, self._sources):
            column.close()

    def _code(self) -> None:
        if not self._chunks:
            return
        numbers, kinds, sources = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting, self._chunks = [], 0
        runs = ChunkTable.from_arrays(numbers, kinds, sources)
        first = 1 if self._continues(runs) else 0
        if first:
            self._counts.rows[-1] += runs.counts[0]
        self._starts.append(runs.starts[first:])
        self._counts.append(runs.counts[first:])
        self._kinds.append(runs.kinds[first:])
        self._sources.append(runs.sources[first:])

    def _continues(self, runs: ChunkTable) -> bool:
        """Whether the first of ``runs`` goes on with the last run that is there."""
        if not len(self._starts):
            return False
        kind, count = int(self._kinds.rows[-1]), int(self._counts.rows[-1])
        follows = int(self._starts.rows[-1]) + count == int(runs.starts[0]) and kind == int(runs.kinds[0])
        step = 0 if kind == ChunkKind.ZERO else count
        return follows and int(self._sources.rows[-1]) + step == int(runs.sources[0])
