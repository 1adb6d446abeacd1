# SPDX-License-Identifier: Apache-2.0
"""What a clone is told to do with its clock, run by the shells that guests have; nothing is set."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.hypervisor.errors import AgentRefused
from cloudlet_ext.worker import clone

BEHIND_S = 1000.0


class Agent:
    """An agent of a guest whose clock is behind, and that takes its time; None: it does not tell its clock."""

    def __init__(self, behind_s: float | None) -> None:
        self._behind_s = behind_s

    def execute(self, command: str, timeout_s: float) -> Any:
        assert command == "guest-get-time"
        if self._behind_s is None:
            raise AgentRefused(command=command, reason="it is disabled")
        time.sleep(0.1)
        theirs = time.time_ns() - int(self._behind_s * 1e9)
        time.sleep(0.1)
        return theirs


def run(script: str, folder: Path, *, behind_s: float, shell: str, fraction: str = "%N") -> float:
    """Run it where ``date`` is behind and only notes what it is to set; by how much that is off, in seconds.

    ``fraction``: what this ``date`` makes of "%N", of which not every one knows.
    """
    (folder / "date").write_text(
        f"""#!/bin/sh
case $1 in
    +*) exec {real("date")} --date="{behind_s} seconds ago" +%s{fraction} ;;
    *) echo "$3" $({real("date")} +%s.%N) >{folder}/set ;;
esac
"""
    )
    (folder / "date").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([shell, "-c", script], env=environment, check=False, stderr=subprocess.PIPE, text=True)
    # There is no such address here.
    assert done.returncode == 2, done.stderr
    told, now = (folder / "set").read_text().split()
    return float(now) - float(told.removeprefix("@"))


def real(program: str) -> str:
    return subprocess.run(["which", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("behind_s", [BEHIND_S, -BEHIND_S, 0.0])
def test_the_clock_is_right_however_late_it_is_set(tmp_path: Path, behind_s: float, shell: str) -> None:
    script = clone._script(Agent(behind_s), 1.0, "52:54:00:00:00:01", "52:54:00:00:00:02")  # type: ignore[arg-type]
    time.sleep(1.5)
    assert abs(run(script, tmp_path, behind_s=behind_s, shell=shell)) < 1.0


@pytest.mark.parametrize(("behind_s", "fraction"), [(None, "%N"), (BEHIND_S, "N"), (BEHIND_S, "")])
def test_a_clock_that_is_not_known_is_set_to_the_time_that_was_sent(
    tmp_path: Path, behind_s: float | None, fraction: str
) -> None:
    script = clone._script(Agent(behind_s), 1.0, "52:54:00:00:00:01", "52:54:00:00:00:02")  # type: ignore[arg-type]
    time.sleep(0.5)
    off = run(script, tmp_path, behind_s=BEHIND_S, shell="sh", fraction=fraction)
    assert 0.4 < off < 60
