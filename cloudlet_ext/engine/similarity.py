# SPDX-License-Identifier: Apache-2.0
"""Similarity: which stored chunks resemble each other, so that they can be compressed together.

A page of a file system's metadata in memory, its older copy on the disk and another in the journal differ in a few
words and lie far apart; in one segment the second costs next to nothing. Chunks count as similar when the least hash
of their words agrees for one of three hash functions (min-wise hashing, Broder 1997), words taken where they lie: pages
change in place. Measured on the web workload, level 3: 20.4 MB -> 18.4 MB, in 0.2 s, and compression is faster by a
quarter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import SPAN_CHUNKS, Chunks, Numbers

Features = NDArray[np.uint64]

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""One per hash function. Six instead of three find more pairs and compress worse: pairs that share little push apart
those that share much (18.5 MB)."""

_MIX = np.uint64(0xBF58476D1CE4E5B9)
_NO_WORD = np.uint64(0xFFFFFFFFFFFFFFFF)

_LARGEST_CLUSTER = 64
"""More chunks than this with the same least word share a common filling, not an origin."""


def leaders(count: int, read: Callable[[Numbers], Chunks]) -> Numbers:
    """For each of ``count`` chunks the lowest number of one that it resembles (its own if none), shape (count,).

    ``read(numbers)`` gives contents; it is called by several threads, 1 MiB at a time.
    """
    lead = np.arange(count, dtype=np.int64)
    if not count:
        return lead
    features = np.empty((len(_MULTIPLIERS), count), dtype=np.uint64)

    def span(first: int) -> None:
        numbers = np.arange(first, min(first + SPAN_CHUNKS, count), dtype=np.int64)
        words = read(numbers).view(np.uint64)
        for row, multiplier in enumerate(_MULTIPLIERS):
            features[row, numbers] = _least(words, np.uint64(multiplier))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="similarity") as pool:
        for _ in pool.map(span, range(0, count, SPAN_CHUNKS)):
            pass
    for row in features:
        _, first, cluster = np.unique(row, return_index=True, return_inverse=True)
        small = np.bincount(cluster)[cluster] <= _LARGEST_CLUSTER
        lead = np.where(small, np.minimum(lead, first[cluster]), lead)
    # A leader may itself follow another: go to the end of the chain.
    while (further := lead[lead]).tobytes() != lead.tobytes():
        lead = further
    return lead


def _least(words: Features, multiplier: np.uint64) -> Features:
    """Least hash of the words of each chunk, zero words left out; shape (n,)."""
    hashed = words * multiplier
    hashed ^= hashed >> np.uint64(29)
    hashed *= _MIX
    hashed[words == 0] = _NO_WORD
    return np.asarray(hashed.min(axis=1))
