# SPDX-License-Identifier: Apache-2.0
"""First reply in guests of several sizes with the same app."""

from __future__ import annotations

import statistics

from benchmarks import app
from benchmarks.bench import USUAL, Bench
from benchmarks.figures.figure import Figure
from benchmarks.link import open_link
from benchmarks.measure import ProcessFailed
from benchmarks.prepared import create, read_facts, record
from benchmarks.rows import OURS, Target
from benchmarks.tool import Done, run
from benchmarks.workloads import WORKLOADS

MEMORY_MIB = (256, 1024, 2048, 4096)
_WITHIN = 0.20
_LINK = {"rate_mbit": USUAL.mbit, "rtt_ms": USUAL.rtt_ms}
_WEB = WORKLOADS["W1"]


def row_name(memory_mib: int) -> str:
    """What stands for the workload in the rows."""
    return f"W1, {memory_mib} MiB"


class Growth(Figure):
    """The overlay's content is the web workload's each time; only the guest's memory grows."""

    name = "growth"
    title = "Growth with the guest's memory"

    def measure(self, bench: Bench) -> None:
        for memory_mib in MEMORY_MIB:
            self._size(bench, memory_mib)

    def _size(self, bench: Bench, memory_mib: int) -> None:
        rows, name, overlay = bench.rows, row_name(memory_mib), bench.scratch / f"growth-{memory_mib}.cloudlet"
        running = app.start(bench, _WEB, memory_mib)
        try:
            created = create(bench, running, overlay, "auto")
        finally:
            bench.stop(running.server)
        record(bench, overlay, _WEB.probe)
        facts = read_facts(bench.home, overlay)
        rows.add(name, OURS, "size", facts.file_bytes, "bytes")
        rows.add(name, OURS, "working set", facts.first_reply_bytes, "bytes")
        rows.add(name, OURS, "creation", created.elapsed_s, "s")
        done: list[Done] = []
        with bench.section(f"{name}: {OURS}, {USUAL}, {bench.repeats} times"), open_link(bench.scratch, USUAL) as link:
            for _ in range(bench.repeats):
                each = run(
                    bench,
                    "synthesize",
                    overlay=link.url(overlay),
                    name="growth",
                    probe=_WEB.probe,
                    stop_at_reply=bool(done),
                )
                bench.stop("growth")
                if each.result["reply"].encode() != running.expected:
                    raise ProcessFailed(f"{name}: wrong reply {each.result['reply']!r}")
                done.append(each)
        first = statistics.median(each.first_reply_s or 0.0 for each in done)
        rows.add(name, OURS, "first reply", [each.first_reply_s or 0.0 for each in done], "s", **_LINK)
        rows.add(name, OURS, "fully resident", done[0].result["resident_s"], "s", **_LINK)
        rows.stages["growth", name] = f"first reply {first:.2f} s; {done[0].stage_text()}"
        overlay.unlink()

    def judge(self, bench: Bench) -> None:
        values = {size: bench.rows.find("first reply", row_name(size), OURS, **_LINK) for size in MEMORY_MIB}
        smallest = values[MEMORY_MIB[0]]
        if smallest is None:
            return
        for size in MEMORY_MIB[1:]:
            value = values[size]
            if value is not None:
                text = f"first reply at {size} MiB less that at {MEMORY_MIB[0]} MiB, as a part of it"
                where = bench.rows.stages.get(("growth", row_name(size)), "")
                explained = f"{value:.2f} s to {smallest:.2f} s; {where}"
                part = value / smallest - 1
                bench.rows.target(Target(self.name, "W1", text, part, _WITHIN, "", explained=explained))
