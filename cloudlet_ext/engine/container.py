# SPDX-License-Identifier: Apache-2.0
"""Container: header, manifest and segments, which overlay and base file share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cloudlet_ext.engine.compression import Content, compress, decompress
from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.errors import Damaged, Malformed, TooLarge, Truncated
from cloudlet_ext.engine.header import BASE, HEADER_BYTES, PREFIX, Header, decode_header
from cloudlet_ext.engine.manifest import (
    MACHINE_LIMIT_BYTES,
    SEGMENT_LIMIT_BYTES,
    SEGMENTS_LIMIT,
    TABLE,
    Manifest,
    SegmentInfo,
    canonical,
)
from cloudlet_ext.engine.manifest_decoder import decode_manifest
from cloudlet_ext.engine.output import copy_all, write_all
from cloudlet_ext.engine.scratch import filled
from cloudlet_ext.engine.table import RUNS_LIMIT, TABLE_LIMIT_BYTES, ChunkTable

FIRST_READ_BYTES = 64 << 10
"""Read at once when a file is opened: header and manifest of an overlay of up to about 1 GiB."""

_MANIFEST_LEVEL = 12


class ByteSource(Protocol):
    """Where a file is read from."""

    size_bytes: int | None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``."""
        ...

    def describe(self) -> str:
        """What errors call it: the path or the URL."""
        ...


@dataclass(frozen=True)
class Container:
    """An opened file: ``header`` and ``manifest`` are checked, segments are not read yet."""

    source: ByteSource
    header: Header
    manifest: Manifest

    @property
    def path(self) -> str:
        """What errors call it."""
        return self.source.describe()

    def fetch(self, segment: SegmentInfo) -> bytes:
        """Stored bytes of ``segment``, as they come; unpack() checks them."""
        return self.source.read(segment.offset, segment.stored_bytes)

    def check(self, segment: SegmentInfo, stored: bytes) -> None:
        """Raise Truncated or Damaged unless ``stored`` is what the manifest says of ``segment``."""
        if len(stored) != segment.stored_bytes:
            raise Truncated(
                path=self.path,
                place=segment.place,
                expected=segment.stored_bytes,
                found=len(stored),
            )
        found = digest(stored)
        if found != segment.digest:
            raise Damaged(
                path=self.path,
                place=segment.place,
                expected=segment.digest.hex(),
                found=found.hex(),
            )

    def unpack(self, segment: SegmentInfo, stored: bytes, prefix: bytes = b"") -> bytes:
        """Content of ``segment``, checked first; Malformed unless it has the declared size."""
        self.check(segment, stored)
        return decompress(stored, segment.bytes, prefix, self.path, segment.place)

    def load(self, kind: str) -> bytes:
        """Content of all segments of ``kind`` one after the other; empty when there are none."""
        return b"".join(self.stream(kind))

    def stream(self, kind: str) -> Iterator[bytes]:
        """Content of the segments of ``kind``, one at a time."""
        for segment in self.manifest.of_kind(kind):
            yield self.unpack(segment, self.fetch(segment))


HeaderCheck = Callable[[Header, str], None]
"""Looks at a header, of the file with this name, and raises what is wrong with it."""


def open_container(source: ByteSource, kind: bytes, check: HeaderCheck | None = None) -> Container:
    """Read and check header and manifest of a file of ``kind`` (header.OVERLAY, header.BASE).

    One read, two when the manifest is long. ``check`` sees the header before anything is unpacked. Raises FormatError,
    or what the source or ``check`` raises.
    """
    path = source.describe()
    size = source.size_bytes
    first = source.read(0, HEADER_BYTES if size is None else min(size, FIRST_READ_BYTES))
    header = decode_header(first, path, kind)
    if check is not None:
        check(header, path)
    end = HEADER_BYTES + header.manifest_stored_bytes
    if size is not None and end > size:
        raise Truncated(path=path, place="the manifest", expected=end, found=size)
    stored = first[HEADER_BYTES:end]
    if len(stored) < header.manifest_stored_bytes:
        at = HEADER_BYTES + len(stored)
        stored += source.read(at, end - at)
    manifest = _manifest(stored, header, path)
    needed = manifest.segments[-1].offset + manifest.segments[-1].stored_bytes
    if size is None:
        size = source.size_bytes
    if size is not None and size < needed:
        raise Truncated(path=path, place=_place_at(manifest, size), expected=needed, found=size)
    if size is not None and size > needed:
        raise Malformed(path=path, place="its end", reason=f"{size} bytes where {needed} belong to the file")
    has_prefix = any(segment.prefix for segment in manifest.segments)
    if has_prefix != bool(header.features & PREFIX):
        raise Malformed(path=path, place="the header", reason="feature prefix does not fit the segments")
    return Container(source, header, manifest)


