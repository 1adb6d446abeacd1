# SPDX-License-Identifier: Apache-2.0
"""Job overlay-create: what it is told, and which disks it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cloudlet_ext import operation_id
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.job import errors
from cloudlet_ext.job.overlay_create import require_over
from tests.nova.virt_host import OF_BASE, VirtHost

BASE = "3d5a2a0e-6f0f-4f40-9a0d-9a3d3e7f6b21"
KEPT = hashlib.sha1(BASE.encode()).hexdigest()
"""What Nova calls its copy of the base's image."""
MIB = 1 << 20


def disk(folder: Path, below: str | None) -> Path:
    """A server's disk over a file of Nova's cache, or over none."""
    made = folder / "disk"
    with Qcow2Writer.create(made, MIB, f"/var/lib/nova/instances/_base/{below}" if below else None, "raw"):
        pass
    return made


def test_a_disk_over_its_base(tmp_path: Path) -> None:
    require_over(disk(tmp_path, KEPT), KEPT)


@pytest.mark.parametrize("below", [None, hashlib.sha1(b"a snapshot").hexdigest()])
def test_a_disk_that_is_over_its_base_no_more(tmp_path: Path, below: str | None) -> None:
    with pytest.raises(errors.ImageUnsuitable, match="make a base") as caught:
        require_over(disk(tmp_path, below), KEPT)
    assert KEPT in str(caught.value)
    assert (below or "over nothing") in str(caught.value)


def test_the_worker_is_told_what_is_below(virt_host: VirtHost, tmp_path: Path) -> None:
    told = tmp_path / "job"
    virt_host.work(f"open({str(told)!r}, 'w').write(json.dumps(job)); channel.end('done', result={{}})", take_up=False)
    server = virt_host.server(vm_state="active", task_state="cloudlet_overlay_create", image_ref=BASE)
    identifier = operation_id.new("compute1")
    virt_host.manager.create_overlay(virt_host.context, server, identifier, "app", "an-image", "resume", None)
    virt_host.ended(identifier)
    job = json.loads(told.read_text())
    assert job["disk_below"] == KEPT
    assert job["base_id"] == OF_BASE["image_cloudlet_base_id"]
