# SPDX-License-Identifier: Apache-2.0
"""Files that declare huge things in few bytes, with every digest as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.compression import Content, compress
from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.header import BASE, OVERLAY, Header
from cloudlet_ext.engine.manifest import canonical
from cloudlet_ext.engine.planes import planes, zigzag

LAYOUT_LIMIT = 1 << 29
RUNS_LIMIT = 1 << 22
SEGMENTS_LIMIT = 300_000
MEMORY = [["pc.ram", "memory", LAYOUT_LIMIT]]

Piece = tuple[list[Any], bytes]
"""Row of a segment in the manifest, and its stored bytes."""


def sealed(plain: bytes, body: bytes, kind: bytes = OVERLAY, features: int = 0) -> bytes:
    """A container with this manifest and these segments."""
    stored = compress(Content(plain), 3)
    header = Header(kind, features, len(stored), len(plain), digest(plain), digest(stored))
    return header.encode() + stored + body


def piece(kind: str, content: bytes, section: str = "", slots: int = 0) -> Piece:
    stored = compress(Content(content), 3)
    return [kind, section, len(stored), len(content), digest(stored).hex(), slots, False], stored


def overlay(pieces: Sequence[Piece], regions: list[list[Any]] | None = None) -> bytes:
    document = {
        "base_id": None,
        "machine": {},
        "regions": MEMORY if regions is None else regions,
        "segments": [row for row, _ in pieces],
    }
    return sealed(canonical(document), b"".join(stored for _, stored in pieces))


def base_file(pieces: Sequence[Piece], regions: list[list[Any]], kernel_bytes: int | None = None) -> bytes:
    """With the identity of no base at all."""
    part = {"bytes": 0, "digest": "0" * 64}
    document = {
        "base_id": None,
        "machine": {},
        "parts": {"device": part, "index": part | {"bytes": 88}},
        "regions": regions,
        "segments": [row for row, _ in pieces],
    }
    if kernel_bytes is not None:
        document["parts"]["kernel"] = part | {"bytes": kernel_bytes}  # type: ignore[call-overload, index]
    return sealed(canonical(document), b"".join(stored for _, stored in pieces), BASE)


def table(gaps: Any, counts: Any, kinds: Any, sources: Any) -> Piece:
    """Of runs; one value stands for one run."""
    gaps, counts, kinds, sources = (np.atleast_1d(column).astype(np.int64) for column in (gaps, counts, kinds, sources))
    ends = np.concatenate(([0], (sources + np.where(kinds == 1, 0, counts))[:-1]))
    steps = zigzag(sources - ends)
    columns = planes(gaps) + planes(counts) + kinds.astype(np.uint8).tobytes() + planes(steps)
    return piece("table", len(gaps).to_bytes(8, "little") + columns)


def order(starts: Any, counts: Any) -> Piece:
    starts, counts = np.atleast_1d(starts), np.atleast_1d(counts)
    steps = zigzag(starts - np.concatenate(([0], (starts + counts)[:-1])))
    return piece("order", len(starts).to_bytes(8, "little") + planes(steps) + planes(counts))


DEVICE = piece("device", b"")
NO_TABLE = piece("table", bytes(8))


def slots(count: int, section: str = "memory") -> list[Piece]:
    """Segments of 1024 slots that are all alike."""
    return [piece("chunks", b"\7" * (1024 * CHUNK_BYTES), section, 1024)] * (count // 1024)


def with_segments_of(rows: bytes) -> bytes:
    head = b'{"base_id":null,"machine":{},"regions":[["pc.ram","memory",1]],"segments":['
    return sealed(head + rows + b"]}", b"")


def random_runs(seed: int, slots_limit: int) -> tuple[Any, Any]:
    """Counts and sources of as many runs as there may be, which lie over each other in all ways."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 128, RUNS_LIMIT)
    sources = random.integers(0, slots_limit - 128, RUNS_LIMIT)
    counts[0], sources[0] = slots_limit, 0
    return counts, sources


def layout_of_a_petabyte() -> bytes:
    return overlay([NO_TABLE, DEVICE], [["pc.ram", "memory", 1 << 40]])