class SegmentSpool:
    """Segments that are being written, in a file without a name: the manifest goes before them."""

    def __init__(self, out: Path) -> None:
        """``out``: the file that they will be part of."""
        self._out = out
        self._file = tempfile.TemporaryFile(dir=out.parent, buffering=0)
        self.segments: list[SegmentInfo] = []
        self.stored_bytes = 0
        self._slots = 0

    def add(
        self,
        kind: str,
        stored: bytes,
        size: int,
        section: str = "",
        slots: int = 0,
        prefix: bool = False,
    ) -> None:
        """Add a compressed segment of ``size`` bytes of content; TooLarge if no reader would take it."""
        most = TABLE_LIMIT_BYTES if kind == TABLE else SEGMENT_LIMIT_BYTES
        _check_limit(self._out, f"bytes in a segment of kind {kind}", size, most)
        _check_limit(self._out, "segments", len(self.segments) + 1, SEGMENTS_LIMIT)
        write_all(self._file.fileno(), stored)
        self.segments.append(
            SegmentInfo(
                number=len(self.segments),
                kind=kind,
                section=section,
                offset=0,
                stored_bytes=len(stored),
                bytes=size,
                digest=digest(stored),
                first_slot=self._slots if slots else 0,
                slots=slots,
                prefix=prefix,
            )
        )
        self.stored_bytes += len(stored)
        self._slots += slots

    def add_content(self, kind: str, data: bytes, level: int) -> None:
        """Compress ``data`` and add it."""
        self.add(kind, compress(Content(data), level), len(data))

    def add_table(self, table: ChunkTable, level: int, scratch: Path) -> None:
        """Compress ``table``, which is laid out in the folder ``scratch``, and add it; TooLarge, DiskFull."""
        _check_limit(self._out, "runs in its chunk table", table.entries, RUNS_LIMIT)
        column = filled(scratch, np.uint8, table.encoded_bytes)
        table.encode_into(column.rows)
        self.add(TABLE, compress(Content(column.rows.data), level), table.encoded_bytes)
        column.close()

    def check_machine(self, machine: dict[str, Any]) -> None:
        """TooLarge if no reader would take this machine description."""
        _check_limit(self._out, "bytes of machine description", len(canonical(machine)), MACHINE_LIMIT_BYTES)

    def copy_to(self, fd: int) -> None:
        """Write all segments at the position of ``fd``."""
        copy_all(self._file.fileno(), fd, self.stored_bytes)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def __enter__(self) -> SegmentSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_container(fd: int, kind: bytes, manifest: Manifest, spool: SegmentSpool, features: int = 0) -> Header:
    """Write header (``features`` beside those that the segments tell), manifest and segments to the empty ``fd``."""
    spool.check_machine(manifest.machine)
    plain = manifest.encode()
    stored = compress(Content(plain), _MANIFEST_LEVEL)
    has_prefix = any(segment.prefix for segment in manifest.segments)
    header = Header(
        kind=kind,
        features=features | (PREFIX if has_prefix else 0),
        manifest_stored_bytes=len(stored),
        manifest_bytes=len(plain),
        manifest_digest=digest(plain),
        stored_digest=digest(stored),
    )
    write_all(fd, header.encode())
    write_all(fd, stored)
    spool.copy_to(fd)
    return header


def _manifest(stored: bytes, header: Header, path: str) -> Manifest:
    place = "the manifest"
    if len(stored) != header.manifest_stored_bytes:
        raise Truncated(path=path, place=place, expected=header.manifest_stored_bytes, found=len(stored))
    found = digest(stored)
    if found != header.stored_digest:
        raise Damaged(path=path, place=place, expected=header.stored_digest.hex(), found=found.hex())
    plain = decompress(stored, header.manifest_bytes, b"", path, place)
    found = digest(plain)
    if found != header.manifest_digest:
        raise Damaged(path=path, place=place, expected=header.manifest_digest.hex(), found=found.hex())
    end = HEADER_BYTES + header.manifest_stored_bytes
    return decode_manifest(plain, path, header.kind == BASE, end)


def _check_limit(out: Path, what: str, found: int, limit: int) -> None:
    if found > limit:
        raise TooLarge(path=str(out), what=what, found=found, limit=limit)


def _place_at(manifest: Manifest, size: int) -> str:
    for segment in manifest.segments:
        if size < segment.offset + segment.stored_bytes:
            return segment.place
    return "its end"
