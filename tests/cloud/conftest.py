# SPDX-License-Identifier: Apache-2.0
"""Integration tests: on a running minicloud, with the Python of its environment (see minicloud/README.rst)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openstack.compute.v2.server import Server

from tests.cloud.cloud import HOW_TO_START, MINICLOUD, WORK, Cloud, wait_until

SETTLE_S = 20.0
"""Nova forgets a deleted server's port and allocation a little later than the server."""


@pytest.fixture(scope="session")
def cloud() -> Cloud:
    """Cloud ``one``, or that of ``MINICLOUD_TEST_CLOUD``; all services of all clouds run."""
    if not (WORK / "clouds.yaml").exists():
        pytest.fail(f"there is no minicloud in {WORK}: {HOW_TO_START}", pytrace=False)
    done = subprocess.run([MINICLOUD, "status"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"the minicloud is not up: {HOW_TO_START}\n{done.stdout}{done.stderr}", pytrace=False)
    return Cloud(os.environ.get("MINICLOUD_TEST_CLOUD", "one"))


@pytest.fixture(autouse=True)
def _nothing_is_left(cloud: Cloud) -> Iterator[None]:
    """After each test there are no more domains, ports, images, allocations and files than before it."""
    before = cloud.inventory()
    yield
    left: dict[str, set[str]] = {}

    def nothing_left() -> bool:
        now = cloud.inventory()
        left.clear()
        left.update({kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]})
        return not left

    try:
        wait_until("nothing is left", nothing_left, SETTLE_S)
    except TimeoutError:
        pytest.fail(f"left behind: {left}", pytrace=False)


Boot = Callable[..., tuple[Server, str]]


@pytest.fixture
def boot(cloud: Cloud, _nothing_is_left: None) -> Iterator[Boot]:
    """``boot(name, account="member", **create)``: a server whose app answers, and its address.

    What is left of these servers is deleted at the end of the test, those that failed to start too.
    """
    names: list[str] = []

    def start(name: str, account: str = "member", **words: Any) -> tuple[Server, str]:
        names.append(name)
        return cloud.boot(name, account, **words)

    yield start
    for server in list(cloud.admin.compute.servers(all_projects=True)):
        if server.name in names:
            cloud.delete(server)
