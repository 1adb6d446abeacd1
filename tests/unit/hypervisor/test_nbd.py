# SPDX-License-Identifier: Apache-2.0
"""The NBD server as QEMU's own tools see it."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlet_ext.hypervisor import nbd
from cloudlet_ext.hypervisor.errors import NbdSocketUnusable
from cloudlet_ext.hypervisor.nbd import NbdServer

SIZE = 9 << 20
WAIT_S = 10.0


@pytest.fixture(scope="module")
def content() -> bytes:
    return np.random.default_rng(4).integers(0, 256, SIZE, dtype=np.uint8).tobytes()


class Disk:
    """A disk that is read at once but for held places, and that notes what it was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.held: set[int] = set()
        self.broken: set[int] = set()
        self.release = threading.Event()
        self.begun = threading.Semaphore(0)
        self.reads: list[tuple[int, int]] = []
        self.asked: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> memoryview:
        self.reads.append((offset, length))
        if any(offset <= place < offset + length for place in self.held):
            self.begun.release()
            assert self.release.wait(WAIT_S)
        if any(offset <= place < offset + length for place in self.broken):
            raise OSError(5, "the source is gone")
        return memoryview(self.content)[offset : offset + length]

    def note(self, offset: int, length: int) -> None:
        self.asked.append((offset, length))


@pytest.fixture
def disk(content: bytes) -> Disk:
    return Disk(content)


@pytest.fixture
def server(tmp_path: Path, disk: Disk) -> Iterator[NbdServer]:
    path = tmp_path / "disk.sock"
    with NbdServer(path, SIZE, disk.read, name="vda", on_read=disk.note) as server:
        yield server
        disk.release.set()
    assert not path.exists()
    assert not [each for each in threading.enumerate() if each.name.startswith("nbd")]


def run(*command: str | Path, code: int = 0) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def io(server: NbdServer, *commands: str, code: int = 0) -> str:
    words = [word for command in commands for word in ("-c", command)]
    return run("qemu-io", "-r", "-f", "raw", *words, server.uri, code=code)


def test_whole_disk(server: NbdServer, content: bytes, tmp_path: Path) -> None:
    target = tmp_path / "copy.img"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, target)
    same = target.read_bytes() == content
    assert same


def test_several_clients_at_once(server: NbdServer, content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "same.img"
    source.write_bytes(content)
    command = ["qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, str(source)]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    assert [client.communicate(timeout=60)[0] for client in clients] == [b"Images are identical.\n"] * 4


def test_as_backing_of_a_guest_disk(server: NbdServer, content: bytes, tmp_path: Path) -> None:
    top = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", server.uri, "-F", "raw", top)
    run("qemu-io", "-c", "write -P 7 4k 1k", top)
    copy = tmp_path / "copy.img"
    run("qemu-img", "convert", "-O", "raw", top, copy)
    same = copy.read_bytes() == content[:4096] + b"\7" * 1024 + content[5120:]
    assert same


def test_what_is_told(server: NbdServer) -> None:
    told = json.loads(run("qemu-img", "info", "--output=json", server.uri))
    assert told["virtual-size"] == SIZE
    listed = run("qemu-nbd", "--list", "-k", server.path)
    assert "export: 'vda'" in listed
    assert f"size:  {SIZE}" in listed
    for word in ("readonly", "multi", "min block: 4096", "opt block: 65536"):
        assert word in listed
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


def test_other_export_name(server: NbdServer) -> None:
    uri = f"nbd+unix:///other?socket={server.path}"
    assert "no such export" in run("qemu-img", "info", uri, code=1)


def test_default_export_name(server: NbdServer) -> None:
    run("qemu-img", "info", f"nbd+unix:///?socket={server.path}")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 5000)), min_size=1, max_size=20))
def test_reads_anywhere(server: NbdServer, content: bytes, tmp_path: Path, places: list[tuple[int, int]]) -> None:
    commands = []
    for sector, count in places:
        offset, length = sector * 512, min(count * 512, SIZE - sector * 512)
        commands.append(f"read -v {offset} {min(length, 1024)}")
        commands.append(f"aio_read {offset} {length}")
    shown = bytearray()
    for line in io(server, *commands, "aio_flush").splitlines():
        head, _, rest = line.partition(":  ")
        if len(head) == 8 and rest:
            shown += bytes.fromhex(rest[:48].replace(" ", ""))
    expected = b"".join(content[sector * 512 : sector * 512 + min(1024, count * 512)] for sector, count in places)
    assert bytes(shown) == expected


def test_writes_are_refused(server: NbdServer, disk: Disk) -> None:
    assert "Permission denied" in run("qemu-io", "-f", "raw", "-c", "quit", server.uri, code=1)


