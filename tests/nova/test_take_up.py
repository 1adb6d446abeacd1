# SPDX-License-Identifier: Apache-2.0
"""The compute driver: which starts of a server take up a captured state, and what becomes of those that fail."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
from nova import exception
from nova.conf import CONF
from nova.virt.libvirt import driver as libvirt_driver

from cloudlet_ext.hypervisor import domain_xml
from cloudlet_ext.nova import jobs, marks, workers
from cloudlet_ext.nova.operations import Operation
from tests.nova.compute import wait_until
from tests.nova.virt_host import DONE, GOES_ON, OF_BASE, ORDINARY, OVERLAY, REBUILDING, TAKE_UP, VirtHost

MACHINE = """
<domain type='qemu'>
  <name>i-1</name>
  <memory unit='KiB'>131072</memory>
  <os><type arch='x86_64' machine='pc-i440fx-10.0'>hvm</type></os>
  <devices/>
</domain>
"""


def own(server: Any) -> dict[str, str]:
    """Our marks in a server's metadata that tell how it began."""
    return {name: value for name, value in server.system_metadata.items() if name in (marks.STARTED, marks.ARRIVING)}


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


class Remote:
    """Nova's way to disks that are no files of the host: ``there`` tells whether a server's is."""

    def __init__(self, there: bool) -> None:
        self._there = there

    def backend(self) -> Remote:
        return self

    def is_file_in_instance_path(self) -> bool:
        return False

    def by_name(self, instance: Any, name: str) -> Remote:
        assert name == "disk"
        return self

    def exists(self) -> bool:
        return self._there


def in_ceph(virt_host: VirtHost, server: Any) -> str:
    """The description of a server's domain with its root disk in Ceph."""
    local = f"<source file='{jobs.disk_path(server)}'/>"
    xml = virt_host.xml(server).replace("type='file' device='disk'", "type='network' device='disk'")
    return xml.replace("type='qcow2'", "type='raw'").replace(local, "<source protocol='rbd' name='vms/disk'/>")


@pytest.mark.parametrize("metadata", [{}, OVERLAY])
def test_a_build_takes_up_a_captured_state(virt_host: VirtHost, metadata: dict[str, str]) -> None:
    server = virt_host.server(metadata=metadata)
    virt_host.spawn(server)
    operation = virt_host.ended(server.uuid)
    assert (operation.type, operation.state) == ("synthesis" if metadata else "base-resume", "succeeded")
    assert own(server) == {marks.STARTED: "mapped"}
    assert virt_host.libvirt.runs(server)


@pytest.mark.parametrize("old", [{marks.STARTED: "mapped"}, {marks.STARTED: "early", marks.ARRIVING: "True"}])
def test_a_build_that_was_rescheduled_takes_it_up_again(virt_host: VirtHost, old: dict[str, str]) -> None:
    """Nova has saved what another host, which failed, had written into the server's metadata."""
    server = virt_host.server(system_metadata={**OF_BASE, **old}, metadata=OVERLAY)
    virt_host.spawn(server)
    assert virt_host.ended(server.uuid).state == "succeeded"
    assert own(server) == {marks.STARTED: "mapped"}


@pytest.mark.parametrize(("good", "left"), [(1, {marks.ARRIVING: "True"}), (2, {})])
def test_a_failure_is_told_and_not_tried_elsewhere(virt_host: VirtHost, good: int, left: dict[str, str]) -> None:
    """Before the overlay is there the disk is the base's, without the overlay: nobody is to boot from that."""
    server = virt_host.server(metadata=OVERLAY)
    SaveFails(server, good)
    with pytest.raises(exception.BuildAbortException, match="no database"):
        virt_host.spawn(server)
    operation = virt_host.ended(server.uuid)
    assert operation.state == "failed"
    assert "no database" in str(operation.error)
    assert not virt_host.libvirt.runs(server)
    assert own(server) == left
    server.vm_state, server.task_state = "error", "rebooting"
    with pytest.raises(exception.InstancePowerOnFailure) if left else contextlib.nullcontext():
        virt_host.started(server)


def test_the_worker_begins_while_nova_sets_up_the_network(virt_host: VirtHost) -> None:
    server = virt_host.server(metadata=OVERLAY)
    virt_host.work("report.stage('fetch')" + TAKE_UP.format(placement="early") + DONE, take_up=False)

    def fetched() -> bool:
        operation = virt_host.operation(server.uuid)
        return operation is not None and operation.stage == "fetch"

    virt_host.before_domain = lambda: wait_until(fetched)
    virt_host.spawn(server)
    assert virt_host.ended(server.uuid).state == "succeeded"


