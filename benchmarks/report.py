# SPDX-License-Identifier: Apache-2.0
"""The report: reStructuredText that reads well in a terminal, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.rows import Row, Rows
from benchmarks.workloads import WORKLOADS

_UNITS = {"bytes": (1e6, "MB")}

Cells = Sequence[Sequence[str]]


def _number(value: float, unit: str) -> str:
    if unit in ("pages", "answers"):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _value(row: Row) -> tuple[str, str]:
    scale, unit = _UNITS.get(row.unit, (1.0, row.unit))
    text = _number(row.value / scale, row.unit)
    if row.low is not None and row.high is not None:
        text += f" ({_number(row.low / scale, row.unit)} .. {_number(row.high / scale, row.unit)})"
    return text, unit


def table(head: Sequence[str], cells: Cells) -> str:
    """A simple table of reStructuredText."""
    filled = [[cell or "\\" for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in [list(head), *filled]) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)

    def text(line: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    return "\n".join([rule, text(head), rule, *(text(line) for line in filled), rule])


def _title(text: str, line: str) -> str:
    return f"\n{text}\n{line * len(text)}\n"


def targets(rows: Rows) -> str:
    """Every target, what was reached, and whether that is enough."""
    cells = [
        [
            target.figure,
            target.workload,
            target.text,
            f"{'>=' if target.at_least else '<='} {_number(target.limit, '')} {target.unit}".strip(),
            f"{_number(target.value, '')} {target.unit}".strip(),
            "met" if target.is_met else f"missed by {target.miss:.0%}" if target.limit else "missed",
        ]
        for target in rows.targets
    ]
    head = ["figure", "workload", "what", "target", "value", "result"]
    return table(head, cells) if cells else "No target was judged."


def _explained(rows: Rows) -> str:
    """Where the time and the bytes go: first what was missed."""
    chosen = sorted((each for each in rows.targets if each.explained), key=lambda each: each.is_met)
    return "\n".join(
        f"* {'' if each.is_met else '**missed** '}{each.workload}, {each.text}: {each.explained}" for each in chosen
    )


def _comparison(rows: Rows, figure: str, mbit: float | None, rtt: float | None) -> str:
    """Tools as columns, workloads as lines."""
    chosen = [row for row in rows.rows if (row.figure, row.rate_mbit, row.rtt_ms) == (figure, mbit, rtt)]
    tools = list(dict.fromkeys(row.tool for row in chosen))
    names = list(dict.fromkeys(row.workload for row in chosen))
    by = {(row.workload, row.tool): row for row in chosen}
    cells = []
    for name in names:
        line = [name]
        for tool in tools:
            row = by.get((name, tool))
            line.append("" if row is None else f"{row.value / _UNITS.get(row.unit, (1.0, ''))[0]:.2f}")
        cells.append(line)
    return table(["workload", *tools], cells) if cells else ""


def _by_rate(rows: Rows, figure: str) -> str:
    """Rates as columns, tools as lines, at W1."""
    chosen = [row for row in rows.rows if row.figure == figure and row.workload == "W1" and row.rate_mbit]
    rates = sorted({row.rate_mbit for row in chosen if row.rate_mbit})
    lines = list(dict.fromkeys((row.tool, row.rtt_ms) for row in chosen))
    by = {(row.tool, row.rtt_ms, row.rate_mbit): f"{row.value:.2f}" for row in chosen}
    cells = [[tool, f"{rtt:g}", *(by.get((tool, rtt, rate), "") for rate in rates)] for tool, rtt in lines]
    return table(["tool", "RTT ms", *(f"{rate:g} Mbit/s" for rate in rates)], cells) if cells else ""


def _all(rows: Rows) -> str:
    cells = []
    for row in rows.rows:
        value, unit = _value(row)
        link = ("", "") if row.rate_mbit is None else (f"{row.rate_mbit:g}", f"{row.rtt_ms:g}")
        cells.append([row.workload, row.tool, *link, row.figure, value, unit, str(row.n)])
    return table(["workload", "tool", "Mbit/s", "RTT ms", "figure", "value", "unit", "n"], cells) if cells else ""


def write(rows: Rows, facts: dict[str, Any], failures: list[str], quick: bool) -> str:
    """All of it."""
    kind = "quick run" if quick else "full run"
    met = sum(target.is_met for target in rows.targets)
    parts = [
        f"Benchmarks: {kind}\n{'=' * (12 + len(kind))}\n",
        table(["what", "on"], [[name, str(value)] for name, value in facts.items()]),
        "",
        table(["workload", "what it is"], [[each.name, each.title] for each in WORKLOADS.values()]),
        _title(f"Targets: {met} of {len(rows.targets)} met", "-"),
        targets(rows),
    ]
    for title, text in (
        ("Not judged", "\n".join(f"* {each}" for each in rows.unjudged)),
        ("Where it goes", _explained(rows)),
        ("Bytes that are sent, MB", _comparison(rows, "size", None, None)),
        ("Creation, s", _comparison(rows, "creation", None, None)),
        ("Creation, peak memory without maps of files, MB", _comparison(rows, "creation peak memory", None, None)),
        ("First reply at 38 Mbit/s, RTT 1 ms, s", _comparison(rows, "first reply", 38, 1)),
        ("First reply at W1, s", _by_rate(rows, "first reply")),
        ("Fully resident at W1, s", _by_rate(rows, "fully resident")),
        ("Not measured", "\n".join(f"* {failure}" for failure in failures)),
        ("All values", _all(rows)),
    ):
        if text:
            parts += [_title(title, "-"), text]
    parts.append(
        "\nA value is the median of *n* measurements, with their range. What a peer sends is one stream, whose time\n"
        "on a link of fixed rate does not vary: it is measured once.\n"
    )
    return "\n".join(parts)
