# SPDX-License-Identifier: Apache-2.0
"""Which chunks count as similar, and that similar ones end up side by side."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.engine.chunks import Chunks, Numbers
from cloudlet_ext.engine.similarity import similar


def random_chunks(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4096), dtype=np.uint8)


def leaders(count: int, read: Callable[[Numbers], Chunks]) -> Numbers:
    """For each chunk the lowest number in its group, its own if it is like no other."""
    groups = similar(count, read)
    assert (np.diff(groups.members) > 0).all()
    lead = np.arange(count)
    lead[groups.members] = groups.leads
    assert (lead[groups.members] < groups.members).all()
    return lead


def test_a_changed_copy_follows_its_original() -> None:
    chunks = random_chunks(1000)
    chunks[900] = chunks[17]
    chunks[900, 64:96] += 1
    chunks[901] = chunks[900]
    chunks[901, 2048:2080] += 1
    lead = leaders(len(chunks), lambda numbers: chunks[numbers])
    assert lead[900] == lead[901] == 17
    others = np.delete(np.arange(1000), [900, 901])
    assert (lead[others] == others).all()


def test_a_common_filling_is_no_resemblance() -> None:
    chunks = np.zeros((300, 4096), dtype=np.uint8)
    chunks[:, 8] = 7
    assert (leaders(300, lambda numbers: chunks[numbers]) == np.arange(300)).all()


def test_nothing_leads_nothing() -> None:
    assert len(leaders(0, lambda numbers: random_chunks(0))) == 0


@given(st.integers(1, 40), st.integers(0, 5))
def test_a_leader_leads_itself(count: int, seed: int) -> None:
    chunks = random_chunks(3, seed)[np.random.default_rng(seed).integers(0, 3, count)]
    lead = leaders(count, lambda numbers: chunks[numbers])
    assert (lead <= np.arange(count)).all()
    assert (lead[lead] == lead).all()


def test_a_filling_that_is_sampled_everywhere_takes_no_more_memory() -> None:
    """Words are picked by their hash: of a chunk full of a word that is picked all 512 are."""
    words = np.arange(1, 1000, dtype=np.uint64)
    picked = int(words[words * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(60) == 0][0])
    chunks = np.full((20_000, 512), picked, dtype=np.uint64)
    chunks[:, 7] = np.arange(20_000)
    tracemalloc.start()
    try:
        groups = similar(len(chunks), lambda numbers: chunks[numbers].view(np.uint8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not len(groups.members)
    # 10 million samples of 16 bytes, if all were kept.
    assert peak < 40 << 20
