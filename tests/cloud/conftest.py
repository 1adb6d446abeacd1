# SPDX-License-Identifier: Apache-2.0
"""Integration tests: on a running minicloud, with the Python of its environment (see minicloud/README.rst)."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from openstack.compute.v2.server import Server

from tests.cloud.cloud import HOW_TO_START, MINICLOUD, WORK, Cloud, wait_until
from tests.cloud.images import Images, Site

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


@pytest.fixture(scope="session")
def site(cloud: Cloud) -> Iterator[Site]:
    """A base, and an overlay of it with 6 MiB in the guest's memory that do not compress."""
    made, servers = Images(cloud), []
    try:
        source, _ = cloud.boot("site-source")
        servers.append(source)
        base = made.capture(source, {"cloudlet-base": {"name": "site-base"}})
        app, address = cloud.boot("site-app", image="site-base")
        servers.append(app)
        secret = secrets.token_hex(8)
        cloud.shell(address, f"dd if=/dev/urandom of=/www/app bs=1M count=6 2>/dev/null; echo {secret} >/www/secret")
        overlay = made.capture(app, {"cloudlet-overlay-finish": {"overlay-name": "site-app"}})
        nonce = cloud.fetched(address)
        for server in servers:
            cloud.delete(server)
        size = overlay["result"]["overlay_bytes"]
        yield Site(base["images"]["base-disk"], overlay["images"]["overlay"], secret, size, nonce)
    finally:
        for server in servers:
            cloud.delete(server)
        made.delete()


@pytest.fixture
def images(cloud: Cloud, _nothing_is_left: None) -> Iterator[Images]:
    """Makes bases and overlays, which are deleted at the test's end."""
    made = Images(cloud)
    yield made
    made.delete()


class Boot:
    """``boot(name, account="member", **create)``: a server whose app answers, and its address."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self.names = cloud, list[str]()

    def begin(self, name: str, account: str = "member", **words: Any) -> Server:
        """A server that was asked for."""
        self.names.append(name)
        return self._cloud.create(name, account, **words)

    def __call__(self, name: str, account: str = "member", **words: Any) -> tuple[Server, str]:
        self.names.append(name)
        return self._cloud.boot(name, account, **words)


@pytest.fixture
def boot(cloud: Cloud, _nothing_is_left: None) -> Iterator[Boot]:
    """Starts servers. What is left of them is deleted at the end of the test, those that failed to start too."""
    boot = Boot(cloud)
    yield boot
    left = [server for server in cloud.admin.compute.servers(all_projects=True) if server.name in boot.names]
    for server in left:
        cloud.delete(server)
