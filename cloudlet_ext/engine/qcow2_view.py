# SPDX-License-Identifier: Apache-2.0
"""Qcow2View: a qcow2 file of which only the tables exist; its data are looked up when they are read.

It shows the disk part of an overlay that is still arriving as an ordinary layer over the base's disk: whoever opens it
sees which clusters it has, and can copy these, and only these, into the layer above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, PIECE_CHUNKS, Chunks, Numbers
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.engine.qcow2_writer import CLUSTER_BYTES, CLUSTER_CHUNKS, Qcow2Writer
from cloudlet_ext.engine.raw_image import RawImage
from cloudlet_ext.engine.table import ChunkKind, ChunkTable

ReadChunks = Callable[[Numbers], Chunks]
"""Content of disk chunks by their numbers (ascending), shape (n, 4096); may wait for them."""


class Qcow2View:
    """The file, byte for byte."""

    def __init__(self, path: Path, table: ChunkTable, disk_chunks: int) -> None:
        """Make the tables, in a file ``path``, for the disk chunks that ``table`` tells.

        Eight bytes of memory for each cluster of the disk while they are made and four for each of the file afterwards,
        whatever ``table`` covers.
        """
        clusters = -(-disk_chunks // CLUSTER_CHUNKS)
        told, zeros = np.zeros(clusters, dtype=np.bool_), np.zeros(clusters, dtype=np.uint8)
        for numbers, kinds, _ in table.within(0, disk_chunks).pieces():
            told[numbers // CLUSTER_CHUNKS] = True
            zero, counts = np.unique(numbers[kinds == ChunkKind.ZERO] // CLUSTER_CHUNKS, return_counts=True)
            zeros[zero] += counts.astype(np.uint8)
        sizes = np.full(clusters, CLUSTER_CHUNKS, dtype=np.uint8)
        sizes[-1:] = disk_chunks - (clusters - 1) * CLUSTER_CHUNKS
        zero_only = zeros == sizes
        with Qcow2Writer.create(path, disk_chunks * CHUNK_BYTES) as writer:
            for part in _parts(zero_only):
                whole = (part[:, None] * CLUSTER_CHUNKS + np.arange(CLUSTER_CHUNKS)).reshape(-1)
                writer.write(whole[whole < disk_chunks], None)
            for part in _parts(told & ~zero_only):
                writer.reserve(part)
        self._file = RawImage.open(path)
        self.file_bytes = path.stat().st_size
        # Which cluster of the disk is at each cluster of the file; none where the tables are.
        self._home = np.full(self.file_bytes // CLUSTER_BYTES, -1, dtype=np.int32)
        with Qcow2Image.open(path) as image:
            for units, places in image.places():
                self._home[places // CLUSTER_CHUNKS] = units
        self._disk_chunks = disk_chunks

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster."""
        return CLUSTER_BYTES

    def read(self, offset: int, length: int, chunks: ReadChunks) -> Chunks:
        """Whole chunks of the file from ``offset`` on; the disk's content comes from ``chunks``."""
        wanted = np.arange(offset // CHUNK_BYTES, (offset + length) // CHUNK_BYTES, dtype=np.int64)
        clusters = wanted // CLUSTER_CHUNKS
        homes = self._home[clusters].astype(np.int64)
        is_data = homes >= 0
        homes = homes * CLUSTER_CHUNKS + wanted - clusters * CLUSTER_CHUNKS
        # The last cluster of the file may be longer than the disk.
        is_data &= homes < self._disk_chunks
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


def _parts(chosen: NDArray[np.bool_]) -> Iterator[Numbers]:
    """The clusters that are chosen, some at a time: so few that their chunks are at most PIECE_CHUNKS."""
    most = PIECE_CHUNKS // CLUSTER_CHUNKS
    for first in range(0, len(chosen), most):
        part = first + np.flatnonzero(chosen[first : first + most])
        if len(part):
            yield part
