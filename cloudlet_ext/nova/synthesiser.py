# SPDX-License-Identifier: Apache-2.0
"""Synthesiser: starts the domain of a server with a captured state instead of booting it.

It happens when Nova has just made the server's disk of its image: at its first start, and when it is rebuilt. The
worker begins before that, and fetches while Nova sets up the network and the disk. A mark in the server's system
metadata remembers what was taken up, and another one that its overlay has not arrived whole. Every later start of the
domain is Nova's own, and there is none while the disk is not whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from nova import conf as nova_conf
from nova import exception
from nova.compute import task_states as nova_task_states
from nova.compute import vm_states
from nova.virt.libvirt import guest as libvirt_guest
from oslo_log import log as logging

from cloudlet_ext.hypervisor import domain_cards, domain_xml
from cloudlet_ext.hypervisor.errors import BadMachine
from cloudlet_ext.nova import jobs, marks, server_record, task_states
from cloudlet_ext.nova.runner import Runner, Task
from cloudlet_ext.nova.workers import Worker, WorkerFailed

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)

_TYPE, _BASE_ID, _MEMORY_IMAGE = "image_cloudlet_type", "image_cloudlet_base_id", "image_cloudlet_memory_image"
_OVERLAY = "overlay_url"
_EARLY, _MAPPED = "early", "mapped"
_WAY_OUT = "Delete the server, or rebuild it to have it synthesised again."
_WHOLE = "The server goes on with all of its memory and disk, but may lack its own addresses and the right time:"
_TRY = "Reboot it if it does not answer."
_ROOT_DISK = "Compute hosts need [libvirt] images_type qcow2 for that, and the server an image, not a volume."
_KEPT = (exception.BuildAbortException, exception.InstanceNotFound, exception.UnexpectedDeletingTaskStateError)
_RUN_TIMEOUT_S, _RUN_EXTRA_S = 300.0, 60.0
_ACTIVE_TIMEOUT_S = 60.0

CreateDomain = Callable[[str], libvirt_guest.Guest]


def is_built(instance: Any) -> bool:
    """Whether the server is being built: it never ran, on this host or on another that was tried before."""
    return bool(instance.vm_state == vm_states.BUILDING and instance.task_state == nova_task_states.SPAWNING)


def begins(instance: Any) -> bool:
    """Whether the server is being built or rebuilt: Nova makes its disk of its image, unless it has one."""
    return is_built(instance) or bool(instance.task_state == nova_task_states.REBUILD_SPAWNING)


def is_of_base(instance: Any) -> bool:
    """Whether the server has a base as its image, so that it takes up a captured state when it begins.

    A volume tells of the image that it was made of, too, but may have been written to since: a server that has its
    root disk there has no image, and boots.
    """
    metadata = instance.system_metadata
    return bool(metadata.get(_TYPE) == "base" and _BASE_ID in metadata and instance.image_ref)


def is_arriving(instance: Any) -> bool:
    """Whether the server's overlay has not arrived whole, or never will."""
    return marks.ARRIVING in instance.system_metadata


def require_whole(instance: Any) -> None:
    """InstancePowerOnFailure when the server's overlay never arrived whole: its disk is no disk to boot from."""
    if is_arriving(instance):
        raise exception.InstancePowerOnFailure(
            reason=f"its overlay did not arrive whole, so its disk is incomplete. {_WAY_OUT}"
        )


def lost(reason: str) -> str:
    """What to tell of a server whose overlay did not arrive whole; ``reason``: as a sentence."""
    return f"The server's overlay did not arrive whole: {reason} {_WAY_OUT}"


def base_of(instance: Any) -> str | None:
    """The base that a server runs on, where it is one that took up a captured state."""
    metadata = instance.system_metadata
    return metadata.get(_BASE_ID) if marks.STARTED in metadata else None


def _reason(failure: BaseException) -> str:
    if isinstance(failure, WorkerFailed):
        return str(failure)
    return f"The server could not be started: {type(failure).__name__}: {failure}"


def _abort(instance: Any, failure: Exception) -> Exception:
    """What to raise, so that Nova does not build the server on another host: what its user asked for has failed."""
    raised: Exception = failure
    if not isinstance(failure, _KEPT):
        raised = exception.BuildAbortException(instance_uuid=instance.uuid, reason=_reason(failure))
    return raised


