# SPDX-License-Identifier: Apache-2.0
"""Table of the services of minicloud's clouds: pid, state, age, memory.

    status.py CLOUD_FOLDER:SERVICE,SERVICE,... ...

Exits with 1 when a service is down. Memory is the proportional set size (PSS) of the service and all of its
children, so that shared pages count once in the sum; guests are no children of libvirt's.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Service:
    """One service; a pid of 0 means that it is down."""

    name: str
    pid: int
    age_s: float
    processes: int
    pss_mib: float


def start_ticks(pid: int) -> int | None:
    """The kernel's start time of a process in clock ticks since boot; None when it has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    pids = [pid]
    for children in (PROC / str(pid) / "task").glob("*/children"):
        try:
            words = children.read_text().split()
        except OSError:
            continue
        for word in words:
            pids += tree(int(word))
    return pids


def pss_mib(pid: int) -> float:
    """Proportional set size in MiB; 0 for a process that has ended."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def service(folder: Path, name: str) -> Service:
    """What is known of a service from ``folder/pids/NAME``, which holds its pid and start time."""
    try:
        pid, began = (int(word) for word in (folder / "pids" / name).read_text().split())
    except (OSError, ValueError):
        return Service(name, 0, 0.0, 0, 0.0)
    if start_ticks(pid) != began:
        return Service(name, 0, 0.0, 0, 0.0)
    uptime_s = float((PROC / "uptime").read_text().split()[0])
    pids = tree(pid)
    age_s = uptime_s - began / os.sysconf("SC_CLK_TCK")
    return Service(name, pid, age_s, len(pids), sum(map(pss_mib, pids)))


def age(seconds: float) -> str:
    """Short text for an age."""
    minutes = int(seconds) // 60
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def table(cloud: str, services: list[Service]) -> str:
    """The table of one cloud."""
    rows = [f"{cloud:<20} {'pid':>8}  state {'age':>12} {'processes':>10} {'PSS MiB':>8}"]
    for each in services:
        start = f"  {each.name:<18} {each.pid or '-':>8} "
        if each.pid:
            rows.append(f"{start} up    {age(each.age_s):>12} {each.processes:>10} {each.pss_mib:>8.0f}")
        else:
            rows.append(f"{start} down")
    processes = sum(each.processes for each in services)
    rows.append(f"  {'all':<18} {'':>8}  {'':>18} {processes:>10} {sum(each.pss_mib for each in services):>8.0f}")
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """Print every cloud's table; 1 when something is down."""
    down = False
    for argument in arguments:
        folder, _, names = argument.partition(":")
        services = [service(Path(folder), name) for name in names.split(",")]
        down |= any(not each.pid for each in services)
        sys.stdout.write(table(Path(folder).name, services) + "\n")
    return int(down)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
