# SPDX-License-Identifier: Apache-2.0
"""/os-cloudlet/operations."""

from __future__ import annotations

import pytest
from nova import context as nova_context
from nova import objects

from cloudlet_ext import operation_id
from cloudlet_ext.nova import hosts
from tests.nova.cloud import ADMIN, MEMBER, MINE, OTHER, THEIRS, Cloud
from tests.nova.manager import operation

PATH = "/os-cloudlet/operations"


@pytest.mark.parametrize("host", ["compute1", "compute2"])
def test_an_operation_is_found_by_its_id_alone(cloud: Cloud, host: str) -> None:
    identifier = cloud.managers[host].add(operation_id.new(host), project_id=MINE, user_id="alice")
    shown = cloud.request(MEMBER, "GET", f"{PATH}/{identifier}").json["operation"]
    assert shown == {**operation(identifier, project_id=MINE, user_id="alice"), "host": None}
    assert cloud.request(ADMIN, "GET", f"{PATH}/{identifier}").json["operation"]["host"] == host


def test_an_operation_is_found_by_its_server(cloud: Cloud) -> None:
    server = cloud.server(host="compute2")
    cloud.managers["compute2"].add(server.uuid, project_id=MINE, type="synthesis", server_id=server.uuid)
    answer = cloud.request(MEMBER, "GET", f"{PATH}/{server.uuid}")
    assert answer.json["operation"]["type"] == "synthesis"
    assert cloud.request(OTHER, "GET", f"{PATH}/{server.uuid}").status_int == 404


@pytest.mark.parametrize("identifier", ["x", operation_id.new("compute1"), operation_id.new("nowhere")])
def test_what_is_not_there(cloud: Cloud, identifier: str) -> None:
    for method in ("GET", "DELETE"):
        answer = cloud.request(MEMBER, method, f"{PATH}/{identifier}")
        assert answer.status_int == 404
        assert identifier in answer.json["itemNotFound"]["message"]


def test_hosts_that_are_down_or_silent(cloud: Cloud) -> None:
    down = cloud.request(MEMBER, "GET", f"{PATH}/{operation_id.new('down')}")
    assert down.status_int == 503
    assert "is down" in down.json["serviceUnavailable"]["message"]
    silent = cloud.request(MEMBER, "GET", f"{PATH}/{operation_id.new('silent')}")
    assert silent.status_int == 504
    assert "did not answer" in silent.json["computeFault"]["message"]
    assert cloud.request(MEMBER, "DELETE", f"{PATH}/{operation_id.new('silent')}").status_int == 504
    for host, status in (("down", 503), ("silent", 504)):
        server = cloud.server(host=host)
        assert cloud.request(MEMBER, "GET", f"{PATH}/{server.uuid}").status_int == status
        # Lists leave such hosts out.
        listed = cloud.request(MEMBER, "GET", f"{PATH}?server_id={server.uuid}")
        assert (listed.status_int, listed.json) == (200, {"operations": []})


def test_lists(cloud: Cloud) -> None:
    one, two = cloud.managers["compute1"], cloud.managers["compute2"]
    old = one.add(operation_id.new("compute1"), project_id=MINE, created_at="2026-01-01T00:00:00+00:00")
    new = two.add(operation_id.new("compute2"), project_id=MINE, created_at="2026-01-02T00:00:00+00:00")
    theirs = two.add(operation_id.new("compute2"), project_id=THEIRS)

    def ids(who: str, query: str = "") -> list[str]:
        return [found["id"] for found in cloud.request(who, "GET", PATH + query).json["operations"]]

    assert ids(MEMBER) == [new, old]
    assert ids(OTHER) == [theirs]
    assert ids(ADMIN) == []
    assert set(ids(ADMIN, "?all_projects=true")) == {old, new, theirs}
    assert ids(ADMIN, "?all_projects=false") == []


def test_the_operations_of_a_server(cloud: Cloud) -> None:
    server = cloud.server()
    manager = cloud.managers["compute1"]
    mine = manager.add(operation_id.new("compute1"), project_id=MINE, server_id=server.uuid)
    manager.add(operation_id.new("compute1"), project_id=MINE)
    answer = cloud.request(MEMBER, "GET", f"{PATH}?server_id={server.uuid}")
    assert [found["id"] for found in answer.json["operations"]] == [mine]
    assert cloud.request(OTHER, "GET", f"{PATH}?server_id={server.uuid}").status_int == 404
    for query in ("server_id=x", "all_projects=maybe", "x=1", "server_id="):
        assert cloud.request(MEMBER, "GET", f"{PATH}?{query}").status_int == 400, query


