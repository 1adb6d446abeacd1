# SPDX-License-Identifier: Apache-2.0
"""Damaged and foreign images are refused with an error that names the place."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlet_ext.engine.errors import (
    EngineError,
    FormatError,
    NotQcow2,
    Qcow2Corrupt,
    Qcow2Unsupported,
)
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer

SIZE = 1 << 30
L1_OFFSET = 1 << 16
"""Where Qcow2Writer puts the table."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("damage") / "good.qcow2"
    with Qcow2Writer.create(path, SIZE) as writer:
        writer.write(np.arange(24), np.full((24, 4096), 3, dtype=np.uint8))
        writer.write(np.arange(200_000, 200_016), None)
    return path.read_bytes()


def u64(data: bytes | bytearray, offset: int) -> int:
    return int(struct.unpack_from(">Q", data, offset)[0])


def patched(data: bytes, offset: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def refused(path: Path, data: bytes, error: type[EngineError]) -> str:
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        Qcow2Image.open(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (0, (1 << 63) | (1 << 40)),
        (0, (1 << 63) | 0x10200),
        (1, 1 << 60),
        (1, 0xFF_FFFF_FFFF_FE00),
    ],
)
def test_l1_entry(tmp_path: Path, good: bytes, entry: int, value: int) -> None:
    damaged = patched(good, L1_OFFSET + 8 * entry, ">Q", value)
    message = refused(tmp_path / "bad.qcow2", damaged, Qcow2Corrupt)
    assert f"L1 entry {entry} is {value:#x}" in message
    assert str(len(good)) in message


def test_l1_table_used_twice(tmp_path: Path, good: bytes) -> None:
    damaged = patched(good, L1_OFFSET + 8, ">Q", u64(good, L1_OFFSET))
    assert "used twice" in refused(tmp_path / "bad.qcow2", damaged, Qcow2Corrupt)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (0, (1 << 63) | (1 << 40)),
        (1, (1 << 63) | 0x10200),
        (5, 2),
        (9, 1 << 59),
        (11, (1 << 62) | (1 << 45)),
    ],
)
def test_l2_entry(tmp_path: Path, good: bytes, entry: int, value: int) -> None:
    table = u64(good, L1_OFFSET) & 0x00FF_FFFF_FFFF_FE00
    damaged = patched(good, table + 8 * entry, ">Q", value)
    message = refused(tmp_path / "bad.qcow2", damaged, Qcow2Corrupt)
    assert f"L2 entry of cluster {entry} is {value:#x}" in message