def _not_begun(failure: BaseException) -> str:
    return f"It could not be begun on this host: {type(failure).__name__}: {failure}"


def _domain(instance: Any, xml: str) -> dict[str, Any]:
    """What a worker is told of the domain that Nova would start."""
    return {
        "xml": xml,
        "disk": str(_disk(instance, xml)),
        "ports": jobs.ports(instance),
        "macs": [domain_cards.mac_of(card) for card in domain_cards.interfaces(xml)],
    }


def _disk(instance: Any, xml: str) -> Path:
    """The file of a server's root disk; BuildAbortException where it is none that a layer can be put into."""
    try:
        return domain_xml.disk_path(xml)
    except BadMachine as failure:
        reason = f"A server of a base needs a qcow2 file as its root disk: {failure} {_ROOT_DISK}"
        raise exception.BuildAbortException(instance_uuid=instance.uuid, reason=reason) from failure


class Synthesiser:
    """Takes up captured states on this host."""

    def __init__(self, runner: Runner, in_use: Callable[[], set[str]], driver: Any) -> None:
        self._runner, self._in_use, self._driver = runner, in_use, driver
        self._begun: dict[str, tuple[Task, Worker]] = {}
        """By the server; Nova has not asked for its domain yet."""

    def begin_early(self, context: Any, instance: Any) -> None:
        """As :meth:`begin`, if no operation has to wait for that: a worker holds its place while Nova is at work."""
        if self._runner.slots.is_free:
            self.begin(context, instance)

    def begin(self, context: Any, instance: Any) -> None:
        """Have a worker do what it can do without the domain; :meth:`start` or :meth:`withdraw` must follow.

        BuildAbortException with the reason, or what else kept it from beginning; nothing of the operation is left then.
        """
        overlay = instance.metadata.get(_OVERLAY)
        if overlay:
            # Until it has arrived the disk is the base's: when this fails, nobody is to boot from that.
            instance.system_metadata[marks.ARRIVING] = "True"
        # Whoever finds the operation after nova-compute was restarted must see that the guest never ran.
        instance.save()
        kind = "synthesis" if overlay else "base-resume"
        task = self._runner.task(context, kind, instance.uuid, instance=instance)
        try:
            # Nova builds so many servers at once, and one that waits is one of them.
            worker = task.begin(lambda: self._job(context, task, instance, overlay), CONF.cloudlet.queue_timeout)
        except WorkerFailed as failure:
            task.ended(str(failure))
            raise _abort(instance, failure) from failure
        except BaseException as failure:
            # Another host may do better.
            task.ended(_not_begun(failure))
            raise
        self._begun[instance.uuid] = task, worker

    def withdraw(self, instance: Any, failure: BaseException) -> None:
        """Nova has failed before the server's domain was asked for: end what was begun."""
        if instance.uuid in self._begun:
            task, _ = self._begun.pop(instance.uuid)
            task.dismiss()
            task.ended(_not_begun(failure))

    def start(self, context: Any, xml: str, instance: Any, create: CreateDomain, *, pause: bool) -> libvirt_guest.Guest:
        """The guest, running (or standing still when ``pause``); the rest of its overlay may be on its way.

        ``xml``: what Nova would start. BuildAbortException with the reason; nothing of the operation is left then.
        """
        if instance.uuid not in self._begun:
            self.begin(context, instance)
        task, worker = self._begun.pop(instance.uuid)
        try:
            worker.control("domain", **_domain(instance, xml))
            guest = self._take_up(task, worker, instance, create, pause=pause)
        except BaseException as failure:
            instance.system_metadata.pop(marks.STARTED, None)
            self.power_off(instance.uuid)
            task.dismiss()
            task.ended(_reason(failure))
            if isinstance(failure, Exception):
                raise _abort(instance, failure) from failure
            raise
        arriving = is_arriving(instance)
        self._runner.in_background(lambda: self._follow(task, instance.uuid, arriving), f"cloudlet-{instance.uuid[:8]}")
        return guest

    def abandon(self, instance: Any, failure: Exception) -> None:
        """End what was begun for a server that Nova could not build to its end, and raise what aborts the build."""
        if isinstance(failure, _KEPT):
            return
        self._runner.cancel_all_of(instance.uuid, _reason(failure))
        self.power_off(instance.uuid)
        instance.system_metadata.pop(marks.STARTED, None)
        raise _abort(instance, failure) from failure

    def _job(self, context: Any, task: Task, instance: Any, overlay: str | None) -> dict[str, Any]:
        metadata = instance.system_metadata
        common = jobs.common(context, task.operation, self._in_use())
        if instance.task_state == nova_task_states.REBUILD_SPAWNING:
            # Nova powers a server that was stopped off again as soon as it runs: all of it must be here by then.
            common["placement"] = _MAPPED
        return {
            **common,
            "server": instance.uuid,
            "domain_type": CONF.libvirt.virt_type,
            "base_id": metadata[_BASE_ID],
            "base_image": instance.image_ref,
            "base_memory_image": metadata[_MEMORY_IMAGE],
            "overlay": overlay,
            "start_timeout_s": float(CONF.cloudlet.operation_timeout),
            # Nova lets a guest run when its network cards are plugged, or when it has waited long enough for that.
            "run_timeout_s": max(_RUN_TIMEOUT_S, CONF.vif_plugging_timeout + _RUN_EXTRA_S),
        }

    def _take_up(
        self, task: Task, worker: Worker, instance: Any, create: CreateDomain, *, pause: bool
    ) -> libvirt_guest.Guest:
        timeout_s = CONF.cloudlet.operation_timeout
        instance.save()
        ready = worker.wait({"ready"}, timeout_s)
        task.end_guest = lambda: self.power_off(instance.uuid)
        guest = create(domain_xml.renew_genid(ready["xml"], marks.new_generation(instance)))
        worker.control("started")
        worker.wait({"running"}, timeout_s)
        instance.system_metadata[marks.STARTED] = ready["placement"]
        if ready["placement"] != _EARLY:
            # All of it is there: from now on the guest can do without the worker.
            instance.system_metadata.pop(marks.ARRIVING, None)
            task.end_guest = None
        instance.save()
        if not pause:
            guest.resume()
        # What the domain is after it was shut off: an ordinary one, that boots.
        self._driver._host.get_connection().defineXML(domain_xml.plain(guest.get_xml_desc()))
        return guest

    def _follow(self, task: Task, server_id: str, arriving: bool) -> None:
        """Thread: until the worker has done all. ``arriving``: the guest waits for some of its memory."""
        server_record.hold(server_id, task_states.SYNTHESIS, _ACTIVE_TIMEOUT_S, task.worker_has_ended, task.hosts)
        error, result = None, None
        try:
            result = task.finish(CONF.cloudlet.operation_timeout)
            server_record.forget(server_id, marks.ARRIVING, task.hosts)
        except WorkerFailed as failure:
            error = self.fail(server_id, str(failure), arriving, task.hosts)
        server_record.release(server_id, task_states.ALL, task.hosts)
        task.ended(error, result)

    def complete(self, server_id: str, hosts: server_record.Hosts) -> None:
        """All of its overlay has arrived, as a worker of an earlier nova-compute has told."""
        server_record.forget(server_id, marks.ARRIVING, hosts)
        server_record.release(server_id, task_states.ALL, hosts)

    def fail(self, server_id: str, reason: str, arriving: bool, hosts: server_record.Hosts) -> str:
        """A worker ended too soon; what to tell. A guest that can never have all of its memory must not go on."""
        if arriving:
            error = lost(reason)
            self.give_up(server_id, error, hosts)
            return error
        server_record.release(server_id, task_states.ALL, hosts)
        return f"{_WHOLE} {reason} {_TRY}"

    def give_up(self, server_id: str, reason: str, hosts: server_record.Hosts) -> None:
        """Power a server off for good and say why."""
        LOG.error("Server %s: %s", server_id, reason)
        self.power_off(server_id)
        server_record.set_error(server_id, reason, hosts)

    def power_off(self, server_id: str) -> None:
        """End the domain, if there is one."""
        with contextlib.suppress(libvirt.libvirtError):
            self._driver._host.get_connection().lookupByUUIDString(server_id).destroy()
