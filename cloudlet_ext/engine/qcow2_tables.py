# SPDX-License-Identifier: Apache-2.0
"""The L1 and L2 tables of a qcow2 image, checked and put into one array."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from backports import zstd
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers
from cloudlet_ext.engine.errors import Qcow2Corrupt, Qcow2Unsupported
from cloudlet_ext.engine.mapped_file import MappedFile
from cloudlet_ext.engine.qcow2_header import (
    COMPRESSED,
    L1_RESERVED,
    L2_RESERVED,
    OFFSET_MASK,
    SUBCLUSTERS,
    ZERO,
    Qcow2Header,
)

ABSENT = 0
"""State of a unit that the image does not tell. It is 0 (no data lies at the header's offset), so
that the array of a large, empty disk is never touched and takes no memory."""
ZEROED = -1
"""State of a unit that reads as zeros. Positive states are chunks of the file: where the unit is held."""
COMPRESSED_BASE = -2
"""States at or below are compressed units: COMPRESSED_BASE - (index of the descriptor)."""
_MAX_UNITS = 1 << 28
_MAX_FILE_BYTES = CHUNK_BYTES << 31
_TABLES_AT_A_TIME = 64

Words = NDArray[np.uint64]

States = NDArray[np.int32]
"""State of each unit: four bytes for 64 KiB of disk, 64 MiB for a whole terabyte."""


@dataclass(frozen=True)
class UnitMap:
    """State of every unit (cluster, or subcluster of extended L2 entries), shape (units,)."""

    path: str
    unit_chunks: int
    states: States
    descriptors: Words
    cluster_bits: int
    zstd: bool

    def locate(self, numbers: Numbers) -> tuple[States, Numbers]:
        """State of the unit of each chunk, and the chunk's place within its unit."""
        units = numbers // self.unit_chunks
        return self.states[units], numbers - units * self.unit_chunks

    def read_compressed(self, file: MappedFile, out: Chunks, rows: Numbers, numbers: Numbers) -> None:
        """Decompress the clusters of ``numbers``, each once, into ``rows`` of ``out``."""
        cluster_chunks = (1 << self.cluster_bits) // CHUNK_BYTES
        clusters, which = np.unique(numbers // cluster_chunks, return_inverse=True)
        for index, cluster in enumerate(clusters.tolist()):
            content = self._decompress(file, cluster)
            mine = which == index
            out[rows[mine]] = content[numbers[mine] - cluster * cluster_chunks]

    def _decompress(self, file: MappedFile, cluster: int) -> Chunks:
        unit = cluster * ((1 << self.cluster_bits) // CHUNK_BYTES // self.unit_chunks)
        descriptor = int(self.descriptors[COMPRESSED_BASE - int(self.states[unit])])
        offset, length = compressed_extent(descriptor, self.cluster_bits)
        packed = file.read_bytes(offset, length)
        size = 1 << self.cluster_bits
        try:
            if self.zstd:
                raw = zstd.ZstdDecompressor().decompress(packed, size)
            else:
                # Raw deflate with a 4 KiB window, as QEMU writes it.
                raw = zlib.decompressobj(-12).decompress(packed, size)
        except (zlib.error, zstd.ZstdError) as error:
            raise Qcow2Corrupt(
                path=self.path,
                place=f"compressed cluster {cluster} at {offset}",
                found=str(error),
                expected="its data",
            ) from error
        if len(raw) != size:
            raise Qcow2Corrupt(
                path=self.path,
                place=f"compressed cluster {cluster} at {offset}",
                found=f"{len(raw)} bytes",
                expected=size,
            )
        return np.frombuffer(raw, dtype=np.uint8).reshape(-1, CHUNK_BYTES)


def compressed_extent(descriptor: int, cluster_bits: int) -> tuple[int, int]:
    """Host (offset, longest length) in bytes of a compressed cluster."""
    shift = 62 - (cluster_bits - 8)
    offset = descriptor & ((1 << shift) - 1)
    sectors = ((descriptor >> shift) & ((1 << (cluster_bits - 8)) - 1)) + 1
    return offset, sectors * 512 - (offset & 511)


def read_tables(file: MappedFile, header: Qcow2Header) -> UnitMap:
    """Read and check all tables; Qcow2Corrupt names the first bad entry and its value."""
    path = str(file.path)
    units = -(-header.virtual_bytes // header.unit_bytes)
    if units > _MAX_UNITS:
        raise Qcow2Unsupported(path=path, feature=f"{units} clusters ({_MAX_UNITS} is the most)")
    if file.file_bytes > _MAX_FILE_BYTES:
        raise Qcow2Unsupported(path=path, feature=f"{file.file_bytes} bytes ({_MAX_FILE_BYTES} is the most)")
    states: States = np.zeros(units, dtype=np.int32)
    l1 = file.words(header.l1_offset, header.l1_entries)
    tables = _check_l1(path, l1, header, file.file_bytes)
    descriptors: list[Words] = []
    first = 0
    for begin in range(0, len(tables), _TABLES_AT_A_TIME):
        batch = tables[begin : begin + _TABLES_AT_A_TIME]
        words_per_table = header.cluster_bytes // 8
        entries = np.stack([file.words(int(l1[i] & np.uint64(OFFSET_MASK)), words_per_table) for i in batch])
        first += _fill_states(path, file.file_bytes, header, (batch, entries), (states, first, descriptors))
    packed = np.concatenate(descriptors) if descriptors else np.empty(0, dtype=np.uint64)
    return UnitMap(path, header.unit_bytes // CHUNK_BYTES, states, packed, header.cluster_bits, header.zstd)


def _check_l1(path: str, l1: Words, header: Qcow2Header, file_bytes: int) -> NDArray[np.int64]:
    """Indices of the L1 entries that have an L2 table and lie within the disk."""
    needed = -(-header.virtual_bytes // (header.cluster_bytes * header.l2_entries))
    offsets = l1 & np.uint64(OFFSET_MASK)
    wrong = (l1 & np.uint64(L1_RESERVED)) != 0
    wrong |= (offsets % np.uint64(header.cluster_bytes)) != 0
    wrong |= (offsets != 0) & (offsets + np.uint64(header.cluster_bytes) > np.uint64(file_bytes))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise Qcow2Corrupt(
            path=path,
            place=f"L1 entry {index}",
            found=f"{int(l1[index]):#x}",
            expected=f"a multiple of {header.cluster_bytes}, the table within {file_bytes}",
        )
    used = np.flatnonzero(offsets[:needed])
    # Tables that are shared would let a small file describe an endless disk.
    if len(np.unique(offsets[used])) != len(used):
        raise Qcow2Corrupt(path=path, place="the L1 table", found="a table used twice", expected="each once")
    return used


def _fill_states(
    path: str,
    file_bytes: int,
    header: Qcow2Header,
    tables: tuple[NDArray[np.int64], Words],
    result: tuple[States, int, list[Words]],
) -> int:
    """Put the states of a batch of tables in place; gives the count of compressed clusters
    found."""
    indices, words = tables
    states, first, descriptors = result
    entries, bitmaps = (words[:, 0::2], words[:, 1::2]) if header.extended_l2 else (words, None)
    rows, columns = np.nonzero(entries if bitmaps is None else entries | bitmaps)
    clusters = indices[rows] * header.l2_entries + columns
    inside = clusters < -(-header.virtual_bytes // header.cluster_bytes)
    rows, columns, clusters = rows[inside], columns[inside], clusters[inside]
    values = entries[rows, columns]
    packed = (values & np.uint64(COMPRESSED)) != 0
    _check_l2(path, values, clusters, packed, header, file_bytes)
    places = ((values & np.uint64(OFFSET_MASK)) // np.uint64(CHUNK_BYTES)).astype(np.int64)
    places[packed] = COMPRESSED_BASE - first - np.arange(int(packed.sum()), dtype=np.int64)
    descriptors.append(values[packed])
    if bitmaps is None:
        states[clusters] = np.where(~packed & ((values & np.uint64(ZERO)) != 0), ZEROED, places)
    else:
        _fill_subclusters(path, header, states, clusters, (places, bitmaps[rows, columns], packed))
    return int(packed.sum())


def _fill_subclusters(
    path: str,
    header: Qcow2Header,
    states: States,
    clusters: NDArray[np.int64],
    entries: tuple[NDArray[np.int64], Words, NDArray[np.bool_]],
) -> None:
    """As the plain form, with a bit each for "stored" (low half) and "zero" (high half) of 32
    subclusters."""
    places, bitmaps, packed = entries
    inner = np.arange(SUBCLUSTERS, dtype=np.int64)
    stored = ((bitmaps[:, None] >> inner.astype(np.uint64)) & np.uint64(1)) != 0
    zero = ((bitmaps[:, None] >> (inner + SUBCLUSTERS).astype(np.uint64)) & np.uint64(1)) != 0
    wrong = (stored & zero).any(axis=1) | (packed & (bitmaps != 0)) | (stored.any(axis=1) & (places == 0))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise Qcow2Corrupt(
            path=path,
            place=f"subcluster bitmap of cluster {int(clusters[index])}",
            found=f"{int(bitmaps[index]):#x} with host offset {int(places[index]) * CHUNK_BYTES:#x}",
            expected="each subcluster stored or zero, and stored ones with an offset",
        )
    host = np.where(stored, places[:, None] + inner * (header.unit_bytes // CHUNK_BYTES), ABSENT)
    host = np.where(zero, ZEROED, host)
    host = np.where(packed[:, None], places[:, None], host)
    units = clusters[:, None] * SUBCLUSTERS + inner
    inside = units < len(states)
    states[units[inside]] = host[inside]


def _check_l2(
    path: str,
    values: Words,
    clusters: NDArray[np.int64],
    packed: NDArray[np.bool_],
    header: Qcow2Header,
    file_bytes: int,
) -> None:
    offsets = values & np.uint64(OFFSET_MASK)
    reserved = L2_RESERVED | (ZERO if header.version == 2 or header.extended_l2 else 0)
    wrong = (values & np.uint64(reserved)) != 0
    wrong |= (offsets % np.uint64(header.cluster_bytes)) != 0
    # The last cluster of a file may be cut short: what QEMU has not written reads as zeros.
    wrong |= offsets >= np.uint64(file_bytes)
    shift = 62 - (header.cluster_bits - 8)
    packed_at = values & np.uint64((1 << shift) - 1)
    wrong = np.where(packed, packed_at >= np.uint64(file_bytes), wrong)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise Qcow2Corrupt(
            path=path,
            place=f"L2 entry of cluster {int(clusters[index])}",
            found=f"{int(values[index]):#x}",
            expected=f"a multiple of {header.cluster_bytes} within {file_bytes} bytes",
        )
