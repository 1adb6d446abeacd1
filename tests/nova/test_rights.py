# SPDX-License-Identifier: Apache-2.0
"""Every row of the table, tried by everybody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudlet_ext import operation_id
from cloudlet_ext.api import routes
from tests.nova.cloud import ADMIN, MANAGER, MEMBER, MINE, NOBODY, OTHER, READER, ROOTS, Cloud
from tests.nova.conftest import Images, make_base, make_overlay

WHO = {
    "admin": ADMIN,
    "manager": MANAGER,
    "member": MEMBER,
    "reader": READER,
    "norole": NOBODY,
    "other": OTHER,
    "nobody": None,
}

# Row -> status for each of WHO, in this order. What is another project's is not there (404), or not in the list; to
# somebody without any role Glance shows nothing either.
ROWS: dict[str, tuple[int, ...]] = {
    "GET /os-cloudlet": (200, 200, 200, 200, 200, 200, 401),
    "GET /os-cloudlet/bases": (200, 200, 200, 200, 403, 200, 401),
    "GET /os-cloudlet/bases/{base_id}": (200, 200, 200, 200, 404, 404, 401),
    "DELETE /os-cloudlet/bases/{base_id}": (204, 204, 204, 403, 404, 404, 401),
    "POST /os-cloudlet/bases/{base_id}/precache": (202, 403, 403, 403, 404, 404, 401),
    "POST /os-cloudlet/bases/{base_id}/precache (all)": (202, 202, 403, 403, 404, 404, 401),
    "GET /os-cloudlet/overlays": (200, 200, 200, 200, 403, 200, 401),
    "GET /os-cloudlet/overlays/{overlay_id}": (200, 200, 200, 200, 404, 404, 401),
    "DELETE /os-cloudlet/overlays/{overlay_id}": (204, 204, 204, 403, 404, 404, 401),
    "GET /os-cloudlet/operations": (200, 200, 200, 200, 403, 200, 401),
    "GET /os-cloudlet/operations?all_projects=true": (200, 403, 403, 403, 403, 403, 401),
    "GET /os-cloudlet/operations?server_id={server_id}": (200, 200, 200, 200, 403, 404, 401),
    "GET /os-cloudlet/operations/{operation_id}": (200, 200, 200, 200, 403, 404, 401),
    "DELETE /os-cloudlet/operations/{operation_id}": (202, 202, 202, 403, 403, 404, 401),
    "POST /servers/{server_id}/action (cloudlet-base)": (202, 202, 202, 403, 403, 404, 401),
    "POST /servers/{server_id}/action (cloudlet-overlay-finish)": (202, 202, 202, 403, 403, 404, 401),
    "POST /servers": (202, 202, 202, 403, 403, 404, 401),
    "GET /extensions": (200, 200, 200, 200, 200, 200, 401),
    "GET /extensions/os-cloudlet": (200, 200, 200, 200, 200, 200, 401),
}


def test_all_routes_are_tried() -> None:
    tried = {row.split(" (")[0].split("?")[0] for row in ROWS}
    known = {
        f"{method} {path}"
        for table in (routes.ROUTES, routes.SHARED_ROUTES)
        for path, methods in table.items()
        for method in methods
    }
    # The old name of POST /servers; its own test is elsewhere.
    assert tried == known - {"POST /os-volumes_boot"}


class Things:
    """What the rows are about, made anew for each try: all of one project."""

    def __init__(self, cloud: Cloud, images: Images) -> None:
        self.cloud, self.images = cloud, images

    def path(self, row: str) -> str:
        path = row.split(" ")[1]
        if "{base_id}" in path:
            path = path.format(base_id=make_base(self.cloud, MEMBER, "short-lived")[0])
        if "{overlay_id}" in path:
            path = path.format(overlay_id=make_overlay(self.cloud, MEMBER, "short-lived"))
        if "{operation_id}" in path:
            identifier = operation_id.new("compute1")
            self.cloud.managers["compute1"].add(identifier, project_id=MINE)
            path = path.format(operation_id=identifier)
        if "{server_id}" in path:
            of_base = {"image_cloudlet_type": "base", "image_cloudlet_base_id": "a" * 64}
            path = path.format(server_id=self.cloud.server(system_metadata=of_base).uuid)
        return path

    def body(self, row: str) -> Any:
        if row.endswith("(all)"):
            return {"precache": {"all": True}}
        if row.endswith("/precache"):
            return {"precache": {"host": "compute1"}}
        if row.endswith("(cloudlet-base)"):
            return {"cloudlet-base": {"name": "n"}}
        if row.endswith("(cloudlet-overlay-finish)"):
            return {"cloudlet-overlay-finish": {"overlay-name": "n"}}
        if row == "POST /servers":
            metadata = {"overlay_url": f"glance:{self.images.overlay}"}
            server = {"name": "s", "imageRef": self.images.base, "flavorRef": "1", "networks": "none"}
            return {"server": {**server, "metadata": metadata}}
        return None


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("row", ROWS)
def test_rights(cloud: Cloud, images: Images, row: str, who: str) -> None:
    things = Things(cloud, images)
    expected = ROWS[row][list(WHO).index(who)]
    answer = cloud.request(
        WHO[who], row.split(" ", maxsplit=1)[0], things.path(row), things.body(row), "compute 2.90, cloudlet 1.0"
    )
    assert answer.status_int == expected, answer.text
    if expected in (403, 404):
        (fault,) = answer.json.values()
        assert fault["code"] == expected
        assert set(fault) == {"code", "message"}
    if expected in (403, 404):
        assert answer.headers["OpenStack-API-Version"] == "cloudlet 1.0"
    if expected == 404:
        assert MINE not in answer.text


@pytest.mark.parametrize("noun", ["bases", "overlays", "operations"])
def test_lists_hold_only_what_is_ones_own(cloud: Cloud, images: Images, noun: str) -> None:
    cloud.managers["compute1"].add(operation_id.new("compute1"), project_id=MINE)
    seen = {who: cloud.request(WHO[who], "GET", f"/os-cloudlet/{noun}").json[noun] for who in ("member", "other")}
    assert {one["project_id"] for one in seen["member"]} <= {MINE, ROOTS}
    assert MINE in {one["project_id"] for one in seen["member"]}
    assert MINE not in json.dumps(seen["other"])


def test_what_is_public_is_read_by_all_and_deleted_by_its_owner(cloud: Cloud, images: Images) -> None:
    path = f"/os-cloudlet/bases/{images.public_base}"
    for who in (MEMBER, READER, OTHER):
        assert cloud.request(who, "GET", path).status_int == 200
        assert cloud.request(who, "DELETE", path).status_int == 403
    assert cloud.request(NOBODY, "GET", path).status_int == 404
