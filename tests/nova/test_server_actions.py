# SPDX-License-Identifier: Apache-2.0
"""POST /servers/{id}/action."""

from __future__ import annotations

from typing import Any

import pytest
import webob
from nova import context as nova_context
from nova import objects

from cloudlet_ext import operation_id
from cloudlet_ext.nova.rpcapi import CloudletAPI
from tests.nova.cloud import ADMIN, EXTRA_SPECS, FULL, MEMBER, MINE, OTHER, THEIRS, Cloud
from tests.nova.conftest import BASE_ID

OF_BASE = {
    "image_cloudlet_type": "base",
    "image_cloudlet_base_id": BASE_ID,
    "image_cloudlet_memory_mb": "512",
    "image_hw_disk_bus": "virtio",
    "image_owner_specified.openstack.md5": "x",
    "image_img_signature": "x",
    "image_min_disk": "1",
    "boot_roles": "member",
}


def act(cloud: Cloud, server: Any, body: Any, who: str = MEMBER, version: str | None = None) -> webob.Response:
    return cloud.request(who, "POST", f"/servers/{server.uuid}/action", body, version)


def base(cloud: Cloud, server: Any, name: str = "b", who: str = MEMBER) -> webob.Response:
    return act(cloud, server, {"cloudlet-base": {"name": name}}, who)


def overlay(cloud: Cloud, server: Any, who: str = MEMBER, **more: Any) -> webob.Response:
    return act(cloud, server, {"cloudlet-overlay-finish": {"overlay-name": "o", **more}}, who)


def actions(cloud: Cloud, server: Any) -> list[Any]:
    with nova_context.target_cell(cloud.context, cloud.cell_of(server.host)) as context:
        return list(objects.InstanceActionList.get_by_instance_uuid(context, server.uuid))


def message(answer: webob.Response) -> str:
    (fault,) = answer.json.values()
    return str(fault["message"])


@pytest.mark.parametrize("host", ["compute1", "compute2"])
def test_base(cloud: Cloud, host: str) -> None:
    server = cloud.server(host=host, system_metadata=OF_BASE)
    answer = base(cloud, server, "ubuntu 24")
    assert answer.status_int == 202, answer.text
    document = answer.json
    disk, memory = document["base-disk"], document["base-memory"]
    assert (disk["name"], disk["status"]) == ("ubuntu 24", "queued")
    assert (memory["name"], memory["status"]) == ("ubuntu 24 memory", "queued")
    assert operation_id.may_be_of(document["operation"], host)

    context, arguments = cloud.managers[host].wait_for_cast("create_base")
    assert (context.project_id, context.user_id) == (MINE, "alice")
    assert arguments.pop("instance").uuid == server.uuid
    images = {"base-disk": disk["id"], "base-memory": memory["id"]}
    assert arguments == {"id": document["operation"], "name": "ubuntu 24", "images": images}

    assert cloud.again(server).task_state == "cloudlet_base_create"
    (action,) = actions(cloud, server)
    assert (action.action, action.user_id) == ("cloudlet-base", "alice")
    assert (action.finish_time, action.message) == (None, None)


def test_the_images_of_a_base(cloud: Cloud) -> None:
    document = base(cloud, cloud.server(system_metadata=OF_BASE)).json
    disk = cloud.glance.get(MEMBER, document["base-disk"]["id"])
    memory = cloud.glance.get(MEMBER, document["base-memory"]["id"])
    assert disk is not None
    assert memory is not None
    expected = {
        "disk_format": "qcow2",
        "visibility": "private",
        "owner": MINE,
        "os_hidden": False,
        "min_ram": 512,
        "min_disk": 2,
        "cloudlet_type": "base",
        "cloudlet_memory_image": memory["id"],
        "cloudlet_memory_mb": "512",
        "cloudlet_vcpus": "1",
        "trait:CUSTOM_CLOUDLET": "required",
        "cloudlet_config_drive": "False",
        # The hardware that the guest knows goes with it, what was true of the old image alone does not.
        "hw_disk_bus": "virtio",
    }
    assert {name: disk.get(name) for name in expected} == expected
    assert not {"cloudlet_base_id", "owner_specified.openstack.md5", "img_signature", "boot_roles"} & set(disk)
    spec = objects.RequestSpec()
    spec._image_meta_from_image({"id": disk["id"], "properties": disk})
    assert spec.image.properties.traits_required == ["CUSTOM_CLOUDLET"], "as the scheduler reads it"
    expected = {
        "disk_format": "raw",
        "visibility": "private",
        "owner": MINE,
        "os_hidden": True,
        "cloudlet_type": "base-memory",
        "cloudlet_base_image": disk["id"],
    }
    assert {name: memory.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("has", "told", "asks"), [("True", "True", "mandatory"), ("", "False", None), (None, "False", None)]
)
def test_a_base_tells_of_its_config_drive(cloud: Cloud, has: str | None, told: str, asks: str | None) -> None:
    """Nova gives one to every server of an image that asks for it."""
    document = base(cloud, cloud.server(config_drive=has)).json
    disk = cloud.glance.get(MEMBER, document["base-disk"]["id"]) or {}
    assert (disk["cloudlet_config_drive"], disk.get("img_config_drive")) == (told, asks)


