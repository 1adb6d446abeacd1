# SPDX-License-Identifier: Apache-2.0
"""Workers: the processes that do the work of operations, a limited number at once.

A worker tells what it does in JSON lines (:mod:`cloudlet_ext.job.channel`). It outlives nova-compute: one that feeds a
guest must go on when nova-compute is restarted, and leaves its last word in a file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oslo_log import log as logging

from cloudlet_ext.hypervisor.process import start_ticks
from cloudlet_ext.nova.spare_workers import Process

LOG = logging.getLogger(__name__)

_KILL_AFTER_S = 20.0

Event = dict[str, Any]


class WorkerFailed(Exception):
    """A worker ended without having done its job; the message is for whoever asked for it."""


class Slots:
    """How many workers run, and who waits; first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._changed = threading.Condition()
        self._waiting: list[object] = []
        self._running = 0

    @property
    def running(self) -> int:
        """Workers that run."""
        return self._running

    @property
    def queued(self) -> int:
        """Operations that wait."""
        return len(self._waiting)

    @property
    def is_free(self) -> bool:
        """Whether one that comes now need not wait."""
        with self._changed:
            return self._running < self.limit and not self._waiting

    def take(self, cancelled: threading.Event, patience_s: float = math.inf) -> bool:
        """Wait for a place; False when the operation was cancelled meanwhile.

        :class:`WorkerFailed` when none was free in ``patience_s``.
        """
        ticket, deadline = object(), time.monotonic() + patience_s
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._running >= self.limit or self._waiting[0] is not ticket:
                    if cancelled.is_set():
                        return False
                    if time.monotonic() >= deadline:
                        raise WorkerFailed(self._too_long(self._waiting.index(ticket), patience_s))
                    self._changed.wait(0.5)
                self._running += 1
                return True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _too_long(self, waiting: int, patience_s: float) -> str:
        return (
            f"The compute host is busy: after {patience_s:.0f} s, {self._running} operations run and {waiting} wait "
            f"before this one. Try again later; [cloudlet] max_workers there is {self.limit}."
        )

    def give_back(self) -> None:
        """A worker has ended."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()


class Worker:
    """A worker process at its job. ``on_event`` hears every event, in a thread of this object."""

    def __init__(self, process: Process, job: dict[str, Any], on_event: Callable[[Event], None]) -> None:
        self._last_word = Path(job["last_word"])
        self._last_word.unlink(missing_ok=True)
        self._process = process
        self._on_event = on_event
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.pid = self._process.pid
        self.identity = (self.pid, start_ticks(self.pid) or 0)
        self._send(job)
        self._thread = threading.Thread(target=self._listen, name=f"cloudlet-worker-{self.pid}", daemon=True)
        self._thread.start()

    def _send(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            LOG.warning("Worker %d is gone and was not told of %s", self.pid, line.get("control", "its job"))

    def control(self, name: str, **facts: Any) -> None:
        """Tell the worker."""
        self._send({"control": name, **facts})

    def wait(self, names: set[str], timeout_s: float) -> Event:
        """The next event of these names; :class:`WorkerFailed` when the worker fails or ends before."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise WorkerFailed(f"The worker took longer than {timeout_s:.0f} s.") from None
            if event is None:
                raise WorkerFailed(f"The worker process ended early, with status {self._process.wait()}.")
            if event["event"] == "failed":
                raise WorkerFailed(str(event.get("error")))
            if event["event"] in names:
                return event

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Have it undo what it has begun, and wait until it has."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            LOG.warning("Worker %d does not end, it is killed", self.pid)
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = parse_event(line)
            if event is None:
                continue
            try:
                self._on_event(event)
            except Exception:
                LOG.exception("Event %s of worker %d", event.get("event"), self.pid)
            self._events.put(event)
        self._process.wait()
        self._events.put(None)


class Orphan:
    """A worker of an earlier nova-compute, which goes on."""

    def __init__(self, identity: tuple[int, int]) -> None:
        self._identity = identity

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more."""
        pid, started = self._identity
        return start_ticks(pid) != started

    def wait(self, poll_s: float = 1.0) -> None:
        """Wait until it has ended."""
        while not self.has_ended:
            time.sleep(poll_s)

    def end(self) -> None:
        """Have it undo what it has begun, and wait until it has."""
        pid, _ = self._identity
        for number, patience_s in ((signal.SIGTERM, _KILL_AFTER_S), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + patience_s
            with contextlib.suppress(ProcessLookupError):
                if not self.has_ended:
                    os.kill(pid, number)
            while not self.has_ended and time.monotonic() < deadline:
                time.sleep(0.1)


def parse_event(line: str) -> Event | None:
    """One event; None for what is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def last_word(path: Path) -> Event | None:
    """What a worker said last, from the file that it leaves."""
    with contextlib.suppress(OSError):
        return parse_event(path.read_text())
    return None


__all__ = ["Event", "Orphan", "Slots", "Worker", "WorkerFailed", "last_word"]
