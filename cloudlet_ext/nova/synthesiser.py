# SPDX-License-Identifier: Apache-2.0
"""Synthesiser: starts the domain of a server with a captured state instead of booting it.

It happens once in a server's life, at its first start; a mark in the server's system metadata remembers it. Every later
start of the domain is Nova's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import libvirt
from nova import conf as nova_conf
from nova import exception
from nova.compute import task_states, vm_states
from nova.virt.libvirt import guest as libvirt_guest
from oslo_log import log as logging

from cloudlet_ext.hypervisor import domain_xml
from cloudlet_ext.nova import jobs, server_record
from cloudlet_ext.nova.runner import Runner, Task
from cloudlet_ext.nova.workers import Worker, WorkerFailed

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)

MARK = "cloudlet_started"
_TYPE, _BASE_ID, _MEMORY_IMAGE = "image_cloudlet_type", "image_cloudlet_base_id", "image_cloudlet_memory_image"
_OVERLAY = "overlay_url"
_SETTLE_TIMEOUT_S = 3600.0

CreateDomain = Callable[[str], libvirt_guest.Guest]


def is_wanted(instance: Any) -> bool:
    """Whether this start of a server's domain is the one that takes up a captured state."""
    metadata = instance.system_metadata
    return (
        metadata.get(_TYPE) == "base"
        and _BASE_ID in metadata
        and MARK not in metadata
        and instance.vm_state == vm_states.BUILDING
        and instance.task_state == task_states.SPAWNING
    )


def base_of(instance: Any) -> str | None:
    """The base that a server runs on, where it is one that took up a captured state."""
    metadata = instance.system_metadata
    return metadata.get(_BASE_ID) if MARK in metadata else None


class Synthesiser:
    """Takes up captured states on this host."""

    def __init__(self, runner: Runner, in_use: Callable[[], set[str]], driver: Any) -> None:
        self._runner, self._in_use, self._driver = runner, in_use, driver

    def start(self, context: Any, xml: str, instance: Any, create: CreateDomain, *, pause: bool) -> libvirt_guest.Guest:
        """The guest, running (or standing still when ``pause``); the rest of its overlay may be on its way.

        BuildAbortException with the reason; nothing of the operation is left then.
        """
        overlay = instance.metadata.get(_OVERLAY)
        kind = "synthesis" if overlay else "base-resume"
        task = self._runner.task(context, kind, instance.uuid, instance=instance)
        try:
            worker = task.begin(lambda: self._job(context, task, xml, instance, overlay))
        except WorkerFailed as failure:
            task.ended(str(failure))
            raise exception.BuildAbortException(instance_uuid=instance.uuid, reason=str(failure)) from failure
        try:
            guest = self._take_up(worker, instance, create, pause=pause)
        except BaseException as failure:
            reason = self._reason(failure)
            self._destroy(instance)
            task.abandon()
            task.ended(reason)
            if isinstance(failure, WorkerFailed | libvirt.libvirtError):
                raise exception.BuildAbortException(instance_uuid=instance.uuid, reason=reason) from failure
            raise
        self._runner.in_background(lambda: self._follow(task, instance), f"cloudlet-{instance.uuid[:8]}")
        return guest

    def _job(self, context: Any, task: Task, xml: str, instance: Any, overlay: str | None) -> dict[str, Any]:
        metadata = instance.system_metadata
        return {
            **jobs.common(context, task.operation, self._in_use()),
            "server": instance.uuid,
            "xml": xml,
            "disk": jobs.disk_path(instance),
            "macs": [domain_xml.mac_of(card) for card in domain_xml.interfaces(xml)],
            "base_id": metadata[_BASE_ID],
            "base_image": instance.image_ref,
            "base_memory_image": metadata[_MEMORY_IMAGE],
            "overlay": overlay,
        }

    def _take_up(self, worker: Worker, instance: Any, create: CreateDomain, *, pause: bool) -> libvirt_guest.Guest:
        timeout_s = CONF.cloudlet.operation_timeout
        ready = worker.wait({"ready"}, timeout_s)
        guest = create(ready["xml"])
        worker.control("started")
        worker.wait({"running"}, timeout_s)
        if not pause:
            guest.resume()
        instance.system_metadata[MARK] = ready["placement"]
        instance.save()
        # What the domain is after it was shut off: an ordinary one, that boots.
        self._driver._host.get_connection().defineXML(domain_xml.plain(guest.get_xml_desc()))
        return guest

    def _follow(self, task: Task, instance: Any) -> None:
        """Thread: until all of the overlay is there. A guest that can never have all of its memory must not go on."""
        error, result = None, None
        try:
            result = task.finish(_SETTLE_TIMEOUT_S)
        except WorkerFailed as failure:
            error = f"The server's overlay did not arrive whole: {failure}"
            self.give_up(instance, error)
        task.ended(error, result)

    def give_up(self, instance: Any, reason: str) -> None:
        """Power a server off for good and say why."""
        LOG.error("%s", reason, instance=instance)
        self._destroy(instance)
        server_record.set_error(instance.uuid, reason)

    def _destroy(self, instance: Any) -> None:
        """End the domain, if there is one."""
        with contextlib.suppress(exception.InstanceNotFound, libvirt.libvirtError):
            self._driver._host.get_guest(instance).poweroff()

    def _reason(self, failure: BaseException) -> str:
        if isinstance(failure, WorkerFailed):
            return str(failure)
        return f"The domain could not be started: {failure}"
