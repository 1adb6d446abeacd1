# SPDX-License-Identifier: Apache-2.0
"""TargetView: the content of any chunk of the target, from the base, the table and the slots that have arrived."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, ChunkReader, Chunks, Numbers
from cloudlet_ext.engine.index import DigestIndex
from cloudlet_ext.engine.table import ChunkKind, ChunkTable


class IndexedBase(ChunkReader, Protocol):
    """What a view needs of a base (base.Base has it)."""

    @property
    def index(self) -> DigestIndex: ...


class Slots(Protocol):
    """Slots that arrive (slot_store.SlotStore has it)."""

    def ready(self, slots: Numbers) -> NDArray[np.bool_]: ...
    def read(self, slots: Numbers) -> Chunks: ...
    def segment_of(self, slots: Numbers) -> Numbers: ...


class TargetView:
    """The disk and the memory that an overlay describes. Thread-safe."""

    def __init__(self, base: IndexedBase, table: ChunkTable, slots: Slots) -> None:
        self._base = base
        self._slots = slots
        self.table = table

    def zero(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which chunks hold only zeros, told without reading them; shape (n,)."""
        kinds, _ = self.table.lookup(numbers)
        unchanged = kinds == ChunkKind.UNCHANGED
        return np.asarray((kinds == ChunkKind.ZERO) | (unchanged & ~self._base.index.covers(numbers)))

    def ready(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which chunks can be read now; shape (n,)."""
        kinds, sources = self.table.lookup(numbers)
        here = np.ones(len(numbers), dtype=np.bool_)
        stored = np.flatnonzero(kinds == ChunkKind.STORED)
        if len(stored):
            here[stored] = self._slots.ready(sources[stored])
        return here

    def segments(self, numbers: Numbers) -> list[int]:
        """Segments that the stored ones among the chunks are in, in order of first use."""
        kinds, sources = self.table.lookup(numbers)
        stored = sources[kinds == ChunkKind.STORED]
        if not len(stored):
            return []
        return list(dict.fromkeys(self._slots.segment_of(stored).tolist()))

    def read(self, numbers: Numbers) -> Chunks:
        """Content of chunks that are ready, shape (n, 4096); ValueError if a slot has not arrived."""
        kinds, sources = self.table.lookup(numbers)
        if (kinds == ChunkKind.UNCHANGED).all():
            return self._base.read(numbers)
        if (kinds == ChunkKind.STORED).all():
            return self._slots.read(sources)
        out = np.zeros((len(numbers), CHUNK_BYTES), dtype=np.uint8)
        stored = kinds == ChunkKind.STORED
        if stored.any():
            out[stored] = self._slots.read(sources[stored])
        elsewhere = kinds == ChunkKind.BASE
        if elsewhere.any():
            out[elsewhere] = self._base.read(sources[elsewhere])
        unchanged = kinds == ChunkKind.UNCHANGED
        if unchanged.any():
            out[unchanged] = self._base.read(numbers[unchanged])
        return out