def building(cloud: Cloud, **facts: object) -> object:
    metadata = {"overlay_url": "glance:x"}
    return cloud.server(**{"vm_state": "building", "launched_at": None, "metadata": metadata, "host": None, **facts})


def test_a_synthesis_that_waits_for_a_host(cloud: Cloud) -> None:
    server = building(cloud)
    shown = cloud.request(MEMBER, "GET", f"{PATH}/{server.uuid}").json["operation"]
    assert (shown["type"], shown["state"], shown["server_id"]) == ("synthesis", "queued", server.uuid)
    listed = cloud.request(MEMBER, "GET", f"{PATH}?server_id={server.uuid}").json["operations"]
    assert listed == [shown]
    # It has a host now, which has not begun.
    begun = building(cloud, host="compute1")
    assert cloud.request(MEMBER, "GET", f"{PATH}/{begun.uuid}").json["operation"]["state"] == "queued"
    cloud.managers["compute1"].add(begun.uuid, project_id=MINE, server_id=begun.uuid)
    assert cloud.request(MEMBER, "GET", f"{PATH}/{begun.uuid}").json["operation"]["state"] == "running"
    assert len(cloud.request(MEMBER, "GET", f"{PATH}?server_id={begun.uuid}").json["operations"]) == 1
    cancel = cloud.request(MEMBER, "DELETE", f"{PATH}/{server.uuid}")
    assert cancel.status_int == 409
    assert "Delete the server" in cancel.json["conflictingRequest"]["message"]


def test_a_synthesis_that_never_reached_a_host(cloud: Cloud) -> None:
    server = building(cloud, vm_state="error")
    with nova_context.target_cell(cloud.context, cloud.cell_of(None)) as context:
        objects.InstanceFault(
            context, instance_uuid=server.uuid, code=500, message="No valid host was found.", host=None, details=""
        ).create()
    shown = cloud.request(MEMBER, "GET", f"{PATH}/{server.uuid}").json["operation"]
    assert (shown["state"], shown["error"]) == ("failed", "No valid host was found.")
    resume = building(cloud, metadata={}, system_metadata={"image_cloudlet_type": "base"})
    assert cloud.request(MEMBER, "GET", f"{PATH}/{resume.uuid}").json["operation"]["type"] == "base-resume"


def test_servers_that_have_no_operation(cloud: Cloud) -> None:
    for server in (cloud.server(), building(cloud, metadata={}), cloud.server(metadata={"overlay_url": "glance:x"})):
        assert cloud.request(MEMBER, "GET", f"{PATH}/{server.uuid}").status_int == 404
        listed = cloud.request(MEMBER, "GET", f"{PATH}?server_id={server.uuid}")
        assert (listed.status_int, listed.json) == (200, {"operations": []})


def test_cancel(cloud: Cloud) -> None:
    manager = cloud.managers["compute2"]
    identifier = manager.add(operation_id.new("compute2"), project_id=MINE)
    answer = cloud.request(MEMBER, "DELETE", f"{PATH}/{identifier}")
    assert (answer.status_int, answer.body) == (202, b"")
    assert manager.operations[identifier]["state"] == "cancelled"
    again = cloud.request(MEMBER, "DELETE", f"{PATH}/{identifier}")
    assert again.status_int == 409
    assert "cancelled" in again.json["conflictingRequest"]["message"]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_what_has_ended_cannot_be_cancelled(cloud: Cloud, state: str) -> None:
    identifier = cloud.managers["compute1"].add(operation_id.new("compute1"), project_id=MINE, state=state)
    assert cloud.request(MEMBER, "DELETE", f"{PATH}/{identifier}").status_int == 409
    assert cloud.request(OTHER, "DELETE", f"{PATH}/{identifier}").status_int == 404


def test_an_answer_that_does_not_fit_its_schema(cloud: Cloud) -> None:
    identifier = cloud.managers["compute1"].add(operation_id.new("compute1"), project_id=MINE, state="dreaming")
    assert cloud.request(MEMBER, "GET", f"{PATH}/{identifier}").status_int == 500


def test_a_silent_host_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(hosts.time, "monotonic", lambda: now[0])
    silence = hosts.Silence(lasts_s=60)
    assert not silence.holds("compute1")
    silence.note("compute1")
    assert silence.holds("compute1")
    assert not silence.holds("compute2")
    now[0] += 60
    assert not silence.holds("compute1")
