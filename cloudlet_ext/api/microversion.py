# SPDX-License-Identifier: Apache-2.0
"""Versions of the API: what there is, and which one a request asks for."""

from __future__ import annotations

from collections.abc import Mapping

import microversion_parse

from cloudlet_ext.api import errors

SERVICE = "cloudlet"
HEADER = "OpenStack-API-Version"

VERSIONS = [
    "1.0",  # bases, overlays, operations, synthesis
]
"""All versions, oldest first; each with what it brought."""

MIN_VERSION = VERSIONS[0]
MAX_VERSION = VERSIONS[-1]


def requested(headers: Mapping[str, str]) -> str:
    """The version that a request asks for; the oldest one when it does not say.

    :class:`errors.VersionMalformed`, :class:`errors.VersionUnknown`.
    """
    found = microversion_parse.get_version(headers, service_type=SERVICE)
    if found is None:
        return MIN_VERSION
    if found == "latest":
        return MAX_VERSION
    try:
        version = str(microversion_parse.parse_version_string(found))
    except (TypeError, ValueError):
        raise errors.VersionMalformed(found=found) from None
    if version not in VERSIONS:
        raise errors.VersionUnknown(found=version, least=MIN_VERSION, most=MAX_VERSION)
    return version


def header(version: str) -> str:
    """The value of the answer's header."""
    return f"{SERVICE} {version}"
