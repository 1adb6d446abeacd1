# SPDX-License-Identifier: Apache-2.0
"""Slots by number, as far as they have arrived."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.errors import DiskFull, FetchClosed
from cloudlet_ext.engine.manifest import SegmentInfo
from cloudlet_ext.engine.slot_store import SlotStore

SLOTS = (256, 100, 1, 256)
"""Of segments 3, 4, 5, 6."""


def infos() -> list[SegmentInfo]:
    first = [sum(SLOTS[:index]) for index in range(len(SLOTS))]
    return [
        SegmentInfo(index + 3, "chunks", "disk", 0, 1, slots * CHUNK_BYTES, b"", first[index], slots, False)
        for index, slots in enumerate(SLOTS)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SlotStore]:
    with SlotStore(tmp_path, infos()) as made:
        yield made


def test_content_by_slot(store: SlotStore) -> None:
    contents = {info.number: os.urandom(info.bytes) for info in infos()}
    for number in (5, 3, 6, 4):
        store.put(number, contents[number])
    whole = b"".join(contents[number] for number in (3, 4, 5, 6))
    slots = np.array([612, 0, 255, 256, 356, 0], dtype=np.int64)
    read = store.read(slots)
    assert read.shape == (6, CHUNK_BYTES)
    for slot, chunk in zip(slots.tolist(), read, strict=True):
        assert chunk.tobytes() == whole[slot * CHUNK_BYTES : (slot + 1) * CHUNK_BYTES]
    assert store.arrivals == [5, 3, 6, 4]


def test_what_is_here(store: SlotStore) -> None:
    slots = np.array([0, 255, 256, 355, 356, 357], dtype=np.int64)
    assert store.segment_of(slots).tolist() == [3, 3, 4, 4, 5, 6]
    store.put(4, bytes(100 * CHUNK_BYTES))
    assert store.ready(slots).tolist() == [False, False, True, True, False, False]
    assert store.arrived[[3, 4, 5, 6]].tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="before it has arrived"):
        store.read(slots)


def test_no_segments(tmp_path: Path) -> None:
    with SlotStore(tmp_path, []) as store:
        assert store.wait([])
        assert store.read(np.empty(0, dtype=np.int64)).shape == (0, CHUNK_BYTES)
        assert store.is_complete


def test_wrong_size(store: SlotStore) -> None:
    with pytest.raises(ValueError, match="256 slots"):
        store.put(3, b"x")
    assert not store.arrived.any()


def test_waiting(store: SlotStore) -> None:
    assert not store.wait([5], timeout_s=0.05)
    with ThreadPoolExecutor(2) as pool:
        both, first = pool.submit(store.wait, [5, 4]), pool.submit(store.wait, [4])
        store.put(4, bytes(100 * CHUNK_BYTES))
        assert first.result(5)
        assert not both.done()
        store.put(5, bytes(CHUNK_BYTES))
        assert both.result(5)
    assert store.arrivals == [4, 5]
    assert not store.is_complete


def test_runs_are_divided_where_segments_meet(store: SlotStore) -> None:
    run, place, counts, segments = store.divide(np.array([300, 0, 356]), np.array([57, 10, 1]))
    assert run.tolist() == [0, 0, 1, 2]
    assert place.tolist() == [0, 56, 0, 0]
    assert counts.tolist() == [56, 1, 10, 1]
    assert segments.tolist() == [4, 5, 3, 5]
    assert store.spanned(np.array([0, 255]), np.array([256, 103])).tolist() == [1, 4]


def test_failure_reaches_whoever_waits(store: SlotStore) -> None:
    store.put(5, bytes(CHUNK_BYTES))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(store.wait, [4]), pool.submit(store.wait, [3])]
        time.sleep(0.05)
        store.fail(FetchClosed(source="here"))
        store.fail(ValueError("a later one does not replace it"))
        for one in waiting:
            with pytest.raises(FetchClosed):
                one.result(5)
    assert store.wait([5])


def test_nothing_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with SlotStore(tmp_path, infos()) as store:
        assert os.listdir(tmp_path) == []
        store.put(3, bytes(256 * CHUNK_BYTES))
        store.read(np.arange(256))
    assert len(os.listdir("/proc/self/fd")) == before


def test_full_disk() -> None:
    """/dev/full stands for a disk without room."""
    with SlotStore(Path("/tmp"), infos()) as store, open("/dev/full", "r+b", buffering=0) as full:
        own, store._file = store._file, full
        with pytest.raises(DiskFull) as caught:
            store.put(3, bytes(256 * CHUNK_BYTES))
        store._file = own
    assert caught.value.exit_code == 8


def test_many_threads(store: SlotStore) -> None:
    contents = {info.number: os.urandom(info.bytes) for info in infos()}
    whole = np.frombuffer(b"".join(contents[number] for number in (3, 4, 5, 6)), dtype=np.uint8)
    slots = np.arange(sum(SLOTS))
    ended = threading.Event()

    def look() -> bool:
        while not ended.is_set():
            here = slots[store.ready(slots)]
            if (store.read(here).ravel() != whole.reshape(-1, CHUNK_BYTES)[here].ravel()).any():
                return False
        return True

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        for _ in range(20):
            for number, content in contents.items():
                store.put(number, content)
        ended.set()
        assert all(one.result(5) for one in looking)
