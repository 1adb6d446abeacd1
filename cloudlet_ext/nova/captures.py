# SPDX-License-Identifier: Apache-2.0
"""Captures: bases and overlays made of servers of this host, and bases fetched ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nova import conf as nova_conf
from nova.image import glance
from oslo_log import log as logging

from cloudlet_ext import privsep
from cloudlet_ext.api.schemas.server_actions import RESUME
from cloudlet_ext.nova import jobs, leftovers, server_end, stopped_guests, task_states
from cloudlet_ext.nova.claims import Claims, TooLate
from cloudlet_ext.nova.runner import Runner, Task
from cloudlet_ext.nova.workers import WorkerFailed

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)


class Captures:
    """Does what the API asks of this host, each in a thread that lasts as long as the operation."""

    def __init__(self, runner: Runner, claims: Claims, in_use: Callable[[], set[str]], driver: Any) -> None:
        self._runner, self._claims, self._in_use, self._driver = runner, claims, in_use, driver

    def create_base(self, context: Any, instance: Any, operation_id: str, images: dict[str, str]) -> None:
        """See :meth:`cloudlet_ext.nova.rpcapi.CloudletAPI.create_base`."""
        task = self._runner.task(context, "base-create", operation_id, instance=instance, images=images)

        def job() -> dict[str, Any]:
            self._claims.take(task.operation, task_states.BASE_CREATE)
            own = {
                "server": instance.uuid,
                "disk_image": images["base-disk"],
                "memory_image": images["base-memory"],
            }
            return {**jobs.common(context, task.operation, self._in_use()), **own}

        self._start(context, task, instance, job, list(images.values()), lambda: None)

    def create_overlay(
        self, context: Any, instance: Any, operation_id: str, image_id: str, on_finish: str, record: str | None
    ) -> None:
        """See :meth:`cloudlet_ext.nova.rpcapi.CloudletAPI.create_overlay`."""
        images = {"overlay": image_id}
        task = self._runner.task(context, "overlay-create", operation_id, instance=instance, images=images)

        def job() -> dict[str, Any]:
            self._claims.take(task.operation, task_states.OVERLAY_CREATE)
            metadata = instance.system_metadata
            own = {
                "server": instance.uuid,
                "overlay_image": image_id,
                "base_id": metadata["image_cloudlet_base_id"],
                "base_image": instance.image_ref,
                "base_memory_image": metadata["image_cloudlet_memory_image"],
                "disk_below": jobs.cached_image(instance.image_ref),
                "on_finish": on_finish,
                "record": record,
                "record_timeout_s": CONF.cloudlet.record_timeout,
                "ports": jobs.ports(instance) if record else [],
                "privsep_helper": privsep.helper(),
            }
            return {**jobs.common(context, task.operation, self._in_use()), **own}

        def finish() -> None:
            if on_finish != RESUME:
                server_end.end(context, instance, on_finish)

        self._start(context, task, instance, job, [image_id], finish)

    def precache_base(self, context: Any, operation_id: str, base_image_id: str) -> None:
        """See :meth:`cloudlet_ext.nova.rpcapi.CloudletAPI.precache_base`."""
        task = self._runner.task(context, "base-precache", operation_id, images={"base-disk": base_image_id})

        def job() -> dict[str, Any]:
            image = glance.API().get(context, base_image_id)
            known = image["properties"]
            own = {
                "base_id": known["cloudlet_base_id"],
                "base_image": base_image_id,
                "base_memory_image": known["cloudlet_memory_image"],
            }
            return {**jobs.common(context, task.operation, self._in_use()), **own}

        self._start(context, task, None, job, [], lambda: None)

    def _start(
        self,
        context: Any,
        task: Task,
        instance: Any,
        job: Callable[[], dict[str, Any]],
        made: list[str],
        finish: Callable[[], None],
    ) -> None:
        self._runner.in_background(
            lambda: self._run(context, task, instance, job, made, finish), f"cloudlet-{task.operation.id[:8]}"
        )

    def _run(
        self,
        context: Any,
        task: Task,
        instance: Any,
        job: Callable[[], dict[str, Any]],
        made: list[str],
        finish: Callable[[], None],
    ) -> None:
        """Thread: the whole operation. What was ``made`` for it goes when it fails."""
        error, result, is_ours = None, None, instance is not None
        try:
            task.begin(job)
            result = task.finish(CONF.cloudlet.operation_timeout)
        except TooLate as failure:
            error, is_ours = str(failure), False
        except WorkerFailed as failure:
            error = str(failure)
        except Exception as failure:
            LOG.exception("Operation %s", task.operation.id)
            error = f"{type(failure).__name__}: {failure}"
        if error is not None:
            LOG.warning("Operation %s (%s) failed: %s", task.operation.id, task.operation.type, error)
            if made:
                leftovers.delete_images(context, made, self._runner.in_background)
        if is_ours:
            if error is not None:
                stopped_guests.let_run(self._driver._host.get_connection(), instance)
            self._claims.give_back(task.operation)
            if error is None:
                try:
                    finish()
                except Exception as failure:
                    LOG.exception("What was to happen to the server after operation %s", task.operation.id)
                    error = f"The image was made, but the server was left as it is: {failure}"
        task.ended(error, result)
