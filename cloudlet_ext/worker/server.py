# SPDX-License-Identifier: Apache-2.0
"""Servers: guests that run on a base, each a QEMU process in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.output import no_space_named
from cloudlet_ext.hypervisor import command_line, log_keeper, process, qemu
from cloudlet_ext.hypervisor.errors import HypervisorError, MonitorFailed
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.hypervisor.process import QemuProcess
from cloudlet_ext.hypervisor.qmp import Monitor
from cloudlet_ext.worker import errors
from cloudlet_ext.worker.home import Home, check_name

RECORD_NAME = "server.json"
DISK_NAME = "disk.qcow2"
FILL_NAME = "fill.qcow2"
AGENT_NAME = "agent.sock"
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class ServerRecord:
    """What is remembered of a server. ``layers``: its own disk layers, top first, above the base's disk.

    ``state``: ``starting`` while the process ``owner`` (pid, start) brings it up, then ``running``.
    """

    name: str
    base: str | None
    base_id: str | None
    machine: dict[str, Any]
    mac: str
    placement: str
    layers: tuple[str, ...] = (DISK_NAME,)
    pid: int = 0
    started: int = 0
    isolated: bool = False
    state: str = "starting"
    owner: tuple[int, int] = (0, 0)
    forwards: dict[str, int] = field(default_factory=dict)


def new_mac() -> str:
    """A random address from QEMU's range."""
    return "52:54:00:" + ":".join(f"{octet:02x}" for octet in secrets.token_bytes(3))


def new_name(prefix: str) -> str:
    """A name that is not in use, like ``prefix`` as far as that could be one."""
    likeness = re.sub(r"[^A-Za-z0-9._-]+", "-", prefix).lstrip("._-")[:48]
    return f"{likeness or 'server'}-{secrets.token_hex(3)}"


