# SPDX-License-Identifier: Apache-2.0
"""Images that are written here pass QEMU's own checks and hold what was written."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.errors import ChunkOutOfRange, DiskFull, FillNeeded, OutputExists
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.engine.qcow2_writer import CLUSTER_CHUNKS, Qcow2Writer
from cloudlet_ext.engine.raw_image import RawImage

CHUNKS = 16 * 40 + 5
"""The last cluster is cut short."""


def run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(path: Path) -> None:
    """qemu-img check ends with an error code for leaks, too."""
    report = json.loads(run("qemu-img", "check", "--output=json", path))
    assert report["check-errors"] == 0
    assert "leaks" not in report
    assert "corruptions" not in report


def content(path: Path) -> np.ndarray:
    raw = path.with_suffix(".read")
    run("qemu-img", "convert", "-O", "raw", path, raw)
    return np.fromfile(raw, dtype=np.uint8).reshape(-1, CHUNK_BYTES)


@dataclass(frozen=True)
class Step:
    """One call of write."""

    numbers: np.ndarray
    seed: int | None

    def data(self) -> np.ndarray | None:
        if self.seed is None:
            return None
        rng = np.random.default_rng(self.seed)
        return rng.integers(1, 256, (len(self.numbers), CHUNK_BYTES), dtype=np.uint8)


def steps() -> st.SearchStrategy[list[Step]]:
    scattered = st.sets(st.integers(0, CHUNKS - 1), min_size=1, max_size=40)
    span = st.tuples(st.integers(0, CHUNKS - 1), st.integers(1, 100)).map(
        lambda pair: set(range(pair[0], min(CHUNKS, sum(pair))))
    )
    numbers = st.one_of(scattered, span).map(lambda chosen: np.array(sorted(chosen)))
    seeds = st.one_of(st.none(), st.integers(0, 1000))
    return st.lists(st.builds(Step, numbers, seeds), max_size=8)


@settings(max_examples=60, deadline=None)
@given(steps=steps(), over_base=st.booleans())
def test_what_was_written_is_read(steps: list[Step], over_base: bool) -> None:
    with TemporaryDirectory() as directory:
        base, path = Path(directory) / "base.img", Path(directory) / "top.qcow2"
        expected = np.zeros((CHUNKS, CHUNK_BYTES), dtype=np.uint8)
        if over_base:
            expected = np.random.default_rng(0).integers(0, 256, expected.shape, dtype=np.uint8)
        expected.tofile(base)
        touched = np.zeros(CHUNKS, dtype=bool)
        with RawImage.open(base) as fill:
            backing = base if over_base else None
            size = CHUNKS * CHUNK_BYTES
            with Qcow2Writer.create(path, size, backing, "raw", fill=fill) as writer:
                for step in steps:
                    data = step.data()
                    writer.write(step.numbers, data)
                    expected[step.numbers] = 0 if data is None else data
                    touched[step.numbers] = True
        check(path)
        assert np.array_equal(content(path), expected)
        clusters = np.unique(np.flatnonzero(touched) // CLUSTER_CHUNKS)
        with Qcow2Image.open(path) as image:
            numbers, zero = image.changed()
            assert np.array_equal(np.unique(numbers // CLUSTER_CHUNKS), clusters)
            assert np.array_equal(image.read(numbers), expected[numbers])
            assert not expected[numbers[zero]].any()
            whole = [not expected[at * 16 : at * 16 + 16].any() for at in clusters]
            assert zero[::CLUSTER_CHUNKS].tolist() == whole


def test_guest_writes_over_it(tmp_path: Path) -> None:
    base, path = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "64M")
    run("qemu-io", "-c", "write -P 1 0 32M", base)
    rng = np.random.default_rng(1)
    numbers = np.sort(rng.choice(16384, 3000, replace=False))
    with (
        Qcow2Image.open(base) as fill,
        Qcow2Writer.create(path, 64 << 20, base, "qcow2", fill=fill) as writer,
    ):
        writer.write(numbers, np.full((3000, CHUNK_BYTES), 2, dtype=np.uint8))
    commands = [f"write -P 3 {at}k 200k" for at in range(0, 60000, 1000)]
    commands += [f"discard {at}k 128k" for at in range(512, 60000, 3000)]
    run("qemu-io", "-d", "unmap", *[word for each in commands for word in ("-c", each)], path)
    check(path)
    with Qcow2Image.open(path) as image:
        changed, _ = image.changed()
        assert np.array_equal(image.read(changed), content(path)[changed])


def test_plain_version_3(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    with Qcow2Writer.create(path, 1 << 30, "/nowhere/base.qcow2", "qcow2"):
        pass
    told = json.loads(run("qemu-img", "info", "-U", "--output=json", path))
    assert told["format-specific"]["data"] == {
        "compat": "1.1",
        "compression-type": "zlib",
        "lazy-refcounts": False,
        "refcount-bits": 16,
        "corrupt": False,
        "extended-l2": False,
    }
    assert told["virtual-size"] == 1 << 30
    assert told["cluster-size"] == 65536
    assert told["backing-filename"] == "/nowhere/base.qcow2"
    assert told["backing-filename-format"] == "qcow2"
    assert told["actual-size"] < 1 << 18


def test_more_than_one_refcount_block(tmp_path: Path) -> None:
    path = tmp_path / "large.qcow2"
    clusters = 33_000
    numbers = np.arange(clusters) * CLUSTER_CHUNKS + 3
    with Qcow2Writer.create(path, 16 << 30) as writer:
        for first in range(0, clusters, 256):
            some = numbers[first : first + 256]
            writer.write(some, np.full((len(some), CHUNK_BYTES), 7, dtype=np.uint8))
    check(path)
    # Holes stay holes: a chunk of each cluster and the tables.
    assert path.stat().st_blocks * 512 < clusters * CHUNK_BYTES * 1.1
    with Qcow2Image.open(path) as image:
        assert (image.read(numbers) == 7).all()
        assert not image.read(numbers + 1).any()


def test_zeros_let_their_place_go(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    numbers = np.arange(64)
    ones = np.full((64, CHUNK_BYTES), 1, dtype=np.uint8)
    with Qcow2Writer.create(path, 1 << 20) as writer:
        writer.write(numbers, ones)
        writer.write(numbers[:20], None)
        writer.write(numbers[:1], ones[:1])
    check(path)
    with Qcow2Image.open(path) as image:
        read = image.read(numbers)
    assert np.array_equal(read[:, 0], np.array([1] + [0] * 19 + [1] * 44))


def test_partial_cluster_needs_fill(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    writer = Qcow2Writer.create(path, 1 << 20, "base.qcow2")
    writer.write(np.array([17]), None)
    with pytest.raises(FillNeeded) as caught:
        writer.close()
    assert (caught.value.cluster, caught.value.backing) == (1, "base.qcow2")
    assert not os.listdir(tmp_path)


def test_nothing_under_the_name_before_close(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    writer = Qcow2Writer.create(path, 1 << 20)
    writer.write(np.arange(3), None)
    assert not path.exists()
    writer.abort()
    writer.abort()
    assert not os.listdir(tmp_path)


def test_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    with pytest.raises(KeyboardInterrupt), Qcow2Writer.create(path, 1 << 20):
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


def test_bad_calls(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    one = np.zeros((1, CHUNK_BYTES), dtype=np.uint8)
    with pytest.raises(ValueError, match="multiple of 4096"):
        Qcow2Writer.create(path, 1000)
    with pytest.raises(ValueError, match="longer than 1023"):
        Qcow2Writer.create(path, 1 << 20, "x" * 1024)
    with Qcow2Writer.create(path, 1 << 20) as writer:
        with pytest.raises(ChunkOutOfRange) as caught:
            writer.write(np.array([256]), one)
        assert caught.value.number == 256
        with pytest.raises(ChunkOutOfRange):
            writer.write(np.array([-1]), one)
        with pytest.raises(ValueError, match="ascend"):
            writer.write(np.array([3, 3]), None)
        with pytest.raises(ValueError, match="shape"):
            writer.write(np.array([3, 4]), one)


def test_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "top.qcow2"
    path.write_text("precious")
    with pytest.raises(OutputExists):
        Qcow2Writer.create(path, 1 << 20)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["top.qcow2"]


def test_full_disk(small_disk: Path) -> None:
    with pytest.raises(DiskFull) as caught, Qcow2Writer.create(small_disk / "top.qcow2", 1 << 30) as writer:
        for first in range(0, 4096, 256):
            writer.write(np.arange(first, first + 256), np.ones((256, CHUNK_BYTES), dtype=np.uint8))
    assert caught.value.exit_code == 8
    assert os.listdir(small_disk) == []
