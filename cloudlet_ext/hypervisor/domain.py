# SPDX-License-Identifier: Apache-2.0
"""A guest that libvirt runs: its monitor by libvirt's pass-through, its process by its domain.

libvirt goes on owning the domain; what is passed through (migration to and from a unix socket) it does not offer.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from cloudlet_ext.hypervisor import access, domain_xml, errors, unix_socket
from cloudlet_ext.hypervisor.qmp import Pending

_GONE = {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}
_AGENT_REFUSES = {getattr(libvirt, "VIR_ERR_AGENT_COMMAND_FAILED", None), libvirt.VIR_ERR_INTERNAL_ERROR}
"""The first one since libvirt 9."""
_LOGS = Path("/var/log/libvirt/qemu")
_LOG_LINES = 8
_COMMAND_THREADS = 2
_RETRIES_S = 30.0
"""libvirt serves one request for a domain at a time; who comes second waits, by its own rule, 30 s."""


def connect(uri: str = "qemu:///system") -> libvirt.virConnect:
    """A connection to libvirt; :class:`errors.MonitorFailed`."""
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as failure:
        raise errors.MonitorFailed(command="connect", reason=f"libvirt at {uri}: {failure}") from failure


def find(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain:
    """A domain; :class:`errors.QemuDied` when there is none."""
    try:
        return connection.lookupByUUIDString(uuid)
    except libvirt.libvirtError as failure:
        raise errors.QemuDied(stage="being looked for", reason=str(failure)) from failure


def qemu_ids(connection: libvirt.virConnect) -> tuple[int | None, int | None]:
    """User and group ids as which libvirt runs QEMU (None: it does not say, as where it is not root's)."""
    return domain_xml.qemu_ids(connection.getCapabilities())


def qemu_user(connection: libvirt.virConnect) -> int | None:
    """The user id alone."""
    return qemu_ids(connection)[0]


@contextlib.contextmanager
def shared_folder(connection: libvirt.virConnect, parent: Path, name: str) -> Iterator[Path]:
    """A folder for sockets between this process and QEMU, which may be another user; it goes with the block.

    ``name`` is what its name begins with. Nobody else may enter it; both may make sockets in it.
    :class:`errors.FolderUnusable`, NotGranted.
    """
    folder = parent / f"{name}-{secrets.token_hex(4)}"
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        folder.mkdir(mode=0o700)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise errors.FolderUnusable(path=str(folder), reason=reason, parent=str(parent), user=os.geteuid()) from failure
    try:
        user = qemu_user(connection)
        access.let_pass(parent, user)
        access.grant(folder, user, access.READ | access.WRITE | access.PASS)
        access.grant_inside(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class DomainMonitor:
    """QEMU's monitor of a domain."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain
        self._threads = ThreadPoolExecutor(_COMMAND_THREADS, thread_name_prefix="domain-monitor")

    def submit(self, command: str, **arguments: Any) -> Pending:
        """Send a command and do not wait; libvirt sends a second one when the first has its answer."""
        return Pending(command, self._threads.submit(self._run, command, arguments))

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command; :class:`errors.MonitorRefused` holds QEMU's own words, MonitorFailed those of libvirt."""
        return self._run(command, arguments)

    def status(self) -> str:
        """QEMU's run state."""
        return str(self.execute("query-status")["status"])

    def wait_status(self, wanted: set[str], timeout_s: float) -> str:
        """Poll until the run state is one of ``wanted``."""
        deadline = time.monotonic() + timeout_s
        while (status := self.status()) not in wanted:
            if time.monotonic() > deadline:
                reason = f"state {status} after {timeout_s:.0f} s, expected {' or '.join(sorted(wanted))}"
                raise errors.MonitorFailed(command="query-status", reason=reason)
            time.sleep(0.01)
        return status

    def agent(self, command: str, timeout_s: int, **arguments: Any) -> Any:
        """Ask the guest agent; :class:`errors.AgentRefused` holds its own words, AgentSilent those of libvirt."""
        request = json.dumps({"execute": command, "arguments": arguments})
        try:
            said = libvirt_qemu.qemuAgentCommand(self._domain, request, timeout_s, 0)
        except libvirt.libvirtError as failure:
            if failure.get_error_code() in _AGENT_REFUSES:
                raise errors.AgentRefused(command=command, reason=str(failure)) from failure
            raise errors.AgentSilent(reason=str(failure)) from failure
        return json.loads(said)["return"]

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, command: str, arguments: dict[str, Any]) -> Any:
        request = {
            "execute": command,
            "arguments": {name.replace("_", "-"): value for name, value in arguments.items()},
        }
        deadline = time.monotonic() + _RETRIES_S
        while True:
            try:
                said = json.loads(libvirt_qemu.qemuMonitorCommand(self._domain, json.dumps(request), 0))
                break
            except libvirt.libvirtError as failure:
                is_busy = failure.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT
                if not is_busy or time.monotonic() > deadline:
                    raise errors.MonitorFailed(command=command, reason=str(failure)) from failure
        if "error" in said:
            raise errors.MonitorRefused(command=command, reason=said["error"].get("desc", str(said["error"])))
        return said["return"]


class DomainProcess:
    """The QEMU process of a domain; ``directory`` holds the sockets that are shared with it."""

    def __init__(self, domain: libvirt.virDomain, directory: Path) -> None:
        self._domain = domain
        self.directory = directory

    def address(self, socket_name: str) -> str:
        """A socket of ``directory`` by its full name: libvirt's QEMU runs elsewhere."""
        return f"unix:{self.directory / socket_name}"

    def admit(self, path: Path) -> None:
        """Let QEMU's user connect to a socket of this process."""
        path.chmod(unix_socket.SHARED)

    @property
    def alive(self) -> bool:
        """Whether the domain runs, or stands still."""
        try:
            return bool(self._domain.isActive())
        except libvirt.libvirtError as failure:
            if failure.get_error_code() in _GONE:
                return False
            raise errors.MonitorFailed(command="isActive", reason=str(failure)) from failure

    def ended(self, within_s: float = 1.0) -> bool:
        """Whether it is gone, now or shortly."""
        deadline = time.monotonic() + within_s
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def died(self, stage: str) -> errors.QemuDied:
        """The error that tells that it ended in a stage."""
        return errors.QemuDied(stage=stage, reason=self._log_tail())

    def _log_tail(self) -> str:
        """What QEMU said last, where this process may read libvirt's log of the domain."""
        path = _LOGS / f"{self._domain.name()}.log"
        try:
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            return f"{path} has the reason"
        said = [line for line in lines if "qemu-system" in line and "-name guest=" not in line]
        return "; ".join(line.split("qemu-system-x86_64: ", 1)[-1] for line in said) or "no message"
