# SPDX-License-Identifier: Apache-2.0
"""What a capture tells of a base's memory."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.hypervisor.capture import CapturedMemory
from cloudlet_ext.hypervisor.errors import MachineMismatch
from cloudlet_ext.hypervisor.stream import RamBlock
from cloudlet_ext.worker.overlay_creation import MemoryChanges

LAYOUT = Layout(
    (
        Region("disk", "disk", 16),
        Region("pc.ram", "memory", 8),
        Region("0000:00:02.0/vga.vram", "memory", 4),
        Region("0000:00:03.0/virtio-net-pci.rom", "memory", 2),
        Region("pc.bios", "memory", 3),
    )
)


def captured(*blocks: tuple[str, int]) -> CapturedMemory:
    """Every page full of its own number, counted through the blocks."""
    pages = sum(count for _, count in blocks)
    data = mmap.mmap(-1, (pages + 1) * 4096)
    for page in range(pages):
        data[(page + 1) * 4096 : (page + 2) * 4096] = bytes([page]) * 4096
    where = np.arange(1, pages + 1, dtype=np.int64) * 4096
    return CapturedMemory(tuple(RamBlock(name, count * 4096) for name, count in blocks), where, data)


def numbers(changes: MemoryChanges) -> list[int]:
    return [int(number) for some, _ in changes.spans() for number in some]


def test_all_blocks_of_the_base() -> None:
    blocks = [(region.name, region.chunks) for region in LAYOUT.memory]
    changes = MemoryChanges(captured(*blocks), LAYOUT)
    assert numbers(changes) == list(range(16, 33))


def test_a_boot_rom_that_is_no_more_did_not_change() -> None:
    changes = MemoryChanges(captured(("pc.ram", 8), ("0000:00:02.0/vga.vram", 4), ("pc.bios", 3)), LAYOUT)
    assert numbers(changes) == [*range(16, 28), *range(30, 33)]
    assert changes.read(np.array([27, 30, 31]))[:, 0].tolist() == [11, 12, 13]


def test_a_boot_rom_that_the_base_has_not_is_left_out() -> None:
    blocks = [(region.name, region.chunks) for region in LAYOUT.memory]
    changes = MemoryChanges(captured(blocks[0], ("0000:00:04.0/virtio-net-pci.rom", 5), *blocks[1:]), LAYOUT)
    assert numbers(changes) == list(range(16, 33))
    assert changes.count == 17
    assert changes.read(np.array([16, 23, 24, 32]))[:, 0].tolist() == [0, 7, 13, 21]


@pytest.mark.parametrize(
    "blocks",
    [
        [("pc.ram", 8), ("0000:00:02.0/vga.vram", 4)],
        [("pc.ram", 4), ("0000:00:02.0/vga.vram", 4), ("pc.bios", 3)],
        [("pc.ram", 8), ("pc.bios", 3), ("0000:00:02.0/vga.vram", 4)],
        [("pc.ram", 8), ("0000:00:02.0/vga.vram", 4), ("0000:00:03.0/virtio-net-pci.rom", 4), ("pc.bios", 3)],
        [("pc.ram", 8), ("0000:00:02.0/vga.vram", 4), ("0000:00:04.0/virtio-net-pci.ram", 2), ("pc.bios", 3)],
    ],
)
def test_other_blocks_are_another_machine(blocks: list[tuple[str, int]]) -> None:
    with pytest.raises(MachineMismatch, match=r"pc\.ram"):
        MemoryChanges(captured(*blocks), LAYOUT)
