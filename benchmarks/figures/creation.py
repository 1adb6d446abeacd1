# SPDX-License-Identifier: Apache-2.0
"""What making an overlay costs: time, memory, the guest's pause."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures.figure import Figure
from benchmarks.figures.size import peers_of
from benchmarks.packing import pack
from benchmarks.peers import PATCH_3
from benchmarks.prepared import Prepared
from benchmarks.rows import OURS, OURS_BEST, Target

_PAUSE_S = 0.5
_PAUSE_PER_BYTES = 256 << 20


class Creation(Figure):
    """From the request until the file is there; a peer's time begins with QEMU's save."""

    name = "creation"
    title = "Overlay creation"
    needs_peers = True

    def workload(self, bench: Bench, made: Prepared) -> None:
        rows, workload = bench.rows, made.workload.name
        rows.add(workload, OURS, "creation", [done.elapsed_s for done in made.created], "s")
        rows.add(workload, OURS, "pause", [done.result["pause_s"] for done in made.created], "s")
        rows.add(workload, OURS, "creation peak memory", [done.peak.anonymous for done in made.created], "bytes")
        rows.add(workload, OURS, "recording", made.recorded.elapsed_s, "s")
        if rows.find("captured memory", workload, OURS) is None:
            rows.add(workload, OURS, "captured memory", made.facts.memory_bytes, "bytes")
        usual = sorted(made.created, key=lambda done: done.elapsed_s)[len(made.created) // 2]
        for stage, seconds in usual.stages:
            rows.add(workload, OURS, f"creation stage {stage}", seconds, "s")
        level = usual.result["summary"]["level"]
        rows.stages["creation", workload] = f"{usual.stage_text()} (level {level})"
        if made.best is not None:
            rows.add(workload, OURS_BEST, "creation", made.best.elapsed_s, "s")
            rows.add(workload, OURS_BEST, "creation peak memory", made.best.peak.anonymous, "bytes")
        for peer in peers_of(bench, workload):
            pack(bench, made, peer)

    def judge(self, bench: Bench) -> None:
        find, stages = bench.rows.find, bench.rows.stages
        for workload in bench.workloads:
            ours, theirs = (find("creation", workload, tool) for tool in (OURS, PATCH_3.name))
            where = stages.get(("creation", workload), "")
            if ours is not None and theirs is not None:
                text = "creation, times faster than patch-from -3"
                explained = f"{ours:.2f} s to {theirs:.2f} s; {where}"
                bench.rows.target(Target(self.name, workload, text, theirs / ours, 5, "x", True, explained))
            ours, theirs = (find("creation peak memory", workload, tool) for tool in (OURS, PATCH_3.name))
            if ours is not None and theirs is not None:
                text = "creation, peak memory to patch-from -3"
                explained = f"{ours / 1e6:.0f} MB to {theirs / 1e6:.0f} MB"
                bench.rows.target(Target(self.name, workload, text, ours / theirs, 1 / 8, "x", explained=explained))
            pause, memory = find("pause", workload, OURS), find("captured memory", workload, OURS)
            if pause is not None and memory is not None:
                limit = _PAUSE_S * memory / _PAUSE_PER_BYTES
                explained = f"{memory / (1 << 20):.0f} MiB are not zero"
                bench.rows.target(Target(self.name, workload, "guest paused", pause, limit, "s", explained=explained))
