# SPDX-License-Identifier: Apache-2.0
"""The HTTP contracts in gabbits/: each file is a sequence of requests to the cloud."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import pytest
from gabbi import driver

from cloudlet_ext import operation_id
from tests.nova import cloud as cloud_module
from tests.nova.cloud import MINE, Cloud
from tests.nova.conftest import BASE_ID, Images, make_base, make_overlay

_running: list[Cloud] = []


def _app() -> Any:
    """The application; it is asked for before the cloud is up."""

    def application(environ: Any, start_response: Any) -> Any:
        return _running[-1].app(environ, start_response)

    return application


def _requests() -> list[Any]:
    """All requests of all files, each file's in its order."""
    folder = str(Path(__file__).parent / "gabbits")
    files = driver.build_tests(folder, unittest.TestLoader(), intercept=_app, prefix="/v2.1", test_loader_name="gabbi")
    return [pytest.param(request, id=type(request).__name__) for file in files for request in file]


@pytest.fixture(autouse=True, scope="module")
def _environment(cloud: Cloud, images: Images) -> Any:
    """What the files refer to as $ENVIRON."""
    of_base = {"image_cloudlet_type": "base", "image_cloudlet_base_id": BASE_ID}
    values = {
        "PROJECT": MINE,
        "BASE_ID": BASE_ID,
        "BASE": images.base,
        "MEMORY": images.memory,
        "PUBLIC_BASE": images.public_base,
        "OVERLAY": images.overlay,
        "FOREIGN_OVERLAY": images.foreign_overlay,
        "PLAIN": images.plain,
        "SERVER": cloud.server(system_metadata=of_base).uuid,
        "OTHER_SERVER": cloud.server(system_metadata=of_base).uuid,
        "PLAIN_SERVER": cloud.server().uuid,
        "DOOMED_BASE": make_base(cloud, cloud_module.MEMBER, "doomed")[0],
        "DOOMED_OVERLAY": make_overlay(cloud, cloud_module.MEMBER, "doomed"),
        "NOTHING": "00000000-0000-4000-8000-000000000000",
        **{name: getattr(cloud_module, name) for name in ("MEMBER", "READER", "MANAGER", "ADMIN", "OTHER")},
    }
    _running.append(cloud)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in values.items():
            environment.setenv(name, value)
        yield
    _running.clear()


@pytest.fixture(autouse=True)
def _operation(cloud: Cloud) -> None:
    """A running operation that is there for every request, whatever the one before did to it."""
    identifier = f"{operation_id.new('compute1')[:8]}-0000-4000-8000-000000000000"
    cloud.managers["compute1"].add(identifier, project_id=MINE)


@pytest.mark.parametrize("request_of_file", _requests())
def test_contract(request_of_file: unittest.TestCase) -> None:
    result = unittest.TestResult()
    request_of_file(result)
    assert result.testsRun == 1
    assert not result.skipped
    assert result.wasSuccessful(), "\n".join(text for _, text in [*result.failures, *result.errors])
