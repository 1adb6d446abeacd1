# SPDX-License-Identifier: Apache-2.0
"""Reading from web servers, good and bad ones, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import (
    ShortRead,
    SourceChanged,
    SourceError,
    SourceGaveUp,
    SourceInterrupted,
    SourceNotFound,
    SourceRefused,
    SourceTooSlow,
    UnexpectedAnswer,
    WrongRange,
)
from cloudlet_ext.engine.http_source import HttpSource
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.source_policy import SourcePolicy
from tests.unit.engine import faulty_server as faulty
from tests.unit.engine.faulty_server import FaultyServer, make_file

SIZE = 300_000

QUICK = SourcePolicy(
    timeout_s=0.5, min_rate_bytes_per_s=10_000, patience=Patience(attempts=3, first_delay_s=0.01, give_up_s=5)
)


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return make_file(tmp_path / "file", SIZE)


@pytest.fixture
def server(tmp_path: Path, content: bytes) -> Iterator[FaultyServer]:
    with FaultyServer(tmp_path) as running:
        yield running


@pytest.fixture
def source(server: FaultyServer) -> Iterator[HttpSource]:
    with HttpSource(server.url("file"), QUICK) as opened:
        yield opened


class TestReading:
    def test_ranges(self, source: HttpSource, content: bytes) -> None:
        assert source.read(0, 100) == content[:100]
        assert source.size_bytes == SIZE
        assert source.read(250_000, 50_000) == content[250_000:]
        assert source.read(77, 200_000) == content[77:200_077]
        assert b"".join(source.stream(5, 100_000)) == content[5:100_005]
        assert source.read(SIZE, 0) == b""

    def test_one_connection_is_kept(self, source: HttpSource, server: FaultyServer) -> None:
        for offset in range(0, SIZE, 100_000):
            source.read(offset, 100_000)
        assert len(server.seen) == 3
        assert len({seen.connection for seen in server.seen}) == 1

    def test_small_reads_are_served_from_one_request(
        self, source: HttpSource, server: FaultyServer, content: bytes
    ) -> None:
        assert source.read(0, 256) == content[:256]
        assert source.read(256, 5000) == content[256:5256]
        assert source.read(5256, 60_000) == content[5256:65_256]
        assert source.read(65_256, 100_000) == content[65_256:165_256]
        assert [seen.first for seen in server.seen] == [0, 65_536]

    def test_file_shorter_than_what_is_read_ahead(self, tmp_path: Path, server: FaultyServer) -> None:
        small = make_file(tmp_path / "small", 1000)
        with HttpSource(server.url("small"), QUICK) as source:
            assert source.read(0, 256) == small[:256]
            assert source.read(256, 744) == small[256:]
            with pytest.raises(ShortRead) as caught:
                source.read(900, 200)
        assert (caught.value.size, caught.value.exit_code) == (1000, 3)

    def test_past_the_end(self, source: HttpSource) -> None:
        with pytest.raises(ShortRead):
            source.read(SIZE + 5, 10)
        source.read(0, 10)
        with pytest.raises(ShortRead):
            source.read(SIZE - 5, 10)

    def test_many_threads(self, source: HttpSource, content: bytes) -> None:
        def read(number: int) -> bool:
            offset = number * 997
            return source.read(offset, 50_000) == content[offset : offset + 50_000]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(100)))

    def test_warm_connections_are_used(self, source: HttpSource, server: FaultyServer) -> None:
        source.warm(1)
        deadline = time.monotonic() + 5
        while not source._idle and time.monotonic() < deadline:
            time.sleep(0.01)
        kept = source._idle[0]
        source.read(0, 10)
        assert source._idle == [kept]

    def test_secrets_are_not_shown(self, server: FaultyServer) -> None:
        policy = SourcePolicy(headers=(("X-Auth-Token", "secret"),))
        with HttpSource(server.url("file?signature=secret"), policy) as source:
            source.read(0, 10)
            assert source.describe() == server.url("file")
        assert server.seen[0].header["x-auth-token"] == "secret"
        assert "secret" not in repr(policy)

    @pytest.mark.parametrize("port", [1, None])
    def test_nobody_listens(self, port: int | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            free = listener.getsockname()[1]
        with (
            HttpSource(f"http://127.0.0.1:{port or free}/x", QUICK) as source,
            pytest.raises(SourceGaveUp, match="ECONNREFUSED") as caught,
        ):
            source.read(0, 10)
        assert caught.value.attempts == 3
        assert isinstance(caught.value.cause, SourceInterrupted)

    def test_unknown_host(self) -> None:
        with HttpSource("http://no-such-host.invalid/x", QUICK) as source, pytest.raises(SourceGaveUp):
            source.read(0, 10)


class TestPolicy:
    @pytest.mark.parametrize(
        "url",
        [
            "file:///etc/passwd",
            "ftp://127.0.0.1/x",
            "gopher://x/",
            "http:///x",
            "http://u:p@127.0.0.1/x",
            "http://a:b:c/",
        ],
    )
    def test_refused(self, url: str) -> None:
        with pytest.raises(SourceRefused):
            HttpSource(url)

    def test_host_not_listed(self) -> None:
        HttpSource("https://Glance.example/x", SourcePolicy(hosts=("glance.example",))).close()
        with pytest.raises(SourceRefused, match=r"other\.example"):
            HttpSource("https://other.example/x", SourcePolicy(hosts=("glance.example",)))

    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "localhost", "0.0.0.0", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]"]
    )
    def test_local_addresses(self, host: str, server: FaultyServer) -> None:
        port = server.server_address[1]
        with (
            HttpSource(f"http://{host}:{port}/file", SourcePolicy(local_allowed=False)) as source,
            pytest.raises(SourceRefused, match="loopback"),
        ):
            source.read(0, 10)
        assert not server.seen


class TestRedirects:
    def test_followed_and_remembered(self, source: HttpSource, server: FaultyServer, content: bytes) -> None:
        server.behaviour = faulty.redirect("/file?here")
        assert source.read(0, 100_000) == content[:100_000]
        assert source.read(100_000, 100_000) == content[100_000:200_000]
        assert [seen.path for seen in server.seen] == ["/file", "/file?here", "/file?here"]

    def test_target_that_expires(self, source: HttpSource, server: FaultyServer, content: bytes) -> None:
        server.behaviour = faulty.redirect("/file?1")
        source.read(0, 100_000)

        def behave(handler: faulty.FaultyHandler) -> bool:
            return (faulty.status(403) if handler.path == "/file?1" else faulty.redirect("/file?2"))(handler)

        server.behaviour = behave
        assert source.read(100_000, 100_000) == content[100_000:200_000]

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "", "http://", "//u:p@127.0.0.1/x"])
    def test_refused(self, target: str, source: HttpSource, server: FaultyServer) -> None:
        server.behaviour = faulty.status(302, f"Location: {target}")
        with pytest.raises(SourceRefused):
            source.read(0, 10)

    def test_loop(self, source: HttpSource, server: FaultyServer) -> None:
        server.behaviour = faulty.status(307, "Location: /file")
        with pytest.raises(SourceRefused, match="more than 5 times"):
            source.read(0, 10)
        assert len(server.seen) == 6

    def test_own_headers_stay_at_their_origin(self, server: FaultyServer, tmp_path: Path) -> None:
        policy = SourcePolicy(headers=(("X-Auth-Token", "secret"),))
        with FaultyServer(tmp_path) as other:
            server.behaviour = faulty.redirect(other.url("file?there"))
            with HttpSource(server.url("file"), policy) as source:
                source.read(0, 10)
        assert "x-auth-token" in server.seen[0].header
        assert "x-auth-token" not in other.seen[0].header


class TestBadAnswers:
    @pytest.mark.parametrize(
        ("behaviour", "error"),
        [
            (faulty.status(404), SourceNotFound),
            (faulty.status(410), SourceNotFound),
            (faulty.status(403), UnexpectedAnswer),
            (faulty.status(204), UnexpectedAnswer),
            (faulty.status(416, f"Content-Range: bytes */{SIZE}"), ShortRead),
            (faulty.changed(Content_Range="bytes 0-9/300000"), WrongRange),
            (faulty.changed(Content_Range="bytes 1-100001/300000"), WrongRange),
            (faulty.changed(Content_Range="bytes 0-99999/5"), WrongRange),
            (faulty.changed(Content_Range="lines 0-99999/300000"), WrongRange),
            (faulty.changed(Content_Range=f"bytes 0-{'9' * 30}/300000"), WrongRange),
            (faulty.changed(Content_Range=None), WrongRange),
            (faulty.changed(Content_Length="99999"), WrongRange),
            (faulty.changed(Content_Length="x"), UnexpectedAnswer),
            (faulty.changed(Content_Encoding="gzip"), UnexpectedAnswer),
            (faulty.status(503), SourceGaveUp),
            (faulty.cut(0), SourceGaveUp),
            (faulty.silent, SourceGaveUp),
            (faulty.silent_body, SourceGaveUp),
            (faulty.cut_header, SourceGaveUp),
            (faulty.drip_header, SourceGaveUp),
            (faulty.drip_body, SourceGaveUp),
        ],
    )
    def test_refused(
        self, behaviour: faulty.Behaviour, error: type[SourceError], source: HttpSource, server: FaultyServer
    ) -> None:
        server.behaviour = behaviour
        start = time.monotonic()
        with pytest.raises(error):
            source.read(0, 100_000)
        assert time.monotonic() - start < 6

    def test_slow_body_is_named_so(self, source: HttpSource, server: FaultyServer) -> None:
        server.behaviour = faulty.drip_body
        with pytest.raises(SourceTooSlow, match="10000 bytes per second"):
            list(source.attempt(0, 100_000))

    def test_whole_file_instead_of_its_start(self, source: HttpSource, server: FaultyServer, content: bytes) -> None:
        server.behaviour = faulty.ignore_range
        assert source.read(0, 100_000) == content[:100_000]
        with pytest.raises(WrongRange, match="the whole file"):
            source.read(100_000, 100_000)

    @pytest.mark.parametrize("behaviour", [faulty.longer, faulty.chunked])
    def test_odd_bodies(
        self, behaviour: faulty.Behaviour, source: HttpSource, server: FaultyServer, content: bytes
    ) -> None:
        server.behaviour = behaviour
        for offset in range(0, SIZE, 100_000):
            assert source.read(offset, 100_000) == content[offset : offset + 100_000]

    def test_changed_etag(self, source: HttpSource, server: FaultyServer) -> None:
        source.read(0, 100_000)
        server.etag = '"second"'
        with pytest.raises(SourceChanged, match=r'"first".*"second"'):
            source.read(100_000, 100_000)

    def test_changed_size(self, source: HttpSource, server: FaultyServer, tmp_path: Path) -> None:
        source.read(0, 100_000)
        make_file(tmp_path / "file", SIZE - 1)
        with pytest.raises(SourceChanged, match="size"):
            source.read(100_000, 100_000)

    def test_changed_while_broken_off(self, source: HttpSource, server: FaultyServer) -> None:
        def cut_and_change(handler: faulty.FaultyHandler) -> bool:
            faulty.cut(50_000)(handler)
            server.etag = '"second"'
            return True

        server.behaviour = faulty.times(1, cut_and_change)
        with pytest.raises(SourceChanged):
            source.read(0, 100_000)


class TestResuming:
    @pytest.mark.parametrize("with_reset", [False, True])
    def test_goes_on_where_it_broke_off(
        self, with_reset: bool, source: HttpSource, server: FaultyServer, content: bytes
    ) -> None:
        source.read(0, 10)
        server.seen.clear()
        server.behaviour = faulty.times(4, faulty.cut(30_000, with_reset=with_reset))
        assert b"".join(source.stream(1000, 200_000)) == content[1000:201_000]
        firsts = [seen.first for seen in server.seen]
        assert firsts[0] == 1000
        assert firsts == sorted(firsts)
        assert firsts[-1] > 31_000

    def test_busy_server(self, source: HttpSource, server: FaultyServer, content: bytes) -> None:
        server.behaviour = faulty.times(2, faulty.status(503))
        assert source.read(0, 100_000) == content[:100_000]

    def test_kept_connection_that_was_ended(self, source: HttpSource, server: FaultyServer) -> None:
        source.read(0, 100_000)

        def hang_up(handler: faulty.FaultyHandler) -> bool:
            handler.hang_up()
            return True

        server.behaviour = faulty.times(1, hang_up)
        assert b"".join(source.attempt(100_000, 100_000))

    def test_server_that_is_away_for_a_while(self, tmp_path: Path, content: bytes) -> None:
        policy = SourcePolicy(patience=Patience(attempts=50, first_delay_s=0.05, longest_delay_s=0.1))
        with FaultyServer(tmp_path) as first:
            port = first.server_address[1]
            source = HttpSource(first.url("file"), policy)
            source.read(0, 10)
            first.behaviour = faulty.after(10, faulty.cut(1000))
        with source, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(source.read, 70_000, 100_000)
            time.sleep(0.5)
            assert not reading.done()
            with Reborn(tmp_path, port):
                assert reading.result(10) == content[70_000:170_000]


class Reborn(FaultyServer):
    """A server on a port that another one had."""

    def __init__(self, folder: Path, port: int) -> None:
        self._port = port
        super().__init__(folder)

    def server_bind(self) -> None:
        self.server_address = ("127.0.0.1", self._port)
        super().server_bind()
