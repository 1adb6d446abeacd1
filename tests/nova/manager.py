# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the manager of a compute host: takes the calls, keeps operations in memory, makes nothing."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import oslo_messaging

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def operation(operation_id: str, **facts: Any) -> dict[str, Any]:
    return {
        "id": operation_id,
        "type": "base-create",
        "state": "running",
        "stage": "capture",
        "stages": [{"name": "capture", "started_at": NOW.isoformat()}],
        "done_bytes": 10,
        "total_bytes": 100,
        "rate_bytes_per_s": 5.0,
        "estimate_s": 18.0,
        "server_id": None,
        "project_id": None,
        "user_id": None,
        "host": None,
        "images": {},
        "error": None,
        "result": None,
        "created_at": NOW.isoformat(),
        "updated_at": NOW.isoformat(),
        **facts,
    }


class Manager:
    """The endpoint of one host."""

    target = oslo_messaging.Target(version="1.0")

    def __init__(self, host: str) -> None:
        self.host = host
        self.images_type = "qcow2"
        self.changed = threading.Condition()
        self.operations: dict[str, dict[str, Any]] = {}
        self.casts: list[tuple[str, Any, dict[str, Any]]] = []
        self.abilities: dict[str, bool] = {}

    def add(self, operation_id: str, **facts: Any) -> str:
        self.operations[operation_id] = operation(operation_id, host=self.host, **facts)
        return operation_id

    def wait_for_cast(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Context and arguments of the cast of this name; it is forgotten."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(cast[0] == name for cast in self.casts), 10), self.casts
            found = next(cast for cast in self.casts if cast[0] == name)
            self.casts.remove(found)
        return found[1], found[2]

    def _cast(self, name: str, ctxt: Any, arguments: dict[str, Any]) -> None:
        with self.changed:
            self.casts.append((name, ctxt, arguments))
            self.changed.notify_all()

    def create_base(self, ctxt: Any, instance: Any, operation_id: str, name: str, images: dict[str, str]) -> None:
        self._cast("create_base", ctxt, {"instance": instance, "id": operation_id, "name": name, "images": images})

    def create_overlay(
        self, ctxt: Any, instance: Any, operation_id: str, name: str, image_id: str, on_finish: str, record: str | None
    ) -> None:
        arguments = {"instance": instance, "id": operation_id, "name": name, "image_id": image_id}
        self._cast("create_overlay", ctxt, {**arguments, "on_finish": on_finish, "record": record})

    def precache_base(self, ctxt: Any, operation_id: str, base_image_id: str) -> None:
        self._cast("precache_base", ctxt, {"id": operation_id, "image_id": base_image_id})

    def list_operations(
        self, ctxt: Any, server_id: str | None = None, project_id: str | None = None
    ) -> list[dict[str, Any]]:
        return [
            one
            for one in self.operations.values()
            if server_id in (None, one["server_id"]) and project_id in (None, one["project_id"])
        ]

    def get_operation(self, ctxt: Any, operation_id: str) -> dict[str, Any] | None:
        return self.operations.get(operation_id)

    def cancel_operation(self, ctxt: Any, operation_id: str) -> dict[str, Any] | None:
        found = self.operations.get(operation_id)
        if found is not None and found["state"] in ("queued", "running"):
            found["state"] = "cancelled"
        return found

    def describe(self, ctxt: Any) -> dict[str, Any]:
        workers = {"running": 0, "queued": 0, "limit": 2}
        told = {"version": "1.0", "bases": [], "images_type": self.images_type, "workers": workers}
        return {**told, **self.abilities}