@pytest.mark.parametrize("kind", [ConnectionError, exception.InstanceNotFound])
def test_nova_fails_before_there_is_a_domain(virt_host: VirtHost, kind: type[Exception]) -> None:
    """For instance because there is no port to be had: Nova may build the server on another host."""
    server = virt_host.server(metadata=OVERLAY)

    def fail() -> None:
        wait_until(lambda: virt_host.operation(server.uuid))
        raise kind("no port")

    virt_host.before_domain = fail
    with pytest.raises(kind):
        virt_host.spawn(server)
    operation = virt_host.ended(server.uuid)
    assert operation.state == "failed"
    assert "could not be begun on this host" in str(operation.error)
    assert operation.worker is not None
    assert workers.Orphan(operation.worker).has_ended
    assert virt_host.manager.describe(virt_host.context)["workers"]["running"] == 0
    assert not virt_host.libvirt.runs(server)


def test_a_worker_that_fails_while_nova_sets_up_the_network(virt_host: VirtHost) -> None:
    server = virt_host.server(metadata=OVERLAY)
    virt_host.work('channel.end("failed", kind="SourceLost", error="the overlay is away")', take_up=False)

    def gone() -> None:
        wait_until(lambda: virt_host.operation(server.uuid))
        worker = virt_host.operation(server.uuid).worker  # type: ignore[union-attr]
        wait_until(lambda: workers.Orphan(worker).has_ended)

    virt_host.before_domain = gone
    with pytest.raises(exception.BuildAbortException, match="the overlay is away"):
        virt_host.spawn(server)
    assert "the overlay is away" in str(virt_host.ended(server.uuid).error)
    assert own(server) == {marks.ARRIVING: "True"}


@pytest.mark.parametrize("metadata", [{}, OVERLAY])
def test_a_host_whose_workers_are_at_work(virt_host: VirtHost, metadata: dict[str, str]) -> None:
    """No worker holds a place while Nova is at work: it begins when there is a domain."""
    slots = virt_host.manager._runner.slots
    for _ in range(slots.limit):
        assert slots.take(threading.Event())
    server = virt_host.server(metadata=metadata)

    def free() -> None:
        assert virt_host.operation(server.uuid) is None
        for _ in range(slots.limit):
            slots.give_back()

    virt_host.before_domain = free
    virt_host.spawn(server)
    assert virt_host.ended(server.uuid).state == "succeeded"
    assert slots.running == 0


def test_a_rebuild_that_nova_compute_did_not_survive(virt_host: VirtHost) -> None:
    """The database tells that the guest never ran, as soon as there is an operation."""
    server = virt_host.server(**REBUILDING, system_metadata={**OF_BASE, marks.STARTED: "mapped"}, metadata=OVERLAY)
    seen: list[dict[str, str]] = []

    def look() -> None:
        assert virt_host.operation(server.uuid) is not None
        seen.append(own(virt_host.again(server)))

    virt_host.before_domain = look
    virt_host.spawn(server)
    assert seen == [{marks.ARRIVING: "True"}]


def test_an_evacuated_server_that_stays_off(virt_host: VirtHost) -> None:
    """Nothing is begun for it: nobody would take it up."""
    server = virt_host.server(**REBUILDING)
    virt_host.spawn(server, power_on=False)
    assert virt_host.operation(server.uuid) is None


