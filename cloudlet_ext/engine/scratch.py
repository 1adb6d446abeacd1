# SPDX-License-Identifier: Apache-2.0
"""Scratch columns: arrays that grow with a guest lie in files without names, not in this process's memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.output import no_space_named

_FIRST_BYTES = 64 << 10
_STEP_BYTES = 64 << 20
"""Room is doubled up to this, then added in steps of it."""

S = TypeVar("S", bound=np.generic)


class Column(Generic[S]):
    """Rows of one type in a file that is gone with its last map, or with the process.

    What is in it is in the page cache, which the kernel writes out when it needs the memory. Room is taken on the disk
    before it is mapped: without room there is an error, where a write to a hole would end the process.
    """

    def __init__(self, folder: Path, dtype: type[S], width: int = 0) -> None:
        """``width``: numbers in a row; 0 for plain numbers. OSError as of opening a file."""
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self._shape = (-1, width) if width else (-1,)
        self._row_bytes = self._dtype.itemsize * max(1, width)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._room: NDArray[S] = np.empty((0, *self._shape[1:]), dtype=self._dtype)
        self._rows = 0

    @property
    def rows(self) -> NDArray[S]:
        """All rows, shape (n,) or (n, width): the file's own bytes. Rows that are added later are not in it."""
        return self._room[: self._rows]

    def __len__(self) -> int:
        return self._rows

    def append(self, values: NDArray[Any]) -> None:
        """Add rows; DiskFull."""
        first = self.extend(len(values))
        self._room[first : self._rows] = values

    def extend(self, count: int) -> int:
        """Add ``count`` rows of zeros and give the number of the first; DiskFull."""
        first = self._rows
        if first + count > len(self._room):
            self._grow(first + count)
        self._rows += count
        return first

    def truncate(self, rows: int) -> None:
        """Forget the rows from ``rows`` on; their values come back when there are rows there again."""
        self._rows = rows

    def _grow(self, rows: int) -> None:
        have = len(self._room) * self._row_bytes
        wanted = max(rows * self._row_bytes, have + min(have, _STEP_BYTES), _FIRST_BYTES)
        wanted = -(-wanted // mmap.PAGESIZE) * mmap.PAGESIZE
        with no_space_named(self._folder):
            os.posix_fallocate(self._file.fileno(), 0, wanted)
        mapped = mmap.mmap(self._file.fileno(), wanted)
        count = wanted // self._row_bytes * (self._row_bytes // self._dtype.itemsize)
        self._room = np.frombuffer(mapped, dtype=self._dtype, count=count).reshape(self._shape)

    def close(self) -> None:
        """No more rows will come: those that somebody still holds stay, until he lets go of them."""
        # A part of the old array, even an empty one, would keep the map.
        self._room = np.empty((0, *self._shape[1:]), dtype=self._dtype)
        self._rows = 0
        self._file.close()


def filled(folder: Path, dtype: type[S], rows: int) -> Column[S]:
    """A column of ``rows`` zeros; DiskFull."""
    column: Column[S] = Column(folder, dtype)
    column.extend(rows)
    return column
