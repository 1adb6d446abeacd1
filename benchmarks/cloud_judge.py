# SPDX-License-Identifier: Apache-2.0
"""The cloud's targets, and the report: what a user waits for, by the way in which a server is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import report
from benchmarks.bench import USUAL
from benchmarks.cloud_figures import (
    ACTIVE,
    COLD,
    FIRST,
    MEMORY_MIB,
    PLACEMENTS,
    RESUME,
    SIZES,
    STARTS,
    size_name,
    synthesis,
)
from benchmarks.rows import Row, Rows, Target

NOVA_S = 3.0
SOONER = 5.0
SIZE_PART, SIZE_S = 0.2, 0.2

_WEB = "web"
_LINK = (USUAL.mbit, USUAL.rtt_ms)


def judge(rows: Rows) -> list[str]:
    """Hold the rows against the targets; those for which there are no values."""
    unjudged = [text for placement in PLACEMENTS for text in _judge_synthesis(rows, synthesis(placement))]
    large, usual = max(SIZES.values()), MEMORY_MIB
    text = f"base resume, guest of {large} MiB, against one of {usual} MiB"
    big = rows.find(FIRST, size_name(large), RESUME)
    small = rows.find(FIRST, size_name(usual), RESUME)
    if big is None or small is None:
        unjudged.append(text)
    else:
        rows.target(Target(FIRST, RESUME, text, big, small * (1 + SIZE_PART) + SIZE_S, "s"))
    return unjudged


def _judge_synthesis(rows: Rows, tool: str) -> list[str]:
    unjudged = []
    first = rows.find(FIRST, _WEB, tool, *_LINK)
    engine = rows.find("engine: guest runs", _WEB, tool, *_LINK)
    cold = rows.find(FIRST, _WEB, COLD, *_LINK)
    text = f"{tool}: first reply, against the engine's own time to a running guest + {NOVA_S:g} s"
    if first is None or engine is None:
        unjudged.append(text)
    else:
        explained = rows.stages.get((FIRST, tool), "")
        rows.target(Target(FIRST, _WEB, text, first, engine + NOVA_S, "s", explained=explained))
    text = f"{tool}: times sooner than {COLD}"
    if first is None or cold is None:
        unjudged.append(text)
    else:
        rows.target(Target(FIRST, _WEB, text, cold / first, SOONER, "x", at_least=True))
    return unjudged


def _title(text: str, line: str = "-") -> str:
    return f"\n{text}\n{line * len(text)}\n"


def _targets(rows: Rows) -> str:
    cells = [
        [
            target.text,
            f"{'>=' if target.at_least else '<='} {target.limit:.2f} {target.unit}",
            f"{target.value:.2f} {target.unit}",
            f"{target.value / target.limit:.2f}",
            "met" if target.is_met else "missed",
        ]
        for target in rows.targets
    ]
    return report.table(["what", "target", "value", "value / target", "result"], cells) if cells else ""


def _row(rows: Rows, tool: str, figure: str) -> Row | None:
    return next((row for row in rows.rows if (row.workload, row.tool, row.figure) == (_WEB, tool, figure)), None)


def _range(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.value:.2f}" + ("" if row.low is None else f" ({row.low:.2f} .. {row.high:.2f})")


def starts(rows: Rows) -> list[tuple[str, Row]]:
    """The ways to start the app that were measured, with the time to the first reply."""
    found = [(tool, _row(rows, tool, FIRST)) for tool in STARTS]
    return [(tool, row) for tool, row in found if row is not None]


def _starts(rows: Rows) -> str:
    figures = [FIRST, ACTIVE, "before the engine", "engine: guest runs", "fully resident"]
    cells = [[tool, *(_range(_row(rows, tool, figure)) for figure in figures)] for tool, _ in starts(rows)]
    return report.table(["seconds from POST /servers", *figures], cells) if cells else ""


def _sizes(rows: Rows) -> str:
    figures = [FIRST, "stage start", "stage load"]
    cells = []
    for mib in SIZES.values():
        found = [rows.find(figure, size_name(mib), RESUME) for figure in figures]
        if any(value is not None for value in found):
            cells.append([size_name(mib), *("" if value is None else f"{value:.2f}" for value in found)])
    return report.table(["base resume, s", *figures], cells) if cells else ""


def _all(rows: Rows) -> str:
    cells = []
    for row in rows.rows:
        scale, unit = (1e6, "MB") if row.unit == "bytes" else (1.0, row.unit)
        low, high = ("" if end is None else f"{end / scale:.2f}" for end in (row.low, row.high))
        link = "" if row.rate_mbit is None else f"{row.rate_mbit:g} Mbit/s, {row.rtt_ms:g} ms"
        value = f"{row.value / scale:.2f}"
        cells.append([row.workload, row.tool, link, row.figure, value, low, high, unit, str(row.n)])
    head = ["workload", "tool", "link", "figure", "value", "low", "high", "unit", "n"]
    return report.table(head, cells) if cells else ""


def write(rows: Rows, facts: Mapping[str, Any], unjudged: Sequence[str], failures: Sequence[str], quick: bool) -> str:
    """All of it, as reStructuredText."""
    head = f"In a cloud: {'quick' if quick else 'full'} run"
    met = sum(target.is_met for target in rows.targets)
    parts = [
        _title(head, "=").lstrip(),
        report.table(["what", "on"], [[name, str(value)] for name, value in facts.items()]),
    ]
    stages = "\n".join(f"* {tool}, {figure}: {text}" for (figure, tool), text in rows.stages.items())
    for title, text in (
        (f"Targets: {met} of {len(rows.targets)} met", _targets(rows)),
        ("Not judged", "\n".join(f"* {each}" for each in unjudged)),
        ("Not measured", "\n".join(f"* {each}" for each in failures)),
        ("Starts of the app", _starts(rows)),
        ("Resume by the guest's size", _sizes(rows)),
        ("Where the time goes, by the operation's stages", stages),
        ("All values", _all(rows)),
    ):
        if text:
            parts += [_title(title), text]
    return "\n".join(parts) + "\n"