@pytest.mark.parametrize("on_finish", ["resume", "stop", "delete"])
def test_overlay(cloud: Cloud, on_finish: str) -> None:
    server = cloud.server(host="compute2", system_metadata=OF_BASE, vm_state="paused")
    answer = overlay(cloud, server, **{"on-finish": on_finish, "record": "http://:80/"})
    assert answer.status_int == 202, answer.text
    _, arguments = cloud.managers["compute2"].wait_for_cast("create_overlay")
    assert arguments.pop("instance").uuid == server.uuid
    assert arguments == {
        "id": answer.json["operation"],
        "name": "o",
        "image_id": answer.json["overlay-id"],
        "on_finish": on_finish,
        "record": "http://:80/",
    }
    assert cloud.again(server).task_state == "cloudlet_overlay_create"
    assert [action.action for action in actions(cloud, server)] == ["cloudlet-overlay-finish"]
    image = cloud.glance.get(MEMBER, answer.json["overlay-id"])
    expected = {
        "name": "o",
        "status": "queued",
        "owner": MINE,
        "cloudlet_type": "overlay",
        "cloudlet_base_id": BASE_ID,
        "cloudlet_base_image": server.image_ref,
        "cloudlet_server_name": "web",
        "cloudlet_memory_mb": "512",
        "cloudlet_vcpus": "1",
    }
    assert image is not None
    assert {name: image.get(name) for name in expected} == expected


@pytest.mark.parametrize("on_finish", ["stop", "delete"])
def test_a_host_that_cannot_end_servers(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, on_finish: str) -> None:
    manager = cloud.managers["compute1"]
    monkeypatch.setattr(manager, "abilities", {"ends_servers": False})
    server = cloud.server(system_metadata=OF_BASE)
    refused = overlay(cloud, server, **{"on-finish": on_finish})
    assert refused.status_int == 409
    assert f"not set up to {on_finish} servers" in message(refused)
    assert cloud.again(server).task_state is None
    assert overlay(cloud, server).status_int == 202
    assert manager.wait_for_cast("create_overlay")[1]["on_finish"] == "resume"
    monkeypatch.setattr(manager, "abilities", {"ends_servers": True})
    assert overlay(cloud, cloud.server(system_metadata=OF_BASE), **{"on-finish": on_finish}).status_int == 202
    assert manager.wait_for_cast("create_overlay")[1]["on_finish"] == on_finish


def test_the_body_of_old_resumes(cloud: Cloud) -> None:
    overlay(cloud, cloud.server(system_metadata=OF_BASE))
    _, arguments = cloud.managers["compute1"].wait_for_cast("create_overlay")
    assert (arguments["on_finish"], arguments["record"]) == ("resume", None)


def test_an_admin_acts_for_the_servers_project(cloud: Cloud) -> None:
    answer = base(cloud, cloud.server(), who=ADMIN)
    assert answer.status_int == 202, answer.text
    assert (cloud.glance.get(MEMBER, answer.json["base-disk"]["id"]) or {})["owner"] == MINE
    assert (cloud.glance.get(MEMBER, answer.json["base-memory"]["id"]) or {})["owner"] == MINE


