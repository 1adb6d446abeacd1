# SPDX-License-Identifier: Apache-2.0
"""RPC client: what nova-api asks of the compute hosts.

The other end is the manager in nova-compute. Topic ``cloudlet``, server = compute host.

Version history:

* 1.0 - create_base, create_overlay, precache_base, list_operations, get_operation, cancel_operation, describe
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import oslo_messaging
from nova import rpc
from nova.objects import base as objects_base

TOPIC = "cloudlet"

CALL_TIMEOUT_S = 10
"""A host that has not answered a question in this time counts as silent."""

Operation = dict[str, Any]


class CloudletAPI:
    """One method for each call; ``oslo_messaging.MessagingTimeout`` where an answer is expected and does not come.

    The context decides which cell's message bus is used: it must be targeted at the host's cell.
    """

    def __init__(self) -> None:
        target = oslo_messaging.Target(topic=TOPIC, version="1.0")
        client = rpc.get_client(target, serializer=objects_base.NovaObjectSerializer())
        self._router = rpc.ClientRouter(client)

    def create_base(self, ctxt: Any, instance: Any, operation_id: str, name: str, images: Mapping[str, str]) -> None:
        """Capture a server as a base into two images that wait for their content: ``base-disk``, ``base-memory``."""
        self._to(ctxt, instance.host, "1.0").cast(
            ctxt, "create_base", instance=instance, operation_id=operation_id, name=name, images=dict(images)
        )

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
        """Capture what a server has become into an image that waits for its content.

        ``on_finish``: ``resume``, ``stop`` or ``delete``. ``record``: a probe; what the guest needs until it answers
        comes first in the overlay.
        """
        self._to(ctxt, instance.host, "1.0").cast(
            ctxt,
            "create_overlay",
            instance=instance,
            operation_id=operation_id,
            name=name,
            image_id=image_id,
            on_finish=on_finish,
            record=record,
        )

    def precache_base(self, ctxt: Any, host: str, operation_id: str, base_image_id: str) -> None:
        """Bring a base to a host ahead of its use."""
        self._to(ctxt, host, "1.0").cast(ctxt, "precache_base", operation_id=operation_id, base_image_id=base_image_id)

    def list_operations(
        self, ctxt: Any, host: str, server_id: str | None = None, project_id: str | None = None
    ) -> list[Operation]:
        """The operations of a host, those of one server or of one project."""
        found: list[Operation] = self._to(ctxt, host, "1.0").call(
            ctxt, "list_operations", server_id=server_id, project_id=project_id
        )
        return found

    def get_operation(self, ctxt: Any, host: str, operation_id: str) -> Operation | None:
        """An operation, None when the host does not have it."""
        found: Operation | None = self._to(ctxt, host, "1.0").call(ctxt, "get_operation", operation_id=operation_id)
        return found

    def cancel_operation(self, ctxt: Any, host: str, operation_id: str) -> Operation | None:
        """Cancel an operation; what it is afterwards, None when the host does not have it."""
        found: Operation | None = self._to(ctxt, host, "1.0").call(ctxt, "cancel_operation", operation_id=operation_id)
        return found

    def describe(self, ctxt: Any, host: str) -> dict[str, Any]:
        """``{"version", "bases": [base_id], "workers": {"running", "queued", "limit"}, "ends_servers": bool}``.

        ``ends_servers``: whether it can stop or delete a server after a capture; older hosts do not tell.
        """
        found: dict[str, Any] = self._to(ctxt, host, "1.0").call(ctxt, "describe")
        return found

    def _to(self, ctxt: Any, host: str, version: str) -> Any:
        return self._router.client(ctxt).prepare(server=host, version=version, timeout=CALL_TIMEOUT_S)
