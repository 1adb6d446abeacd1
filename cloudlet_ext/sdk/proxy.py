# SPDX-License-Identifier: Apache-2.0
"""Proxy: what ``connection.cloudlet`` can do."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

import requests
from openstack import exceptions, proxy
from openstack.compute.v2.server import Server
from openstack.connection import Connection

from cloudlet_ext.sdk.base import Base
from cloudlet_ext.sdk.errors import Ambiguous, ExtensionMissing, Missing, OverlayUrlLong, UnexpectedBody
from cloudlet_ext.sdk.operation import Begun, Operation
from cloudlet_ext.sdk.overlay import Overlay

API_VERSION = "1.0"
"""Microversion of the cloudlet API that is spoken here."""

_METADATA_LIMIT = 255
"""Most characters of a value in a server's metadata, as Nova has it."""

_PAGE = 1000
"""As many as Nova lists at once, unless its operator decides otherwise."""

_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"

_Kind = TypeVar("_Kind", Base, Overlay)


class Proxy(proxy.Proxy):
    """The cloudlet API of one cloud, on its compute endpoint.

    Methods raise :class:`cloudlet_ext.sdk.errors.ClientError`, or what openstacksdk raises about an HTTP status
    (``openstack.exceptions.HttpException``, whose ``details`` are the service's own words).
    """

    api_version = "1"

    def request(self, url: str, method: str, *args: Any, **kwargs: Any) -> requests.Response:
        """As openstacksdk's, with our microversion beside Nova's; ExtensionMissing when nobody understands it."""
        nova = kwargs.get("microversion") or self.default_microversion
        versions = [f"compute {nova}"] if nova else []
        kwargs["headers"] = {
            "OpenStack-API-Version": ", ".join([*versions, f"cloudlet {API_VERSION}"]),
            **(kwargs.get("headers") or {}),
        }
        response = super().request(url, method, *args, **kwargs)
        if response.status_code == 404 and url.startswith("/os-cloudlet") and not _is_told(response):
            raise ExtensionMissing(endpoint=self.get_endpoint(), path=url)
        return response

    @property
    def connection(self) -> Connection:
        """The connection that this proxy belongs to."""
        connection = self._get_connection()
        if connection is None:
            raise RuntimeError("the proxy was made without a connection")
        return connection

    def capabilities(self) -> dict[str, Any]:
        """What the cloud offers: ``{"version", "min_version", "max_version", "capabilities", "limits"}``."""
        return _member(self.get("/os-cloudlet"), "cloudlet")

    def bases(self, **query: Any) -> Iterator[Base]:
        """Bases that can be seen. ``query``: name, limit (of a page), marker; any attribute is filtered here."""
        return self._list(Base, **_paged(query))

    def get_base(self, base: str | Base) -> Base:
        """A base by id."""
        return self._get(Base, base)

    def find_base(self, name_or_id: str) -> Base:
        """A base by name or id. Missing, Ambiguous."""
        return self._find_one(Base, name_or_id, "base")

    def delete_base(self, base: str | Base) -> None:
        """Delete both images of a base."""
        self._delete(Base, base, ignore_missing=False)

    def update_base(self, base: Base, *, name: str | None = None, visibility: str | None = None) -> Base:
        """Change both images of a base; both or none."""
        undo = _changes(name and base.name, visibility and base.visibility)
        self._patch_image(base.id, _changes(name, visibility))
        try:
            self._patch_image(base.memory_image_id, _changes(name and memory_name(name), visibility))
        except BaseException:
            self._patch_image(base.id, undo)
            raise
        return self.get_base(base.id)

    def create_base(self, server: str | Server, name: str) -> Begun:
        """Begin to make a base of a running server."""
        body = self._act(server, {"cloudlet-base": {"name": name}})
        images = {key: str(_field(body, key)["id"]) for key in ("base-disk", "base-memory")}
        return Begun(str(_field(body, "operation")), images)

    def precache_base(self, base: str | Base, host: str | None = None) -> list[str]:
        """Begin to bring a base into the cache of ``host``, or of all hosts; ids of the operations.

        The first is for administrators, the second for managers of its project.
        """
        what: dict[str, Any] = {"host": host} if host else {"all": True}
        path = f"{Base.base_path}/{Base._get_id(base)}/precache"
        return [str(operation) for operation in _member(self.post(path, json={"precache": what}), "operations")]

    def overlays(self, **query: Any) -> Iterator[Overlay]:
        """Overlays that can be seen. ``query``: name, limit (of a page), marker; any attribute is filtered here."""
        return self._list(Overlay, **_paged(query))

    def get_overlay(self, overlay: str | Overlay) -> Overlay:
        """An overlay by id."""
        return self._get(Overlay, overlay)

    def find_overlay(self, name_or_id: str) -> Overlay:
        """An overlay by name or id. Missing, Ambiguous."""
        return self._find_one(Overlay, name_or_id, "overlay")

    def delete_overlay(self, overlay: str | Overlay) -> None:
        """Delete an overlay's image."""
        self._delete(Overlay, overlay, ignore_missing=False)

    def update_overlay(self, overlay: Overlay, *, name: str | None = None, visibility: str | None = None) -> Overlay:
        """Change an overlay's image."""
        self._patch_image(overlay.id, _changes(name, visibility))
        return self.get_overlay(overlay.id)

    def create_overlay(
        self, server: str | Server, name: str, *, on_finish: str = "resume", record: str | None = None
    ) -> Begun:
        """Begin to make an overlay of a running server.

        ``on_finish``: what becomes of the server afterwards: resume, stop or delete. ``record``: a probe
        (``http://:PORT/PATH``, ``tcp:PORT``); what a synthesised server needs until it answers is put first.
        """
        what = {"overlay-name": name, "on-finish": on_finish} | ({"record": record} if record else {})
        body = self._act(server, {"cloudlet-overlay-finish": what})
        return Begun(str(_field(body, "operation")), {"overlay": str(_field(body, "overlay-id"))})

    def start_server(
        self,
        name: str,
        base: str | Base,
        flavor: str,
        networks: str | list[dict[str, str]],
        overlay_url: str | None = None,
    ) -> Server:
        """Create a server that goes on where the base's guest was captured, or, with ``overlay_url``, the overlay's.

        ``flavor``: id. ``networks``: as Nova's: ``[{"uuid": ...}]``, "auto" or "none". ``overlay_url``:
        ``https://...`` or ``glance:ID``. The operation has the server's id.
        """
        if overlay_url and len(overlay_url) > _METADATA_LIMIT:
            raise OverlayUrlLong(found=len(overlay_url), expected=_METADATA_LIMIT)
        return self.connection.compute.create_server(
            name=name,
            image_id=Base._get_id(base),
            flavor_id=flavor,
            networks=networks,
            **({"metadata": {"overlay_url": overlay_url}} if overlay_url else {}),
        )

    def operations(self, server_id: str | None = None, all_projects: bool = False) -> Iterator[Operation]:
        """Operations under way and lately ended, of one server, of the project, or of all (admin)."""
        query: dict[str, Any] = {"server_id": server_id} if server_id else {}
        return self._list(Operation, **query, **({"all_projects": "true"} if all_projects else {}))

    def get_operation(self, operation: str | Operation) -> Operation:
        """An operation by id, as it stands now."""
        return self._get(Operation, Operation._get_id(operation), skip_cache=True)

    def cancel_operation(self, operation: str | Operation) -> None:
        """Ask for the end of an operation; what it has made is undone. ConflictException when it has ended."""
        self._delete(Operation, Operation._get_id(operation), ignore_missing=False)

    def _find_one(self, kind: type[_Kind], name_or_id: str, word: str) -> _Kind:
        if is_uuid(name_or_id):
            try:
                return self._get(kind, name_or_id)
            except exceptions.NotFoundException:
                pass  # Nothing forbids a name that looks like an id.
        found = [each for each in self._list(kind, name=name_or_id, paginated=False) if each.name == name_or_id]
        if not found:
            raise Missing(kind=word, name=name_or_id)
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            raise Ambiguous(kind=word, name=name_or_id, count=len(found), ids=ids)
        return found[0]

    def _act(self, server: str | Server, action: dict[str, Any]) -> dict[str, Any]:
        response = self.post(f"/servers/{Server._get_id(server)}/action", json=action)
        exceptions.raise_from_response(response)
        return _document(response)

    def _patch_image(self, image_id: str, changes: list[dict[str, str]]) -> None:
        images = self.connection.image
        response = images.patch(f"/images/{image_id}", json=changes, headers={"Content-Type": _PATCH_TYPE})
        exceptions.raise_from_response(response)


