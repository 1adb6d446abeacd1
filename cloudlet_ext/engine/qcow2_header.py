# SPDX-License-Identifier: Apache-2.0
"""The header of a qcow2 image: layout, limits, parsing, building.

Field names and numbers are those of QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.errors import NotQcow2, Qcow2Corrupt, Qcow2Unsupported

MAGIC = b"QFI\xfb"
COPIED = 1 << 63
"""Bit of an L1 or L2 entry: the cluster's reference count is exactly one."""
COMPRESSED = 1 << 62
"""Bit of an L2 entry: the cluster is compressed."""
ZERO = 1
"""Bit of an L2 entry: the cluster reads as zeros."""
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED = 0x7F00_0000_0000_01FF
L2_RESERVED = 0x3F00_0000_0000_01FE

HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
HEADER_V3_REST = struct.Struct(">QQQII")
HEADER_BYTES = 112
"""Length of the header that is written: version 3 with the compression type and its padding."""

DIRTY, CORRUPT, DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
MAX_L1_BYTES = 32 << 20
"""QEMU's own limit."""
MAX_BACKING_NAME = 1023
SUBCLUSTERS = 32
"""Subclusters of a cluster in an image with extended L2 entries."""


@dataclass(frozen=True)
class Qcow2Header:
    """What the header says, checked."""

    version: int
    virtual_bytes: int
    cluster_bits: int
    l1_offset: int
    l1_entries: int
    extended_l2: bool
    zstd: bool
    backing_path: str | None
    backing_format: str | None

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table, which is one cluster long."""
        return self.cluster_bytes // (16 if self.extended_l2 else 8)

    @property
    def unit_bytes(self) -> int:
        """Smallest part that is allocated alone: a subcluster with extended L2 entries, else a
        cluster."""
        return self.cluster_bytes // SUBCLUSTERS if self.extended_l2 else self.cluster_bytes


def parse_header(path: str, head: bytes, file_bytes: int) -> Qcow2Header:
    """Parse the first 2 MiB (less if it is shorter) of an image.

    NotQcow2 when it is something else, Qcow2Unsupported for a feature that cannot be read here,
    Qcow2Corrupt when the values contradict each other or the file's size.
    """
    if head[:4] != MAGIC:
        raise NotQcow2(path=path, expected=MAGIC.hex(), found=head[:4].hex() or "an empty file")
    if len(head) < HEADER_V2.size:
        raise Qcow2Corrupt(path=path, place="the header", found=f"{len(head)} bytes", expected="72 or more")
    (
        _,
        version,
        backing_at,
        backing_bytes,
        cluster_bits,
        virtual_bytes,
        crypt,
        l1_entries,
        l1_offset,
    ) = HEADER_V2.unpack_from(head)[:9]
    incompatible, header_bytes, compression = _features(path, version, head)
    if crypt:
        raise Qcow2Unsupported(path=path, feature=f"encryption (method {crypt})")
    if not 9 <= cluster_bits <= 21:
        raise Qcow2Corrupt(path=path, place="cluster_bits", found=cluster_bits, expected="9 to 21")
    if virtual_bytes % CHUNK_BYTES:
        raise Qcow2Unsupported(path=path, feature=f"a virtual size of {virtual_bytes} bytes, no multiple of 4096")
    header = Qcow2Header(
        version=version,
        virtual_bytes=virtual_bytes,
        cluster_bits=cluster_bits,
        l1_offset=l1_offset,
        l1_entries=l1_entries,
        extended_l2=bool(incompatible & EXTENDED_L2),
        zstd=compression == 1,
        backing_path=_backing_path(path, head, backing_at, backing_bytes, 1 << cluster_bits),
        backing_format=_extensions(path, head[: 1 << cluster_bits], header_bytes, backing_at).get(
            _EXTENSION_BACKING_FORMAT
        ),
    )
    _check_geometry(path, header, file_bytes)
    return header


def _features(path: str, version: int, head: bytes) -> tuple[int, int, int]:
    if version not in (2, 3):
        raise Qcow2Unsupported(path=path, feature=f"version {version} (2 and 3 can be read)")
    if version == 2:
        return 0, HEADER_V2.size, 0
    if len(head) < HEADER_BYTES - 8:
        raise Qcow2Corrupt(path=path, place="the header", found=f"{len(head)} bytes", expected="104 or more")
    incompatible, _, _, _, header_bytes = HEADER_V3_REST.unpack_from(head, HEADER_V2.size)
    if not 104 <= header_bytes <= min(len(head), CHUNK_BYTES) or header_bytes % 8:
        raise Qcow2Corrupt(path=path, place="header_length", found=header_bytes, expected="104 to 4096, by 8")
    if incompatible & CORRUPT:
        raise Qcow2Corrupt(path=path, place="the corrupt bit", found="set", expected="clear (see qemu-img check)")
    if incompatible & DATA_FILE:
        raise Qcow2Unsupported(path=path, feature="an external data file")
    unknown = incompatible & ~(DIRTY | COMPRESSION_TYPE | EXTENDED_L2)
    if unknown:
        raise Qcow2Unsupported(path=path, feature=f"unknown incompatible features {unknown:#x}")
    compression = head[104] if header_bytes > 104 else 0
    if compression > 1 or bool(compression) != bool(incompatible & COMPRESSION_TYPE):
        raise Qcow2Corrupt(
            path=path,
            place="compression type",
            found=compression,
            expected="0 (deflate), or 1 (zstd) with its bit",
        )
    return incompatible, header_bytes, compression


def _backing_path(path: str, head: bytes, offset: int, length: int, cluster_bytes: int) -> str | None:
    if not offset:
        return None
    if length > MAX_BACKING_NAME or offset + length > min(len(head), cluster_bytes):
        raise Qcow2Corrupt(
            path=path,
            place="backing file name",
            found=f"{length} bytes at {offset}",
            expected="at most 1023 bytes within the first cluster",
        )
    return head[offset : offset + length].decode("utf-8", "surrogateescape")


def _extensions(path: str, head: bytes, offset: int, end: int) -> dict[int, str]:
    """The header extensions; those that carry text matter, the others are skipped."""
    found: dict[int, str] = {}
    end = end or len(head)
    while offset + 8 <= min(end, len(head)):
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == _EXTENSION_END:
            break
        if offset + 8 + length > min(end, len(head)):
            raise Qcow2Corrupt(
                path=path,
                place=f"header extension {kind:#x} at {offset}",
                found=f"{length} bytes",
                expected=f"at most {max(0, min(end, len(head)) - offset - 8)}",
            )
        if kind == _EXTENSION_BACKING_FORMAT:
            found[kind] = head[offset + 8 : offset + 8 + length].decode("ascii", "replace")
        offset += 8 + -(-length // 8) * 8
    return found


def _check_geometry(path: str, header: Qcow2Header, file_bytes: int) -> None:
    if header.unit_bytes < CHUNK_BYTES:
        what = "subclusters" if header.extended_l2 else "clusters"
        raise Qcow2Unsupported(path=path, feature=f"{what} of {header.unit_bytes} bytes (4096 is the smallest)")
    per_table = header.cluster_bytes * header.l2_entries
    needed = -(-header.virtual_bytes // per_table)
    if not needed <= header.l1_entries <= MAX_L1_BYTES // 8:
        raise Qcow2Corrupt(
            path=path,
            place="L1 table size",
            found=f"{header.l1_entries} entries",
            expected=f"{needed} to {MAX_L1_BYTES // 8} for {header.virtual_bytes} bytes",
        )
    if header.l1_entries and (
        header.l1_offset % header.cluster_bytes or header.l1_offset + header.l1_entries * 8 > file_bytes
    ):
        raise Qcow2Corrupt(
            path=path,
            place="L1 table offset",
            found=header.l1_offset,
            expected=f"a multiple of {header.cluster_bytes}, the table within {file_bytes}",
        )


def build_header(
    virtual_bytes: int,
    cluster_bits: int,
    l1: tuple[int, int],
    refcounts: tuple[int, int],
    backing: tuple[str, str] | None,
) -> bytes:
    """A version-3 header. ``l1`` is (offset, entries), ``refcounts`` (offset, clusters),
    ``backing`` (path, format)."""
    extensions = b""
    name = b""
    if backing is not None:
        name, kind = backing[0].encode("utf-8", "surrogateescape"), backing[1].encode("ascii")
        padded = kind.ljust(-(-len(kind) // 8) * 8, b"\0")
        extensions += struct.pack(">II", _EXTENSION_BACKING_FORMAT, len(kind)) + padded
    extensions += struct.pack(">II", _EXTENSION_END, 0)
    name_at = HEADER_BYTES + len(extensions) if name else 0
    fixed = HEADER_V2.pack(
        MAGIC,
        3,
        name_at,
        len(name),
        cluster_bits,
        virtual_bytes,
        0,
        l1[1],
        l1[0],
        refcounts[0],
        refcounts[1],
        0,
        0,
    )
    rest = HEADER_V3_REST.pack(0, 0, 0, 4, HEADER_BYTES) + bytes(8)
    return fixed + rest + extensions + name
