# SPDX-License-Identifier: Apache-2.0
"""A guest that a capture stopped goes on, whatever became of who stopped it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nova.compute import DONE, WAITS, Compute, wait_until
from tests.nova.test_full_disk import BASE_CREATE

KILLED = "import os; os.kill(os.getpid(), 9)"


def captured(compute: Compute, vm_state: str, body: str) -> tuple[Any, str]:
    """A server whose guest stands still, and an operation on it."""
    server = compute.server(task_state=BASE_CREATE, vm_state=vm_state)
    compute.guests.add(server.uuid)
    compute.paused.add(server.uuid)
    compute.work(body)
    return server, compute.create_base(server)[0]


@pytest.mark.parametrize(
    ("vm_state", "body", "ending", "stands"),
    [
        ("active", KILLED, "failed", False),
        ("paused", KILLED, "failed", True),
        # A worker that ends well has seen to it itself.
        ("active", DONE, "succeeded", True),
    ],
)
def test_a_worker_is_killed(compute: Compute, vm_state: str, body: str, ending: str, stands: bool) -> None:
    server, operation = captured(compute, vm_state, body)
    compute.wait(operation, ending)
    assert (server.uuid in compute.paused) == stands


def test_both_are_killed(compute: Compute) -> None:
    server, operation = captured(compute, "active", WAITS)
    compute.wait(operation, "running")
    worker = compute.manager._runner._tasks[operation].worker
    assert worker is not None
    later = compute.restarted()
    worker.end()
    compute.paused.add(server.uuid)
    with later.serving():
        wait_until(lambda: server.uuid not in later.paused)


def test_a_guest_that_is_not_there(compute: Compute) -> None:
    server, operation = captured(compute, "active", KILLED)
    compute.guests.remove(server.uuid)
    assert "ended early" in compute.wait(operation, "failed")["error"]
