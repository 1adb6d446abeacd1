# SPDX-License-Identifier: Apache-2.0
"""Whether a synthesised guest is the captured one, byte for byte, told by QEMU itself and by a second capture."""

from __future__ import annotations

import filecmp
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import tool
from benchmarks.bench import Bench
from cloudlet_ext.engine.chunks import CHUNK_BYTES, SPAN_CHUNKS
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import migration
from cloudlet_ext.hypervisor.capture import CapturedMemory
from cloudlet_ext.worker import server

_TIMEOUT_S = 120.0

Pages = NDArray[np.uint8]


@dataclass(frozen=True)
class Original:
    """A guest that stood still: its memory as QEMU wrote it, its disk, the overlay made of it."""

    memory: Path
    disk: Path
    overlay: Path


@dataclass(frozen=True)
class Comparison:
    """What was compared, and how much of it was not equal.

    ``memory``: pages that differ as QEMU writes them; ``disk``: whether the disks are the same; ``pages``: captured
    pages of all memory blocks, ``differing`` of them from what the overlay says. The VM generation id does not count.
    """

    memory: int
    disk: bool
    pages: int
    differing: int

    @property
    def is_exact(self) -> bool:
        """Whether nothing differs."""
        return not self.memory and self.disk and not self.differing


def _dump_memory(guest: server.Server, out: Path) -> None:
    """Guest-physical memory below the end of RAM, by QEMU's monitor."""
    said = guest.monitor.human(f'pmemsave 0 {guest.machine.memory_bytes} "{out}"')
    if said.strip():
        raise OSError(said.strip())


def _flatten(guest: server.Server, out: Path) -> None:
    layer = str(guest.folder / server.DISK_NAME)
    command = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", "-S", "4k", layer, str(out)]
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)


def _unequal(ours: Pages, theirs: Pages, generation: bytes) -> int:
    """Pages that differ elsewhere than in the VM generation id, which is new in every resumed guest."""
    count = 0
    for row in np.flatnonzero((ours != theirs).any(axis=1)).tolist():
        at = ours[row].tobytes().find(generation)
        places = np.flatnonzero(ours[row] != theirs[row])
        count += not (0 <= at <= places[0] and places[-1] < at + len(generation))
    return count


def _unequal_files(ours: Path, theirs: Path, generation: bytes) -> int:
    maps = [np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, CHUNK_BYTES) for path in (ours, theirs)]
    return sum(
        _unequal(maps[0][at : at + SPAN_CHUNKS], maps[1][at : at + SPAN_CHUNKS], generation)
        for at in range(0, len(maps[1]), SPAN_CHUNKS)
    )


def _unequal_pages(bench: Bench, overlay: Path, memory: CapturedMemory, generation: bytes) -> int:
    """Captured pages, of all blocks, that are not what the overlay says."""
    source = FileSource(str(overlay))
    try:
        opened = OverlayFile.open(source)
        _, base = bench.home.find_base(opened.base_id or "none", str(overlay))
        with base:
            store = SlotStore(bench.home.scratch, opened.chunk_segments)
            for segment in opened.chunk_segments:
                store.put(segment.number, opened.unpack(segment, opened.container.fetch(segment), base))
            view = TargetView(base, opened.load_table(), store)
            unequal = 0
            for first in range(0, opened.layout.memory_chunks, SPAN_CHUNKS):
                pages = np.arange(first, min(first + SPAN_CHUNKS, opened.layout.memory_chunks))
                said = view.read(pages + opened.layout.disk_chunks)
                unequal += _unequal(memory.read(pages), said, generation)
            store.close()
        return unequal
    finally:
        source.close()


def keep_original(bench: Bench, name: str, folder: Path) -> Original:
    """Pause a server for good, keep all of it, and make an overlay of it."""
    original = Original(folder / "original.memory", folder / "original.disk", folder / "exact.cloudlet")
    guest = server.load_running(bench.home, name)
    guest.monitor.execute("stop")
    _dump_memory(guest, original.memory)
    guest.close()
    tool.run(bench, "create_overlay", server=name, out=str(original.overlay), keep="running", level="auto")
    _flatten(guest, original.disk)
    return original


def compare(bench: Bench, original: Original, placement: str, folder: Path, then: Callable[[str], None]) -> Comparison:
    """Synthesise the overlay without ever running the guest and compare all that it has.

    At last the guest runs, and ``then`` is called with its name.
    """
    name = f"exact-{placement}"
    memory, disk = folder / "again.memory", folder / "again.disk"
    tool.run(bench, "synthesize", overlay=str(original.overlay), name=name, placement=placement, hold=True)
    try:
        guest = server.load_running(bench.home, name)
        generation = uuid.UUID(guest.monitor.execute("query-vm-generation-id")["guid"]).bytes_le
        _dump_memory(guest, memory)
        with migration.captured(guest.process, guest.monitor, bench.home.scratch, lambda done, total: None) as state:
            pages = state.memory.pages
            differing = _unequal_pages(bench, original.overlay, state.memory, generation)
        _flatten(guest, disk)
        guest.monitor.execute("cont")
        guest.close()
        then(name)
        return Comparison(
            memory=_unequal_files(memory, original.memory, generation),
            disk=filecmp.cmp(original.disk, disk, shallow=False),
            pages=pages,
            differing=differing,
        )
    finally:
        bench.stop(name)
        memory.unlink(missing_ok=True)
        disk.unlink(missing_ok=True)
