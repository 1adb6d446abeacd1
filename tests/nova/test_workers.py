# SPDX-License-Identifier: Apache-2.0
"""Operations in files, and the processes that do their work: real ones, that speak the channel's lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor.process import start_ticks
from cloudlet_ext.nova.operations import CANCELLED, FAILED, SUCCEEDED, Operation, OperationStore
from cloudlet_ext.nova.spare_workers import SpareWorkers, launch
from cloudlet_ext.nova.workers import Orphan, Slots, Worker, WorkerFailed, last_word

ID = "0a1b2c3d-0000-4000-8000-000000000001"

SPEAKER = """
import sys
from cloudlet_ext.job.channel import Channel, ChannelReport
channel = Channel(sys.stdin, sys.stdout)
job = channel.read_job()
report = ChannelReport(channel)
{body}
"""


def speaker(body: str) -> list[str]:
    return [sys.executable, "-c", SPEAKER.format(body=body)]


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    return {"type": "base-precache", "last_word": str(tmp_path / "last"), "secret": "a token"}


def operation(number: int = 1, **facts: object) -> Operation:
    known = {"type": "synthesis", "project_id": "p", "user_id": "u", "host": "h"}
    return Operation(id=f"{ID[:-1]}{number}", **{**known, **facts})  # type: ignore[arg-type]


def test_operations_survive_a_restart(tmp_path: Path) -> None:
    store = OperationStore(tmp_path / "operations", 60.0)
    made = operation(server_id="s")
    store.add(made)
    store.stage(made, "fetch")
    with store.changing(made):
        made.worker = (12, 34)
    again = OperationStore(tmp_path / "operations", 60.0).get(made.id)
    assert again == made
    assert "worker" not in made.shown()
    assert again.stages[0]["name"] == "fetch"
    assert (tmp_path / "operations" / f"{made.id}.json").stat().st_mode & 0o077 == 0


def test_only_the_first_end_counts(tmp_path: Path) -> None:
    store = OperationStore(tmp_path, 60.0)
    made = operation()
    store.add(made)
    store.end(made, CANCELLED, "The operation was cancelled.")
    store.end(made, SUCCEEDED, None, {"a": 1})
    assert (made.state, made.result) == (CANCELLED, None)


def test_operations_that_ended_long_ago_are_forgotten(tmp_path: Path) -> None:
    store = OperationStore(tmp_path, 0.0)
    old, running = operation(1), operation(2)
    for one in (old, running):
        store.add(one)
    store.end(old, FAILED, "no")
    time.sleep(0.01)
    store.add(operation(3))
    assert {one.id[-1] for one in store.find()} == {"2", "3"}
    assert not (tmp_path / f"{old.id}.json").exists()


def test_a_damaged_file_loses_one_operation_only(tmp_path: Path) -> None:
    store = OperationStore(tmp_path, 60.0)
    store.add(operation(1))
    (tmp_path / f"{ID[:-1]}2.json").write_text("{")
    assert [one.id for one in OperationStore(tmp_path, 60.0).find()] == [ID]


def test_operations_are_found_by_server_and_project(tmp_path: Path) -> None:
    store = OperationStore(tmp_path, 60.0)
    for number, (server, project) in enumerate([("s1", "p1"), ("s1", "p2"), ("s2", "p1")]):
        store.add(operation(number, server_id=server, project_id=project))
    assert [one.id[-1] for one in store.find("s1")] == ["0", "1"]
    assert [one.id[-1] for one in store.find(None, "p1")] == ["0", "2"]
    assert [one.id[-1] for one in store.find("s2", "p2")] == []


def test_a_rate_and_an_estimate_are_told(tmp_path: Path) -> None:
    store = OperationStore(tmp_path, 60.0)
    made = operation()
    store.add(made)
    store.stage(made, "fetch")
    for step in range(8):
        store.progress(made, step * 1000, 100_000)
        time.sleep(0.1)
    assert made.rate_bytes_per_s == pytest.approx(10_000, rel=0.3)
    assert made.estimate_s == pytest.approx(9.3, rel=0.4)
    store.stage(made, "load")
    assert made.rate_bytes_per_s is None
    assert made.done_bytes == 0


def test_a_worker_tells_and_is_told(job: dict[str, str]) -> None:
    body = """
