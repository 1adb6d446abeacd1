# SPDX-License-Identifier: Apache-2.0
"""Manifest of an overlay or a base file: what the file is for, and its segments in file order."""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from cloudlet_ext.engine.layout import Layout

TABLE, DEVICE, ORDER, CHUNKS, KERNEL, INITRD = (
    "table",
    "device",
    "order",
    "chunks",
    "kernel",
    "initrd",
)
SEGMENT_KINDS = (TABLE, DEVICE, ORDER, KERNEL, INITRD, CHUNKS)
"""Kinds in the order in which their segments stand in a file."""

WORKING_SET, DISK, MEMORY = "working_set", "disk", "memory"
SECTIONS = (WORKING_SET, DISK, MEMORY)
"""Sections of the chunks segments, in file order."""

SEGMENT_SLOTS = 256
"""Slots in a segment: 1 MiB, small enough to be fetched ahead, large enough to compress."""

LARGE_SEGMENT_SLOTS = 1024
"""Most slots in a segment: 4 MiB, for what is fetched in file order, and for the smallest size."""

SEGMENTS_LIMIT = 300_000
"""Most segments of a file: 1 TiB of disk and 64 GiB of memory are 278,528 of them. To read so many takes 1.7 s of one
core and 160 MB."""

SEGMENT_LIMIT_BYTES = 64 << 20
MACHINE_LIMIT_BYTES = 1 << 20
HEAD_LIMIT_BYTES = 2 << 20
"""Most bytes of a manifest without its list of segments: 1 MiB of machine, 256 regions, parts."""

CHUNKS_LIMIT = 1 << 29
"""Most chunks in a layout (2 TiB): what a file merely declares never costs more than that much takes."""

PART_LIMITS_BYTES = {
    "device": SEGMENT_LIMIT_BYTES,
    "index": 64 + 24 * CHUNKS_LIMIT,
    "kernel": 1 << 30,
    "initrd": 1 << 30,
}
"""Most bytes of the parts of a base. A kernel or an initrd is carried in any number of segments."""

REGIONS_LIMIT = 256
NAME_LIMIT_BYTES = 255
_ROWS_AT_A_TIME = 1024


class SegmentInfo(NamedTuple):
    """One segment; sizes in bytes, ``offset`` in the file, ``digest`` (32 bytes) of what is stored.

    ``slots`` from ``first_slot`` on are in it if ``kind`` is "chunks", else both are 0. ``prefix``
    tells whether it needs the base to be unpacked. A tuple, since there may be 300,000 of them: a frozen dataclass
    takes three times as long to make.
    """

    number: int
    kind: str
    section: str
    offset: int
    stored_bytes: int
    bytes: int
    digest: builtins.bytes
    first_slot: int
    slots: int
    prefix: bool

    @property
    def place(self) -> str:
        """What errors call it."""
        return f"segment {self.number} ({' '.join(filter(None, (self.section, self.kind)))})"


@dataclass(frozen=True)
class Part:
    """A part of a base by size and BLAKE3-256 (hex)."""

    bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """Of an overlay (with ``base_id``, no ``parts``) or of a base file (``parts``, no ``base_id``).

    ``machine`` belongs to the hypervisor layer and is kept as it came.
    """

    base_id: str | None
    layout: Layout
    machine: dict[str, Any]
    segments: tuple[SegmentInfo, ...]
    parts: dict[str, Part] | None = None

    @cached_property
    def slots(self) -> int:
        """Slots in all segments."""
        return sum(segment.slots for segment in self.segments)

    def of_kind(self, kind: str) -> tuple[SegmentInfo, ...]:
        """Segments of ``kind``, in file order."""
        return tuple(segment for segment in self.segments if segment.kind == kind)

    def encode(self) -> bytes:
        """Canonical JSON."""
        document: dict[str, Any] = {
            "base_id": self.base_id,
            "machine": self.machine,
            "regions": encode_regions(self.layout),
        }
        if self.parts is not None:
            document["parts"] = encode_parts(self.parts)
        # The segments sort behind all else. They may be many: their rows are not in memory all at once.
        rows = [
            canonical([_row(segment) for segment in self.segments[first : first + _ROWS_AT_A_TIME]])[1:-1]
            for first in range(0, len(self.segments), _ROWS_AT_A_TIME)
        ]
        return b"".join((canonical(document)[:-1], b',"segments":[', b",".join(rows), b"]}"))


def _row(segment: SegmentInfo) -> list[Any]:
    return [
        segment.kind,
        segment.section,
        segment.stored_bytes,
        segment.bytes,
        segment.digest.hex(),
        segment.slots,
        segment.prefix,
    ]


def canonical(document: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: equal documents are equal bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def encode_regions(layout: Layout) -> list[list[Any]]:
    """Regions as JSON."""
    return [[region.name, region.kind, region.chunks] for region in layout.regions]


def encode_parts(parts: dict[str, Part]) -> dict[str, dict[str, Any]]:
    """Parts as JSON."""
    return {name: {"bytes": part.bytes, "digest": part.digest} for name, part in parts.items()}
