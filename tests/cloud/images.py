# SPDX-License-Identifier: Apache-2.0
"""Bases and overlays that tests make in a cloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.cloud.cloud import Cloud


@dataclass(frozen=True)
class Site:
    """A base, and an overlay of it that every test of a run may use. ``secret`` is in the overlay's memory only."""

    base: str
    overlay: str
    secret: str
    overlay_bytes: int
    nonce: str


class Images:
    """Bases and overlays that a test has made, deleted at its end."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._made = cloud, list[str]()

    def capture(self, server: Any, body: dict[str, Any], account: str = "member") -> dict[str, Any]:
        """Ask for a base or an overlay of a server, and wait; the operation. Fails with its error."""
        return self.ended(self.begin(server, body, account), account)

    def begin(self, server: Any, body: dict[str, Any], account: str = "member") -> str:
        """As :meth:`capture`, but without waiting; the id of the operation."""
        answer = self._cloud.connect(account).compute.post(f"/servers/{server.id}/action", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["operation"])

    def ended(self, operation_id: str, account: str = "member", state: str = "succeeded") -> dict[str, Any]:
        """An operation that has ended, as was to be expected."""
        operation = self._cloud.operation_ended(operation_id, account)
        self._made += operation["images"].values()
        assert operation["state"] == state, operation
        return operation

    def delete_later(self, image: str) -> None:
        """An image that was made in another way."""
        self._made.append(image)

    def delete(self) -> None:
        """Delete what was made."""
        for image in self._made:
            self._cloud.admin.image.delete_image(image, ignore_missing=True)
