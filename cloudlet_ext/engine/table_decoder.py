# SPDX-License-Identifier: Apache-2.0
"""Decoder of chunk tables: every entry is checked, by runs, whatever these cover."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.planes import from_planes, unzigzag
from cloudlet_ext.engine.table import (
    COUNT_BYTES,
    ENTRY_BYTES,
    RUNS_LIMIT,
    ChunkKind,
    ChunkTable,
    Kinds,
)


def decode_table(data: bytes, total_chunks: int, slots: int, path: str, base_chunks: int | None = None) -> ChunkTable:
    """Read what ChunkTable.encode() wrote and check it against the layout and the slots there are.

    ``base_chunks`` is the size of the base (the same layout unless told). Raises Malformed, which
    names the entry.
    """

    def refuse(place: str, reason: str) -> NoReturn:
        raise Malformed(path=path, place=f"the chunk table, {place}", reason=reason)

    def check(bad: NDArray[np.bool_], reason: str) -> None:
        if bad.any():
            refuse(f"entry {int(np.argmax(bad))}", reason)

    count = _count(data, total_chunks, refuse)
    at = COUNT_BYTES
    # One column after the other, and none longer than needed: a table has up to four million entries.
    counts = from_planes(data, at + 8 * count, count)
    check(counts > np.uint64(total_chunks), "it lies outside the regions")
    check(counts == 0, "it covers no chunk")
    lengths = counts.view(np.int64)
    gaps = from_planes(data, at, count)
    check(gaps > np.uint64(total_chunks), "it lies outside the regions")
    # Sums of four million numbers of 30 bits cannot wrap around.
    starts = gaps.view(np.int64)
    starts += lengths
    np.cumsum(starts, out=starts)
    check(starts > total_chunks, "it lies outside the regions")
    starts -= lengths
    kinds = np.frombuffer(data, np.uint8, count, at + 16 * count).copy()
    check((kinds < ChunkKind.ZERO) | (kinds > ChunkKind.STORED), "its kind is unknown")
    sources = _sources(kinds, unzigzag(from_planes(data, at + 17 * count, count)), lengths)
    check((kinds == ChunkKind.ZERO) & (sources != 0), "a zero run has a source")
    limit = total_chunks if base_chunks is None else base_chunks
    outside = (sources < 0) | (sources > limit - lengths)
    check((kinds == ChunkKind.BASE) & outside, "its source is outside the base")
    outside = (sources < 0) | (sources > slots - lengths)
    check((kinds == ChunkKind.STORED) & outside, "its slots do not exist")
    table = ChunkTable(starts, lengths, kinds, sources)
    unused = _unused_slot(table, slots)
    if unused is not None:
        refuse(f"slot {unused}", "no chunk refers to it")
    return table


def _count(data: bytes, total_chunks: int, refuse: Callable[[str, str], NoReturn]) -> int:
    """The number of entries, once it is sure that they are there."""
    count = int.from_bytes(data[:COUNT_BYTES], "little")
    most = min(total_chunks, RUNS_LIMIT)
    if count > most:
        refuse("its length", f"{count} entries for {total_chunks} chunks, at most {most} are allowed")
    expected = COUNT_BYTES + count * ENTRY_BYTES
    if len(data) != expected:
        refuse("its length", f"{len(data)} bytes for {count} entries, which have {expected}")
    return count


def _unused_slot(table: ChunkTable, slots: int) -> int | None:
    """The lowest slot that no run refers to; by runs, since these may refer to any number of slots."""
    stored = table.kinds == ChunkKind.STORED
    sources = table.sources[stored]
    order = np.argsort(sources)
    sources = sources[order]
    ends = np.maximum.accumulate(sources + table.counts[stored][order])
    before = np.concatenate(([0], ends))
    gaps = np.flatnonzero(np.concatenate((sources, [slots])) > before)
    return int(before[gaps[0]]) if len(gaps) else None


def _sources(kinds: Kinds, steps: Numbers, counts: Numbers) -> Numbers:
    """Undo ChunkTable.predicted(): each step is added to the end of the entry of the same kind before it."""
    sources = np.where(kinds == ChunkKind.ZERO, steps, 0)
    for kind in (ChunkKind.BASE, ChunkKind.STORED):
        at = np.flatnonzero(kinds == kind)
        # Wraps around for absurd steps; what comes out is checked against its bounds anyway.
        sources[at] = np.cumsum(steps[at] + counts[at]) - counts[at]
    return sources