def test_a_job_that_cannot_be_made(virt_host: VirtHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_token() -> None:
        raise ConnectionError("Keystone is away")

    monkeypatch.setattr(jobs, "_service_token", no_token)
    server = virt_host.server()
    # Nothing was begun: Nova tries another host.
    with pytest.raises(ConnectionError, match="Keystone is away"):
        virt_host.spawn(server)
    assert virt_host.ended(server.uuid).state == "failed"
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
    operation = virt_host.ended(server.uuid)
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
    assert virt_host.operation(server.uuid) is None
    assert virt_host.libvirt.runs(server)


@pytest.mark.parametrize("metadata", [{}, OVERLAY])
def test_a_root_disk_that_is_no_qcow2_file(virt_host: VirtHost, metadata: dict[str, str]) -> None:
    virt_host.driver.image_backend = Remote(False)
    server = virt_host.server(metadata=metadata)
    with pytest.raises(exception.BuildAbortException, match="images_type qcow2"):
        virt_host.spawn(server, in_ceph(virt_host, server))
    assert not virt_host.libvirt.runs(server)


def test_a_server_in_ceph_is_evacuated(virt_host: VirtHost) -> None:
    """Its disk is where it was, and has gone on since its memory was captured."""
    virt_host.driver.image_backend = Remote(True)
    server = virt_host.server(**REBUILDING, system_metadata={**OF_BASE, marks.STARTED: "mapped"})
    virt_host.spawn(server, in_ceph(virt_host, server))
    assert virt_host.operation(server.uuid) is None
    assert virt_host.libvirt.runs(server)


@pytest.mark.parametrize("facts", [{}, REBUILDING])
def test_a_server_with_its_root_disk_on_a_volume(virt_host: VirtHost, facts: dict[str, str]) -> None:
    """The volume tells of the base that it was made of; what was written to it since, nobody knows."""
    server = virt_host.server(**facts, image_ref="", volumes=["volume"])
    virt_host.spawn(server)
    assert virt_host.operation(server.uuid) is None
    assert virt_host.libvirt.runs(server)


@pytest.mark.parametrize(
    ("images_type", "cow", "told"), [("default", True, "qcow2"), ("default", False, "raw"), ("rbd", True, "rbd")]
)
def test_a_host_tells_what_its_root_disks_are(virt_host: VirtHost, images_type: str, cow: bool, told: str) -> None:
    CONF.set_override("images_type", images_type, group="libvirt")
    CONF.set_override("use_cow_images", cow)
    try:
        assert virt_host.manager.describe(virt_host.context)["images_type"] == told
    finally:
        CONF.clear_override("images_type", group="libvirt")
        CONF.clear_override("use_cow_images")


@pytest.mark.parametrize(
    ("facts", "placement"), [({}, "early"), (REBUILDING, "mapped"), ({**REBUILDING, "vm_state": "stopped"}, "mapped")]
)
def test_all_is_there_when_a_rebuilt_server_runs(virt_host: VirtHost, facts: dict[str, Any], placement: str) -> None:
    """Nova stops it right then, when it was stopped before."""
    CONF.set_override("placement", "early", group="cloudlet")
    try:
        server = virt_host.server(**facts, metadata=OVERLAY)
        virt_host.spawn(server)
        result = virt_host.ended(server.uuid).result
    finally:
        CONF.clear_override("placement", group="cloudlet")
    assert result == {"placement": placement}


@pytest.mark.parametrize("old", [{marks.ARRIVING: "True"}, {marks.STARTED: "early", marks.ARRIVING: "True"}])
def test_a_server_that_failed_is_rebuilt_from_an_ordinary_image(virt_host: VirtHost, old: dict[str, str]) -> None:
    server = virt_host.server(**REBUILDING, system_metadata={**ORDINARY, **old}, metadata=OVERLAY)
    virt_host.spawn(server)
    assert virt_host.libvirt.runs(server)
    assert own(server) == {}


def test_a_server_that_failed_is_evacuated_with_its_disk(virt_host: VirtHost) -> None:
    """The disk is as incomplete as it was."""
    server = virt_host.server(**REBUILDING, system_metadata={**ORDINARY, marks.ARRIVING: "True"})
    disk = Path(jobs.disk_path(server))
    disk.parent.mkdir(parents=True)
    disk.touch()
    with pytest.raises(exception.InstancePowerOnFailure):
        virt_host.spawn(server)
    assert own(server) == {marks.ARRIVING: "True"}


def losing_its_worker(virt_host: VirtHost, placement: str) -> Any:
    """A server that Nova has made ACTIVE, and whose worker has died since then; the operation has ended."""
    go = virt_host.folder / "go"
    virt_host.work(
        f"""
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
os._exit(9)
""",
        placement,
    )
    server = virt_host.server(metadata=OVERLAY)
    virt_host.spawn(server)
    virt_host.activate(server)
    go.touch()
    virt_host.ended(server.uuid)
    return server


def test_a_guest_that_has_all_goes_on_without_its_worker(virt_host: VirtHost) -> None:
    server = losing_its_worker(virt_host, "mapped")
    operation = virt_host.ended(server.uuid)
    assert operation.state == "failed"
    assert "goes on with all of its memory" in str(operation.error)
    assert virt_host.libvirt.runs(server)
    now = virt_host.again(server)
    assert (now.vm_state, now.task_state) == ("active", None)


def test_a_guest_that_waits_for_memory_is_given_up(virt_host: VirtHost) -> None:
    server = losing_its_worker(virt_host, "early")
    assert "did not arrive whole" in str(virt_host.ended(server.uuid).error)
    assert not virt_host.libvirt.runs(server)
    assert virt_host.again(server).vm_state == "error"


def test_cancelling_ends_no_guest_that_has_all(virt_host: VirtHost) -> None:
    virt_host.work(GOES_ON)
    server = virt_host.server(metadata=OVERLAY)
    virt_host.spawn(server)
    virt_host.activate(server)
    virt_host.manager.cancel_operation(virt_host.context, server.uuid)
    assert virt_host.ended(server.uuid).state == "cancelled"
    assert virt_host.libvirt.runs(server)
    assert virt_host.again(server).vm_state == "active"


@pytest.mark.parametrize(("placement", "vm_state"), [("mapped", "active"), ("early", "error")])
def test_a_worker_that_died_while_nova_compute_was_away(virt_host: VirtHost, placement: str, vm_state: str) -> None:
    own_marks = {marks.STARTED: placement, **({marks.ARRIVING: "True"} if placement == "early" else {})}
    server = virt_host.server(
        vm_state="active", task_state="cloudlet_synthesis", system_metadata={**OF_BASE, **own_marks}
    )
    virt_host.libvirt.defineXML(virt_host.xml(server)).create()
    left = Operation(id=server.uuid, type="synthesis", project_id="p", user_id="u", host="compute1")
    left.server_id, left.worker = server.uuid, (1, 1)
    virt_host.manager._runner.store.add(left)
    orphan = workers.Orphan(left.worker)
    virt_host.manager._adopt(virt_host.manager._runner.adopt(left, orphan, lambda: None), orphan)
    assert virt_host.ended(server.uuid).state == "failed"
    assert virt_host.libvirt.runs(server) == (vm_state == "active")
    now = virt_host.again(server)
    assert (now.vm_state, now.task_state) == (vm_state, None)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_guest_on_a_mapped_base_is_not_migrated_live(
    virt_host: VirtHost, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = virt_host.server(vm_state="active", task_state="migrating")
    machine = domain_xml.describe(MACHINE)
    pages = Path("/bases/memory") if mapped else None
    virt_host.libvirt.descriptions[server.uuid] = domain_xml.likeness(MACHINE, machine, pages, None)
    monkeypatch.setattr(
        libvirt_driver.LibvirtDriver,
        "check_can_live_migrate_source",
        lambda driver, context, instance, data, disks: data,
    )
    asked = virt_host.driver.check_can_live_migrate_source
    if mapped:
        with pytest.raises(exception.MigrationPreCheckError, match="Reboot it hard"):
            asked(virt_host.context, server, "data")
    else:
        assert asked(virt_host.context, server, "data", None) == "data"


def test_limits_are_the_operators(virt_host: VirtHost) -> None:
    CONF.set_override("operation_timeout", 7200, group="cloudlet")
    CONF.set_override("vif_plugging_timeout", 900)
    try:
        virt_host.work('channel.end("done", result={name: job[name] for name in ("start_timeout_s", "run_timeout_s")})')
        server = virt_host.server()
        virt_host.spawn(server)
        assert virt_host.ended(server.uuid).result == {"start_timeout_s": 7200.0, "run_timeout_s": 960.0}
        CONF.set_override("operation_timeout", 4, group="cloudlet")
        virt_host.work(GOES_ON)
        slow = virt_host.server()
        virt_host.spawn(slow)
        virt_host.activate(slow)
        assert "longer than 4 s" in str(virt_host.ended(slow.uuid).error)
    finally:
        CONF.clear_override("operation_timeout", group="cloudlet")
        CONF.clear_override("vif_plugging_timeout")


def generation(virt_host: VirtHost, server: Any) -> str:
    """The VM generation id that a server's guest has now."""
    return str(domain_xml.parse(virt_host.libvirt.lookupByUUIDString(server.uuid).XMLDesc(0)).findtext("genid"))


def rebooted(virt_host: VirtHost, server: Any) -> str:
    """Its VM generation id after a hard reboot, by which Nova describes the domain anew."""
    virt_host.libvirt.lookupByUUIDString(server.uuid).destroy()
    server.vm_state, server.task_state = "active", "rebooting_hard"
    virt_host.started(server)
    return generation(virt_host, server)


def test_a_generation_id_stays_what_it_is(virt_host: VirtHost) -> None:
    """Windows domain controllers take a new one for a return to an older state."""
    servers = [virt_host.server(system_metadata=dict(ORDINARY)) for _ in range(2)]
    for server in servers:
        virt_host.spawn(server)
    first, other = (generation(virt_host, server) for server in servers)
    assert first != other
    assert [rebooted(virt_host, servers[0]), rebooted(virt_host, servers[0])] == [first, first]


def test_what_is_set_back_gets_another_generation_id(virt_host: VirtHost) -> None:
    server = virt_host.server()
    with_device = virt_host.xml(server).replace("<memory", "<genid/><memory")
    seen = []
    for facts in ({}, REBUILDING, {**REBUILDING, "system_metadata": dict(ORDINARY)}):
        for name, value in facts.items():
            setattr(server, name, value)
        virt_host.spawn(server, with_device)
        seen.append(generation(virt_host, server))
        if virt_host.operation(server.uuid) is not None:
            virt_host.ended(server.uuid)
        assert rebooted(virt_host, server) == seen[-1]
        virt_host.libvirt.lookupByUUIDString(server.uuid).destroy()
        Path(jobs.disk_path(server)).unlink()
    assert len(set(seen)) == 3
