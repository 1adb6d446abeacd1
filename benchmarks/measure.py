# SPDX-License-Identifier: Apache-2.0
"""Time and memory of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

_SAMPLE_S = 0.02


@dataclass(frozen=True)
class Memory:
    """Bytes. ``anonymous``: resident memory less maps of files (they can be dropped at any time); ``resident``: all."""

    anonymous: int = 0
    resident: int = 0


@dataclass(frozen=True)
class Measured:
    """A process that has ended well."""

    wall_s: float
    peak: Memory


class ProcessFailed(Exception):
    """A measured process ended badly, or not in time."""


def memory_of(pid: int) -> Memory:
    """What a process uses now; nothing when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return Memory()
    values = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in ("RssAnon", "VmRSS"):
            values[name] = int(rest.split()[0]) * 1024
    return Memory(values.get("RssAnon", 0), values.get("VmRSS", 0))


def proportional_bytes(pid: int) -> int:
    """Proportional set size: a page that n processes map counts for one n-th."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessFailed(f"process {pid} tells no proportional set size")


class PeakMemory:
    """Samples the memory of one process while the ``with`` block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak memory", daemon=True)
        self.peak = Memory()

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            now = memory_of(self._pid)
            self.peak = Memory(max(self.peak.anonymous, now.anonymous), max(self.peak.resident, now.resident))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started in a session of its own, and what it started there."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: Sequence[str | Path], timeout_s: float, *, stdin: IO[bytes] | int = subprocess.DEVNULL) -> Measured:
    """Run a command to its end; :class:`ProcessFailed` holds the end of what it wrote to standard error."""
    began = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with PeakMemory(process.pid) as watched:
            try:
                _, said = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                raise ProcessFailed(f"{command[0]} did not end within {timeout_s:.0f} s") from None
    finally:
        end(process)
    if process.returncode:
        text = said.decode(errors="replace").strip()[-500:]
        raise ProcessFailed(f"{command[0]} ended with status {process.returncode}: {text}")
    return Measured(time.monotonic() - began, watched.peak)
