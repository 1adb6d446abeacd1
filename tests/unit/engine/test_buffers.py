# SPDX-License-Identifier: Apache-2.0
"""Buffers that are used again."""

from __future__ import annotations

import pytest

from cloudlet_ext.engine.buffers import LEAST_BYTES, BufferPool


@pytest.mark.parametrize(
    ("length", "size"), [(1, LEAST_BYTES), (65_536, 65_536), (65_537, 131_072), (1 << 20, 1 << 20)]
)
def test_sizes(length: int, size: int) -> None:
    assert len(BufferPool().take(length)) == size


def test_used_again_by_those_of_the_same_size() -> None:
    pool = BufferPool()
    first, second = pool.take(100_000), pool.take(100_000)
    assert first is not second
    pool.give_back(first)
    assert pool.take(200_000) is not first
    assert pool.take(70_000) is first
