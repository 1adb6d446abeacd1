# SPDX-License-Identifier: Apache-2.0
"""The worker's command line, which people only look at."""

from __future__ import annotations

import subprocess
import sys

from cloudlet_ext import __version__


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloudlet_ext.cmd.worker", *words]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_what_it_is_is_told() -> None:
    told = run("--help")
    assert told.returncode == 0
    assert "usage: cloudlet-worker" in told.stdout
    assert "nova-compute" in told.stdout
    assert run("--version").stdout == f"cloudlet-worker {__version__}\n"


def test_it_takes_no_arguments() -> None:
    refused = run("base-create")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "unrecognized arguments: base-create" in refused.stderr
