# SPDX-License-Identifier: Apache-2.0
"""Chunk table: in runs, what each chunk of the target is that differs from the base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import PIECE_CHUNKS, PIECE_RUNS, Numbers
from cloudlet_ext.engine.homes import Homes
from cloudlet_ext.engine.planes import byte_planes, zigzag

ENTRY_BYTES = 25
"""Bytes of an entry before compression: start gap, count, source step (8 each) and kind (1)."""

COUNT_BYTES = 8
RUNS_LIMIT = 1 << 22
"""Most entries of a table (100 MiB): of 64 GiB every fourth chunk may begin a run. A reader takes up to 250 MB and 1 s
for so many, whatever the size of the file that declares them."""

TABLE_LIMIT_BYTES = COUNT_BYTES + ENTRY_BYTES * RUNS_LIMIT


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

    def parts(self) -> Iterator[ChunkTable]:
        """The table in parts of at most PIECE_RUNS entries."""
        for first in range(0, self.entries, PIECE_RUNS):
            yield self.picked(slice(first, first + PIECE_RUNS))

    def picked(self, rows: slice | NDArray[np.bool_]) -> ChunkTable:
        """Some of the runs."""
        return ChunkTable(self.starts[rows], self.counts[rows], self.kinds[rows], self.sources[rows])

    @cached_property
    def slots(self) -> int:
        """Slots that the STORED runs refer to: one more than the highest."""
        stored = ((part, part.kinds == ChunkKind.STORED) for part in self.parts())
        return max((int((part.sources[at] + part.counts[at]).max(initial=0)) for part, at in stored), default=0)

    def count(self, kind: ChunkKind) -> int:
        """Chunks of ``kind``."""
        return sum(int(part.counts[part.kinds == kind].sum()) for part in self.parts())

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

    def within(self, first: int, end: int) -> ChunkTable:
        """The part that tells of the chunks from ``first`` to ``end``; costs what its runs cost."""
        rows = slice(
            max(0, int(np.searchsorted(self.starts, first, side="right")) - 1),
            int(np.searchsorted(self.starts, end)),
        )
        starts, kinds = self.starts[rows], self.kinds[rows]
        begins = np.clip(starts, first, end)
        counts = np.clip(starts + self.counts[rows], first, end) - begins
        sources = np.where(kinds == ChunkKind.ZERO, 0, self.sources[rows] + begins - starts)
        some = counts > 0
        return ChunkTable(begins[some], counts[some], kinds[some], sources[some])

    def expand(self, kind: ChunkKind | None = None) -> tuple[Numbers, Kinds, Numbers]:
        """Single chunks (of ``kind``, or all): numbers ascending, kinds, sources; shapes (n,).

        25 bytes for each chunk that is covered, and as much again on the way: pieces() is for tables of any size.
        """
        picked = slice(None) if kind is None else self.kinds == kind
        return _expanded(self.starts[picked], self.counts[picked], self.kinds[picked], self.sources[picked])

    def pieces(self, most: int = PIECE_CHUNKS) -> Iterator[tuple[Numbers, Kinds, Numbers]]:
        """The same of all chunks, at most ``most`` at a time."""
        run = done = 0
        while run < self.entries:
            # A run has a chunk at least, so that no more runs than this can be in the piece.
            rows = slice(run, run + most)
            counts = np.array(self.counts[rows])
            counts[0] -= done
            whole = int(np.searchsorted(np.cumsum(counts), most, side="right"))
            count = max(1, whole)
            rows = slice(run, run + count)
            starts, kinds, sources = np.array(self.starts[rows]), self.kinds[rows], np.array(self.sources[rows])
            starts[0] += done
            sources[0] += done
            yield _expanded(starts, np.minimum(counts[:count], most), kinds, sources)
            run, done = (run + whole, 0) if whole else (run, done + most)

    @cached_property
    def homes(self) -> Homes:
        """The home of every slot."""
        stored = self.kinds == ChunkKind.STORED
        starts, counts, sources = (
            column[stored].astype(np.int32) for column in (self.starts, self.counts, self.sources)
        )
        return Homes(starts, counts, sources)

    @property
    def encoded_bytes(self) -> int:
        """Size of what encode() gives."""
        return COUNT_BYTES + ENTRY_BYTES * self.entries

    def encode(self) -> bytes:
        """Count of entries, then columns: start gaps, counts, kinds, source steps."""
        out = np.empty(self.encoded_bytes, dtype=np.uint8)
        self.encode_into(out)
        return out.tobytes()

    def encode_into(self, out: NDArray[np.uint8]) -> None:
        """The same to an array of ``encoded_bytes``, some entries at a time."""
        count = self.entries
        out[:COUNT_BYTES] = np.frombuffer(count.to_bytes(COUNT_BYTES, "little"), dtype=np.uint8)
        columns = out[COUNT_BYTES:].reshape(ENTRY_BYTES, count)
        end, ends = 0, {ChunkKind.BASE: 0, ChunkKind.STORED: 0}
        at = 0
        for part in self.parts():
            rows = slice(at, at + part.entries)
            before = part.starts + part.counts
            gaps = part.starts - np.concatenate(([end], before[:-1]))
            end, at = int(before[-1]), at + part.entries
            columns[:8, rows] = byte_planes(gaps)
            columns[8:16, rows] = byte_planes(part.counts)
            columns[16, rows] = part.kinds
            columns[17:, rows] = byte_planes(zigzag(part.sources - part.predicted(ends)))

    def predicted(self, ends: dict[ChunkKind, int]) -> Numbers:
        """For every entry the source that would continue the entry of the same kind before it.

        ``ends`` says, by kind, where the part of the table before this one ends, and is told where this one does.
        """
        predicted = np.zeros(self.entries, dtype=np.int64)
        for kind, end in ends.items():
            at = np.flatnonzero(self.kinds == kind)
            if len(at):
                following = self.sources[at] + self.counts[at]
                predicted[at] = np.concatenate(([end], following[:-1]))
                ends[kind] = int(following[-1])
        return predicted


def encoded_bytes_limit(total_chunks: int) -> int:
    """Most bytes a table can have in a layout of ``total_chunks``: one entry per chunk, at most RUNS_LIMIT."""
    return min(TABLE_LIMIT_BYTES, COUNT_BYTES + ENTRY_BYTES * total_chunks)


def _expanded(starts: Numbers, counts: Numbers, kinds: Kinds, sources: Numbers) -> tuple[Numbers, Kinds, Numbers]:
    inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    repeated = np.repeat(kinds, counts)
    return (
        np.repeat(starts, counts) + inner,
        repeated,
        np.where(repeated == ChunkKind.ZERO, 0, np.repeat(sources, counts) + inner),
    )
