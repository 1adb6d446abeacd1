# SPDX-License-Identifier: Apache-2.0
"""The NBD server against clients that keep to the protocol in unusual ways, or not at all."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlet_ext.hypervisor import nbd_connection, nbd_handshake
from cloudlet_ext.hypervisor import nbd_protocol as nbd
from cloudlet_ext.hypervisor.nbd import MAX_CONNECTIONS, NbdServer

SIZE = 64 << 20
CONTENT = os.urandom(1 << 20) * 64
MANY_OPTIONS = 64


def read(offset: int, length: int) -> bytes:
    assert offset % 4096 == 0 and length % 4096 == 0
    return CONTENT[offset : offset + length]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NbdServer]:
    path = tmp_path_factory.mktemp("nbd") / "disk.sock"
    with NbdServer(path, SIZE, read, name="vda") as server:
        yield server
    assert not [each for each in threading.enumerate() if each.name.startswith("nbd")]


class Client:
    """A client that can be told to say anything."""

    def __init__(self, server: NbdServer, flags: int = 3) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(server.path))
        magic, option_magic, self.server_flags = nbd.GREETING.unpack(self.receive(18))
        assert (magic, option_magic) == (nbd.INIT_MAGIC, nbd.OPTION_MAGIC)
        self.send(struct.pack(">I", flags))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            assert more, f"hung up after {len(data)} of {length} bytes"
            data += more
        return bytes(data)

    def hung_up(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """All replies up to the last, which is ACK or an error."""
        self.send(nbd.OPTION.pack(nbd.OPTION_MAGIC, option, len(data)) + data)
        replies = []
        while True:
            magic, echo, kind, length = nbd.OPTION_REPLY.unpack(self.receive(20))
            assert (magic, echo) == (nbd.OPTION_REPLY_MAGIC, option)
            replies.append((kind, self.receive(length) if length else b""))
            if kind == nbd.REP_ACK or kind >= 1 << 31:
                return replies

    def go(self, name: bytes = b"vda", wanted: tuple[int, ...] = ()) -> list[tuple[int, bytes]]:
        return self.option(nbd.OPT_GO, info(name, wanted))

    def request(self, command: int, cookie: int, offset: int, length: int) -> None:
        self.send(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, command, cookie, offset, length))

    def reply(self) -> tuple[int, int]:
        magic, error, cookie = nbd.SIMPLE_REPLY.unpack(self.receive(16))
        assert magic == nbd.SIMPLE_REPLY_MAGIC
        return error, cookie

    def read(self, offset: int, length: int) -> bytes:
        self.request(nbd.CMD_READ, 77, offset, length)
        assert self.reply() == (0, 77)
        return self.receive(length)


def info(name: bytes, wanted: tuple[int, ...] = ()) -> bytes:
    words = struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)
    return struct.pack(">I", len(name)) + name + words


def still_serves(server: NbdServer) -> None:
    with Client(server) as client:
        client.go()
        assert client.read(4096, 8192) == CONTENT[4096:12288]


def test_go_tells_size_flags_and_blocks(server: NbdServer) -> None:
    with Client(server) as client:
        export, blocks, ack = client.go(wanted=(nbd.INFO_TYPE_BLOCK_SIZE, 1, 999))
        assert export == (nbd.REP_INFO, struct.pack(">HQH", 0, SIZE, 0b1_0000_0111))
        assert blocks == (nbd.REP_INFO, struct.pack(">HIII", 3, 4096, 65536, 2 << 20))
        assert ack == (nbd.REP_ACK, b"")


def test_info_then_go(server: NbdServer) -> None:
    with Client(server) as client:
        assert [kind for kind, _ in client.option(nbd.OPT_INFO, info(b""))] == [3, 1]
        client.go(b"")
        assert client.read(0, 4096) == CONTENT[:4096]


@pytest.mark.parametrize(("flags", "zeroes"), [(1, 124), (3, 0)])
def test_export_name(server: NbdServer, flags: int, zeroes: int) -> None:
    with Client(server, flags) as client:
        client.send(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, 3) + b"vda")
        assert nbd.EXPORT_NAME_REPLY.unpack(client.receive(10)) == (SIZE, 0b1_0000_0111)
        assert client.receive(zeroes) == bytes(zeroes) if zeroes else True
        # Such a client knows no smallest block.
        assert client.read(4095, 3) == CONTENT[4095:4098]
        assert client.read(SIZE - 1, 1) == CONTENT[-1:]


def test_export_name_that_is_unknown(server: NbdServer) -> None:
    with Client(server) as client:
        client.send(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, 3) + b"vdb")
        assert client.hung_up()


def test_go_with_an_unknown_name_may_try_again(server: NbdServer) -> None:
    with Client(server) as client:
        assert client.go(b"vdb")[0][0] == nbd.REP_ERR_UNKNOWN
        client.go()
        assert client.read(0, 512) == CONTENT[:512]


def test_list_and_abort(server: NbdServer) -> None:
    with Client(server) as client:
        assert client.option(nbd.OPT_LIST) == [(2, b"\0\0\0\3vda"), (1, b"")]
        assert client.option(nbd.OPT_LIST, b"x")[0][0] == nbd.REP_ERR_INVALID
        assert client.option(nbd.OPT_ABORT) == [(nbd.REP_ACK, b"")]
        assert client.hung_up()


@pytest.mark.parametrize("option", [0, 4, 5, 8, 9, 10, 11, 0xFFFFFFFF])
def test_other_options_are_unsupported(server: NbdServer, option: int) -> None:
    with Client(server) as client:
        assert client.option(option, b"abc") == [(nbd.REP_ERR_UNSUP, b"")]
        client.go()
        assert client.read(0, 512) == CONTENT[:512]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0\0",
        struct.pack(">I", 0xFFFFFFFF) + b"vda\0\0",
        info(b"vda")[:-1],
        info(b"vda") + b"x",
        struct.pack(">I", 3) + b"vda" + struct.pack(">H", 0xFFFF),
    ],
)
def test_info_whose_lengths_do_not_add_up(server: NbdServer, data: bytes) -> None:
    with Client(server) as client:
        assert client.option(nbd.OPT_GO, data)[0][0] == nbd.REP_ERR_INVALID
        client.go()


@pytest.mark.parametrize(
    "data",
    [
        nbd.OPTION.pack(nbd.OPTION_MAGIC ^ 1, nbd.OPT_GO, 0),
        nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_GO, 0xFFFFFFFF),
        nbd.OPTION.pack(nbd.OPTION_MAGIC, 77, 8193),
        nbd.OPTION.pack(nbd.OPTION_MAGIC, 77, 0) * MANY_OPTIONS,
    ],
)
def test_options_that_end_the_connection(server: NbdServer, data: bytes) -> None:
    with Client(server) as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        while client.socket.recv(4096):
            pass
    still_serves(server)


def test_unknown_client_flags(server: NbdServer) -> None:
    with Client(server, flags=0x80) as client:
        assert client.hung_up()


def test_request_magic(server: NbdServer) -> None:
    with Client(server) as client:
        client.go()
        client.send(nbd.REQUEST.pack(0x12345678, 0, nbd.CMD_READ, 1, 0, 4096))
        assert client.hung_up()
    still_serves(server)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, nbd.MAXIMUM_REQUEST + 4096),
        (0, 0xFFFFFFFF),
        (SIZE, 1),
        (SIZE - 4096, 8192),
        (0xFFFFFFFFFFFFF000, 8192),
    ],
)
def test_reads_outside(server: NbdServer, offset: int, length: int) -> None:
    with Client(server) as client:
        client.go()
        client.request(nbd.CMD_READ, 5, offset, length)
        assert client.reply() == (nbd.EINVAL, 5)
        assert client.read(0, 512) == CONTENT[:512]


def test_largest_read(server: NbdServer) -> None:
    with Client(server) as client:
        client.go()
        same = client.read(1 << 20, nbd.MAXIMUM_REQUEST) == CONTENT[1 << 20 : 33 << 20]
        assert same


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (nbd.CMD_FLUSH, 0),
        (nbd.CMD_TRIM, nbd.EPERM),
        (nbd.CMD_WRITE_ZEROES, nbd.EPERM),
        (5, nbd.EINVAL),
        (7, nbd.EINVAL),
        (99, nbd.EINVAL),
    ],
)
def test_other_commands(server: NbdServer, command: int, error: int) -> None:
    with Client(server) as client:
        client.go()
        client.request(command, 9, 0, 4096)
        assert client.reply() == (error, 9)
        assert client.read(0, 512) == CONTENT[:512]


def test_write_is_refused_and_its_payload_skipped(server: NbdServer) -> None:
    with Client(server) as client:
        client.go()
        client.request(nbd.CMD_WRITE, 9, 0, 1 << 20)
        client.send(os.urandom(1 << 20))
        assert client.reply() == (nbd.EPERM, 9)
        assert client.read(0, 512) == CONTENT[:512]
        client.request(nbd.CMD_WRITE, 9, 0, 0xFFFFFFFF)
        assert client.hung_up()


def test_goodbye(server: NbdServer) -> None:
    with Client(server) as client:
        client.go()
        client.request(nbd.CMD_DISC, 0, 0, 0)
        assert client.hung_up()


def test_disconnect_in_mid_request(server: NbdServer) -> None:
    for length in (1, 27):
        with Client(server) as client:
            client.go()
            client.send(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, 0, 1, 0, 4096)[:length])
    with Client(server) as client:
        client.go()
        client.request(nbd.CMD_WRITE, 1, 0, 1 << 20)
        client.send(bytes(1000))
    still_serves(server)


def test_client_that_does_not_take_its_replies(server: NbdServer) -> None:
    with Client(server) as client:
        client.go()
        for cookie in range(40):
            client.request(nbd.CMD_READ, cookie, 0, 2 << 20)
        still_serves(server)
        # Those that it then takes are whole, each once.
        seen = set()
        for _ in range(40):
            error, cookie = client.reply()
            assert error == 0
            same = client.receive(2 << 20) == CONTENT[: 2 << 20]
            assert same
            seen.add(cookie)
        assert seen == set(range(40))
        client.request(nbd.CMD_READ, 1, 0, 32 << 20)
    still_serves(server)


def test_silent_client_is_hung_up(server: NbdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd_handshake, "_TIME_LIMIT_S", 0.3)
    begin = time.monotonic()
    with Client(server) as client:
        # A byte now and then does not help.
        for byte in struct.pack(">QI", nbd.OPTION_MAGIC, nbd.OPT_GO)[:6]:
            time.sleep(0.1)
            try:
                client.send(bytes([byte]))
            except BrokenPipeError:
                break
        assert client.hung_up()
    assert time.monotonic() - begin < 2
    still_serves(server)


def test_connections_are_bounded(server: NbdServer) -> None:
    clients = [Client(server) for _ in range(MAX_CONNECTIONS)]
    try:
        extra = socket.socket(socket.AF_UNIX)
        with extra:
            extra.settimeout(10)
            extra.connect(str(server.path))
            assert extra.recv(1) == b""
        clients[0].go()
        assert clients[0].read(0, 512) == CONTENT[:512]
    finally:
        for client in clients:
            client.socket.close()
    limit = time.monotonic() + 10
    while True:
        try:
            still_serves(server)
        except (AssertionError, BrokenPipeError, ConnectionResetError):
            assert time.monotonic() < limit
        else:
            break


def test_memory_of_requests_is_bounded(tmp_path: Path) -> None:
    lock = threading.Lock()
    now = most = 0
    release = threading.Event()

    def slow(offset: int, length: int) -> bytes:
        nonlocal now, most
        with lock:
            now += length
            most = max(most, now)
        release.wait(10)
        with lock:
            now -= length
        return read(offset, length)

    with NbdServer(tmp_path / "disk.sock", SIZE, slow) as server, Client(server) as client:
        client.go(b"")
        for cookie in range(20):
            client.request(nbd.CMD_READ, cookie, 0, 8 << 20)
        time.sleep(0.3)
        release.set()
        for _ in range(20):
            assert client.reply()[0] == 0
            client.receive(8 << 20)
    assert (4 << 20) < most <= nbd_connection.MAX_PENDING_BYTES


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    negotiated=st.booleans(),
    data=st.lists(
        st.one_of(
            st.binary(max_size=64),
            st.builds(
                nbd.REQUEST.pack,
                st.just(nbd.REQUEST_MAGIC),
                st.integers(0, 65535),
                st.integers(0, 8),
                st.integers(0, 1 << 60),
                st.integers(0, (1 << 64) - 1),
                st.integers(0, 1 << 22),
            ),
            st.builds(
                nbd.OPTION.pack,
                st.just(nbd.OPTION_MAGIC),
                st.integers(0, 12),
                st.integers(0, 300),
            ),
        ),
        max_size=8,
    ),
)
def test_any_bytes_leave_the_server_alive(server: NbdServer, negotiated: bool, data: list[bytes]) -> None:
    with Client(server) as client:
        if negotiated:
            client.go()
        try:
            client.send(b"".join(data))
            client.socket.shutdown(socket.SHUT_WR)
            while client.socket.recv(1 << 20):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
    still_serves(server)