report.stage("fetch"); report.progress(1, 2)
channel.event("ready", xml="<domain/>")
channel.wait_control("started", 30)
channel.end("done", result={"server": job["type"]})
"""
    heard = []
    worker = Worker(launch(speaker(body)), job, heard.append)
    assert worker.wait({"ready"}, 30)["xml"] == "<domain/>"
    worker.control("started")
    assert worker.wait({"done"}, 30)["result"] == {"server": "base-precache"}
    worker.end()
    assert [event["event"] for event in heard] == ["stage", "progress", "ready", "done"]
    assert last_word(Path(job["last_word"])) == {"event": "done", "result": {"server": "base-precache"}}


def test_a_worker_that_fails_or_dies_is_told_apart(job: dict[str, str]) -> None:
    worker = Worker(
        launch(speaker('channel.end("failed", kind="X", error="The base is gone.")')), job, lambda event: None
    )
    with pytest.raises(WorkerFailed, match="The base is gone"):
        worker.wait({"done"}, 30)
    worker.end()
    worker = Worker(launch(speaker("import os; os._exit(9)")), job, lambda event: None)
    with pytest.raises(WorkerFailed, match="status 9"):
        worker.wait({"done"}, 30)
    worker.end()
    worker = Worker(launch(speaker("import time; time.sleep(60)")), job, lambda event: None)
    with pytest.raises(WorkerFailed, match="longer than"):
        worker.wait({"done"}, 0.2)
    worker.end()
    assert start_ticks(worker.pid) is None


def test_a_token_is_seen_neither_in_the_command_nor_in_files(job: dict[str, str], tmp_path: Path) -> None:
    worker = Worker(launch(speaker('channel.event("ready"); channel.wait_control("go", 30)')), job, lambda event: None)
    worker.wait({"ready"}, 30)
    shown = Path(f"/proc/{worker.pid}/cmdline").read_bytes() + Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert b"a token" not in shown
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"a token" in path.read_bytes()]
    worker.end()


def test_a_worker_outlives_who_started_it(job: dict[str, str], tmp_path: Path) -> None:
    body = 'channel.event("ready"); import time; time.sleep(1.0); channel.end("done", result={})'
    starter = f"""
import json, os, sys
from cloudlet_ext.nova.spare_workers import launch
from cloudlet_ext.nova.workers import Worker
worker = Worker(launch({speaker(body)!r}), {job!r}, lambda event: None)
worker.wait({{"ready"}}, 30)
print(json.dumps(worker.identity), flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, check=True, timeout=60)
    pid, started = json.loads(done.stdout.splitlines()[-1])
    deadline = time.monotonic() + 30
    while start_ticks(pid) == started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert last_word(tmp_path / "last") == {"event": "done", "result": {}}


def test_an_orphan_is_ended(job: dict[str, str]) -> None:
    worker = Worker(launch(speaker('channel.event("ready"); import time; time.sleep(60)')), job, lambda event: None)
    worker.wait({"ready"}, 30)
    began = time.monotonic()
    threading.Thread(target=lambda: os.waitpid(worker.pid, 0), daemon=True).start()
    orphan = Orphan(worker.identity)
    assert not orphan.has_ended
    orphan.end()
    assert time.monotonic() - began < 10
    assert start_ticks(worker.pid) is None
    assert orphan.has_ended
    orphan.end()
    orphan.wait()


def test_a_spare_worker_has_loaded_before_its_job_is_known(job: dict[str, str], tmp_path: Path) -> None:
    loaded = f"""
import pathlib, sys
pathlib.Path({str(tmp_path)!r}, "loaded").write_text("x")
"""
    spares = SpareWorkers([sys.executable, "-c", loaded + SPEAKER.format(body='channel.end("done", result={})')], 1)
    spares.fill()
    deadline = time.monotonic() + 30
    while not (tmp_path / "loaded").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (tmp_path / "loaded").unlink()
    worker = Worker(spares.take(), job, lambda event: None)
    worker.wait({"done"}, 30)
    assert not (tmp_path / "loaded").exists(), "the process that waited has done it"
    worker.end()

    spares.fill()
    killed = spares._spares[0]
    killed.kill()
    killed.wait()
    worker = Worker(spares.take(), job, lambda event: None)
    worker.wait({"done"}, 30)
    worker.end()
    spares.fill()
    (left,) = spares._spares
    spares.close()
    assert left.poll() is not None
    spares.fill()
    assert not spares._spares


def test_places_are_given_in_the_order_of_asking() -> None:
    slots, order, never = Slots(2), [], threading.Event()
    assert slots.take(never)
    assert slots.take(never)

    def wait(number: int) -> None:
        assert slots.take(never)
        order.append(number)

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while slots.queued < number + 1:
            time.sleep(0.01)
    for _ in range(4):
        slots.give_back()
        expected = len(order) + 1
        deadline = time.monotonic() + 5
        while len(order) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3]


def test_who_is_cancelled_waits_no_more() -> None:
    slots, cancelled = Slots(1), threading.Event()
    assert slots.take(threading.Event())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(slots.take(cancelled)))
    thread.start()
    cancelled.set()
    thread.join(5)
    assert answers == [False]
    assert (slots.running, slots.queued) == (1, 0)


def test_who_waits_too_long_is_told_how_many_are_before() -> None:
    slots, never = Slots(2), threading.Event()
    assert slots.take(never)
    assert slots.take(never)
    patient = threading.Thread(target=lambda: slots.take(never))
    patient.start()
    while not slots.queued:
        time.sleep(0.01)
    with pytest.raises(WorkerFailed, match="after 1 s, 2 operations run and 1 wait before this one"):
        slots.take(never, 1.0)
    assert slots.queued == 1
    slots.give_back()
    patient.join(5)
    assert (slots.running, slots.queued) == (2, 0)
    slots.give_back()
    assert slots.take(never, 0.0), "a place that is free is not waited for"
