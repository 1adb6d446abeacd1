# SPDX-License-Identifier: Apache-2.0
"""Fetching from servers that go away, for a while or for good, and closing at any stage."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import (
    EngineError,
    FetchClosed,
    SourceChanged,
    SourceGaveUp,
    SourceNotFound,
)
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.http_source import HttpSource
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.source import SourcePolicy, open_source
from tests.unit.engine import faulty_server as faulty
from tests.unit.engine.faulty_server import FaultyServer
from tests.unit.engine.segment_file import HASTY, Overlay, assert_whole, make_overlay, unpack


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    return make_overlay(tmp_path / "overlay", 40)


@pytest.fixture
def server(overlay: Overlay) -> Iterator[FaultyServer]:
    with FaultyServer(overlay.path.parent) as running:
        yield running


@pytest.fixture
def store(overlay: Overlay, tmp_path: Path) -> Iterator[SlotStore]:
    with SlotStore(tmp_path, overlay.infos) as made:
        yield made


@pytest.fixture
def source(server: FaultyServer) -> Iterator[HttpSource]:
    with HttpSource(server.url("overlay"), SourcePolicy(timeout_s=0.5, patience=HASTY)) as opened:
        opened.read(0, 5000)
        server.seen.clear()
        yield opened


@dataclass
class Seen:
    """What the callbacks told."""

    stalls: list[int]
    recoveries: int = 0

    def stalled(self, error: Exception, attempt: int) -> None:
        self.stalls.append(attempt)

    def recovered(self) -> None:
        self.recoveries += 1


class TestOutages:
    def test_connections_that_break(
        self, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        dice = random.Random(3)

        def flaky(handler: faulty.FaultyHandler) -> bool:
            if dice.random() < 0.5:
                return False
            return faulty.cut(20_000 + dice.randrange(30_000))(handler)

        server.behaviour = flaky
        with Fetcher(source, overlay.infos, store, unpack, patience=Patience(attempts=50)) as fetcher:
            assert fetcher.wait_all(30)
        assert_whole(store, overlay)

    def test_server_that_comes_back(
        self, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        seen, patience = Seen([]), replace(HASTY, attempts=100)
        server.behaviour = faulty.status(503)
        with Fetcher(
            source, overlay.infos, store, unpack, patience=patience, on_stall=seen.stalled, on_recover=seen.recovered
        ) as fetcher:
            while len(seen.stalls) < 5:
                time.sleep(0.01)
            assert fetcher.is_stalled
            server.behaviour = faulty.well
            assert fetcher.wait_all(10)
            assert not fetcher.is_stalled
        assert seen.stalls == list(range(1, len(seen.stalls) + 1))
        assert seen.recoveries == 1
        assert_whole(store, overlay)

    def test_one_attempt_at_a_time_during_an_outage(
        self, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        seen = Seen([])
        server.behaviour = faulty.status(503)
        with (
            Fetcher(source, overlay.infos, store, unpack, patience=HASTY, on_stall=seen.stalled) as fetcher,
            pytest.raises(SourceGaveUp),
        ):
            fetcher.wait_all(10)
        assert seen.stalls == [1, 2, 3]
        # All connections ran into it once, and then one tried three times.
        assert len(server.seen) <= 6 + 3

    @pytest.mark.parametrize("behaviour", [faulty.cut(0), faulty.silent, faulty.silent_body, faulty.drip_header])
    def test_gives_up(
        self,
        behaviour: faulty.Behaviour,
        overlay: Overlay,
        store: SlotStore,
        source: HttpSource,
        server: FaultyServer,
    ) -> None:
        server.behaviour = faulty.after(1_000_000, behaviour)
        start = time.monotonic()
        with Fetcher(source, overlay.infos, store, unpack, patience=HASTY) as fetcher:
            with pytest.raises(SourceGaveUp) as caught:
                fetcher.wait_all(20)
            assert fetcher.failed is caught.value
            assert store.arrivals
        assert time.monotonic() - start < 10
        assert caught.value.cause is not None

    @pytest.mark.parametrize(
        ("behaviour", "error"),
        [(faulty.status(404), SourceNotFound), (faulty.changed(ETag='"other"'), SourceChanged)],
    )
    def test_what_will_not_pass_ends_it_at_once(
        self,
        behaviour: faulty.Behaviour,
        error: type[EngineError],
        overlay: Overlay,
        store: SlotStore,
        source: HttpSource,
        server: FaultyServer,
    ) -> None:
        server.behaviour = faulty.after(1_000_000, behaviour)
        with Fetcher(source, overlay.infos, store, unpack) as fetcher, pytest.raises(error):
            fetcher.wait_all(10)


class TestClosing:
    @pytest.mark.parametrize(
        "behaviour",
        [faulty.well, faulty.silent, faulty.silent_body, faulty.drip_header, faulty.status(503), faulty.cut(0)],
    )
    @pytest.mark.parametrize("delay_s", [0, 0.05, 0.3])
    def test_at_any_stage(
        self,
        behaviour: faulty.Behaviour,
        delay_s: float,
        overlay: Overlay,
        store: SlotStore,
        source: HttpSource,
        server: FaultyServer,
    ) -> None:
        server.behaviour = behaviour
        before = set(threading.enumerate())
        patient = Patience(attempts=1000, first_delay_s=5)
        fetcher = Fetcher(source, overlay.infos, store, unpack, patience=patient)
        fetcher.start()
        time.sleep(delay_s)
        assert_ends(fetcher.close)
        left = {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("Thread-")}
        assert not left, "only threads of the server may go on"

    def test_while_others_wait(
        self, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        server.behaviour = faulty.silent
        fetcher = Fetcher(source, overlay.infos, store, unpack)
        fetcher.start()
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(fetcher.wait, [3]), pool.submit(fetcher.wait_all)]
            time.sleep(0.1)
            assert_ends(fetcher.close)
            for one in waiting:
                with pytest.raises(FetchClosed):
                    one.result(5)

    def test_twice_or_before_the_start(self, overlay: Overlay, store: SlotStore) -> None:
        fetcher = Fetcher(open_source(str(overlay.path)), overlay.infos, store, unpack)
        fetcher.close()
        fetcher.close()

    def test_content_that_is_here_stays(self, overlay: Overlay, store: SlotStore) -> None:
        with Fetcher(open_source(str(overlay.path)), overlay.infos, store, unpack) as fetcher:
            fetcher.wait_all(10)
        assert fetcher.wait_all()
        assert_whole(store, overlay)


def assert_ends(close: Callable[[], None]) -> None:
    start = time.monotonic()
    close()
    assert time.monotonic() - start < 1
