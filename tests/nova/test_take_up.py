# SPDX-License-Identifier: Apache-2.0
"""The compute driver: which starts of a server take up a captured state, and what becomes of those that fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nova import exception

from cloudlet_ext.nova import jobs, marks
from tests.nova.cloud import Cloud
from tests.nova.virt_host import GOES_ON, OF_BASE, ORDINARY, OVERLAY, REBUILDING, VirtHost, install


@pytest.fixture
def compute(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtHost]:
    made = VirtHost(cloud, tmp_path)
    install(made, monkeypatch)
    yield made
    made.close()


def own(server: Any) -> dict[str, str]:
    """Our marks in a server's metadata."""
    return {name: value for name, value in server.system_metadata.items() if name in marks.ALL}


class SaveFails:
    """Nova's database is away, from some call on."""

    def __init__(self, server: Any, good: int) -> None:
        self._save, self._good = server.save, good
        server.save = self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._good -= 1
        if self._good < 0:
            raise ConnectionError("no database")
        self._save(*args, **kwargs)


@pytest.mark.parametrize("metadata", [{}, OVERLAY])
def test_a_build_takes_up_a_captured_state(virt_host: VirtHost, metadata: dict[str, str]) -> None:
    server = virt_host.server(metadata=metadata)
    virt_host.spawn(server)
    operation = virt_host.ended(server)
    assert (operation.type, operation.state) == ("synthesis" if metadata else "base-resume", "succeeded")
    assert own(server) == {marks.STARTED: "mapped"}
    assert virt_host.libvirt.runs(server)


@pytest.mark.parametrize("old", [{marks.STARTED: "mapped"}, {marks.STARTED: "early", marks.ARRIVING: "True"}])
def test_a_build_that_was_rescheduled_takes_it_up_again(virt_host: VirtHost, old: dict[str, str]) -> None:
    """Nova has saved what another host, which failed, had written into the server's metadata."""
    server = virt_host.server(system_metadata={**OF_BASE, **old}, metadata=OVERLAY)
    virt_host.spawn(server)
    assert virt_host.ended(server).state == "succeeded"
    assert own(server) == {marks.STARTED: "mapped"}


@pytest.mark.parametrize(("good", "left"), [(0, {marks.ARRIVING: "True"}), (1, {})])
def test_a_failure_is_told_and_not_tried_elsewhere(virt_host: VirtHost, good: int, left: dict[str, str]) -> None:
    """Before the overlay is there the disk is the base's, without the overlay: nobody is to boot from that."""
    server = virt_host.server(metadata=OVERLAY)
    SaveFails(server, good)
    with pytest.raises(exception.BuildAbortException, match="no database"):
        virt_host.spawn(server)
    operation = virt_host.ended(server)
    assert operation.state == "failed"
    assert "no database" in str(operation.error)
    assert not virt_host.libvirt.runs(server)
    assert own(server) == left
    server.vm_state, server.task_state = "error", "rebooting"
    with pytest.raises(exception.InstancePowerOnFailure) if left else contextlib.nullcontext():
        virt_host.started(server)


def test_a_job_that_cannot_be_made(virt_host: VirtHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_token() -> None:
        raise ConnectionError("Keystone is away")

    monkeypatch.setattr(jobs, "_service_token", no_token)
    server = virt_host.server()
    with pytest.raises(exception.BuildAbortException, match="Keystone is away"):
        virt_host.spawn(server)
    assert virt_host.ended(server).state == "failed"
    assert own(server) == {}


def test_nova_fails_when_the_guest_is_there(virt_host: VirtHost) -> None:
    """For instance because a network card was never plugged: the server is not built on another host."""
    virt_host.work(GOES_ON)
    server = virt_host.server(metadata=OVERLAY)

    def fail() -> None:
        raise ConnectionError("no network card")

    virt_host.pause, virt_host.after_spawn = True, fail
    with pytest.raises(exception.BuildAbortException, match="no network card"):
        virt_host.spawn(server)
    operation = virt_host.ended(server)
    assert "no network card" in str(operation.error)
    assert not virt_host.libvirt.runs(server)
    assert own(server) == {}


def test_a_server_that_is_deleted_meanwhile(virt_host: VirtHost) -> None:
    server = virt_host.server()

    def deleted() -> None:
        raise exception.InstanceNotFound(instance_id=server.uuid)

    virt_host.after_spawn = deleted
    with pytest.raises(exception.InstanceNotFound):
        virt_host.spawn(server)


def test_other_servers_are_built_elsewhere_as_ever(virt_host: VirtHost) -> None:
    def fail() -> None:
        raise ConnectionError("no network card")

    virt_host.after_spawn = fail
    for facts in ({"system_metadata": ORDINARY}, {**REBUILDING, "system_metadata": ORDINARY}):
        with pytest.raises(ConnectionError):
            virt_host.spawn(virt_host.server(**facts))


def test_a_disk_that_is_left_of_an_earlier_attempt(virt_host: VirtHost) -> None:
    server = virt_host.server(metadata=OVERLAY)
    disk = Path(jobs.disk_path(server))
    disk.parent.mkdir(parents=True)
    disk.touch()
    with pytest.raises(exception.BuildAbortException, match="earlier attempt"):
        virt_host.spawn(server)
    assert not virt_host.libvirt.runs(server)


def test_an_evacuated_server_is_booted_from_its_own_disk(virt_host: VirtHost) -> None:
    server = virt_host.server(**REBUILDING, system_metadata={**OF_BASE, marks.STARTED: "mapped"})
    disk = Path(jobs.disk_path(server))
    disk.parent.mkdir(parents=True)
    disk.touch()
    virt_host.spawn(server)
    assert virt_host.operation(server) is None
    assert virt_host.libvirt.runs(server)
