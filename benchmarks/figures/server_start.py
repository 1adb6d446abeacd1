# SPDX-License-Identifier: Apache-2.0
"""Start of a server on a mapped base."""

from __future__ import annotations

from benchmarks.app_image import WEB, app_base
from benchmarks.bench import Bench
from benchmarks.figures.figure import Figure
from benchmarks.rows import OURS, Target
from benchmarks.tool import run

MEMORY_MIB = (1024, 4096)
_FIRST_REPLY_S, _LOAD_S = 0.3, 0.05


def row_name(memory_mib: int) -> str:
    """What stands for the workload in the rows."""
    return f"base, {memory_mib} MiB"


class ServerStart(Figure):
    """From QEMU's socket being there until the web server of the base answers, with the base in the page cache."""

    name = "server_start"
    title = "server start --base"

    def measure(self, bench: Bench) -> None:
        for memory_mib in MEMORY_MIB:
            base = app_base(bench, memory_mib)
            done = []
            with bench.section(f"{row_name(memory_mib)}: started {bench.repeats} times"):
                for turn in range(bench.repeats + 1):
                    each = run(bench, "start_server", base=base, name="started", wait_for=WEB.probe, timeout_s=60.0)
                    bench.stop("started")
                    if turn:  # The first one fills the page cache.
                        done.append(each)
            name = row_name(memory_mib)
            bench.rows.add(name, OURS, "first reply", [each.result["first_reply_s"] for each in done], "s")
            bench.rows.add(name, OURS, "load", [each.result["load_s"] for each in done], "s")
            bench.rows.add(name, OURS, "whole command", [each.elapsed_s for each in done], "s")
            bench.rows.stages["server start", name] = done[-1].stage_text()

    def judge(self, bench: Bench) -> None:
        for memory_mib in MEMORY_MIB:
            name = row_name(memory_mib)
            where = bench.rows.stages.get(("server start", name), "")
            for figure, limit in (("first reply", _FIRST_REPLY_S), ("load", _LOAD_S)):
                seconds = bench.rows.find(figure, name, OURS)
                if seconds is not None:
                    text = f"server start, {figure}"
                    bench.rows.target(Target(self.name, name, text, seconds, limit, "s", explained=where))
