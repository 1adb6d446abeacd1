# SPDX-License-Identifier: Apache-2.0
"""The version header."""

from __future__ import annotations

import pytest

from cloudlet_ext.api import errors, microversion


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (None, "1.0"),
        ("compute 2.100", "1.0"),
        ("cloudlet 1.0", "1.0"),
        ("cloudlet latest", "1.0"),
        ("compute 2.100, cloudlet 1.0", "1.0"),
        ("compute 2.100,cloudlet latest", "1.0"),
    ],
)
def test_what_is_asked_for(value: str | None, version: str) -> None:
    headers = {} if value is None else {microversion.HEADER: value}
    assert microversion.requested(headers) == version


@pytest.mark.parametrize("value", ["1.1", "0.9", "2.0"])
def test_versions_that_are_not_there(value: str) -> None:
    with pytest.raises(errors.VersionUnknown):
        microversion.requested({microversion.HEADER: f"cloudlet {value}"})


def test_an_unknown_version_names_both() -> None:
    with pytest.raises(errors.VersionUnknown, match=r"1\.7 .* 1\.0 .* 1\.0") as refused:
        microversion.requested({microversion.HEADER: "cloudlet 1.7"})
    assert refused.value.status == 406


@pytest.mark.parametrize("value", ["x", "1", "one.two", "1.0.0"])
def test_malformed_versions(value: str) -> None:
    with pytest.raises(errors.VersionMalformed) as refused:
        microversion.requested({microversion.HEADER: f"cloudlet {value}"})
    assert refused.value.status == 400
