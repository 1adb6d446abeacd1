# SPDX-License-Identifier: Apache-2.0
"""Import of a base file: fetched and checked segment by segment, continued after an interruption.

Segments are unpacked to the file ``slots`` of the hidden folder ``.NAME.partial``; ``journal``
there names the file that is imported and the segments that are done. When all are there, disk and
memory are built from the slots, the index is computed from them and compared with the identity of
the base, and the folder gets its name.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.base import (
    DISK_NAME,
    INITRD_NAME,
    KERNEL_NAME,
    MEMORY_NAME,
    Base,
    finish_base,
)
from cloudlet_ext.engine.base_file import BaseFile
from cloudlet_ext.engine.chunks import CHUNK_BYTES, SPAN_CHUNKS, Chunks, Numbers, runs
from cloudlet_ext.engine.errors import Damaged, DiskNeeded, NoRoom, OutputBusy, OutputExists
from cloudlet_ext.engine.manifest import CHUNKS, DEVICE, INITRD, KERNEL, SegmentInfo
from cloudlet_ext.engine.output import no_space_named, pwrite_all, sync_folder
from cloudlet_ext.engine.progress import Progress, no_progress
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.table import ChunkKind

_SLOTS_NAME, _JOURNAL_NAME = "slots", "journal"
_REQUEST_BYTES = 8 << 20
"""Read from the source at once: a round trip of 50 ms costs 3 % at 38 Mbit/s."""


def import_base(file: BaseFile, folder: Path, progress: Progress = no_progress, disk: Path | None = None) -> Base:
    """Make the base directory ``folder`` of ``file`` and open it.

    ``disk``: the base's disk, for a file that does not have it (DiskNeeded); it is moved, and checked like everything.

    What an interrupted import of the same file has fetched is used; of another file it is thrown
    away. Raises OutputExists, OutputBusy, DiskFull (before anything is fetched, as far as the chunk
    table tells), Damaged, FormatError, or what the source raises.
    """
    if folder.exists():
        raise OutputExists(path=str(folder))
    if file.has_disk != (disk is None):
        raise DiskNeeded(path=file.container.path, has_disk=file.has_disk)
    partial = partial_folder(folder)
    with no_space_named(folder), _locked(partial, folder):
        _check_room(file, partial)
        with _removed_on(partial, OSError):
            _fetch(file, partial, progress)
        # After this step failed, what is there would fail again.
        with _removed_on(partial, Exception):
            _build(file, partial, disk)
            for name in (_SLOTS_NAME, _JOURNAL_NAME):
                (partial / name).unlink()
            if folder.exists():
                raise OutputExists(path=str(folder))
            partial.rename(folder)
    sync_folder(folder.parent)
    return Base.open(folder)


def partial_folder(folder: Path) -> Path:
    """Where an import to ``folder`` keeps what it has, until it is complete."""
    return folder.with_name(f".{folder.name}.partial")


def discard_import(folder: Path) -> None:
    """Throw away what an interrupted import to ``folder`` left; OutputBusy when one is running."""
    partial = partial_folder(folder)
    if partial.exists():
        with _locked(partial, folder):
            shutil.rmtree(partial)


@contextmanager
def _removed_on(partial: Path, kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def _locked(partial: Path, folder: Path) -> Iterator[None]:
    partial.mkdir(exist_ok=True)
    fd = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputBusy(path=str(folder)) from error
        yield
    finally:
        os.close(fd)


def _check_room(file: BaseFile, partial: Path) -> None:
    """NoRoom unless what the file says it will become has room: a few bytes can declare terabytes.

    The content is there twice for a while: as slots, and as disk and memory made of them.
    """
    chunks = file.table.count(ChunkKind.STORED) + file.container.manifest.slots
    slots = partial / _SLOTS_NAME
    there = slots.stat().st_blocks * 512 if slots.exists() else 0
    needed, free = chunks * CHUNK_BYTES - there, shutil.disk_usage(partial).free
    if needed > free:
        with suppress(OSError):
            # Unless there is what an interrupted import has fetched.
            partial.rmdir()
        raise NoRoom(path=str(partial), needed=needed, free=free)


def _fetch(file: BaseFile, partial: Path, progress: Progress) -> None:
    """Unpack all chunks segments that are not there yet to the slots file."""
    identity = file.container.header.manifest_digest.hex()
    journal = partial / _JOURNAL_NAME
    done = _read_journal(journal, identity)
    if not done or not (partial / _SLOTS_NAME).exists():
        done = set()
        for path in partial.iterdir():
            path.unlink()
        (partial / _SLOTS_NAME).touch()
        journal.write_text(f"{identity}\n")
    segments = file.container.manifest.of_kind(CHUNKS)
    total = sum(segment.stored_bytes for segment in segments)
    fetched = sum(segment.stored_bytes for segment in segments if segment.number in done)
    with (
        (partial / _SLOTS_NAME).open("r+b", buffering=0) as slots,
        journal.open("a") as log,
    ):
        os.truncate(slots.fileno(), file.container.manifest.slots * CHUNK_BYTES)
        for request, contents in _unpacked(file, [s for s in segments if s.number not in done]):
            for segment, content in zip(request, contents, strict=True):
                pwrite_all(slots.fileno(), content, segment.first_slot * CHUNK_BYTES)
                fetched += segment.stored_bytes
            # The journal must never know of more than the disk does.
            os.fdatasync(slots.fileno())
            log.writelines(f"{segment.number}\n" for segment in request)
            log.flush()
            progress(fetched, total)


def _read_journal(journal: Path, identity: str) -> set[int]:
    """Numbers of the segments that are done; a last line without its end is not counted."""
    if not journal.exists():
        return set()
    lines = journal.read_text(errors="replace").split("\n")[:-1]
    if not lines or lines[0] != identity:
        return set()
    return {int(line) for line in lines[1:] if line.isdecimal()}


def _unpacked(file: BaseFile, segments: list[SegmentInfo]) -> Iterator[tuple[list[SegmentInfo], list[bytes]]]:
    """Segments of one request after the other, unpacked, while the next request is under way."""
    container = file.container

    def unpack(request: list[SegmentInfo], data: bytes) -> list[bytes]:
        view, contents = memoryview(data), []
        for segment in request:
            contents.append(container.unpack(segment, bytes(view[: segment.stored_bytes])))
            view = view[segment.stored_bytes :]
        return contents

    with ThreadPoolExecutor(1, thread_name_prefix="unpack") as pool:
        waiting: deque[tuple[list[SegmentInfo], Future[list[bytes]]]] = deque()
        for request in _requests(segments):
            length = sum(segment.stored_bytes for segment in request)
            data = container.source.read(request[0].offset, length)
            waiting.append((request, pool.submit(unpack, request, data)))
            if len(waiting) > 1:
                yield _result(waiting)
        while waiting:
            yield _result(waiting)


def _result(
    waiting: deque[tuple[list[SegmentInfo], Future[list[bytes]]]],
) -> tuple[list[SegmentInfo], list[bytes]]:
    request, future = waiting.popleft()
    return request, future.result()


def _requests(segments: list[SegmentInfo]) -> Iterator[list[SegmentInfo]]:
    """Neighbouring segments, up to _REQUEST_BYTES together."""
    request: list[SegmentInfo] = []
    size = 0
    for segment in segments:
        follows = request and request[-1].offset + request[-1].stored_bytes == segment.offset
        if request and (not follows or size + segment.stored_bytes > _REQUEST_BYTES):
            yield request
            request, size = [], 0
        request.append(segment)
        size += segment.stored_bytes
    if request:
        yield request


def _build(file: BaseFile, partial: Path, disk_image: Path | None) -> None:
    """Make all parts of the base; Damaged unless the identity is that of the file."""
    manifest = file.base_manifest
    layout = manifest.layout
    names = [DISK_NAME, MEMORY_NAME, KERNEL_NAME, INITRD_NAME]
    for name in names:
        (partial / name).unlink(missing_ok=True)
    slots = _map_slots(partial / _SLOTS_NAME)
    if disk_image is not None:
        shutil.move(disk_image, partial / DISK_NAME)
    elif layout.disk_chunks:
        _build_disk(file, slots, partial / DISK_NAME)
    with (partial / MEMORY_NAME).open("wb") as memory:
        memory.truncate(layout.memory_bytes)
        for numbers, content in _content(file, slots, layout.disk_chunks, layout.total_chunks):
            _write_memory(memory.fileno(), numbers - layout.disk_chunks, content)
    for kind, name in ((KERNEL, KERNEL_NAME), (INITRD, INITRD_NAME)):
        if name in manifest.parts:
            with (partial / name).open("wb") as output:
                output.writelines(file.container.stream(kind))
    device = file.container.load(DEVICE)
    with finish_base(partial, layout, manifest.machine, device) as built:
        if built.base_id != manifest.base_id:
            raise Damaged(
                path=file.container.path,
                place="the identity of the base",
                expected=manifest.base_id,
                found=built.base_id,
            )


def _build_disk(file: BaseFile, slots: Chunks, path: Path) -> None:
    layout = file.base_manifest.layout
    with Qcow2Writer.create(path, layout.disk_bytes) as disk:
        for numbers, content in _content(file, slots, 0, layout.disk_chunks):
            disk.write(numbers, content)


def _content(file: BaseFile, slots: Chunks, first: int, end: int) -> Iterator[tuple[Numbers, Chunks]]:
    """Non-zero chunks from ``first`` to ``end``: numbers and content, 1 MiB at a time."""
    for numbers, kinds, sources in file.table.within(first, end).pieces(SPAN_CHUNKS):
        stored = kinds == ChunkKind.STORED
        if stored.any():
            yield numbers[stored], slots[sources[stored]]


def _map_slots(path: Path) -> Chunks:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty((0, CHUNK_BYTES), dtype=np.uint8)
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    return np.frombuffer(mapped, dtype=np.uint8).reshape(-1, CHUNK_BYTES)


def _write_memory(fd: int, numbers: Numbers, content: Chunks) -> None:
    at = 0
    for start, count in zip(*(column.tolist() for column in runs(numbers)), strict=True):
        pwrite_all(fd, content[at : at + count].reshape(-1).data, start * CHUNK_BYTES)
        at += count
