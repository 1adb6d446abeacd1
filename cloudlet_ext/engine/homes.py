# SPDX-License-Identifier: Apache-2.0
"""Homes: for each slot the lowest chunk number that refers to it, told by runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import PIECE_RUNS, Numbers

Numbers32 = NDArray[np.int32]
"""Chunk or slot numbers, shape (n,): a layout has at most 2^29 chunks, and there may be millions of runs."""


class Homes:
    """Homes of the slots that runs of chunks refer to.

    It takes memory for the runs, up to 24 bytes each, not for the slots: a run may declare any number of these.
    """

    def __init__(self, starts: Numbers32, counts: Numbers32, sources: Numbers32) -> None:
        """Runs of chunks, ascending and disjoint: ``counts`` chunks from ``starts`` on have the slots from ``sources``
        on; shapes (runs,)."""
        told = _disjoint(sources, counts)
        self._firsts, self._lengths, runs = _lowest(sources, counts) if told is None else told
        self._shifts = starts[runs] - sources[runs]

    def of(self, slots: Numbers) -> Numbers:
        """Home of each of ``slots``, of which each is referred to; shape (n,)."""
        at = np.searchsorted(self._firsts, slots, side="right") - 1
        return slots + self._shifts[at].astype(np.int64)

    def runs(self) -> Iterator[tuple[Numbers, Numbers]]:
        """The chunks that are homes, in disjoint runs (starts, counts), some at a time and these ascending."""
        for first in range(0, len(self._firsts), PIECE_RUNS):
            part = slice(first, first + PIECE_RUNS)
            starts = (self._firsts[part] + self._shifts[part]).astype(np.int64)
            ascending = np.argsort(starts)
            yield starts[ascending], self._lengths[part][ascending].astype(np.int64)


_Ranges = tuple[Numbers32, Numbers32, Numbers32]
"""Ranges of slots, ascending: (firsts, lengths, numbers of runs)."""


def _disjoint(sources: Numbers32, counts: Numbers32) -> _Ranges | None:
    """The slots of each run, if no two runs refer to the same; that is how most are."""
    runs = np.argsort(sources).astype(np.int32)
    firsts, lengths = sources[runs], counts[runs]
    if (firsts[1:] < firsts[:-1] + lengths[:-1]).any():
        return None
    return firsts, lengths, runs


def _lowest(sources: Numbers32, counts: Numbers32) -> _Ranges:
    """All slots, and the number of the first run that refers to each of them."""
    edges, left, right = _ranked(sources, sources + counts)
    lowest = _first_covering(left, right, len(edges) - 1)
    # Millions of them: what is not needed any more makes room.
    del left, right
    told = lowest < len(sources)
    return edges[:-1][told], np.diff(edges)[told], lowest[told]


def _ranked(firsts: Numbers32, ends: Numbers32) -> tuple[Numbers32, Numbers32, Numbers32]:
    """All different values, ascending, and which of them each of ``firsts`` and ``ends`` is."""
    values = np.concatenate((firsts, ends))
    order = np.argsort(values)
    values = values[order]
    fresh = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    group = np.cumsum(fresh, dtype=np.int32)
    group -= 1
    ranks = np.empty(len(values), dtype=np.int32)
    ranks[order] = group
    del order, group
    return values[fresh], ranks[: len(firsts)], ranks[len(firsts) :]


def _first_covering(left: Numbers32, right: Numbers32, places: int) -> Numbers32:
    """For each of ``places`` the number of the first interval [left, right) that covers it, or their count.

    Each interval is two overlapping ones of a power of two; from the longest to the shortest, what holds for one of
    them holds for its halves. So it takes at most 23 passes over the places, however the intervals lie.
    """
    numbers = np.arange(len(left), dtype=np.int32)
    levels = _powers(right - left)
    lowest = np.full(places, len(left), dtype=np.int32)
    for level in range(int(levels.max(initial=0)), -1, -1):
        for first in range(0, len(left), PIECE_RUNS):
            rows = first + np.flatnonzero(levels[first : first + PIECE_RUNS] == level)
            np.minimum.at(lowest, left[rows], numbers[rows])
            np.minimum.at(lowest, right[rows] - (1 << level), numbers[rows])
        if level:
            half = 1 << (level - 1)
            lowest[half:] = np.minimum(lowest[half:], lowest[:-half])
    return lowest


def _powers(lengths: Numbers32) -> NDArray[np.int8]:
    """The largest power of two in each of ``lengths``, as its exponent."""
    powers = np.zeros(len(lengths), dtype=np.int8)
    while (lengths > 1).any():
        lengths = lengths >> 1
        powers += lengths > 0
    return powers
