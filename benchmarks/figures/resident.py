# SPDX-License-Identifier: Apache-2.0
"""Time until nothing of a synthesised server is missing. Measured together with the first reply."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures.figure import Figure
from benchmarks.figures.first_reply import RATES
from benchmarks.link import Rate
from benchmarks.rows import OURS, Target


class Resident(Figure):
    """Against the time that the bytes of the overlay take."""

    name = "resident"
    title = "Fully resident"

    def judge(self, bench: Bench) -> None:
        for workload in bench.workloads:
            size = bench.rows.find("size", workload, OURS)
            for mbit in RATES:
                seconds = bench.rows.find("fully resident", workload, OURS, mbit, 1)
                if seconds is None or size is None:
                    continue
                limit = 1.10 * size / Rate(mbit, 1).bytes_per_s + 0.5
                where = bench.rows.stages.get((f"synthesis {Rate(mbit, 1)}", workload), "")
                explained = f"{size / 1e6:.1f} MB; {where}"
                text = f"fully resident at {mbit} Mbit/s"
                bench.rows.target(Target(self.name, workload, text, seconds, limit, "s", explained=explained))
