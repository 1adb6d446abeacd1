# SPDX-License-Identifier: Apache-2.0
"""Qcow2Writer: a new qcow2 image, written chunk by chunk, complete or not there at all.

Host clusters are handed out in the order in which guest clusters are first written, so that writes
that come in ascending order are one large sequential write. Tables are kept in memory (eight bytes
a cluster, 128 MiB for a whole terabyte, touched only where written) and stored at the end.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, SPAN_CHUNKS, ChunkReader, Chunks, Numbers
from cloudlet_ext.engine.errors import ChunkOutOfRange, FillNeeded, OutputExists
from cloudlet_ext.engine.output import no_space_named
from cloudlet_ext.engine.qcow2_header import COPIED, MAX_BACKING_NAME, ZERO, build_header

CLUSTER_BITS = 16
CLUSTER_BYTES = 1 << CLUSTER_BITS
"""QEMU's default."""
CLUSTER_CHUNKS = CLUSTER_BYTES // CHUNK_BYTES
_L2_ENTRIES = CLUSTER_BYTES // 8
_REFCOUNTS_PER_BLOCK = CLUSTER_BYTES // 2
_ALL = np.uint16(0xFFFF)
_PART_CLUSTERS = 128 * _L2_ENTRIES
"""Clusters whose tables are looked at together when an image is completed (64 GiB of disk)."""

_FILL_CLUSTERS = 32
"""Partial clusters completed at a time: at most 2 MiB of fill in memory."""


