# SPDX-License-Identifier: Apache-2.0
"""The drain, fed by sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor.capture import StreamDrain
from cloudlet_ext.hypervisor.errors import CaptureFailed
from cloudlet_ext.hypervisor.resume import connect

WAIT_S = 30.0


@pytest.fixture
def drain(tmp_path: Path) -> Iterator[StreamDrain]:
    drain = StreamDrain(tmp_path / "capture.sock", tmp_path)
    yield drain
    drain.close()
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "drain"]


def test_takes_everything_in_order(drain: StreamDrain, tmp_path: Path) -> None:
    sent = b"".join(bytes([number]) * (number * 1000 + 1) for number in range(256)) * 3
    with connect(tmp_path / "capture.sock") as sender:
        for begin in range(0, len(sent), 777_777):
            sender.sendall(sent[begin : begin + 777_777])
    data = drain.finish(WAIT_S)
    assert len(data) == drain.bytes_drained
    assert data[:] == sent


def test_reads_nothing_until_released(drain: StreamDrain, tmp_path: Path) -> None:
    drain.released.clear()
    with connect(tmp_path / "capture.sock") as sender:
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            while sender.send(bytes(65536)):
                pass
        assert drain.bytes_drained == 0
        drain.released.set()
        sender.settimeout(WAIT_S)
        sender.sendall(bytes(8 << 20))
    assert len(drain.finish(WAIT_S)) == drain.bytes_drained > 8 << 20


def test_nothing_sent_is_an_error(drain: StreamDrain, tmp_path: Path) -> None:
    connect(tmp_path / "capture.sock").close()
    with pytest.raises(CaptureFailed, match="QEMU sent nothing"):
        drain.finish(WAIT_S)


def test_a_stream_without_end_is_an_error(drain: StreamDrain, tmp_path: Path) -> None:
    with connect(tmp_path / "capture.sock") as sender:
        sender.sendall(b"QEVM")
        with pytest.raises(CaptureFailed, match=r"did not end within 0 s"):
            drain.finish(0.05)


def test_close_hangs_up(drain: StreamDrain, tmp_path: Path) -> None:
    drain.released.clear()
    with connect(tmp_path / "capture.sock") as sender:
        sender.settimeout(WAIT_S)
        drain.close()
        with pytest.raises(ConnectionError):
            while True:
                sender.sendall(bytes(65536))


def test_socket_may_have_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    drain = StreamDrain(folder / "capture.sock", folder)
    try:
        with connect(folder / "capture.sock") as sender:
            sender.sendall(b"hello")
        assert drain.finish(WAIT_S)[:] == b"hello"
    finally:
        drain.close()


def test_socket_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "capture.sock"))
        with pytest.raises(OSError, match="in use"):
            StreamDrain(tmp_path / "capture.sock", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["capture.sock"]
