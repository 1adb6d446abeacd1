# SPDX-License-Identifier: Apache-2.0
"""Requests and answers against their schemas."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.api import errors, schemas, validation
from cloudlet_ext.api.schemas import bases, operations, server_actions
from cloudlet_ext.api.schemas import parameters as p

ID = "6f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55"


def all_schemas() -> list[tuple[str, Any]]:
    found = []
    for module in pkgutil.iter_modules(schemas.__path__):
        names = vars(importlib.import_module(f"{schemas.__name__}.{module.name}"))
        found += [(f"{module.name}.{name}", value) for name, value in names.items() if isinstance(value, dict)]
    return [(name, value) for name, value in found if name.rpartition(".")[2].isupper()]


@pytest.mark.parametrize(("name", "schema"), all_schemas())
def test_schemas_are_schemas(name: str, schema: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


def objects(schema: Any) -> list[Any]:
    found = [schema] if "properties" in schema else []
    for part in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        found += objects(part)
    return found


@pytest.mark.parametrize(("name", "schema"), all_schemas())
def test_unknown_fields_are_refused_everywhere(name: str, schema: Any) -> None:
    for part in objects(schema):
        assert part["additionalProperties"] is False, name


def refuse(document: Any, schema: Any, match: str | None = None) -> None:
    with pytest.raises(errors.SchemaRefused, match=match) as refused:
        validation.check(document, schema, "body")
    assert refused.value.status == 400


def test_the_bodies_of_old() -> None:
    validation.check({"cloudlet-base": {"name": "ubuntu"}}, server_actions.BASE, "body")
    validation.check({"cloudlet-overlay-finish": {"overlay-name": "face"}}, server_actions.OVERLAY_FINISH, "body")


def test_base_bodies() -> None:
    refuse({"cloudlet-base": {"name": "ubuntu", "colour": "red"}}, server_actions.BASE, "colour")
    refuse({"cloudlet-base": {"name": "ubuntu"}, "x": 1}, server_actions.BASE, "'x'")
    refuse({"cloudlet-base": {}}, server_actions.BASE, "name")
    refuse({"cloudlet-base": None}, server_actions.BASE)
    refuse([], server_actions.BASE)
    for name in ("", " a", "a ", "a\nb", "a" * 249, 7, None):
        refuse({"cloudlet-base": {"name": name}}, server_actions.BASE, "name")
    validation.check({"cloudlet-base": {"name": "a" * 248}}, server_actions.BASE, "body")


@pytest.mark.parametrize("probe", [None, "tcp:80", "http://:8080", "http://:80/a?b=c", "console:ready now"])
def test_probes(probe: str | None) -> None:
    body = {"cloudlet-overlay-finish": {"overlay-name": "face", "on-finish": "stop", "record": probe}}
    validation.check(body, server_actions.OVERLAY_FINISH, "body")


@pytest.mark.parametrize(
    "probe",
    [
        "command:rm -rf /",
        "tcp:0",
        "tcp:65536",
        "tcp:80\n",
        "http://169.254.169.254:80/",
        "http://a@:80/",
        "console:",
        "80",
    ],
)
def test_probes_that_are_refused(probe: str) -> None:
    body = {"cloudlet-overlay-finish": {"overlay-name": "face", "record": probe}}
    refuse(body, server_actions.OVERLAY_FINISH, "tcp:PORT")


def test_on_finish() -> None:
    body = {"cloudlet-overlay-finish": {"overlay-name": "face", "on-finish": "explode"}}
    refuse(body, server_actions.OVERLAY_FINISH, "explode")


def test_precache() -> None:
    validation.check({"precache": {"host": "h"}}, bases.PRECACHE, "body")
    validation.check({"precache": {"all": True}}, bases.PRECACHE, "body")
    for wrong in ({}, {"all": False}, {"host": ""}, {"host": "h", "all": True}, {"hosts": []}):
        refuse({"precache": wrong}, bases.PRECACHE)


def test_queries() -> None:
    assert validation.query({"limit": ["5"], "name": ["n"]}, p.IMAGE_LIST_QUERY) == {"limit": "5", "name": "n"}
    for wrong in ({"limit": ["-1"]}, {"limit": ["x"]}, {"marker": ["x"]}, {"colour": ["red"]}, {"limit": ["1", "2"]}):
        with pytest.raises(errors.SchemaRefused):
            validation.query(wrong, p.IMAGE_LIST_QUERY)
    with pytest.raises(errors.SchemaRefused, match="server_id"):
        validation.query({"server_id": ["7"]}, operations.INDEX_QUERY)
    assert validation.query({"server_id": [ID]}, operations.INDEX_QUERY) == {"server_id": ID}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["precache", "host", "all", "cloudlet-base", "name", "overlay-name"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_accepted_or_refused(document: Any) -> None:
    for schema in (bases.PRECACHE, server_actions.BASE, server_actions.OVERLAY_FINISH):
        try:
            validation.check(document, schema, "body")
        except errors.SchemaRefused:
            continue
        assert isinstance(document, dict)
