# SPDX-License-Identifier: Apache-2.0
"""A cloud with the cloudlet API. Every answer of it is held against the product's own schemas."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

from cloudlet_ext.api import validation
from cloudlet_ext.api.schemas import bases, operations, overlays, server_actions
from tests.osc.service import Answer, Request, fault
from tests.osc.stock_cloud import TIME, StockCloud

DISK, MEMORY, OVERLAY = b"QFI\xfb" + b"disk" * 800_000, b"memory" * 600_000, b"CLOUDLET" * 5_000
BASE_ID = "8194c19b890d5fbef9cc0bd57c6b08bbf2452346a7cffbdb2bc13bec6aa16e15"
"""That of the overlay in tests/golden."""
OVERLAY_ID = "1545d576a32ed0b49e89f312a01911db650c9db25ce92332405a69e1b843ed87"

_ACTIONS = {"cloudlet-base": server_actions.BASE, "cloudlet-overlay-finish": server_actions.OVERLAY_FINISH}


def checked(document: Any, schema: dict[str, Any], status: int = 200) -> Answer:
    """An answer that fits its schema."""
    validation.check(document, schema, "it")
    return Answer(status, document, {"OpenStack-API-Version": "cloudlet 1.0", "Vary": "OpenStack-API-Version"})


class Cloud(StockCloud):
    """``failure``: with what operations fail; ``progress``: what they say, look by look, until they end;
    ``max_limit``: so many are listed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: dict[str, dict[str, Any]] = {}
        self._lives: dict[str, Iterator[None]] = {}
        self.failure: str | None = None
        self.max_limit = 1000
        self.progress: list[dict[str, Any]] = [
            {"state": "running", "stage": "capture", "done_bytes": 40_000_000, "total_bytes": 100_000_000},
            {"rate_bytes_per_s": 80e6, "estimate_s": 0.5, "done_bytes": 60_000_000},
            {"stage": "store", "done_bytes": 1_000_000, "total_bytes": 0},
        ]
        self.add("POST", "/compute/v2.1/servers", self._create_server)
        self.add("POST", "/compute/v2.1/servers/([^/]+)/action", self._act)
        self._add_cloudlet()

    # What a test begins with

    def add_base(self, name: str = "ubuntu", base_id: str = BASE_ID, filled: bool = True, **fields: Any) -> str:
        memory = self.add_image(f"{name} memory", MEMORY if filled else None, os_hidden=True)
        known = {
            "cloudlet_type": "base",
            "cloudlet_base_id": base_id,
            "cloudlet_memory_image": memory,
            "cloudlet_memory_mb": "256",
            "cloudlet_vcpus": "1",
            "cloudlet_machine": '{"cpu": "qemu64"}',
            "hw_disk_bus": "virtio",
            "min_disk": 2,
            "min_ram": 256,
            "disk_format": "qcow2",
        }
        disk = self.add_image(name, DISK if filled else None, **known | fields)
        self.images[memory] |= {
            "cloudlet_type": "base-memory",
            "cloudlet_base_id": base_id,
            "cloudlet_base_image": disk,
        }
        return disk

    def add_overlay(self, name: str = "face-app", base_id: str = BASE_ID, **fields: Any) -> str:
        known = {
            "cloudlet_type": "overlay",
            "cloudlet_overlay_id": OVERLAY_ID,
            "cloudlet_base_id": base_id,
            "cloudlet_memory_mb": "256",
            "cloudlet_vcpus": "1",
        }
        return self.add_image(name, fields.pop("data", OVERLAY), **known | fields)

    # Operations

    def begin(
        self,
        kind: str,
        server_id: str | None,
        images: dict[str, str],
        end: Callable[[bool], None],
        known_id: str | None = None,
    ) -> str:
        """An operation that goes on a little with each look; ``end(succeeded)`` is called at its end."""
        operation_id = known_id or str(uuid.uuid4())
        self.operations[operation_id] = {
            "id": operation_id,
            "type": kind,
            "state": "queued",
            "stage": None,
            "stages": [{"name": "capture", "started_at": TIME}],
            "done_bytes": 0,
            "total_bytes": 0,
            "rate_bytes_per_s": None,
            "estimate_s": None,
            "server_id": server_id,
            "project_id": self.project_id,
            "user_id": self.user_id,
            "host": None,
            "images": images,
            "error": None,
            "result": None,
            "created_at": f"2026-11-22T08:00:{len(self.operations):02}Z",
            "updated_at": TIME,
        }
        self._lives[operation_id] = self._live(self.operations[operation_id], end)
        return operation_id

    def _live(self, operation: dict[str, Any], end: Callable[[bool], None]) -> Iterator[None]:
        yield
        for change in self.progress:
            operation |= change
            yield
        failure = self.failure
        operation |= {"state": "failed", "error": failure} if failure else {"state": "succeeded"}
        end(not failure)

    def look(self, operation_id: str) -> None:
        """Time goes on."""
        if self.operations[operation_id]["state"] in ("queued", "running"):
            next(self._lives[operation_id], None)

    def _finish_images(self, data: dict[str, bytes], succeeded: bool) -> None:
        for image_id, content in data.items():
            if succeeded:
                self.fill(image_id, content)
            else:
                del self.images[image_id]

    # Servers

    def _create_server(self, request: Request) -> Answer:
        document = request.json["server"]
        server_id = self.add_server(document["name"], "BUILD", metadata=document.get("metadata", {}))
        kind = "synthesis" if "overlay_url" in document.get("metadata", {}) else "base-resume"

        def end(succeeded: bool) -> None:
            fault = {"code": 500, "message": self.failure or ""}
            addresses = {"private": [{"addr": "10.0.0.7", "version": 4}]}
            changes = {"status": "ACTIVE", "addresses": addresses} if succeeded else {"status": "ERROR", "fault": fault}
            self.servers[server_id] |= changes

        self.begin(kind, server_id, {}, end, server_id)
        return Answer(202, {"server": {"id": server_id, "links": []}, "synthesis": {"operation": server_id}})

    def _act(self, request: Request, server_id: str) -> Answer:
        ((action, what),) = request.json.items()
        validation.check(request.json, _ACTIONS[action], "it")
        if action == "cloudlet-base":
            return self._create_base(server_id, what["name"])
        return self._create_overlay(server_id, what["overlay-name"])

    def _create_base(self, server_id: str, name: str) -> Answer:
        disk = self.add_base(name, filled=False)
        memory = self.images[disk]["cloudlet_memory_image"]
        images = {"base-disk": disk, "base-memory": memory}
        data = {disk: DISK, memory: MEMORY}
        operation = self.begin("base-create", server_id, images, lambda done: self._finish_images(data, done))
        told = {key: {"id": each, "name": name, "status": "queued"} for key, each in images.items()}
        return checked({**told, "operation": operation}, server_actions.BASE_ANSWER, 202)

    def _create_overlay(self, server_id: str, name: str) -> Answer:
        image_id = self.add_overlay(name, data=None)
        data = {image_id: OVERLAY}
        images = {"overlay": image_id}
        operation = self.begin("overlay-create", server_id, images, lambda done: self._finish_images(data, done))
        return checked({"overlay-id": image_id, "operation": operation}, server_actions.OVERLAY_FINISH_ANSWER, 202)

    # The cloudlet API

    def _add_cloudlet(self) -> None:
        prefix = "/compute/v2.1/os-cloudlet"
        self.add("GET", f"{prefix}/bases", self._list_bases)
        self.add("GET", f"{prefix}/bases/([^/]+)", self._show_base)
        self.add("DELETE", f"{prefix}/bases/([^/]+)", self._delete_base)
        self.add("POST", f"{prefix}/bases/([^/]+)/precache", self._precache)
        self.add("GET", f"{prefix}/overlays", self._list_overlays)
        self.add("GET", f"{prefix}/overlays/([^/]+)", self._show_overlay)
        self.add("DELETE", f"{prefix}/overlays/([^/]+)", self._delete_image)
        self.add("GET", f"{prefix}/operations", self._list_operations)
        self.add("GET", f"{prefix}/operations/([^/]+)", self._show_operation)
        self.add("DELETE", f"{prefix}/operations/([^/]+)", self._cancel)

    def _of_type(self, kind: str, request: Request) -> list[dict[str, Any]]:
        validation.check(request.query, bases.INDEX_QUERY, "it")
        found = [each for each in self.images.values() if each.get("cloudlet_type") == kind]
        found = [each for each in found if request.query.get("name", each["name"]) == each["name"]]
        if marker := request.query.get("marker"):
            found = found[1 + [each["id"] for each in found].index(marker) :]
        return found[: min(int(request.query.get("limit", self.max_limit)), self.max_limit)]

    def _list_bases(self, request: Request) -> Answer:
        found = [self._base(each) for each in self._of_type("base", request)]
        return checked({"bases": found}, bases.INDEX_ANSWER)

    def _show_base(self, request: Request, image_id: str) -> Answer:
        image = self.images.get(image_id, {})
        if image.get("cloudlet_type") != "base":
            return fault(404, f"Base {image_id} could not be found.")
        return checked({"base": self._base(image)}, bases.SHOW_ANSWER)

    def _delete_base(self, request: Request, image_id: str) -> Answer:
        memory = self.images[image_id]["cloudlet_memory_image"]
        self.images.pop(memory)
        return self._delete_image(request, image_id)

    def _precache(self, request: Request, image_id: str) -> Answer:
        validation.check(request.json, bases.PRECACHE, "it")
        hosts = 2 if "all" in request.json["precache"] else 1
        begun = [self.begin("base-precache", None, {}, lambda done: None) for _ in range(hosts)]
        return checked({"operations": begun}, bases.PRECACHE_ANSWER, 202)

    def _list_overlays(self, request: Request) -> Answer:
        found = [_overlay(each) for each in self._of_type("overlay", request)]
        return checked({"overlays": found}, overlays.INDEX_ANSWER)

    def _show_overlay(self, request: Request, image_id: str) -> Answer:
        image = self.images.get(image_id, {})
        if image.get("cloudlet_type") != "overlay":
            return fault(404, f"Overlay {image_id} could not be found.")
        return checked({"overlay": _overlay(image)}, overlays.SHOW_ANSWER)

    def _list_operations(self, request: Request) -> Answer:
        validation.check(request.query, operations.INDEX_QUERY, "it")
        wanted = request.query.get("server_id")
        found = [each for each in self.operations.values() if wanted in (None, each["server_id"])]
        return checked({"operations": found}, operations.INDEX_ANSWER)

    def _show_operation(self, request: Request, operation_id: str) -> Answer:
        if operation_id not in self.operations:
            return fault(404, f"Operation {operation_id} could not be found.")
        self.look(operation_id)
        return checked({"operation": self.operations[operation_id]}, operations.SHOW_ANSWER)

    def _cancel(self, request: Request, operation_id: str) -> Answer:
        operation = self.operations[operation_id]
        if operation["state"] not in ("queued", "running"):
            return fault(409, f"Operation {operation_id} has ended: {operation['state']}.")
        operation |= {"state": "cancelled", "error": "cancelled by its user"}
        return Answer(202)

    def _base(self, image: dict[str, Any]) -> dict[str, Any]:
        memory = self.images.get(image["cloudlet_memory_image"], {})
        return _common(image) | {
            "base_id": image["cloudlet_base_id"],
            "memory_image_id": image["cloudlet_memory_image"],
            "min_disk_gb": image["min_disk"],
            "disk_bytes": image["size"],
            "memory_bytes": memory.get("size"),
        }


def _overlay(image: dict[str, Any]) -> dict[str, Any]:
    return _common(image) | {
        "overlay_id": image["cloudlet_overlay_id"],
        "base_id": image["cloudlet_base_id"],
        "base_image_id": image.get("cloudlet_base_image"),
        "size_bytes": image["size"],
    }


def _common(image: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": image["id"],
        "name": image["name"],
        "status": image["status"],
        "visibility": image["visibility"],
        "project_id": image["owner"],
        "memory_mb": int(image["cloudlet_memory_mb"]) if "cloudlet_memory_mb" in image else None,
        "vcpus": int(image["cloudlet_vcpus"]) if "cloudlet_vcpus" in image else None,
        "created_at": image["created_at"],
    }
