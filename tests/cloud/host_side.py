# SPDX-License-Identifier: Apache-2.0
"""The compute hosts of a minicloud from below: workers, services and files, for tests that break something."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cloud.cloud import Cloud, wait_until


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


def freeze_worker(cloud: Cloud, operation_id: str, stage: str, limit_s: float = 60.0) -> int:
    """Stop the process of an operation as soon as it is in a stage; its pid."""

    def at_stage() -> int:
        known = known_operation(cloud, operation_id)
        if known is None or stage not in [one["name"] for one in known["stages"]]:
            return 0
        assert known["state"] == "running", known
        return int(known["worker"][0])

    pid = wait_until(f"stage {stage} of operation {operation_id}", at_stage, limit_s, every_s=0.002)
    os.kill(pid, signal.SIGSTOP)
    return pid


def kill(pid: int) -> None:
    """End a process without a word, and wait until it has gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z":
        assert time.monotonic() < deadline, pid
        time.sleep(0.05)


def service_pid(cloud: Cloud, name: str) -> int:
    """The first process of a service."""
    return int((cloud.folder / "pids" / name).read_text().split()[0])


def kill_service(cloud: Cloud, name: str) -> None:
    """End a service, with all of its processes."""
    first = service_pid(cloud, name)
    pids = [first]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rsplit(") ", 1)[1].split()[1]) == first:
                pids.append(int(entry.parent.name))
    for pid in pids:
        kill(pid)


def compute_service(cloud: Cloud, host: str) -> str:
    """The minicloud's name of nova-compute on a host."""
    return "compute" + host.removeprefix(cloud.name).removeprefix("-compute")


@contextlib.contextmanager
def small(cloud: Cloud, host: str, folder: str, size: str) -> Iterator[None]:
    """A folder of a host's state is a file system of its own, with little room."""
    place = str(state_folder(cloud, host) / folder)
    cloud.run("mkdir", "-p", place, host=host)
    cloud.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place, host=host)
    try:
        yield
    finally:
        cloud.run("umount", "-l", place, host=host)


def cached_bases(cloud: Cloud, host: str) -> dict[str, Path]:
    """Folders of the bases that a host holds, by identity."""
    folder = state_folder(cloud, host) / "bases"
    return {path.name: path for path in folder.iterdir() if path.is_dir() and len(path.name) == 64}


def forget_bases(cloud: Cloud) -> None:
    """Empty the caches of all hosts."""
    for host in cloud.hosts:
        for path in cached_bases(cloud, host).values():
            cloud.run("rm", "-r", str(path), host=host)
