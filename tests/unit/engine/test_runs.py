# SPDX-License-Identifier: Apache-2.0
"""What is worked out by runs is what counting chunk by chunk gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.engine.chunks import Numbers, ranges, regrouped
from cloudlet_ext.engine.homes import Homes
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.map_cells import CellClass, census_of
from cloudlet_ext.engine.statistics import ChunkClass, class_counts, count_classes
from cloudlet_ext.engine.table import ChunkKind, ChunkTable
from cloudlet_ext.engine.table_decoder import decode_table

DISK, MEMORY = 60, 140
LAYOUT = Layout((Region("disk", "disk", DISK), Region("ram", "memory", MEMORY)))
TOTAL = DISK + MEMORY

Run = tuple[int, int, int, int]
"""Chunks left out before it, its chunks, its kind, its source."""


def table_of(rows: list[Run]) -> ChunkTable:
    """Runs as they are given, not joined; slots without a gap."""
    columns: list[list[int]] = [[], [], [], []]
    end = slots = 0
    for gap, count, kind, source in rows:
        start, count = end + gap, min(count, TOTAL - end - gap)
        if count <= 0:
            break
        if kind == ChunkKind.BASE:
            source = min(source, TOTAL - count)
        elif kind == ChunkKind.STORED:
            source = min(source, slots)
            slots = max(slots, source + count)
        else:
            source = 0
        for column, value in zip(columns, (start, count, kind, source), strict=True):
            column.append(value)
        end = start + count
    starts, counts, kinds, sources = (np.array(column, dtype=np.int64) for column in columns)
    return ChunkTable(starts, counts, kinds.astype(np.uint8), sources)


tables = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(1, 3), st.integers(0, TOTAL)), max_size=40
).map(table_of)


def single(table: ChunkTable) -> list[tuple[int, int, int]]:
    """Number, kind and source of every chunk that the table tells, by plain counting."""
    runs = zip(*(column.tolist() for column in (table.starts, table.counts, table.kinds, table.sources)), strict=True)
    return [
        (start + inner, kind, source + inner if kind != ChunkKind.ZERO else 0)
        for start, count, kind, source in runs
        for inner in range(count)
    ]


def classes_of(table: ChunkTable) -> list[ChunkClass]:
    """ChunkClass of every chunk of the layout, by plain counting."""
    classes = [ChunkClass.UNCHANGED] * TOTAL
    seen: set[int] = set()
    for number, kind, source in single(table):
        if kind == ChunkKind.ZERO:
            classes[number] = ChunkClass.ZERO
        elif kind == ChunkKind.BASE:
            classes[number] = ChunkClass.BASE_DISK if source < DISK else ChunkClass.BASE_MEMORY
        else:
            classes[number] = ChunkClass.SAME_OVERLAY if source in seen else ChunkClass.STORED
            seen.add(source)
    return classes


def rows_of(columns: tuple[np.ndarray, ...]) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(tables, st.integers(1, 70))
def test_pieces_tell_each_chunk_once_and_no_more_than_wanted(table: ChunkTable, most: int) -> None:
    pieces = list(table.pieces(most))
    assert [row for piece in pieces for row in rows_of(piece)] == single(table) == rows_of(table.expand())
    sizes = [len(numbers) for numbers, _, _ in pieces]
    assert all(0 < size <= most for size in sizes)
    # Not one for each run: two neighbours are more than fits.
    assert all(one + other > most or most == 1 or max(table.counts) > most for one, other in itertools.pairwise(sizes))


@given(tables, st.integers(0, TOTAL), st.integers(0, TOTAL))
def test_within_is_the_part_between(table: ChunkTable, first: int, end: int) -> None:
    first, end = sorted((first, end))
    part = table.within(first, end)
    assert rows_of(part.expand()) == [row for row in single(table) if first <= row[0] < end]
    assert (part.counts > 0).all()


@given(tables, st.lists(st.integers(0, TOTAL), unique=True, max_size=8))
def test_classes_are_counted_between_any_edges(table: ChunkTable, inner: list[int]) -> None:
    edges = np.array(sorted({0, TOTAL, *inner}), dtype=np.int64)
    classes = classes_of(table)
    expected = [
        [classes[first:end].count(kind) for kind in ChunkClass] for first, end in itertools.pairwise(edges.tolist())
    ]
    assert class_counts(table, LAYOUT, edges).tolist() == expected
    counted = count_classes(table, LAYOUT)
    assert [
        counted.unchanged,
        counted.zero,
        counted.base_memory,
        counted.base_disk,
        counted.same_overlay,
        counted.stored,
    ] == np.sum(expected, axis=0).tolist()


@given(tables, st.sets(st.integers(0, TOTAL - 1)), st.integers(1, 50))
def test_what_is_empty_is_what_is_unchanged_and_zero_in_the_base(table: ChunkTable, used: set[int], step: int) -> None:
    edges = np.minimum(np.arange(0, TOTAL + step, step), TOTAL)
    found = census_of(table, LAYOUT, np.array(sorted(used), dtype=np.int64))(edges)
    cells: list[CellClass] = [CellClass(kind) for kind in classes_of(table)]
    for number, kind in enumerate(cells):
        if kind == CellClass.UNCHANGED and number not in used:
            cells[number] = CellClass.EMPTY
    expected = [[cells[first:end].count(kind) for kind in CellClass] for first, end in itertools.pairwise(edges)]
    assert found.tolist() == expected


@given(tables)
def test_homes_are_the_lowest_however_runs_overlap(table: ChunkTable) -> None:
    homes: dict[int, int] = {}
    for number, kind, slot in single(table):
        if kind == ChunkKind.STORED:
            homes.setdefault(slot, number)
    assert table.slots == len(homes)
    slots = np.arange(table.slots)
    assert table.homes.of(slots).tolist() == [homes[slot] for slot in slots.tolist()]
    runs = [rows_of(run) for run in table.homes.runs()]
    told = [start + inner for run in runs for start, count in run for inner in range(count)]
    assert sorted(told) == sorted(homes.values())


@given(tables, st.integers(1, 9))
def test_tables_in_parts_are_the_same(table: ChunkTable, runs: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = (table.encode(), ChunkTable(table.starts, table.counts, table.kinds, table.sources).slots)
        patch.setattr("cloudlet_ext.engine.table.PIECE_RUNS", runs)
        patch.setattr("cloudlet_ext.engine.homes.PIECE_RUNS", runs)
        parts = ChunkTable(table.starts, table.counts, table.kinds, table.sources)
        assert (parts.encode(), parts.slots) == whole
        decoded = decode_table(whole[0], TOTAL, whole[1], "file")
        assert single(decoded) == single(table)
        counts = [parts.count(kind) for kind in (ChunkKind.ZERO, ChunkKind.BASE, ChunkKind.STORED)]
        assert counts == [sum(row[1] == kind for row in single(table)) for kind in (1, 2, 3)]
        edges = np.array([0, 50, TOTAL])
        by_parts = class_counts(parts, LAYOUT, edges).tolist()
    assert by_parts == class_counts(table, LAYOUT, edges).tolist()


def test_homes_of_runs_that_lie_within_each_other() -> None:
    """The first run covers all; then the second, shorter one is lower for none."""
    numbers = [np.array(column, dtype=np.int32) for column in ([0, 100, 200], [64, 1, 9], [0, 63, 60])]
    homes = Homes(*numbers)
    assert homes.of(np.arange(69)).tolist() == [*range(64), *range(204, 209)]


@given(st.lists(st.integers(0, 20), max_size=20), st.integers(1, 9))
def test_regrouped_rows_stay_in_order(sizes: list[int], most: int) -> None:
    total = sum(sizes)
    numbers, marks = np.arange(total), np.arange(total) % 3 == 0
    ends = np.cumsum(sizes)
    pieces = [(numbers[end - size : end], marks[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    out = list(regrouped(pieces, most))
    assert [len(piece[0]) for piece in out] == [most] * (total // most) + ([total % most] if total % most else [])
    assert np.concatenate([numbers[:0], *(piece[0] for piece in out)]).tolist() == numbers.tolist()
    assert np.concatenate([marks[:0], *(piece[1] for piece in out)]).tolist() == marks.tolist()


@pytest.mark.parametrize(("start", "end"), [(5, 5), (0, 1), (7, 200_000), (65536, 131072)])
def test_ranges_are_cut(start: int, end: int) -> None:
    pieces: list[Numbers] = list(ranges(start, end))
    assert [number for piece in pieces for number in piece.tolist()] == list(range(start, end))
    assert all(0 < len(piece) <= 65536 for piece in pieces)
