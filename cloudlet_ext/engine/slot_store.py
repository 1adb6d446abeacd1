# SPDX-License-Identifier: Apache-2.0
"""SlotStore: the content of an overlay's slots as far as it has arrived."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers
from cloudlet_ext.engine.manifest import SegmentInfo
from cloudlet_ext.engine.output import no_space_named


class SlotStore:
    """Slots in a sparse file without a name: gone with the process, whatever happens to it.

    Content is written, not stored through the map: a full disk is then an error and not a signal
    that kills the process. It is read through the map. Thread-safe.
    """

    def __init__(self, folder: Path, segments: Sequence[SegmentInfo]) -> None:
        """``segments`` of kind "chunks", whose slots do not overlap; OSError as of opening a
        file."""
        self._folder = folder
        ordered = sorted(segments, key=lambda segment: segment.first_slot)
        self._infos = {segment.number: segment for segment in ordered}
        self._first_slots = np.array([segment.first_slot for segment in ordered], dtype=np.int64)
        self._numbers = np.array([segment.number for segment in ordered], dtype=np.int64)
        slots = max((segment.first_slot + segment.slots for segment in ordered), default=0)
        self.arrived: NDArray[np.bool_] = np.zeros(max(self._infos, default=-1) + 1, dtype=np.bool_)
        """Which segments are here, by segment number."""
        self.arrivals: list[int] = []
        """Numbers of the segments that are here, in the order in which they came; only grows."""
        self._change = threading.Condition()
        self._error: Exception | None = None
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        os.ftruncate(self._file.fileno(), slots * CHUNK_BYTES)
        self._chunks: Chunks = np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        if slots:
            mapped = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ)
            self._chunks = np.frombuffer(mapped, dtype=np.uint8).reshape(-1, CHUNK_BYTES)

    def put(self, number: int, content: bytes | bytearray | memoryview) -> None:
        """Keep the content of segment ``number``; ValueError if it has the wrong size, DiskFull."""
        segment = self._infos[number]
        if len(content) != segment.slots * CHUNK_BYTES:
            raise ValueError(f"{segment.place} has {segment.slots} slots, not {len(content)} bytes")
        view, offset = memoryview(content).cast("B"), segment.first_slot * CHUNK_BYTES
        with no_space_named(self._folder):
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[written:], offset + written
        with self._change:
            if not self.arrived[number]:
                self.arrived[number] = True
                self.arrivals.append(number)
            self._change.notify_all()

    def segment_of(self, slots: Numbers) -> Numbers:
        """Number of the segment that holds each of ``slots``, shape (n,)."""
        return self._numbers[np.searchsorted(self._first_slots, slots, side="right") - 1]

    @property
    def is_complete(self) -> bool:
        """Whether all segments are here."""
        return len(self.arrivals) == len(self._infos)

    @property
    def segments(self) -> int:
        """How many there are in all."""
        return len(self._infos)

    def spanned(self, slots: Numbers, counts: Numbers) -> Numbers:
        """In how many segments each run of ``counts`` slots from ``slots`` on lies, shape (n,)."""
        first = np.searchsorted(self._first_slots, slots, side="right") - 1
        return np.searchsorted(self._first_slots, slots + counts) - first

    def divide(self, slots: Numbers, counts: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Divide runs of ``counts`` slots from ``slots`` on where segments meet.

        Gives for each part the number of its run, its place in the run, its slots and its segment; shapes (parts,).
        """
        ends, parts = slots + counts, self.spanned(slots, counts)
        first = np.searchsorted(self._first_slots, slots, side="right") - 1
        run = np.repeat(np.arange(len(slots)), parts)
        place = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(parts) - parts, parts)
        begins = np.maximum(slots[run], self._first_slots[place])
        following = np.append(self._first_slots[1:], len(self._chunks))
        lengths = np.minimum(ends[run], following[place]) - begins
        return run, begins - slots[run], lengths, self._numbers[place]

    def ready(self, slots: Numbers) -> NDArray[np.bool_]:
        """Which of ``slots`` are here, shape (n,)."""
        return self.arrived[self.segment_of(slots)]

    def read(self, slots: Numbers) -> Chunks:
        """Content of ``slots``, a copy of shape (n, 4096); ValueError if one is not here yet."""
        if not self.ready(slots).all():
            raise ValueError("a slot is read before it has arrived")
        return self._chunks[slots]

    def wait(self, numbers: Iterable[int], timeout_s: float | None = None) -> bool:
        """Wait until the segments ``numbers`` are here; False after ``timeout_s``.

        Raises what fail() was given, unless they are all here.
        """
        wanted = np.fromiter(numbers, dtype=np.int64)
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._change:
            while not self.arrived[wanted].all():
                if not self._sleep(end):
                    return False
        return True

    def _sleep(self, end: float | None) -> bool:
        if self._error is not None:
            raise self._error
        if end is not None and time.monotonic() >= end:
            return False
        self._change.wait(None if end is None else end - time.monotonic())
        return True

    def fail(self, error: Exception) -> None:
        """No more segments will come: whoever waits for one gets ``error``."""
        with self._change:
            self._error = self._error or error
            self._change.notify_all()

    def close(self) -> None:
        """Give the space back. Nobody may use the store any more."""
        self._chunks = np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        self._file.close()

    def __enter__(self) -> SlotStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
