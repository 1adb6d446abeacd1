# SPDX-License-Identifier: Apache-2.0
"""BufferPool: buffers that are used again, since fresh pages cost more than what is copied into them."""

from __future__ import annotations

import threading
from collections import defaultdict

LEAST_BYTES = 64 * 1024


class BufferPool:
    """Buffers by size, a power of two; never more than were in use at once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: defaultdict[int, list[bytearray]] = defaultdict(list)

    def take(self, length: int) -> bytearray:
        """A buffer of ``length`` bytes or more, with any content."""
        size = max(LEAST_BYTES, 1 << (length - 1).bit_length())
        with self._lock:
            free = self._free[size]
            return free.pop() if free else bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        """The content of ``buffer`` is needed no more."""
        with self._lock:
            self._free[len(buffer)].append(buffer)