class Server:
    """A server's folder and process."""

    def __init__(self, home: Home, record: ServerRecord) -> None:
        self.home = home
        self.record = record
        self._monitor: Monitor | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def folder(self) -> Path:
        """Where its disk, sockets and logs are."""
        return self.home.servers / self.record.name

    @property
    def process(self) -> QemuProcess:
        """Its QEMU."""
        return QemuProcess(self.record.pid, self.record.started, self.folder)

    @property
    def machine(self) -> MachineDescription:
        """Its machine description."""
        return MachineDescription.from_dict(self.record.machine)

    @property
    def agent_path(self) -> Path:
        """Socket of the guest agent."""
        return self.folder / AGENT_NAME

    @property
    def console_path(self) -> Path:
        """What the guest wrote last to its serial console; :mod:`cloudlet_ext.worker.console` reads more."""
        return self.folder / log_keeper.CONSOLE_NAME

    @property
    def layers(self) -> list[Path]:
        """Its disk layers, top first."""
        return [self.folder / name for name in self.record.layers]

    @property
    def monitor(self) -> Monitor:
        """Its monitor, connected at first use."""
        if self._monitor is None:
            running = self.process
            # A QEMU that starts may first read from a disk that is still on its way.
            start_s = _START_TIMEOUT_S if self.record.state == "starting" else None
            try:
                self._monitor = Monitor(running.monitor_path, alive=lambda: running.alive, start_timeout_s=start_s)
            except (MonitorFailed, OSError) as failure:
                if running.ended():
                    raise errors.ServerGone(name=self.name, reason=running.log_tail()) from failure
                raise
        return self._monitor

    def update(self, **changes: Any) -> None:
        """Change the record, on disk too."""
        self.record = replace(self.record, **changes)
        text = json.dumps(asdict(self.record), indent=1)
        partial = self.folder / f".{RECORD_NAME}"
        with no_space_named(self.folder):
            partial.write_text(text)
        partial.rename(self.folder / RECORD_NAME)

    def launch(self, files: command_line.Files, *, incoming: bool) -> None:
        """Start its QEMU; the monitor answers when this returns."""
        found = qemu.find(self.home.qemu_cache)
        qemu.require_machine_type(found, self.machine.machine_type)
        arguments = command_line.command_line(
            self.machine.with_mac(self.record.mac),
            files,
            generation=str(uuid.uuid4()),
            incoming=incoming,
            isolated=self.record.isolated,
        )
        running = process.spawn(found.binary, arguments, self.folder)
        self.update(pid=running.pid, started=running.started)
        try:
            _ = self.monitor
        except (HypervisorError, errors.ServerGone) as failure:
            if running.ended():
                raise running.died("starting") from failure
            raise

    def forward(self, guest_port: int, host_port: int = 0) -> int:
        """Forward a TCP port of 127.0.0.1 to a port of the guest; the host's port (a free one for 0)."""
        known = self.record.forwards.get(str(guest_port))
        if known is not None and host_port in (0, known):
            return known
        port = host_port or _free_port()
        answer = self.monitor.human(f"hostfwd_add net0 tcp:127.0.0.1:{port}-:{guest_port}")
        if answer.strip():
            raise errors.ForwardFailed(name=self.name, host=port, guest=guest_port, reason=answer.strip())
        self.update(forwards={**self.record.forwards, str(guest_port): port})
        return port

    @contextlib.contextmanager
    def end_named(self) -> Iterator[None]:
        """What fails in the block because its QEMU has ended fails as that: :class:`errors.ServerGone`."""
        try:
            yield
        except MonitorFailed as failure:
            if not self.process.ended():
                raise
            raise errors.ServerGone(name=self.name, reason=self.process.log_tail()) from failure

    def require_alive(self, stage: str) -> None:
        """Raise what ended its QEMU, if it has ended, in ``stage``."""
        if self.process.ended(0.0):
            raise self.process.died(stage)

    def close(self) -> None:
        """Leave it running; close what this process has open of it."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def destroy(self) -> None:
        """End its QEMU and remove its folder."""
        self.close()
        # Without a pid its maker was interrupted right after it had started QEMU.
        for running in [self.process] if self.record.pid else process.running_in(self.folder):
            running.kill()
        # Nobody writes to the folder while it is removed.
        log_keeper.ended(self.folder)
        # Whole or not at all: half a folder would have a name that nothing else knows any more.
        gone = self.home.servers / f".{self.name}.{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def create(
    home: Home, name: str, machine: MachineDescription, placement: str, base_name: str | None, base: Base | None
) -> Server:
    """Make the folder and the record of a new server; nothing runs yet."""
    check_name("server", name)
    folder = home.servers / name
    clean_leftovers(home)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise errors.NameTaken(what="server", name=name) from None
    started = process.start_ticks(os.getpid())
    record = ServerRecord(
        name=name,
        base=base_name,
        base_id=base.base_id if base is not None else None,
        machine=machine.to_dict(),
        # Without an agent nobody could tell the guest of an address of its own.
        mac=new_mac() if base is not None and machine.agent else machine.mac,
        placement=placement,
        owner=(os.getpid(), started or 0),
    )
    server = Server(home, record)
    try:
        server.update()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return server


@contextlib.contextmanager
def undone_on_failure(server: Server) -> Iterator[Server]:
    """Destroy the server when the block does not end well, whatever the reason."""
    try:
        with server.end_named():
            yield server
    except BaseException:
        server.destroy()
        raise
    server.close()


def names(home: Home) -> list[str]:
    """Names of all servers, sorted."""
    folders = (entry for entry in home.servers.iterdir() if not entry.name.startswith("."))
    return sorted(entry.name for entry in folders if (entry / RECORD_NAME).exists())


def load(home: Home, name: str) -> Server:
    """A server by its name, running or not."""
    check_name("server", name)
    try:
        values = json.loads((home.servers / name / RECORD_NAME).read_text())
    except FileNotFoundError:
        raise errors.NotFound(what="server", name=name, known=", ".join(names(home)) or "none") from None
    values["layers"] = tuple(values["layers"])
    values["owner"] = tuple(values["owner"])
    return Server(home, ServerRecord(**values))


def load_running(home: Home, name: str) -> Server:
    """A server whose QEMU runs; :class:`errors.ServerGone` when it does not."""
    server = load(home, name)
    if not server.process.alive:
        raise errors.ServerGone(name=name, reason=server.process.log_tail())
    return server


def clean_leftovers(home: Home) -> list[str]:
    """Remove servers whose maker was killed before they ran; their names.

    A guest that starts early depends on the process that feeds it: without it, it can never go on.
    """
    for gone in home.servers.glob(".*"):
        shutil.rmtree(gone, ignore_errors=True)
    removed = []
    for name in names(home):
        try:
            server = load(home, name)
        except (errors.WorkerError, ValueError, TypeError):
            continue
        pid, started = server.record.owner
        if server.record.state == "starting" and process.start_ticks(pid) != started:
            server.destroy()
            removed.append(name)
    return removed


def wait_until_gone(server: Server, timeout_s: float) -> bool:
    """Whether its QEMU ends within the time."""
    deadline = time.monotonic() + timeout_s
    while server.process.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
