# SPDX-License-Identifier: Apache-2.0
"""Base: an opened base directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES, SPAN_CHUNKS, Chunks, Numbers, is_zero, regrouped
from cloudlet_ext.engine.digest import ChunkDigests, chunk_digests, digest, file_digest
from cloudlet_ext.engine.errors import Damaged, FileMissing, Malformed, PartMissing, Truncated
from cloudlet_ext.engine.index import DigestIndex, open_index, write_index
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.manifest import HEAD_LIMIT_BYTES, Part, canonical, encode_parts, encode_regions
from cloudlet_ext.engine.manifest_reader import ManifestReader
from cloudlet_ext.engine.output import seal_file, sync_folder
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.engine.raw_image import RawImage

VERSION = 1
MANIFEST_NAME, DISK_NAME, MEMORY_NAME = "manifest.json", "disk.qcow2", "memory"
DEVICE_NAME, INDEX_NAME, KERNEL_NAME, INITRD_NAME = "device", "index", "kernel", "initrd"
REQUIRED_PARTS = (DEVICE_NAME, INDEX_NAME)
OPTIONAL_PARTS = (KERNEL_NAME, INITRD_NAME)


@dataclass(frozen=True)
class BaseManifest:
    """What a base is; its digest is the base's identity."""

    layout: Layout
    machine: dict[str, Any]
    parts: dict[str, Part]

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical(
            {
                "machine": self.machine,
                "parts": encode_parts(self.parts),
                "regions": encode_regions(self.layout),
                "version": VERSION,
            }
        )

    @cached_property
    def base_id(self) -> str:
        """BLAKE3-256 of the manifest, hex."""
        return digest(self.encode()).hex()


def decode_base_manifest(data: bytes, path: str) -> BaseManifest:
    """Read and check the manifest of a base; Malformed names the field."""
    reader = ManifestReader(data, path, {"machine", "parts", "regions", "version"})
    reader.number(reader.document["version"], "version", VERSION, VERSION)
    return BaseManifest(reader.layout(), reader.machine(), reader.parts(REQUIRED_PARTS, OPTIONAL_PARTS))


class Base:
    """A base directory: manifest, disk, memory, device state, index, perhaps kernel and initrd."""

    def __init__(self, folder: Path, manifest: BaseManifest, disk: Qcow2Image | None, memory: RawImage) -> None:
        self.folder = folder
        self.manifest = manifest
        self._disk = disk
        self._memory = memory

    @classmethod
    def open(cls, folder: Path) -> Base:
        """Open the base in ``folder``.

        Content is not hashed, so it costs the same whatever the guest's size.

        Raises FileMissing, PartMissing, FormatError.
        """
        if not folder.is_dir():
            raise FileMissing(path=str(folder))
        path = _part_path(folder, MANIFEST_NAME)
        size = path.stat().st_size
        if size > HEAD_LIMIT_BYTES:
            reason = f"it has {size} bytes, at most {HEAD_LIMIT_BYTES} are allowed"
            raise Malformed(path=str(path), place="the manifest", reason=reason)
        manifest = decode_base_manifest(path.read_bytes(), str(path))
        for name, part in manifest.parts.items():
            _check_size(_part_path(folder, name), part.bytes)
        layout = manifest.layout
        _check_size(_part_path(folder, MEMORY_NAME), layout.memory_bytes)
        disk = Qcow2Image.open(_part_path(folder, DISK_NAME)) if layout.disk_chunks else None
        if disk is not None:
            _check_disk(disk, layout.disk_bytes)
        return cls(folder, manifest, disk, RawImage.open(folder / MEMORY_NAME))

    @property
    def base_id(self) -> str:
        """Identity: BLAKE3-256 of the manifest, hex."""
        return self.manifest.base_id

    @property
    def layout(self) -> Layout:
        """Regions."""
        return self.manifest.layout

    @property
    def machine(self) -> dict[str, Any]:
        """Machine description, as the hypervisor layer gave it."""
        return self.manifest.machine

    @property
    def disk_path(self) -> Path:
        """The disk, a qcow2 image without backing file."""
        return self.folder / DISK_NAME

    @property
    def memory_path(self) -> Path:
        """Memory: all blocks in the order of the layout, sparse, to be mapped."""
        return self.folder / MEMORY_NAME

    @property
    def kernel_path(self) -> Path | None:
        """Kernel, if the base boots with one from outside its disk."""
        return self.folder / KERNEL_NAME if KERNEL_NAME in self.manifest.parts else None

    @property
    def initrd_path(self) -> Path | None:
        """Initial RAM disk that belongs to the kernel."""
        return self.folder / INITRD_NAME if INITRD_NAME in self.manifest.parts else None

    def load_device(self) -> bytes:
        """Device state; Damaged unless its digest fits."""
        path = self.folder / DEVICE_NAME
        data = path.read_bytes()
        _check_digest(path, digest(data), self.manifest.parts[DEVICE_NAME])
        return data

    @cached_property
    def index(self) -> DigestIndex:
        """Digests of all non-zero chunks; read at first use."""
        path = self.folder / INDEX_NAME
        _check_digest(path, file_digest(path), self.manifest.parts[INDEX_NAME])
        return open_index(path, self.layout.disk_chunks, self.layout.total_chunks)

    def read(self, numbers: Numbers) -> Chunks:
        """Content of ``numbers`` (global, any order), shape (n, 4096); safe for threads."""
        disk_chunks = self.layout.disk_chunks
        in_memory = numbers >= disk_chunks
        # Most spans lie in one region: no second copy for them.
        if in_memory.all():
            return self._memory.read(numbers - disk_chunks)
        if self._disk is not None and not in_memory.any():
            return self._disk.read(numbers)
        out = np.empty((len(numbers), CHUNK_BYTES), dtype=np.uint8)
        rows = np.flatnonzero(in_memory)
        out[rows] = self._memory.read(numbers[rows] - disk_chunks)
        rows = np.flatnonzero(~in_memory)
        if len(rows) and self._disk is not None:
            out[rows] = self._disk.read(numbers[rows])
        return out

    def allocated(self) -> Iterator[Numbers]:
        """Ascending numbers of the chunks that may not be zero, some at a time: the rest is holes of the files."""
        if self._disk is not None:
            for numbers, zero in self._disk.spans():
                yield numbers[~zero]
        for numbers in self._memory.spans():
            yield numbers + self.layout.disk_chunks

    def verify(self, progress: Progress = no_progress) -> None:
        """Read everything and compare it with the manifest; Damaged names the part."""
        for name, part in self.manifest.parts.items():
            path = self.folder / name
            _check_digest(path, file_digest(path), part)
        row, known = 0, self.index
        for numbers, digests in _digested(self, progress):
            rows = slice(row, row + len(numbers))
            if not (np.array_equal(known.numbers[rows], numbers) and np.array_equal(known.digests[rows], digests)):
                raise self._differs(known.numbers[rows], known.digests[rows], numbers, digests)
            row += len(numbers)
        if row < len(known.numbers):
            rows = slice(row, row + 1)
            raise self._differs(known.numbers[rows], known.digests[rows], known.numbers[:0], known.digests[:0])

    def _differs(self, known: Numbers, known_digests: ChunkDigests, numbers: Numbers, digests: ChunkDigests) -> Damaged:
        """The first chunk that is not what the index says; of these rows of the index and of what was found."""
        both = min(len(known), len(numbers))
        same = (known[:both] == numbers[:both]) & (known_digests[:both] == digests[:both]).all(axis=1)
        row = int(np.argmin(same)) if not same.all() else both
        number = min(int(column[row]) for column in (known, numbers) if row < len(column))
        told = {
            name: column[row].tobytes().hex() if row < len(rows) and rows[row] == number else "that of zeros"
            for name, rows, column in (("expected", known, known_digests), ("found", numbers, digests))
        }
        return Damaged(path=str(self.folder), place=self.layout.place(number), **told)

    def close(self) -> None:
        """Unmap everything."""
        self._memory.close()
        if self._disk is not None:
            self._disk.close()

    def __enter__(self) -> Base:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _digested(base: Base, progress: Progress) -> Iterator[tuple[Numbers, ChunkDigests]]:
    """Every non-zero chunk of ``base`` and its digest, 1 MiB at a time."""
    total = sum(len(numbers) for numbers in base.allocated())
    done = 0
    for (numbers,) in regrouped(((piece,) for piece in base.allocated()), SPAN_CHUNKS):
        content = base.read(numbers)
        used = ~is_zero(content)
        yield numbers[used], chunk_digests(content[used])
        done += len(numbers)
        progress(done * CHUNK_BYTES, total * CHUNK_BYTES)


