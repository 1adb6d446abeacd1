# SPDX-License-Identifier: Apache-2.0
"""What nova-compute does for workers around their jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext import conf
from cloudlet_ext.nova import jobs


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    conf.register(jobs.CONF)
    before = jobs.CONF.cloudlet.state_path
    jobs.CONF.set_override("state_path", str(tmp_path), "cloudlet")
    yield tmp_path / "scratch"
    jobs.CONF.set_override("state_path", before, "cloudlet")


def test_what_a_killed_worker_has_left_is_removed(scratch: Path) -> None:
    """All of it, and nothing of another one's."""
    jobs.remove_leavings("one")
    for name in ("one-a1", "one-b2", "other-c3"):
        (scratch / name / "base").mkdir(parents=True)
        (scratch / name / "base" / "memory").write_bytes(b"x")
    jobs.remove_leavings("one")
    assert [path.name for path in scratch.iterdir()] == ["other-c3"]
