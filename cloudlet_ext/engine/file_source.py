# SPDX-License-Identifier: Apache-2.0
"""FileSource: a file on this machine."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from cloudlet_ext.engine.errors import (
    ShortRead,
    SourceClosed,
    SourceNotFound,
    SourceUnreadable,
)
from cloudlet_ext.engine.link_meter import LinkMeter

PIECE_BYTES = 1024 * 1024
"""Bytes per read call: large enough that the call costs nothing, small enough to be cheap to
hold."""


class FileSource:
    """A regular file, read by pread: no shared position, and no fault if the file shrinks."""

    latency_s = 0.0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open ``path``; SourceNotFound, or SourceUnreadable."""
        self.path = Path(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise SourceNotFound(source=self.describe(), reason="no such file") from error
        except OSError as error:
            raise SourceUnreadable(source=self.describe(), reason=error.strerror) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise SourceUnreadable(source=self.describe(), reason="it is not a regular file")
        self.size_bytes: int | None = status.st_size
        self._meter = LinkMeter()
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Measured read rate; None before the first reads."""
        return self._meter.rate_bytes_per_s

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``; ShortRead."""
        pieces = list(self.attempt(offset, length))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """The same in pieces of 1 MiB."""
        return self.attempt(offset, length)

    def attempt(self, offset: int, length: int) -> Iterator[bytes]:
        """The same; a local read is not tried again."""
        end = offset + length
        self._check_size(offset, length)
        while offset < end:
            piece = self._pread(offset, min(PIECE_BYTES, end - offset))
            if not piece:
                self._check_size(offset, end - offset)
            offset += len(piece)
            yield piece

    def _check_size(self, offset: int, length: int) -> None:
        with self._reading():
            size = os.fstat(self._fd).st_size
        if offset + length > size:
            raise ShortRead(source=self.describe(), offset=offset, length=length, size=size)

    def _pread(self, offset: int, length: int) -> bytes:
        with self._reading():
            self._meter.begin()
            try:
                piece = os.pread(self._fd, length, offset)
                self._meter.count(len(piece))
            except OSError as error:
                raise SourceUnreadable(source=self.describe(), reason=error.strerror) from error
            finally:
                self._meter.end()
        return piece

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        # The number of a closed file may be given to another one at once, so a file that is being
        # read is closed by its last reader.
        with self._lock:
            if self._closed:
                raise SourceClosed(source=self.describe())
            self._readers += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._closed and not self._readers:
                os.close(self._fd)

    def warm(self, connections: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the file; a read in another thread ends first."""
        with self._lock:
            if not self._closed and not self._readers:
                os.close(self._fd)
            self._closed = True

    def describe(self) -> str:
        """The path."""
        return str(self.path)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
