# SPDX-License-Identifier: Apache-2.0
"""Many servers of one base."""

from __future__ import annotations

import time

from benchmarks import app, stock
from benchmarks.app_image import WEB, app_base, app_image
from benchmarks.bench import Bench
from benchmarks.figures.figure import Figure
from benchmarks.measure import proportional_bytes
from benchmarks.rows import OURS, Target
from benchmarks.tool import run
from cloudlet_ext.worker import server

_SERVERS = 10
_MEMORY_MIB = 1024
_AT_ONCE = 2
_SETTLE_S = 5.0
_TIMES, _RESUME_S = 3, 10.0
_ROW = f"base, {_MEMORY_MIB} MiB"
_ORDINARY = "ordinary boot"


class Density(Figure):
    """Memory of ten idle servers of one base, counting a shared page once, against that of one that was booted."""

    name = "density"
    title = "Density"

    def measure(self, bench: Bench) -> None:
        base = app_base(bench, _MEMORY_MIB)
        ordinary = self._ordinary(bench, base)
        names = [f"dense-{number}" for number in range(_SERVERS)]
        try:
            with bench.section(f"{_SERVERS} servers of one base"):
                started = run(
                    bench,
                    "start_servers",
                    base=base,
                    names=names,
                    at_once=_AT_ONCE,
                    wait_for=WEB.probe,
                    timeout_s=60.0,
                )
                time.sleep(_SETTLE_S)
            sizes = [proportional_bytes(server.load_running(bench.home, name).process.pid) for name in names]
        finally:
            for name in names:
                bench.stop(name)
        bench.rows.add(_ROW, OURS, f"memory of {_SERVERS} servers", sum(sizes), "bytes")
        bench.rows.add(_ROW, _ORDINARY, "memory of one server", ordinary, "bytes")
        bench.rows.add(_ROW, OURS, f"resume of {_SERVERS} servers", started.result["answered_s"], "s")
        bench.rows.add(_ROW, OURS, "the same with clock and address", started.result["elapsed_s"], "s")
        replies = [each["first_reply_s"] for each in started.result["servers"]]
        bench.rows.stages["density", _ROW] = (
            f"{_AT_ONCE} at a time; each answered {min(replies):.2f} to {max(replies):.2f} s after its QEMU was there; "
            f"all had clock and address of their own after {started.result['elapsed_s']:.1f} s"
        )

    def _ordinary(self, bench: Bench, base: str) -> int:
        """Memory of a server that was booted and answers."""
        name = "ordinary"
        try:
            with bench.section("one server, booted"):
                stock.boot(bench, base, app_image(bench), name).close()
                app.ask(bench, name, WEB.probe, timeout_s=120.0)
                time.sleep(_SETTLE_S)
            return proportional_bytes(server.load_running(bench.home, name).process.pid)
        finally:
            bench.stop(name)

    def judge(self, bench: Bench) -> None:
        find = bench.rows.find
        ten = find(f"memory of {_SERVERS} servers", _ROW, OURS)
        one = find("memory of one server", _ROW, _ORDINARY)
        seconds = find(f"resume of {_SERVERS} servers", _ROW, OURS)
        if ten is not None and one is not None:
            text = f"memory of {_SERVERS} idle servers to that of one booted"
            explained = f"{ten / 1e6:.0f} MB to {one / 1e6:.0f} MB"
            bench.rows.target(Target(self.name, _ROW, text, ten / one, _TIMES, "x", explained=explained))
        if seconds is not None:
            text, where = f"resuming {_SERVERS} servers", bench.rows.stages["density", _ROW]
            bench.rows.target(Target(self.name, _ROW, text, seconds, _RESUME_S, "s", explained=where))
