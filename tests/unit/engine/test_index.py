# SPDX-License-Identifier: Apache-2.0
"""The digest index: lookup, file form, refusal of damage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.digest import chunk_digests, digest
from cloudlet_ext.engine.errors import (
    Damaged,
    FormatError,
    Malformed,
    Truncated,
    UnsupportedVersion,
    WrongMagic,
)
from cloudlet_ext.engine.index import DigestIndex, IndexLookup, open_index, write_index


def small_index() -> DigestIndex:
    chunks = np.repeat(np.arange(1, 9, dtype=np.uint8), 4096).reshape(-1, 4096)
    chunks[5] = chunks[1]
    return DigestIndex(10, 30, np.array([0, 3, 4, 9, 12, 15, 20, 29]), chunk_digests(chunks))


def encoded(index: DigestIndex) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index")
        write_index(path, index.total_chunks, [(index.numbers, index.digests)])
        return path.read_bytes()


def test_memory_is_preferred_to_disk_and_low_to_high(tmp_path: Path) -> None:
    index = small_index()
    assert IndexLookup(index, tmp_path).find(index.digests).tolist() == [0, 15, 4, 9, 12, 15, 20, 29]


def test_unknown_digests_are_not_found(tmp_path: Path) -> None:
    index = small_index()
    unknown = np.random.default_rng(0).integers(0, 256, (50, 16), dtype=np.uint8)
    # Known in one half only.
    unknown[0, :8] = index.digests[2, :8]
    unknown[1, 8:] = index.digests[2, 8:]
    unknown[2] = 255
    unknown[3] = 0
    assert (IndexLookup(index, tmp_path).find(unknown) == -1).all()


def test_digests_with_equal_halves_are_told_apart(tmp_path: Path) -> None:
    digests = np.zeros((300, 16), dtype=np.uint8)
    digests[:, 12] = np.arange(300) % 256
    digests[:, 13] = np.arange(300) // 256
    index = DigestIndex(0, 300, np.arange(300), digests)
    assert IndexLookup(index, tmp_path).find(digests).tolist() == list(range(300))


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    index = DigestIndex(0, 5, np.empty(0, dtype=np.int64), np.empty((0, 16), dtype=np.uint8))
    assert IndexLookup(index, tmp_path).find(np.zeros((3, 16), dtype=np.uint8)).tolist() == [-1] * 3
    assert not index.covers(np.arange(5)).any()


def test_covers_tells_chunks_that_are_not_zero() -> None:
    covered = small_index().covers(np.arange(30))
    assert np.flatnonzero(covered).tolist() == [0, 3, 4, 9, 12, 15, 20, 29]


def test_an_index_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = small_index()
    write_index(path, 30, [(index.numbers[:3], index.digests[:3]), (index.numbers[3:], index.digests[3:])])
    again = open_index(path, 10, 30)
    assert np.array_equal(again.numbers, index.numbers)
    assert np.array_equal(again.digests, index.digests)


def test_every_truncation_and_bit_flip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    good = encoded(small_index())
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(FormatError):
            open_index(path, 10, 30)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(FormatError):
            open_index(path, 10, 30)


def altered(at: int, data: bytes) -> bytes:
    body = bytearray(encoded(small_index())[:-32])
    body[at : at + len(data)] = data
    return bytes(body) + digest(body)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (altered(0, b"NONSENSE"), WrongMagic),
        (altered(8, b"\2"), UnsupportedVersion),
        (altered(12, b"\1"), Malformed),
        (altered(16, b"\37"), Malformed),
        (altered(24, b"\7"), Truncated),
        (altered(24, b"\x80"), Malformed),
        (altered(32, b"\4"), Malformed),
        (altered(32 + 7 * 8, b"\36"), Malformed),
        (encoded(small_index())[:-1] + b"x", Damaged),
    ],
)
def test_senseless_content_is_refused(tmp_path: Path, content: bytes, error: type[Exception]) -> None:
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(error):
        open_index(tmp_path / "index", 10, 30)
