# SPDX-License-Identifier: Apache-2.0
"""MappedFile: a file as an array of chunks, read through a map."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers


class MappedFile:
    """A read-only map of ``path``; what lies past the end of the file reads as zeros.

    No lock is taken, so that the disk of a paused QEMU can be read. The file must not shrink while
    it is mapped: the kernel answers a read of the lost part with SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        """Open and map ``path``; OSError when it cannot be opened."""
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Not fstat: it tells 0 for a block device.
            self.file_bytes = os.lseek(self.fd, 0, os.SEEK_END)
            self._map = mmap.mmap(self.fd, self.file_bytes, prot=mmap.PROT_READ) if self.file_bytes else None
        except BaseException:
            os.close(self.fd)
            raise
        whole = self.file_bytes // CHUNK_BYTES
        self._whole_chunks = whole
        if self._map is None:
            self._chunks: Chunks = np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        else:
            flat = np.frombuffer(self._map, dtype=np.uint8, count=whole * CHUNK_BYTES)
            self._chunks = flat.reshape(whole, CHUNK_BYTES)

    def read_bytes(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``; shorter than ``length`` only where the file ends."""
        return b"" if self._map is None else self._map[offset : offset + length]

    def words(self, offset: int, count: int) -> NDArray[np.uint64]:
        """``count`` big-endian 64-bit words at ``offset`` in native order; the caller has checked
        the bounds."""
        raw = np.frombuffer(self.read_bytes(offset, count * 8), dtype=">u8")
        return raw.astype(np.uint64)

    def read_into(self, out: Chunks, rows: Numbers | None, places: Numbers) -> None:
        """Copy chunk number ``places[i]`` of the file to row ``rows[i]`` (``i`` when None) of
        ``out``."""
        if not len(places):
            return
        if rows is None and self._copy_span(out, places):
            return
        inside = places < self._whole_chunks
        if not inside.all():
            target = np.arange(len(places), dtype=np.int64) if rows is None else rows
            self._copy_tail(out, target[~inside], places[~inside])
            rows, places = target[inside], places[inside]
        if rows is None:
            # mode="clip" lets numpy write to `out` without a buffer in between; the bounds are
            # known to hold.
            np.take(self._chunks, places, axis=0, out=out, mode="clip")
        elif len(rows):
            out[rows] = self._chunks[places]

    def _copy_span(self, out: Chunks, places: Numbers) -> bool:
        first, count = int(places[0]), len(places)
        if int(places[-1]) != first + count - 1 or first + count > self._whole_chunks:
            return False
        if count > 2 and not bool((np.diff(places) == 1).all()):
            return False
        out[:] = self._chunks[first : first + count]
        return True

    def _copy_tail(self, out: Chunks, rows: Numbers, places: Numbers) -> None:
        out[rows] = 0
        partial = rows[places == self._whole_chunks]
        tail = self.read_bytes(self._whole_chunks * CHUNK_BYTES, CHUNK_BYTES)
        if len(partial) and tail:
            out[partial, : len(tail)] = np.frombuffer(tail, dtype=np.uint8)

    def close(self) -> None:
        """Unmap and close; may be called twice."""
        if self.fd < 0:
            return
        self._chunks = np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        self._whole_chunks = 0
        # Not closed by hand: a reader in another thread may still hold it, and the last one unmaps.
        self._map = None
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
