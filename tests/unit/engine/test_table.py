# SPDX-License-Identifier: Apache-2.0
"""Chunk tables: coding and decoding, lookup, and refusal of everything that makes no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.table import ChunkKind, ChunkTable, Kinds
from cloudlet_ext.engine.table_decoder import decode_table

TOTAL = 1000


def table_of(kinds: list[int], seed: int) -> tuple[Numbers, Kinds, Numbers, int]:
    """A valid table that has kind ``kinds[i]`` for chunk ``i``: numbers, kinds, sources, slots."""
    random = np.random.default_rng(seed)
    all_kinds = np.array(kinds, dtype=np.uint8)
    numbers = np.flatnonzero(all_kinds)
    named = all_kinds[numbers]
    stored = np.flatnonzero(named == ChunkKind.STORED)
    slots = int(random.integers(1, len(stored) + 1)) if len(stored) else 0
    sources = np.zeros(len(numbers), dtype=np.int64)
    base = named == ChunkKind.BASE
    sources[base] = random.integers(0, TOTAL, int(base.sum()))
    if len(stored):
        picked = np.sort(random.integers(0, slots, len(stored)))
        picked[:slots] = np.arange(slots)
        sources[stored] = picked
    return numbers, named, sources, slots


kinds_of_chunks = st.lists(st.integers(0, 3), max_size=TOTAL)


@given(kinds_of_chunks, st.integers(0, 100))
def test_a_table_survives_its_file(kinds: list[int], seed: int) -> None:
    numbers, named, sources, slots = table_of(kinds, seed)
    table = ChunkTable.from_arrays(numbers, named, sources)
    again = decode_table(table.encode(), TOTAL, slots, "file")
    for one, other in zip(again.expand(), (numbers, named, sources), strict=True):
        assert np.array_equal(one, other)
    assert again.slots == slots
    assert again.chunks == len(numbers)


@given(kinds_of_chunks, st.integers(0, 100))
def test_lookup_tells_every_chunk(kinds: list[int], seed: int) -> None:
    numbers, named, sources, _ = table_of(kinds, seed)
    table = ChunkTable.from_arrays(numbers, named, sources)
    asked = np.random.default_rng(seed).permutation(TOTAL)
    found_kinds, found_sources = table.lookup(asked)
    expected_kinds = np.zeros(TOTAL, dtype=np.uint8)
    expected_kinds[numbers] = named
    expected_sources = np.zeros(TOTAL, dtype=np.int64)
    expected_sources[numbers] = sources
    assert np.array_equal(found_kinds, expected_kinds[asked])
    assert np.array_equal(found_sources, expected_sources[asked])


@given(kinds_of_chunks, st.integers(0, 100))
def test_the_home_of_a_slot_is_its_lowest_chunk(kinds: list[int], seed: int) -> None:
    numbers, named, sources, slots = table_of(kinds, seed)
    homes = ChunkTable.from_arrays(numbers, named, sources).homes
    stored = named == ChunkKind.STORED
    expected = [numbers[stored & (sources == slot)].min() for slot in range(slots)]
    assert homes.of(np.arange(slots)).tolist() == expected
    told = [zip(*(column.tolist() for column in run), strict=True) for run in homes.runs()]
    assert [start + inner for run in told for start, count in run for inner in range(count)] == sorted(expected)


def test_runs_are_joined() -> None:
    numbers = np.arange(100, 200)
    kinds = np.repeat(np.array([1, 2, 3, 2], dtype=np.uint8), 25)
    sources = np.concatenate([np.zeros(25), np.arange(50, 75), np.arange(25), np.arange(75, 100)])
    table = ChunkTable.from_arrays(numbers, kinds, sources.astype(np.int64))
    assert table.starts.tolist() == [100, 125, 150, 175]
    assert table.counts.tolist() == [25] * 4
    assert table.sources.tolist() == [0, 50, 0, 75]
    assert table.count(ChunkKind.BASE) == 50


def encode(rows: list[tuple[int, int, int, int]]) -> bytes:
    """A table of (start, count, kind, source) without any check."""
    columns = [np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)]
    table = ChunkTable(columns[0], columns[1], columns[2].astype(np.uint8), columns[3])
    return table.encode()


FAR = 1 << 62


@pytest.mark.parametrize(
    ("rows", "entry", "reason"),
    [
        ([(0, 10, 1, 0), (5, 10, 1, 0)], "entry 1", "outside"),
        ([(10, 5, 1, 0), (0, 5, 1, 0)], "entry 1", "outside"),
        ([(990, 11, 1, 0)], "entry 0", "outside"),
        ([(0, 1, 1, 0), (1000, 1, 1, 0)], "entry 1", "outside"),
        ([(-1, 1, 1, 0)], "entry 0", "outside"),
        ([(5, 0, 1, 0)], "entry 0", "covers no chunk"),
        ([(5, FAR, 1, 0)], "entry 0", "outside"),
        ([(0, FAR, 1, 0), (FAR, FAR, 1, 0), (FAR, FAR, 1, 0)], "entry 0", "outside"),
        ([(5, 1, 0, 0)], "entry 0", "kind"),
        ([(5, 1, 1, 0), (6, 1, 4, 0)], "entry 1", "kind"),
        ([(5, 1, 255, 0)], "entry 0", "kind"),
        ([(5, 1, 1, 7)], "entry 0", "zero run"),
        ([(5, 2, 2, 999)], "entry 0", "outside the base"),
        ([(5, 2, 2, -1)], "entry 0", "outside the base"),
        ([(5, 2, 2, FAR)], "entry 0", "outside the base"),
        ([(5, 3, 3, 1)], "entry 0", "slots do not exist"),
        ([(5, 1, 3, -1)], "entry 0", "slots do not exist"),
        ([(5, 2, 3, 0)], "slot 2", "no chunk refers"),
        ([(5, 1, 3, 0), (8, 1, 3, 2)], "slot 1", "no chunk refers"),
    ],
)
def test_senseless_entries_are_named(rows: list[tuple[int, int, int, int]], entry: str, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode_table(encode(rows), TOTAL, 3, "file")
    assert entry in caught.value.place
    assert reason in caught.value.reason


def test_a_table_of_a_base_file_cannot_refer_to_a_base() -> None:
    with pytest.raises(Malformed, match="outside the base"):
        decode_table(encode([(5, 1, 2, 0)]), TOTAL, 0, "file", base_chunks=0)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 32, 34, 37])
def test_a_table_of_another_length_is_refused(cut: int) -> None:
    data = encode([(5, 1, 1, 0)]) + b"more"
    with pytest.raises(Malformed, match="its length"):
        decode_table(data[:cut], TOTAL, 0, "file")


def test_more_entries_than_chunks_are_refused() -> None:
    data = (1 << 63).to_bytes(8, "little")
    with pytest.raises(Malformed, match="its length"):
        decode_table(data, TOTAL, 0, "file")


@given(st.binary(max_size=200), st.integers(0, 5))
def test_any_bytes_are_decoded_or_refused(data: bytes, slots: int) -> None:
    entries = len(data) // 25
    sized = entries.to_bytes(8, "little") + data[: 25 * entries]
    try:
        table = decode_table(sized, TOTAL, slots, "file")
    except Malformed:
        return
    numbers, kinds, _ = table.expand()
    assert (np.diff(numbers) > 0).all()
    assert ((numbers >= 0) & (numbers < TOTAL)).all()
    assert ((kinds >= 1) & (kinds <= 3)).all()
