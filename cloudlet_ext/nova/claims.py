# SPDX-License-Identifier: Apache-2.0
"""Claims: which servers captures of this host work on.

A request sets the server's task state in nova-api, and reaches this host by a message. Either may be lost without the
other: a task state that no operation has is taken back after a while, and a request whose server has not got its task
state any more is refused.
"""

from __future__ import annotations

import threading
from typing import Any

from nova import context as nova_context
from nova import objects
from oslo_log import log as logging
from oslo_utils import timeutils

from cloudlet_ext.nova import server_record, task_states
from cloudlet_ext.nova.operations import Operation, OperationStore
from cloudlet_ext.nova.workers import WorkerFailed

LOG = logging.getLogger(__name__)

LOST_AFTER_S = 60
"""A younger task state may belong to a request that is still on its way to here."""


class TooLate(WorkerFailed):
    """The server is not this request's any more."""


class Claims:
    """Servers of one host; safe for threads."""

    def __init__(self, host: str, store: OperationStore) -> None:
        self._host, self._store = host, store
        self._lock = threading.Lock()
        self._holders: dict[str, str] = {}

    def take(self, operation: Operation, task_state: str) -> None:
        """The operation is about to work on its server; :class:`TooLate`."""
        assert operation.server_id is not None
        with self._lock:
            if operation.server_id in self._holders:
                raise TooLate("Another operation works on the server. Ask again when it has ended.")
            instance = server_record.find(operation.server_id)
            if instance is None or instance.host != self._host:
                raise TooLate("The request came too late: the server is not on this host any more.")
            if instance.task_state != task_state:
                found = instance.task_state or "none"
                raise TooLate(
                    f"The request came too late: the task state of the server is {found}, {task_state} is expected. "
                    "Ask again."
                )
            self._holders[operation.server_id] = operation.id

    def give_back(self, operation: Operation) -> None:
        """It does nothing to its server any more: nor did it, perhaps."""
        assert operation.server_id is not None
        with self._lock:
            if self._holders.get(operation.server_id, operation.id) == operation.id:
                self._holders.pop(operation.server_id, None)
                server_record.release(operation.server_id, task_states.ALL, {self._host})

    def release_lost(self) -> None:
        """Take back the task states of which this host knows nothing."""
        wanted = {"host": self._host, "task_state": list(task_states.ALL), "deleted": False}
        context = nova_context.get_admin_context()
        for found in objects.InstanceList.get_by_filters(context, wanted, expected_attrs=[]):
            with self._lock:
                if self._is_lost(server_record.find(found.uuid)):
                    LOG.warning("No operation has the server's task state %s", found.task_state, instance=found)
                    server_record.release(found.uuid, task_states.ALL, {self._host})

    def _is_lost(self, instance: Any) -> bool:
        if instance is None or instance.task_state not in task_states.ALL:
            return False
        is_old = timeutils.is_older_than(instance.updated_at or instance.created_at, LOST_AFTER_S)
        return is_old and all(operation.has_ended for operation in self._store.find(instance.uuid))
