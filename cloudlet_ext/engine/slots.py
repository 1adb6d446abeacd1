# SPDX-License-Identifier: Apache-2.0
"""Slots that are being collected: an unlinked temporary file, mapped for reading."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers
from cloudlet_ext.engine.output import no_space_named, write_all


class SlotFile:
    """Chunks by slot, in a file without a name in ``folder``: gone with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._map: mmap.mmap | None = None
        self._chunks: Chunks = np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        self.slots = 0

    def append(self, chunks: Chunks) -> int:
        """Add ``chunks`` (n, 4096) and give the slot of the first; DiskFull without room."""
        first = self.slots
        with no_space_named(self.folder):
            write_all(self._file.fileno(), np.ascontiguousarray(chunks).reshape(-1).data)
        self.slots += len(chunks)
        return first

    def read(self, numbers: Numbers) -> Chunks:
        """Content of the slots ``numbers``, a copy of shape (n, 4096)."""
        if self.slots > len(self._chunks):
            self._map = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
            self._chunks = np.frombuffer(self._map, dtype=np.uint8).reshape(-1, CHUNK_BYTES)
        return self._chunks[numbers]

    def close(self) -> None:
        """Give the space back."""
        self._chunks = np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        self._map = None
        self._file.close()

    def __enter__(self) -> SlotFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
