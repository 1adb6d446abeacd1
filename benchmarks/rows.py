# SPDX-License-Identifier: Apache-2.0
"""Rows: every value that was measured, and the targets that some of them are held against."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OURS = "cloudlet"
OURS_BEST = "cloudlet -19"
IMAGE = "image + boot"


@dataclass(frozen=True)
class Row:
    """One value. ``n``: how many measurements it is the median of; ``low``, ``high``: their range."""

    workload: str
    tool: str
    rate_mbit: float | None
    rtt_ms: float | None
    figure: str
    value: float
    unit: str
    n: int = 1
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Target:
    """A value that was to be reached. ``limit`` is in ``unit``; ``explained``: where the time or the bytes go."""

    figure: str
    workload: str
    text: str
    value: float
    limit: float
    unit: str
    at_least: bool = False
    explained: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the value is on the right side of its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def miss(self) -> float:
        """How far the value is from its limit, as a part of the limit; 0 when it is met."""
        if self.is_met:
            return 0.0
        return abs(self.value - self.limit) / self.limit if self.limit else float("inf")


class Rows:
    """All rows and targets of one run, in the order in which they came.

    ``stages``: by figure and workload, where the time of a measurement went, for a person; ``unjudged``: targets for
    which this kind of run has no values.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.targets: list[Target] = []
        self.unjudged: list[str] = []
        self.stages: dict[tuple[str, str], str] = {}

    def add(
        self,
        workload: str,
        tool: str,
        figure: str,
        values: float | Sequence[float],
        unit: str,
        *,
        rate_mbit: float | None = None,
        rtt_ms: float | None = None,
    ) -> float:
        """Note the median of ``values``; it is returned."""
        several = [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]
        value = statistics.median(several)
        low, high = (min(several), max(several)) if len(several) > 1 else (None, None)
        self.rows.append(Row(workload, tool, rate_mbit, rtt_ms, figure, value, unit, len(several), low, high))
        return value

    def target(self, target: Target) -> None:
        """Note what came of a target."""
        self.targets.append(target)

    def find(
        self, figure: str, workload: str, tool: str, rate_mbit: float | None = None, rtt_ms: float | None = None
    ) -> float | None:
        """The value of the first row that fits; None when it was not measured."""
        wanted = (figure, workload, tool, rate_mbit, rtt_ms)
        for row in self.rows:
            if (row.figure, row.workload, row.tool, row.rate_mbit, row.rtt_ms) == wanted:
                return row.value
        return None

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """JSON: one list of rows. The machine and the targets are rows too, with ``tool`` "machine" and "target"."""
        documents: list[dict[str, Any]] = [_plain(fact, value) for fact, value in facts.items()]
        documents += [asdict(row) for row in self.rows]
        for target in self.targets:
            document = _plain(target.text, target.value, tool="target", workload=target.workload, unit=target.unit)
            documents.append(
                {**document, "limit": target.limit, "met": target.is_met, "miss": target.miss, "of": target.figure}
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.new")
        partial.write_text("[\n" + ",\n".join(json.dumps(document) for document in documents) + "\n]\n")
        partial.rename(path)


def _plain(figure: str, value: Any, tool: str = "machine", workload: str = "", unit: str = "") -> dict[str, Any]:
    row = {"workload": workload, "tool": tool, "rate_mbit": None, "rtt_ms": None}
    return {**row, "figure": figure, "value": value, "unit": unit}
