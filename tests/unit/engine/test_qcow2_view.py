# SPDX-License-Identifier: Apache-2.0
"""A layer whose data are looked up when they are read, seen by QEMU's own tools through NBD."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers
from cloudlet_ext.engine.qcow2_view import Qcow2View
from cloudlet_ext.engine.qcow2_writer import CLUSTER_CHUNKS
from cloudlet_ext.engine.table import ChunkKind, ChunkTable
from cloudlet_ext.hypervisor.nbd import NbdServer

CHUNKS = 5 * CLUSTER_CHUNKS + 8
"""The last cluster of the disk is half of one."""

STORED = [3, 4, 2 * CLUSTER_CHUNKS, CHUNKS - 1]
ZERO = [5, *range(CLUSTER_CHUNKS, 2 * CLUSTER_CHUNKS)]


@pytest.fixture
def table() -> ChunkTable:
    """Stored and zero chunks of the disk, one whole cluster of zeros, and a chunk of memory behind the disk."""
    told = {number: (ChunkKind.STORED, slot) for slot, number in enumerate([*STORED, CHUNKS + 7])}
    told |= dict.fromkeys(ZERO, (ChunkKind.ZERO, 0))
    numbers = sorted(told)
    kinds = np.array([told[number][0] for number in numbers], dtype=np.uint8)
    sources = np.array([told[number][1] for number in numbers], dtype=np.int64)
    return ChunkTable.from_arrays(np.array(numbers, dtype=np.int64), kinds, sources)


@pytest.fixture
def base() -> Chunks:
    return np.random.default_rng(1).integers(0, 256, (CHUNKS, CHUNK_BYTES), dtype=np.uint8)


@pytest.fixture
def target(base: Chunks) -> Chunks:
    changed = base.copy()
    changed[STORED] = np.random.default_rng(2).integers(0, 256, (len(STORED), CHUNK_BYTES), dtype=np.uint8)
    changed[ZERO] = 0
    return changed


@contextmanager
def shown(view: Qcow2View, target: Chunks, socket: Path, asked: list[int]) -> Iterator[str]:
    """The file as an NBD export; its URI. ``asked`` gets the chunks of the disk that are looked up."""

    def chunks(numbers: Numbers) -> Chunks:
        asked.extend(numbers.tolist())
        return target[np.minimum(numbers, CHUNKS - 1)]

    server = NbdServer(
        socket, view.file_bytes, lambda at, size: memoryview(view.read(at, size, chunks)).cast("B"), name="layer"
    )
    try:
        yield server.uri
    finally:
        server.close()


def test_qemu_reads_the_target_through_it(table: ChunkTable, base: Chunks, target: Chunks, tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(base.tobytes())
    view = Qcow2View(tmp_path / "layer", table, CHUNKS)
    asked: list[int] = []
    with shown(view, target, tmp_path / "nbd.sock", asked):
        layer = {
            "driver": "qcow2",
            "file": {
                "driver": "nbd",
                "server": {"type": "unix", "path": str(tmp_path / "nbd.sock")},
                "export": "layer",
            },
            "backing": {"driver": "raw", "file": {"driver": "file", "filename": str(tmp_path / "base.raw")}},
        }
        out = tmp_path / "out.raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", f"json:{json.dumps(layer)}", str(out)], check=True)
        assert out.read_bytes() == target.tobytes()
        done = subprocess.run(
            ["qemu-img", "map", "--output=json", f"json:{json.dumps(layer)}"], check=True, capture_output=True
        )
    view.close()
    # The layer itself tells the clusters that it changes, and no other.
    own = {
        extent["start"] // (CLUSTER_CHUNKS * CHUNK_BYTES) for extent in json.loads(done.stdout) if not extent["depth"]
    }
    assert own == {0, 1, 2, 5}
    assert not set(asked) & set(ZERO[1:]), "a whole cluster of zeros has no data to be looked up"
    assert set(STORED) <= set(asked)


def test_the_tables_take_no_room_for_data(table: ChunkTable, tmp_path: Path) -> None:
    view = Qcow2View(tmp_path / "layer", table, CHUNKS)
    view.close()
    status = (tmp_path / "layer").stat()
    assert status.st_size >= 3 * CLUSTER_CHUNKS * CHUNK_BYTES
    assert status.st_blocks * 512 < status.st_size - 2 * CLUSTER_CHUNKS * CHUNK_BYTES
    assert list(tmp_path.iterdir()) == [tmp_path / "layer"]
