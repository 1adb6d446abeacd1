# SPDX-License-Identifier: Apache-2.0
"""The memory of a base, written from a capture."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.hypervisor.capture import CapturedMemory
from cloudlet_ext.hypervisor.stream import PAGE_BYTES, PAGE_RECORD, RamBlock
from cloudlet_ext.worker.base_creation import write_memory

PAGES = 40


def test_a_write_that_ends_early_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is nearly full."""
    stride = PAGE_RECORD.itemsize
    contents = np.random.default_rng(1).integers(0, 256, (PAGES, stride), dtype=np.uint8)
    data = mmap.mmap(-1, contents.size)
    data[:] = contents.tobytes()
    memory = CapturedMemory((RamBlock("pc.ram", PAGES * PAGE_BYTES),), np.arange(PAGES) * stride + 8, data)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, at: whole(fd, memoryview(content)[:1000], at))
    write_memory(memory, tmp_path / "memory")
    assert (tmp_path / "memory").read_bytes() == contents[:, 8:].tobytes()
