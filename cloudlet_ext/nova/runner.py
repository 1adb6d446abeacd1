# SPDX-License-Identifier: Apache-2.0
"""Runner: carries out operations of this host, each in a worker, as many at once as are allowed."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

from nova import conf as nova_conf
from oslo_log import log as logging

from cloudlet_ext.nova import jobs
from cloudlet_ext.nova.operations import CANCELLED, FAILED, SUCCEEDED, Operation, OperationStore
from cloudlet_ext.nova.server_record import Hosts, ServerRecord
from cloudlet_ext.nova.spare_workers import SpareWorkers
from cloudlet_ext.nova.workers import Event, Orphan, Slots, Worker, WorkerFailed

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)

_HOUR_S = 3600.0
_CANCELLED = "The operation was cancelled."

MakeJob = Callable[[], dict[str, Any]]


class Task:
    """One operation at work."""

    def __init__(self, runner: Runner, operation: Operation, instance: Any, record: ServerRecord | None) -> None:
        self._runner, self.operation, self._record = runner, operation, record
        self.hosts: Hosts = {runner.host} if instance is None else {runner.host, instance.host}
        """Where its server may be: Nova says that one which is evacuated to here is here when it has been built."""
        self.cancelled = threading.Event()
        self.reason = _CANCELLED
        self.end_guest: Callable[[], None] | None = None
        """Ends a guest that cannot go on without the worker: while it is still fed, for it may wait for its memory."""
        self.worker: Worker | Orphan | None = None

    def begin(self, make_job: MakeJob, patience_s: float = math.inf) -> Worker:
        """Wait for a place and start the worker; :class:`WorkerFailed`, OSError, and what ``make_job`` raises.

        Neither a worker nor a place is held then.
        """
        self._runner.store.add(self.operation)
        if not self._runner.slots.take(self.cancelled, patience_s):
            raise WorkerFailed(self.reason)
        try:
            job = make_job()
            worker = self.worker = Worker(self._runner.spares.take(), job, self._heard)
            self._notify("start")
            self._runner.store.begun(self.operation, worker.identity)
        except BaseException:
            self.dismiss()
            raise
        if self.cancelled.is_set():
            worker.end()
        return worker

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """Wait until the worker is done; its result. :class:`WorkerFailed`; the worker has ended then."""
        assert isinstance(self.worker, Worker)
        try:
            result: dict[str, Any] = self.worker.wait({"done"}, timeout_s)["result"]
        except WorkerFailed:
            # A call of the worker's to libvirt may wait for the guest, which cannot go on anyway.
            if self.end_guest is not None:
                self.end_guest()
            raise
        finally:
            self.dismiss()
        return result

    def dismiss(self) -> None:
        """End the worker, which undoes what it has not finished; its place is free again."""
        try:
            if self.worker is not None:
                self.worker.end()
        finally:
            self._runner.slots.give_back()
        jobs.remove_leavings(self.operation.id)
        with contextlib.suppress(OSError):
            jobs.last_word(self.operation.id).unlink(missing_ok=True)

    def worker_has_ended(self) -> bool:
        """Whether its worker is no more."""
        return self.worker is not None and self.worker.has_ended

    def cancel(self, reason: str) -> None:
        """Have the worker undo what it has begun; returns when it has."""
        self.reason = reason
        self.cancelled.set()
        if self.end_guest is not None:
            self.end_guest()
        if self.worker is not None:
            self.worker.end()

    def ended(self, error: str | None, result: Any = None) -> None:
        """Tell everybody how it ended."""
        if error is not None and self.cancelled.is_set():
            error = self.reason
        state = SUCCEEDED if error is None else CANCELLED if self.cancelled.is_set() else FAILED
        self._runner.store.end(self.operation, state, error, result)
        if self._record is not None:
            self._record.end(error)
        self._notify("end" if error is None else "error")
        self._runner.forget(self)

    def _notify(self, phase: str) -> None:
        """``compute.instance.cloudlet_synthesis.start`` and the like, for who listens to Nova's notifications."""
        if self._record is None:
            return
        operation = self.operation
        facts = {"operation_id": operation.id, "error": operation.error, "result": operation.result}
        self._record.notify(f"cloudlet_{operation.type.replace('-', '_')}.{phase}", **facts)

    def _heard(self, event: Event) -> None:
        store, operation = self._runner.store, self.operation
        name = event["event"]
        if name == "stage":
            store.stage(operation, str(event["name"]))
            if self._record is not None:
                self._record.stage(str(event["name"]))
        elif name == "progress":
            store.progress(operation, int(event["done"]), int(event["total"]))
        elif name == "note":
            LOG.info("Operation %s: %s", operation.id, event.get("text"))
        elif name == "trouble":
            LOG.warning("Operation %s, stage %s: %s", operation.id, operation.stage, event.get("text"))
            if self._record is not None:
                self._record.trouble(str(event.get("text")))


class Runner:
    """The operations of this host."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.slots = Slots(CONF.cloudlet.max_workers)
        self.spares = SpareWorkers(CONF.cloudlet.worker_command, CONF.cloudlet.spare_workers)
        self.store = OperationStore(jobs.folder("operations"), CONF.cloudlet.operation_keep_hours * _HOUR_S)
        self._tasks: dict[str, Task] = {}

    def task(
        self,
        context: Any,
        kind: str,
        operation_id: str,
        *,
        instance: Any = None,
        images: dict[str, str] | None = None,
    ) -> Task:
        """A new operation. Others know of it as soon as it is to begin."""
        operation = Operation(
            id=operation_id,
            type=kind,
            project_id=instance.project_id if instance is not None else context.project_id,
            user_id=context.user_id,
            host=self.host,
            server_id=instance.uuid if instance is not None else None,
            images=dict(images or {}),
        )
        record = ServerRecord(context, instance, self.host) if instance is not None else None
        task = Task(self, operation, instance, record)
        self._tasks[operation.id] = task
        return task

    def adopt(self, operation: Operation, worker: Orphan, end_guest: Callable[[], None]) -> Task:
        """An operation that an earlier nova-compute has begun. It is cancelled as any other."""
        task = Task(self, operation, None, None)
        task.worker, task.end_guest = worker, end_guest
        self._tasks[operation.id] = task
        return task

    def forget(self, task: Task) -> None:
        """It has ended."""
        self._tasks.pop(task.operation.id, None)
        self.spares.fill()

    def cancel(self, operation_id: str) -> Operation | None:
        """Cancel an operation that has not ended; what it is now."""
        task = self._tasks.get(operation_id)
        if task is not None:
            self.in_background(lambda: task.cancel(_CANCELLED), "cloudlet-cancel")
        return self.store.get(operation_id)

    def cancel_all_of(self, server_id: str, reason: str) -> None:
        """Cancel what is being done with a server, and wait until nothing is left of it."""
        for task in list(self._tasks.values()):
            if task.operation.server_id == server_id:
                task.cancel(reason)

    def in_background(self, what: Callable[[], None], name: str) -> None:
        """Do something in a thread of its own; what it raises is logged."""

        def guarded() -> None:
            try:
                what()
            except Exception:
                LOG.exception("%s", name)

        threading.Thread(target=guarded, name=name, daemon=True).start()
