# SPDX-License-Identifier: Apache-2.0
"""``connection.cloudlet``, from Python."""

from __future__ import annotations

from pathlib import Path

import openstack
import pytest
from openstack import exceptions
from openstack.connection import Connection

from cloudlet_ext.sdk import CloudletService
from cloudlet_ext.sdk.errors import Missing, OperationLost
from cloudlet_ext.sdk.waiting import wait_for_operation
from tests.osc.cloud import Cloud
from tests.osc.service import Answer


def test_bases(cloud: Cloud, connection: Connection) -> None:
    base = cloud.add_base("ubuntu")
    (found,) = connection.cloudlet.bases()
    assert (found.id, found.name, found.memory_mb) == (base, "ubuntu", 256)
    assert connection.cloudlet.find_base("ubuntu") == connection.cloudlet.get_base(base)
    with pytest.raises(Missing):
        connection.cloudlet.find_base("nobody")


def test_it_is_where_the_compute_service_is(cloud: Cloud, connection: Connection) -> None:
    assert connection.cloudlet.get_endpoint().rstrip("/") == f"{cloud.url}/compute/v2.1"


@pytest.mark.usefixtures("access")
def test_a_vendor_hook_attaches_it(cloud: Cloud) -> None:
    hooked = openstack.connect(cloud="envvars", vendor_hook="cloudlet_ext.sdk.service:attach")
    assert list(hooked.cloudlet.overlays()) == []


@pytest.mark.usefixtures("access")
def test_an_extra_service_attaches_it(cloud: Cloud) -> None:
    region = openstack.config.get_cloud_region(cloud="envvars")
    assert list(Connection(config=region, extra_services=[CloudletService()]).cloudlet.operations()) == []


def test_clouds_yaml_attaches_it(
    cloud: Cloud, access: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    auth = "\n".join(
        f"      {name.removeprefix('OS_').lower()}: {access[name]}"
        for name in ("OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_USER_DOMAIN_ID",
                     "OS_PROJECT_DOMAIN_ID")
    )  # fmt: skip
    path = tmp_path / "clouds.yaml"
    path.write_text(
        f"clouds:\n  edge:\n    vendor_hook: cloudlet_ext.sdk.service:attach\n    region_name: RegionOne\n"
        f"    auth:\n{auth}\n"
    )
    for name in access:
        if name.startswith("OS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    cloud.add_base("ubuntu")
    assert [base.name for base in openstack.connect(cloud="edge").cloudlet.bases()] == ["ubuntu"]


def test_an_override_of_the_compute_endpoint_is_obeyed(
    cloud: Cloud, access: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_COMPUTE_ENDPOINT_OVERRIDE", f"{cloud.url}/other/v2.1")
    link = {"rel": "self", "href": f"{cloud.url}/other/v2.1/"}
    version = {"id": "v2.1", "status": "CURRENT", "version": "2.103", "min_version": "2.1", "links": [link]}
    cloud.add("GET", "/other/v2.1/?", lambda request: Answer(200, {"version": version}))
    cloud.add("GET", "/other/v2.1/os-cloudlet/bases", lambda request: Answer(200, {"bases": []}))
    connection = openstack.connect(cloud="envvars", vendor_hook="cloudlet_ext.sdk.service:attach")
    assert list(connection.cloudlet.bases()) == []


def test_an_operation_that_no_host_knows_is_given_up(
    cloud: Cloud, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudlet_ext.sdk.waiting._BEGIN_S", 0.1)
    unknown = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(OperationLost, match="no compute host knows it"):
        wait_for_operation(connection.cloudlet, unknown, lambda operation: None)


def test_an_absence_of_the_api_has_an_end(
    cloud: Cloud, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudlet_ext.sdk.waiting._SILENCE_S", 0.1)
    cloud.refuse("GET", ".*/operations/.*", 503, "away")
    with pytest.raises(OperationLost, match="away"):
        wait_for_operation(connection.cloudlet, "any", lambda operation: None)
    cloud.refuse("GET", ".*/operations/.*", 403, "not yours")
    with pytest.raises(exceptions.ForbiddenException):
        wait_for_operation(connection.cloudlet, "any", lambda operation: None)
