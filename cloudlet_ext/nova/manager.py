# SPDX-License-Identifier: Apache-2.0
"""Manager: the end of our RPC interface in nova-compute."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import oslo_messaging
from nova import context as nova_context
from nova import objects, rpc
from nova.objects import base as objects_base
from oslo_log import log as logging

from cloudlet_ext.nova import (
    held_bases,
    jobs,
    leftovers,
    rpcapi,
    server_end,
    server_record,
    stopped_guests,
    synthesiser,
    task_states,
    workers,
)
from cloudlet_ext.nova.captures import Captures
from cloudlet_ext.nova.claims import Claims
from cloudlet_ext.nova.operations import FAILED, Operation
from cloudlet_ext.nova.runner import Runner, Task
from cloudlet_ext.nova.synthesiser import Synthesiser

LOG = logging.getLogger(__name__)

VERSION = "1.0"
_RELEASE_EVERY_S = 60.0
_MAKE_IMAGES = ("base-create", "overlay-create")
_DELETED = "The server was deleted."
_RESTARTED = "nova-compute was restarted while the operation was running; the server is as it was before."
_NOT_BUILT = "nova-compute was restarted before the server ran."
_MOVED = "The server was evacuated to another host while this one was down."


class CloudletManager:
    """What this host does for bases, overlays and synthesis."""

    target = oslo_messaging.Target(version=VERSION)

    def __init__(self, driver: Any, host: str) -> None:
        task_states.register()
        self._host = host
        self._runner = Runner(host)
        self._claims = Claims(host, self._runner.store)
        self._captures = Captures(self._runner, self._claims, self._bases_in_use, driver)
        self._driver = driver
        self.synthesiser = Synthesiser(self._runner, self._bases_in_use, driver)
        self._server: Any = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """See what became of the operations of an earlier nova-compute, then serve requests."""
        for operation in self._runner.store.find():
            if not operation.has_ended:
                self._recover(operation)
        self._runner.in_background(self._release_lost, "cloudlet-release")
        self._runner.spares.fill()
        target = oslo_messaging.Target(topic=rpcapi.TOPIC, server=self._host)
        self._server = rpc.get_server(target, [self], serializer=objects_base.NovaObjectSerializer())
        self._server.start()
        LOG.info("Serving operations of bases and overlays, %d at once", self._runner.slots.limit)

    def stop(self) -> None:
        """Serve no more requests; workers go on."""
        self._stopped.set()
        self._runner.spares.close()
        if self._server is not None:
            self._server.stop()
            self._server.wait()

    # RPC

    def create_base(self, ctxt: Any, instance: Any, operation_id: str, name: str, images: dict[str, str]) -> None:
        """See :meth:`rpcapi.CloudletAPI.create_base`."""
        self._captures.create_base(ctxt, instance, operation_id, images)

    def create_overlay(
        self,
        ctxt: Any,
        instance: Any,
        operation_id: str,
        name: str,
        image_id: str,
        on_finish: str,
        record: str | None,
    ) -> None:
        """See :meth:`rpcapi.CloudletAPI.create_overlay`."""
        self._captures.create_overlay(ctxt, instance, operation_id, image_id, on_finish, record)

    def precache_base(self, ctxt: Any, operation_id: str, base_image_id: str) -> None:
        """See :meth:`rpcapi.CloudletAPI.precache_base`."""
        self._captures.precache_base(ctxt, operation_id, base_image_id)

    def list_operations(
        self, ctxt: Any, server_id: str | None = None, project_id: str | None = None
    ) -> list[dict[str, Any]]:
        """See :meth:`rpcapi.CloudletAPI.list_operations`."""
        return [operation.shown() for operation in self._runner.store.find(server_id, project_id)]

    def get_operation(self, ctxt: Any, operation_id: str) -> dict[str, Any] | None:
        """See :meth:`rpcapi.CloudletAPI.get_operation`."""
        operation = self._runner.store.get(operation_id)
        return None if operation is None else operation.shown()

    def cancel_operation(self, ctxt: Any, operation_id: str) -> dict[str, Any] | None:
        """See :meth:`rpcapi.CloudletAPI.cancel_operation`."""
        operation = self._runner.cancel(operation_id)
        return None if operation is None else operation.shown()

    def describe(self, ctxt: Any) -> dict[str, Any]:
        """See :meth:`rpcapi.CloudletAPI.describe`."""
        slots = self._runner.slots
        return {
            "version": VERSION,
            "bases": self._cached(),
            "images_type": jobs.images_type(),
            "workers": {"running": slots.running, "queued": slots.queued, "limit": slots.limit},
            "ends_servers": server_end.is_configured(),
        }

    # What the scheduler is told

    def stats(self) -> dict[str, str]:
        """For the resource tracker: which bases this host holds, and by which images it knows them."""
        images: dict[str, set[str]] = {}
        with contextlib.suppress(Exception):
            for instance in self._instances():
                base_id = instance.system_metadata.get("image_cloudlet_base_id")
                if base_id:
                    images.setdefault(base_id, set()).add(instance.image_ref)
        for operation in self._runner.store.find():
            base_id = (operation.result or {}).get("base_id")
            if base_id and operation.images.get("base-disk"):
                images.setdefault(base_id, set()).add(operation.images["base-disk"])
        pairs = [(base_id, image) for base_id in self._cached() for image in sorted(images.get(base_id, {""}))]
        return held_bases.to_stats(pairs)

    def _cached(self) -> list[str]:
        """Bases in this host's cache, the most recently used first."""
        folder = jobs.folder("bases")
        last_use: dict[str, float] = {}
        for lock in folder.glob("*.lock") if folder.is_dir() else ():
            # A worker may remove it meanwhile.
            with contextlib.suppress(FileNotFoundError):
                last_use[lock.stem] = lock.stat().st_mtime
        there = [base_id for base_id in last_use if (folder / base_id / "manifest.json").exists()]
        return sorted(there, key=lambda base_id: -last_use[base_id])

    def _instances(self) -> Any:
        context = nova_context.get_admin_context()
        return objects.InstanceList.get_by_host(context, self._host, expected_attrs=["system_metadata"])

    def _bases_in_use(self) -> set[str]:
        """Bases that servers of this host run on: their pages are mapped."""
        return {base_id for base_id in map(synthesiser.base_of, self._instances()) if base_id}

    def end_operations_of(self, instance: Any) -> None:
        """A server goes: what is being done with it has no use any more. Returns when nothing is left of that."""
        self._runner.cancel_all_of(instance.uuid, _DELETED)

    # After a restart

    def _recover(self, operation: Operation) -> None:
        worker = None if operation.worker is None else workers.Orphan(operation.worker)
        if operation.type in ("synthesis", "base-resume") and worker is not None:
            # The worker may be feeding a guest that runs: it goes on.
            server_id = str(operation.server_id)
            task = self._runner.adopt(operation, worker, lambda: self.synthesiser.power_off(server_id))
            self._runner.in_background(lambda: self._adopt(task, worker), f"cloudlet-{operation.id[:8]}")
            return
        if worker is not None:
            worker.end()
        jobs.remove_leavings(operation.id)
        self._runner.store.end(operation, FAILED, _RESTARTED)
        if operation.images and operation.type in _MAKE_IMAGES:
            made = list(operation.images.values())
            leftovers.delete_images(None, made, self._runner.in_background)
        if operation.server_id is not None:
            instance = server_record.find(operation.server_id)
            if instance is not None and instance.host == self._host:
                stopped_guests.let_run(self._driver._host.get_connection(), instance)
            server_record.release(operation.server_id, task_states.ALL, {self._host})

    def _release_lost(self) -> None:
        """Thread: servers of requests that never reached this host; nova-api ended in their middle, for instance."""
        while True:
            try:
                self._claims.release_lost()
            except Exception:
                LOG.exception("Task states that belong to no operation are not looked for now")
            if self._stopped.wait(_RELEASE_EVERY_S):
                return

    def _adopt(self, task: Task, worker: workers.Orphan) -> None:
        """Thread: see a synthesis to its end that an earlier nova-compute has begun."""
        operation = task.operation
        assert operation.server_id is not None
        instance = server_record.find(operation.server_id, "system_metadata")
        if instance is not None and instance.host != self._host:
            # What is left of its guest here waits for memory that is of no use any more.
            self.synthesiser.power_off(instance.uuid)
            worker.end()
            jobs.remove_leavings(operation.id)
            task.ended(_MOVED)
            return
        if instance is None or synthesiser.base_of(instance) is None:
            # Its guest never ran.
            worker.end()
            jobs.remove_leavings(operation.id)
            self.synthesiser.give_up(operation.server_id, _NOT_BUILT, task.hosts)
            task.ended(_NOT_BUILT)
            return
        worker.wait()
        said = workers.last_word(jobs.last_word(operation.id)) or {}
        jobs.last_word(operation.id).unlink(missing_ok=True)
        jobs.remove_leavings(operation.id)
        if said.get("event") == "done":
            self.synthesiser.complete(instance.uuid, task.hosts)
            task.ended(None, said.get("result"))
            return
        reason = said.get("error", "The worker ended early.")
        task.ended(self.synthesiser.fail(instance.uuid, reason, synthesiser.is_arriving(instance), task.hosts))