def finish_base(
    folder: Path,
    layout: Layout,
    machine: dict[str, Any],
    device_state: bytes,
    progress: Progress = no_progress,
) -> Base:
    """Make a base of a folder that has disk.qcow2 and memory (and perhaps kernel, initrd).

    Writes device, index and, last, manifest.json, and makes all files read-only. The caller writes
    to a temporary folder and renames it, so that a base is there whole or not at all.
    """
    (folder / DEVICE_NAME).write_bytes(device_state)
    _write_index(folder, BaseManifest(layout, machine, {}), progress)
    parts = {}
    for name in REQUIRED_PARTS + OPTIONAL_PARTS:
        path = folder / name
        if path.exists():
            parts[name] = Part(path.stat().st_size, file_digest(path).hex())
    (folder / MANIFEST_NAME).write_bytes(BaseManifest(layout, machine, parts).encode())
    for name in (MANIFEST_NAME, DISK_NAME, MEMORY_NAME, *parts):
        if (folder / name).exists():
            seal_file(folder / name)
    sync_folder(folder)
    return Base.open(folder)


def _write_index(folder: Path, unfinished: BaseManifest, progress: Progress) -> None:
    layout = unfinished.layout
    disk = Qcow2Image.open(_part_path(folder, DISK_NAME)) if layout.disk_chunks else None
    _check_size(_part_path(folder, MEMORY_NAME), layout.memory_bytes)
    with Base(folder, unfinished, disk, RawImage.open(folder / MEMORY_NAME)) as content:
        write_index(folder / INDEX_NAME, layout.total_chunks, _digested(content, progress))


def _part_path(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise PartMissing(path=str(folder), part=name)
    return path


def _check_disk(disk: Qcow2Image, expected: int) -> None:
    place, reason = "its header", ""
    if disk.virtual_bytes != expected:
        reason = f"a disk of {disk.virtual_bytes} bytes, {expected} in the manifest"
    if disk.backing_path is not None:
        # A guest would read whatever file of this host a stranger's image names.
        reason = f"a disk over the image {disk.backing_path!r}, a base's disk has none below it"
    if reason:
        disk.close()
        raise Malformed(path=str(disk.path), place=place, reason=reason)


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found < expected:
        raise Truncated(path=str(path), place="the file", expected=expected, found=found)
    if found > expected:
        raise Malformed(path=str(path), place="its end", reason=f"{found} bytes where {expected} belong")


def _check_digest(path: Path, found: bytes, part: Part) -> None:
    if found.hex() != part.digest:
        raise Damaged(path=str(path), place="the file", expected=part.digest, found=found.hex())
