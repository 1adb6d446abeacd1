# SPDX-License-Identifier: Apache-2.0
"""Order: the working set of an overlay, chunk numbers in order of first need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.planes import from_planes, planes, unzigzag, zigzag

LIMIT_CHUNKS = 1 << 24
"""Most chunks of a working set: 64 GiB. What comes later in it is not of the first reply any more."""

_COUNT_BYTES = 8
RUN_BYTES = 16
"""Bytes of a run before compression: step (8) and count (8)."""


def merge_orders(orders: Sequence[Numbers]) -> Numbers:
    """Union of ``orders``, each chunk at its best rank; of equal ranks the lower number first."""
    if not orders:
        return np.empty(0, dtype=np.int64)
    numbers = np.concatenate(orders)
    ranks = np.concatenate([np.arange(len(order)) for order in orders])
    by_rank = np.lexsort((numbers, ranks))
    numbers = numbers[by_rank]
    _, first = np.unique(numbers, return_index=True)
    return numbers[np.sort(first)].astype(np.int64)


def encode_order(order: Numbers) -> bytes:
    """Count of runs, then columns: steps from the end of the run before (zigzag), counts."""
    order = order[:LIMIT_CHUNKS]
    if not len(order):
        return bytes(_COUNT_BYTES)
    edges = np.concatenate(([0], np.flatnonzero(np.diff(order) != 1) + 1, [len(order)]))
    starts, counts = order[edges[:-1]], np.diff(edges)
    steps = starts - np.concatenate(([0], (starts + counts)[:-1]))
    return len(starts).to_bytes(_COUNT_BYTES, "little") + planes(zigzag(steps)) + planes(counts)


def decode_order(data: bytes, total_chunks: int, path: str) -> Numbers:
    """Read what encode_order() wrote; Malformed unless each chunk exists and is there once."""
    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    place = "the working set"
    if count > total_chunks or len(data) != _COUNT_BYTES + count * RUN_BYTES:
        raise Malformed(path=path, place=place, reason=f"{len(data)} bytes for {count} runs")
    steps = unzigzag(from_planes(data, _COUNT_BYTES, count))
    lengths = from_planes(data, _COUNT_BYTES + 8 * count, count)
    if (lengths == 0).any() or (lengths > np.uint64(total_chunks)).any():
        raise Malformed(path=path, place=place, reason="a run is empty or too long")
    counts = lengths.astype(np.int64)
    chunks = int(counts.astype(np.float64).sum())
    if chunks > total_chunks:
        raise Malformed(path=path, place=place, reason="it has more chunks than the regions")
    if chunks > LIMIT_CHUNKS:
        raise Malformed(path=path, place=place, reason=f"it has {chunks} chunks, at most {LIMIT_CHUNKS} are allowed")
    starts = np.cumsum(steps + counts) - counts
    if ((starts < 0) | (starts > total_chunks - counts)).any():
        raise Malformed(path=path, place=place, reason="a run lies outside the regions")
    # By runs, not by chunks: what is wrong is refused before memory is taken for it.
    ascending = np.argsort(starts, kind="stable")
    ends = (starts + counts)[ascending]
    if (starts[ascending][1:] < ends[:-1]).any():
        raise Malformed(path=path, place=place, reason="a chunk is in it twice")
    inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    order: Numbers = np.repeat(starts, counts) + inner
    return order
