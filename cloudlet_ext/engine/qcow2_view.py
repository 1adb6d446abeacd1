# SPDX-License-Identifier: Apache-2.0
"""Qcow2View: a qcow2 file of which only the tables exist; its data are looked up when they are read.

It shows the disk part of an overlay that is still arriving as an ordinary layer over the base's disk: whoever opens it
sees which clusters it has, and can copy these, and only these, into the layer above.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.engine.qcow2_writer import CLUSTER_BYTES, CLUSTER_CHUNKS, Qcow2Writer
from cloudlet_ext.engine.raw_image import RawImage
from cloudlet_ext.engine.table import ChunkKind, ChunkTable

ReadChunks = Callable[[Numbers], Chunks]
"""Content of disk chunks by their numbers (ascending), shape (n, 4096); may wait for them."""


class Qcow2View:
    """The file, byte for byte."""

    def __init__(self, path: Path, table: ChunkTable, disk_chunks: int) -> None:
        """Make the tables, in a file ``path``, for the disk chunks that ``table`` tells."""
        self._chunks = disk_chunks
        numbers, kinds, _ = table.expand()
        kinds, numbers = kinds[numbers < disk_chunks], numbers[numbers < disk_chunks]
        clusters = np.unique(numbers // CLUSTER_CHUNKS)
        zero, counts = np.unique(numbers[kinds == ChunkKind.ZERO] // CLUSTER_CHUNKS, return_counts=True)
        sizes = np.minimum(disk_chunks - zero * CLUSTER_CHUNKS, CLUSTER_CHUNKS)
        zero = zero[counts == sizes]
        with Qcow2Writer.create(path, disk_chunks * CHUNK_BYTES) as writer:
            if len(zero):
                whole = (zero[:, None] * CLUSTER_CHUNKS + np.arange(CLUSTER_CHUNKS)).reshape(-1)
                writer.write(whole[whole < disk_chunks], None)
            writer.reserve(np.setdiff1d(clusters, zero, assume_unique=True))
        self._file = RawImage.open(path)
        self.file_bytes = path.stat().st_size
        with Qcow2Image.open(path) as image:
            data = image.allocation().data
        at = np.flatnonzero(data >= 0)
        # Which disk chunk is at each chunk of the file; none where the tables are.
        self._home = np.full(self.file_bytes // CHUNK_BYTES, -1, dtype=np.int64)
        self._home[data[at] // CHUNK_BYTES] = at

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster."""
        return CLUSTER_BYTES

    def read(self, offset: int, length: int, chunks: ReadChunks) -> Chunks:
        """Whole chunks of the file from ``offset`` on; the disk's content comes from ``chunks``."""
        wanted = np.arange(offset // CHUNK_BYTES, (offset + length) // CHUNK_BYTES, dtype=np.int64)
        homes = self._home[wanted]
        is_data = homes >= 0
        out = np.empty((len(wanted), CHUNK_BYTES), dtype=np.uint8)
        if not is_data.all():
            out[~is_data] = self._file.read(wanted[~is_data])
        if is_data.any():
            # Clusters are handed out in ascending order: so are the chunks in them.
            out[is_data] = chunks(homes[is_data])
        return out

    def close(self) -> None:
        """Unmap the tables."""
        self._file.close()