def test_entry_behind_the_end_of_the_file(tmp_path: Path, good: bytes) -> None:
    table = u64(good, L1_OFFSET) & 0x00FF_FFFF_FFFF_FE00
    end = -(-len(good) // 65536) * 65536
    refused(tmp_path / "bad.qcow2", patched(good, table, ">Q", (1 << 63) | end), Qcow2Corrupt)


HEADER_CASES: list[tuple[int, str, int, type[FormatError], str]] = [
    (0, ">I", 0x7F454C46, NotQcow2, "expected it to begin with 514649fb, found 7f454c46"),
    (4, ">I", 4, Qcow2Unsupported, "version 4"),
    (8, ">Q", 1 << 40, Qcow2Corrupt, "backing file name"),
    (20, ">I", 30, Qcow2Corrupt, "cluster_bits is 30, expected 9 to 21"),
    (20, ">I", 9, Qcow2Unsupported, "clusters of 512 bytes"),
    (24, ">Q", SIZE + 512, Qcow2Unsupported, "no multiple of 4096"),
    (24, ">Q", 1 << 60, Qcow2Corrupt, "L1 table size is 2 entries"),
    (32, ">I", 2, Qcow2Unsupported, "encryption"),
    (36, ">I", 0, Qcow2Corrupt, "L1 table size is 0 entries, expected 2"),
    (36, ">I", 0xFFFFFFFF, Qcow2Corrupt, "L1 table size is 4294967295 entries"),
    (40, ">Q", 0x10200, Qcow2Corrupt, "L1 table offset is 66048"),
    (40, ">Q", 1 << 62, Qcow2Corrupt, "L1 table offset"),
    (72, ">Q", 2, Qcow2Corrupt, "the corrupt bit"),
    (72, ">Q", 4, Qcow2Unsupported, "an external data file"),
    (72, ">Q", 8, Qcow2Corrupt, "compression type"),
    (72, ">Q", 16, Qcow2Unsupported, "subclusters of 2048 bytes"),
    (72, ">Q", 1 << 20, Qcow2Unsupported, "unknown incompatible features 0x100000"),
    (100, ">I", 90, Qcow2Corrupt, "header_length is 90"),
    (100, ">I", 1 << 30, Qcow2Corrupt, "header_length"),
    (112, ">Q", 0x0537BE77_7FFFFFFF, Qcow2Corrupt, "header extension 0x537be77 at 112"),
]


@pytest.mark.parametrize(("offset", "form", "value", "error", "words"), HEADER_CASES)
def test_header_field(
    tmp_path: Path,
    good: bytes,
    offset: int,
    form: str,
    value: int,
    error: type[FormatError],
    words: str,
) -> None:
    assert words in refused(tmp_path / "bad.qcow2", patched(good, offset, form, value), error)


@pytest.mark.parametrize("length", [0, 3, 71, 103, 4096, 65536, 65540])
def test_cut_short(tmp_path: Path, good: bytes, length: int) -> None:
    refused(tmp_path / "bad.qcow2", good[:length], FormatError)


def test_dirty_image_is_read(tmp_path: Path, good: bytes) -> None:
    # Only refcounts are stale in an image with the dirty bit.
    path = tmp_path / "dirty.qcow2"
    path.write_bytes(patched(good, 72, ">Q", 1))
    with Qcow2Image.open(path) as image:
        assert (image.read(np.arange(24)) == 3).all()


def exercise(path: Path) -> None:
    """All that can be asked of an image; any error but the engine's own is a defect."""
    try:
        with Qcow2Image.open(path) as image:
            numbers, _ = image.changed()
            image.allocation()
            image.read(numbers[:2048])
    except EngineError:
        pass


@settings(max_examples=300, deadline=None)
@given(
    part=st.sampled_from(["header", "l1", "l2"]),
    flips=st.lists(st.tuples(st.integers(0, 255), st.integers(0, 7)), min_size=1, max_size=3),
)
def test_flipped_bits_never_crash(
    tmp_path_factory: pytest.TempPathFactory,
    good: bytes,
    part: str,
    flips: list[tuple[int, int]],
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.qcow2"
    table = u64(good, L1_OFFSET) & 0x00FF_FFFF_FFFF_FE00
    start = {"header": 0, "l1": L1_OFFSET, "l2": table}[part]
    damaged = bytearray(good)
    for offset, bit in flips:
        damaged[start + offset] ^= 1 << bit
    path.write_bytes(damaged)
    exercise(path)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 400_000))
def test_any_truncation_never_crashes(tmp_path_factory: pytest.TempPathFactory, good: bytes, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "short.qcow2"
    path.write_bytes(good[:length])
    exercise(path)


def damage_compressed(path: Path, change: Callable[[bytearray, int], None]) -> None:
    source = path.with_suffix(".img")
    source.write_bytes(bytes(range(256)) * 4096)
    command = ["qemu-img", "convert", "-c", "-O", "qcow2", str(source), str(path)]
    subprocess.run(command, check=True)
    data = bytearray(path.read_bytes())
    table = u64(data, u64(data, 40)) & 0x00FF_FFFF_FFFF_FE00
    # 64 KiB clusters: the lower 54 bits are the place of the compressed data.
    change(data, u64(data, table) & ((1 << 54) - 1))
    path.write_bytes(data)


def test_damaged_compressed_cluster(tmp_path: Path) -> None:
    path = tmp_path / "packed.qcow2"

    def spoil(data: bytearray, offset: int) -> None:
        data[offset : offset + 4] = b"\xff\xff\xff\xff"

    damage_compressed(path, spoil)
    with (
        Qcow2Image.open(path) as image,
        pytest.raises(Qcow2Corrupt, match="compressed cluster 0 at"),
    ):
        image.read(np.arange(4))


def test_short_compressed_cluster(tmp_path: Path) -> None:
    path = tmp_path / "packed.qcow2"

    def shorten(data: bytearray, offset: int) -> None:
        # A deflate stream that ends at once.
        data[offset : offset + 2] = b"\x03\x00"

    damage_compressed(path, shorten)
    with (
        Qcow2Image.open(path) as image,
        pytest.raises(Qcow2Corrupt, match="is 0 bytes, expected 65536"),
    ):
        image.read(np.arange(4))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Qcow2Image.open(tmp_path / "none.qcow2")
