# SPDX-License-Identifier: Apache-2.0
"""Scratch columns, digest tables, built tables: as if they were lists and dictionaries in memory."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlet_ext.engine.digest_table import DigestTable
from cloudlet_ext.engine.errors import DiskFull
from cloudlet_ext.engine.scratch import Column, filled
from cloudlet_ext.engine.table import ChunkTable
from cloudlet_ext.engine.table_builder import TableBuilder


def test_a_column_grows_and_keeps_what_it_has(tmp_path: Path) -> None:
    column = Column(tmp_path, np.int64)
    pieces = [np.arange(first, first + 5000) for first in range(0, 500_000, 5000)]
    for piece in pieces:
        column.append(piece)
    assert np.array_equal(column.rows, np.concatenate(pieces))
    assert list(tmp_path.iterdir()) == [], "it has no name"
    column.rows[17] = -4
    early = column.rows
    column.append(np.arange(1 << 20))
    early[18] = -5
    assert column.rows[16:19].tolist() == [16, -4, -5], "rows are the file's, wherever they were taken"
    column.close()
    assert early[:18].tolist() == [*range(17), -4]


def test_what_nobody_holds_is_given_back(tmp_path: Path) -> None:
    column = filled(tmp_path, np.int64, 1000)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    column.close()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_rows_of_several_numbers(tmp_path: Path) -> None:
    column = Column(tmp_path, np.uint64, 2)
    column.append(np.array([[1, 2], [3, 4], [5, 6]], dtype=np.uint64))
    column.truncate(1)
    column.append(np.array([[7, 8]], dtype=np.uint64))
    assert column.rows.tolist() == [[1, 2], [7, 8]]
    assert len(column) == 2
    assert filled(tmp_path, np.bool_, 100_000).rows.sum() == 0


def test_no_room_is_an_error_and_no_signal(small_disk: Path) -> None:
    column = Column(small_disk, np.int64)
    with pytest.raises(DiskFull, match="small"):
        for _ in range(100):
            column.append(np.arange(4096))
    with pytest.raises(DiskFull):
        DigestTable(small_disk, lambda: np.empty((0, 2), np.uint64), 1 << 20)


words = st.tuples(st.integers(0, 3), st.integers(0, 3))
"""Digests of which many begin alike, and many are equal."""


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(words, max_size=30), max_size=8), st.integers(1, 1 << 63))
def test_a_digest_table_is_a_dictionary(batches: list[list[tuple[int, int]]], spread: int) -> None:
    """New digests get the following number, in the order in which they come."""
    known: dict[tuple[int, int], int] = {}
    with TemporaryDirectory() as folder:
        column = Column(Path(folder), np.uint64, 2)
        table = DigestTable(Path(folder), lambda: column.rows)
        for batch in batches:
            keys = [(first * spread % (1 << 64), second) for first, second in batch]
            first = len(column)
            array = np.array(keys, dtype=np.uint64).reshape(-1, 2)
            column.append(array)
            rows, fresh = table.add_new(first, len(keys))
            column.truncate(first)
            column.append(array[fresh])
            expected = [known.setdefault(key, len(known)) for key in keys]
            assert rows.tolist() == expected
            assert len(column) == len(known)
        everything = np.array([*known, (1 << 40, 9)], dtype=np.uint64).reshape(-1, 2)
        assert table.find(everything).tolist() == [*known.values(), -1]


def test_a_digest_table_grows(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    keys = random.integers(0, 1 << 63, (100_000, 2), dtype=np.uint64)
    # A long row of cells that are taken: some digests begin in 16 cells.
    keys[:200, 0] &= np.uint64(15)
    table = DigestTable(tmp_path, lambda: keys)
    for first in range(0, len(keys), 3000):
        count = min(3000, len(keys) - first)
        assert table.add(first, count).tolist() == list(range(first, first + count))
    assert table.find(keys).tolist() == list(range(len(keys)))
    keys = np.concatenate((keys, keys[::-1]))
    assert table.add(100_000, 3000).tolist() == list(range(99_999, 96_999, -1))


def test_the_first_of_equal_rows_is_kept(tmp_path: Path) -> None:
    keys = np.array([[5, 1], [9, 2], [5, 1], [5, 3], [9, 2]], dtype=np.uint64)
    table = DigestTable(tmp_path, lambda: keys)
    assert table.add(2, 3).tolist() == [2, 3, 4]
    assert table.add(0, 2).tolist() == [2, 4]
    assert table.find(keys).tolist() == [2, 4, 2, 3, 4]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(1, 20),
)
def test_a_built_table_is_that_of_all_chunks(rows: list[tuple[int, int, int]], cuts: list[int], batch: int) -> None:
    """However the chunks are cut into calls, and coded in batches."""
    numbers = np.cumsum([1 + gap for gap, _, _ in rows], dtype=np.int64)
    kinds = np.array([kind for _, kind, _ in rows], dtype=np.uint8)
    sources = np.cumsum([step for _, _, step in rows], dtype=np.int64)
    expected = ChunkTable.from_arrays(numbers, kinds, sources)
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloudlet_ext.engine.table_builder._BATCH_CHUNKS", batch)
        builder = TableBuilder(Path(folder))
        for first, end in itertools.pairwise(edges):
            builder.add(numbers[first:end], kinds[first:end], sources[first:end])
        table = builder.table()
    for column in ("starts", "counts", "kinds", "sources"):
        assert getattr(table, column).tolist() == getattr(expected, column).tolist()
    assert table.encode() == expected.encode()
