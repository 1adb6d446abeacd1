# SPDX-License-Identifier: Apache-2.0
"""Decoder of the manifest of a container, whose list of segments may be long and is read in batches.

Everything but that list is at most 2 MiB of JSON. Of the list no more than a batch is ever JSON objects, and no segment
is taken in that was not checked: a file cannot make a reader hold more than SEGMENTS_LIMIT small records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import repeat
from typing import Any, NoReturn, TypeVar

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Numbers
from cloudlet_ext.engine.digest import DIGEST_BYTES
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.manifest import (
    CHUNKS,
    DEVICE,
    INITRD,
    KERNEL,
    LARGE_SEGMENT_SLOTS,
    ORDER,
    SECTIONS,
    SEGMENT_KINDS,
    SEGMENT_LIMIT_BYTES,
    SEGMENTS_LIMIT,
    TABLE,
    Manifest,
    Part,
    SegmentInfo,
)
from cloudlet_ext.engine.manifest_reader import ManifestReader
from cloudlet_ext.engine.table import encoded_bytes_limit

T = TypeVar("T", int, Numbers)

_SEGMENTS = b',"segments":['
_BATCH_BYTES = 128 << 10
_ROW_LIMIT_BYTES = 256
_HEXADECIMAL = re.compile(r"[0-9a-f]*")
_TYPES: list[set[type]] = [{str}, {str}, {int}, {int}, {str}, {int}, {bool}]
"""Of the columns of rows."""

_FIELDS = {"base_id", "machine", "regions", "segments"}
_RANKS = {(kind, ""): rank for rank, kind in enumerate(SEGMENT_KINDS) if kind != CHUNKS}
_RANKS |= {(CHUNKS, section): len(SEGMENT_KINDS) + rank for rank, section in enumerate(SECTIONS)}
"""Allowed pairs of kind and section, in the order in which their segments stand in a file."""


def decode_manifest(data: bytes, path: str, is_base: bool, offset: int = 0) -> Manifest:
    """Read and check a manifest; the first segment begins at ``offset`` of the file.

    Malformed names the field, what was expected and what came.
    """
    head, listed = _split(data)
    fields = _FIELDS | ({"parts"} if is_base else set())
    reader = ManifestReader(head, path, fields if listed is None else fields - {"segments"})
    base_id = reader.document["base_id"]
    if is_base and base_id is not None:
        reader.refuse("base_id", "a base file has none")
    if base_id is not None:
        reader.digest(base_id, "base_id")
    layout = reader.layout()
    machine = reader.machine()
    parts = reader.parts((DEVICE, "index"), (KERNEL, INITRD)) if is_base else None
    rows = _SegmentRows(reader, layout, offset)
    for batch in [reader.document["segments"]] if listed is None else _batches(reader, listed):
        rows.add(batch)
    _check_kinds(reader, rows, parts)
    return Manifest(base_id, layout, machine, tuple(rows.segments), parts)


def _split(data: bytes) -> tuple[bytes, bytes | None]:
    """The object without its list of segments, and the rows in that list.

    The list is the last member, since keys are sorted, and its first ``]]`` is its end, since rows hold plain values.
    Where that does not fit, the whole comes back: it is not right, and being told so must cost no more than the head.
    No JSON string can hold the bytes of ``_SEGMENTS``, in which quotes are not escaped.
    """
    begin = data.rfind(_SEGMENTS)
    end = data.find(b"]]", begin) if begin >= 0 else -1
    if end < 0 or data[end + 2 :] != b"}":
        return data, None
    return data[:begin] + b"}", data[begin + len(_SEGMENTS) : end + 1]


def _batches(reader: ManifestReader, listed: bytes) -> Iterator[Any]:
    """The rows, some at a time."""
    at = 0
    while at < len(listed):
        end = listed.find(b"],[", at + _BATCH_BYTES)
        end = len(listed) if end < 0 else end + 1
        if end - at > _BATCH_BYTES + _ROW_LIMIT_BYTES:
            reader.refuse("segments", f"{end - at} bytes without the end of a row of at most {_ROW_LIMIT_BYTES} bytes")
        text = b"[" + listed[at:end] + b"]"
        batch = reader.parse(text, "segments")
        reader.check_canonical(batch, text, "segments")
        yield batch
        at = end + 1


class _SegmentRows:
    """Takes in rows one after the other; each is checked before the next is looked at."""

    def __init__(self, reader: ManifestReader, layout: Layout, offset: int) -> None:
        self.segments: list[SegmentInfo] = []
        self.slots = 0
        self._reader = reader
        self._chunks = layout.total_chunks
        self._offset = offset
        self._rank = 0
        self._most = dict.fromkeys(SEGMENT_KINDS, SEGMENT_LIMIT_BYTES)
        self._most[TABLE] = encoded_bytes_limit(layout.total_chunks)

    def add(self, rows: Any) -> None:
        if not isinstance(rows, list):
            self._reader.refuse("segments", "it is not a list")
        if len(self.segments) + len(rows) > SEGMENTS_LIMIT:
            found = len(self.segments) + len(rows)
            self._reader.refuse("segments", f"{found} or more segments, at most {SEGMENTS_LIMIT} are allowed")
        if not self._add_alike(rows):
            for row in rows:
                self._add(row)
        if self.slots > self._chunks:
            self._reader.refuse("segments", f"{self.slots} slots for {self._chunks} chunks")

    def _add_alike(self, rows: list[Any]) -> bool:
        """Take in rows of one section of chunks that are all right, by columns: ten times as fast, and most are so.

        Whatever it does not take in is looked at row by row, to be allowed or to be named.
        """
        if set(map(type, rows)) != {list} or set(map(len, rows)) != {7}:
            return False
        columns = list(zip(*rows, strict=True))
        if [set(map(type, column)) for column in columns] != _TYPES:
            return False
        kinds, sections, stored, sizes, digests, slots, prefixes = columns
        rank = _RANKS.get((kinds[0], sections[0]), -1)
        text = "".join(digests)
        if (set(kinds), set(map(len, digests)), len(set(sections))) != ({CHUNKS}, {2 * DIGEST_BYTES}, 1):
            return False
        if rank < self._rank or not _HEXADECIMAL.fullmatch(text):
            return False
        try:
            stored_bytes, size, count = (np.array(column, dtype=np.int64) for column in (stored, sizes, slots))
        except OverflowError:
            return False
        fits = (count >= 1) & (count <= LARGE_SEGMENT_SLOTS) & (size == count * CHUNK_BYTES)
        if not (fits & (stored_bytes >= 1) & (stored_bytes <= _stored_limit(size))).all():
            return False
        raw = bytes.fromhex(text)
        ends, last_slots = self._offset + np.cumsum(stored_bytes), self.slots + np.cumsum(count)
        made = map(
            SegmentInfo,
            range(len(self.segments), len(self.segments) + len(rows)),
            repeat(CHUNKS),
            repeat(sections[0]),
            (ends - stored_bytes).tolist(),
            stored,
            sizes,
            [raw[at : at + DIGEST_BYTES] for at in range(0, len(raw), DIGEST_BYTES)],
            (last_slots - count).tolist(),
            slots,
            prefixes,
        )
        self.segments.extend(made)
        self._offset, self.slots, self._rank = int(ends[-1]), int(last_slots[-1]), rank
        return True

    def _add(self, row: Any) -> None:
        if type(row) is not list or len(row) != 7:
            self._refuse("", "it is not [kind, section, stored bytes, bytes, digest, slots, prefix]")
        kind, section, stored, size, digest, slots, prefix = row
        rank = _RANKS.get((kind, section)) if type(kind) is type(section) is str else None
        if rank is None:
            known = isinstance(kind, str) and kind in SEGMENT_KINDS
            self._refuse(
                "", f"section {section!r:.40} is not allowed for {kind}" if known else f"unknown kind {kind!r:.40}"
            )
        if rank < self._rank:
            self._refuse("", f"a {kind} segment cannot stand here")
        is_chunks = kind == CHUNKS
        if type(prefix) is not bool or (prefix and not is_chunks):
            self._refuse("", f"prefix {prefix!r:.40} is not allowed for {kind}")
        if type(size) is not int or not 0 <= size <= self._most[kind]:
            self._refuse_number("bytes", size, 0, self._most[kind])
        least, most = (1, LARGE_SEGMENT_SLOTS) if is_chunks else (0, 0)
        if type(slots) is not int or not least <= slots <= most:
            self._refuse_number("slots", slots, least, most)
        if is_chunks and size != slots * CHUNK_BYTES:
            self._refuse("", f"{size} bytes for {slots} slots")
        most = _stored_limit(size)
        if type(stored) is not int or not 1 <= stored <= most:
            self._refuse_number("stored bytes", stored, 1, most)
        raw = bytes.fromhex(self._reader.digest(digest, f"segment {len(self.segments)}, digest"))
        first_slot = self.slots if is_chunks else 0
        number = len(self.segments)
        self.segments.append(
            SegmentInfo(number, kind, section, self._offset, stored, size, raw, first_slot, slots, prefix)
        )
        self._offset += stored
        self.slots += slots
        self._rank = rank

    def _refuse_number(self, field: str, value: Any, least: int, most: int) -> NoReturn:
        self._refuse(field, f"{value!r:.40} is not a number from {least} to {most}")

    def _refuse(self, field: str, reason: str) -> NoReturn:
        place = f"segment {len(self.segments)}"
        self._reader.refuse(f"{place}, {field}" if field else place, reason)


def _stored_limit(size: T) -> T:
    """Most stored bytes of a segment: a frame that cannot be made smaller takes 3 bytes for each 128 KiB more."""
    return size + size // 1024 + 1024


def _check_kinds(reader: ManifestReader, rows: _SegmentRows, parts: dict[str, Part] | None) -> None:
    """How many segments of a kind there are, and whether they hold what a base's parts say."""
    kinds = [segment.kind for segment in rows.segments]
    for kind in (TABLE, DEVICE, ORDER):
        if kinds.count(kind) != 1 and not (kind == ORDER and kinds.count(kind) == 0):
            reader.refuse("segments", f"{kinds.count(kind)} segments of kind {kind}")
    if parts is None:
        if KERNEL in kinds or INITRD in kinds:
            reader.refuse("segments", "an overlay has no kernel or initrd")
        return
    if ORDER in kinds or any(segment.prefix for segment in rows.segments):
        reader.refuse("segments", "a base file has no order and no prefix")
    for name in (DEVICE, KERNEL, INITRD):
        found = sum(segment.bytes for segment in rows.segments if segment.kind == name)
        expected = parts[name].bytes if name in parts else 0
        if found != expected:
            reader.refuse("segments", f"segments of kind {name} have {found} bytes, the part has {expected}")
