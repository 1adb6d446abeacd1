# SPDX-License-Identifier: Apache-2.0
"""The virtual source of an ordinary migration; what it sends is what the parser of captures reads."""

from __future__ import annotations

import mmap
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.hypervisor.capture import StreamDrain, parse
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import ResumeFailed
from cloudlet_ext.hypervisor.resume import PageRun, connect, resume
from cloudlet_ext.hypervisor.stream import PAGE_BYTES, RamBlock

BLOCKS = (RamBlock("pc.ram", 600 * PAGE_BYTES), RamBlock("pc.bios", 4 * PAGE_BYTES))
STATE = DeviceState(b"\x07\0\0\0\x02pc", b"\x04 all devices")


def contents(pages: np.ndarray) -> np.ndarray:
    return np.repeat((pages % 251 + 1).astype(np.uint8)[:, None], PAGE_BYTES, axis=1)


def test_a_capture_reads_what_was_sent(tmp_path: Path) -> None:
    main, zero, rom = np.arange(3, 500), np.arange(501, 600, 2), np.arange(4)
    drain = StreamDrain(tmp_path / "incoming.sock", tmp_path)
    try:
        with connect(tmp_path / "incoming.sock") as connection:
            changes: list[PageRun] = [
                ("pc.ram", zero, None),
                ("pc.ram", main, contents(main)),
                ("pc.ram", main[:0], contents(main[:0])),
                ("pc.bios", rom, contents(rom)),
            ]
            sent = resume(connection, BLOCKS, STATE, changes)
        data = drain.finish(30)
        assert isinstance(data, mmap.mmap)
        assert len(data) == sent
        memory, state = parse(data, tmp_path)
    finally:
        drain.close()
    assert (memory.blocks, state) == (BLOCKS, STATE)
    ((numbers, is_zero),) = memory.sent()
    assert numbers.tolist() == sorted([*main, *zero, *(600 + rom)])
    assert numbers[is_zero].tolist() == zero.tolist()
    assert (memory.read(main) == contents(main)).all()
    assert (memory.read(600 + rom) == contents(rom)).all()


def endless() -> Iterator[PageRun]:
    pages = np.arange(256)
    while True:
        yield "pc.ram", pages, contents(pages)


@pytest.mark.parametrize("count", [0, 1, 1 << 20])
def test_a_qemu_that_leaves_is_an_error(count: int) -> None:
    mine, its = socket.socketpair()

    def read_and_leave() -> None:
        left = count
        while left > 0:
            left -= len(its.recv(min(left, 65536)))
        its.close()

    reader = threading.Thread(target=read_and_leave)
    reader.start()
    with mine, pytest.raises(ResumeFailed, match="QEMU stopped reading the stream"):
        resume(mine, BLOCKS, STATE, endless())
    reader.join()


def test_a_qemu_that_does_not_finish_is_an_error() -> None:
    mine, its = socket.socketpair()
    with mine, its:
        mine.settimeout(0.2)
        with pytest.raises(ResumeFailed, match="did not finish loading"):
            resume(mine, BLOCKS, STATE, [])
        with pytest.raises(ResumeFailed, match="stopped reading"):
            resume(mine, BLOCKS, STATE, endless())


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ResumeFailed, match=r"no connection to incoming\.sock"):
        connect(tmp_path / "incoming.sock")
