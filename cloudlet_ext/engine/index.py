# SPDX-License-Identifier: Apache-2.0
"""Digest index: the digests of all non-zero chunks of a base, and where each digest is found.

The file covers the *content* of a base as its guest sees it, so that the identity of a base does
not depend on how qcow2 happened to lay out the clusters.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import PIECE_CHUNKS, Numbers
from cloudlet_ext.engine.digest import CHUNK_DIGEST_BYTES, DIGEST_BYTES, ChunkDigests, digest, file_digest
from cloudlet_ext.engine.digest_table import DigestTable, digest_words
from cloudlet_ext.engine.errors import Damaged, Malformed, Truncated, UnsupportedVersion, WrongMagic
from cloudlet_ext.engine.output import no_space_named
from cloudlet_ext.engine.scratch import Column

MAGIC = b"CLDLTIDX"
VERSION = 1
_HEADER = struct.Struct("<8sII QQ")


@dataclass(frozen=True)
class DigestIndex:
    """Digests of the non-zero chunks of a base.

    ``numbers`` ascending, shape (n,); ``digests`` shape (n, 16); maps of a base's file, if it was read from one. The
    base has ``total_chunks``, of which the first ``disk_chunks`` are disk.
    """

    disk_chunks: int
    total_chunks: int
    numbers: Numbers
    digests: ChunkDigests

    def covers(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which of the chunks ``numbers`` are not zero in the base; shape (n,)."""
        if not len(self.numbers):
            return np.zeros(len(numbers), dtype=bool)
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return np.asarray(self.numbers[at] == numbers)


def write_index(path: Path, total_chunks: int, parts: Iterable[tuple[Numbers, ChunkDigests]]) -> None:
    """Write the index file of ``parts`` (numbers, digests), which ascend: header, numbers, digests, digest of all that.

    DiskFull; OSError as of opening a file.
    """
    digests: Column[np.uint8] = Column(path.parent, np.uint8, CHUNK_DIGEST_BYTES)
    with no_space_named(path), path.open("wb") as file:
        file.seek(_HEADER.size)
        for numbers, found in parts:
            file.write(numbers.astype("<u8").data)
            digests.append(found)
        count = len(digests)
        for first in range(0, count, PIECE_CHUNKS):
            file.write(digests.rows[first : first + PIECE_CHUNKS].data)
        digests.close()
        file.seek(0)
        file.write(_HEADER.pack(MAGIC, VERSION, 0, total_chunks, count))
        file.flush()
        own = file_digest(path)
        file.seek(0, os.SEEK_END)
        file.write(own)


def open_index(path: Path, disk_chunks: int, total_chunks: int) -> DigestIndex:
    """Map and check the index file of a base; FormatError names what is wrong."""
    name = str(path)
    least = _HEADER.size + DIGEST_BYTES
    size = path.stat().st_size
    if size < least:
        raise Truncated(path=name, place="the header", expected=least, found=size)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    magic, version, reserved, chunks, count = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WrongMagic(path=name, expected="digest index", found=magic)
    if version != VERSION:
        raise UnsupportedVersion(path=name, expected=VERSION, found=version)
    if reserved or chunks != total_chunks or count > chunks:
        raise Malformed(
            path=name,
            place="the header",
            reason=f"{count} digests of {chunks} chunks in a base of {total_chunks} chunks",
        )
    expected = least + count * (8 + CHUNK_DIGEST_BYTES)
    if size != expected:
        raise Truncated(path=name, place="the index", expected=expected, found=size)
    own = data[size - DIGEST_BYTES :]
    found = digest(memoryview(data)[:-DIGEST_BYTES])
    if found != own:
        raise Damaged(path=name, place="the index", expected=own.hex(), found=found.hex())
    numbers = np.frombuffer(data, "<i8", count, _HEADER.size)
    digests = np.frombuffer(data, np.uint8, count * CHUNK_DIGEST_BYTES, _HEADER.size + 8 * count)
    if count and (not _ascend(numbers) or numbers[0] < 0 or numbers[-1] >= total_chunks):
        raise Malformed(path=name, place="the chunk numbers", reason="not ascending or outside the base")
    return DigestIndex(disk_chunks, total_chunks, numbers, digests.reshape(-1, CHUNK_DIGEST_BYTES))


def _ascend(numbers: Numbers) -> bool:
    """Whether they do, without repeats."""
    for first in range(0, len(numbers), PIECE_CHUNKS):
        # One more, so that neighbours in different pieces are compared.
        if (np.diff(numbers[first : first + PIECE_CHUNKS + 1]) <= 0).any():
            return False
    return True


class IndexLookup:
    """Finds base chunks by their digests, in a scratch file: a base may have millions."""

    def __init__(self, index: DigestIndex, folder: Path) -> None:
        """Of equal chunks memory is preferred to disk (it is what a running server has mapped), low to high numbers.

        DiskFull when ``folder`` has no room.
        """
        self._numbers = index.numbers
        words, rows = digest_words(index.digests), len(index.numbers)
        self._table = DigestTable(folder, lambda: words, rows)
        split = int(np.searchsorted(index.numbers, index.disk_chunks))
        for part in (range(split, rows), range(split)):
            for first in range(part.start, part.stop, PIECE_CHUNKS):
                self._table.add(first, min(PIECE_CHUNKS, part.stop - first))

    def find(self, digests: ChunkDigests) -> Numbers:
        """A base chunk with each of ``digests`` (n, 16), or -1; shape (n,)."""
        rows = self._table.find(digest_words(digests))
        return np.where(rows >= 0, self._numbers[rows], -1) if len(self._numbers) else rows
