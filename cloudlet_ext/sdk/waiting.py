# SPDX-License-Identifier: Apache-2.0
"""Waiting for operations and for the servers that they start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keystoneauth1 import exceptions as ksa_exceptions
from openstack import exceptions
from openstack.compute.v2.server import Server

from cloudlet_ext.sdk.errors import OperationFailed, OperationLost
from cloudlet_ext.sdk.operation import CANCELLED, FAILED, SUCCEEDED, Operation
from cloudlet_ext.sdk.proxy import Proxy

_FIRST_PAUSE_S = 0.2
_LAST_PAUSE_S = 1.0
"""Each look costs the cloud a call to the compute host, 60 to 90 ms."""

_BEGIN_S = 60.0
"""So long a compute host may take until it knows an operation that the API has accepted."""

_SILENCE_S = 60.0
"""So long the API may be away (a restart) before the wait is given up."""

_RETRY_S = 30.0
"""So long a server may stay as it was after its operation failed: Nova may try another host."""


@dataclass(frozen=True)
class Started:
    """A server that runs. ``operation``: as it stood then, if it was known; its pages may still be arriving."""

    server: Server
    operation: Operation | None


Look = Callable[[Operation | None], None]
"""Called with the operation as it stands, about once a second; None as long as no host knows it."""


def wait_for_operation(proxy: Proxy, operation_id: str, look: Look) -> Operation:
    """Return the operation when it has succeeded. OperationFailed, OperationLost."""
    heard = time.monotonic()
    limit, reason = _BEGIN_S, "no compute host knows it"
    for _ in _pauses():
        try:
            operation = proxy.get_operation(operation_id)
        except exceptions.NotFoundException:
            look(None)
        except (exceptions.HttpException, ksa_exceptions.ConnectFailure) as error:
            limit, reason = _SILENCE_S, _passing(error)
        else:
            heard = time.monotonic()
            look(operation)
            if operation.has_ended:
                return _succeeded(operation)
        silence = time.monotonic() - heard
        if silence > limit:
            raise OperationLost(operation=operation_id, seconds=silence, reason=reason)
    raise AssertionError("the pauses do not end")


def wait_for_server(proxy: Proxy, server_id: str, look: Look) -> Started:
    """Return when the server is ACTIVE: its guest runs. OperationFailed, OperationLost."""
    heard = time.monotonic()
    failed_at: float | None = None
    operation: Operation | None = None
    for _ in _pauses():
        try:
            server = proxy.connection.compute.get_server(server_id)
            operation = _operation_of(proxy, server_id) or operation
        except exceptions.NotFoundException as error:
            what = f"The start of server {server_id}"
            raise OperationFailed(what=what, state=FAILED, error=_reason(operation, "it was deleted")) from error
        except (exceptions.HttpException, ksa_exceptions.ConnectFailure) as error:
            reason = _passing(error)
            if time.monotonic() - heard > _SILENCE_S:
                raise OperationLost(operation=server_id, seconds=_SILENCE_S, reason=reason) from error
            continue
        heard = time.monotonic()
        look(operation)
        has_failed = operation is not None and operation.state in (FAILED, CANCELLED)
        if server.status == "ACTIVE" and not has_failed:
            return Started(server, operation)
        failed_at = (failed_at or heard) if has_failed else None
        if server.status == "ERROR" or (failed_at is not None and heard - failed_at > _RETRY_S):
            raise _start_failed(server, operation)
    raise AssertionError("the pauses do not end")


def _pauses() -> Iterator[None]:
    """Yield for ever, at first often."""
    pause = _FIRST_PAUSE_S
    while True:
        yield
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE_S)


def _succeeded(operation: Operation) -> Operation:
    if operation.state == SUCCEEDED:
        return operation
    what = f"The operation {operation.id} ({operation.type})"
    was = "was cancelled" if operation.state == CANCELLED else FAILED
    raise OperationFailed(what=what, state=was, error=_reason(operation, "no reason was told"))


def _operation_of(proxy: Proxy, server_id: str) -> Operation | None:
    """The operation that starts a server; None before a compute host knows it."""
    try:
        return proxy.get_operation(server_id)
    except exceptions.NotFoundException:
        return None


def _start_failed(server: Server, operation: Operation | None) -> OperationFailed:
    fault = (server.fault or {}).get("message", f"the server is {server.status}, no reason was told")
    was = "was cancelled" if operation is not None and operation.state == CANCELLED else FAILED
    what = f"The start of server {server.name} ({server.id})"
    return OperationFailed(what=what, state=was, error=_reason(operation, fault))


def _reason(operation: Operation | None, otherwise: str) -> str:
    return operation.error if operation is not None and operation.error else otherwise


def _passing(error: Exception) -> str:
    """The words of an error that may pass; any other is raised again."""
    status = getattr(error, "status_code", None)
    if isinstance(error, exceptions.HttpException) and (status is None or status < 500):
        raise error
    return str(error)
