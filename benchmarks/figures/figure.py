# SPDX-License-Identifier: Apache-2.0
"""What all figures have in common."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.prepared import Prepared


class Figure:
    """One row of the table of targets. Everything that is measured goes to the rows; judging reads only them."""

    name: str
    title: str

    needs_peers = False
    """Whether the peers are to get the workloads' servers."""

    def workload(self, bench: Bench, made: Prepared) -> None:
        """Measure at one workload."""

    def measure(self, bench: Bench) -> None:
        """Measure what does not belong to a workload, after all of these."""

    def judge(self, bench: Bench) -> None:
        """Hold what was measured against the targets."""
