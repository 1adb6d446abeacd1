# SPDX-License-Identifier: Apache-2.0
"""Qcow2Image: which chunks of a disk an image holds, and their content; Qcow2Layers: several
images, top first.

Refcounts are never looked at: what a guest sees is told by the L1 and L2 tables alone, and they are
complete as soon as QEMU has flushed its metadata, which it does when it pauses for the end of a
migration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, PIECE_CHUNKS, PIECE_RUNS, Chunks, Numbers
from cloudlet_ext.engine.errors import ChunkNotAllocated, ChunkOutOfRange, LayersDiffer
from cloudlet_ext.engine.mapped_file import MappedFile
from cloudlet_ext.engine.qcow2_header import parse_header
from cloudlet_ext.engine.qcow2_tables import ABSENT, COMPRESSED_BASE, ZEROED, UnitMap, read_tables
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer

__all__ = ["Allocation", "Qcow2Image", "Qcow2Layers", "Qcow2Writer"]

Span = tuple[Numbers, NDArray[np.bool_]]
"""Ascending chunk numbers, and which of these chunks are told as zeros; shapes (n,)."""

_HEAD_BYTES = 2 << 20
"""The largest cluster: the header and the name of the backing file lie in the first one."""


@dataclass(frozen=True)
class Allocation:
    """What an image says of each chunk of its disk; shape (virtual chunks,) each.

    ``data`` is the host offset in bytes or -1; ``zero`` is true where the image itself says zeros
    (zero flag, also where an old host cluster is kept behind it). Chunks with neither are the
    backing image's. A compressed chunk has ``data`` at or below -2.
    """

    data: NDArray[np.int64]
    zero: NDArray[np.bool_]


def backing_path(path: Path) -> str | None:
    """Backing file as an image's header names it, also of one that is being written; FormatError, OSError."""
    with path.open("rb") as file:
        return parse_header(str(path), file.read(_HEAD_BYTES), path.stat().st_size).backing_path


