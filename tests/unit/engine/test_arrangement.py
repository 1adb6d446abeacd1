# SPDX-License-Identifier: Apache-2.0
"""The order of slots in a file, worked out some at a time, is that of sorting all of them at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlet_ext.engine import arrangement
from cloudlet_ext.engine.arrangement import Arrangement, arrange
from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers
from cloudlet_ext.engine.plan import OverlayPlan
from cloudlet_ext.engine.similarity import similar
from cloudlet_ext.engine.slots import SlotFile
from cloudlet_ext.engine.table import ChunkKind, ChunkTable

FAMILIES = np.random.default_rng(6).integers(0, 256, (4, CHUNK_BYTES), dtype=np.uint8)


def contents(slots: int, families: list[int]) -> Chunks:
    """Slots of a few families, in which each differs from the others in a few bytes."""
    chunks = FAMILIES[np.resize(np.array(families), slots)].copy()
    chunks[:, 80:88] = np.arange(slots, dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    alone = np.resize(np.array(families), slots) == 0
    chunks[alone] = np.random.default_rng(slots).integers(0, 256, (int(alone.sum()), CHUNK_BYTES), dtype=np.uint8)
    return chunks


def sorted_at_once(table: ChunkTable, slots: SlotFile, order: Numbers, disk_chunks: int) -> tuple[Numbers, list[int]]:
    """Slot at each place and the edges of the sections: working set by rank, then by home beside what is alike."""
    homes = table.homes.of(np.arange(table.slots))
    by_home = np.argsort(homes)
    groups = similar(len(by_home), lambda numbers: slots.read(by_home[numbers]))
    lead = np.arange(len(by_home))
    lead[groups.members] = groups.leads
    beside = np.empty_like(homes)
    beside[by_home] = homes[by_home[lead]]
    ranks = np.full(table.slots, 1 << 60)
    kinds, sources = table.lookup(order)
    needed = np.flatnonzero(kinds == ChunkKind.STORED)
    np.minimum.at(ranks, sources[needed], needed)
    section = np.where(ranks < 1 << 60, 0, np.where(beside < disk_chunks, 1, 2))
    slot_at = np.lexsort((homes, beside, ranks, section))
    return slot_at, np.searchsorted(section[slot_at], [0, 1, 2, 3]).tolist()


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChunkTable.pieces
    monkeypatch.setattr(arrangement, "PIECE_CHUNKS", 7)
    monkeypatch.setattr(ChunkTable, "pieces", lambda table: whole(table, 5))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 40)), min_size=1, max_size=80),
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.lists(st.integers(0, 200), unique=True, max_size=30),
    st.randoms(use_true_random=False),
)
def test_slots_stand_where_sorting_puts_them(
    in_small_pieces: None, sample, tmp_path: Path, rows, families, order, shuffle
) -> None:
    numbers = np.cumsum([1 + gap for gap, _, _ in rows], dtype=np.int64)
    kinds = np.array([kind for _, kind, _ in rows], dtype=np.uint8)
    # Slots in any order, as after a reordering, some of them at several chunks; none is left out.
    slots = list(dict.fromkeys(slot for _, kind, slot in rows if kind == ChunkKind.STORED))
    shuffle.shuffle(slots)
    names = {slot: number for number, slot in enumerate(slots)}
    sources = np.array([names.get(source, 0) if kind == 3 else source * (kind == 2) for _, kind, source in rows])
    table = ChunkTable.from_arrays(numbers, kinds, sources.astype(np.int64))
    ranked = np.array(order, dtype=np.int64)
    with SlotFile(tmp_path) as file:
        file.append(contents(len(slots), families))
        arranged: Arrangement = arrange(OverlayPlan(sample.base, table, file), ranked)
        expected, edges = sorted_at_once(table, file, ranked, sample.layout.disk_chunks)
    assert arranged.slots.tolist() == expected.tolist()
    assert list(arranged.edges) == edges
    assert arranged.homes.tolist() == table.homes.of(expected).tolist()
    found_numbers, found_kinds, found = arranged.table.expand()
    assert found_numbers.tolist() == numbers.tolist()
    assert found_kinds.tolist() == kinds.tolist()
    stored = kinds == ChunkKind.STORED
    assert expected[found[stored]].tolist() == sources[stored].tolist()
    assert found[~stored].tolist() == sources[~stored].tolist()
