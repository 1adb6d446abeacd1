# SPDX-License-Identifier: Apache-2.0
"""Overlay: read one file that tells how a target differs from its base."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from cloudlet_ext.engine.chunks import ChunkReader, Numbers, is_zero
from cloudlet_ext.engine.container import ByteSource, Container, HeaderCheck, open_container
from cloudlet_ext.engine.errors import Malformed, WrongBase, WrongLayout
from cloudlet_ext.engine.header import OVERLAY
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.manifest import CHUNKS, DEVICE, ORDER, TABLE, SegmentInfo
from cloudlet_ext.engine.order import decode_order
from cloudlet_ext.engine.plan import BaseContent
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.table import ChunkTable
from cloudlet_ext.engine.table_decoder import decode_table

MachineCheck = Callable[[dict[str, Any], dict[str, Any]], None]
"""Is given the machine descriptions of a base and of an overlay and raises what keeps them from fitting each other."""


class DescribedBase(BaseContent, Protocol):
    """A base with its machine description (base.Base has it)."""

    @property
    def machine(self) -> dict[str, Any]: ...


_HOMES_LOCK = threading.Lock()
"""Several threads unpack, and the homes of millions of runs must not be found several times over at once."""


@dataclass(frozen=True)
class OverlayFile:
    """An opened overlay: header and manifest are checked, everything else is read when asked for.

    Its methods may be called by several threads if the source's may.
    """

    container: Container

    @classmethod
    def open(cls, source: ByteSource, check: HeaderCheck | None = None) -> OverlayFile:
        """Read header and manifest (one or two reads); FormatError, or what the source or ``check`` raises.

        ``check`` sees the header before anything is unpacked.
        """
        return cls(open_container(source, OVERLAY, check))

    @property
    def path(self) -> str:
        """Path or URL, for messages."""
        return self.container.path

    @property
    def overlay_id(self) -> str:
        """Digest of the manifest (hex): tells overlays apart by content."""
        return self.container.header.manifest_digest.hex()

    @property
    def base_id(self) -> str | None:
        """The base that it was made for."""
        return self.container.manifest.base_id

    @property
    def layout(self) -> Layout:
        """Regions of base and target."""
        return self.container.manifest.layout

    @property
    def machine(self) -> dict[str, Any]:
        """Machine description, as the hypervisor layer gave it."""
        return self.container.manifest.machine

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments in file order."""
        return self.container.manifest.segments

    @property
    def chunk_segments(self) -> tuple[SegmentInfo, ...]:
        """The segments that hold slots: working set, disk, memory."""
        return self.container.manifest.of_kind(CHUNKS)

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        last = self.segments[-1]
        return last.offset + last.stored_bytes

    @property
    def slots(self) -> int:
        """Number of stored chunks."""
        return self.container.manifest.slots

    def check_base(self, base_id: str) -> None:
        """Raise WrongBase unless the overlay was made for ``base_id``."""
        if self.base_id != base_id:
            raise WrongBase(path=self.path, expected=self.base_id, found=base_id)

    def check_layout(self, layout: Layout) -> None:
        """Raise WrongLayout, which names both values, unless the regions are those of ``layout``, the base's."""
        difference = layout.difference(self.layout)
        if difference is not None:
            number, expected, found = difference
            raise WrongLayout(
                path=self.path,
                place=f"region {number}",
                expected=str(expected or "absent"),
                found=str(found or "absent"),
            )

    def check_fit(self, base: DescribedBase, same_machine: MachineCheck) -> None:
        """Raise unless the overlay can become a VM together with ``base``: what synthesis relies upon.

        WrongBase, WrongLayout, and what ``same_machine`` raises: what a machine description means, and which of its
        fields must be equal, is known to the hypervisor layer alone.
        """
        self.check_base(base.base_id)
        self.check_layout(base.layout)
        same_machine(base.machine, self.machine)

    @cached_property
    def table(self) -> ChunkTable:
        """The chunk table; read at first use."""
        data = self.container.load(TABLE)
        return decode_table(data, self.layout.total_chunks, self.slots, self.path)

    def load_table(self) -> ChunkTable:
        """Read the chunk table (kept for later calls)."""
        return self.table

    def load_device(self) -> bytes:
        """Read the device state."""
        return self.container.load(DEVICE)

    def load_order(self) -> Numbers:
        """Read the working set, chunks in order of first need; empty if none was recorded."""
        if not self.container.manifest.of_kind(ORDER):
            return decode_order(bytes(8), self.layout.total_chunks, self.path)
        return decode_order(self.container.load(ORDER), self.layout.total_chunks, self.path)

    def unpack(self, segment: SegmentInfo, stored: bytes, base: ChunkReader | None) -> bytes:
        """Check and decompress ``segment``; one with a prefix needs ``base`` and the table.

        Raises Truncated, Damaged or Malformed.
        """
        prefix = b""
        if segment.prefix:
            if base is None:
                raise Malformed(path=self.path, place=segment.place, reason="the base is needed to unpack it")
            slots = np.arange(segment.first_slot, segment.first_slot + segment.slots)
            with _HOMES_LOCK:
                homes = self.table.homes
            prefix = segment_prefix(homes.of(slots), base)
        return self.container.unpack(segment, stored, prefix)

    def verify(self, base: BaseContent | None, progress: Progress = no_progress) -> None:
        """Read and check everything; without ``base``, segments with a prefix by digest only.

        FormatError; WrongBase, WrongLayout. The machine is checked by check_fit().
        """
        if base is not None:
            self.check_base(base.base_id)
            self.check_layout(base.layout)
        self.load_table()
        self.load_device()
        self.load_order()
        for segment in self.chunk_segments:
            stored = self.container.fetch(segment)
            if segment.prefix and base is None:
                self.container.check(segment, stored)
            else:
                self.unpack(segment, stored, base)
            progress(segment.offset + segment.stored_bytes, self.file_bytes)


def segment_prefix(homes: Numbers, base: ChunkReader) -> bytes:
    """What the base has at the homes of a segment's slots, without zero chunks."""
    content = base.read(homes)
    return content[~is_zero(content)].tobytes()
