# SPDX-License-Identifier: Apache-2.0
"""Recorder: which chunks a guest asks for, in order of first need."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Numbers


class Recorder:
    """Notes which chunks a guest asks for, in order; ``order`` has each once."""

    def __init__(self, disk_chunks: int) -> None:
        self._disk_chunks = disk_chunks
        self._seen: dict[int, None] = {}
        self._lock = threading.Lock()
        self.recording = True

    def pages(self, numbers: Numbers) -> None:
        """Memory pages, counted from the first one."""
        self._note((numbers + self._disk_chunks).tolist())

    def disk(self, offset: int, length: int) -> None:
        """A read of the disk, in bytes."""
        self._note(range(offset // CHUNK_BYTES, -(-(offset + length) // CHUNK_BYTES)))

    def disk_chunks(self, numbers: Numbers) -> None:
        """A read of chunks of the disk."""
        self._note(numbers.tolist())

    def _note(self, numbers: Any) -> None:
        with self._lock:
            if self.recording:
                self._seen.update(dict.fromkeys(numbers))

    @property
    def order(self) -> Numbers:
        """Chunk numbers in order of first need."""
        with self._lock:
            return np.fromiter(self._seen, dtype=np.int64)
