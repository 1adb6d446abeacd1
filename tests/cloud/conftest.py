# SPDX-License-Identifier: Apache-2.0
"""Integration tests: on a running minicloud, with the Python of its environment (see minicloud/README.rst)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cloud import site as site_module
from tests.cloud.cloud import HOW_TO_START, MINICLOUD, PATIENCE, WORK, Cloud, wait_until
from tests.cloud.host_side import Freezer
from tests.cloud.images import Images
from tests.cloud.inventory import inventory
from tests.cloud.logs import Logs
from tests.cloud.servers import Boot
from tests.cloud.site import Site

SETTLE_S = 90.0 * PATIENCE
"""Nova forgets a deleted server's port and allocation a little later than the server."""

TIMEOUT_S = 900.0 * PATIENCE
"""For a whole test. Every wait in it has a limit of its own, which tells more."""

NAME = os.environ.get("MINICLOUD_TEST_CLOUD", "one")
_LOGS = pytest.StashKey[Logs]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A hang is seen, later than in tests that nobody else has to be waited for."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where the logs are when a test begins."""
    item.stash[_LOGS] = Logs(Cloud(NAME))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What failed is shown with what the compute hosts have written meanwhile."""
    report = yield
    if report.failed and _LOGS in item.stash:
        report.sections += [(title, tail) for title, tail in item.stash[_LOGS].tails().items() if tail]
    return report


@pytest.fixture(scope="session")
def cloud() -> Cloud:
    """Cloud ``one``, or that of ``MINICLOUD_TEST_CLOUD``; all services of all clouds run."""
    if not (WORK / "clouds.yaml").exists():
        pytest.fail(f"there is no minicloud in {WORK}: {HOW_TO_START}", pytrace=False)
    done = subprocess.run([MINICLOUD, "status"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"the minicloud is not up: {HOW_TO_START}\n{done.stdout}{done.stderr}", pytrace=False)
    return Cloud(NAME)


@pytest.fixture(scope="session")
def site(cloud: Cloud) -> Iterator[Site]:
    """A base, and an overlay of it, for all tests."""
    with site_module.made(cloud) as made:
        yield made


@pytest.fixture
def shared() -> None:
    """What the tests of a module share is made by its fixture of this name: it is there before a test begins."""


@pytest.fixture(autouse=True)
def _nothing_is_left(cloud: Cloud, shared: object) -> Iterator[None]:
    """After each test there are no more domains, ports, images, allocations and files than before it."""
    before = inventory(cloud)
    yield
    left: dict[str, set[str]] = {}

    def nothing_left() -> bool:
        nonlocal left
        now = inventory(cloud)
        left = {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}
        return not left

    try:
        wait_until("nothing is left", nothing_left, SETTLE_S)
    except TimeoutError:
        pytest.fail(f"left behind: {left}", pytrace=False)


@pytest.fixture
def images(cloud: Cloud, _nothing_is_left: None) -> Iterator[Images]:
    """Makes bases and overlays, which are deleted at the test's end."""
    made = Images(cloud)
    yield made
    made.delete()


@pytest.fixture
def boot(cloud: Cloud, _nothing_is_left: None) -> Iterator[Boot]:
    """Starts servers. All of them are deleted at the end of the test, those that failed to start too."""
    boot = Boot(cloud)
    yield boot
    cloud.delete(*boot.made)


@pytest.fixture
def freeze(cloud: Cloud, images: Images, boot: Boot) -> Iterator[Freezer]:
    """``freeze(operation_id, stage)``: stops the worker of an operation there; at the test's end all of them go on."""
    freezer = Freezer(cloud)
    yield freezer
    freezer.release()
