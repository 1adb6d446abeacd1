# SPDX-License-Identifier: Apache-2.0
"""Raw images: content and holes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.errors import ChunkOutOfRange, RawUnaligned
from cloudlet_ext.engine.raw_image import RawImage


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "sparse.img"
    with path.open("wb") as file:
        for chunk in (3, 4, 5, 100, 255):
            file.seek(chunk * CHUNK_BYTES)
            file.write(bytes([chunk]) * CHUNK_BYTES)
        file.truncate(300 * CHUNK_BYTES)
    return path


def allocated(image: RawImage) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *image.spans()])


def test_content_and_holes(sparse: Path) -> None:
    with RawImage.open(sparse) as image:
        assert (image.chunks, image.virtual_bytes) == (300, 300 * CHUNK_BYTES)
        everything = image.read(np.arange(300))
        held = np.array([3, 4, 5, 100, 255])
        assert np.array_equal(np.flatnonzero(everything.any(axis=1)), held)
        assert np.array_equal(everything[held, 7], held)
        # A file system may give out larger pieces than a chunk.
        assert np.isin(held, allocated(image)).all()
        extents = list(image.extents())
        assert sum(end - start for start, end in extents) == len(allocated(image)) < 300
        assert all(one[1] < other[0] for one, other in itertools.pairwise(extents))


def test_order_and_repeats(sparse: Path) -> None:
    with RawImage.open(sparse) as image:
        assert image.read(np.array([255, 3, 3, 0]))[:, 0].tolist() == [255, 3, 3, 0]


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.img"
    path.touch()
    with RawImage.open(path) as image:
        assert image.chunks == 0
        assert len(allocated(image)) == 0
        with pytest.raises(ChunkOutOfRange):
            image.read(np.array([0]))


def test_all_hole(tmp_path: Path) -> None:
    path = tmp_path / "hole.img"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(1 << 20)
    with RawImage.open(path) as image:
        assert len(allocated(image)) == 0
        assert not image.read(np.arange(256)).any()


def test_unaligned(tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(5000))
    with pytest.raises(RawUnaligned, match="5000 bytes"):
        RawImage.open(path)


def test_close_twice(sparse: Path) -> None:
    image = RawImage.open(sparse)
    image.close()
    image.close()
