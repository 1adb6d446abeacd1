# SPDX-License-Identifier: Apache-2.0
"""A compute host in this process: the real driver, manager and worker processes, over libvirt's own test hypervisor.

Of Nova's driver only ``spawn`` is replaced, by two of its steps: a disk is made, a guest is created.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from nova import context as nova_context
from nova import objects
from nova.conf import CONF
from nova.virt.libvirt import guest as libvirt_guest
from oslo_utils import timeutils

from cloudlet_ext.nova import jobs
from cloudlet_ext.nova.driver import CloudletDriver
from cloudlet_ext.nova.manager import CloudletManager
from cloudlet_ext.nova.operations import Operation
from tests.nova.cloud import MINE, Cloud

BASE_ID = "a" * 64
OF_BASE = {"image_cloudlet_type": "base", "image_cloudlet_base_id": BASE_ID, "image_cloudlet_memory_image": "m"}
ORDINARY = {"image_min_disk": "1"}
BUILDING = {"vm_state": "building", "task_state": "spawning", "launched_at": None}
REBUILDING = {"vm_state": "active", "task_state": "rebuild_spawning"}
OVERLAY = {"overlay_url": "glance:o"}

DOMAIN = """
<domain type='test'>
  <name>i-{uuid}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>131072</memory>
  <vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""

_WORKER = """
import json, os, sys, time
from cloudlet_ext.job.channel import Channel, ChannelReport
channel = Channel(sys.stdin, sys.stdout)
job = channel.read_job()
report = ChannelReport(channel)
"""
TAKE_UP = """
domain = channel.wait_control("domain", 30)
channel.event("ready", xml=domain["xml"], placement={placement!r})
channel.wait_control("started", 30)
channel.event("running")
"""
DONE = 'channel.end("done", result={"placement": job["placement"]})'
GOES_ON = "time.sleep(60)"


class Domain:
    """A domain of libvirt's test hypervisor, which can be started paused."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)

    def createWithFlags(self, flags: int) -> None:  # noqa: N802 - libvirt's name
        self._domain.create()
        if flags & libvirt.VIR_DOMAIN_START_PAUSED:
            self._domain.suspend()


class Described:
    """A domain of which only the description counts: the test hypervisor forgets what is QEMU's in it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        return self._text


class Libvirt:
    """What the driver asks Nova's ``Host`` for, and the connection that it gives."""

    def __init__(self) -> None:
        self.descriptions: dict[str, str] = {}
        libvirt.registerErrorHandler(lambda context, error: None, None)
        self._connection = libvirt.open("test:///default")

    def get_connection(self) -> Libvirt:
        return self

    def write_instance_config(self, xml: str) -> libvirt_guest.Guest:
        return libvirt_guest.Guest(self.defineXML(xml))

    def defineXML(self, xml: str) -> Domain:  # noqa: N802 - libvirt's name
        return Domain(self._connection.defineXML(xml))

    def lookupByUUIDString(self, uuid: str) -> Domain:  # noqa: N802 - libvirt's name
        return Domain(self._connection.lookupByUUIDString(uuid))

    def get_guest(self, server: Any) -> libvirt_guest.Guest:
        return libvirt_guest.Guest(Described(self.descriptions[server.uuid]))

    def runs(self, server: Any) -> bool:
        """Whether there is a domain of a server, and it runs or stands still."""
        try:
            return bool(self._connection.lookupByUUIDString(server.uuid).isActive())
        except libvirt.libvirtError:
            return False


class VirtHost:
    """The host ``compute1`` of the cloud.

    ``before_domain`` is called when Nova has made the disk; ``after_spawn``
    when the guest is there, before Nova is done.
    """

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.folder = folder
        self._cloud, self._script = cloud, folder / "worker.py"
        CONF.set_override("state_path", str(folder / "state"), group="cloudlet")
        CONF.set_override("instances_path", str(folder / "instances"))
        CONF.set_override("worker_command", [sys.executable, str(self._script)], group="cloudlet")
        CONF.set_override("spare_workers", 0, group="cloudlet")
        self.context = nova_context.RequestContext("alice", MINE)
        self.libvirt = Libvirt()
        self.driver = CloudletDriver(None)
        self.driver._host = self.libvirt
        self.driver._beginning = set()
        self.manager = self.driver.manager = CloudletManager(self.driver, "compute1")
        self.pause = False
        self.after_spawn: Callable[[], None] = lambda: None
        self.before_domain: Callable[[], None] = lambda: None
        self.work()

    def close(self) -> None:
        for task in list(self.manager._runner._tasks.values()):
            task.cancel("The test is over.")
        for name, group in (("state_path", "cloudlet"), ("worker_command", "cloudlet"), ("spare_workers", "cloudlet")):
            CONF.clear_override(name, group=group)
        CONF.clear_override("instances_path")

    def work(self, rest: str = DONE, placement: str = "mapped", *, take_up: bool = True) -> None:
        """What the next workers do: have the guest started, unless told otherwise, and ``rest``."""
        self._script.write_text(_WORKER + (TAKE_UP.format(placement=placement) if take_up else "") + rest)

    def server(self, **facts: Any) -> Any:
        """A server that is being built from a base, unless ``facts`` say otherwise."""
        return self._cloud.server(**{"system_metadata": dict(OF_BASE), **BUILDING, **facts})

    def activate(self, server: Any) -> None:
        """What Nova does when ``spawn`` is done."""
        server.vm_state, server.task_state, server.launched_at = "active", None, timeutils.utcnow()
        server.save()

    def again(self, server: Any) -> Any:
        """The server as it is in the database now."""
        return self._cloud.again(server)

    def xml(self, server: Any) -> str:
        return DOMAIN.format(uuid=server.uuid, disk=jobs.disk_path(server))

    def spawn(self, server: Any, xml: str = "", *, power_on: bool = True) -> None:
        """As nova-compute does it."""
        objects.InstanceAction.action_start(self.context, server.uuid, "create", want_result=False)
        self.driver.spawn(self.context, server, xml=xml or self.xml(server), power_on=power_on)

    def spawned(self, driver: CloudletDriver, context: Any, server: Any, xml: str, power_on: bool) -> None:
        """What is left of Nova's ``spawn``."""
        disk = Path(jobs.disk_path(server))
        disk.parent.mkdir(parents=True, exist_ok=True)
        disk.touch()
        self.before_domain()
        guest = driver._create_guest(context, xml, server, power_on, self.pause)
        self.after_spawn()
        if self.pause:
            guest.resume()

    def started(self, server: Any, xml: str = "") -> libvirt_guest.Guest:
        """Any later start, as by a hard reboot."""
        return self.driver._create_guest(self.context, xml or self.xml(server), server)

    def operation(self, identifier: str) -> Operation | None:
        """An operation; those of servers that begin have the server's id."""
        return self.manager._runner.store.get(identifier)

    def ended(self, identifier: str) -> Operation:
        """The same, when it has ended."""
        deadline = time.monotonic() + 30
        while (found := self.operation(identifier)) is None or not found.has_ended:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found
