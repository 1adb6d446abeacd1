# SPDX-License-Identifier: Apache-2.0
"""Measure what the project promises, against other tools, and hold it against the targets."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import bases, facts, plots, report
from benchmarks.arguments import output_file
from benchmarks.attempt import attempt
from benchmarks.bench import WORK, Bench, SetupFailed, opened
from benchmarks.figures import FIGURES, Figure
from benchmarks.prepared import Wanted, prepare
from benchmarks.workloads import WORKLOADS

_QUICK_WORKLOADS = ("W1",)
_QUICK_FIGURES = ("size", "creation", "first_reply", "resident", "image")
_IMAGE_FIGURES = {"image", "server_start", "density"}
_WORKLOAD_FIGURES = {"size", "creation", "first_reply", "resident", "image", "exactness"}


def _names(known: Any, what: str) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)} (there are {', '.join(known)})")
        return names

    return parse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="at most three minutes: W1 at 38 Mbit/s, few peers")
    parser.add_argument("--deep", action="store_true", help="level 19 at W2 to W5 as well: twenty minutes more")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write all rows to FILE")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write report, rows and plots to DIR")
    parser.add_argument("--workloads", type=_names(WORKLOADS, "workload"), metavar="W0,W1", help="only these")
    parser.add_argument("--figures", type=_names(FIGURES, "figure"), metavar="NAMES", help=f"of {', '.join(FIGURES)}")
    return parser.parse_args()


def _measure_workload(bench: Bench, name: str, figures: list[Figure]) -> None:
    asked = {figure.name for figure in figures}
    wanted = Wanted(
        peers=any(figure.needs_peers for figure in figures),
        best=bench.is_deep(name) and bool(asked & {"size", "creation"}),
        original=name == "W1" and "exactness" in asked,
        image=name == "W1" and bool(asked & _IMAGE_FIGURES),
    )
    made = prepare(bench, name, wanted)
    for figure in figures:
        attempt(bench, f"{figure.title} at {name}", lambda figure=figure: figure.workload(bench, made))  # type: ignore[misc]


def measure(bench: Bench) -> None:
    """Everything that was asked for."""
    figures = [FIGURES[name]() for name in bench.figures]
    if any(figure.name in _WORKLOAD_FIGURES for figure in figures):
        for name in bench.workloads:
            attempt(bench, name, lambda name=name: _measure_workload(bench, name, figures))  # type: ignore[misc]
    for figure in figures:
        attempt(bench, figure.title, lambda figure=figure: figure.measure(bench))  # type: ignore[misc]
    for figure in figures:
        attempt(bench, f"judging {figure.title}", lambda figure=figure: figure.judge(bench))  # type: ignore[misc]


def _publish(bench: Bench, known: dict[str, Any], folder: Path, json_file: Path | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = report.write(bench.rows, known, bench.failures, bench.quick)
    drawn = plots.draw(bench.rows, folder)
    (folder / "report.rst").write_text(text)
    bench.rows.write(folder / "rows.json", known)
    if json_file is not None:
        shutil.copyfile(folder / "rows.json", json_file)
    print(f"\n{text}\n")
    if not drawn:
        print("no plots: matplotlib is missing (benchmarks/requirements.txt)")
    print(f"written to {folder}: report.rst, rows.json{''.join(f', {path.name}' for path in drawn)}")


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit status is 0 when everything was measured, whatever the values."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _interrupted)
    workloads = arguments.workloads or (_QUICK_WORKLOADS if arguments.quick else tuple(WORKLOADS))
    figures = arguments.figures or (_QUICK_FIGURES if arguments.quick else tuple(FIGURES))
    folder = arguments.output or WORK / "benchmarks" / "results" / ("quick" if arguments.quick else "full")
    try:
        bases.check_guests()
        with opened(arguments.quick, arguments.deep, workloads, figures) as bench:
            known = facts.read_facts(bench)
            try:
                measure(bench)
            except KeyboardInterrupt:
                bench.failures.append("the rest: interrupted")
            known["took"] = f"{bench.elapsed_s:.0f} s"
            _publish(bench, known, folder, arguments.json)
            return 1 if bench.failures else 0
    except SetupFailed as failure:
        print(f"benchmarks/run: {failure}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
