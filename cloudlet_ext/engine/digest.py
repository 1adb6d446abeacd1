# SPDX-License-Identifier: Apache-2.0
"""Digests: BLAKE3, 16 bytes for a chunk, 32 bytes for a file, a segment or a manifest.

16 bytes tell chunks apart (collisions would have to be searched for at 2^64 cost, and a chunk of a
base that is taken for equal is compared byte by byte before use); 32 bytes are what signatures and
identities stand on.
"""

from __future__ import annotations

import os

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks
from cloudlet_ext.engine.progress import Progress, no_progress

DIGEST_BYTES = 32
CHUNK_DIGEST_BYTES = 16

ChunkDigests = NDArray[np.uint8]
"""Digests of chunks, shape (n, 16)."""

_READ_BYTES = 4 << 20


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3-256 of ``data``."""
    return blake3(data).digest()


def chunk_digests(chunks: Chunks) -> ChunkDigests:
    """First 16 bytes of the BLAKE3 of every chunk, shape (n, 16).

    2.8 us per chunk (1.4 GB/s); the call per chunk costs a tenth of that, and threads make it
    slower.
    """
    view = np.ascontiguousarray(chunks).reshape(-1).data
    digests = b"".join(
        [blake3(view[at : at + CHUNK_BYTES]).digest(CHUNK_DIGEST_BYTES) for at in range(0, len(view), CHUNK_BYTES)]
    )
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, CHUNK_DIGEST_BYTES)


def file_digest(path: str | os.PathLike[str], progress: Progress = no_progress) -> bytes:
    """BLAKE3-256 of the whole file at ``path``; OSError as of open()."""
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        done = 0
        while part := file.read(_READ_BYTES):
            hasher.update(part)
            done += len(part)
            progress(done, total)
    return hasher.digest()