def _is_told(response: requests.Response) -> bool:
    """Whether an error is a service's own word, ``{"itemNotFound": {"message": ...}}``, not that of a URL map."""
    try:
        document = response.json()
    except ValueError:
        return False
    return isinstance(document, dict) and any(isinstance(value, dict) for value in document.values())


def _paged(query: dict[str, Any]) -> dict[str, Any]:
    """A query whose answer is read page by page: the service cuts lists off, and gives no links."""
    return {"limit": _PAGE, **query}


def is_uuid(text: str) -> bool:
    """Whether ``text`` may be an id of the cloud."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def memory_name(name: str) -> str:
    """The name of the memory image of a base of this name, as the compute service gives it."""
    return f"{name} memory"


def _changes(name: str | None, visibility: str | None) -> list[dict[str, str]]:
    """A JSON patch of an image."""
    values = {"name": name, "visibility": visibility}
    return [{"op": "replace", "path": f"/{key}", "value": value} for key, value in values.items() if value]


def _document(response: requests.Response) -> dict[str, Any]:
    """The object in the body. UnexpectedBody."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        request = f"{response.request.method} {response.request.url}"
        raise UnexpectedBody(request=request, expected="a JSON object", found=response.text[:60])
    return document


def _member(response: requests.Response, name: str) -> Any:
    """A member of the object in the body; the status is checked first."""
    exceptions.raise_from_response(response)
    return _field(_document(response), name)


def _field(document: dict[str, Any], name: str) -> Any:
    if name not in document:
        found = ", ".join(sorted(document)) or "nothing"
        raise UnexpectedBody(request="an action", expected=name, found=found)
    return document[name]
