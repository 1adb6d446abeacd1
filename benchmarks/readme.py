# SPDX-License-Identifier: Apache-2.0
"""Put the table of a full run into the README: ``python -m benchmarks.readme`` (``--check``: only look)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import IMAGE, OURS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
README, ROWS = ROOT / "README.rst", ROOT / "benchmarks/results/rows.json"
BEGIN, END = ".. results-begin\n", ".. results-end\n"

_TOOLS = (OURS, "patch-from -3", "snapshot", IMAGE)
_RATE, _RTT = 38, 1

Rows = list[dict[str, Any]]


def _find(rows: Rows, workload: str, tool: str, figure: str) -> float | None:
    rate = (_RATE, _RTT) if figure == "first reply" else (None, None)
    for row in rows:
        if (row["workload"], row["tool"], row["figure"], (row["rate_mbit"], row["rtt_ms"])) == (
            workload,
            tool,
            figure,
            rate,
        ):
            return float(row["value"])
    return None


def _table(rows: Rows, figure: str, show: Callable[[float], str]) -> list[str]:
    lines = [["workload", *_TOOLS]]
    for workload in WORKLOADS:
        values = [_find(rows, workload, tool, figure) for tool in _TOOLS]
        if any(value is not None for value in values):
            lines.append([workload, *("\\" if value is None else show(value) for value in values)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = "  ".join("=" * width for width in widths)
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [rule, text[0], rule, *text[1:], rule]


def render(rows: Rows) -> str:
    """The part of the README between its marks."""
    facts = {row["figure"]: row["value"] for row in rows if row["tool"] == "machine"}
    targets = [row for row in rows if row["tool"] == "target"]
    met = sum(bool(row["met"]) for row in targets)
    lines = [
        "",
        f"A full run of ``benchmarks/run`` on {facts['processor']}, accelerator {facts['accelerator']}, QEMU "
        f"{facts['qemu']}, {str(facts['date'])[:10]}; {met} of {len(targets)} targets met.",
        "``benchmarks/results`` has every value, and why what is missed is missed.",
        "",
        f"Seconds from the request to the first correct reply through a link of {_RATE} Mbit/s:",
        "",
        *_table(rows, "first reply", lambda value: f"{value:.2f}"),
        "",
        "Megabytes that are sent:",
        "",
        *_table(rows, "size", lambda value: f"{value / 1e6:.2f}"),
        "",
        *(f"* {name}: {workload.title}" for name, workload in WORKLOADS.items()),
        "",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=(__doc__ or "").strip())
    parser.add_argument("--check", action="store_true", help="fail when the README has another table")
    check = parser.parse_args().check
    text = README.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    wanted = before + BEGIN + render(json.loads(ROWS.read_text())) + END + after
    if wanted == text:
        return 0
    if check:
        print(f"{README}: the table is not that of {ROWS}: run python -m benchmarks.readme", file=sys.stderr)
        return 1
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
