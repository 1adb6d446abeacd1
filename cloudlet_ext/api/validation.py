# SPDX-License-Identifier: Apache-2.0
"""Validation: JSON documents against the schemas of this package."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jsonschema

from cloudlet_ext.api import errors

Schema = Mapping[str, Any]

_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("uuid", raises=ValueError)  # type: ignore[untyped-decorator]  # jsonschema has no types
def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or str(uuid.UUID(value)) == value.lower()


@_FORMATS.checks("date-time", raises=ValueError)  # type: ignore[untyped-decorator]
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.fromisoformat(value))


@_FORMATS.checks("name")  # type: ignore[untyped-decorator]
def _is_name(value: object) -> bool:
    return not isinstance(value, str) or (value.isprintable() and value == value.strip())


@_FORMATS.checks("probe")  # type: ignore[untyped-decorator]
def _is_probe(value: object) -> bool:
    """What a guest may be asked to record its working set; never a command, which would run on the compute host."""
    if not isinstance(value, str):
        return True
    if not value.isprintable():
        return False
    kind = re.fullmatch(r"(?:tcp:(?P<tcp>\d{1,5})|http://:(?P<http>\d{1,5})(?:/\S*)?|console:.+)", value, re.ASCII)
    port = kind and (kind["tcp"] or kind["http"])
    return kind is not None and (port is None or 0 < int(port) < 65536)


_EXPECTED = {
    "uuid": "a UUID is expected",
    "date-time": "an ISO 8601 time is expected",
    "name": "a text without control characters and without spaces at its ends is expected",
    "probe": "tcp:PORT, http://:PORT/PATH or console:TEXT is expected (ports are the guest's)",
}


def check(document: object, schema: Schema, what: str) -> None:
    """:class:`errors.SchemaRefused` with the place and what was expected there."""
    checker = jsonschema.Draft202012Validator(schema, format_checker=_FORMATS)
    failure = jsonschema.exceptions.best_match(checker.iter_errors(document))
    if failure is None:
        return
    place = "/".join(str(part) for part in failure.absolute_path)
    reason = failure.message
    if failure.validator == "format":
        reason = f"{failure.instance!r}: {_EXPECTED[failure.validator_value]}"
    raise errors.SchemaRefused(what=f"{what} ({place})" if place else what, reason=reason)


def query(parameters: Mapping[str, list[str]], schema: Schema) -> dict[str, str]:
    """A query string's parameters, each at most once; :class:`errors.SchemaRefused`."""
    twice = [name for name, values in parameters.items() if len(values) > 1]
    if twice:
        raise errors.SchemaRefused(what="query parameters", reason=f"{twice[0]!r} is given more than once")
    single = {name: values[0] for name, values in parameters.items()}
    check(single, schema, "query parameters")
    return single
