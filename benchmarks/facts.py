# SPDX-License-Identifier: Apache-2.0
"""What was measured on: the machine, the programs."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import bases
from benchmarks.bench import Bench
from cloudlet_ext.hypervisor import qemu

ROOT = Path(__file__).parent.parent


def first_line(*command: str) -> str:
    """The first line of what a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT, check=False)
    except OSError:
        return "missing"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def processor() -> str:
    """The name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def read_facts(bench: Bench) -> dict[str, Any]:
    """By name, as rows of the report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": first_line("git", "rev-parse", "--short=12", "HEAD"),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "load before": round(os.getloadavg()[0], 2),
        "accelerator": bases.chosen_accelerator(bench),
        "qemu": qemu.find().version_text,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "zstd": first_line("zstd", "--version"),
        "xdelta3": first_line("xdelta3", "-V"),
        "xz": first_line("xz", "--version"),
    }