class Qcow2Image:
    """An open qcow2 image of version 2 or 3; its backing image is never opened."""

    def __init__(self, path: Path) -> None:
        """Use `open`."""
        self.path = path
        self._file = MappedFile(path)
        try:
            file_bytes = self._file.file_bytes
            self._header = parse_header(str(path), self._file.read_bytes(0, _HEAD_BYTES), file_bytes)
            self._map: UnitMap = read_tables(self._file, self._header)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def open(cls, path: str | Path) -> Qcow2Image:
        """Map the file, check the header and every table entry.

        OSError when it cannot be opened, NotQcow2, Qcow2Unsupported, Qcow2Corrupt (all
        FormatError).
        """
        return cls(Path(path))

    @property
    def virtual_bytes(self) -> int:
        """Size of the disk the guest sees."""
        return self._header.virtual_bytes

    @property
    def chunks(self) -> int:
        """Chunks of the disk."""
        return self._header.virtual_bytes // CHUNK_BYTES

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster."""
        return self._header.cluster_bytes

    @property
    def backing_path(self) -> str | None:
        """Backing file as written in the header (it may be relative to the image), or None."""
        return self._header.backing_path

    @property
    def backing_format(self) -> str | None:
        """Format of the backing file as written in the header, or None."""
        return self._header.backing_format

    def allocation(self) -> Allocation:
        """The map of the whole disk, nine bytes a chunk; `changed` is the compact form."""
        states = self._map.states[:, None].astype(np.int64)
        within = np.arange(self._map.unit_chunks, dtype=np.int64)
        first = np.where((states == ABSENT) | (states == ZEROED), -1, states)
        data = np.where(states > 0, (states + within) * CHUNK_BYTES, first).reshape(-1)[: self.chunks]
        zero = np.repeat(self._map.states == ZEROED, self._map.unit_chunks)[: self.chunks]
        return Allocation(data=data, zero=zero)

    def changed(self) -> tuple[Numbers, NDArray[np.bool_]]:
        """Ascending numbers of the chunks that this image itself tells, and which of them it tells
        as zeros."""
        return _joined(self.spans())

    def spans(self) -> Iterator[Span]:
        """The same, at most PIECE_CHUNKS (and the rest of a cluster) at a time."""
        step = _step([self])
        for first in range(0, self.chunks, step):
            numbers, zero = self.told(first, first + step)
            if len(numbers):
                yield numbers, zero

    def told(self, first: int, end: int) -> Span:
        """The same of the chunks from ``first`` to ``end``, multiples of the unit of allocation or the disk's end."""
        unit = self._map.unit_chunks
        states = self._map.states[first // unit : -(-end // unit)]
        units = np.flatnonzero(states != ABSENT)
        numbers = (first + units[:, None] * unit + np.arange(unit, dtype=np.int64)).reshape(-1)
        zero = np.repeat(states[units] == ZEROED, unit)
        last = int(np.searchsorted(numbers, min(end, self.chunks)))
        return numbers[:last], zero[:last]

    @property
    def unit_chunks(self) -> int:
        """Chunks that are allocated together: a power of two."""
        return self._map.unit_chunks

    def places(self) -> Iterator[tuple[Numbers, NDArray[np.int64]]]:
        """Units that the image holds as they are, and at which chunk of the file each begins; some at a time."""
        for first in range(0, len(self._map.states), PIECE_RUNS):
            states = self._map.states[first : first + PIECE_RUNS]
            held = np.flatnonzero(states > 0)
            yield first + held, states[held].astype(np.int64)

    def read(self, numbers: Numbers) -> Chunks:
        """Content of ``numbers``, shape (n, 4096).

        Unallocated chunks are zeros in an image without a backing file; with one:
        ChunkNotAllocated.
        """
        out = np.empty((len(numbers), CHUNK_BYTES), dtype=np.uint8)
        absent = self.read_present(numbers, out)
        if len(absent):
            if self.backing_path is not None:
                raise ChunkNotAllocated(path=str(self.path), number=int(numbers[absent[0]]), backing=self.backing_path)
            out[absent] = 0
        return out

    def read_present(self, numbers: Numbers, out: Chunks, rows: Numbers | None = None) -> Numbers:
        """Fill those rows of ``out`` that this image tells; give the rows that it does not.

        ``rows`` (ascending, default all) says which entries of ``numbers`` are asked for.
        """
        wanted = numbers if rows is None else numbers[rows]
        _check_range(self.path, wanted, self.chunks)
        states, within = self._map.locate(wanted)
        stored = states > 0
        if stored.all():
            self._file.read_into(out, rows, states + within)
            return np.empty(0, dtype=np.int64)
        target = np.arange(len(wanted), dtype=np.int64) if rows is None else rows
        self._file.read_into(out, target[stored], states[stored] + within[stored])
        out[target[states == ZEROED]] = 0
        packed = states <= COMPRESSED_BASE
        if packed.any():
            self._map.read_compressed(self._file, out, target[packed], wanted[packed])
        absent: Numbers = target[states == ABSENT]
        return absent

    def close(self) -> None:
        """Unmap and close; may be called twice."""
        self._file.close()

    def __enter__(self) -> Qcow2Image:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Qcow2Layers:
    """Images over a base that is not among them, topmost first; the caller keeps and closes the
    images."""

    def __init__(self, layers: Sequence[Qcow2Image]) -> None:
        """LayersDiffer unless all have the same virtual size."""
        if not layers:
            raise ValueError("at least one layer is needed")
        self.layers = tuple(layers)
        for layer in self.layers[1:]:
            if layer.virtual_bytes != self.layers[0].virtual_bytes:
                raise LayersDiffer(
                    top=str(self.layers[0].path),
                    top_bytes=self.layers[0].virtual_bytes,
                    path=str(layer.path),
                    found=layer.virtual_bytes,
                )

    @property
    def chunks(self) -> int:
        """Chunks of the disk."""
        return self.layers[0].chunks

    def changed(self) -> tuple[Numbers, NDArray[np.bool_]]:
        """Ascending numbers of the chunks told by any layer, and which of them are told as zeros by
        the topmost."""
        return _joined(self.spans())

    @property
    def count(self) -> int:
        """How many they are. With spans() and reader the layers are a plan's changes."""
        return sum(len(numbers) for numbers, _ in self.spans())

    @property
    def reader(self) -> Qcow2Layers:
        """Gives their content."""
        return self

    def spans(self) -> Iterator[Span]:
        """The same, at most PIECE_CHUNKS (and the rest of a cluster) at a time."""
        step = _step(self.layers)
        told, zero = np.empty(step, dtype=np.bool_), np.empty(step, dtype=np.bool_)
        for first in range(0, self.chunks, step):
            told[:] = False
            for layer in reversed(self.layers):
                upper, upper_zero = layer.told(first, first + step)
                told[upper - first] = True
                zero[upper - first] = upper_zero
            inner = np.flatnonzero(told)
            if len(inner):
                yield first + inner, zero[inner]

    def read(self, numbers: Numbers) -> Chunks:
        """Content of ``numbers``, shape (n, 4096): the topmost layer that tells a chunk wins.

        A chunk that no layer tells is zeros when the lowest layer has no backing file; else
        ChunkNotAllocated.
        """
        out = np.empty((len(numbers), CHUNK_BYTES), dtype=np.uint8)
        rest: Numbers | None = None
        for layer in self.layers:
            rest = layer.read_present(numbers, out, rest)
            if not len(rest):
                return out
        assert rest is not None
        lowest = self.layers[-1]
        if lowest.backing_path is not None:
            raise ChunkNotAllocated(path=str(lowest.path), number=int(numbers[rest[0]]), backing=lowest.backing_path)
        out[rest] = 0
        return out


def _step(layers: Sequence[Qcow2Image]) -> int:
    """Chunks that are looked at together: a multiple of what each layer allocates together."""
    return max(PIECE_CHUNKS, *(layer.unit_chunks for layer in layers))


def _joined(spans: Iterator[Span]) -> Span:
    pieces = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)), *spans]
    numbers, zero = zip(*pieces, strict=True)
    return np.concatenate(numbers), np.concatenate(zero)


def _check_range(path: Path, numbers: Numbers, chunks: int) -> None:
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= chunks):
        wrong = numbers[(numbers < 0) | (numbers >= chunks)]
        raise ChunkOutOfRange(path=str(path), number=int(wrong[0]), chunks=chunks)
