# SPDX-License-Identifier: Apache-2.0
"""Pages for QEMU, of a small base and an overlay of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.chunks import CHUNK_BYTES, is_zero
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.worker import pages
from cloudlet_ext.worker.early_start import Recorder
from tests.unit.engine.conftest import LAYOUT, Sample, base_content, make_base, target_content

FIRST = LAYOUT.disk_chunks
MEMORY = np.arange(LAYOUT.memory_chunks)


@dataclass
class Fetcher:
    """Notes what is wanted."""

    wanted: list[int] = field(default_factory=list)

    def want(self, numbers: Iterable[int]) -> None:
        self.wanted += numbers


@dataclass
class Arriving:
    """An overlay whose segments arrive when told."""

    sample: Sample
    overlay: OverlayFile
    store: SlotStore
    fetcher: Fetcher

    @property
    def view(self) -> TargetView:
        return TargetView(self.sample.base, self.overlay.load_table(), self.store)

    def supply(self, order: np.ndarray) -> pages.MemorySupply:
        table = self.overlay.load_table()
        return pages.MemorySupply(self.sample.base, table, self.view, self.store, self.fetcher, order)  # type: ignore[arg-type]

    def arrive(self, count: int | None = None) -> None:
        for segment in self.overlay.chunk_segments[:count]:
            stored = self.overlay.container.fetch(segment)
            self.store.put(segment.number, self.overlay.unpack(segment, stored, self.sample.base))


@pytest.fixture
def arriving(tmp_path: Path) -> Iterator[Arriving]:
    content = base_content(LAYOUT, seed=1)
    with make_base(tmp_path / "base", content, LAYOUT) as base:
        sample = Sample(base, content, target_content(content, LAYOUT, seed=2))
        sample.write(tmp_path / "overlay")
        overlay = sample.open(tmp_path / "overlay")
        with SlotStore(tmp_path, overlay.chunk_segments) as store:
            yield Arriving(sample, overlay, store, Fetcher())
        overlay.container.source.close()  # type: ignore[attr-defined]


def drained(supply: pages.MemorySupply, limit: int = 7) -> list[int]:
    """All that it pushes now."""
    given: list[int] = []
    while len(now := supply.push(limit)):
        assert len(now) <= limit
        assert supply.ready(now).all()
        given += now.tolist()
    return given


def test_everything_that_is_not_zero_is_pushed_once(arriving: Arriving) -> None:
    target = arriving.sample.target[FIRST:]
    supply = arriving.supply(np.empty(0, np.int64))
    here = drained(supply)
    assert not supply.exhausted()
    arriving.arrive(1)
    some = drained(supply)
    arriving.arrive()
    rest = drained(supply)
    assert supply.exhausted()
    given = here + some + rest
    assert here and some and rest
    assert len(given) == len(set(given))
    assert sorted(given) == np.flatnonzero(~is_zero(target)).tolist()
    assert (supply.contents(MEMORY) == target).all()
    assert (supply.zero(MEMORY) == is_zero(target)).all()


def test_the_small_blocks_and_the_working_set_go_first_and_the_rest_waits(arriving: Arriving) -> None:
    nothing_recorded = drained(arriving.supply(np.empty(0, np.int64)))
    small = [number for number in nothing_recorded if number >= LAYOUT.memory[0].chunks]
    assert small and nothing_recorded[: len(small)] == small
    needed = nothing_recorded[::9][::-1]
    order = np.array([5, *(number + FIRST for number in needed), 7])
    supply = arriving.supply(order)
    early = small + [number for number in needed if number not in small]
    assert drained(supply) == early
    assert not supply.exhausted()
    arriving.arrive()
    arrived = drained(supply)
    assert not set(arrived) & set(nothing_recorded)
    assert not supply.exhausted()
    supply.release()
    assert sorted(drained(supply)) == sorted(set(nothing_recorded) - set(early))
    assert supply.exhausted()


def test_what_is_wanted_is_fetched_by_segment(arriving: Arriving) -> None:
    supply = arriving.supply(np.empty(0, np.int64))
    missing = MEMORY[~supply.ready(MEMORY)]
    supply.want(missing[:1])
    assert len(arriving.fetcher.wanted) == 1
    supply.want(missing)
    segments = {segment.number for segment in arriving.overlay.chunk_segments}
    assert set(arriving.fetcher.wanted) <= segments
    arriving.arrive()
    assert supply.ready(MEMORY).all()


def applied(runs: Iterable[pages.PageRun], memory: np.ndarray) -> tuple[np.ndarray, int]:
    """What QEMU's memory is after the runs, and how many pages were sent."""
    starts = {region.name: LAYOUT.start(region.name) - FIRST for region in LAYOUT.memory}
    sent = 0
    for block, numbers, contents in runs:
        memory[starts[block] + numbers] = 0 if contents is None else contents
        sent += len(numbers)
    return memory, sent


def test_a_mapped_base_gets_what_differs_and_all_of_the_small_blocks(arriving: Arriving) -> None:
    arriving.arrive()
    small = LAYOUT.memory_chunks - LAYOUT.memory[0].chunks
    mapped = arriving.sample.content[FIRST:].copy()
    mapped[-small:] = 0x55
    target = arriving.sample.target[FIRST:]
    memory, sent = applied(pages.differing_pages(arriving.view, LAYOUT), mapped.copy())
    assert (memory == target).all()
    differing = (arriving.sample.content[FIRST:] != target).any(axis=1)
    assert sent == differing[:-small].sum() + small
    memory, sent = applied(pages.rom_pages(arriving.sample.base), mapped)
    assert (memory == arriving.sample.content[FIRST:]).all()
    assert sent == small


def test_blocks_are_the_regions_of_memory() -> None:
    blocks = pages.ram_blocks(LAYOUT)
    assert [(block.name, block.pages) for block in blocks] == [("pc.ram", 600), ("pc.bios", 24)]


def test_recorder_keeps_the_order_of_first_need() -> None:
    recorder = Recorder(disk_chunks=100)
    recorder.pages(np.array([7, 3]))
    recorder.disk(4096, 4096)
    recorder.disk(2 * CHUNK_BYTES - 1, 2)
    recorder.pages(np.array([3, 8]))
    recorder.recording = False
    recorder.pages(np.array([50]))
    assert recorder.order.tolist() == [107, 103, 1, 2, 108]
