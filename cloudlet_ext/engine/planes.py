# SPDX-License-Identifier: Apache-2.0
"""Columns of numbers as byte planes: small when compressed, and read and written without a loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import Numbers


def planes(column: NDArray[np.int64] | NDArray[np.uint64]) -> bytes:
    """The lowest bytes of all numbers (8 bytes each), then all second bytes, and so on."""
    return byte_planes(column).tobytes()


def byte_planes(column: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The same as an array, shape (8, n)."""
    return column.astype("<u8").view(np.uint8).reshape(-1, 8).T


def from_planes(data: bytes, offset: int, count: int) -> NDArray[np.uint64]:
    """Read ``count`` numbers that planes() wrote at ``offset``; a copy."""
    rows = np.frombuffer(data, np.uint8, 8 * count, offset).reshape(8, count)
    return np.array(rows.T, order="C").view("<u8").reshape(-1).astype(np.uint64, copy=False)


def zigzag(values: Numbers) -> NDArray[np.uint64]:
    """Signed to unsigned, small staying small: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return ((values << 1) ^ (values >> 63)).astype(np.uint64)


def unzigzag(values: NDArray[np.uint64]) -> Numbers:
    """Undo zigzag()."""
    half = (values >> np.uint64(1)).astype(np.int64)
    return half ^ -(values & np.uint64(1)).astype(np.int64)