class Qcow2Writer:
    """A version-3 image under construction; `close` completes and names it, `abort` removes it.

    As a context manager it is closed when the block ends well and aborted when it raises.
    """

    def __init__(
        self,
        path: Path,
        virtual_bytes: int,
        backing: str | None,
        backing_format: str,
        fill: ChunkReader | None,
    ) -> None:
        """Use `create`."""
        self.path = path
        self.virtual_bytes = virtual_bytes
        self._chunks = virtual_bytes // CHUNK_BYTES
        self._backing = backing
        self._backing_format = backing_format
        self._fill = fill
        clusters = -(-virtual_bytes // CLUSTER_BYTES)
        self._host = np.zeros(clusters, dtype=np.uint32)
        self._data = np.zeros(clusters, dtype=np.uint16)
        self._zero = np.zeros(clusters, dtype=np.uint16)
        self._l1_entries = -(-clusters // _L2_ENTRIES)
        # Header, then the L1 table; everything else follows in the order in which it comes.
        self._next = 1 + -(-self._l1_entries * 8 // CLUSTER_BYTES)
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    @classmethod
    def create(
        cls,
        path: str | Path,
        virtual_bytes: int,
        backing: str | Path | None = None,
        backing_format: str = "qcow2",
        fill: ChunkReader | None = None,
    ) -> Qcow2Writer:
        """Begin an image of ``virtual_bytes`` (a multiple of 4096) that will be named ``path``.

        ``backing`` is written to the header as given. ``fill`` gives the backing's content, by
        chunk numbers of the disk; it is needed when clusters are written in part over a backing.
        OutputExists; OSError when the file cannot be made.
        """
        if virtual_bytes <= 0 or virtual_bytes % CHUNK_BYTES:
            raise ValueError(f"virtual size {virtual_bytes} is no positive multiple of {CHUNK_BYTES}")
        name = None if backing is None else os.fspath(backing)
        if name is not None and len(os.fsencode(name)) > MAX_BACKING_NAME:
            raise ValueError(f"the backing name is longer than {MAX_BACKING_NAME} bytes: {name}")
        if os.path.lexists(path):
            raise OutputExists(path=str(path))
        return cls(Path(path), virtual_bytes, name, backing_format, fill)

    def write(self, numbers: Numbers, data: Chunks | None) -> None:
        """Set chunks ``numbers`` (ascending, no repeats) to ``data`` (n, 4096), to zeros when None.

        May be called many times in any order, also for the same chunk: the last one holds.
        ChunkOutOfRange; DiskFull, OSError, after which the writer can only be aborted.
        """
        if not len(numbers):
            return
        if int(numbers[0]) < 0 or int(numbers[-1]) >= self._chunks:
            wrong = int(numbers[0]) if int(numbers[0]) < 0 else int(numbers[-1])
            raise ChunkOutOfRange(path=str(self.path), number=wrong, chunks=self._chunks)
        if len(numbers) > 1 and not bool((np.diff(numbers) > 0).all()):
            raise ValueError("chunk numbers must ascend without repeats")
        if data is not None and data.shape != (len(numbers), CHUNK_BYTES):
            raise ValueError(f"data has shape {data.shape}, expected {(len(numbers), CHUNK_BYTES)}")
        clusters, bits = _bits(numbers)
        with no_space_named(self.path):
            if data is None:
                self._write_zeros(numbers, clusters, bits)
            else:
                self._allocate(clusters)
                self._write_data(numbers, data)
                self._data[clusters] |= bits
                self._zero[clusters] &= ~bits

    def reserve(self, clusters: Numbers) -> None:
        """Give places to whole ``clusters`` (ascending) whose content is not written: holes of the file.

        For an image of which only the tables are read, see :mod:`cloudlet_ext.engine.qcow2_view`.
        """
        self._allocate(clusters)
        self._data[clusters] = self._full(clusters)
        self._zero[clusters] = 0

    def _write_zeros(self, numbers: Numbers, clusters: Numbers, bits: NDArray[np.uint16]) -> None:
        zero, full = self._zero[clusters] | bits, self._full(clusters)
        whole = zero == full
        stale = clusters[~whole & ((self._data[clusters] & bits) != 0)]
        if len(stale):
            mine = numbers[np.isin(numbers // CLUSTER_CHUNKS, stale)]
            for first in range(0, len(mine), SPAN_CHUNKS):
                some = mine[first : first + SPAN_CHUNKS]
                self._write_data(some, np.zeros((len(some), CHUNK_BYTES), dtype=np.uint8))
        self._zero[clusters] = zero
        self._data[clusters] &= ~bits
        # A cluster of zeros needs no place; the one it had is never handed out again, as it holds
        # old data.
        self._host[clusters[whole]] = 0

    def _full(self, clusters: Numbers) -> NDArray[np.uint16]:
        """Bits of the chunks each cluster has: all sixteen, fewer in the last one of the disk."""
        left = np.minimum(self._chunks - clusters * CLUSTER_CHUNKS, CLUSTER_CHUNKS)
        return ((1 << left) - 1).astype(np.uint16)

    def _allocate(self, clusters: Numbers) -> None:
        new = clusters[self._host[clusters] == 0]
        self._host[new] = self._next + np.arange(len(new), dtype=np.int64)
        self._next += len(new)

    def _write_data(self, numbers: Numbers, data: Chunks) -> None:
        clusters = numbers // CLUSTER_CHUNKS
        places = (self._host[clusters] - clusters) * CLUSTER_CHUNKS + numbers
        flat = np.ascontiguousarray(data).data.cast("B")
        edges = np.concatenate(([0], np.flatnonzero(np.diff(places) != 1) + 1, [len(places)])).tolist()
        starts = (places[edges[:-1]] * CHUNK_BYTES).tolist()
        for start, first, last in zip(starts, edges[:-1], edges[1:], strict=True):
            self._pwrite(flat[first * CHUNK_BYTES : last * CHUNK_BYTES], start)

    def _pwrite(self, data: memoryview | bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done

    def close(self) -> None:
        """Complete partial clusters, write the tables, give the file its name; abort on errors.

        The content is left to the page cache: a server's disk need not outlive a power cut, and a
        flush would cost more than all of the writing. FillNeeded; DiskFull, OSError.
        """
        if self._fd < 0:
            return
        try:
            with no_space_named(self.path):
                self._complete_clusters()
                self._write_tables()
                os.close(self._fd)
            self._fd = -1
            os.rename(self._temporary, self.path)
        except BaseException:
            self.abort()
            raise

    def _parts(self) -> Iterator[slice]:
        for first in range(0, len(self._host), _PART_CLUSTERS):
            yield slice(first, first + _PART_CLUSTERS)

    def _complete_clusters(self) -> None:
        """Fill what clusters that were written in part lack from the backing."""
        for part in self._parts():
            touched = part.start + np.flatnonzero(self._data[part] | self._zero[part])
            lacking = self._full(touched) & ~(self._data[touched] | self._zero[touched])
            partial = lacking != 0
            if partial.any():
                self._complete(touched[partial], lacking[partial])

    def _complete(self, clusters: Numbers, lacking: NDArray[np.uint16]) -> None:
        if self._backing is None:
            # What is missing reads as zeros anyway, so that the hole in the file is right.
            zeros_only = clusters[self._data[clusters] == 0]
            self._host[zeros_only] = 0
            self._zero[zeros_only] = self._full(zeros_only)
            return
        if self._fill is None:
            raise FillNeeded(path=str(self.path), cluster=int(clusters[0]), backing=self._backing)
        self._allocate(clusters)
        self._data[clusters] |= lacking
        for first in range(0, len(clusters), _FILL_CLUSTERS):
            numbers = _numbers(clusters[first : first + _FILL_CLUSTERS], lacking[first : first + _FILL_CLUSTERS])
            self._write_data(numbers, self._fill.read(numbers))

    def _write_tables(self) -> None:
        free = np.ones(self._next, dtype=np.bool_)
        free[: 1 + -(-self._l1_entries * 8 // CLUSTER_BYTES)] = False
        l1 = np.zeros(self._l1_entries, dtype=">u8")
        for part in self._parts():
            host = self._host[part]
            free[host[host != 0]] = False
            told = part.start + np.flatnonzero((host != 0) | (self._zero[part] != 0))
            for index in np.unique(told // _L2_ENTRIES).tolist():
                l1[index] = (self._next << CLUSTER_BITS) | COPIED
                self._pwrite(self._l2_table(index), self._next << CLUSTER_BITS)
                self._next += 1
        self._pwrite(l1.tobytes(), CLUSTER_BYTES)
        refcounts = self._write_refcounts(free)
        backing = None if self._backing is None else (self._backing, self._backing_format)
        l1_place = (CLUSTER_BYTES, self._l1_entries)
        header = build_header(self.virtual_bytes, CLUSTER_BITS, l1_place, refcounts, backing)
        self._pwrite(header, 0)
        os.ftruncate(self._fd, self._next << CLUSTER_BITS)

    def _l2_table(self, index: int) -> bytes:
        part = slice(index * _L2_ENTRIES, (index + 1) * _L2_ENTRIES)
        host, zero = self._host[part].astype(np.uint64), self._zero[part] != 0
        table = np.zeros(_L2_ENTRIES, dtype=">u8")
        stored = (host << np.uint64(CLUSTER_BITS)) | np.uint64(COPIED)
        table[: len(host)] = np.where(host != 0, stored, np.where(zero, ZERO, 0).astype(np.uint64))
        return table.tobytes()

    def _write_refcounts(self, free: NDArray[np.bool_]) -> tuple[int, int]:
        """Write the refcount blocks and, behind them, their table; gives its (offset, clusters)."""
        blocks = table = 1
        while True:
            total = self._next + blocks + table
            needed = -(-total // _REFCOUNTS_PER_BLOCK)
            needed_table = -(-needed * 8 // CLUSTER_BYTES)
            if (needed, needed_table) == (blocks, table):
                break
            blocks, table = needed, needed_table
        counts = np.zeros(blocks * _REFCOUNTS_PER_BLOCK, dtype=">u2")
        counts[:total] = 1
        counts[: len(free)][free] = 0
        self._pwrite(counts.tobytes(), self._next << CLUSTER_BITS)
        pointers = np.zeros(table * CLUSTER_BYTES // 8, dtype=">u8")
        pointers[:blocks] = (self._next + np.arange(blocks, dtype=np.uint64)) << np.uint64(CLUSTER_BITS)
        offset = (self._next + blocks) << CLUSTER_BITS
        self._pwrite(pointers.tobytes(), offset)
        self._next = total
        return offset, table

    def abort(self) -> None:
        """Remove what was written; may be called twice, and after `close` does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(FileNotFoundError):
            self._temporary.unlink()

    def __enter__(self) -> Qcow2Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _bits(numbers: Numbers) -> tuple[Numbers, NDArray[np.uint16]]:
    """Clusters of ascending ``numbers``, each once, and which of their chunks are among them."""
    clusters = numbers // CLUSTER_CHUNKS
    bits = (1 << (numbers - clusters * CLUSTER_CHUNKS)).astype(np.uint16)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(clusters)) + 1))
    return clusters[starts], np.bitwise_or.reduceat(bits, starts)


def _numbers(clusters: Numbers, bits: NDArray[np.uint16]) -> Numbers:
    """Chunk numbers of the ``bits`` of ``clusters``: the inverse of `_bits`."""
    places = np.arange(CLUSTER_CHUNKS, dtype=np.int64)
    rows, columns = np.nonzero((bits[:, None] >> places) & 1)
    return clusters[rows] * CLUSTER_CHUNKS + columns
