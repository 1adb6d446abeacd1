# SPDX-License-Identifier: Apache-2.0
"""Which requests are ours."""

from __future__ import annotations

import pytest

from cloudlet_ext.api import errors, routes

ID = "6f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55"
PROJECT = "6f1b1d9c8f3e4d0e9c461a9c2b7f1a55"

OURS = [
    ("GET", "/os-cloudlet", "root.show"),
    ("GET", "/os-cloudlet/bases", "bases.index"),
    ("GET", f"/os-cloudlet/bases/{ID}", "bases.show"),
    ("DELETE", f"/os-cloudlet/bases/{ID}", "bases.delete"),
    ("POST", f"/os-cloudlet/bases/{ID}/precache", "bases.precache"),
    ("GET", "/os-cloudlet/overlays", "overlays.index"),
    ("GET", f"/os-cloudlet/overlays/{ID}", "overlays.show"),
    ("DELETE", f"/os-cloudlet/overlays/{ID}", "overlays.delete"),
    ("GET", "/os-cloudlet/operations", "operations.index"),
    ("GET", f"/os-cloudlet/operations/{ID}", "operations.show"),
    ("DELETE", f"/os-cloudlet/operations/{ID}", "operations.cancel"),
]
SHARED = [
    ("POST", "/servers", "servers.create"),
    ("POST", "/os-volumes_boot", "servers.create"),
    ("POST", f"/servers/{ID}/action", "server_actions.act"),
    ("GET", "/extensions", "extensions.index"),
    ("GET", "/extensions/os-cloudlet", "extensions.show"),
]


@pytest.mark.parametrize("prefix", ["", f"/{PROJECT}"])
@pytest.mark.parametrize("suffix", ["", "/"])
@pytest.mark.parametrize(("method", "path", "handler"), OURS + SHARED)
def test_every_row(method: str, path: str, handler: str, prefix: str, suffix: str) -> None:
    route = routes.match(method, prefix + path + suffix)
    assert route is not None
    assert route.handler == handler
    assert route.project_id == (PROJECT if prefix else None)
    assert route.shared == ((method, path, handler) in SHARED)
    assert list(route.args.values()) == ([ID] if ID in path else [])


def test_all_rows_are_tried() -> None:
    tables = (routes.ROUTES, routes.SHARED_ROUTES)
    assert {row[2] for row in OURS + SHARED} == {name for t in tables for m in t.values() for name in m.values()}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/servers"),
        ("GET", "/servers/detail"),
        ("GET", f"/servers/{ID}"),
        ("PUT", f"/servers/{ID}"),
        ("DELETE", f"/servers/{ID}"),
        ("POST", f"/servers/{ID}/os-interface"),
        ("GET", f"/servers/{ID}/action"),
        ("POST", "/extensions"),
        ("GET", "/extensions/os-keypairs"),
        ("GET", "/flavors"),
        ("GET", "/os-cloudlets"),
        ("GET", "/not-a-project/os-cloudlet"),
        ("POST", f"/{PROJECT}/x/servers"),
    ],
)
def test_all_else_is_not(method: str, path: str) -> None:
    assert routes.match(method, path) is None


@pytest.mark.parametrize(
    "path", ["/os-cloudlet/x", f"/os-cloudlet/bases/{ID}/x", f"/{PROJECT}/os-cloudlet/bases/a/b/c"]
)
def test_nothing_there(path: str) -> None:
    with pytest.raises(errors.NoSuchUrl):
        routes.match("GET", path)


def test_methods_that_are_not_allowed() -> None:
    with pytest.raises(errors.MethodNotAllowed, match="DELETE, GET") as refused:
        routes.match("PUT", f"/os-cloudlet/bases/{ID}")
    assert refused.value.status == 405
