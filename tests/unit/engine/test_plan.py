# SPDX-License-Identifier: Apache-2.0
"""The plan: which description each changed chunk gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers, is_zero
from cloudlet_ext.engine.digest import chunk_digests
from cloudlet_ext.engine.index import DigestIndex
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.plan import Changes, plan_overlay
from cloudlet_ext.engine.qcow2 import Qcow2Image, Qcow2Layers, Qcow2Writer
from cloudlet_ext.engine.statistics import ChunkClass, class_counts
from cloudlet_ext.engine.table import ChunkKind


class Reader:
    """An array as a reader that keeps count."""

    def __init__(self, chunks: Chunks) -> None:
        self.chunks = chunks
        self.asked: list[int] = []

    def read(self, numbers: Numbers) -> Chunks:
        self.asked.extend(numbers.tolist())
        return self.chunks[numbers]


NOTHING = Changes(np.empty(0, dtype=np.int64), np.empty(0, dtype=bool), Reader(np.empty((0, 4096), np.uint8)))


def test_every_chunk_gets_the_first_description_that_fits(sample, tmp_path: Path) -> None:
    with sample.plan(tmp_path) as plan:
        kinds, sources = plan.table.lookup(np.arange(sample.layout.total_chunks))
    base, target = sample.content, sample.target
    same = (base == target).all(axis=1)
    zero = is_zero(target)
    known = {chunk.tobytes() for chunk in base}
    for number in range(sample.layout.total_chunks):
        kind = kinds[number]
        if same[number]:
            assert kind == ChunkKind.UNCHANGED
        elif zero[number]:
            assert kind == ChunkKind.ZERO
        elif target[number].tobytes() in known:
            assert kind == ChunkKind.BASE
            assert (base[sources[number]] == target[number]).all()
        else:
            assert kind == ChunkKind.STORED
            assert (plan.slots.slots > sources[number]) and sources[number] >= 0


def test_equal_chunks_share_a_slot(sample, tmp_path: Path) -> None:
    with sample.plan(tmp_path) as plan:
        numbers, _, slots = plan.table.expand(ChunkKind.STORED)
        assert plan.slots.slots == len({chunk.tobytes() for chunk in sample.target[numbers]})
        assert (plan.slots.read(slots) == sample.target[numbers]).all()
        statistics = plan.statistics
        single = class_counts(plan.table, sample.layout, np.arange(sample.layout.total_chunks + 1))
    assert statistics.same_overlay == len(numbers) - plan.slots.slots >= 30
    assert statistics.stored == plan.slots.slots
    assert (single.sum(axis=1) == 1).all()
    classes = single.argmax(axis=1)
    assert single.sum(axis=0).tolist() == [
        statistics.unchanged,
        statistics.zero,
        statistics.base_memory,
        statistics.base_disk,
        statistics.same_overlay,
        statistics.stored,
    ]
    assert (classes[60:90] == ChunkClass.STORED).all()
    assert (classes[500:530] == ChunkClass.SAME_OVERLAY).all()


def test_zero_chunks_are_not_read(sample, tmp_path: Path) -> None:
    zero = is_zero(sample.target)
    numbers = np.arange(sample.layout.total_chunks)
    reader = Reader(sample.target)
    with plan_overlay(sample.base, Changes(numbers, zero, reader), NOTHING, tmp_path) as plan:
        assert set(reader.asked) == set(np.flatnonzero(~zero).tolist())
        count = plan.table.count(ChunkKind.ZERO)
    assert count == int((zero & ~is_zero(sample.content)).sum())


def test_the_unchanged_base_needs_nothing(sample, tmp_path: Path) -> None:
    numbers = np.arange(sample.layout.total_chunks)
    changes = Changes(numbers, np.zeros(len(numbers), dtype=bool), Reader(sample.content))
    with plan_overlay(sample.base, changes, NOTHING, tmp_path) as plan:
        assert (plan.table.entries, plan.slots.slots) == (0, 0)
    with plan_overlay(sample.base, NOTHING, NOTHING, tmp_path) as plan:
        assert (plan.table.entries, plan.slots.slots) == (0, 0)


class Forgetful:
    """A base whose index points to chunks that hold something else."""

    def __init__(self, sample) -> None:
        self._base = sample.base
        right = sample.base.index
        self.index = DigestIndex(
            right.disk_chunks, right.total_chunks, right.numbers, np.roll(right.digests, 1, axis=0)
        )
        self.base_id: str = sample.base.base_id
        self.layout: Layout = sample.layout

    def read(self, numbers: Numbers) -> Chunks:
        return self._base.read(numbers)


def test_a_wrong_index_makes_no_wrong_overlay(sample, tmp_path: Path) -> None:
    numbers = np.arange(sample.layout.total_chunks)
    changes = Changes(numbers, np.zeros(len(numbers), dtype=bool), Reader(sample.target))
    with plan_overlay(Forgetful(sample), changes, NOTHING, tmp_path) as plan:
        chunks, _, sources = plan.table.expand(ChunkKind.BASE)
        assert (sample.content[sources] == sample.target[chunks]).all()
        chunks, _, slots = plan.table.expand(ChunkKind.STORED)
        assert (plan.slots.read(slots) == sample.target[chunks]).all()


def test_chunk_numbers_must_ascend(sample, tmp_path: Path) -> None:
    for numbers in ([3, 2], [3, 3]):
        changes = Changes(np.array(numbers), np.zeros(2, dtype=bool), Reader(sample.target))
        with pytest.raises(ValueError, match="ascend"):
            plan_overlay(sample.base, changes, NOTHING, tmp_path)
    disk = Changes(np.array([500]), np.zeros(1, dtype=bool), Reader(sample.target))
    memory = Changes(np.array([400]), np.zeros(1, dtype=bool), Reader(sample.target))
    with pytest.raises(ValueError, match="ascend"):
        plan_overlay(sample.base, disk, memory, tmp_path)


def test_layers_are_changes_as_they_are(sample, tmp_path: Path) -> None:
    """Without arrays as long as there are chunks."""
    disk_chunks = sample.layout.disk_chunks
    changed = np.flatnonzero((sample.content != sample.target).any(axis=1)[:disk_chunks])
    path = tmp_path / "layer"
    with Qcow2Writer.create(path, sample.layout.disk_bytes, "base", fill=sample.base) as writer:
        writer.write(changed, sample.target[changed])
    with Qcow2Image.open(path) as image:
        layers = Qcow2Layers([image])
        numbers, zero = layers.changed()
        assert layers.count == len(numbers) > len(changed)
        with (
            plan_overlay(sample.base, layers, NOTHING, tmp_path) as plan,
            plan_overlay(sample.base, Changes(numbers, zero, layers), NOTHING, tmp_path) as again,
        ):
            assert plan.table.encode() == again.table.encode()
            assert plan.table.lookup(changed)[0].all()
            assert plan.table.chunks == len(changed)


def test_progress_counts_all_bytes(sample, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    numbers = np.arange(sample.layout.total_chunks)
    changes = Changes(numbers, np.zeros(len(numbers), dtype=bool), Reader(sample.target))
    plan_overlay(sample.base, changes, NOTHING, tmp_path, lambda *pair: seen.append(pair)).close()
    total = sample.layout.total_chunks * CHUNK_BYTES
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_digests_are_of_single_chunks(sample) -> None:
    from blake3 import blake3

    digests = chunk_digests(sample.target[:5])
    assert [row.tobytes() for row in digests] == [blake3(chunk.tobytes()).digest(16) for chunk in sample.target[:5]]