@pytest.mark.parametrize(
    "body",
    [
        {"cloudlet-base": {}},
        {"cloudlet-base": {"name": ""}},
        {"cloudlet-base": {"name": "n", "colour": "red"}},
        {"cloudlet-base": {"name": "n"}, "pause": None},
        {"cloudlet-base": None},
        {"cloudlet-base": {"name": 7}},
        {"cloudlet-overlay-finish": {"name": "n"}},
        {"cloudlet-overlay-finish": {"overlay-name": "n", "on-finish": "burn"}},
        {"cloudlet-overlay-finish": {"overlay-name": "n", "record": "command:reboot"}},
        {"cloudlet-overlay-finish": {"overlay-name": "n", "on-finish": None}},
        # Nova's own 400: no action of ours.
        {"cloudlet-other": {}},
        b'{"cloudlet-base": ',
        {"reboot": {}},
    ],
)
def test_bodies_that_are_refused(cloud: Cloud, body: Any) -> None:
    server = cloud.server(system_metadata=OF_BASE)
    answer = act(cloud, server, body)
    assert answer.status_int == 400, answer.text
    assert cloud.again(server).task_state is None


def test_other_content_types_are_refused(cloud: Cloud) -> None:
    server = cloud.server()
    path, body = f"/servers/{server.uuid}/action", {"cloudlet-base": {"name": "n"}}
    assert cloud.request(MEMBER, "POST", path, body, Content_Type="text/xml").status_int == 415


def test_novas_own_actions_are_novas(cloud: Cloud) -> None:
    server = cloud.server()
    # It names us, and is Nova's all the same.
    answer = act(cloud, server, {"createImage": {"name": '"cloudlet-base"', "metadata": {"cloudlet-base": "x"}}})
    assert answer.status_int == 202, answer.text
    assert "cloudlet" not in answer.headers.get("OpenStack-API-Version", "")


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"task_state": "rebooting"}, "task_state rebooting"),
        ({"task_state": "cloudlet_base_create"}, "task_state cloudlet_base_create"),
        ({"vm_state": "stopped"}, "vm_state stopped"),
        ({"vm_state": "suspended"}, "vm_state suspended"),
        ({"vm_state": "error"}, "vm_state error"),
        ({"vm_state": "shelved_offloaded", "host": None}, "shelved_offloaded"),
        ({"vm_state": "building", "launched_at": None, "host": None}, "building"),
        ({"volumes": ["volume"], "image_ref": ""}, "root disk on a volume"),
        ({"volumes": ["local", "volume"]}, "volumes attached"),
    ],
)
def test_servers_that_cannot_be_captured(cloud: Cloud, facts: dict[str, Any], part: str) -> None:
    before = cloud.glance.names(ADMIN)
    server = cloud.server(system_metadata=OF_BASE, **facts)
    for answer in (base(cloud, server), overlay(cloud, server)):
        assert answer.status_int == 409, answer.text
        assert part in message(answer)
        assert server.uuid in message(answer)
    assert cloud.glance.names(ADMIN) == before
    assert cloud.again(server).task_state == facts.get("task_state")


UNMOVABLE = {
    "image_hw_numa_nodes": "1",
    "image_hw_tpm_version": "2.0",
    "image_hw_cpu_policy": "dedicated",
}


def unmovable(cloud: Cloud) -> list[Any]:
    memory_encryption = {"image_hw_mem_encryption": "True", "image_hw_firmware_type": "uefi"}
    encrypted = {**OF_BASE, **memory_encryption, "image_hw_machine_type": "q35"}
    request = objects.InstancePCIRequest(count=1, spec=[{"vendor_id": "8086"}], request_id="a")
    cell = objects.InstanceNUMACell(id=0, cpuset={0}, pcpuset=set(), memory=512)
    return [
        *(cloud.server(flavor=cloud.flavors[name], system_metadata=OF_BASE) for name in EXTRA_SPECS),
        *(cloud.server(system_metadata={**OF_BASE, name: value}) for name, value in UNMOVABLE.items()),
        cloud.server(system_metadata=encrypted),
        cloud.server(
            system_metadata=OF_BASE, pci_requests=objects.InstancePCIRequests(requests=[request], instance_uuid="")
        ),
        cloud.server(system_metadata=OF_BASE, numa_topology=objects.InstanceNUMATopology(cells=[cell])),
    ]


def test_servers_whose_state_stays_on_their_host(cloud: Cloud) -> None:
    """It would be found after the guest was paused, or when somebody starts what came of it."""
    before = cloud.glance.names(ADMIN)
    for server in unmovable(cloud):
        for answer in (base(cloud, server), overlay(cloud, server)):
            assert answer.status_int == 409, (server.system_metadata, server.flavor.extra_specs, answer.text)
            assert "neither captured nor resumed" in message(answer)
    assert cloud.glance.names(ADMIN) == before


