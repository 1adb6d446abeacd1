# SPDX-License-Identifier: Apache-2.0
"""Golden files of version 1: still read, and every truncation and every single-bit flip refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.base_file import BaseFile
from cloudlet_ext.engine.base_import import import_base
from cloudlet_ext.engine.errors import Damaged, FormatError, Truncated, UnsupportedVersion, WrongMagic
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.signature import verify_signature
from cloudlet_ext.engine.table import ChunkKind

GOLDEN = Path(__file__).parents[2] / "golden" / "v1"
FACTS = json.loads((GOLDEN / "facts.json").read_text())


class BytesSource:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes: int | None = len(data)

    def read(self, offset: int, length: int) -> bytes:
        assert offset + length <= len(self.data)
        return self.data[offset : offset + length]

    def describe(self) -> str:
        return "the file"


@pytest.fixture(scope="module")
def base() -> Base:
    return Base.open(GOLDEN / "base")


def content_blake3(chunks: np.ndarray) -> str:
    return blake3(chunks.tobytes()).hexdigest()


def test_the_base_is_read(base: Base) -> None:
    base.verify()
    assert base.base_id == FACTS["base_id"]
    everything = np.arange(base.layout.total_chunks)
    assert content_blake3(base.read(everything)) == FACTS["base_blake3"]


def test_the_base_file_is_imported(tmp_path: Path) -> None:
    file = BaseFile.open(FileSource(GOLDEN / "base-file"))
    file.verify()
    with import_base(file, tmp_path / "base") as imported:
        imported.verify()
        assert imported.base_id == FACTS["base_id"]


@pytest.mark.parametrize("name", ["overlay", "overlay-signed"])
def test_the_overlay_is_read(base: Base, name: str) -> None:
    overlay = OverlayFile.open(FileSource(GOLDEN / name))
    overlay.verify(base)
    assert overlay.overlay_id == FACTS["overlay_id"]
    assert overlay.load_order().tolist() == FACTS["order"]
    parts = [overlay.unpack(part, overlay.container.fetch(part), base) for part in overlay.chunk_segments]
    slots = np.frombuffer(b"".join(parts), dtype=np.uint8).reshape(-1, 4096)
    target = base.read(np.arange(base.layout.total_chunks))
    kinds, sources = overlay.table.lookup(np.arange(len(target)))
    moved = base.read(sources[kinds == ChunkKind.BASE])
    target[kinds == ChunkKind.ZERO] = 0
    target[kinds == ChunkKind.BASE] = moved
    target[kinds == ChunkKind.STORED] = slots[sources[kinds == ChunkKind.STORED]]
    assert content_blake3(target) == FACTS["target_blake3"]


def test_the_signature_is_recognised() -> None:
    overlay = OverlayFile.open(FileSource(GOLDEN / "overlay-signed"))
    assert len(verify_signature(overlay.container, GOLDEN / "key.pem")) == 64


def opened(source: BytesSource, is_base: bool) -> BaseFile | OverlayFile:
    return BaseFile.open(source) if is_base else OverlayFile.open(source)


def refusal(data: bytes, base: Base, is_base: bool) -> FormatError:
    """The error that reading all of ``data`` ends with."""
    with pytest.raises(FormatError) as caught:
        if is_base:
            BaseFile.open(BytesSource(data)).verify()
        else:
            OverlayFile.open(BytesSource(data)).verify(base)
    return caught.value


@pytest.mark.parametrize("name", ["overlay-signed", "base-file"])
def test_every_truncation_is_refused_at_its_place(base: Base, name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    for length in range(len(data)):
        error = refusal(data[:length], base, name == "base-file")
        if length:
            assert isinstance(error, Truncated)
            assert error.expected > error.found >= 0
        else:
            assert isinstance(error, WrongMagic)


class Flipped(BytesSource):
    """A file with one bit that is not as it was written."""

    def __init__(self, data: bytes, at: int, bit: int) -> None:
        super().__init__(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])


@pytest.mark.parametrize("name", ["overlay-signed", "base-file"])
def test_every_bit_flip_before_the_segments_is_refused(base: Base, name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    is_base = name == "base-file"
    begin = opened(BytesSource(data), is_base).container.manifest.segments[0].offset
    for at, bit in product(range(begin), range(8)):
        error = refusal(Flipped(data, at, bit).data, base, is_base)
        if at < 8:
            assert isinstance(error, WrongMagic)
        elif 12 <= at < 16:
            assert isinstance(error, UnsupportedVersion)
        else:
            assert error.place == ("the header" if at < 256 else "the manifest")


@pytest.mark.parametrize("name", ["overlay-signed", "base-file"])
def test_every_bit_flip_in_a_segment_is_refused(base: Base, name: str) -> None:
    """By whoever reads that segment; and of each byte one bit by who reads the whole file."""
    data = (GOLDEN / name).read_bytes()
    is_base = name == "base-file"
    container = opened(BytesSource(data), is_base).container
    end = container.manifest.segments[0].offset
    for segment in container.manifest.segments:
        assert segment.offset == end
        end += segment.stored_bytes
        for at, bit in product(range(segment.offset, end), range(8)):
            flipped = Flipped(data, at, bit)
            reader = replace(container, source=flipped)
            with pytest.raises(Damaged) as caught:
                reader.unpack(segment, reader.fetch(segment))
            assert caught.value.place == segment.place
            if bit == at % 8:
                assert refusal(flipped.data, base, is_base).place == segment.place
    assert end == len(data)
