# SPDX-License-Identifier: Apache-2.0
"""Overlay size against the peers'."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks import packing
from benchmarks.bench import Bench
from benchmarks.figures.figure import Figure
from benchmarks.peers import ANCESTORS, PATCH_3, PATCH_19, SNAPSHOT, XDELTA, Peer
from benchmarks.prepared import Prepared
from benchmarks.rows import OURS, OURS_BEST, Target


class Size(Figure):
    """Bytes of the file that is sent."""

    name = "size"
    title = "Overlay size"
    needs_peers = True

    def __init__(self) -> None:
        self._later: list[Prepared] = []

    def workload(self, bench: Bench, made: Prepared) -> None:
        workload = made.workload.name
        bench.rows.add(workload, OURS, "size", made.facts.file_bytes, "bytes")
        bench.rows.add(workload, OURS, "size before recording", made.plain_bytes, "bytes")
        bench.rows.add(workload, OURS, "working set", made.facts.first_reply_bytes, "bytes")
        bench.rows.add(workload, OURS, "captured memory", made.facts.memory_bytes, "bytes")
        if made.best is not None:
            bench.rows.add(workload, OURS_BEST, "size", made.best.result["summary"]["file_bytes"], "bytes")
        for peer in peers_of(bench, workload):
            packing.pack(bench, made, peer)
        if bench.is_deep(workload):
            self._later.append(made)

    def measure(self, bench: Bench) -> None:
        """zstd's level 19 works for minutes on one core each: two at a time, when nothing else is measured."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda made: packing.pack(bench, made, PATCH_19), self._later))

    def judge(self, bench: Bench) -> None:
        find = bench.rows.find
        for workload in bench.workloads:
            auto, best = find("size", workload, OURS), find("size", workload, OURS_BEST)
            patch = find("size", workload, PATCH_19.name)
            snapshot = find("size", workload, SNAPSHOT.name)
            if auto is None:
                continue
            if not bench.is_deep(workload):
                when = "not in a quick run" if bench.quick else "only with --deep"
                bench.rows.unjudged.append(f"{workload}, overlay size to patch-from -19: {when}")
            if patch is not None and best is not None:
                self._ratio(bench, workload, "level 19 to patch-from -19", best, patch, 1.05)
            if patch is not None:
                self._ratio(bench, workload, "level auto to patch-from -19", auto, patch, 1.10)
            if workload == "W1" and snapshot is not None:
                self._ratio(bench, workload, "to external snapshot + zstd save", auto, snapshot, 0.25)
            if workload == "W0":
                bench.rows.target(Target(self.name, workload, "overlay of nothing", auto / 1e6, 1.0, "MB"))

    def _ratio(self, bench: Bench, workload: str, text: str, ours: float, theirs: float, limit: float) -> None:
        explained = f"{ours / 1e6:.2f} MB to {theirs / 1e6:.2f} MB"
        bench.rows.target(
            Target(self.name, workload, f"overlay size, {text}", ours / theirs, limit, "x", explained=explained)
        )


def peers_of(bench: Bench, workload: str) -> tuple[Peer, ...]:
    """The peers that a workload is compared with; the slow ones only at W0 and W1."""
    if bench.quick:
        return (PATCH_3,)
    return (SNAPSHOT, PATCH_3, XDELTA, ANCESTORS) if workload in ("W0", "W1") else (SNAPSHOT, PATCH_3)
