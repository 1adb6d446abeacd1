# SPDX-License-Identifier: Apache-2.0
"""Fetching segments from files and from web servers that fail in every way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.errors import (
    Damaged,
    Malformed,
    ShortRead,
)
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.http_source import HttpSource
from cloudlet_ext.engine.manifest import SegmentInfo
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


class TestFetching:
    def test_from_a_file(self, overlay: Overlay, store: SlotStore) -> None:
        arrivals: list[int] = []
        source = open_source(str(overlay.path))
        with Fetcher(source, overlay.infos, store, unpack, on_arrival=arrivals.append) as fetcher:
            assert fetcher.wait_all(10)
            assert fetcher.is_complete
            assert fetcher.bytes_fetched == sum(info.stored_bytes for info in overlay.infos)
            assert fetcher.segments_done == 40
            assert fetcher.failed is None
        assert_whole(store, overlay)
        assert sorted(arrivals) == sorted(store.arrivals)

    def test_from_a_server(self, overlay: Overlay, store: SlotStore, source: HttpSource) -> None:
        with Fetcher(source, overlay.infos, store, unpack) as fetcher:
            assert fetcher.wait_all(10)
        assert_whole(store, overlay)

    @pytest.mark.parametrize("connections", [1, 2, 10])
    def test_connections(
        self, connections: int, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        with Fetcher(source, overlay.infos, store, unpack, connections=connections) as fetcher:
            fetcher.want([30])
            assert fetcher.wait_all(10)
        assert_whole(store, overlay)
        assert len({seen.connection for seen in server.seen}) <= connections

    def test_any_order_of_segments_and_no_segment(self, overlay: Overlay, store: SlotStore, tmp_path: Path) -> None:
        with Fetcher(open_source(str(overlay.path)), overlay.infos[::-1], store, unpack) as fetcher:
            assert fetcher.wait_all(10)
        assert_whole(store, overlay)
        with (
            SlotStore(tmp_path, []) as empty,
            Fetcher(open_source(str(overlay.path)), [], empty, unpack) as fetcher,
        ):
            assert fetcher.wait_all(1)
            assert fetcher.is_complete

    def test_wanted_ones_overtake(self, overlay: Overlay, store: SlotStore, source: HttpSource) -> None:
        open_gate = threading.Event()

        def gated(segment: SegmentInfo, stored: bytes) -> bytes:
            open_gate.wait(10)
            return unpack(segment, stored)

        fetcher = Fetcher(source, overlay.infos, store, gated)
        with SlowLane(source), fetcher:
            fetcher.want([41, 35])
            open_gate.set()
            assert fetcher.wait([41, 35], 10)
            assert len(store.arrivals) < 30
            assert fetcher.wait_all(10)
        assert_whole(store, overlay)

    def test_waits_with_a_timeout(
        self, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        server.behaviour = faulty.silent
        with Fetcher(source, overlay.infos, store, unpack) as fetcher:
            assert not fetcher.wait([5], 0.1)

    def test_memory_is_bounded_when_unpacking_is_slow(self, overlay: Overlay, tmp_path: Path) -> None:
        """The link is held back: no more is taken in than may be held."""
        size = 1 << 20
        path = tmp_path / "large"
        with path.open("wb") as file:
            file.truncate(200 * size)
        zero = digest(bytes(size))
        infos = [
            SegmentInfo(index, "chunks", "disk", index * size, size, size, zero, index * 256, 256, False)
            for index in range(200)
        ]
        gate = threading.Event()

        def gated(segment: SegmentInfo, stored: bytes) -> bytes:
            gate.wait(10)
            return bytes(stored)

        with (
            SlotStore(tmp_path, infos) as store,
            Fetcher(open_source(str(path)), infos, store, gated) as fetcher,
        ):
            time.sleep(0.3)
            assert fetcher.bytes_fetched <= 16 << 20
            gate.set()
            assert fetcher.wait_all(20)


class SlowLane:
    """Makes a source slow, as a thin link would."""

    def __init__(self, source: HttpSource) -> None:
        self._source = source
        self._attempt = source.attempt

    def __enter__(self) -> None:
        def slow(offset: int, length: int) -> Iterator[bytes]:
            for piece in self._attempt(offset, length):
                time.sleep(0.02)
                yield piece

        self._source.attempt = slow  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self._source.attempt = self._attempt  # type: ignore[method-assign]


class TestBadFiles:
    def test_segments_that_overlap_or_do_not_fit(self, overlay: Overlay, store: SlotStore) -> None:
        source = open_source(str(overlay.path))
        last = overlay.infos[-1]
        overlapping = [*overlay.infos[:-1], last._replace(offset=last.offset - 1)]
        for infos, error in (
            (overlapping, Malformed),
            ([last._replace(stored_bytes=0)], Malformed),
            ([last._replace(stored_bytes=1 << 30)], Malformed),
            ([last._replace(offset=-1)], Malformed),
            ([last._replace(offset=last.offset + 1)], ShortRead),
        ):
            with pytest.raises(error):
                Fetcher(source, infos, store, unpack)
        source.close()

    def test_damaged_segment(self, overlay: Overlay, store: SlotStore) -> None:
        with overlay.path.open("r+b") as file:
            file.seek(overlay.infos[20].offset)
            byte = file.read(1)[0]
            file.seek(overlay.infos[20].offset)
            file.write(bytes([byte ^ 1]))
        with Fetcher(open_source(str(overlay.path)), overlay.infos, store, unpack) as fetcher:
            with pytest.raises(Damaged, match=r"segment 22") as caught:
                fetcher.wait_all(10)
            assert fetcher.failed is caught.value
            with pytest.raises(Damaged):
                fetcher.wait([22], 10)
        assert not store.arrived[22]

    def test_damaged_on_its_way(
        self, overlay: Overlay, store: SlotStore, source: HttpSource, server: FaultyServer
    ) -> None:
        def damage(handler: faulty.FaultyHandler) -> bool:
            body = handler.part_header()
            handler.wfile.write(bytes(byte ^ 1 for byte in body))
            return True

        server.behaviour = faulty.times(2, damage)
        with Fetcher(source, overlay.infos, store, unpack) as fetcher:
            assert fetcher.wait_all(10)
        assert_whole(store, overlay)

    def test_content_of_another_size(self, overlay: Overlay, store: SlotStore) -> None:
        with (
            Fetcher(open_source(str(overlay.path)), overlay.infos, store, lambda segment, stored: b"short") as fetcher,
            pytest.raises(Malformed, match="unpacks to 5 bytes"),
        ):
            fetcher.wait_all(10)

    def test_unexpected_error_reaches_whoever_waits(
        self, overlay: Overlay, store: SlotStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(segment: SegmentInfo, stored: bytes) -> bytes:
            raise ZeroDivisionError

        with (
            Fetcher(open_source(str(overlay.path)), overlay.infos, store, broken) as fetcher,
            pytest.raises(ZeroDivisionError),
        ):
            fetcher.wait_all(10)
        assert "unexpected error" in caplog.text

    def test_file_that_shrinks(self, overlay: Overlay, store: SlotStore) -> None:
        source = open_source(str(overlay.path))
        fetcher = Fetcher(source, overlay.infos, store, unpack)
        with overlay.path.open("r+b") as file:
            file.truncate(overlay.infos[20].offset + 1)
        with fetcher, pytest.raises(ShortRead):
            fetcher.wait_all(10)
