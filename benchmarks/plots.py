# SPDX-License-Identifier: Apache-2.0
"""Plots of a run. matplotlib is needed for these alone (benchmarks/requirements.txt)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.rows import OURS, OURS_BEST, Row, Rows

_COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#7f7f7f", "#000000")


def draw(rows: Rows, folder: Path) -> list[Path]:
    """Write the plots for which there are rows; none when matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "cloudlet", "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot as plt

    written = []
    for name, plot in (("first-reply", _rates), ("sizes", _sizes), ("growth", _growth), ("creation", _creation)):
        figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
        if plot(rows, axes):
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            written.append(path)
        plt.close(figure)
    return written


def _colour(tools: list[str], tool: str) -> str:
    return _COLOURS[tools.index(tool) % len(_COLOURS)]


def _tools(chosen: list[Row]) -> list[str]:
    return list(dict.fromkeys(row.tool for row in chosen))


def _rates(rows: Rows, axes: Any) -> bool:
    """Time to the first reply over the link's rate, one line for each tool and round trip."""
    chosen = [row for row in rows.rows if row.figure == "first reply" and row.workload == "W1" and row.rate_mbit]
    tools = _tools(chosen)
    for tool in tools:
        for rtt, style in ((1, "-"), (50, "--")):
            same = [row for row in chosen if (row.tool, row.rtt_ms) == (tool, rtt)]
            line = sorted(same, key=lambda row: row.rate_mbit or 0)
            if line:
                label = tool if rtt == 1 else f"{tool}, RTT 50 ms"
                axes.plot(
                    [row.rate_mbit for row in line],
                    [row.value for row in line],
                    style,
                    marker="o",
                    markersize=4,
                    color=_colour(tools, tool),
                    label=label,
                )
    axes.set(xscale="log", yscale="log", xlabel="Mbit/s", ylabel="s", title="W1: time to the first correct reply")
    ticks = sorted({row.rate_mbit for row in chosen if row.rate_mbit})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    if chosen:
        axes.legend(fontsize=8)
    return bool(chosen)


def _bars(rows: Rows, axes: Any, figure: str, scale: float) -> list[Row]:
    """Bars in groups: workloads along the axis, tools side by side."""
    chosen = [row for row in rows.rows if row.figure == figure and row.rate_mbit is None and len(row.workload) == 2]
    tools, names = _tools(chosen), list(dict.fromkeys(row.workload for row in chosen))
    width = 0.85 / max(1, len(tools))
    for row in chosen:
        place = names.index(row.workload) + (tools.index(row.tool) - (len(tools) - 1) / 2) * width
        axes.bar(place, row.value / scale, width * 0.92, color=_colour(tools, row.tool))
    axes.set_xticks(range(len(names)), names)
    axes.legend(handles=[axes.bar(0, 0, color=_colour(tools, tool), label=tool) for tool in tools], fontsize=8, ncols=2)
    axes.grid(visible=True, axis="y", alpha=0.3)
    return chosen


def _sizes(rows: Rows, axes: Any) -> bool:
    chosen = _bars(rows, axes, "size", 1e6)
    axes.set(ylabel="MB", title="Bytes that are sent")
    return bool(chosen)


def _creation(rows: Rows, axes: Any) -> bool:
    chosen = [row for row in rows.rows if row.figure == "creation" and row.tool != OURS_BEST]
    _bars(rows, axes, "creation", 1.0)
    axes.set(ylabel="s", yscale="log", title="Creation")
    return bool(chosen)


def _growth(rows: Rows, axes: Any) -> bool:
    """First reply and full residence over the guest's memory."""
    drawn = False
    for figure, marker in (("first reply", "o"), ("fully resident", "s")):
        points = sorted(
            (int(row.workload.split()[1]), row.value)
            for row in rows.rows
            if (row.figure, row.tool) == (figure, OURS) and row.workload.startswith("W1, ")
        )
        if points:
            drawn = True
            axes.plot([size for size, _ in points], [value for _, value in points], marker=marker, label=figure)
            axes.set_xticks([size for size, _ in points], [f"{size}" for size, _ in points])
    axes.set(xlabel="MiB of guest memory", ylabel="s", title="The same app in larger guests, 38 Mbit/s")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if drawn:
        axes.legend(fontsize=8)
    return drawn
