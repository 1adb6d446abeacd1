# SPDX-License-Identifier: Apache-2.0
"""A small base, a target that differs from it in every way there is, and the overlay of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloudlet_ext.engine.base import DISK_NAME, MEMORY_NAME, Base, finish_base
from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers, is_zero
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.overlay_writer import OverlaySummary, write_overlay
from cloudlet_ext.engine.plan import Changes, OverlayPlan, plan_overlay
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.table import ChunkKind

DISK_CHUNKS = 400
LAYOUT = Layout(
    (
        Region("disk", "disk", DISK_CHUNKS),
        Region("pc.ram", "memory", 600),
        Region("pc.bios", "memory", 24),
    )
)
DEVICE_STATE = b"device state of the target " * 50
MACHINE = {"machine_type": "pc-q35-10.0", "cpu": "Nehalem", "memory_bytes": 600 * CHUNK_BYTES}


@dataclass(frozen=True)
class ArrayReader:
    """Chunks of an array that begins at chunk number ``first``."""

    chunks: Chunks
    first: int = 0

    def read(self, numbers: Numbers) -> Chunks:
        return self.chunks[numbers - self.first]


@dataclass(frozen=True)
class Sample:
    """A base with ``content`` in all its regions, and the ``target`` that an overlay describes."""

    base: Base
    content: Chunks
    target: Chunks

    @property
    def layout(self) -> Layout:
        return self.base.layout

    def plan(self, scratch: Path) -> OverlayPlan:
        """Plan the overlay, with every chunk given as a possible change."""
        zero = is_zero(self.target)
        disk = np.arange(self.layout.disk_chunks)
        memory = np.arange(self.layout.disk_chunks, self.layout.total_chunks)
        reader = ArrayReader(self.target)
        # Of the disk half of the zero chunks are not told as such, as with clusters of qcow2.
        return plan_overlay(
            self.base,
            Changes(disk, zero[disk] & (disk % 2 == 0), reader),
            Changes(memory, zero[memory], reader),
            scratch,
        )

    def write(self, out: Path, **options: Any) -> OverlaySummary:
        """Write the overlay to ``out``; ``options`` as of write_overlay()."""
        with self.plan(out.parent) as plan:
            return write_overlay(out, plan, MACHINE, DEVICE_STATE, **options)

    def open(self, path: Path) -> OverlayFile:
        """Open the overlay ``path``."""
        return OverlayFile.open(FileSource(path))

    def slots(self, overlay: OverlayFile) -> Chunks:
        """Content of all slots of ``overlay``."""
        parts = [np.empty((0, CHUNK_BYTES), dtype=np.uint8)]
        for segment in overlay.chunk_segments:
            data = overlay.unpack(segment, overlay.container.fetch(segment), self.base)
            parts.append(np.frombuffer(data, dtype=np.uint8).reshape(-1, CHUNK_BYTES))
        return np.concatenate(parts)

    def applied(self, overlay: OverlayFile) -> Chunks:
        """The target that ``overlay`` describes, by the plain meaning of its table."""
        everything = np.arange(self.layout.total_chunks)
        base, slots = self.base.read(everything), self.slots(overlay)
        target = base.copy()
        kinds, sources = overlay.load_table().lookup(everything)
        target[kinds == ChunkKind.ZERO] = 0
        target[kinds == ChunkKind.BASE] = base[sources[kinds == ChunkKind.BASE]]
        target[kinds == ChunkKind.STORED] = slots[sources[kinds == ChunkKind.STORED]]
        return target


def base_content(layout: Layout, seed: int) -> Chunks:
    """Disk and memory of a base: text-like, half of it zero, some of the disk in memory too."""
    random = np.random.default_rng(seed)
    chunks = np.zeros((layout.total_chunks, CHUNK_BYTES), dtype=np.uint8)
    words = random.integers(97, 123, (64, 16), dtype=np.uint8)
    used = random.random(layout.total_chunks) < 0.5
    picked = random.integers(0, 64, (int(used.sum()), CHUNK_BYTES // 16))
    chunks[used] = words[picked].reshape(-1, CHUNK_BYTES)
    disk = layout.disk_chunks
    chunks[disk + 20 : disk + 60] = chunks[10:50]
    return chunks


def target_content(base: Chunks, layout: Layout, seed: int) -> Chunks:
    """A target: zeroed, moved, copied, slightly and wholly changed chunks of ``base``."""
    random = np.random.default_rng(seed)
    target = base.copy()
    disk, total = layout.disk_chunks, layout.total_chunks
    fresh = random.integers(0, 256, (30, CHUNK_BYTES), dtype=np.uint8)
    target[60:90] = fresh
    target[disk + 100 : disk + 130] = fresh
    target[disk + 140 : disk + 150] = 0
    target[100:110] = 0
    target[disk + 200 : disk + 220] = base[disk : disk + 20]
    target[disk + 230 : disk + 240] = base[150:160]
    target[disk + 300 : disk + 560, 1000:1004] += 1
    target[total - 3, 5] ^= 1
    return target


def make_base(folder: Path, content: Chunks, layout: Layout) -> Base:
    """Write ``content`` as a base directory."""
    folder.mkdir()
    disk = layout.disk_chunks
    used = np.flatnonzero(~is_zero(content))
    on_disk = used[used < disk]
    with Qcow2Writer.create(folder / DISK_NAME, layout.disk_bytes) as writer:
        writer.write(on_disk, content[on_disk])
    with (folder / MEMORY_NAME).open("wb") as memory:
        memory.truncate(layout.memory_bytes)
        for number in used[used >= disk]:
            memory.seek(int(number - disk) * CHUNK_BYTES)
            memory.write(content[number].tobytes())
    return finish_base(folder, layout, MACHINE, b"device state of the base " * 40)


MakeSample = Callable[[Path, Layout, Chunks, Chunks], Sample]


@pytest.fixture(scope="session")
def make_sample() -> MakeSample:
    """Make a sample in a new folder of a layout, the content of a base, and a target."""

    def make(folder: Path, layout: Layout, content: Chunks, target: Chunks) -> Sample:
        return Sample(make_base(folder, content, layout), content, target)

    return make


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """The small base and a target; do not write to it."""
    content = base_content(LAYOUT, seed=1)
    base = make_base(tmp_path_factory.mktemp("sample") / "base", content, LAYOUT)
    with base:
        yield Sample(base, content, target_content(content, LAYOUT, seed=2))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, in a user namespace, for which nobody need be root; it goes with the process there."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && echo mounted && read -r _'
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout and owner.stderr
        if owner.stdout.readline() != "mounted\n":
            pytest.fail(f"no small file system can be mounted, a user namespace is needed: {owner.stderr.read()}")
        yield Path(f"/proc/{owner.pid}/root{folder}")
