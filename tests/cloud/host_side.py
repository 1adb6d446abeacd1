# SPDX-License-Identifier: Apache-2.0
"""The compute hosts of a minicloud from below: workers, services and files, for tests that break something."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cloud.cloud import WAIT_S, Cloud, wait_until


def state_folder(cloud: Cloud, host: str) -> Path:
    """``[cloudlet] state_path`` of a host."""
    return cloud.folder / "hosts" / host / "state" / "cloudlet"


def known_operation(cloud: Cloud, operation_id: str) -> dict[str, Any] | None:
    """What a host has written down of an operation."""
    for host in cloud.hosts:
        with contextlib.suppress(FileNotFoundError, ValueError):
            known: dict[str, Any] = json.loads(
                (state_folder(cloud, host) / f"operations/{operation_id}.json").read_text()
            )
            return known
    return None


def reach_stage(cloud: Cloud, operation_id: str, stage: str, limit_s: float = WAIT_S) -> int:
    """Wait until an operation that runs is in a stage, or past it; the pid of its worker."""
    known: dict[str, Any] | None = None

    def at_stage() -> int:
        nonlocal known
        known = known_operation(cloud, operation_id)
        if known is None or stage not in [one["name"] for one in known["stages"]]:
            assert known is None or known["state"] in ("queued", "running"), known
            return 0
        assert known["state"] == "running", known
        return int(known["worker"][0])

    what = f"stage {stage} of operation {operation_id}"
    return wait_until(what, at_stage, limit_s, every_s=0.002, seen=lambda: known)


class Freezer:
    """Stops workers in the middle of what they do."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._pids = cloud, set[int]()

    def __call__(self, operation_id: str, stage: str) -> int:
        """Stop the worker of an operation as soon as it is in a stage; its pid."""
        pid = reach_stage(self._cloud, operation_id, stage)
        os.kill(pid, signal.SIGSTOP)
        self._pids.add(pid)
        return pid

    def release(self, *pids: int) -> None:
        """These, or all, go on."""
        for pid in pids or tuple(self._pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            self._pids.discard(pid)


def kill(pid: int) -> None:
    """End a process without a word, and wait until it has gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(f"process {pid} has ended", lambda: _state(pid) in ("", "Z"), 30, every_s=0.05)


def _state(pid: int) -> str:
    """A letter; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return ""


def _service_pid(cloud: Cloud, name: str) -> int:
    return int((cloud.folder / "pids" / name).read_text().split()[0])


@contextlib.contextmanager
def killed(cloud: Cloud, *services: str) -> Iterator[None]:
    """Services are killed before the block, but not what they have started; after it they are started again."""
    try:
        for service in services:
            kill(_service_pid(cloud, service))
        yield
    finally:
        cloud.restart(*services)


@contextlib.contextmanager
def killed_whole(cloud: Cloud, service: str) -> Iterator[None]:
    """As :func:`killed`, and the service's own processes with it."""
    first = _service_pid(cloud, service)
    own = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rsplit(") ", 1)[1].split()[1]) == first:
                own.append(int(entry.parent.name))
    with killed(cloud, service):
        for pid in own:
            with contextlib.suppress(ProcessLookupError):
                kill(pid)
        yield


def compute_service(cloud: Cloud, host: str) -> str:
    """The minicloud's name of nova-compute on a host."""
    return "compute" + host.removeprefix(cloud.name).removeprefix("-compute")


@contextlib.contextmanager
def small(cloud: Cloud, host: str, folder: str, size: str) -> Iterator[None]:
    """A folder of a host's state is a file system of its own, with little room."""
    state = state_folder(cloud, host)
    user, place = state.stat().st_uid, str(state / folder)
    cloud.run("install", "-d", "-o", str(user), place, host=host)
    options = f"size={size},mode=700,uid={user}"
    cloud.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", place, host=host)
    try:
        yield
    finally:
        cloud.run("umount", "-l", place, host=host)


def cached_bases(cloud: Cloud, host: str) -> dict[str, Path]:
    """Folders of the bases that a host holds, by identity."""
    folder = state_folder(cloud, host) / "bases"
    return {path.name: path for path in folder.glob(64 * "?") if path.is_dir()}


def forget_bases(cloud: Cloud, *base_ids: str) -> None:
    """Remove these bases, or all, from the caches of all hosts."""
    for host in cloud.hosts:
        for base_id, path in cached_bases(cloud, host).items():
            if not base_ids or base_id in base_ids:
                shutil.rmtree(path)
