# SPDX-License-Identifier: Apache-2.0
"""Bases and overlays that tests make in a cloud."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from openstack import exceptions

from cloudlet_ext.engine.base import MANIFEST_NAME, Base
from cloudlet_ext.engine.base_file import export_base
from tests.cloud.cloud import Cloud


class Images:
    """Bases and overlays that a test has made, deleted at its end."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._made = cloud, list[str]()
        self._begun: dict[str, str] = {}

    def capture(self, server: Any, body: dict[str, Any], account: str = "member") -> dict[str, Any]:
        """Ask for a base or an overlay of a server once it is idle, and wait; the operation. Fails with its error."""
        self._cloud.settled(server, "ACTIVE")
        return self.ended(self.begin(server, body, account), account)

    def begin(self, server: Any, body: dict[str, Any], account: str = "member") -> str:
        """As :meth:`capture`, but without waiting; the id of the operation."""
        answer = self._cloud.connect(account).compute.post(f"/servers/{server.id}/action", json=body)
        assert answer.status_code == 202, answer.text
        operation_id = str(answer.json()["operation"])
        self._begun[operation_id] = account
        return operation_id

    def ended(self, operation_id: str, account: str = "member", state: str = "succeeded") -> dict[str, Any]:
        """An operation that has ended, as was to be expected."""
        operation = self._cloud.operation_ended(operation_id, account)
        self._made += operation["images"].values()
        self._begun.pop(operation_id, None)
        assert operation["state"] == state, operation
        return operation

    def arrived(self, server: Any, account: str = "member") -> dict[str, Any]:
        """What a server began with, once all of it is there and nothing is being done with the server any more."""
        operation = self.ended(server.id, account)
        self._cloud.settled(server, "ACTIVE")
        return operation

    def upload(self, name: str, file: Path, like: str, **properties: str) -> str:
        """A file as an image with the format and our properties of another one, except for ``properties``; its id."""
        glance = self._cloud.connect("member").image
        model = glance.get_image(like)
        own = {key: value for key, value in model.properties.items() if key.startswith("cloudlet_")}
        formats = {"disk_format": model.disk_format, "container_format": model.container_format}
        words = {"filename": str(file), "wait": True, "allow_duplicates": True}
        made = glance.create_image(name, **words, **formats, **{**own, **properties})
        self._made.append(made.id)
        return str(made.id)

    def with_cpu(self, base: str, held: Path, folder: Path, cpu: str) -> str:
        """A copy of a base, of which ``held`` is the directory on a host, whose guest had another CPU; its id."""
        glance = self._cloud.connect("member").image
        copy, pages = folder / "base", folder / "pages"
        subprocess.run(["cp", "-r", "--sparse=always", held, copy], check=True)
        with Base.open(copy) as known:
            manifest = replace(known.manifest, machine={**known.manifest.machine, "cpu": cpu})
        (copy / MANIFEST_NAME).write_bytes(manifest.encode())
        with Base.open(copy) as made:
            export_base(made, pages, with_disk=False)
            own = {"cloudlet_base_id": made.base_id}
            disk = self.upload("another-cpu", made.disk_path, base, **own)
        memory = glance.get_image(base).properties["cloudlet_memory_image"]
        memory = self.upload("another-cpu-memory", pages, memory, **own, cloudlet_base_image=disk)
        change = [{"op": "replace", "path": "/cloudlet_memory_image", "value": memory}]
        kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        answer = glance.patch(f"/images/{disk}", json=change, headers=kind)
        assert answer.status_code == 200, answer.text
        return disk

    def delete_later(self, image: str) -> None:
        """An image that was made in another way."""
        self._made.append(image)

    def delete(self) -> None:
        """Delete what was made, also by operations of which the test has not seen the end."""
        for operation_id, account in self._begun.items():
            with contextlib.suppress(AssertionError, exceptions.SDKException):
                self._made += self._cloud.operation(operation_id, account)["images"].values()
        for image in self._made:
            self._cloud.admin.image.delete_image(image, ignore_missing=True)
