# SPDX-License-Identifier: Apache-2.0
"""The monitor of a real QEMU without a machine."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import process, unix_socket
from cloudlet_ext.hypervisor.errors import MonitorFailed, MonitorRefused
from cloudlet_ext.hypervisor.process import QemuProcess
from cloudlet_ext.hypervisor.qmp import Monitor

WAIT_S = 30.0
ARGUMENTS = ["-machine", "none", "-nodefaults", "-display", "none"]
ARGUMENTS += ["-chardev", "socket,id=monitor,path=qmp.sock,server=on,wait=off", "-mon", "chardev=monitor,mode=control"]


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[QemuProcess]:
    started = process.spawn("qemu-system-x86_64", ARGUMENTS, tmp_path)
    yield started
    started.kill()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "monitor"]
    # Fewer than before are what earlier tests left to the garbage collector.
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture
def monitor(qemu: QemuProcess) -> Iterator[Monitor]:
    with Monitor(qemu.monitor_path, WAIT_S, alive=lambda: qemu.alive) as monitor:
        yield monitor


def test_commands(monitor: Monitor) -> None:
    assert monitor.execute("query-version")["qemu"]["major"] >= 8
    assert monitor.status() in {"running", "prelaunch"}
    monitor.execute("object-add", qom_type="rng-builtin", id="random")
    assert "random" in [each["name"] for each in monitor.execute("qom-list", path="/objects")]
    assert "QEMU" in monitor.human("info version") or monitor.human("info version")


def test_underscores_become_dashes(monitor: Monitor) -> None:
    monitor.execute("migrate-set-parameters", max_bandwidth=1 << 20)
    assert monitor.execute("query-migrate-parameters")["max-bandwidth"] == 1 << 20


def test_refusal_holds_the_words_of_qemu(monitor: Monitor) -> None:
    with pytest.raises(MonitorRefused, match=r"blockdev-del: .*nothing") as caught:
        monitor.execute("blockdev-del", node_name="nothing")
    assert caught.value.command == "blockdev-del"
    assert monitor.status()


def test_threads_may_share_it(monitor: Monitor) -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(50):
                monitor.execute("query-version")
        except MonitorFailed as failure:
            failures.append(failure)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_several_in_one_thread(monitor: Monitor, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = process.spawn("qemu-system-x86_64", ARGUMENTS, tmp_path_factory.mktemp("other"))
    try:
        with Monitor(other.monitor_path, WAIT_S) as second:
            assert second.status()
            assert monitor.status()
    finally:
        other.kill()


def test_wait_status_names_both(monitor: Monitor) -> None:
    assert monitor.wait_status({"running", "prelaunch"}, WAIT_S)
    with pytest.raises(MonitorFailed, match=r"state \w+ after 0 s, expected paused or postmigrate"):
        monitor.wait_status({"postmigrate", "paused"}, 0.01)


def test_a_killed_qemu_is_an_error_and_closing_is_none(qemu: QemuProcess) -> None:
    monitor = Monitor(qemu.monitor_path, WAIT_S)
    os.kill(qemu.pid, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    with pytest.raises(MonitorFailed, match="query-status"):
        while time.monotonic() < deadline:
            monitor.status()
    with pytest.raises(MonitorFailed):
        monitor.status()
    monitor.close()
    monitor.close()
    with pytest.raises(MonitorFailed, match="the monitor is closed"):
        monitor.status()


def test_a_qemu_that_ends_while_it_starts(tmp_path: Path) -> None:
    started = process.spawn("qemu-system-x86_64", ["-machine", "nonesuch"], tmp_path)
    begun = time.monotonic()
    try:
        with pytest.raises(MonitorFailed, match="connect"):
            Monitor(started.monitor_path, WAIT_S, alive=lambda: started.alive)
    finally:
        started.kill()
    assert time.monotonic() - begun < WAIT_S / 2
    assert "nonesuch" in started.log_tail()


def test_a_socket_that_never_comes(tmp_path: Path) -> None:
    with pytest.raises(MonitorFailed, match="No such file"):
        Monitor(tmp_path / "qmp.sock", 0.05)


def test_an_interruption_leaves_the_connection_whole(monitor: Monitor) -> None:
    """A signal in the middle of a command: the guest can still be told to go on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for delay in (0.0, 0.0003, 0.001, 0.003, 0.01):
            timer = threading.Timer(delay, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                while True:
                    monitor.execute("query-version")
            timer.join()
            assert monitor.status()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_monitor_that_is_in_use_does_not_hang(monitor: Monitor, qemu: QemuProcess) -> None:
    """QEMU serves one client at a time; the next one waits for its greeting."""
    with pytest.raises(MonitorFailed, match=r"no answer within \d s; another process may have it"):
        Monitor(qemu.monitor_path, 0.1)
    assert monitor.status()


@pytest.mark.parametrize(
    "said", [b"", b"hello\r\n", b'{"QMP": 1}\r\n', b'{"QMP": {"version": {}, "capabilities": []}}\r\n']
)
def test_something_else_at_the_other_end(tmp_path: Path, said: bytes) -> None:
    listener = unix_socket.listen(tmp_path / "qmp.sock", 1)

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(MonitorFailed, match="connect"):
        Monitor(tmp_path / "qmp.sock", 1.0)
    thread.join(WAIT_S)
    assert not thread.is_alive()
    listener.close()


def test_a_directory_of_any_length(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    started = process.spawn("qemu-system-x86_64", ARGUMENTS, folder)
    try:
        with Monitor(started.monitor_path, WAIT_S) as monitor:
            assert monitor.status()
    finally:
        started.kill()
