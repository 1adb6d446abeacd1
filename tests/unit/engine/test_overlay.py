# SPDX-License-Identifier: Apache-2.0
"""Overlays: written, read back, reordered; whatever base and target are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks
from cloudlet_ext.engine.errors import Malformed, OutputExists, WrongBase, WrongLayout
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.manifest import DISK, MEMORY, WORKING_SET
from cloudlet_ext.engine.overlay_writer import reorder_overlay


@pytest.mark.parametrize("level", [1, 3, 8, 19, "auto"])
def test_an_overlay_gives_the_target(sample, tmp_path: Path, level: int | str) -> None:
    summary = sample.write(tmp_path / "overlay", level=level)
    with sample.open(tmp_path / "overlay").container.source:
        overlay = sample.open(tmp_path / "overlay")
        assert (sample.applied(overlay) == sample.target).all()
        assert overlay.load_device() == b"device state of the target " * 50
        assert overlay.machine["cpu"] == "Nehalem"
        assert overlay.layout == sample.layout
        assert overlay.overlay_id == summary.overlay_id
        assert overlay.file_bytes == summary.file_bytes == (tmp_path / "overlay").stat().st_size
        assert len(overlay.load_order()) == 0
        overlay.verify(sample.base)
        overlay.verify(None)
    assert [path.name for path in tmp_path.iterdir()] == ["overlay"]


def test_segments_stand_in_the_order_of_need(sample, tmp_path: Path) -> None:
    disk = sample.layout.disk_chunks
    order = np.array([disk + 400, 65, 5, disk + 105, disk + 401, 61], dtype=np.int64)
    sample.write(tmp_path / "overlay", order=order)
    overlay = sample.open(tmp_path / "overlay")
    assert overlay.load_order().tolist() == order.tolist()
    sections = [segment.section for segment in overlay.chunk_segments]
    assert sections == sorted(sections, key=(WORKING_SET, DISK, MEMORY).index)
    table = overlay.load_table()
    # Chunk 5 is unchanged and has no slot; 65 and disk + 105 are the same content.
    _, slots = table.lookup(np.array([disk + 400, 65, disk + 401, 61]))
    assert slots.tolist() == [0, 1, 2, 3]
    _, slots = table.lookup(np.array([disk + 105]))
    assert slots.tolist() == [1]
    working, *rest = overlay.chunk_segments
    assert (working.section, working.slots) == (WORKING_SET, 4)
    for segment in rest:
        homes = table.homes.of(np.arange(segment.first_slot, segment.first_slot + segment.slots))
        # Memory that resembles something on the disk stands beside it; nothing of the disk is among the memory.
        if segment.section == MEMORY:
            assert (homes >= disk).all()
        assert (np.diff(homes[homes < disk]) > 0).all() or segment.section == DISK
    assert (sample.applied(overlay) == sample.target).all()


def test_a_working_set_is_merged_and_the_target_stays(sample, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    sample.write(first, order=np.array([450, 61], dtype=np.int64))
    overlay = sample.open(first)
    orders = [np.array([700, 61], dtype=np.int64), np.array([810], dtype=np.int64)]
    reorder_overlay(overlay, sample.base, orders, second, second.parent)
    again = sample.open(second)
    assert again.load_order().tolist() == [450, 700, 810, 61]
    assert (sample.applied(again) == sample.target).all()
    assert again.load_device() == overlay.load_device()
    assert again.machine == overlay.machine
    again.verify(sample.base)
    with pytest.raises(OutputExists):
        reorder_overlay(overlay, sample.base, [], second, second.parent)
    reorder_overlay(again, sample.base, [], second, second.parent, replace=True)
    assert sample.open(second).load_order().tolist() == [450, 700, 810, 61]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_segments_are_large_where_the_smallest_file_is_asked_for(sample, tmp_path: Path) -> None:
    order = np.arange(700, 960)
    for level, most in ((9, [256, 256]), (10, [256, 1024])):
        sample.write(tmp_path / "overlay", level=level, order=order, replace=True)
        overlay = sample.open(tmp_path / "overlay")
        slots = [part.slots for part in overlay.chunk_segments if part.section == WORKING_SET]
        assert max(slots) == most[0] or sum(slots) <= most[0]
        for section in (DISK, MEMORY):
            slots = [part.slots for part in overlay.chunk_segments if part.section == section]
            assert len(slots) == -(-sum(slots) // most[1])
        assert (sample.applied(overlay) == sample.target).all()


def test_where_small_segments_would_be_too_many_they_are_large(
    make_sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout((Region("disk", "disk", 3), Region("ram", "memory", 700)))
    target = np.random.default_rng(5).integers(1, 256, (703, CHUNK_BYTES), dtype=np.uint8)
    one = make_sample(tmp_path / "base", layout, np.zeros_like(target), target)
    with one.base:
        for limit, sizes in ((300_000, [256, 256, 188]), (7, [700])):
            monkeypatch.setattr("cloudlet_ext.engine.overlay_writer.SEGMENTS_LIMIT", limit)
            one.write(tmp_path / "overlay", level=1, replace=True)
            overlay = one.open(tmp_path / "overlay")
            assert [part.slots for part in overlay.chunk_segments if part.section == MEMORY] == sizes
            assert (one.applied(overlay) == target).all()


def test_the_same_plan_gives_the_same_file(sample, tmp_path: Path) -> None:
    for name in ("one", "two"):
        sample.write(tmp_path / name, level=3)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_overlay_of_another_base_is_refused(sample, tmp_path: Path) -> None:
    sample.write(tmp_path / "overlay")
    overlay = sample.open(tmp_path / "overlay")
    overlay.check_base(sample.base.base_id)
    with pytest.raises(WrongBase) as caught:
        overlay.check_base("0" * 64)
    assert caught.value.expected == sample.base.base_id
    assert caught.value.found == "0" * 64


class Impostor:
    """A base that says it is another: same identity, other regions or machine."""

    def __init__(self, sample, layout: Layout, machine: dict[str, Any]) -> None:
        self.base_id: str = sample.base.base_id
        self.index = sample.base.index
        self.layout, self.machine = layout, machine
        self._base = sample.base

    def read(self, numbers) -> Chunks:
        return self._base.read(numbers)


def same_machine(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    if base != overlay:
        raise ValueError(f"{base} {overlay}")


def test_an_overlay_must_fit_the_regions_and_the_machine_of_its_base(sample, tmp_path: Path) -> None:
    sample.write(tmp_path / "overlay")
    overlay = sample.open(tmp_path / "overlay")
    overlay.check_fit(Impostor(sample, sample.layout, overlay.machine), same_machine)
    disk, ram, bios = sample.layout.regions
    for regions, number, found, expected in (
        ((disk, replace(ram, chunks=601), bios), 1, ram, "memory pc.ram of 601 chunks"),
        ((disk, replace(ram, name="ram"), bios), 1, ram, "memory ram of 600 chunks"),
        ((ram, bios), 0, disk, "memory pc.ram of 600 chunks"),
        ((disk, ram), 2, bios, "absent"),
        ((disk, ram, bios, Region("more", "memory", 1)), 3, "absent", "memory more of 1 chunks"),
    ):
        other = Impostor(sample, Layout(regions), overlay.machine)
        for check in (lambda base: overlay.check_fit(base, same_machine), overlay.verify):
            with pytest.raises(WrongLayout) as caught:
                check(other)
            assert (caught.value.place, caught.value.found) == (f"region {number}", str(found))
            assert caught.value.expected == expected
            assert f"is {found} in the overlay and {expected} in the base" in str(caught.value)
    with pytest.raises(ValueError, match="Nehalem"):
        overlay.check_fit(Impostor(sample, sample.layout, {"cpu": "another"}), same_machine)


class Altered:
    """The base with one bit changed in every chunk that is not zero."""

    def __init__(self, base) -> None:
        self._base = base

    def read(self, numbers) -> Chunks:
        chunks = self._base.read(numbers)
        chunks[:, 100] ^= (chunks[:, 0] > 0).astype(np.uint8)
        return chunks


def test_a_base_with_other_content_is_noticed(sample, tmp_path: Path) -> None:
    sample.write(tmp_path / "overlay")
    overlay = sample.open(tmp_path / "overlay")
    noticed = 0
    for segment in overlay.chunk_segments:
        stored = overlay.container.fetch(segment)
        right = overlay.unpack(segment, stored, sample.base)
        try:
            # Where nothing of the base was used, nothing can be wrong with it.
            assert overlay.unpack(segment, stored, Altered(sample.base)) == right
        except Malformed as error:
            assert error.place == segment.place
            noticed += 1
        if segment.prefix:
            with pytest.raises(Malformed, match="the base is needed"):
                overlay.unpack(segment, stored, None)
    assert noticed


PAGES = st.integers(0, 6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(PAGES, PAGES), min_size=1, max_size=24),
    st.lists(st.tuples(PAGES, PAGES), min_size=1, max_size=24),
    st.lists(st.integers(0, 47), unique=True, max_size=8),
    st.sampled_from([1, 3, 9]),
)
def test_any_base_and_target(make_sample, disk, memory, order, level) -> None:
    """Random regions of few different chunks, so that every kind of description occurs."""
    layout = Layout((Region("disk", "disk", len(disk)), Region("ram", "memory", len(memory))))
    pairs = np.array(disk + memory)
    tiles = np.random.default_rng(7).integers(0, 256, (7, CHUNK_BYTES), dtype=np.uint8)
    tiles[0] = 0
    tiles[6] = tiles[5]
    tiles[6, 77] ^= 255
    with TemporaryDirectory() as folder:
        one = make_sample(Path(folder) / "base", layout, tiles[pairs[:, 0]], tiles[pairs[:, 1]])
        with one.base:
            needed = np.array([number for number in order if number < len(pairs)], dtype=np.int64)
            one.write(Path(folder) / "overlay", order=needed, level=level)
            overlay = one.open(Path(folder) / "overlay")
            overlay.verify(one.base)
            assert (one.applied(overlay) == one.target).all()
            assert overlay.load_order().tolist() == needed.tolist()
