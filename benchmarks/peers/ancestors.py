# SPDX-License-Identifier: Apache-2.0
"""The ancestors' pipeline, as a reference point: equal chunks by hash, the rest through xz -9 in segments of 1 MB.

Their per-page differences are left out (their "none"): by their own published profiles and by our measurements they
lose against the compressor alone, and a process of xdelta3 for each of ten thousand pages would take minutes. As with
them, everything is decompressed and put together before the guest is resumed.
"""

from __future__ import annotations

import lzma
import mmap
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Peer
from benchmarks.sparse import extents
from cloudlet_ext.engine.digest import chunk_digests

_CHUNK = 4096
_SEGMENT_CHUNKS = 256
_SPAN_CHUNKS = 4096
_ZERO, _STORED = -1, -2


class Ancestors(Peer):
    """Deduplicates against reference and itself, then xz; both sides use all cores."""

    name = "ancestors"
    title = "ancestors' pipeline: hashes, then xz -9 per 1 MB"

    def encoder(self, reference: Path, target: Path, out: Path) -> list[str | Path]:
        return [sys.executable, "-m", __name__, "encode", reference, target, out]

    def decoder(self, reference: Path, target: Path) -> list[str | Path]:
        return [sys.executable, "-m", __name__, "decode", reference, target]


def _chunks(path: Path) -> NDArray[np.uint8]:
    """A file as an array of chunks, the last one filled up; a map."""
    with path.open("r+b") as file:
        size = -(-os.fstat(file.fileno()).st_size // _CHUNK) * _CHUNK
        os.ftruncate(file.fileno(), size)
        mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    return np.frombuffer(mapped, dtype=np.uint8).reshape(-1, _CHUNK)


def _used(path: Path) -> NDArray[np.int64]:
    """Numbers of the chunks that are not holes."""
    with path.open("rb") as file:
        parts = [np.arange(at // _CHUNK, -(-(at + size) // _CHUNK)) for at, size in extents(file.fileno())]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)


def _digests(chunks: NDArray[np.uint8], numbers: NDArray[np.int64]) -> list[bytes]:
    found: list[bytes] = []
    for first in range(0, len(numbers), _SPAN_CHUNKS):
        digests = chunk_digests(chunks[numbers[first : first + _SPAN_CHUNKS]]).tobytes()
        found += [digests[at : at + 16] for at in range(0, len(digests), 16)]
    return found


def encode(reference: Path, target: Path, out: Path) -> None:
    """Write counts, a source for every chunk of the target, segments."""
    known: dict[bytes, int] = {}
    used = _used(reference)
    for number, digest in zip(used.tolist(), _digests(_chunks(reference), used), strict=True):
        known.setdefault(digest, number)
    chunks, used = _chunks(target), _used(target)
    sources = np.full(len(chunks), _ZERO, dtype=np.int64)
    stored: list[int] = []
    fresh: dict[bytes, int] = {}
    for number, digest in zip(used.tolist(), _digests(chunks, used), strict=True):
        source = known.get(digest)
        if source is None:
            # Below _STORED: the chunks that this file carries, in order.
            source = fresh.setdefault(digest, _STORED - len(stored))
            if source == _STORED - len(stored):
                stored.append(number)
        sources[number] = source
    segments = [stored[first : first + _SEGMENT_CHUNKS] for first in range(0, len(stored), _SEGMENT_CHUNKS)]
    with out.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        table = lzma.compress(sources.tobytes())
        file.write(struct.pack("<QQQ", len(sources), len(table), len(segments)) + table)
        for packed in pool.map(lambda numbers: lzma.compress(chunks[numbers].tobytes(), preset=9), segments):
            file.write(struct.pack("<Q", len(packed)) + packed)


def decode(reference: Path, source: BinaryIO, target: Path) -> None:
    """Put the target together."""
    count, table_bytes, segments = struct.unpack("<QQQ", source.read(24))
    sources = np.frombuffer(lzma.decompress(source.read(table_bytes)), dtype=np.int64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        packed = (source.read(struct.unpack("<Q", source.read(8))[0]) for _ in range(segments))
        content = [pool.submit(lzma.decompress, segment) for segment in packed]
        stored = np.frombuffer(b"".join(each.result() for each in content), dtype=np.uint8).reshape(-1, _CHUNK)
    known = _chunks(reference)
    with target.open("w+b") as file:
        os.ftruncate(file.fileno(), count * _CHUNK)
        into = np.memmap(file, dtype=np.uint8, mode="r+", shape=(count, _CHUNK))
        for numbers in np.array_split(np.flatnonzero(sources != _ZERO), max(1, count // _SPAN_CHUNKS)):
            places = sources[numbers]
            old = places >= 0
            into[numbers[old]] = known[places[old]]
            into[numbers[~old]] = stored[_STORED - places[~old]]


def main() -> None:
    """``encode REFERENCE TARGET OUT`` or ``decode REFERENCE TARGET`` with the file on standard input."""
    if sys.argv[1] == "encode":
        encode(*(Path(name) for name in sys.argv[2:5]))
    else:
        decode(Path(sys.argv[2]), sys.stdin.buffer, Path(sys.argv[3]))


if __name__ == "__main__":
    main()
