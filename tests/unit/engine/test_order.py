# SPDX-License-Identifier: Apache-2.0
"""The working set: merged orders, and their file form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.order import LIMIT_CHUNKS, decode_order, encode_order, merge_orders
from cloudlet_ext.engine.planes import planes, zigzag

TOTAL = 500


@given(st.lists(st.integers(0, TOTAL - 1), unique=True))
def test_an_order_survives_its_file(numbers: list[int]) -> None:
    order = np.array(numbers, dtype=np.int64)
    assert decode_order(encode_order(order), TOTAL, "file").tolist() == numbers


def test_neighbours_become_one_run() -> None:
    order = np.concatenate([np.arange(100, 200), np.arange(50)])
    assert len(encode_order(order)) == 8 + 2 * 16


@given(st.lists(st.lists(st.integers(0, 30), unique=True), max_size=4))
def test_a_merged_order_has_everything_at_its_best_rank(lists: list[list[int]]) -> None:
    merged = merge_orders([np.array(one, dtype=np.int64) for one in lists]).tolist()
    everything = set().union(*lists)
    best = {n: min(one.index(n) for one in lists if n in one) for n in everything}
    assert merged == sorted(everything, key=lambda number: (best[number], number))


def test_an_order_that_was_recorded_twice_stays() -> None:
    order = np.array([5, 3, 9, 1], dtype=np.int64)
    assert merge_orders([order, order]).tolist() == [5, 3, 9, 1]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [([499, 500], "outside"), ([-1], "outside"), ([3, 3], "twice"), ([1, 2, 1, 2], "twice")],
)
def test_a_senseless_order_is_refused(numbers: list[int], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode_order(encode_order(np.array(numbers, dtype=np.int64)), TOTAL, "file")


@given(st.binary(max_size=160))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    runs = len(data) // 16
    try:
        order = decode_order(runs.to_bytes(8, "little") + data[: 16 * runs], TOTAL, "file")
    except Malformed:
        return
    assert len(set(order.tolist())) == len(order)
    assert ((order >= 0) & (order < TOTAL)).all()


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(9), (1 << 40).to_bytes(8, "little")])
def test_an_order_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_order(data, TOTAL, "file")


def test_a_working_set_of_absurd_size_is_refused_before_memory_is_taken_for_it() -> None:
    run = planes(zigzag(np.array([0]))) + planes(np.array([1 << 38]))
    with pytest.raises(Malformed, match="at most"):
        decode_order((1).to_bytes(8, "little") + run, 1 << 40, "overlay")


def test_runs_that_overlap_are_refused_in_any_order() -> None:
    for starts in ([0, 5], [5, 0]):
        steps = zigzag(np.array([starts[0], starts[1] - starts[0] - 8]))
        data = (2).to_bytes(8, "little") + planes(steps) + planes(np.array([8, 8]))
        with pytest.raises(Malformed, match="twice"):
            decode_order(data, 100, "overlay")


def test_a_longer_working_set_is_cut() -> None:
    order = decode_order(encode_order(np.arange(LIMIT_CHUNKS + 5)), 1 << 30, "overlay")
    assert len(order) == LIMIT_CHUNKS
