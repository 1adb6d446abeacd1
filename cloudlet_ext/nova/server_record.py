# SPDX-License-Identifier: Apache-2.0
"""What users see of an operation on their server: events, task state, notifications, the fault of a server in ERROR.

A server may have been evacuated from the host of the operation, and is none of that host's business then: what changes
a server is given the ``hosts`` on which it may be.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

from nova import context as nova_context
from nova import exception, objects, rpc
from nova.compute import task_states as nova_task_states
from nova.compute import utils as compute_utils
from nova.compute import vm_states
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

_EVENT_PREFIX = "cloudlet_"
_POLL_S = 0.2
_GOING = (nova_task_states.DELETING, nova_task_states.SOFT_DELETING)
_GONE = (vm_states.DELETED, vm_states.SOFT_DELETED)

Hosts = Collection[str | None]


class ServerRecord:
    """The record of one operation on one server. Nothing here may end the operation: failures are logged."""

    def __init__(self, context: Any, instance: Any, host: str) -> None:
        self._context, self._instance, self._host = context, instance, host
        self._open: str | None = None

    def stage(self, name: str) -> None:
        """A stage begins, the one before has ended well."""
        self._finish()
        event = f"{_EVENT_PREFIX}{name}"
        try:
            objects.InstanceActionEvent.event_start(
                self._context, self._instance.uuid, event, want_result=False, host=self._host
            )
            self._open = event
        except Exception:
            LOG.exception("The start of %s is not in the server's events", event, instance=self._instance)

    def trouble(self, text: str) -> None:
        """The stage that is open ends with an error; the operation goes on."""
        self._finish(text)

    def end(self, error: str | None = None) -> None:
        """The operation has ended, in the stage that is open."""
        if error is not None and self._open is None:
            self.stage("operation")
        self._finish(error)
        try:
            objects.InstanceAction.action_finish(self._context, self._instance.uuid, want_result=False)
        except exception.InstanceActionNotFound:
            # The operation belongs to an action of Nova's own, which it ends itself.
            pass
        except Exception:
            LOG.exception("The end of the action is not in the server's events", instance=self._instance)

    def _finish(self, error: str | None = None) -> None:
        if self._open is None:
            return
        event, self._open = self._open, None
        try:
            if error is None:
                objects.InstanceActionEvent.event_finish(self._context, self._instance.uuid, event, want_result=False)
                return
            try:
                raise exception.NovaException(error)
            except exception.NovaException as failure:
                objects.InstanceActionEvent.event_finish_with_failure(
                    self._context,
                    self._instance.uuid,
                    event,
                    exc_val=failure,
                    exc_tb=sys.exc_info()[2],
                    want_result=False,
                )
        except Exception:
            LOG.exception("The end of %s is not in the server's events", event, instance=self._instance)

    def notify(self, what: str, **facts: Any) -> None:
        """Send a notification, ``compute.instance.WHAT``."""
        try:
            notifier = rpc.get_notifier("compute", self._host)
            compute_utils.notify_about_instance_usage(
                notifier, self._context, self._instance, what, extra_usage_info=facts
            )
        except Exception:
            LOG.exception("Notification %s was not sent", what, instance=self._instance)


def _here(instance: Any, hosts: Hosts) -> bool:
    if instance.host in hosts:
        return True
    LOG.info("The server is on host %s now, and is left alone.", instance.host, instance=instance)
    return False


def find(instance_uuid: str, *attributes: str) -> Any:
    """A server as it is now, with more of its ``attributes``; None when it is no more."""
    try:
        return objects.Instance.get_by_uuid(
            nova_context.get_admin_context(), instance_uuid, expected_attrs=list(attributes) or None
        )
    except exception.InstanceNotFound:
        return None


def release(instance_uuid: str, task_states: tuple[str, ...], hosts: Hosts) -> None:
    """Take back the task state of an operation that has ended, whatever became of it."""
    context = nova_context.get_admin_context()
    try:
        instance = objects.Instance.get_by_uuid(context, instance_uuid)
        if instance.task_state in task_states and _here(instance, hosts):
            instance.task_state = None
            instance.save(expected_task_state=list(task_states))
    except exception.InstanceNotFound:
        pass
    except exception.UnexpectedTaskStateError as failure:
        LOG.info("The task state was changed meanwhile: %s", failure)


def hold(instance_uuid: str, task_state: str, timeout_s: float, ended: Callable[[], bool], hosts: Hosts) -> None:
    """Give a server that is being built a task state as soon as it is ACTIVE: others have to wait then.

    Not when the operation has ``ended`` before, nor when the server does not get that far within ``timeout_s``.
    """
    context = nova_context.get_admin_context()
    deadline = time.monotonic() + timeout_s
    try:
        while not ended() and time.monotonic() < deadline:
            instance = objects.Instance.get_by_uuid(context, instance_uuid)
            if instance.vm_state == vm_states.ACTIVE and instance.task_state is None and instance.host in hosts:
                instance.task_state = task_state
                instance.save(expected_task_state=[None])
                return
            time.sleep(_POLL_S)
    except (exception.InstanceNotFound, exception.InstanceUpdateConflict) as failure:
        LOG.info("The server has gone on or away meanwhile: %s", failure)
    except Exception:
        LOG.exception("Server %s does not show that it is at work", instance_uuid)


def forget(instance_uuid: str, mark: str, hosts: Hosts) -> None:
    """Take a mark out of a server's system metadata."""
    context = nova_context.get_admin_context()
    with contextlib.suppress(exception.InstanceNotFound):
        instance = objects.Instance.get_by_uuid(context, instance_uuid, expected_attrs=["system_metadata"])
        if _here(instance, hosts) and instance.system_metadata.pop(mark, None) is not None:
            instance.save()


def set_error(instance_uuid: str, reason: str, hosts: Hosts) -> None:
    """Put a server into ERROR, with the reason as its fault; not one that is being deleted."""
    context = nova_context.get_admin_context()
    try:
        instance = objects.Instance.get_by_uuid(context, instance_uuid)
        if instance.task_state in _GOING or instance.vm_state in _GONE or not _here(instance, hosts):
            return
        try:
            raise exception.NovaException(reason)
        except exception.NovaException as failure:
            compute_utils.add_instance_fault_from_exc(context, instance, failure, sys.exc_info(), reason)
        instance.vm_state = vm_states.ERROR
        instance.task_state = None
        instance.save()
    except exception.InstanceNotFound:
        pass
