# SPDX-License-Identifier: Apache-2.0
"""A synthesised guest is the captured one, to the bit."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.hypervisor import migration
from cloudlet_ext.hypervisor.capture import CapturedMemory
from cloudlet_ext.worker import overlay_creation, synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.server import Server
from cloudlet_ext.worker.synthesis import SynthesisRequest
from tests.functional import guest as tools
from tests.functional.conftest import Start

# All ways in which a chunk of a disk can differ from the base, then memory's.
CHANGES = """
dd if=/dev/urandom of=/dev/vda bs=64k seek=700 count=20 conv=notrunc
dd if=/dev/urandom of=/dev/vda bs=4k seek=2100 count=3 conv=notrunc
dd if=/dev/zero of=/dev/vda bs=64k seek=140 count=3 conv=notrunc
dd if=/dev/zero of=/dev/vda bs=4k seek=2403 count=1 conv=notrunc
dd if=/dev/vda of=/dev/vda bs=64k skip=150 seek=600 count=8 conv=notrunc
blkdiscard -o 10485760 -l 1048576 /dev/vda
sync
head -c 3000000 /dev/urandom >/tmp/random
head -c 3000000 /dev/zero | tr '\\0' x >/tmp/alike
cp /tmp/random /tmp/again
rm /www/index.html
echo 3 >/proc/sys/vm/drop_caches
""".strip().splitlines()


@contextlib.contextmanager
def captured(home: Home, guest: Server) -> Iterator[CapturedMemory]:
    with migration.captured(guest.process, guest.monitor, home.scratch, lambda done, total: None) as capture:
        yield capture.memory


def generation(guest: Server, memory: np.ndarray) -> int:
    """Where the VM generation id is in the guest's memory: the one thing that each server has of its own there."""
    guid = uuid.UUID(str(tools.ask(guest, "query-vm-generation-id")["guid"])).bytes_le
    found = memory.tobytes().find(guid)
    assert found > 0
    return found


def compare_memory(one: Server, first: np.ndarray, other: Server, second: np.ndarray) -> None:
    """All of both is the same but for their generation ids, which are at the same place."""
    place = generation(one, first)
    assert generation(other, second) == place
    differing = np.flatnonzero(first != second)
    assert len(differing)
    elsewhere = differing[(differing < place) | (differing >= place + 16)]
    assert not len(elsewhere), f"{len(elsewhere)} bytes differ, the first at {elsewhere[:5]}"


def compare_regions(home: Home, one: Server, other: Server, place: int) -> None:
    """As a capture reads them: main memory but for ``place``, and the small blocks."""
    with captured(home, one) as first, captured(home, other) as second:
        assert first.blocks == second.blocks
        assert first.pages > 128 << 8
        for begin in range(0, first.pages, 4096):
            span = np.arange(begin, min(begin + 4096, first.pages))
            mine, its = first.read(span), second.read(span)
            if begin <= place >> 12 < begin + 4096:
                at = (place >> 12) - begin, slice(place & 4095, (place & 4095) + 16)
                mine[at] = its[at]
            differing = (mine != its).any(axis=1)
            assert not differing.any(), span[differing]


@pytest.fixture
def halted(home: Home, busybox: str, start: Start) -> Server:
    """A guest that stands still for good: Linux has halted its processor, which no interrupt wakes."""
    guest = start(busybox, "halted")
    for line in CHANGES:
        tools.run(guest, line)
    tools.type_line(guest, "halt -f")
    tools.wait_until("the guest halts", lambda: "System halted" in tools.console_text(guest))
    return guest


def test_every_region_is_the_same(home: Home, halted: Server, tmp_path: Path) -> None:
    memory = tools.physical_memory(halted, tmp_path / "halted")
    assert memory.any()
    path = tmp_path / "overlay"
    overlay_creation.create_overlay(home, "halted", path, keep="stopped", level=3, report=Report())
    assert tools.status(halted) == "postmigrate"
    for placement in ("mapped", "early"):
        synthesis.synthesize(home, SynthesisRequest(str(path), placement, placement=placement), Report())
        with tools.loaded(home, placement) as guest:
            tools.ask(guest, "stop")
            compare_memory(halted, memory, guest, tools.physical_memory(guest, tmp_path / placement))
            compare_regions(home, halted, guest, generation(halted, memory))
            tools.compare_disks(halted, guest)


def test_a_second_generation_is_the_same(home: Home, halted: Server, tmp_path: Path) -> None:
    """An overlay of a synthesised server, whose disk has two layers of its own, describes the same machine."""
    first, second = tmp_path / "first", tmp_path / "second"
    overlay_creation.create_overlay(home, "halted", first, keep="running", level=1, report=Report())
    tools.ask(halted, "stop")
    synthesis.synthesize(home, SynthesisRequest(str(first), "first", placement="early"), Report())
    with tools.loaded(home, "first"):
        overlay_creation.create_overlay(home, "first", second, keep="deleted", level=1, report=Report())
    synthesis.synthesize(home, SynthesisRequest(str(second), "second", placement="mapped"), Report())
    with tools.loaded(home, "second") as guest:
        tools.ask(guest, "stop")
        one = tools.physical_memory(halted, tmp_path / "one")
        compare_memory(halted, one, guest, tools.physical_memory(guest, tmp_path / "other"))
        tools.compare_disks(halted, guest)
