# SPDX-License-Identifier: Apache-2.0
"""A guest as the data plane sees it, whoever runs its QEMU: this package (process, qmp) or libvirt (domain)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class PendingAnswer(Protocol):
    """A command that was sent to a monitor."""

    def done(self, within_s: float) -> bool:
        """Whether it has an answer now or shortly."""
        ...

    def result(self, timeout_s: float) -> Any:
        """The answer; :class:`errors.MonitorFailed` holds QEMU's own words when it refuses."""
        ...


class GuestMonitor(Protocol):
    """QEMU's monitor."""

    def submit(self, command: str, **arguments: Any) -> PendingAnswer:
        """Send a command and do not wait."""
        ...

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command; :class:`errors.MonitorFailed` holds QEMU's own words when it refuses."""
        ...

    def status(self) -> str:
        """QEMU's run state."""
        ...

    def wait_status(self, wanted: set[str], timeout_s: float) -> str:
        """Poll until the run state is one of ``wanted``."""
        ...


class GuestProcess(Protocol):
    """The QEMU process of a guest."""

    @property
    def directory(self) -> Path:
        """Where sockets that it shares with us are."""
        ...

    def address(self, socket_name: str) -> str:
        """A socket of ``directory`` as QEMU is to call it (``unix:...``)."""
        ...

    def admit(self, path: Path) -> None:
        """Let QEMU use a socket in ``directory`` that this process has made."""
        ...

    def ended(self, within_s: float = 1.0) -> bool:
        """Whether it is gone, now or shortly."""
        ...

    def died(self, stage: str) -> Exception:
        """The error that tells that it ended in a stage."""
        ...


class Guest(Protocol):
    """A guest: its monitor and its process."""

    @property
    def monitor(self) -> GuestMonitor:
        """QEMU's monitor."""
        ...

    @property
    def process(self) -> GuestProcess:
        """QEMU's process."""
        ...
