# SPDX-License-Identifier: Apache-2.0
"""Base file: a whole base in one file, to be carried to another site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.base import Base, BaseManifest
from cloudlet_ext.engine.chunks import CHUNK_BYTES, PIECE_CHUNKS, Numbers
from cloudlet_ext.engine.compression import Content, compress_all
from cloudlet_ext.engine.container import (
    ByteSource,
    Container,
    SegmentSpool,
    open_container,
    write_container,
)
from cloudlet_ext.engine.digest_table import DigestTable, digest_words
from cloudlet_ext.engine.header import BASE, DISK_APART, HEADER_BYTES
from cloudlet_ext.engine.level import AUTO, choose_level
from cloudlet_ext.engine.manifest import (
    CHUNKS,
    DEVICE,
    DISK,
    INITRD,
    KERNEL,
    LARGE_SEGMENT_SLOTS,
    MEMORY,
    TABLE,
    Manifest,
)
from cloudlet_ext.engine.output import atomic_output, check_output, no_space_named
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.scratch import Column, filled
from cloudlet_ext.engine.table import ChunkKind, ChunkTable
from cloudlet_ext.engine.table_builder import TableBuilder
from cloudlet_ext.engine.table_decoder import decode_table

EXPORT_BUDGET_S = 10.0
"""A base file is written once and fetched by many sites: worth more time than an overlay."""

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class BaseFile:
    """An opened base file: header and manifest are checked, the rest is read when asked for."""

    container: Container

    @classmethod
    def open(cls, source: ByteSource) -> BaseFile:
        """Read header and manifest (one or two reads); FormatError, or what the source raises."""
        return cls(open_container(source, BASE))

    @property
    def base_manifest(self) -> BaseManifest:
        """The manifest of the base in the file."""
        manifest = self.container.manifest
        assert manifest.parts is not None
        return BaseManifest(manifest.layout, manifest.machine, manifest.parts)

    @property
    def base_id(self) -> str:
        """Identity of the base in the file."""
        return self.base_manifest.base_id

    @property
    def has_disk(self) -> bool:
        """Whether the base's disk is in the file; else it is an image of its own."""
        return not self.container.header.features & DISK_APART

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        last = self.container.manifest.segments[-1]
        return last.offset + last.stored_bytes

    @cached_property
    def table(self) -> ChunkTable:
        """What each chunk is that is not zero: a slot; read at first use."""
        manifest = self.container.manifest
        return decode_table(
            self.container.load(TABLE),
            manifest.layout.total_chunks,
            manifest.slots,
            self.container.path,
            base_chunks=0,
        )

    def verify(self, progress: Progress = no_progress) -> None:
        """Read, check and unpack every segment; FormatError names the place."""
        self.table.lookup(np.zeros(1, dtype=np.int64))
        for segment in self.container.manifest.segments:
            self.container.unpack(segment, self.container.fetch(segment))
            progress(segment.offset + segment.stored_bytes, self.file_bytes)


def export_base(
    base: Base,
    out: Path,
    *,
    level: int | str = AUTO,
    replace: bool = False,
    with_disk: bool = True,
    progress: Progress = no_progress,
) -> int:
    """Write ``base`` to the file ``out`` and give its size; equal chunks are stored once.

    Without its disk, that is to be kept as an image of its own. Raises OutputExists, OutputBusy, DiskFull; nothing is
    left behind on failure.
    """
    check_output(out, replace)
    table, homes = _table(base, 0 if with_disk else base.layout.disk_chunks, out.parent)
    split = int(np.searchsorted(homes, base.layout.disk_chunks))
    groups = [(DISK, span) for span in _spans(0, split)]
    groups += [(MEMORY, span) for span in _spans(split, len(homes))]
    tasks = [_task(base, homes[span]) for _, span in groups]
    with atomic_output(out, replace) as fd, no_space_named(out), SegmentSpool(out) as spool:
        chosen = choose_level(level, tasks, EXPORT_BUDGET_S)
        spool.add_table(table, max(chosen, 9), out.parent)
        spool.add_content(DEVICE, base.load_device(), chosen)
        _add_files(spool, base, chosen)
        done = 0
        for (section, _), (content, stored) in zip(groups, compress_all(tasks, chosen, large=True), strict=True):
            slots = len(content.data) // CHUNK_BYTES
            spool.add(CHUNKS, stored, len(content.data), section, slots)
            done += len(content.data)
            progress(done, len(homes) * CHUNK_BYTES)
        manifest = Manifest(None, base.layout, base.machine, tuple(spool.segments), base.manifest.parts)
        header = write_container(fd, BASE, manifest, spool, 0 if with_disk else DISK_APART)
        return HEADER_BYTES + header.manifest_stored_bytes + spool.stored_bytes


def _table(base: Base, first: int, folder: Path) -> tuple[ChunkTable, Numbers]:
    """All non-zero chunks from ``first`` on as slots, one for each digest of the index; and these slots' homes.

    Slots are in the order of their homes. ``folder`` is for scratch files; DiskFull.
    """
    row = int(np.searchsorted(base.index.numbers, first))
    known, words = base.index.numbers[row:], digest_words(base.index.digests[row:])
    found = DigestTable(folder, lambda: words, len(known))
    homes, slot_of = Column(folder, np.int64), filled(folder, np.int64, len(known)).rows
    builder = TableBuilder(folder)
    for at in range(0, len(known), PIECE_CHUNKS):
        numbers = known[at : at + PIECE_CHUNKS]
        rows = found.add(at, len(numbers))
        fresh = np.flatnonzero(rows == np.arange(at, at + len(numbers)))
        slot_of[at + fresh] = len(homes) + np.arange(len(fresh))
        homes.append(numbers[fresh])
        builder.add(numbers, np.full(len(numbers), ChunkKind.STORED, dtype=np.uint8), slot_of[rows])
    return builder.table(), homes.rows


def _spans(first: int, end: int) -> Iterator[slice]:
    for at in range(first, end, LARGE_SEGMENT_SLOTS):
        yield slice(at, min(at + LARGE_SEGMENT_SLOTS, end))


def _task(base: Base, homes: Numbers) -> Callable[[], Content]:
    return lambda: Content(base.read(homes).tobytes())


def _add_files(spool: SegmentSpool, base: Base, level: int) -> None:
    for kind, path in ((KERNEL, base.kernel_path), (INITRD, base.initrd_path)):
        if path is None:
            continue
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                spool.add_content(kind, piece, level)
