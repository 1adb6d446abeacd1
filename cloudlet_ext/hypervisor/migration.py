# SPDX-License-Identifier: Apache-2.0
"""Migrate a guest out of QEMU into a file: the live part, the switch, the drain."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.hypervisor import errors
from cloudlet_ext.hypervisor.capture import CapturedMemory, StreamDrain, blocks_of, parse
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.guest import GuestMonitor, GuestProcess
from cloudlet_ext.hypervisor.stream import RamBlock

LOG = logging.getLogger(__name__)

SOCKET_NAME = "capture.sock"

_HINT_BANDWIDTH = 4096
"""Bytes/s while the guest names its free pages: the stream must not overtake it."""

_HINT_LIMIT_S = 1.5
_HINT_QUIET_S = 0.08
_HINT_STEP_BYTES = 1 << 20
"""The guest has named its free pages when less than this was added for ``_HINT_QUIET_S``; a 256 MiB guest under
emulation needs 0.16 s."""

_DOWNTIME_LIMIT_MS = 20
_LIVE_LIMIT_S = 20.0
_TIMEOUT_S = 600.0
_SILENCE_LIMIT_S = 60.0
_CANCEL_LIMIT_S = 10.0
_SETTLED = {"completed", "failed", "cancelled"}


CheckBlocks = Callable[[tuple[RamBlock, ...]], None]
"""Raises when memory blocks are not as they must be."""


@dataclass(frozen=True)
class CapturedState:
    """A captured guest. ``paused_at``: time.monotonic() when it stopped; ``was_running`` before the capture."""

    memory: CapturedMemory
    state: DeviceState
    paused_at: float
    was_running: bool


@contextmanager
def captured(
    process: GuestProcess,
    monitor: GuestMonitor,
    scratch: Path,
    progress: Callable[[int, int], None],
    check: CheckBlocks | None = None,
) -> Iterator[CapturedState]:
    """Take the state of a guest; inside the block it is paused (QEMU state ``postmigrate``), disks are flushed.

    The guest runs while most of its memory is copied, unless it dirties memory faster than that. After a failure
    it runs on as before. The caller decides how it goes on after the capture. A guest of which ``check`` does not like
    the memory blocks is not paused.
    """
    path = process.directory / SOCKET_NAME
    path.unlink(missing_ok=True)
    status = monitor.status()
    was_running = status == "running"
    if status == "postmigrate":
        # QEMU captures no guest that stands still since it was captured: let it run for a moment.
        monitor.execute("cont")
        monitor.execute("stop")
    drain = StreamDrain(path, scratch)
    try:
        process.admit(path)
        paused_at = _migrate(process, monitor, drain, was_running, progress, check)
        memory, state = parse(drain.finish(_TIMEOUT_S), scratch)
        yield CapturedState(memory, state, paused_at, was_running)
    except BaseException as failure:
        _give_up(process, monitor, was_running)
        if isinstance(failure, errors.MonitorFailed) and process.ended():
            raise process.died("its state was captured") from failure
        raise
    finally:
        drain.close()


def _migrate(
    process: GuestProcess,
    monitor: GuestMonitor,
    drain: StreamDrain,
    live: bool,
    progress: Callable[[int, int], None],
    check: CheckBlocks | None,
) -> float:
    # On after an early start; QEMU would wait for a return path, which nobody here answers on.
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": False}])
    bandwidth = _HINT_BANDWIDTH if live else 0
    monitor.execute("migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=_DOWNTIME_LIMIT_MS)
    began = time.monotonic()
    monitor.execute("migrate", uri=process.address(SOCKET_NAME))
    if live:
        _wait_for_hints(monitor)
        if check is not None:
            _check_blocks(drain, check)
        monitor.execute("migrate-set-parameters", max_bandwidth=0)
    stopped: float | None = None if live else began
    silence = _Silence()
    while True:
        info = monitor.execute("query-migrate")
        status = info.get("status")
        ram = info.get("ram", {})
        progress(drain.bytes_drained, drain.bytes_drained + int(ram.get("remaining", 0)))
        if status in _SETTLED:
            break
        drain.check()
        silence.check(drain.bytes_drained, str(status))
        if stopped is None and time.monotonic() - began > _LIVE_LIMIT_S:
            # It dirties memory faster than it can be copied: it has to wait after all.
            stopped = time.monotonic()
            monitor.execute("stop")
        time.sleep(0.003)
    drain.check()
    if status != "completed":
        raise errors.CaptureFailed(reason=info.get("error-desc") or f"migration {status}")
    if stopped is None:
        stopped = time.monotonic() - int(info.get("downtime", 0)) / 1000
    return stopped


class _Silence:
    """Notices that a stream goes on no more."""

    def __init__(self) -> None:
        self._seen, self._since = -1, 0.0

    def check(self, drained: int, status: str) -> None:
        """:class:`errors.CaptureFailed` when nothing has come for too long."""
        now = time.monotonic()
        if drained != self._seen:
            self._seen, self._since = drained, now
        elif now - self._since > _SILENCE_LIMIT_S:
            raise errors.CaptureFailed(reason=f"QEMU, in state {status}, sent nothing for {_SILENCE_LIMIT_S:.0f} s")


def _wait_for_hints(monitor: GuestMonitor) -> None:
    """Wait until the guest's balloon driver has named the free memory (a guest without one names nothing)."""
    began = quiet_since = time.monotonic()
    lowest: int | None = None
    while time.monotonic() - began < _HINT_LIMIT_S and time.monotonic() - quiet_since < _HINT_QUIET_S:
        remaining = monitor.execute("query-migrate").get("ram", {}).get("remaining")
        if remaining is not None and (lowest is None or remaining < lowest - _HINT_STEP_BYTES):
            lowest = remaining
            quiet_since = time.monotonic()
        time.sleep(0.01)


def _check_blocks(drain: StreamDrain, check: CheckBlocks) -> None:
    """Have the blocks looked at. They come with the first bytes; should they be late, the caller finds them later."""
    try:
        blocks = blocks_of(drain.head())
    except errors.BadStream:
        return
    check(blocks)


def _give_up(process: GuestProcess, monitor: GuestMonitor, was_running: bool) -> None:
    """Let the guest go on as before."""
    try:
        monitor.execute("migrate_cancel")
        deadline = time.monotonic() + _CANCEL_LIMIT_S
        while monitor.execute("query-migrate").get("status", "none") not in {*_SETTLED, "none"}:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if was_running and monitor.status() in {"paused", "postmigrate"}:
            monitor.execute("cont")
    except errors.MonitorFailed as failure:
        # What went wrong before is told; this as well, where it may be looked for.
        if not process.ended():
            LOG.warning("The guest in %s could not be let go on: %s", process.directory, failure)
