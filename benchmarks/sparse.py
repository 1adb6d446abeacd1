# SPDX-License-Identifier: Apache-2.0
"""Sparse files: what is not there stays a hole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK_BYTES = 4096


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what a file has on disk."""
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, end - at
        at = end


def used_bytes(path: Path) -> int:
    """What a file takes on disk."""
    with path.open("rb") as file:
        return sum(length for _, length in extents(file.fileno()))


def copy(source: Path, target: Path, *, offset: int = 0, length: int | None = None, at: int = 0) -> None:
    """Copy bytes [offset, offset + length) of ``source`` to offset ``at`` of ``target``, which need not exist."""
    with source.open("rb") as read, target.open("r+b" if target.exists() else "w+b") as write:
        end = read.seek(0, os.SEEK_END) if length is None else offset + length
        for first, size in extents(read.fileno()):
            place, last = max(first, offset), min(first + size, end)
            while place < last:
                into = at + place - offset
                place += os.copy_file_range(read.fileno(), write.fileno(), last - place, place, into)
        os.ftruncate(write.fileno(), max(at + end - offset, os.fstat(write.fileno()).st_size))


def join(parts: list[Path], target: Path) -> None:
    """Write all of ``parts``, one after the other, and fill up to whole chunks: nobody need change the file later."""
    target.unlink(missing_ok=True)
    at = 0
    for part in parts:
        copy(part, target, at=at)
        at += part.stat().st_size
    os.truncate(target, -(-at // _CHUNK_BYTES) * _CHUNK_BYTES)
