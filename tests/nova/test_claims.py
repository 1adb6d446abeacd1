# SPDX-License-Identifier: Apache-2.0
"""Requests of which half was lost: the task state in the database, or the message to the compute host."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator

import pytest
from oslo_utils import timeutils

from cloudlet_ext.nova import claims, manager
from tests.nova.cloud import Cloud
from tests.nova.compute import DONE, WHEN_TOLD, Compute, wait_until

BASE_CREATE, OVERLAY_CREATE = "cloudlet_base_create", "cloudlet_overlay_create"


@pytest.fixture
def later() -> Iterator[Callable[[float], None]]:
    """``later(seconds)``: it is so much later now."""
    began = timeutils.utcnow()
    yield lambda seconds: timeutils.set_time_override(began + dt.timedelta(seconds=seconds))
    timeutils.clear_time_override()


@pytest.mark.parametrize("task_state", [BASE_CREATE, OVERLAY_CREATE, "cloudlet_synthesis"])
def test_a_task_state_without_an_operation(
    cloud: Cloud, compute: Compute, later: Callable[[float], None], task_state: str
) -> None:
    lost, foreign = compute.server(task_state=task_state), cloud.server(task_state=task_state)
    stopping = compute.server(task_state="powering-off")
    later(claims.LOST_AFTER_S - 10)
    compute.manager._claims.release_lost()
    assert cloud.again(lost).task_state == task_state, "the request may be on its way"
    later(claims.LOST_AFTER_S + 10)
    compute.manager._claims.release_lost()
    assert cloud.again(lost).task_state is None
    assert cloud.again(foreign).task_state == task_state
    assert cloud.again(stopping).task_state == "powering-off"


def test_a_task_state_with_an_operation(cloud: Cloud, compute: Compute, later: Callable[[float], None]) -> None:
    server = compute.server(task_state=BASE_CREATE)
    compute.work(WHEN_TOLD + DONE)
    identifier, _ = compute.create_base(server)
    compute.wait(identifier, "running")
    later(10 * claims.LOST_AFTER_S)
    compute.manager._claims.release_lost()
    assert cloud.again(server).task_state == BASE_CREATE
    compute.tell(identifier)
    compute.wait(identifier, "succeeded")
    assert cloud.again(server).task_state is None


def test_it_is_looked_for_again_and_again(
    cloud: Cloud, compute: Compute, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "_RELEASE_EVERY_S", 0.05)
    with compute.serving():
        lost = compute.server(task_state=BASE_CREATE)
        later(claims.LOST_AFTER_S + 10)
        wait_until(lambda: cloud.again(lost).task_state is None)


@pytest.mark.parametrize("task_state", [None, "deleting", OVERLAY_CREATE])
def test_a_request_that_comes_too_late(cloud: Cloud, compute: Compute, task_state: str | None) -> None:
    """The server is free again, or somebody else's."""
    server = compute.server(task_state=task_state)
    identifier, images = compute.create_base(server)
    error = compute.wait(identifier, "failed", "succeeded")["error"]
    assert error == (
        f"The request came too late: the task state of the server is {task_state or 'none'}, {BASE_CREATE} is "
        "expected. Ask again."
    )
    wait_until(lambda: not compute.left(images))
    assert cloud.again(server).task_state == task_state
    assert compute.manager.describe(compute.context)["workers"]["running"] == 0


def test_a_request_for_an_overlay_that_comes_too_late(cloud: Cloud, compute: Compute) -> None:
    server, image = compute.server(), compute.image("late")
    compute.manager.create_overlay(compute.context, server, "late", "o", image, "delete", None)
    assert "too late" in compute.wait("late", "failed", "succeeded")["error"]
    wait_until(lambda: not compute.left({"overlay": image}))
    assert cloud.again(server).vm_state == "active"


def test_two_requests_for_one_server(cloud: Cloud, compute: Compute) -> None:
    """The first one's message came late: after its task state was taken back, and set again by the second one."""
    server = compute.server(task_state=BASE_CREATE)
    compute.work(WHEN_TOLD + DONE)
    first, _ = compute.create_base(server)
    compute.wait(first, "running")
    second, images = compute.create_base(server)
    assert "Another operation" in compute.wait(second, "failed")["error"]
    wait_until(lambda: not compute.left(images))
    assert cloud.again(server).task_state == BASE_CREATE
    compute.tell(first)
    compute.wait(first, "succeeded")
    assert cloud.again(server).task_state is None


def test_a_server_that_is_elsewhere_or_gone(cloud: Cloud, compute: Compute) -> None:
    elsewhere = cloud.server(task_state=BASE_CREATE)
    identifier, _ = compute.create_base(elsewhere)
    assert "not on this host" in compute.wait(identifier, "failed", "succeeded")["error"]
    assert cloud.again(elsewhere).task_state == BASE_CREATE
