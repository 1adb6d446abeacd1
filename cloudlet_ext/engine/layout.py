# SPDX-License-Identifier: Apache-2.0
"""Layout: the regions of a VM (its disk, its memory blocks) as one sequence of chunk numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Literal

from cloudlet_ext.engine.chunks import CHUNK_BYTES

RegionKind = Literal["disk", "memory"]


@dataclass(frozen=True)
class Region:
    """One disk or one memory block of ``chunks`` chunks. ``name`` of a memory block is QEMU's."""

    name: str
    kind: RegionKind
    chunks: int

    def __str__(self) -> str:
        """For messages."""
        return f"{self.kind} {self.name} of {self.chunks} chunks"


@dataclass(frozen=True)
class Layout:
    """Regions in order: the disk, the main memory block, then the small memory blocks."""

    regions: tuple[Region, ...]

    @cached_property
    def disk_chunks(self) -> int:
        """Chunks of the disk; memory begins at this chunk number."""
        return sum(region.chunks for region in self.regions if region.kind == "disk")

    @cached_property
    def total_chunks(self) -> int:
        """Chunks of all regions."""
        return sum(region.chunks for region in self.regions)

    @property
    def memory_chunks(self) -> int:
        """Chunks of all memory blocks."""
        return self.total_chunks - self.disk_chunks

    @property
    def memory(self) -> tuple[Region, ...]:
        """The memory blocks, the main one first."""
        return tuple(region for region in self.regions if region.kind == "memory")

    @property
    def disk_bytes(self) -> int:
        """Size of the disk."""
        return self.disk_chunks * CHUNK_BYTES

    @property
    def memory_bytes(self) -> int:
        """Size of all memory blocks."""
        return self.memory_chunks * CHUNK_BYTES

    def difference(self, found: Layout) -> tuple[int, Region | None, Region | None] | None:
        """Number of the first region in which ``found`` differs, that region here and there; None if all are equal.

        A region that one of the two has not is None.
        """
        pairs = zip_longest(self.regions, found.regions)
        return next(((number, mine, its) for number, (mine, its) in enumerate(pairs) if mine != its), None)

    def start(self, name: str) -> int:
        """Chunk number of the first chunk of the region ``name``; KeyError when there is none."""
        first = 0
        for region in self.regions:
            if region.name == name:
                return first
            first += region.chunks
        raise KeyError(name)

    def place(self, number: int) -> str:
        """Region and chunk in it of chunk ``number``, for messages."""
        first = 0
        for region in self.regions:
            if number < first + region.chunks:
                return f"region {region.name}, chunk {number - first}"
            first += region.chunks
        return f"chunk {number}"
