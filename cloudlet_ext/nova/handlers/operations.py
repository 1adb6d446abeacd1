# SPDX-License-Identifier: Apache-2.0
"""/os-cloudlet/operations."""

from __future__ import annotations

from typing import Any

from nova import exception

from cloudlet_ext.api import errors
from cloudlet_ext.api.schemas import operations as schemas
from cloudlet_ext.api.views import operations as view
from cloudlet_ext.nova import hosts, operation_search
from cloudlet_ext.nova.call import Call
from cloudlet_ext.policies import operations as policies

_TRUE = ("true", "True", "1")


def index(call: Call) -> Any:
    """The operations of the user's project, of one server, or of all projects.

    Hosts that do not answer are left out.
    """
    query = call.query(schemas.INDEX_QUERY)
    if "server_id" in query:
        found = _of_server(call, query["server_id"])
    else:
        everywhere = query.get("all_projects") in _TRUE
        rule = policies.INDEX_ALL_PROJECTS if everywhere else policies.INDEX
        call.authorize(rule, call.context.project_id)
        project_id = None if everywhere else call.context.project_id
        found = operation_search.of_project(call.services, call.context, project_id)
    return call.answer(200, {"operations": [_seen(call, operation) for operation in found]}, schemas.INDEX_ANSWER)


def show(call: Call) -> Any:
    """One operation."""
    call.query(schemas.NO_QUERY)
    found = _find(call, policies.SHOW)
    return call.answer(200, {"operation": _seen(call, found.operation)}, schemas.SHOW_ANSWER)


def cancel(call: Call) -> Any:
    """Cancel an operation; what has been made is undone by its host."""
    call.query(schemas.NO_QUERY)
    found = _find(call, policies.CANCEL)
    _check_not_ended(found.operation)
    host = found.host
    if host is None:
        raise errors.OperationNotBegun(id=found.operation["id"])
    identifier = found.operation["id"]
    after = hosts.ask(
        f"operation {identifier}", lambda: call.services.rpc.cancel_operation(found.context, host, identifier)
    )
    if after is None:
        raise errors.NotFound(what="operation", id=identifier)
    if after["state"] != "cancelled":
        # It may have ended between the question and the order.
        _check_not_ended(after)
    return call.answer(202, None, schemas.CANCEL_ANSWER)


def _find(call: Call, rule: str) -> operation_search.Found:
    identifier = call.args["operation_id"]
    found = operation_search.find(call.services, call.context, identifier)
    call.authorize_or_hide(rule, found.operation["project_id"], hidden=errors.NotFound(what="operation", id=identifier))
    return found


def _of_server(call: Call, server_id: str) -> list[operation_search.Operation]:
    missing = errors.NotFound(what="server", id=server_id)
    try:
        server = call.services.compute.get(call.context, server_id)
    except exception.InstanceNotFound:
        raise missing from None
    call.authorize_or_hide(policies.INDEX, server.project_id, hidden=missing)
    return operation_search.of_server(call.services, call.context, server)


def _seen(call: Call, operation: operation_search.Operation) -> dict[str, Any]:
    return view.show(operation, call.allows(policies.SHOW_HOST, operation["project_id"]))


def _check_not_ended(operation: operation_search.Operation) -> None:
    if operation["state"] in view.ENDED:
        raise errors.OperationEnded(id=operation["id"], state=operation["state"])
