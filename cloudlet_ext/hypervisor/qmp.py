# SPDX-License-Identifier: Apache-2.0
"""The monitor of a QEMU process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from cloudlet_ext.hypervisor import errors


class Monitor:
    """One QMP connection; commands may come from several threads, one at a time.

    The socket is reached through its directory's descriptor: the path of a unix socket is limited to 107 bytes, the
    path of a server's directory is not.
    """

    def __init__(self, socket_path: Path, timeout_s: float = 10.0, alive: Callable[[], bool] | None = None) -> None:
        self._directory = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY)
        self._lock = threading.Lock()
        self._protocol: QEMUMonitorProtocol | None = None
        try:
            self._connect(socket_path, timeout_s, alive or (lambda: True))
        except BaseException:
            os.close(self._directory)
            raise

    def _connect(self, socket_path: Path, timeout_s: float, alive: Callable[[], bool]) -> None:
        address = f"/proc/self/fd/{self._directory}/{socket_path.name}"
        deadline = time.monotonic() + timeout_s
        while True:
            protocol = QEMUMonitorProtocol(address)
            try:
                protocol.settimeout(max(1.0, timeout_s))
                protocol.connect(negotiate=True)
            except (QMPError, OSError) as failure:
                protocol.close()
                if not alive() or time.monotonic() > deadline:
                    raise errors.MonitorFailed(command="connect", reason=str(failure)) from failure
                time.sleep(0.01)
            else:
                self._protocol = protocol
                return

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command; :class:`errors.MonitorFailed` holds QEMU's own words when it refuses."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self._lock:
            if self._protocol is None:
                raise errors.MonitorFailed(command=command, reason="the monitor is closed")
            try:
                return self._protocol.cmd(command, **arguments)
            except ExecuteError as failure:
                raise errors.MonitorRefused(command=command, reason=str(failure)) from failure
            except (QMPError, OSError, TimeoutError) as failure:
                reason = str(failure) or type(failure).__name__
                raise errors.MonitorFailed(command=command, reason=reason) from failure

    def human(self, line: str) -> str:
        """Run a command of the human monitor, for what QMP does not offer."""
        answer = self.execute("human-monitor-command", command_line=line)
        return str(answer)

    def status(self) -> str:
        """QEMU's run state, for instance ``running``, ``paused``, ``inmigrate``, ``postmigrate``."""
        return str(self.execute("query-status")["status"])

    def wait_status(self, wanted: set[str], timeout_s: float) -> str:
        """Poll until the run state is one of ``wanted``."""
        deadline = time.monotonic() + timeout_s
        pause = 0.001
        while True:
            status = self.status()
            if status in wanted:
                return status
            if time.monotonic() > deadline:
                raise errors.MonitorFailed(
                    command="query-status",
                    reason=f"state {status} after {timeout_s:.0f} s, expected {' or '.join(sorted(wanted))}",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        with self._lock:
            if self._protocol is not None:
                self._protocol.close()
                self._protocol = None
                os.close(self._directory)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
