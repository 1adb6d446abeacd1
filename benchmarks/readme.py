# SPDX-License-Identifier: Apache-2.0
"""Put the tables of full runs into the README: ``python -m benchmarks.readme`` (``--check``: only look)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import cloud_figures as cloud
from benchmarks import report
from benchmarks.rows import IMAGE, OURS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
README, RESULTS = ROOT / "README.rst", ROOT / "benchmarks/results"

_TOOLS = (OURS, "patch-from -3", "snapshot", IMAGE)
_RATE, _RTT = 38, 1

Rows = list[dict[str, Any]]


_CLOUD_FIGURES = (cloud.ACTIVE, cloud.FIRST)


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _facts(rows: Rows) -> dict[str, Any]:
    return {row["figure"]: row["value"] for row in rows if row["tool"] == "machine"}


def _met(rows: Rows) -> str:
    targets = [row for row in rows if row["tool"] == "target"]
    return f"{sum(bool(row['met']) for row in targets)} of {len(targets)} targets met"


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


def _table(rows: Rows, figure: str, show: Callable[[float], str]) -> str:
    lines = []
    for workload in WORKLOADS:
        values = [_find(rows, workload, tool, figure) for tool in _TOOLS]
        if any(value is not None for value in values):
            lines.append([workload, *("" if value is None else show(value) for value in values)])
    return report.table(["workload", *_TOOLS], lines)


def render(rows: Rows) -> str:
    """The engine's part of the README, between its marks."""
    facts = _facts(rows)
    lines = [
        "",
        f"A full run of ``benchmarks/run`` on {facts['processor']}, accelerator {facts['accelerator']}, QEMU "
        f"{facts['qemu']}, {str(facts['date'])[:10]}; {_met(rows)}.",
        "``benchmarks/results`` has every value, and why what is missed is missed.",
        "",
        f"Seconds from the request to the first correct reply through a link of {_RATE} Mbit/s:",
        "",
        _table(rows, "first reply", lambda value: f"{value:.2f}"),
        "",
        "Megabytes that are sent:",
        "",
        _table(rows, "size", lambda value: f"{value / 1e6:.2f}"),
        "",
        *(f"* {name}: {workload.title}" for name, workload in WORKLOADS.items()),
        "",
    ]
    return "\n".join(lines) + "\n"


def render_cloud(rows: Rows) -> str:
    """The cloud's part of the README, between its marks."""
    facts = _facts(rows)
    found = {(row["workload"], row["tool"], row["figure"]): row["value"] for row in rows}
    head = ["a server with the app, in a cloud", "ACTIVE", "first reply"]
    starts = [[tool, *(_seconds(found.get(("web", tool, what))) for what in _CLOUD_FIGURES)] for tool in cloud.STARTS]
    lines = [
        "",
        f"Medians of a full run of ``benchmarks/cloud`` on {facts['processor']}, {str(facts['date'])[:10]}; "
        f"{_met(rows)}.",
        f"Seconds from ``POST /servers``; images and overlays come through a link of {_RATE} Mbit/s where they are not "
        "there:",
        "",
        report.table(head, starts),
        "",
        f"Made in {found['web', 'base create', 'creation']:.1f} s (the base) and "
        f"{found['web', 'overlay create', 'creation']:.1f} s (the overlay; the guest stood still for "
        f"{found['web', 'overlay create', 'pause']:.2f} s of these).",
        "``benchmarks/results`` has every value, and why what is missed is missed.",
        "",
    ]
    return "\n".join(lines) + "\n"


PARTS = (("results", "rows.json", render), ("cloud-results", "cloud.json", render_cloud))
"""Marks in the README, file of the rows, what stands there."""


def filled(text: str, results: Path) -> str:
    """The README with the tables of these results."""
    for mark, name, show in PARTS:
        begin, end = f".. {mark}-begin\n", f".. {mark}-end\n"
        before, rest = text.split(begin, 1)
        text = before + begin + show(json.loads((results / name).read_text())) + end + rest.split(end, 1)[1]
    return text


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=(__doc__ or "").strip())
    parser.add_argument("--check", action="store_true", help="fail when the README has other tables")
    check = parser.parse_args().check
    text = README.read_text()
    wanted = filled(text, RESULTS)
    if wanted == text:
        return 0
    if check:
        print(f"{README}: the tables are not those of {RESULTS}: run python -m benchmarks.readme", file=sys.stderr)
        return 1
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
