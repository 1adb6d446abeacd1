# SPDX-License-Identifier: Apache-2.0
"""Operation search: where operations are, from an id alone, from a server, or for a whole project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nova import context as nova_context
from nova import exception
from nova.compute import vm_states

from cloudlet_ext import operation_id as ids
from cloudlet_ext.api import errors
from cloudlet_ext.api import image as properties
from cloudlet_ext.api.schemas.servers import OVERLAY_URL
from cloudlet_ext.api.views import operations as view
from cloudlet_ext.nova import hosts
from cloudlet_ext.nova.call import Services

Operation = dict[str, Any]

IMAGE_PROPERTY = "image_%s"
"""Nova keeps the properties of a server's image under these names in its system metadata."""


@dataclass(frozen=True)
class Found:
    """An operation, its host (None when no compute host has begun it), and a context of the host's cell."""

    operation: Operation
    host: str | None
    context: Any


def find(services: Services, context: Any, operation_id: str) -> Found:
    """An operation of any project: whether the user may see it is still to be checked.

    :class:`errors.NotFound`, :class:`errors.HostDown`, :class:`errors.HostSilent`.
    """
    missing = errors.NotFound(what="operation", id=operation_id)
    server = _server(services, context, operation_id)
    if server is not None:
        found = _of_server(services, context, server)
        if found is None:
            raise missing
        return found
    known = hosts.all_hosts(context)
    for host in known:
        # A host's name may share its CRC with another's: only the host knows.
        if not ids.may_be_of(operation_id, host.name):
            continue
        if not host.up:
            raise errors.HostDown(what=f"operation {operation_id}")
        with nova_context.target_cell(context, host.cell) as targeted:
            operation = _get(services, targeted, host.name, operation_id)
        if operation is not None:
            return Found(operation, host.name, targeted)
    gone = _of_deleted_server(services, context, known, operation_id)
    if gone is None:
        raise missing
    return gone


def _of_deleted_server(
    services: Services, context: Any, known: Sequence[hosts.Host], operation_id: str
) -> Found | None:
    """The operation that had the id of a server which is gone: one of the hosts may remember it."""

    def one(targeted: Any, host: str) -> Found | None:
        operation = services.rpc.get_operation(targeted, host, operation_id)
        return None if operation is None else Found(operation, host, targeted)

    answers = hosts.ask_all(context, known, one, services.silence)
    return next((answer for answer in answers if answer is not None), None)


def of_server(services: Services, context: Any, server: Any) -> list[Operation]:
    """All operations of a server; without those of its host when that does not answer."""
    told: list[Operation] = []
    if server.host:
        if not hosts.is_up(context, server.host):
            return []
        try:
            told = hosts.ask(
                f"server {server.uuid}",
                lambda: services.rpc.list_operations(context, server.host, server_id=server.uuid),
            )
        except errors.HostSilent:
            return []
    waiting = _not_begun(server)
    if waiting is not None and not any(operation["id"] == server.uuid for operation in told):
        told = [*told, waiting]
    return _newest_first(told)


def of_project(services: Services, context: Any, project_id: str | None) -> list[Operation]:
    """The operations of a project, of all projects for None; without those of hosts that do not answer."""
    told = hosts.ask_all(
        context,
        hosts.all_hosts(context),
        lambda targeted, host: services.rpc.list_operations(targeted, host, project_id=project_id),
        services.silence,
    )
    return _newest_first(
        [
            operation
            for operations in told
            for operation in operations
            if project_id is None or operation["project_id"] == project_id
        ]
    )


def _newest_first(operations: list[Operation]) -> list[Operation]:
    return sorted(operations, key=lambda operation: str(operation["created_at"]), reverse=True)


def _server(services: Services, context: Any, server_id: str) -> Any:
    try:
        return services.compute.get(context, server_id)
    except exception.InstanceNotFound:
        return None


def _get(services: Services, context: Any, host: str, operation_id: str) -> Operation | None:
    return hosts.ask(f"operation {operation_id}", lambda: services.rpc.get_operation(context, host, operation_id))


def _of_server(services: Services, context: Any, server: Any) -> Found | None:
    """The operation that has the server's own id: its synthesis, or the resume of its base."""
    if server.host:
        if not hosts.is_up(context, server.host):
            raise errors.HostDown(what=f"operation {server.uuid}")
        operation = _get(services, context, server.host, server.uuid)
        if operation is not None:
            return Found(operation, server.host, context)
    waiting = _not_begun(server)
    return Found(waiting, None, context) if waiting is not None else None


def _not_begun(server: Any) -> Operation | None:
    """What Nova itself knows of a synthesis or resume that no compute host has begun; None when there is none."""
    if OVERLAY_URL in server.metadata:
        kind = "synthesis"
    elif server.system_metadata.get(IMAGE_PROPERTY % properties.TYPE) == properties.BASE:
        kind = "base-resume"
    else:
        return None
    if server.vm_state not in (vm_states.BUILDING, vm_states.ERROR) or server.launched_at:
        return None
    error = None
    if server.vm_state == vm_states.ERROR:
        error = server.fault.message if server.fault else "The server could not be built."
    facts = {
        "id": server.uuid,
        "project_id": server.project_id,
        "user_id": server.user_id,
        "host": server.host,
        "created_at": f"{server.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "updated_at": f"{server.updated_at or server.created_at:%Y-%m-%dT%H:%M:%SZ}",
    }
    return view.of_server(facts, kind, error)
