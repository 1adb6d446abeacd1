# SPDX-License-Identifier: Apache-2.0
"""Chunks: arrays of 4 KiB pieces of disk or memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 4096
"""Size of a chunk: the page of x86-64, and the smallest block of every common guest file system."""

Numbers = NDArray[np.int64]
"""Chunk numbers, shape (n,)."""

Chunks = NDArray[np.uint8]
"""Contents, shape (n, 4096)."""

SPAN_CHUNKS = 256
"""Chunks that are worked on at a time (1 MiB): large enough for numpy, small enough for the cache."""


PIECE_CHUNKS = 1 << 16
"""Chunks that are told one by one at a time, without their content: two dozen bytes for each."""

PIECE_RUNS = 1 << 18
"""Runs of chunks that are worked on at a time, where there may be millions."""


class ChunkReader(Protocol):
    """Gives the content of chunks by their numbers."""

    def read(self, numbers: Numbers) -> Chunks:
        """Content of ``numbers`` (any order, repeats allowed), shape (n, 4096)."""
        ...


def is_zero(chunks: Chunks) -> NDArray[np.bool_]:
    """Which chunks hold only zeros, shape (n,)."""
    words = chunks.reshape(-1, CHUNK_BYTES).view(np.uint64)
    # Most chunks that are not zero show it in their first 64 bytes: look there first.
    zero: NDArray[np.bool_] = np.asarray(~words[:, :8].any(axis=1))
    candidates = np.flatnonzero(zero)
    if len(candidates):
        zero[candidates] = np.asarray(~words[candidates].any(axis=1))
    return zero


def is_equal(left: Chunks, right: Chunks) -> NDArray[np.bool_]:
    """Which chunks of two arrays of the same shape are equal, shape (n,)."""
    return np.asarray(np.equal(left.view(np.uint64), right.view(np.uint64)).all(axis=1))


def runs(numbers: Numbers) -> tuple[Numbers, Numbers]:
    """Split ascending numbers into runs of neighbours: (starts, counts)."""
    if not len(numbers):
        empty = np.empty(0, dtype=np.int64)
        return empty, empty
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    edges = np.concatenate(([0], breaks, [len(numbers)]))
    return numbers[edges[:-1]], np.diff(edges)


def regrouped(pieces: Iterable[tuple[NDArray[Any], ...]], most: int) -> Iterator[tuple[NDArray[Any], ...]]:
    """The same columns, row by row, in pieces of ``most`` rows (the last one: of the rest)."""
    waiting: list[tuple[NDArray[Any], ...]] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += len(piece[0])
        if rows >= most:
            columns = [np.concatenate(column) for column in zip(*waiting, strict=True)]
            whole = rows - rows % most
            for first in range(0, whole, most):
                yield tuple(column[first : first + most] for column in columns)
            waiting, rows = [tuple(column[whole:] for column in columns)], rows - whole
    if rows:
        yield tuple(np.concatenate(column) for column in zip(*waiting, strict=True))


def ranges(start: int, end: int) -> Iterator[Numbers]:
    """The numbers from ``start`` to ``end`` in pieces of at most PIECE_CHUNKS."""
    for first in range(start, end, PIECE_CHUNKS):
        yield np.arange(first, min(first + PIECE_CHUNKS, end), dtype=np.int64)
