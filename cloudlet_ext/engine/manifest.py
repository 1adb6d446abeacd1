# SPDX-License-Identifier: Apache-2.0
"""Manifest of an overlay or a base file: what the file is for, and its segments in file order."""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.digest import DIGEST_BYTES
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.table import encoded_bytes_limit

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

SEGMENT_LIMIT_BYTES = 64 << 20
TABLE_LIMIT_BYTES = 1 << 30
MACHINE_LIMIT_BYTES = 1 << 20
CHUNKS_LIMIT = 1 << 40
"""Most chunks in a layout (4 PiB): keeps all sums of chunk numbers far inside 64 bits."""

_NAME_LIMIT = 255
_REGIONS_LIMIT = 256


@dataclass(frozen=True)
class SegmentInfo:
    """One segment; sizes in bytes, ``offset`` in the file, ``digest`` (32 bytes) of what is stored.

    ``slots`` from ``first_slot`` on are in it if ``kind`` is "chunks", else both are 0. ``prefix``
    tells whether it needs the base to be unpacked.
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

    @property
    def slots(self) -> int:
        """Slots in all segments."""
        return sum(segment.slots for segment in self.segments)

    def of_kind(self, kind: str) -> tuple[SegmentInfo, ...]:
        """Segments of ``kind``, in file order."""
        return tuple(segment for segment in self.segments if segment.kind == kind)

    def placed(self, offset: int) -> Manifest:
        """The same with segments put one after the other from ``offset``."""
        placed = []
        for segment in self.segments:
            placed.append(replace(segment, offset=offset))
            offset += segment.stored_bytes
        return replace(self, segments=tuple(placed))

    def encode(self) -> bytes:
        """Canonical JSON."""
        document: dict[str, Any] = {
            "base_id": self.base_id,
            "machine": self.machine,
            "regions": encode_regions(self.layout),
            "segments": [
                [
                    segment.kind,
                    segment.section,
                    segment.stored_bytes,
                    segment.bytes,
                    segment.digest.hex(),
                    segment.slots,
                    segment.prefix,
                ]
                for segment in self.segments
            ],
        }
        if self.parts is not None:
            document["parts"] = encode_parts(self.parts)
        return canonical(document)


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


class ManifestReader:
    """Checks of JSON fields; every refusal is a Malformed that names the field."""

    def __init__(self, data: bytes, path: str, fields: set[str], optional: frozenset[str] = frozenset()) -> None:
        self.path = path
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            self.refuse("", f"it is not JSON: {error}")
        if not isinstance(document, dict):
            self.refuse("", "it is not a JSON object")
        for name in sorted(document.keys() - fields - optional):
            self.refuse(name, "unknown field")
        for name in sorted(fields - document.keys()):
            self.refuse(name, "the field is missing")
        try:
            again = canonical(document)
        except (ValueError, RecursionError) as error:
            self.refuse("", f"it has values that are not allowed: {error}")
        if again != data:
            self.refuse("", "it is not canonical JSON")
        self.document: dict[str, Any] = document

    def refuse(self, field: str, reason: str) -> NoReturn:
        """Raise Malformed."""
        place = f"the manifest, {field}" if field else "the manifest"
        raise Malformed(path=self.path, place=place, reason=reason)

    def number(self, value: Any, field: str, least: int, most: int) -> int:
        """A whole number in bounds."""
        if type(value) is not int or not least <= value <= most:
            self.refuse(field, f"{value!r:.40} is not a number from {least} to {most}")
        return int(value)

    def digest(self, value: Any, field: str) -> str:
        """64 lower-case hexadecimal digits."""
        if not isinstance(value, str) or len(value) != 2 * DIGEST_BYTES or value.strip("0123456789abcdef"):
            self.refuse(field, f"{value!r:.80} is not a digest of 64 hexadecimal digits")
        return value

    def machine(self) -> dict[str, Any]:
        """The machine description: an object of bounded size."""
        machine = self.document["machine"]
        if not isinstance(machine, dict):
            self.refuse("machine", "it is not an object")
        if len(canonical(machine)) > MACHINE_LIMIT_BYTES:
            self.refuse("machine", f"it is larger than {MACHINE_LIMIT_BYTES} bytes")
        return machine

    def layout(self) -> Layout:
        """Regions: at most one disk, which comes first; names unique and not empty."""
        rows = self.document["regions"]
        if not isinstance(rows, list) or not 1 <= len(rows) <= _REGIONS_LIMIT:
            self.refuse("regions", f"it is not a list of 1 to {_REGIONS_LIMIT} regions")
        regions: list[Region] = []
        for number, row in enumerate(rows):
            field = f"region {number}"
            if not isinstance(row, list) or len(row) != 3:
                self.refuse(field, "it is not [name, kind, chunks]")
            name, kind, chunks = row
            if not isinstance(name, str) or not 0 < len(name.encode()) <= _NAME_LIMIT or not name.isprintable():
                self.refuse(field, f"{name!r:.40} is not a name")
            if kind not in ("disk", "memory") or (kind == "disk" and regions):
                self.refuse(field, f"kind {kind!r:.40} is not allowed here")
            if any(region.name == name for region in regions):
                self.refuse(field, f"the name {name!r} is there twice")
            regions.append(Region(name, kind, self.number(chunks, field, 1, CHUNKS_LIMIT)))
        layout = Layout(tuple(regions))
        self.number(layout.total_chunks, "regions", 1, CHUNKS_LIMIT)
        return layout

    def parts(self, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Part]:
        """Parts of a base by name."""
        rows = self.document["parts"]
        if not isinstance(rows, dict):
            self.refuse("parts", "it is not an object")
        for name in sorted(rows.keys() - set(required) - set(optional)):
            self.refuse(f"parts, {name}", "unknown part")
        parts = {}
        for name in required + tuple(name for name in optional if name in rows):
            row = rows.get(name)
            if not isinstance(row, dict) or row.keys() != {"bytes", "digest"}:
                self.refuse(f"parts, {name}", "it is not {bytes, digest}")
            parts[name] = Part(
                self.number(row["bytes"], f"parts, {name}", 0, 1 << 40),
                self.digest(row["digest"], f"parts, {name}"),
            )
        return parts


def decode_manifest(data: bytes, path: str, is_base: bool) -> Manifest:
    """Read and check a manifest; offsets are yet to be given by placed()."""
    fields = {"base_id", "machine", "regions", "segments"} | ({"parts"} if is_base else set())
    reader = ManifestReader(data, path, fields)
    base_id = reader.document["base_id"]
    if is_base and base_id is not None:
        reader.refuse("base_id", "a base file has none")
    if base_id is not None:
        reader.digest(base_id, "base_id")
    layout = reader.layout()
    return Manifest(
        base_id,
        layout,
        reader.machine(),
        _segments(reader, layout, is_base),
        reader.parts(("device", "index"), ("kernel", "initrd")) if is_base else None,
    )


def _segments(reader: ManifestReader, layout: Layout, is_base: bool) -> tuple[SegmentInfo, ...]:
    rows = reader.document["segments"]
    if not isinstance(rows, list):
        reader.refuse("segments", "it is not a list")
    segments: list[SegmentInfo] = []
    first_slot = 0
    for number, row in enumerate(rows):
        segment = _segment(reader, row, number, first_slot, layout)
        first_slot += segment.slots
        segments.append(segment)
    ranks = [_rank(segment) for segment in segments]
    for number in range(1, len(ranks)):
        if ranks[number] < ranks[number - 1]:
            reader.refuse(f"segment {number}", f"a {segments[number].kind} segment cannot stand here")
    kinds = [segment.kind for segment in segments]
    for kind in (TABLE, DEVICE, ORDER):
        if kinds.count(kind) != 1 and not (kind == ORDER and kinds.count(kind) == 0):
            reader.refuse("segments", f"{kinds.count(kind)} segments of kind {kind}")
    if not is_base and (KERNEL in kinds or INITRD in kinds):
        reader.refuse("segments", "an overlay has no kernel or initrd")
    if is_base and (ORDER in kinds or any(segment.prefix for segment in segments)):
        reader.refuse("segments", "a base file has no order and no prefix")
    if first_slot > layout.total_chunks:
        reader.refuse("segments", f"{first_slot} slots for {layout.total_chunks} chunks")
    return tuple(segments)


def _rank(segment: SegmentInfo) -> tuple[int, int]:
    section = SECTIONS.index(segment.section) if segment.section else 0
    return SEGMENT_KINDS.index(segment.kind), section


def _segment(reader: ManifestReader, row: Any, number: int, first_slot: int, layout: Layout) -> SegmentInfo:
    field = f"segment {number}"
    if not isinstance(row, list) or len(row) != 7:
        reader.refuse(field, "it is not [kind, section, stored bytes, bytes, digest, slots, prefix]")
    kind, section, stored, size, digest, slots, prefix = row
    if kind not in SEGMENT_KINDS:
        reader.refuse(field, f"unknown kind {kind!r:.40}")
    if section not in (SECTIONS if kind == CHUNKS else ("",)):
        reader.refuse(field, f"section {section!r:.40} is not allowed for {kind}")
    if type(prefix) is not bool or (prefix and kind != CHUNKS):
        reader.refuse(field, f"prefix {prefix!r:.40} is not allowed for {kind}")
    if kind == TABLE:
        most = min(TABLE_LIMIT_BYTES, encoded_bytes_limit(layout.total_chunks))
    else:
        most = SEGMENT_LIMIT_BYTES
    reader.number(size, f"{field}, bytes", 0, most)
    least = 1 if kind == CHUNKS else 0
    reader.number(slots, f"{field}, slots", least, LARGE_SEGMENT_SLOTS if kind == CHUNKS else 0)
    if kind == CHUNKS and size != slots * CHUNK_BYTES:
        reader.refuse(field, f"{size} bytes for {slots} slots")
    # A frame that cannot be made smaller takes 3 bytes for each 128 KiB more.
    reader.number(stored, f"{field}, stored bytes", 1, size + size // 1024 + 1024)
    reader.digest(digest, f"{field}, digest")
    return SegmentInfo(
        number,
        kind,
        section,
        0,
        stored,
        size,
        bytes.fromhex(digest),
        first_slot if kind == CHUNKS else 0,
        slots,
        prefix,
    )