def many_regions_of_much() -> bytes:
    return overlay([NO_TABLE, DEVICE], [[f"ram{number}", "memory", LAYOUT_LIMIT // 2] for number in range(3)])


def list_of_tiny_lists() -> bytes:
    return with_segments_of(b"[]," * 13_000_000 + b"[]")


def row_without_end() -> bytes:
    return with_segments_of(b'["' + b'{"' * 19_000_000 + b'"]')


def deep_rows() -> bytes:
    return with_segments_of(b"[" * 20_000_000 + b"]")


def machine_of_tiny_lists() -> bytes:
    head = b'{"base_id":null,"machine":{"a":[' + b"{}," * 690_000 + b"{}]},"
    return sealed(head + b'"regions":[["pc.ram","memory",1]],"segments":[[1]]}', b"")


def machine_of_much_text() -> bytes:
    document = {"base_id": None, "machine": {"a": "x" * (39 << 20)}, "regions": [["pc.ram", "memory", 1]]}
    return sealed(canonical(document | {"segments": [[1]]}), b"")


def manifest_of_64_mib() -> bytes:
    return with_segments_of(b"[]," * ((64 << 20) // 3 - 100) + b"[]")


def segments_and_one_more() -> bytes:
    return overlay([NO_TABLE, DEVICE, *slots((SEGMENTS_LIMIT - 1) * 1024)])


def table_of_many_bytes() -> bytes:
    row, stored = NO_TABLE
    return overlay([([*row[:2], row[2], 1 << 30, *row[4:]], stored), DEVICE])


def table_of_too_many_runs() -> bytes:
    return overlay([piece("table", (RUNS_LIMIT + 1).to_bytes(8, "little")), DEVICE])


def working_set_of_a_petabyte() -> bytes:
    return overlay([NO_TABLE, DEVICE, order(0, 1 << 38)])


def working_set_and_one_more() -> bytes:
    return overlay([NO_TABLE, DEVICE, order([0, 1 << 23], [RUNS_LIMIT, 1])])


def kernel_of_another_size() -> bytes:
    pieces = [NO_TABLE, DEVICE, piece("kernel", bytes(1 << 20)), piece("kernel", bytes(1 << 20))]
    return base_file(pieces, [["pc.ram", "memory", 1]], kernel_bytes=1 << 20)


def kernel_of_a_terabyte() -> bytes:
    return base_file([NO_TABLE, DEVICE], [["pc.ram", "memory", 1]], kernel_bytes=1 << 40)


def most_segments() -> bytes:
    """One run that covers as many slots as can be carried."""
    count = (SEGMENTS_LIMIT - 2) * 1024
    return overlay([table(0, count, 3, 0), DEVICE, *slots(count)])


def most_runs() -> bytes:
    """Zero, unchanged, zero, unchanged ..."""
    return overlay([table(*np.ones((3, RUNS_LIMIT)), np.zeros(RUNS_LIMIT)), DEVICE])


def most_base_runs() -> bytes:
    sources = np.random.default_rng(1).integers(0, LAYOUT_LIMIT, RUNS_LIMIT)
    return overlay([table(*np.ones((2, RUNS_LIMIT)), np.full(RUNS_LIMIT, 2), sources), DEVICE])


def most_runs_backwards() -> bytes:
    sources = np.arange(RUNS_LIMIT)[::-1]
    return overlay([table(*np.ones((2, RUNS_LIMIT)), np.full(RUNS_LIMIT, 3), sources), DEVICE, *slots(RUNS_LIMIT)])


def most_runs_that_overlap() -> bytes:
    counts, sources = random_runs(2, 1 << 27)
    stored = np.full(RUNS_LIMIT, 3)
    return overlay([table(np.zeros(RUNS_LIMIT), counts, stored, sources), DEVICE, *slots(1 << 27)])


def many_runs_over_tiny_segments() -> bytes:
    """Each of 200 runs lies in 299,000 segments."""
    count, times = 299_000, 200
    pieces = [piece("chunks", b"\7" * CHUNK_BYTES, "memory", 1)] * count
    each = np.ones(times)
    return overlay([table(each * 0, each * count, each * 3, each * 0), DEVICE, *pieces])


def one_segment_for_all() -> bytes:
    """Every chunk that there may be is in it."""
    count = LAYOUT_LIMIT // 1024
    each = np.ones(count)
    return overlay([table(each * 0, each * 1024, each * 3, each * 0), DEVICE, *slots(1024)])


def longest_working_set() -> bytes:
    return overlay([NO_TABLE, DEVICE, order(0, RUNS_LIMIT)])


def working_set_backwards() -> bytes:
    count = RUNS_LIMIT - 1
    return overlay([NO_TABLE, DEVICE, order(np.arange(2 * count, 0, -2), np.ones(count, dtype=np.int64))])


def disk_of_two_terabytes() -> bytes:
    """The last chunk of the disk is stored, and one chunk of memory."""
    regions = [["disk", "disk", LAYOUT_LIMIT - 8], ["pc.ram", "memory", 8]]
    runs = table([LAYOUT_LIMIT - 9, 3], [1, 1], [3, 3], [0, 0])
    return base_file([runs, DEVICE, piece("chunks", b"\7" * CHUNK_BYTES, "disk", 1)], regions)


def disk_touched_everywhere() -> bytes:
    """A chunk in every 256 MiB of a disk of 2 TiB."""
    regions = [["disk", "disk", LAYOUT_LIMIT - 8], ["pc.ram", "memory", 8]]
    count = 8_000
    runs = table(np.full(count, 65535), np.ones(count), np.full(count, 3), np.zeros(count))
    return base_file([runs, DEVICE, piece("chunks", b"\7" * CHUNK_BYTES, "disk", 1)], regions)


def content_of_two_terabytes() -> bytes:
    """4 GiB of slots, each of them at 500 places."""
    count = 1 << 20
    runs = table(np.zeros(500), np.full(500, count), np.full(500, 3), np.zeros(500))
    return base_file([runs, DEVICE, *slots(count)], MEMORY)
