# SPDX-License-Identifier: Apache-2.0
"""Processes by pid and start time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import process
from cloudlet_ext.hypervisor.errors import QemuMissing
from cloudlet_ext.hypervisor.process import QemuProcess

WAIT_S = 30.0


def spawn(folder: Path, line: str) -> QemuProcess:
    return process.spawn("/bin/sh", ["-c", line], folder)


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text}"
        time.sleep(0.01)


def test_start_ticks() -> None:
    mine = process.start_ticks(os.getpid())
    assert mine is not None and mine == process.start_ticks(os.getpid())
    assert process.start_ticks(2**22 + 1) is None


def test_a_name_with_brackets_is_read(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 ("
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as child:
        ticks = process.start_ticks(child.pid)
        assert ticks is not None and ticks >= (process.start_ticks(os.getpid()) or 0)
        child.communicate(b"\n")


def test_kill(tmp_path: Path) -> None:
    started = spawn(tmp_path, "trap '' TERM INT HUP; echo ready; while :; do sleep 0.2; done")
    wait_for(tmp_path / "qemu.log", "ready")
    assert started.alive
    started.kill()
    assert not started.alive
    assert not Path(f"/proc/{started.pid}").exists(), "it was not reaped"
    started.kill()


def test_one_that_ended_by_itself_is_not_alive_and_is_reaped(tmp_path: Path) -> None:
    started = spawn(tmp_path, "echo it went wrong >&2; exit 1")
    deadline = time.monotonic() + WAIT_S
    while started.alive and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not started.alive
    assert started.log_tail() == "it went wrong"
    assert str(started.died("starting")) == "QEMU ended while starting: it went wrong."
    started.kill()
    assert not Path(f"/proc/{started.pid}").exists()


def test_ended_waits_for_what_is_dying(tmp_path: Path) -> None:
    started = spawn(tmp_path, "exec sleep 1000")
    assert not started.ended(0.05)
    killer = threading.Timer(0.1, os.kill, (started.pid, signal.SIGKILL))
    killer.start()
    assert started.ended(WAIT_S)
    killer.join()
    started.kill()


def test_a_pid_that_was_given_away_is_never_signalled(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        ticks = process.start_ticks(other.pid)
        assert ticks is not None
        assert QemuProcess(other.pid, ticks, tmp_path).alive
        stranger = QemuProcess(other.pid, ticks - 1, tmp_path)
        assert not stranger.alive
        stranger.kill()
        assert other.poll() is None
        other.communicate(b"\n")
    assert other.returncode == 0


def test_a_process_of_another_parent_can_be_ended(tmp_path: Path) -> None:
    line = "sleep 1000 >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True).stdout)
    started = QemuProcess(pid, process.start_ticks(pid) or 0, tmp_path)
    assert started.alive
    started.kill()
    assert not started.alive


def test_spawn_gives_a_console_and_a_log(tmp_path: Path) -> None:
    """The console's input stays open whoever comes and goes; the child is in a session of its own."""
    line = "echo $$ $PPID; while read -r line <&4; do echo got $line; done 4<console.in"
    started = spawn(tmp_path, line)
    try:
        for text in ("one", "two"):
            with (tmp_path / "console.in").open("w") as console:
                console.write(f"{text}\n")
            wait_for(tmp_path / "qemu.log", f"got {text}")
        assert os.getsid(started.pid) == started.pid
        assert os.stat(tmp_path / "console.in").st_mode & 0o777 == 0o600
        assert os.stat(tmp_path / "qemu.log").st_mode & 0o777 == 0o600
        assert tmp_path / "console.in" in [entry.readlink() for entry in Path(f"/proc/{started.pid}/fd").iterdir()]
        mine = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
        assert not [path for path in mine if path.exists() and path.resolve().is_relative_to(tmp_path)]
    finally:
        started.kill()


def test_one_whose_maker_forgot_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    line = "import time; time.sleep(1000)"
    started = process.spawn(sys.executable, ["-c", f"{line} # path=qmp.sock"], tmp_path)
    other = process.spawn(sys.executable, ["-c", line], tmp_path)
    try:
        assert process.running_in(tmp_path) == [started]
        assert process.running_in(tmp_path / "else") == []
    finally:
        started.kill()
        other.kill()
    assert process.running_in(tmp_path) == []


def test_only_the_end_of_a_long_log_is_told(tmp_path: Path) -> None:
    (tmp_path / "qemu.log").write_bytes(b"x" * 10000 + b"\xff the end\n")
    tail = QemuProcess(1, 1, tmp_path).log_tail()
    assert len(tail) <= 2000
    assert tail.endswith("\N{REPLACEMENT CHARACTER} the end")
    (tmp_path / "qemu.log").unlink()
    assert QemuProcess(1, 1, tmp_path).log_tail() == "no message"


def test_a_program_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(QemuMissing, match="No such file"):
        process.spawn("/no/such/qemu", [], tmp_path)
