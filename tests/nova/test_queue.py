# SPDX-License-Identifier: Apache-2.0
"""Servers that wait for their turn on a compute host."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from nova import exception

from tests.nova.compute import Compute, set_up, wait_until
from tests.nova.test_full_disk import OF_BASE


@pytest.fixture
def server(compute: Compute) -> Any:
    """A server that is being built on a host where all places are taken."""
    runner = compute.manager._runner
    for _ in range(runner.slots.limit):
        assert runner.slots.take(threading.Event())
    return compute.server(vm_state="building", task_state="spawning", system_metadata=OF_BASE)


def start(compute: Compute, server: Any) -> None:
    compute.manager.synthesiser.begin(compute.context, server)


def test_a_cancelled_wait_builds_no_server(compute: Compute, server: Any) -> None:
    runner = compute.manager._runner
    runner.in_background(lambda: (wait_until(lambda: runner.slots.queued), runner.cancel(server.uuid)), "cancel")
    with pytest.raises(exception.BuildAbortException, match="was cancelled"):
        start(compute, server)
    assert compute.shown(server.uuid)["state"] == "cancelled"


def test_a_wait_that_is_too_long_builds_no_server(compute: Compute, server: Any) -> None:
    with set_up(queue_timeout=1), pytest.raises(exception.BuildAbortException, match="2 operations run and 0 wait"):
        start(compute, server)
    assert "2 operations run" in compute.shown(server.uuid)["error"]
    assert compute.manager.describe(compute.context)["workers"] == {"running": 2, "queued": 0, "limit": 2}
