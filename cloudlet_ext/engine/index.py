# SPDX-License-Identifier: Apache-2.0
"""Digest index: the digests of all non-zero chunks of a base, and where each digest is found.

The file covers the *content* of a base as its guest sees it, so that the identity of a base does
not depend on how qcow2 happened to lay out the clusters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.digest import CHUNK_DIGEST_BYTES, DIGEST_BYTES, ChunkDigests, digest
from cloudlet_ext.engine.errors import Damaged, Malformed, Truncated, UnsupportedVersion, WrongMagic

MAGIC = b"CLDLTIDX"
VERSION = 1
_HEADER = struct.Struct("<8sII QQ")


@dataclass(frozen=True)
class DigestIndex:
    """Digests of the non-zero chunks of a base.

    ``numbers`` ascending, shape (n,); ``digests`` shape (n, 16). The base has ``total_chunks``, of
    which the first ``disk_chunks`` are disk.
    """

    disk_chunks: int
    total_chunks: int
    numbers: Numbers
    digests: ChunkDigests

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Numbers, int]:
        """Unique digests sorted: first halves, second halves, numbers, most equal first halves."""
        # Of equal chunks memory is preferred to disk: it is what a running server has mapped.
        split = int(np.searchsorted(self.numbers, self.disk_chunks))
        preferred = np.roll(np.arange(len(self.numbers)), -split)
        first, second = _halves(self.digests[preferred])
        by_first = np.argsort(first, kind="stable")
        first, second, order = first[by_first], second[by_first], preferred[by_first]
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        first, second, numbers = first[fresh], second[fresh], self.numbers[order][fresh]
        edges = np.flatnonzero(np.concatenate(([True], first[1:] != first[:-1], [True])))
        longest = int(np.diff(edges).max()) if len(first) else 0
        return first, second, numbers, longest

    def lookup(self, digests: ChunkDigests) -> Numbers:
        """A base chunk with each of ``digests`` (n, 16), memory before disk, or -1; shape (n,)."""
        first, second, numbers, longest = self._sorted
        found = np.full(len(digests), -1, dtype=np.int64)
        if not len(first):
            return found
        wanted_first, wanted_second = _halves(digests)
        at = np.searchsorted(first, wanted_first)
        for step in range(longest):
            here = np.minimum(at + step, len(first) - 1)
            hit = (first[here] == wanted_first) & (second[here] == wanted_second) & (found < 0)
            found[hit] = numbers[here[hit]]
        return found

    def covers(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Which of the chunks ``numbers`` are not zero in the base; shape (n,)."""
        if not len(self.numbers):
            return np.zeros(len(numbers), dtype=bool)
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return np.asarray(self.numbers[at] == numbers)

    def encode(self) -> bytes:
        """The index file: header, numbers, digests, digest of all that."""
        header = _HEADER.pack(MAGIC, VERSION, 0, self.total_chunks, len(self.numbers))
        body = header + self.numbers.astype("<u8").tobytes() + self.digests.tobytes()
        return body + digest(body)


def build_index(disk_chunks: int, total_chunks: int, parts: Iterable[tuple[Numbers, ChunkDigests]]) -> DigestIndex:
    """Put ``parts`` (numbers, digests), given in ascending order of numbers, together."""
    pairs = list(parts)
    numbers = np.concatenate([np.empty(0, dtype=np.int64), *(pair[0] for pair in pairs)])
    digests = np.concatenate([np.empty((0, CHUNK_DIGEST_BYTES), dtype=np.uint8), *(pair[1] for pair in pairs)])
    return DigestIndex(disk_chunks, total_chunks, numbers, digests)


def open_index(path: Path, disk_chunks: int, total_chunks: int) -> DigestIndex:
    """Read and check the index file of a base; FormatError names what is wrong."""
    data = path.read_bytes()
    name = str(path)
    least = _HEADER.size + DIGEST_BYTES
    if len(data) < least:
        raise Truncated(path=name, place="the header", expected=least, found=len(data))
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
    if len(data) != expected:
        raise Truncated(path=name, place="the index", expected=expected, found=len(data))
    body = memoryview(data)[:-DIGEST_BYTES]
    if digest(body) != data[-DIGEST_BYTES:]:
        raise Damaged(
            path=name,
            place="the index",
            expected=data[-DIGEST_BYTES:].hex(),
            found=digest(body).hex(),
        )
    numbers = np.frombuffer(data, "<u8", count, _HEADER.size).astype(np.int64)
    digests = np.frombuffer(data, np.uint8, count * CHUNK_DIGEST_BYTES, _HEADER.size + 8 * count).reshape(
        -1, CHUNK_DIGEST_BYTES
    )
    if count and ((np.diff(numbers) <= 0).any() or numbers[0] < 0 or numbers[-1] >= total_chunks):
        raise Malformed(path=name, place="the chunk numbers", reason="not ascending or outside the base")
    return DigestIndex(disk_chunks, total_chunks, numbers, digests)


def _halves(digests: ChunkDigests) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    words = np.ascontiguousarray(digests).view("<u8").reshape(-1, 2)
    return words[:, 0].copy(), words[:, 1].copy()
