# SPDX-License-Identifier: Apache-2.0
"""Spare workers: processes that have loaded everything already and wait for a job, since that takes a second or two."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Sequence

Process = subprocess.Popen[str]


def launch(command: Sequence[str]) -> Process:
    """A worker process, which reads its job from its standard input; it ends when that is closed before."""
    return subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        close_fds=True,
    )


class SpareWorkers:
    """Up to ``limit`` spare processes of ``command``; safe for threads."""

    def __init__(self, command: Sequence[str], limit: int) -> None:
        self._command, self._limit = tuple(command), limit
        self._lock = threading.Lock()
        self._spares: list[Process] = []
        self._is_open = True

    def take(self) -> Process:
        """A process for a job: a spare one, or else one that has still to load."""
        with self._lock:
            while self._spares:
                spare = self._spares.pop(0)
                if spare.poll() is None:
                    return spare
                _dismiss(spare)
        return launch(self._command)

    def fill(self) -> None:
        """Start what is missing. To be called when there is time: a process that loads takes a core for a second."""
        with self._lock:
            while self._is_open and len(self._spares) < self._limit:
                self._spares.append(launch(self._command))

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            self._is_open = False
            for spare in self._spares:
                _dismiss(spare)
            self._spares.clear()


def _dismiss(spare: Process) -> None:
    for pipe in (spare.stdin, spare.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    spare.wait()
