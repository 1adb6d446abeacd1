# SPDX-License-Identifier: Apache-2.0
"""The guest of a job: a libvirt domain that nova-compute owns."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from cloudlet_ext.hypervisor import domain, domain_xml
from cloudlet_ext.hypervisor.domain import DomainMonitor, DomainProcess
from cloudlet_ext.hypervisor.domain_xml import DomainMachine
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.job import errors

_AGENT_TIMEOUT_S = 3
_POWERED_OFF = [
    [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED],
    [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN],
]


@dataclass(frozen=True)
class DomainGuest:
    """A running domain, its monitor, and a folder shared with its QEMU."""

    handle: libvirt.virDomain
    monitor: DomainMonitor
    process: DomainProcess

    @property
    def description(self) -> str:
        """The description of the domain as it runs."""
        return str(self.handle.XMLDesc(0))

    def machine(self) -> DomainMachine:
        """The machine that the guest sees."""
        return replace(domain_xml.describe(self.description), agent=self.has_agent())

    def runs(self) -> bool:
        """Whether it neither stands still nor has ended."""
        try:
            return bool(self.handle.state()[0] == libvirt.VIR_DOMAIN_RUNNING)
        except libvirt.libvirtError:
            return False

    def was_powered_off(self) -> bool:
        """Whether its host, or its own system, has ended it on purpose."""
        try:
            return list(self.handle.state()) in _POWERED_OFF
        except libvirt.libvirtError:
            return False

    def has_agent(self) -> bool:
        """Whether a guest agent answers, now."""
        try:
            self.monitor.agent("guest-ping", _AGENT_TIMEOUT_S)
        except HypervisorError:
            return False
        return True

    def disk_path(self) -> Path:
        """The file of its own disk layer."""
        return domain_xml.disk_path(self.description)


@contextlib.contextmanager
def connection(job: dict[str, Any]) -> Iterator[libvirt.virConnect]:
    """libvirt, as the job says."""
    connected = domain.connect(job.get("libvirt_uri", "qemu:///system"))
    try:
        yield connected
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connected.close()


@contextlib.contextmanager
def running_guest(job: dict[str, Any]) -> Iterator[DomainGuest]:
    """The domain that the job is about; :class:`errors.BadJob` when it does not run."""
    with (
        connection(job) as connected,
        domain.shared_folder(connected, Path(job["sockets"])) as folder,
    ):
        handle = domain.find(connected, job["server"])
        guest = DomainGuest(handle, DomainMonitor(handle), DomainProcess(handle, folder))
        try:
            if not guest.process.alive:
                raise errors.BadJob(field="server", reason="its guest does not run")
            yield guest
        finally:
            guest.monitor.close()


@contextlib.contextmanager
def scratch_folder(job: dict[str, Any]) -> Iterator[Path]:
    """A folder of the job's own, which goes with the block."""
    parent = Path(job["scratch"])
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix=f"{job['operation']}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
