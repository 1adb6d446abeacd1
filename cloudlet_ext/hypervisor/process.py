# SPDX-License-Identifier: Apache-2.0
"""QEMU processes, known by pid and start time so that a pid that was given away is never signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.hypervisor import errors

LOG_NAME = "qemu.log"
_LOG_TAIL_BYTES = 2000
_LOG_LOOKS = 5


def start_ticks(pid: int) -> int | None:
    """When the process began, in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat[stat.rindex(")") + 2 :].split()
    return None if state in "ZX" else int(rest[18])


def running_in(directory: Path) -> list[QemuProcess]:
    """QEMU processes that were started in ``directory``, for when their maker ended before it could note their pid."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            is_inside = (entry / "cwd").samefile(directory)
            is_qemu = b"path=qmp.sock" in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        started = start_ticks(int(entry.name))
        if is_inside and is_qemu and started is not None:
            found.append(QemuProcess(int(entry.name), started, directory))
    return found


@dataclass(frozen=True)
class QemuProcess:
    """A QEMU process in its directory (sockets, console, log)."""

    pid: int
    started: int
    directory: Path

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return start_ticks(self.pid) == self.started

    def ended(self, within_s: float = 1.0) -> bool:
        """Whether it is gone, now or shortly: its sockets close before it is."""
        deadline = time.monotonic() + within_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    @property
    def monitor_path(self) -> Path:
        """Socket of the monitor."""
        return self.directory / "qmp.sock"

    def address(self, socket_name: str) -> str:
        """A socket of ``directory`` as QEMU, which runs there, is to call it."""
        return f"unix:{socket_name}"

    def admit(self, path: Path) -> None:
        """Nothing to be done: it runs as the same user."""

    def log_tail(self) -> str:
        """What it said last."""
        data = b""
        for _ in range(_LOG_LOOKS):
            with contextlib.suppress(FileNotFoundError):
                data = (self.directory / LOG_NAME).read_bytes()
            if data.endswith(b"\n"):
                break
            # Its last words may still be on their way through the pipe, in pieces.
            time.sleep(0.02)
        return data[-_LOG_TAIL_BYTES:].decode(errors="replace").strip() or "no message"

    def died(self, stage: str) -> errors.QemuDied:
        """The error that tells that it ended in a stage."""
        return errors.QemuDied(stage=stage, reason=self.log_tail())

    def kill(self, timeout_s: float = 10.0) -> None:
        """End it, at once; nothing happens when it has ended already."""
        if not self.alive:
            self._reap()
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.005)
        self._reap()

    def _reap(self) -> None:
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _bounded_log(path: Path) -> int:
    """A descriptor for QEMU's messages, of which the first 2000 are kept.

    A guest over a mapped base can make QEMU complain for as long as it runs (its balloon offers free pages that cannot
    be given back); whoever reads this pipe ends when QEMU does.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", "dd bs=4096 count=2000 status=none; exec cat >/dev/null"],
            cwd="/",
            stdin=reader,
            stdout=log,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(reader)
        os.close(log)
    threading.Thread(target=keeper.wait, name="log-keeper", daemon=True).start()
    return writer


def spawn(binary: str, arguments: list[str], directory: Path) -> QemuProcess:
    """Start QEMU in ``directory``, in a session of its own; it outlives its parent."""
    fifo = directory / "console.in"
    if not fifo.exists():
        os.mkfifo(fifo, 0o600)
    # The pipe is held open for reading and writing by QEMU itself (an inherited descriptor), so that
    # opening it does not wait for a writer and a writer that leaves does not end the input.
    holder = os.open(fifo, os.O_RDWR)
    log = _bounded_log(directory / LOG_NAME)
    try:
        child = subprocess.Popen(
            [binary, *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(holder,),
            start_new_session=True,
        )
    except OSError as failure:
        raise errors.QemuMissing(binary=binary, reason=str(failure)) from failure
    finally:
        os.close(holder)
        os.close(log)
    # The child is waited for by pid (kill, alive), not through this object.
    child.returncode = 0
    started = start_ticks(child.pid)
    return QemuProcess(child.pid, started if started is not None else -1, directory)
