# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet base``."""

from __future__ import annotations

import os
import signal

import pytest

from tests.osc.cloud import BASE_ID, DISK, MEMORY, Cloud
from tests.osc.conftest import Command, Terminal

API = "/compute/v2.1/os-cloudlet"


def test_list_has_what_the_cloud_has(cloud: Cloud, run: Command) -> None:
    first, second = cloud.add_base("ubuntu"), cloud.add_base("debian", base_id="0" * 64)
    assert run("cloudlet base list -f json").json == [
        {"ID": first, "Name": "ubuntu", "Status": "active", "RAM": 256, "VCPUs": 1, "Min Disk": 2,
         "Visibility": "private"},
        {"ID": second, "Name": "debian", "Status": "active", "RAM": 256, "VCPUs": 1, "Min Disk": 2,
         "Visibility": "private"},
    ]  # fmt: skip
    assert run("cloudlet base list --name debian -f value -c ID").out.split() == [second]
    assert run("cloudlet base list --limit 1 -f value -c Name").out.split() == ["ubuntu"]
    assert run("cloudlet base list -f value -c Name --marker", first).out.split() == ["debian"]


def test_long_lists_are_read_to_their_end(cloud: Cloud, run: Command) -> None:
    cloud.max_limit = 2
    for number in range(5):
        cloud.add_base(f"base-{number}")
    assert run("cloudlet base list -f value -c Name").out.split() == [f"base-{number}" for number in range(5)]
    assert run("cloudlet base list -f value -c Name --limit 2").out.split() == ["base-0", "base-1"]


def test_sizes_are_numbers_for_machines_and_words_for_people(cloud: Cloud, run: Command) -> None:
    cloud.add_base("ubuntu")
    assert run("cloudlet base show ubuntu -f json").json["disk_bytes"] == len(DISK)
    assert run("cloudlet base show ubuntu -f value -c memory_bytes").out.strip() == str(len(MEMORY))
    assert "3.6 MB" in run("cloudlet base list --long").out
    assert BASE_ID in run("cloudlet base list --long").out


def test_requests_name_both_versions(cloud: Cloud, run: Command) -> None:
    run("--os-compute-api-version 2.90 cloudlet base list")
    run("cloudlet base list")
    first, second = cloud.asked("GET", f"{API}/bases")
    assert first.headers["OpenStack-API-Version"] == "compute 2.90, cloudlet 1.0"
    assert second.headers["OpenStack-API-Version"] == "cloudlet 1.0"


def test_show_by_name_and_by_id(cloud: Cloud, run: Command) -> None:
    base = cloud.add_base("ubuntu")
    assert run("cloudlet base show ubuntu -f json").json == run("cloudlet base show -f json", base).json


def test_what_is_not_there_is_told(cloud: Cloud, run: Command) -> None:
    cloud.add_base("twin")
    twin = cloud.add_base("twin")
    missing = run("cloudlet base show nobody", fails=True)
    assert missing.err.startswith("There is no base with the name or id 'nobody' here.")
    assert "openstack cloudlet base list" in missing.err
    ambiguous = run("cloudlet base show twin", fails=True).err
    assert "2 bases have the name 'twin'" in ambiguous
    assert twin in ambiguous


def test_a_cloud_without_the_extension(cloud: Cloud, run: Command) -> None:
    cloud.routes = [route for route in cloud.routes if "os-cloudlet" not in route[1].pattern]
    cloud.add_server("dev")
    cloud.refuse("POST", ".*/action", 400, "There is no such action: cloudlet-base")
    for line in ("base list", "base show x", "operation list", "base create dev --name b"):
        assert "no cloudlet extension" in run(f"cloudlet {line}", fails=True).err


def test_create_tells_what_it_has_begun(cloud: Cloud, run: Command) -> None:
    server = cloud.add_server("build")
    told = run("cloudlet base create build --name ubuntu -f json").json
    (asked,) = cloud.asked("POST", f"/compute/v2.1/servers/{server}/action")
    assert asked.json == {"cloudlet-base": {"name": "ubuntu"}}
    assert cloud.images[told["id"]]["cloudlet_memory_image"] == told["memory_image_id"]
    assert cloud.operations[told["operation"]]["type"] == "base-create"


def test_create_waits_and_shows_how_far_it_is(cloud: Cloud, run: Command) -> None:
    cloud.add_server("build")
    result = run("cloudlet base create build --name ubuntu --wait -f json")
    assert result.json["status"] == "active"
    assert result.json["base_id"] == BASE_ID
    assert result.err.splitlines() == [
        "queued",
        "capture",
        "store",
    ]