def test_root_disks_that_are_no_files(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud.managers["compute1"], "images_type", "rbd")
    server = cloud.server(system_metadata=OF_BASE)
    for answer in (base(cloud, server), overlay(cloud, server)):
        assert answer.status_int == 409, answer.text
        assert "images_type of its host is rbd" in message(answer)
    assert cloud.again(server).task_state is None


def test_an_overlay_needs_a_server_of_a_base(cloud: Cloud) -> None:
    answer = overlay(cloud, cloud.server())
    assert answer.status_int == 409
    assert "cloudlet-base" in message(answer)


def test_locked_servers(cloud: Cloud) -> None:
    for on_finish, status in (("resume", 202), ("stop", 409), ("delete", 409)):
        server = cloud.server(system_metadata=OF_BASE, locked=True, locked_by="owner")
        assert overlay(cloud, server, **{"on-finish": on_finish}).status_int == status
        if status == 409:
            assert overlay(cloud, server, who=ADMIN, **{"on-finish": on_finish}).status_int == 202


def test_servers_of_others_are_not_there(cloud: Cloud) -> None:
    server = cloud.server(project=THEIRS, task_state="rebooting")
    assert base(cloud, server).status_int == 404
    assert base(cloud, server, who=OTHER).status_int == 409
    assert cloud.request(MEMBER, "POST", "/servers/x/action", {"cloudlet-base": {"name": "n"}}).status_int == 404


def undone(cloud: Cloud, server: Any, before: set[str]) -> None:
    assert cloud.again(server).task_state is None
    assert cloud.glance.names(ADMIN) == before


@pytest.mark.parametrize(("host", "status"), [("down", 503), ("silent", 504)])
def test_hosts_that_are_not_there(cloud: Cloud, host: str, status: int) -> None:
    before = cloud.glance.names(ADMIN)
    server = cloud.server(host=host, system_metadata=OF_BASE)
    for answer in (base(cloud, server), overlay(cloud, server)):
        assert answer.status_int == status, answer.text
        assert host not in message(answer).replace("is down", "")
        assert "Try again" in message(answer)
    undone(cloud, server, before)


def test_a_quota_that_is_used_up(cloud: Cloud) -> None:
    before = cloud.glance.names(ADMIN)
    server = cloud.server(project="f" * 32)
    answer = base(cloud, server, who=FULL)
    assert answer.status_int == 413
    assert "quota" in answer.json["overLimit"]["message"]
    undone(cloud, server, before)
    assert actions(cloud, server) == []


class BrokenBus(CloudletAPI):
    """Takes questions, and breaks when it is told something."""

    def create_base(self, *args: Any) -> None:
        raise ConnectionError("the bus is gone")

    create_overlay = create_base


@pytest.fixture
def broken_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CloudletAPI, "create_base", BrokenBus.create_base)
    monkeypatch.setattr(CloudletAPI, "create_overlay", BrokenBus.create_overlay)


@pytest.mark.usefixtures("broken_bus")
def test_all_is_undone_when_the_cast_fails(cloud: Cloud) -> None:
    before = cloud.glance.names(ADMIN)
    server = cloud.server(system_metadata=OF_BASE)
    for answer in (base(cloud, server), overlay(cloud, server)):
        assert answer.status_int == 500
        assert "bus" not in answer.text
    undone(cloud, server, before)
    for action in actions(cloud, server):
        assert action.message == "Error"
        assert action.finish_time is not None


def test_of_two_at_once_one_wins(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the checks and the task state somebody else is quicker."""
    server = cloud.server()
    before = cloud.glance.names(ADMIN)
    original = CloudletAPI.describe

    def overtaken(self: CloudletAPI, ctxt: Any, host: str) -> dict[str, Any]:
        other = cloud.again(server)
        other.task_state = "rebooting"
        other.save()
        return original(self, ctxt, host)

    monkeypatch.setattr(CloudletAPI, "describe", overtaken)
    answer = base(cloud, server)
    assert answer.status_int == 409, answer.text
    assert "rebooting" in message(answer)
    assert cloud.again(server).task_state == "rebooting"
    assert cloud.glance.names(ADMIN) == before
