# SPDX-License-Identifier: Apache-2.0
"""Chunk table: in runs, what each chunk of the target is that differs from the base."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.planes import from_planes, planes, unzigzag, zigzag

ENTRY_BYTES = 25
"""Bytes of an entry before compression: start gap, count, source step (8 each) and kind (1)."""

_COUNT_BYTES = 8


class ChunkKind(IntEnum):
    """What a chunk of the target is, compared with the base."""

    UNCHANGED = 0
    """Equal to the base at the same place; never in a table."""
    ZERO = 1
    BASE = 2
    """Equal to another chunk of the base; source is its number."""
    STORED = 3
    """Content carried by the file; source is its slot."""


Kinds = NDArray[np.uint8]
"""ChunkKind values, shape (n,)."""


@dataclass(frozen=True)
class ChunkTable:
    """Runs, ascending by ``starts`` and disjoint: ``counts`` chunks of ``kinds``.

    ``sources`` is, for the first chunk of the run, a base chunk (BASE), a slot (STORED) or 0
    (ZERO); it counts on within the run. All shape (entries,).
    """

    starts: Numbers
    counts: Numbers
    kinds: Kinds
    sources: Numbers

    @classmethod
    def from_arrays(cls, numbers: Numbers, kinds: Kinds, sources: Numbers) -> ChunkTable:
        """Code single chunks as runs; ``numbers`` ascend without repeats; shapes (n,)."""
        if not len(numbers):
            empty = np.empty(0, dtype=np.int64)
            return cls(empty, empty, np.empty(0, dtype=np.uint8), empty)
        sources = np.where(kinds == ChunkKind.ZERO, 0, sources)
        step = np.where(kinds == ChunkKind.ZERO, 0, 1)[1:]
        joined = (np.diff(numbers) == 1) & (kinds[1:] == kinds[:-1]) & (np.diff(sources) == step)
        edges = np.concatenate(([0], np.flatnonzero(~joined) + 1, [len(numbers)]))
        first = edges[:-1]
        return cls(
            numbers[first].astype(np.int64),
            np.diff(edges).astype(np.int64),
            kinds[first].astype(np.uint8),
            sources[first].astype(np.int64),
        )

    @property
    def entries(self) -> int:
        """Number of runs."""
        return len(self.starts)

    @property
    def chunks(self) -> int:
        """Chunks that the runs cover."""
        return int(self.counts.sum())

    @cached_property
    def slots(self) -> int:
        """Slots that the STORED runs refer to: one more than the highest."""
        stored = self.kinds == ChunkKind.STORED
        return int((self.sources[stored] + self.counts[stored]).max(initial=0))

    def count(self, kind: ChunkKind) -> int:
        """Chunks of ``kind``."""
        return int(self.counts[self.kinds == kind].sum())

    def lookup(self, numbers: Numbers) -> tuple[Kinds, Numbers]:
        """Kind and source of ``numbers`` (any order), UNCHANGED outside all runs; shapes (n,)."""
        if not self.entries:
            return np.zeros(len(numbers), dtype=np.uint8), np.zeros(len(numbers), dtype=np.int64)
        at = np.maximum(np.searchsorted(self.starts, numbers, side="right") - 1, 0)
        inner = numbers - self.starts[at]
        covered = (inner >= 0) & (inner < self.counts[at])
        kinds = np.where(covered, self.kinds[at], np.uint8(0))
        sources = np.where(kinds >= ChunkKind.BASE, self.sources[at] + inner, 0)
        return kinds, sources

    def expand(self, kind: ChunkKind | None = None) -> tuple[Numbers, Kinds, Numbers]:
        """Single chunks (of ``kind``, or all): numbers ascending, kinds, sources; shapes (n,)."""
        picked = slice(None) if kind is None else self.kinds == kind
        starts, counts = self.starts[picked], self.counts[picked]
        kinds, sources = self.kinds[picked], self.sources[picked]
        inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        repeated = np.repeat(kinds, counts)
        return (
            np.repeat(starts, counts) + inner,
            repeated,
            np.where(repeated == ChunkKind.ZERO, 0, np.repeat(sources, counts) + inner),
        )

    @cached_property
    def homes(self) -> Numbers:
        """Home of every slot: the lowest chunk number that refers to it; shape (slots,)."""
        numbers, _, slots = self.expand(ChunkKind.STORED)
        homes = np.full(self.slots, -1, dtype=np.int64)
        # Of repeated indices the last assignment stays, so going downwards leaves the lowest
        # number.
        homes[slots[::-1]] = numbers[::-1]
        return homes

    def with_slots(self, moved: Numbers) -> ChunkTable:
        """The same content with slot ``i`` renumbered to ``moved[i]`` (a permutation)."""
        numbers, kinds, sources = self.expand()
        stored = kinds == ChunkKind.STORED
        sources[stored] = moved[sources[stored]]
        return ChunkTable.from_arrays(numbers, kinds, sources)

    def encode(self) -> bytes:
        """Count of entries, then columns: start gaps, counts, kinds, source steps."""
        gaps = np.diff(self.starts, prepend=0)
        gaps[1:] -= self.counts[:-1]
        steps = zigzag(self.sources - _predicted(self.kinds, self.sources, self.counts))
        columns = (planes(gaps), planes(self.counts), self.kinds.tobytes(), planes(steps))
        return self.entries.to_bytes(_COUNT_BYTES, "little") + b"".join(columns)


def encoded_bytes_limit(total_chunks: int) -> int:
    """Most bytes a table can have in a layout of ``total_chunks``: one entry per chunk."""
    return _COUNT_BYTES + ENTRY_BYTES * total_chunks


def decode_table(data: bytes, total_chunks: int, slots: int, path: str, base_chunks: int | None = None) -> ChunkTable:
    """Read what ChunkTable.encode() wrote and check it against the layout and the slots there are.

    ``base_chunks`` is the size of the base (the same layout unless told). Raises Malformed, which
    names the entry.
    """
    limit = total_chunks if base_chunks is None else base_chunks

    def refuse(place: str, reason: str) -> NoReturn:
        raise Malformed(path=path, place=f"the chunk table, {place}", reason=reason)

    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    if count > total_chunks or len(data) != _COUNT_BYTES + count * ENTRY_BYTES:
        refuse("its length", f"{len(data)} bytes for {count} entries of {total_chunks} chunks")
    at = _COUNT_BYTES
    gaps = from_planes(data, at, count)
    counts = from_planes(data, at + 8 * count, count)
    kinds = np.frombuffer(data, np.uint8, count, at + 16 * count)
    steps = from_planes(data, at + 17 * count, count)

    def check(bad: NDArray[np.bool_], reason: str) -> None:
        if bad.any():
            refuse(f"entry {int(np.argmax(bad))}", reason)

    most = np.uint64(total_chunks)
    check((gaps > most) | (counts > most), "it lies outside the regions")
    check(counts == 0, "it covers no chunk")
    check((kinds < ChunkKind.ZERO) | (kinds > ChunkKind.STORED), "its kind is unknown")
    lengths = counts.astype(np.int64)
    advance = gaps.astype(np.int64) + lengths
    # Whole numbers could wrap around; these cannot, and are exact as far as it matters.
    check(np.cumsum(advance.astype(np.float64)) > total_chunks, "it lies outside the regions")
    starts = np.cumsum(advance) - lengths
    sources = _sources(kinds, unzigzag(steps), lengths)
    check((kinds == ChunkKind.ZERO) & (sources != 0), "a zero run has a source")
    base = kinds == ChunkKind.BASE
    check(base & ((sources < 0) | (sources > limit - lengths)), "its source is outside the base")
    stored = kinds == ChunkKind.STORED
    check(stored & ((sources < 0) | (sources > slots - lengths)), "its slots do not exist")
    table = ChunkTable(starts, lengths, kinds, sources)
    unused = _unused_slots(table, slots)
    if unused.any():
        refuse(f"slot {int(np.argmax(unused))}", "no chunk refers to it")
    return table


def _unused_slots(table: ChunkTable, slots: int) -> NDArray[np.bool_]:
    stored = table.kinds == ChunkKind.STORED
    edges = np.zeros(slots + 1, dtype=np.int64)
    np.add.at(edges, table.sources[stored], 1)
    np.add.at(edges, table.sources[stored] + table.counts[stored], -1)
    unused: NDArray[np.bool_] = np.cumsum(edges[:-1]) == 0
    return unused


def _predicted(kinds: Kinds, sources: Numbers, counts: Numbers) -> Numbers:
    """For every entry the source that would continue the entry of the same kind before it."""
    predicted = np.zeros(len(kinds), dtype=np.int64)
    for kind in (ChunkKind.BASE, ChunkKind.STORED):
        at = np.flatnonzero(kinds == kind)
        predicted[at[1:]] = (sources + counts)[at[:-1]]
    return predicted


def _sources(kinds: Kinds, steps: Numbers, counts: Numbers) -> Numbers:
    """Undo _predicted: each step is added to the end of the entry of the same kind before it."""
    sources = np.where(kinds == ChunkKind.ZERO, steps, 0)
    for kind in (ChunkKind.BASE, ChunkKind.STORED):
        at = np.flatnonzero(kinds == kind)
        # Wraps around for absurd steps; what comes out is checked against its bounds anyway.
        sources[at] = np.cumsum(steps[at] + counts[at]) - counts[at]
    return sources
