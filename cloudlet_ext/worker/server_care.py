# SPDX-License-Identifier: Apache-2.0
"""Care of servers that are there: what they are doing, stopping them, letting them go on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.hypervisor import process
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.hypervisor.qmp import Monitor
from cloudlet_ext.worker import errors, server
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.server import Server

RUNNING, PAUSED, STARTING, BUSY, GONE = "running", "paused", "starting", "busy", "gone"
_MONITOR_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class ServerFacts:
    """A server as it is now. Sizes in bytes; ``forwards``: guest port -> host port; ``age_s``: since QEMU began.

    ``state``: ``running``, ``paused``, ``starting`` (a process brings it up), ``busy`` (an operation has it), ``gone``
    (its QEMU has ended; what is left of it is in its folder).
    """

    name: str
    base: str | None
    base_id: str | None
    state: str
    placement: str
    vcpus: int
    memory_bytes: int
    disk_bytes: int
    mac: str
    forwards: dict[str, int]
    folder: Path
    pid: int | None
    age_s: float | None


def state(guest: Server) -> str:
    """What a server is doing."""
    pid, started = guest.record.owner
    if guest.record.state == "starting":
        return STARTING if process.start_ticks(pid) == started else GONE
    if not guest.process.alive:
        return GONE
    if guest.home.is_locked("server", guest.name):
        return BUSY
    try:
        with Monitor(guest.process.monitor_path, _MONITOR_TIMEOUT_S, lambda: guest.process.alive) as monitor:
            # "postmigrate" is how QEMU calls a guest that was captured and did not go on.
            return RUNNING if monitor.status() == "running" else PAUSED
    except (HypervisorError, OSError):
        # A monitor has one client at a time.
        return BUSY if guest.process.alive else GONE


def describe(guest: Server) -> ServerFacts:
    """All that can be told of a server."""
    record, machine = guest.record, guest.machine
    is_alive = guest.process.alive
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return ServerFacts(
        name=guest.name,
        base=record.base,
        base_id=record.base_id,
        state=state(guest),
        placement=record.placement,
        vcpus=machine.vcpus,
        memory_bytes=machine.memory_bytes,
        disk_bytes=machine.disk_bytes,
        mac=record.mac,
        forwards=record.forwards,
        folder=guest.folder,
        pid=record.pid if is_alive else None,
        age_s=uptime_s - record.started / os.sysconf("SC_CLK_TCK") if is_alive else None,
    )


def resident_bytes(guest: Server) -> tuple[int, int] | None:
    """Memory of this host that a server uses: its proportional share, and the part that it shares. None when gone."""
    try:
        lines = Path(f"/proc/{guest.record.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return sizes.get("Pss", 0), sizes.get("Shared_Clean", 0) + sizes.get("Shared_Dirty", 0)


def stop_server(home: Home, name: str) -> None:
    """End a server and remove its folder. :class:`errors.Busy` while another operation has it."""
    with home.lock("server", name):
        guest = server.load(home, name)
        if is_being_started(guest):
            raise errors.Busy(what="server", name=name, pid=guest.record.owner[0])
        guest.destroy()


def is_being_started(guest: Server) -> bool:
    """Whether another process is bringing the server up at present."""
    pid, started = guest.record.owner
    return guest.record.state == "starting" and pid != os.getpid() and process.start_ticks(pid) == started


def resume_server(home: Home, name: str) -> bool:
    """Let a paused server go on; False when it was running already."""
    with home.lock("server", name):
        guest = _started(home, name)
        try:
            if guest.monitor.status() == "running":
                return False
            guest.monitor.execute("cont")
        finally:
            guest.close()
    return True


def forward(home: Home, name: str, guest_port: int, host_port: int) -> int:
    """Forward a port of 127.0.0.1 (0: a free one) to a port of a running server; the host's port."""
    with home.lock("server", name):
        guest = _started(home, name)
        try:
            return guest.forward(guest_port, host_port)
        finally:
            guest.close()


def _started(home: Home, name: str) -> Server:
    """A server that is up; :class:`errors.Busy` while it is brought up."""
    guest = server.load_running(home, name)
    if is_being_started(guest):
        raise errors.Busy(what="server", name=name, pid=guest.record.owner[0])
    return guest


def undo_own(home: Home) -> list[str]:
    """Remove the servers that this process has made, or was making, when it was interrupted; their names."""
    own = (os.getpid(), process.start_ticks(os.getpid()))
    removed = []
    for name in server.names(home):
        try:
            guest = server.load(home, name)
        except (errors.WorkerError, ValueError, TypeError):
            continue
        if guest.record.owner == own:
            guest.destroy()
            removed.append(name)
    return removed
