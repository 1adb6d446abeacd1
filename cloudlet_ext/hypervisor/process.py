# SPDX-License-Identifier: Apache-2.0
"""QEMU processes, known by pid and start time so that a pid that was given away is never signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.hypervisor import errors, log_keeper

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


def spawn(binary: str, arguments: list[str], directory: Path) -> QemuProcess:
    """Start QEMU in ``directory``, in a session of its own; it outlives its parent."""
    fifo = directory / "console.in"
    if not fifo.exists():
        os.mkfifo(fifo, 0o600)
    with contextlib.ExitStack() as stack:

        def held(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        # The pipe is held open for reading and writing by QEMU itself (an inherited descriptor), so that
        # opening it does not wait for a writer and a writer that leaves does not end the input.
        typed = held(os.open(fifo, os.O_RDWR | os.O_CLOEXEC))
        said = held(log_keeper.keep_last(directory))
        log = held(log_keeper.keep_first(directory / LOG_NAME))
        try:
            child = subprocess.Popen(
                [binary, *arguments],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(typed, said),
                start_new_session=True,
            )
        except OSError as failure:
            raise errors.QemuMissing(binary=binary, reason=str(failure)) from failure
    # The child is waited for by pid (kill, alive), not through this object.
    child.returncode = 0
    started = start_ticks(child.pid)
    return QemuProcess(child.pid, started if started is not None else -1, directory)
