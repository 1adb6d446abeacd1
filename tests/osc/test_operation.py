# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet operation``."""

from __future__ import annotations

from tests.osc.cloud import Cloud
from tests.osc.conftest import Command


def begun(cloud: Cloud, kind: str = "base-create", server_id: str | None = None) -> str:
    """An operation under way."""
    return cloud.begin(kind, server_id, {"overlay": "0" * 8 + "-0000-4000-8000-" + "0" * 12}, lambda succeeded: None)


def test_list(cloud: Cloud, run: Command) -> None:
    server = cloud.add_server("dev")
    first, second = begun(cloud), begun(cloud, "overlay-create", server)
    cloud.look(second)
    cloud.look(second)
    listed = run("cloudlet operation list -f json").json
    assert [each["ID"] for each in listed] == [second, first], "the latest first"
    assert listed[0]["Done"] == 0.4
    assert listed[1]["Done"] is None
    assert "40%" in run("cloudlet operation list").out
    assert run("cloudlet operation list --server dev -f value -c ID").out.split() == [second]


def test_list_of_all_projects(cloud: Cloud, run: Command) -> None:
    run("cloudlet operation list --all-projects")
    (asked,) = cloud.asked("GET", ".*/operations")
    assert asked.query == {"all_projects": "true"}


def test_show_by_id_or_by_server(cloud: Cloud, run: Command) -> None:
    server = cloud.add_server("dev")
    begun(cloud, server_id=server)
    latest = begun(cloud, server_id=server)
    for _ in range(4):
        cloud.look(latest)
    for given in (latest, "dev", server):
        assert run(f"cloudlet operation show {given} -f value -c id").out.strip() == latest
    shown = run("cloudlet operation show dev -f json").json
    assert shown["rate_bytes_per_s"] == 80e6
    assert shown["stages"] == [{"name": "capture", "started_at": "2026-11-22T08:00:00Z"}]
    assert "capture (2026-11-22T08:00:00Z)" in run("cloudlet operation show dev").out


def test_show_of_what_is_not_there(cloud: Cloud, run: Command) -> None:
    cloud.add_server("idle")
    for given in ("nobody", "idle", "00000000-0000-4000-8000-000000000000"):
        assert f"no operation with the name or id '{given}'" in run(f"cloudlet operation show {given}", fails=True).err


def test_cancel(cloud: Cloud, run: Command) -> None:
    operation = begun(cloud)
    assert "is being cancelled" in run("cloudlet operation cancel", operation).err
    assert cloud.operations[operation]["state"] == "cancelled"
    assert "has ended: cancelled. (HTTP 409)" in run("cloudlet operation cancel", operation, fails=True).err


def test_waiting_for_what_is_cancelled_elsewhere(cloud: Cloud, run: Command) -> None:
    cloud.add_server("dev")

    def cancel(request: object) -> None:
        for operation in cloud.operations.values():
            operation |= {"state": "cancelled", "error": "cancelled by admin"}

    cloud.watch = cancel
    assert "was cancelled: cancelled by admin" in run("cloudlet base create dev --name x --wait", fails=True).err
