# SPDX-License-Identifier: Apache-2.0
"""What a nova-compute does about operations of the one before it, and with servers that are another host's now."""

from __future__ import annotations

from typing import Any

import pytest
from nova import context as nova_context
from nova import objects

from cloudlet_ext.hypervisor.process import start_ticks
from cloudlet_ext.nova import marks
from tests.nova.cloud import Cloud
from tests.nova.compute import WAITS, WHEN_TOLD, Compute
from tests.nova.test_full_disk import OF_BASE

ARRIVING = {**OF_BASE, marks.STARTED: "early", marks.ARRIVING: "True"}
SYNTHESIS = "cloudlet_synthesis"
DONE = 'keep("done", result=dict(placement="early")); say("done", result=dict(placement="early"))'
BROKEN = 'keep("failed", error="The source is gone."); say("failed", error="The source is gone.")'


def move(cloud: Cloud, server: Any, host: str = "compute1") -> None:
    """Nova has evacuated it."""
    with nova_context.target_cell(cloud.context, cloud.cell_of(host)) as context:
        moved = objects.Instance.get_by_uuid(context, server.uuid)
        moved.host = host
        moved.save()


def state(cloud: Cloud, server: Any) -> tuple[str, str | None, bool]:
    now = cloud.again(server)
    return now.vm_state, now.task_state, marks.ARRIVING in now.system_metadata


def synthesised(compute: Compute) -> Any:
    """A server whose overlay is on its way."""
    server = compute.server(task_state=SYNTHESIS, system_metadata=ARRIVING)
    compute.guests.add(server.uuid)
    return server


@pytest.mark.parametrize(
    ("ending", "operation", "after"),
    [(DONE, "succeeded", ("active", None, False)), (BROKEN, "failed", ("error", None, True))],
)
def test_a_synthesis_is_seen_to_its_end(
    cloud: Cloud, compute: Compute, ending: str, operation: str, after: tuple[str, str | None, bool]
) -> None:
    server = synthesised(compute)
    compute.begin(server, "synthesis", WHEN_TOLD + ending)
    with compute.restarted().serving() as host:
        assert host.shown(server.uuid)["state"] == "running"
        host.tell(server.uuid)
        host.wait(server.uuid, operation)
        assert state(cloud, server) == after
        assert host.ended == ([server.uuid] if operation == "failed" else [])


def test_a_server_that_was_evacuated_meanwhile_is_left_alone(cloud: Cloud, compute: Compute) -> None:
    server = synthesised(compute)
    task = compute.begin(server, "synthesis", WAITS)
    move(cloud, server)
    with compute.restarted().serving() as host:
        assert "evacuated" in host.wait(server.uuid, "failed")["error"]
        assert host.ended == [server.uuid], "its guest here"
    assert task.worker is not None
    assert start_ticks(task.worker.pid) is None
    assert state(cloud, server) == ("active", SYNTHESIS, True)


@pytest.mark.parametrize(("ending", "operation"), [(DONE, "succeeded"), (BROKEN, "failed")])
def test_a_server_that_is_evacuated_later_is_left_alone(
    cloud: Cloud, compute: Compute, ending: str, operation: str
) -> None:
    server = synthesised(compute)
    compute.begin(server, "synthesis", WHEN_TOLD + ending)
    with compute.restarted().serving() as host:
        move(cloud, server)
        host.tell(server.uuid)
        host.wait(server.uuid, operation)
    assert state(cloud, server) == ("active", SYNTHESIS, True)


def test_the_same_without_a_restart(cloud: Cloud, compute: Compute) -> None:
    server = synthesised(compute)
    task = compute.begin(server, "synthesis", BROKEN)
    move(cloud, server)
    compute.manager.synthesiser._follow(task, server.uuid, arriving=True)
    assert compute.shown(server.uuid)["state"] == "failed"
    assert state(cloud, server) == ("active", SYNTHESIS, True)


def test_a_server_that_is_evacuated_to_here(cloud: Cloud, compute: Compute) -> None:
    """Nova changes its host after it was built."""
    server = synthesised(compute)
    move(cloud, server)
    server.host = "compute1"
    task = compute.begin(server, "synthesis", DONE)
    compute.manager.synthesiser._follow(task, server.uuid, arriving=True)
    assert compute.shown(server.uuid)["state"] == "succeeded"
    assert state(cloud, server) == ("active", None, False)


@pytest.mark.parametrize(("host", "after"), [("real", None), ("compute1", "cloudlet_base_create")])
def test_the_task_state_of_a_capture(cloud: Cloud, compute: Compute, host: str, after: str | None) -> None:
    server = compute.server(task_state="cloudlet_base_create")
    task = compute.begin(server, "base-create", WAITS)
    move(cloud, server, host)
    with compute.restarted().serving() as restarted:
        assert "restarted" in restarted.wait(task.operation.id, "failed")["error"]
    assert cloud.again(server).task_state == after


def test_what_an_earlier_nova_compute_has_begun_is_cancelled(cloud: Cloud, compute: Compute) -> None:
    server = synthesised(compute)
    task = compute.begin(server, "synthesis", WAITS)
    with compute.restarted().serving() as host:
        told = host.manager.cancel_operation(host.context, server.uuid)
        assert told is not None
        assert (told["id"], told["state"]) == (server.uuid, "running")
        assert host.wait(server.uuid, "cancelled")["error"] == "The operation was cancelled."
        assert host.ended[0] == server.uuid, "its guest first: it may wait for memory"
        assert not host.manager._runner._tasks
    assert task.worker is not None
    assert start_ticks(task.worker.pid) is None
    assert state(cloud, server) == ("error", None, True)


def test_a_server_that_an_earlier_nova_compute_has_begun_is_deleted(cloud: Cloud, compute: Compute) -> None:
    server = synthesised(compute)
    task = compute.begin(server, "synthesis", WAITS)
    with compute.restarted().serving() as host:
        host.manager.end_operations_of(server)
        assert task.worker is not None
        assert start_ticks(task.worker.pid) is None
        assert host.wait(server.uuid, "cancelled")["error"] == "The server was deleted."