def test_long_stages_are_told_of_again(cloud: Cloud, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudlet_ext.osc.progress._LINE_EVERY_S", 0.0)
    cloud.add_server("build")
    lines = run("cloudlet base create build --name ubuntu --wait").err.splitlines()
    assert "capture  60%  60.0 MB of 100 MB, 80.0 MB/s, 0.5 s left" in lines


def test_progress_on_a_terminal_is_a_bar(cloud: Cloud, run: Command) -> None:
    cloud.add_server("build")
    result = run("cloudlet base create build --name ubuntu --wait", err=Terminal())
    assert "━" in result.err
    assert "40%  40.0 MB of 100 MB" in result.err
    assert "80.0 MB/s, 0.5 s left" in result.err
    assert result.err.endswith("\r\x1b[K"), "the bar is taken away"


def test_quiet_is_silent(cloud: Cloud, run: Command) -> None:
    cloud.add_server("build")
    assert run("--quiet cloudlet base create build --name ubuntu --wait").err == ""


def test_create_that_fails_ends_with_its_reason(cloud: Cloud, run: Command) -> None:
    cloud.add_server("build")
    cloud.failure = "No space left on the device of /var/lib/nova"
    result = run("cloudlet base create build --name ubuntu --wait", fails=True)
    assert "(base-create) failed: No space left on the device of /var/lib/nova" in result.err
    assert result.out == ""


def test_create_of_a_server_that_is_not_there(run: Command) -> None:
    assert run("cloudlet base create nobody --name x", fails=True).err.strip() == "No Server found for nobody"


def test_refusals_are_in_the_services_own_words(cloud: Cloud, run: Command) -> None:
    cloud.add_server("build")
    words = "Server build is busy: expected task state None, it is rebooting."
    cloud.refuse("POST", ".*/action", 409, words)
    assert run("cloudlet base create build --name x", fails=True).err.strip() == f"{words} (HTTP 409)"
    cloud.refuse("POST", ".*/action", 403, "403 Forbidden: Policy doesn't allow it to be performed.")
    err = run("cloudlet base create build --name x", fails=True).err
    assert err.startswith("Policy doesn't allow it to be performed. Another role or project is needed. (HTTP 403)")


def test_an_interruption_ends_the_wait_alone(cloud: Cloud, run: Command) -> None:
    cloud.add_server("build")
    looks = 0

    def interrupt(request: object) -> None:
        nonlocal looks
        if "/operations/" in request.path:  # type: ignore[attr-defined]
            looks += 1
            if looks == 2:
                os.kill(os.getpid(), signal.SIGINT)

    cloud.watch = interrupt
    result = run("cloudlet base create build --name ubuntu --wait", fails=True)
    assert result.code == 130
    (operation,) = cloud.operations
    assert "only the wait has ended" in result.err
    assert f"openstack cloudlet operation cancel {operation}" in result.err
    assert not cloud.asked("DELETE", ".*")


def test_set_changes_both_images(cloud: Cloud, run: Command) -> None:
    base = cloud.add_base("ubuntu")
    memory = cloud.images[base]["cloudlet_memory_image"]
    run("cloudlet base set ubuntu --public --name jammy")
    assert (cloud.images[base]["name"], cloud.images[memory]["name"]) == ("jammy", "jammy memory")
    assert cloud.images[base]["visibility"] == cloud.images[memory]["visibility"] == "public"


def test_set_changes_both_images_or_none(cloud: Cloud, run: Command) -> None:
    base = cloud.add_base("ubuntu")
    memory = cloud.images[base]["cloudlet_memory_image"]
    cloud.refuse("PATCH", f"/image/v2/images/{memory}", 403, "You are not allowed to publicize.")
    assert "publicize" in run("cloudlet base set ubuntu --public", fails=True).err
    assert cloud.images[base]["visibility"] == cloud.images[memory]["visibility"] == "private"


def test_set_wants_a_change(cloud: Cloud, run: Command) -> None:
    assert "expected --name, --public or --private" in run("cloudlet base set ubuntu", fails=True).err


def test_delete_of_several_does_what_it_can(cloud: Cloud, run: Command) -> None:
    cloud.add_base("one")
    cloud.add_base("two")
    result = run("cloudlet base delete one nobody two", fails=True)
    assert "1 of 3 could not be deleted" in result.err
    assert "'nobody'" in result.err
    assert not cloud.images


def test_precache(cloud: Cloud, run: Command) -> None:
    base = cloud.add_base("ubuntu")
    assert len(run("cloudlet base precache ubuntu --all -f value").out.split()) == 2
    assert len(run("cloudlet base precache ubuntu --host edge-3 -f value").out.split()) == 1
    asked = cloud.asked("POST", f"{API}/bases/{base}/precache")
    assert [each.json for each in asked] == [{"precache": {"all": True}}, {"precache": {"host": "edge-3"}}]
    run("cloudlet base precache ubuntu", fails=True)
    run("cloudlet base precache ubuntu --all --host x", fails=True)