def test_waiting_read_holds_up_no_other(server: NbdServer, disk: Disk) -> None:
    disk.held = {1 << 20}
    waiting = subprocess.Popen(
        ["qemu-io", "-r", "-f", "raw", "-c", f"read {1 << 20} 4096", server.uri],
        stdout=subprocess.DEVNULL,
    )
    assert disk.begun.acquire(timeout=WAIT_S)
    io(server, "read 0 1M", "read 2M 1M")
    assert waiting.poll() is None
    disk.release.set()
    assert waiting.wait(WAIT_S) == 0


def test_waiting_reads_of_one_connection_hold_up_no_other(server: NbdServer, disk: Disk) -> None:
    places = [number << 16 for number in range(1, 16)]
    disk.held = set(places)
    waiting = [f"aio_read {place} 4096" for place in places]
    words = [word for each in [*waiting, "read 0 4096", "read 4096 4096"] for word in ("-c", each)]
    client = subprocess.Popen(["qemu-io", "-r", "-f", "raw", *words, server.uri], stdout=subprocess.DEVNULL)
    for _ in places:
        assert disk.begun.acquire(timeout=WAIT_S)
    # Fifteen wait; the sixteenth is answered, else QEMU could not go on to the one after it.
    limit = time.monotonic() + WAIT_S
    while (4096, 4096) not in disk.reads:
        assert time.monotonic() < limit
        time.sleep(0.01)
    disk.release.set()
    assert client.wait(WAIT_S) == 0


def test_failed_read_is_an_error_of_that_read_alone(server: NbdServer, disk: Disk) -> None:
    disk.broken = {5 << 20}
    told = io(server, f"read {5 << 20} 4096", "read 0 4096", code=1)
    assert "Input/output error" in told
    assert "read 4096/4096 bytes at offset 0" in told


def test_short_read_is_an_error(tmp_path: Path) -> None:
    with NbdServer(tmp_path / "disk.sock", SIZE, lambda offset, length: b"short") as server:
        assert "Input/output error" in io(server, "read 0 4096", code=1)


def test_reads_are_told_as_asked(server: NbdServer, disk: Disk) -> None:
    io(server, "read 1M 64k", "read 0 4k")
    assert disk.asked == [(1 << 20, 65536), (0, 4096)]


def test_guest_restarts(server: NbdServer) -> None:
    for _ in range(40):
        io(server, "read 0 4k")


def test_client_killed_while_it_waits(server: NbdServer, disk: Disk) -> None:
    disk.held = {0}
    client = subprocess.Popen(["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", server.uri])
    assert disk.begun.acquire(timeout=WAIT_S)
    client.kill()
    client.wait()
    io(server, "read 1M 4k")


def test_close_while_clients_are_connected(tmp_path: Path, disk: Disk) -> None:
    server = NbdServer(tmp_path / "disk.sock", SIZE, disk.read)
    disk.held = {0}
    client = subprocess.Popen(
        ["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", server.uri],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert disk.begun.acquire(timeout=WAIT_S)
    disk.release.set()
    begin = time.monotonic()
    server.close()
    server.close()
    assert time.monotonic() - begin < 1
    client.kill()
    client.wait()
    assert not [each for each in threading.enumerate() if each.name.startswith("nbd")]


def test_close_gives_up_on_a_read_that_never_returns(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nbd, "_CLOSE_LIMIT_S", 0.2)
    disk.held = {0}
    server = NbdServer(tmp_path / "disk.sock", SIZE, disk.read)
    client = subprocess.Popen(["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", server.uri])
    assert disk.begun.acquire(timeout=WAIT_S)
    client.kill()
    client.wait()
    server.close()
    assert "1 connections still wait in a read" in caplog.text
    assert not server.path.exists()
    disk.release.set()


def test_name_that_is_taken(server: NbdServer, disk: Disk) -> None:
    with pytest.raises(NbdSocketUnusable, match="in use") as caught:
        NbdServer(server.path, SIZE, disk.read)
    assert caught.value.path == str(server.path)
    io(server, "read 0 4k")


def test_path_that_cannot_be_a_socket(tmp_path: Path, disk: Disk) -> None:
    for path, reason in ((tmp_path / "none" / "disk.sock", "No such file"), (tmp_path / ("x" * 108), "too long")):
        with pytest.raises(NbdSocketUnusable, match=reason):
            NbdServer(path, SIZE, disk.read)


def test_path_of_any_length(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with NbdServer(folder / "disk.sock", SIZE, disk.read):
        monkeypatch.chdir(folder)
        run("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", "nbd+unix:///?socket=disk.sock")


@pytest.mark.parametrize("size", [0, -4096, 1000])
def test_size_that_is_no_disk(tmp_path: Path, disk: Disk, size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 4096"):
        NbdServer(tmp_path / "disk.sock", size, disk.read)
