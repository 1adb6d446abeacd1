# SPDX-License-Identifier: Apache-2.0
"""Records of servers, without a QEMU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import process
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.worker import errors, server
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.server import Server

MACHINE = MachineDescription("tcg", "pc-q35-10.0", "Nehalem", 1, 16 << 20, 1 << 20, "52:54:00:12:34:56")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def create(home: Home, name: str = "a") -> Server:
    return server.create(home, name, MACHINE, "mapped", None, None)


def test_what_is_remembered(home: Home) -> None:
    made = create(home)
    made.update(forwards={"80": 1234}, layers=("disk.qcow2", "fill.qcow2"), pid=1, started=2)
    read = server.load(home, "a")
    assert read.record == made.record
    assert read.machine == MACHINE
    assert read.layers == [home.servers / "a" / "disk.qcow2", home.servers / "a" / "fill.qcow2"]
    assert server.names(home) == ["a"]
    assert (read.folder / "server.json").stat().st_mode & 0o077 == 0 or read.folder.stat().st_mode & 0o077 == 0


def test_names_are_taken_once(home: Home) -> None:
    create(home)
    with pytest.raises(errors.NameTaken):
        create(home)
    with pytest.raises(errors.NotFound, match=r"There is no server b\. There are: a\."):
        server.load(home, "b")


def test_one_that_does_not_run(home: Home) -> None:
    made = create(home)
    made.update(state="running", pid=2**22 + 1, started=5)
    (made.folder / "qemu.log").write_text("out of luck\n")
    with pytest.raises(errors.ServerGone, match="The server a has ended: out of luck"):
        server.load_running(home, "a")
    with pytest.raises(errors.ServerGone, match="out of luck"):
        _ = made.monitor
    made.destroy()
    assert server.names(home) == []
    made.destroy()


def test_new_names_and_addresses() -> None:
    assert re.fullmatch(r"base-[0-9a-f]{6}", server.new_name("base"))
    assert len(server.new_name("x" * 64)) <= 64
    assert len({server.new_mac() for _ in range(20)}) == 20
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", server.new_mac())


def test_leftovers_of_a_maker_that_is_gone(home: Home) -> None:
    lives, gone, runs, reused = (create(home, name) for name in ("lives", "gone", "runs", "reused"))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone.update(owner=(int(ended.stdout), 5))
    runs.update(owner=(int(ended.stdout), 5), state="running")
    reused.update(owner=(os.getpid(), (process.start_ticks(os.getpid()) or 0) - 1))
    (home.servers / "other").mkdir()
    (home.servers / "broken").mkdir()
    (home.servers / "broken" / "server.json").write_text("{")
    assert sorted(server.clean_leftovers(home)) == ["gone", "reused"]
    assert server.names(home) == ["broken", "lives", "runs"]
    assert lives.folder.exists()


def test_a_qemu_whose_pid_was_not_noted_goes_too(home: Home) -> None:
    """Its maker was killed right after it had started it."""
    made = create(home)
    line = "import time; time.sleep(1000) # path=qmp.sock"
    started = process.spawn(sys.executable, ["-c", line], made.folder)
    try:
        made.destroy()
        assert not started.alive
    finally:
        started.kill()
    assert not made.folder.exists()


def test_undone_on_failure(home: Home) -> None:
    with pytest.raises(KeyboardInterrupt), server.undone_on_failure(create(home)):
        raise KeyboardInterrupt
    assert server.names(home) == []
    with server.undone_on_failure(create(home)):
        pass
    assert server.names(home) == ["a"]


def test_waiting_for_an_end(home: Home) -> None:
    made = create(home)
    started = process.spawn("/bin/sleep", ["1000"], made.folder)
    made.update(pid=started.pid, started=started.started)
    assert not server.wait_until_gone(made, 0.05)
    os.kill(started.pid, signal.SIGKILL)
    assert server.wait_until_gone(made, 30)
    made.destroy()


def test_records_are_replaced_whole(home: Home) -> None:
    """A reader never sees half a record."""
    made = create(home)
    for number in range(50):
        made.update(forwards={str(port): port for port in range(number * 10)})
        assert json.loads((made.folder / "server.json").read_text())["name"] == "a"
    assert [entry.name for entry in made.folder.iterdir()] == ["server.json"]
