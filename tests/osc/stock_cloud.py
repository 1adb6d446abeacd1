# SPDX-License-Identifier: Apache-2.0
"""A stock cloud in this process: as much of Keystone, Glance, Neutron and Nova as the client asks for."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from tests.osc.service import Answer, Request, Service, fault

TIME = "2026-11-22T08:00:00Z"

_CORE = {"os_hidden": False, "min_ram": 0, "min_disk": 0, "disk_format": "raw", "container_format": "bare"}


class StockCloud(Service):
    """Things by their ids; ``data`` is what the images hold."""

    def __init__(self) -> None:
        super().__init__()
        self.project_id, self.user_id = uuid.uuid4().hex, uuid.uuid4().hex
        self.images: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytes] = {}
        self.servers: dict[str, dict[str, Any]] = {}
        self.flavors: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self._add_identity()
        self._add_images()
        self._add_network()
        self._add_compute()

    # What a test begins with

    def add_image(self, name: str, data: bytes | None, **fields: Any) -> str:
        image_id = fields.pop("id", None) or str(uuid.uuid4())
        self.images[image_id] = {
            **_CORE,
            "id": image_id,
            "name": name,
            "status": "queued",
            "visibility": "private",
            "owner": self.project_id,
            "size": None,
            "created_at": TIME,
            "updated_at": TIME,
            "protected": False,
            **fields,
        }
        if data is not None:
            self.fill(image_id, data)
        return image_id

    def fill(self, image_id: str, data: bytes) -> None:
        digest = hashlib.sha512(data).hexdigest()
        self.data[image_id] = data
        self.images[image_id] |= {
            "status": "active",
            "size": len(data),
            "os_hash_algo": "sha512",
            "os_hash_value": digest,
        }

    def add_flavor(self, name: str, ram: int = 256, vcpus: int = 1, disk: int = 2, swap: int = 0) -> str:
        flavor_id = str(uuid.uuid4())
        sizes = {"ram": ram, "vcpus": vcpus, "disk": disk, "swap": swap, "OS-FLV-EXT-DATA:ephemeral": 0}
        self.flavors[flavor_id] = {"id": flavor_id, "name": name, "extra_specs": {}, "links": [], **sizes}
        return flavor_id

    def add_network(self, name: str, **fields: Any) -> str:
        network_id = str(uuid.uuid4())
        known = {"id": network_id, "name": name, "router:external": False, "shared": False}
        self.networks[network_id] = {**known, "project_id": self.project_id, **fields}
        return network_id

    def add_server(self, name: str, status: str = "ACTIVE", **fields: Any) -> str:
        server_id = str(uuid.uuid4())
        known = {"addresses": {}, "metadata": {}, "links": [], "flavor": {}, "image": {}}
        self.servers[server_id] = {"id": server_id, "name": name, "status": status, **known, **fields}
        return server_id

    # Keystone, Neutron

    def _add_identity(self) -> None:
        link = {"rel": "self", "href": f"{self.url}/identity/v3"}
        version = {"id": "v3.14", "status": "stable", "updated": TIME, "links": [link]}
        self.add("GET", "/identity/v3/?", lambda request: Answer(200, {"version": version}))
        self.add("POST", "/identity/v3/auth/tokens", self._token)

    def _token(self, request: Request) -> Answer:
        domain = {"id": "default", "name": "Default"}
        paths = {"identity": "/identity/v3", "compute": "/compute/v2.1", "image": "/image", "network": "/network"}
        token = {
            "methods": ["password"],
            "issued_at": TIME,
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "user": {"id": self.user_id, "name": "user", "domain": domain},
            "project": {"id": self.project_id, "name": "project", "domain": domain},
            "roles": [{"id": uuid.uuid4().hex, "name": "member"}],
            "catalog": [self._entry(kind, path) for kind, path in paths.items()],
        }
        return Answer(201, {"token": token}, {"X-Subject-Token": uuid.uuid4().hex})

    def _entry(self, kind: str, path: str) -> dict[str, Any]:
        """A service of the catalogue."""
        endpoint = {"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": self.url + path}
        return {"id": uuid.uuid4().hex, "type": kind, "name": kind, "endpoints": [{"id": kind, **endpoint}]}

    def _add_network(self) -> None:
        prefix = "/network/v2.0/networks"
        self.add("GET", prefix, lambda request: Answer(200, {"networks": _named(self.networks, request)}))
        self.add("GET", f"{prefix}/(.+)", lambda request, key: _one(self.networks, key, "network"))

    # Glance

    def _add_images(self) -> None:
        link = {"rel": "self", "href": f"{self.url}/image/v2/"}
        version = {"id": "v2.17", "status": "CURRENT", "links": [link]}
        self.add("GET", "/image/?", lambda request: Answer(300, {"versions": [version]}))
        image = "/image/v2/images/([^/]+)"
        self.add("GET", image, lambda request, key: self._image(key))
        self.add("POST", "/image/v2/images", self._create_image)
        self.add("PATCH", image, self._patch_image)
        self.add("DELETE", image, self._delete_image)
        self.add("GET", f"{image}/file", lambda request, key: Answer(200, self.data[key]))
        self.add("PUT", f"{image}/file", self._fill_image)

    def _image(self, image_id: str) -> Answer:
        return Answer(200, self.images[image_id]) if image_id in self.images else fault(404, f"No image {image_id}")

    def _create_image(self, request: Request) -> Answer:
        document = request.json
        self.add_image(document.pop("name"), None, **document)
        return Answer(201, self.images[document["id"]])

    def _patch_image(self, request: Request, image_id: str) -> Answer:
        assert request.headers["Content-Type"] == "application/openstack-images-v2.1-json-patch"
        for change in request.json:
            assert change["op"] == "replace"
            self.images[image_id][change["path"].lstrip("/")] = change["value"]
        return self._image(image_id)

    def _delete_image(self, request: Request, image_id: str) -> Answer:
        return Answer(204) if self.images.pop(image_id, None) else fault(404, f"No image {image_id}")

    def _fill_image(self, request: Request, image_id: str) -> Answer:
        if image_id not in self.images:
            return fault(410, f"Image {image_id} was deleted meanwhile")
        if len(request.body) == request.length:
            self.fill(image_id, request.body)
        return Answer(204)

    # Nova

    def _add_compute(self) -> None:
        link = {"rel": "self", "href": f"{self.url}/compute/v2.1/"}
        version = {"id": "v2.1", "status": "CURRENT", "version": "2.103", "min_version": "2.1", "links": [link]}
        self.add("GET", "/compute/v2.1/?", lambda request: Answer(200, {"version": version}))
        self.add("GET", "/compute/v2.1/flavors/(.+)", lambda request, key: _one(self.flavors, key, "flavor"))
        for path in ("flavors", "flavors/detail"):
            self.add("GET", f"/compute/v2.1/{path}", lambda request: Answer(200, {"flavors": [*self.flavors.values()]}))
        self.add("GET", "/compute/v2.1/servers/([^/]+)", self._show_server)
        self.add("GET", "/compute/v2.1/servers/detail", lambda r: Answer(200, {"servers": _named(self.servers, r)}))

    def _show_server(self, request: Request, server_id: str) -> Answer:
        return _one(self.servers, server_id, "server")


def _named(things: dict[str, dict[str, Any]], request: Request) -> list[dict[str, Any]]:
    wanted = request.query.get("name")
    return [each for each in things.values() if wanted in (None, each["name"], f"^{each['name']}$")]


def _one(things: dict[str, dict[str, Any]], key: str, kind: str) -> Answer:
    return Answer(200, {kind: things[key]}) if key in things else fault(404, f"{kind.capitalize()} {key} not found.")
