# SPDX-License-Identifier: Apache-2.0
"""RawImage: a sparse raw disk or memory file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers, ranges
from cloudlet_ext.engine.errors import ChunkOutOfRange, RawUnaligned
from cloudlet_ext.engine.mapped_file import MappedFile


class RawImage:
    """An open raw image; holes read as zeros."""

    def __init__(self, path: Path) -> None:
        """Use `open`."""
        self.path = path
        self._file = MappedFile(path)
        if self._file.file_bytes % CHUNK_BYTES:
            size = self._file.file_bytes
            self._file.close()
            raise RawUnaligned(path=str(path), found=size)

    @classmethod
    def open(cls, path: str | Path) -> RawImage:
        """Map the file; OSError when it cannot be opened, RawUnaligned when its size is no multiple
        of 4096."""
        return cls(Path(path))

    @property
    def virtual_bytes(self) -> int:
        """Size of the image."""
        return self._file.file_bytes

    @property
    def chunks(self) -> int:
        """Chunks of the image."""
        return self._file.file_bytes // CHUNK_BYTES

    def extents(self) -> Iterator[tuple[int, int]]:
        """Runs of chunks that are not holes of the file: (start, end), ascending, with a gap between them.

        A file system that does not tell holes gives one run.
        """
        first = end = 0
        for begin, stop in self._data():
            if begin > end:
                if end > first:
                    yield first, end
                first = begin
            end = stop
        if end > first:
            yield first, end

    def _data(self) -> Iterator[tuple[int, int]]:
        """Chunks that the file system's data touch; neighbours may share one."""
        position = 0
        while position < self._file.file_bytes:
            try:
                begin = os.lseek(self._file.fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            position = os.lseek(self._file.fd, begin, os.SEEK_HOLE)
            yield begin // CHUNK_BYTES, -(-position // CHUNK_BYTES)

    def spans(self) -> Iterator[Numbers]:
        """Ascending numbers of the chunks that are not holes, at most PIECE_CHUNKS at a time."""
        for start, end in self.extents():
            yield from ranges(start, end)

    def read(self, numbers: Numbers) -> Chunks:
        """Content of ``numbers``, shape (n, 4096); ChunkOutOfRange."""
        if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= self.chunks):
            wrong = numbers[(numbers < 0) | (numbers >= self.chunks)]
            raise ChunkOutOfRange(path=str(self.path), number=int(wrong[0]), chunks=self.chunks)
        out = np.empty((len(numbers), CHUNK_BYTES), dtype=np.uint8)
        self._file.read_into(out, None, numbers)
        return out

    def close(self) -> None:
        """Unmap and close; may be called twice."""
        self._file.close()

    def __enter__(self) -> RawImage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
