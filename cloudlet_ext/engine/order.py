# SPDX-License-Identifier: Apache-2.0
"""Order: the working set of an overlay, chunk numbers in order of first need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.planes import from_planes, planes, unzigzag, zigzag

LIMIT_CHUNKS = 1 << 22
"""Most chunks of a working set: 16 GiB. What comes later in it is not of the first reply any more."""

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

    def refuse(reason: str) -> NoReturn:
        raise Malformed(path=path, place="the working set", reason=reason)

    most = min(total_chunks, LIMIT_CHUNKS)
    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    if count > most:
        refuse(f"it has {count} runs, at most {most} are allowed")
    expected = _COUNT_BYTES + count * RUN_BYTES
    if len(data) != expected:
        refuse(f"{len(data)} bytes for {count} runs, which have {expected}")
    steps = unzigzag(from_planes(data, _COUNT_BYTES, count))
    lengths = from_planes(data, _COUNT_BYTES + 8 * count, count)
    if (lengths == 0).any() or (lengths > np.uint64(total_chunks)).any():
        refuse(f"a run is empty or has more chunks than the regions, {total_chunks}")
    counts = lengths.view(np.int64)
    # Sums of four million numbers of 30 bits cannot wrap around.
    chunks = int(counts.sum())
    if chunks > most:
        refuse(f"it has {chunks} chunks, at most {most} are allowed")
    starts = np.cumsum(steps + counts) - counts
    if ((starts < 0) | (starts > total_chunks - counts)).any():
        refuse("a run lies outside the regions")
    # By runs, not by chunks: what is wrong is refused before memory is taken for it.
    ascending = np.argsort(starts, kind="stable")
    ends = (starts + counts)[ascending]
    if (starts[ascending][1:] < ends[:-1]).any():
        refuse("a chunk is in it twice")
    return _expanded(starts, counts, chunks)


def _expanded(starts: Numbers, counts: Numbers, chunks: int) -> Numbers:
    """The chunks of runs one by one, in one array: from each chunk to the next it is one, but not between runs."""
    order = np.ones(chunks, dtype=np.int64)
    if chunks:
        ends = starts + counts
        order[0] = starts[0]
        order[np.cumsum(counts)[:-1]] = starts[1:] - ends[:-1] + 1
        np.cumsum(order, out=order)
    return order
