# SPDX-License-Identifier: Apache-2.0
"""Functional tests run real guests, which ``tools/guest`` builds."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.functional)


@pytest.fixture(scope="session")
def guests() -> Path:
    """The folder of the guests: kernel, initial RAM disks, disks, app bundles."""
    folder = Path(os.environ.get("CLOUDLET_WORK", "/var/tmp/cloudlet")) / "guests"
    if not (folder / "vmlinuz").exists():
        pytest.fail(f"no guests in {folder}: run tools/guest as root")
    return folder
