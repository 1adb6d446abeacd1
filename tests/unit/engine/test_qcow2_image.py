# SPDX-License-Identifier: Apache-2.0
"""What QEMU's own tools wrote is read as QEMU's own tools read it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlet_ext.engine.chunks import CHUNK_BYTES, PIECE_CHUNKS
from cloudlet_ext.engine.errors import ChunkNotAllocated, ChunkOutOfRange, LayersDiffer, Qcow2Unsupported
from cloudlet_ext.engine.qcow2 import Qcow2Image, Qcow2Layers

SIZE = 5 * (1 << 20) + 3 * CHUNK_BYTES
"""No multiple of any cluster size but the smallest."""


def run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def create(path: Path, options: str, size: int = SIZE, backing: Path | None = None) -> None:
    extra = [] if backing is None else ["-b", str(backing), "-F", "qcow2"]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *extra, path, str(size))


def play(path: Path, commands: list[str]) -> None:
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-d", "unmap", "-f", "qcow2", *words, path)


def content(path: Path) -> np.ndarray:
    raw = path.with_suffix(".raw")
    run("qemu-img", "convert", "-O", "raw", path, raw)
    return np.fromfile(raw, dtype=np.uint8).reshape(-1, CHUNK_BYTES)


@dataclass(frozen=True)
class Told:
    """What qemu-img map says of the topmost image, per chunk."""

    present: np.ndarray
    zero: np.ndarray
    offset: np.ndarray


def told(path: Path, chunks: int) -> Told:
    present = np.zeros(chunks, dtype=bool)
    zero = np.zeros(chunks, dtype=bool)
    offset = np.full(chunks, -1, dtype=np.int64)
    for part in json.loads(run("qemu-img", "map", "--output=json", path)):
        if part["depth"] or not part["present"]:
            continue
        span = slice(part["start"] // CHUNK_BYTES, (part["start"] + part["length"]) // CHUNK_BYTES)
        present[span] = True
        zero[span] = not part["data"]
        if part["data"] and not part.get("compressed"):
            count = part["length"] // CHUNK_BYTES
            offset[span] = part["offset"] + np.arange(count) * CHUNK_BYTES
    return Told(present, zero, offset)


def check_against_qemu(path: Path) -> None:
    with Qcow2Image.open(path) as image:
        expected = told(path, image.chunks)
        numbers, zero = image.changed()
        assert np.array_equal(numbers, np.flatnonzero(expected.present))
        assert np.array_equal(zero, expected.zero[numbers])
        allocation = image.allocation()
        assert np.array_equal(allocation.zero, expected.zero)
        assert np.array_equal(np.maximum(allocation.data, -1), expected.offset)
        assert np.array_equal(image.read(numbers), content(path)[numbers])


def operations() -> st.SearchStrategy[list[str]]:
    def place(unit: int) -> st.SearchStrategy[tuple[int, int]]:
        first = st.integers(0, SIZE // unit - 1)
        return first.flatmap(
            lambda at: st.integers(1, min(SIZE // unit - at, (1 << 20) // unit)).map(
                lambda count: (at * unit, count * unit)
            )
        )

    places = st.one_of(place(512), place(4096), place(65536))
    kinds = st.one_of(
        st.integers(1, 255).map(lambda pattern: f"write -P {pattern}"),
        st.sampled_from(["write -z", "write -z -u", "discard"]),
    )
    one = st.tuples(kinds, places).map(lambda pair: f"{pair[0]} {pair[1][0]} {pair[1][1]}")
    return st.lists(one, min_size=1, max_size=12)


OPTIONS = [
    "cluster_size=65536",
    "cluster_size=4096",
    "cluster_size=2M",
    "compat=0.10",
    "lazy_refcounts=on",
    "cluster_size=128k,extended_l2=on",
    "cluster_size=512k,extended_l2=on",
]


@settings(max_examples=25, deadline=None)
@given(options=st.sampled_from(OPTIONS), commands=operations())
def test_single_image_is_read_as_qemu_does(options: str, commands: list[str]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "one.qcow2"
        create(path, options)
        play(path, commands)
        check_against_qemu(path)


@settings(max_examples=25, deadline=None)
@given(
    options=st.lists(st.sampled_from(OPTIONS), min_size=3, max_size=3),
    commands=st.lists(operations(), min_size=3, max_size=3),
)
def test_layers_over_a_base_are_read_as_qemu_does(options: list[str], commands: list[list[str]]) -> None:
    with TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{name}.qcow2" for name in ("base", "middle", "top")]
        for index, path in enumerate(paths):
            create(path, options[index], backing=paths[index - 1] if index else None)
            play(path, commands[index])
        check_against_qemu(paths[2])
        with Qcow2Image.open(paths[2]) as top, Qcow2Image.open(paths[1]) as middle:
            layers = Qcow2Layers([top, middle])
            numbers, zero = layers.changed()
            expected = content(paths[2])
            read = layers.read(numbers)
            assert np.array_equal(read, expected[numbers])
            assert not read[zero].any()
            rest = np.setdiff1d(np.arange(layers.chunks), numbers)
            assert np.array_equal(content(paths[0])[rest], expected[rest])
            if len(rest):
                with pytest.raises(ChunkNotAllocated) as caught:
                    layers.read(rest)
                assert caught.value.number == rest[0]


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_compressed_clusters(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source.img"
    rng = np.random.default_rng(5)
    plain = rng.integers(0, 4, SIZE, dtype=np.uint8)
    plain[1 << 20 : 2 << 20] = 0
    # Some clusters do not get smaller and are stored as they are.
    plain[3 << 20 : 4 << 20] = rng.integers(0, 256, 1 << 20, dtype=np.uint8)
    plain.tofile(source)
    path = tmp_path / "packed.qcow2"
    option = f"compression_type={kind}"
    run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", option, source, path)
    check_against_qemu(path)
    with Qcow2Image.open(path) as image:
        assert (image.allocation().data < -1).any()
        order = rng.permutation(image.chunks)
        assert np.array_equal(image.read(order), plain.reshape(-1, CHUNK_BYTES)[order])


def test_numbers_in_any_order_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "one.qcow2"
    create(path, "cluster_size=64k")
    play(path, [f"write -P {number + 1} {number * 65536} 4096" for number in range(40)])
    expected = content(path)
    numbers = np.random.default_rng(3).integers(0, len(expected), 5000)
    with Qcow2Image.open(path) as image:
        assert np.array_equal(image.read(numbers), expected[numbers])
        assert np.array_equal(image.read(numbers[:1]), expected[numbers[:1]])
        assert image.read(numbers[:0]).shape == (0, CHUNK_BYTES)


def test_discarded_clusters_are_told_as_zero(tmp_path: Path) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    create(base, "compat=1.1")
    play(base, ["write -P 7 0 4M"])
    create(top, "compat=1.1", backing=base)
    play(top, ["write -P 9 0 1M", "discard 0 512k", "write -z -u 2M 128k", "discard 3M 64k"])
    with Qcow2Image.open(top) as image:
        numbers, zero = image.changed()
        expected = np.concatenate([np.arange(256), np.arange(512, 544), np.arange(768, 784)])
        assert np.array_equal(numbers, expected)
        assert np.array_equal(numbers[~zero], np.arange(128, 256))
        assert not image.read(numbers[zero]).any()


def test_header_is_told(tmp_path: Path) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    create(base, "cluster_size=4k")
    create(top, "cluster_size=2M", backing=base)
    with Qcow2Image.open(top) as image:
        assert image.virtual_bytes == SIZE
        assert image.cluster_bytes == 2 << 20
        assert image.backing_path == str(base)
        assert image.backing_format == "qcow2"
    with Qcow2Image.open(base) as image:
        assert image.backing_path is None
        assert image.backing_format is None


@pytest.mark.parametrize("number", [-1, SIZE // CHUNK_BYTES])
def test_chunk_out_of_range(tmp_path: Path, number: int) -> None:
    path = tmp_path / "one.qcow2"
    create(path, "cluster_size=64k")
    with Qcow2Image.open(path) as image, pytest.raises(ChunkOutOfRange) as caught:
        image.read(np.array([0, number]))
    assert caught.value.number == number


def test_layers_of_different_sizes(tmp_path: Path) -> None:
    small, large = tmp_path / "small.qcow2", tmp_path / "large.qcow2"
    create(small, "cluster_size=64k")
    create(large, "cluster_size=64k", SIZE * 2)
    with (
        Qcow2Image.open(small) as one,
        Qcow2Image.open(large) as other,
        pytest.raises(LayersDiffer, match=f"has {SIZE} bytes.*has {SIZE * 2}\\."),
    ):
        Qcow2Layers([other, one])


def test_large_disk_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.qcow2"
    size = 8 << 40
    create(path, "cluster_size=64k", size)
    play(path, [f"write -P 5 {size - 65536} 64k"])
    before = _resident_bytes()
    with Qcow2Image.open(path) as image:
        numbers, _ = image.changed()
        assert np.array_equal(numbers, np.arange(16) + size // CHUNK_BYTES - 16)
        assert (image.read(numbers) == 5).all()
        # The L1 table has an entry each 512 MiB; the map of 128 million clusters stays untouched.
        assert _resident_bytes() - before < 64 << 20


def test_layers_of_other_clusters_are_told_span_by_span(tmp_path: Path) -> None:
    """A disk of several spans; the clusters of one layer are 512 times as large as those of the other."""
    bottom, top = tmp_path / "bottom.qcow2", tmp_path / "top.qcow2"
    size = (1 << 30) + (1 << 20)
    create(bottom, "cluster_size=2M", size)
    create(top, "cluster_size=4k", size, backing=bottom)
    places = np.random.default_rng(8).integers(0, size // CHUNK_BYTES, 60).tolist()
    play(bottom, [f"write -P 7 {place * CHUNK_BYTES} 4k" for place in places[:20]])
    play(top, [f"write {option} {place * CHUNK_BYTES} 4k" for option in ("-P 5", "-z") for place in places[10:50:2]])
    with Qcow2Image.open(bottom) as below, Qcow2Image.open(top) as above:
        told: dict[int, bool] = {}
        for layer in (below, above):
            told.update(zip(*(column.tolist() for column in layer.changed()), strict=True))
        spans = list(Qcow2Layers([above, below]).spans())
        assert len(spans) >= 4
        assert {
            number: is_zero
            for numbers, zero in spans
            for number, is_zero in zip(numbers.tolist(), zero.tolist(), strict=True)
        } == told
        assert all(0 < len(numbers) <= PIECE_CHUNKS for numbers, _ in spans)
        numbers = np.concatenate([numbers for numbers, _ in spans])
        assert (np.diff(numbers) > 0).all()
        assert max(numbers) < size // CHUNK_BYTES


def test_a_file_of_more_than_8_tib(tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    create(path, "cluster_size=64k")
    with path.open("r+b") as file:
        file.truncate((8 << 40) + 65536)
    with pytest.raises(Qcow2Unsupported, match="8796093087744 bytes"):
        Qcow2Image.open(path)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * CHUNK_BYTES
