# SPDX-License-Identifier: Apache-2.0
"""The worker's own memory is bounded, whatever the guest's size."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.worker import base_creation, starting
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from tests.functional import guest as tools
from tests.functional.conftest import busybox_request

LIMIT_BYTES = 300 << 20
"""Of anonymous memory; maps of files are the page cache's, which gives them back."""

RANDOM_MIB = 420
"""More than the limit: who held all of it would be seen."""

CREATE = """
import sys
from pathlib import Path
from cloudlet_ext.worker import overlay_creation
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
home, out = Home(Path(sys.argv[1])), Path(sys.argv[2])
overlay_creation.create_overlay(home, "large", out, keep="deleted", level="auto", report=Report())
"""

SYNTHESIZE = """
import sys
from pathlib import Path
from cloudlet_ext.worker import synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
home, out = Home(Path(sys.argv[1])), sys.argv[2]
synthesis.synthesize(home, synthesis.SynthesisRequest(out, "large", placement=sys.argv[3]), Report())
"""


@pytest.fixture(scope="module")
def large(home: Home, guests: Path) -> Iterator[str]:
    """A base of 1 GiB of memory."""
    base_creation.create_base(home, busybox_request(guests, "large", 1024), Report())
    yield "large"
    shutil.rmtree(home.bases / "large")


def peak_bytes(*arguments: str) -> int:
    """Run a script; the most anonymous memory that it had."""
    peak = 0
    with subprocess.Popen([sys.executable, "-c", *arguments], stderr=subprocess.PIPE, text=True) as worker:
        while worker.poll() is None:
            try:
                status = Path(f"/proc/{worker.pid}/status").read_text()
            except OSError:
                break
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) << 10 if found else 0)
            time.sleep(0.005)
        _, said = worker.communicate()
    assert worker.returncode == 0, said
    return peak


def test_an_overlay_of_a_large_guest(home: Home, large: str, tmp_path: Path) -> None:
    starting.start_server(home, large, "large", {}, None, tools.WAIT_S, Report())
    path = tmp_path / "large.cloudlet"
    with tools.loaded(home, "large") as guest:
        fill = f"dd if=/dev/urandom of=/mnt/ballast bs=1M count={RANDOM_MIB} 2>/dev/null"
        tools.run(guest, f"mkdir -p /mnt; mount -t tmpfs -o size=900m ballast /mnt; {fill}")
        peak = peak_bytes(CREATE, str(home.path), str(path))
        assert not guest.process.alive
    assert path.stat().st_size > RANDOM_MIB << 20
    assert peak <= LIMIT_BYTES, f"{peak / 1e6:.0f} MB at creation"
    peak = peak_bytes(SYNTHESIZE, str(home.path), str(path), "early")
    with tools.loaded(home, "large") as guest:
        assert tools.run(guest, "ls -s /mnt/ballast").split()[0] == str(RANDOM_MIB << 10)
    assert peak <= LIMIT_BYTES, f"{peak / 1e6:.0f} MB at synthesis"
    path.unlink()
