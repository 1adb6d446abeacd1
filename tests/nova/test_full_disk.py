# SPDX-License-Identifier: Apache-2.0
"""A compute host that has no room to keep its operations: they fail whole, and nothing is held for good."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nova import exception
from nova.conf import CONF

from cloudlet_ext.hypervisor.process import start_ticks
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.nova.operations import SUCCEEDED, OperationStore
from tests.nova.cloud import Cloud
from tests.nova.compute import DONE, WAITS, WHEN_TOLD, Compute, wait_until
from tests.nova.conftest import Room
from tests.nova.test_workers import operation

Rooms = Callable[[Path], Room]

BASE_CREATE = "cloudlet_base_create"
OF_BASE = {
    "image_cloudlet_type": "base",
    "image_cloudlet_base_id": "b" * 64,
    "image_cloudlet_memory_image": "m",
}


def test_a_capture_that_cannot_be_kept(cloud: Cloud, compute: Compute, room: Rooms) -> None:
    server = compute.server(task_state=BASE_CREATE)
    operations = room(compute.operations)
    operations.take()
    identifier, images = compute.create_base(server)
    ended = compute.wait(identifier, "failed")
    assert "No space left" in ended["error"]
    wait_until(lambda: not compute.left(images))
    assert cloud.again(server).task_state is None
    assert compute.manager.describe(compute.context)["workers"] == {"running": 0, "queued": 0, "limit": 2}
    operations.give()
    again = compute.server(task_state=BASE_CREATE)
    assert compute.wait(compute.create_base(again)[0], "succeeded", "failed")["error"] is None
    assert cloud.again(again).task_state is None


def test_a_worker_that_cannot_be_noted_is_ended(compute: Compute, room: Rooms) -> None:
    runner = compute.manager._runner
    task = runner.task(compute.context, "base-precache", operation().id)

    operations = room(compute.operations)

    def job() -> dict[str, object]:
        operations.take()
        return {"last_word": str(compute.folder / "last")}

    compute.work(WAITS)
    with pytest.raises(OSError, match="No space"):
        task.begin(job)
    assert task.worker is not None
    assert start_ticks(task.worker.pid) is None
    assert runner.slots.running == 0


def test_a_job_that_cannot_be_made_holds_no_place(compute: Compute) -> None:
    runner = compute.manager._runner
    for number in range(5):
        task = runner.task(compute.context, "base-precache", operation(number).id)
        with pytest.raises(ZeroDivisionError):
            task.begin(lambda: {"last_word": 1 // 0})
        assert (runner.slots.running, task.worker) == (0, None)


def test_a_synthesis_that_cannot_be_begun_has_failed(compute: Compute) -> None:
    """The service token cannot be had, as when Keystone is down: Nova may try another host."""
    server = compute.server(vm_state="building", task_state="spawning", system_metadata=OF_BASE)
    CONF.set_override("send_service_user_token", True, group="service_user")
    try:
        with pytest.raises(Exception) as caught:
            compute.manager.synthesiser.begin(compute.context, server)
    finally:
        CONF.set_override("send_service_user_token", False, group="service_user")
    assert not isinstance(caught.value, exception.BuildAbortException)
    shown = compute.shown(server.uuid)
    assert shown["state"] == "failed"
    assert str(caught.value) in shown["error"]
    assert not compute.manager._runner._tasks


def test_what_happens_is_known_without_room(tmp_path: Path, room: Rooms) -> None:
    store, made = OperationStore(tmp_path, 60.0), operation()
    full = room(tmp_path)
    store.add(made)
    full.take()
    store.stage(made, "fetch")
    assert store.get(made.id) is made
    assert OperationStore(tmp_path, 60.0).get(made.id).stage is None
    store.end(made, SUCCEEDED, None, {"a": 1})
    assert made.state == SUCCEEDED
    # Not as one that was under way: the next nova-compute would undo it.
    assert OperationStore(tmp_path, 60.0).get(made.id) is None
    assert {path.name for path in tmp_path.iterdir()} == {"filler"}


def test_the_end_of_a_capture_is_not_undone_by_a_restart(cloud: Cloud, compute: Compute, room: Rooms) -> None:
    server = compute.server(task_state=BASE_CREATE)
    operations = room(compute.operations)
    compute.work(WHEN_TOLD + DONE)
    identifier, images = compute.create_base(server)
    compute.wait(identifier, "running")
    # An empty file takes no room there.
    operations.take()
    compute.tell(identifier)
    assert compute.wait(identifier, "succeeded", "failed")["error"] is None
    with compute.restarted().serving() as after:
        assert after.manager.get_operation(compute.context, identifier) is None
        assert compute.left(images) == list(images)


def test_a_last_word_that_cannot_be_kept_is_said(tmp_path: Path, room: Rooms) -> None:
    room(tmp_path).take()
    said = io.StringIO()
    channel = Channel(io.StringIO(json.dumps({"type": "x", "last_word": str(tmp_path / "last")}) + "\n"), said)
    channel.read_job()
    channel.end("done", result={})
    assert json.loads(said.getvalue()) == {"event": "done", "result": {}}
    assert {path.name for path in tmp_path.iterdir()} == {"filler"}
