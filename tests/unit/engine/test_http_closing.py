# SPDX-License-Identifier: Apache-2.0
"""A source that is closed ends what it does, at any stage."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import SourceClosed
from cloudlet_ext.engine.http_source import HttpSource
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.source_policy import SourcePolicy
from tests.unit.engine import faulty_server as faulty
from tests.unit.engine.faulty_server import FaultyServer, make_file


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    make_file(tmp_path / "file", 300_000)
    with FaultyServer(tmp_path) as running:
        yield running


def assert_closes(source: HttpSource, has_begun: Callable[[], bool]) -> None:
    """A transfer that is under way ends soon after close(), and so do all threads."""
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.read, 0, 100_000)
        while not has_begun():
            time.sleep(0.01)
        time.sleep(0.2)
        assert not reading.done()
        start = time.monotonic()
        source.close()
        with pytest.raises(SourceClosed):
            reading.result(5)
        assert time.monotonic() - start < 1
    left = {thread.name for thread in set(threading.enumerate()) - before if "source" in thread.name}
    assert not left


class TestClosing:
    @pytest.mark.parametrize("behaviour", [faulty.silent, faulty.silent_body, faulty.drip_header, faulty.status(503)])
    def test_ends_a_transfer(self, behaviour: faulty.Behaviour, server: FaultyServer) -> None:
        server.behaviour = behaviour
        policy = SourcePolicy(patience=Patience(attempts=100, first_delay_s=5))
        assert_closes(HttpSource(server.url("file"), policy), lambda: bool(server.seen))

    def test_ends_connecting(self) -> None:
        # A listener whose queue is full does not answer a new connection at all.
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            waiting = [socket.socket() for _ in range(3)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            time.sleep(0.1)
            source = HttpSource(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
            assert_closes(source, lambda: True)
            for sock in waiting:
                sock.close()

    def test_ends_a_tls_handshake(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            source = HttpSource(f"https://127.0.0.1:{listener.getsockname()[1]}/x")
            assert_closes(source, lambda: True)

    def test_twice_and_use_after(self, server: FaultyServer) -> None:
        source = HttpSource(server.url("file"))
        source.read(0, 100_000)
        source.close()
        source.close()
        with pytest.raises(SourceClosed):
            source.read(100_000, 100_000)
