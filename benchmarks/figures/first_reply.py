# SPDX-License-Identifier: Apache-2.0
"""Time to the first correct reply, through links of several rates and round trips."""

from __future__ import annotations

import statistics

from benchmarks import bases, packing, tool
from benchmarks.bench import USUAL, Bench
from benchmarks.figures.figure import Figure
from benchmarks.figures.size import peers_of
from benchmarks.link import Rate, open_link
from benchmarks.measure import ProcessFailed
from benchmarks.peers import PATCH_3, Peer
from benchmarks.prepared import Prepared
from benchmarks.rows import OURS, Target

RATES = (5, 10, 25, 38, 100)
ROUND_TRIPS = (1, 50)
_OFTEN_WHOLE_MBIT = 25
"""Below this rate all of the overlay is waited for only once: it takes as long as its bytes do."""


def synthesize(bench: Bench, made: Prepared, rate: Rate, *, whole: bool) -> tool.Done:
    """Synthesise through a link; unless ``whole``, only up to the first reply, where that comes before the rest."""
    name = f"{made.workload.name}-synthesised"
    with open_link(made.overlay.parent, rate) as link:
        done = tool.run(
            bench,
            "synthesize",
            overlay=link.url(made.overlay),
            name=name,
            probe=made.workload.probe,
            stop_at_reply=not whole,
        )
    bench.stop(name)
    reply = done.result["reply"].encode("latin-1")
    if reply != made.expected:
        raise ProcessFailed(f"the synthesised server answered {reply!r}, expected {made.expected!r}")
    return done


class FirstReply(Figure):
    """From the request until the app answers what only the captured server knows."""

    name = "first_reply"
    title = "First reply"
    needs_peers = True

    def workload(self, bench: Bench, made: Prepared) -> None:
        workload = made.workload.name
        if bench.rows.find("working set", workload, OURS) is None:
            bench.rows.add(workload, OURS, "working set", made.facts.first_reply_bytes, "bytes")
            bench.rows.add(workload, OURS, "size", made.facts.file_bytes, "bytes")
        wide = workload == "W1" and not bench.quick
        rates = [Rate(mbit, rtt) for rtt in ROUND_TRIPS for mbit in RATES] if wide else [USUAL]
        for rate in rates:
            self._ours(bench, made, rate)
        for peer in peers_of(bench, workload):
            peer_rates = [USUAL]
            if wide and peer is PATCH_3:
                peer_rates = [Rate(mbit, 1) for mbit in RATES] + [Rate(USUAL.mbit, 50)]
            for rate in peer_rates:
                self._peer(bench, made, peer, rate)

    def _ours(self, bench: Bench, made: Prepared, rate: Rate) -> None:
        rows, workload, count = bench.rows, made.workload.name, bench.repeats_of(made.workload.name)
        with bench.section(f"{workload}: {OURS}, {rate}, {count} times"):
            often = rate.mbit >= _OFTEN_WHOLE_MBIT
            done = [synthesize(bench, made, rate, whole=often or not turn) for turn in range(count)]
        whole = [each for each in done if "resident_s" in each.result]
        link = {"rate_mbit": rate.mbit, "rtt_ms": rate.rtt_ms}
        replies = [each.first_reply_s or 0.0 for each in done]
        rows.add(workload, OURS, "first reply", replies, "s", **link)
        rows.add(workload, OURS, "fully resident", [each.result["resident_s"] for each in whole], "s", **link)
        rows.add(workload, OURS, "guest runs", [each.result["running_s"] for each in whole], "s", **link)
        rows.add(workload, OURS, "synthesis peak memory", [each.peak.anonymous for each in done], "bytes", **link)
        usual = min(whole, key=lambda each: abs((each.first_reply_s or 0.0) - statistics.median(replies)))
        for stage, seconds in usual.stages:
            rows.add(workload, OURS, f"synthesis stage {stage}", seconds, "s", **link)
        rows.stages[f"synthesis {rate}", workload] = (
            f"guest runs {usual.result['running_s']:.2f} s, reply {usual.first_reply_s:.2f} s; "
            f"{usual.result['placement']}, {usual.result['pages_requested']} pages asked for; {usual.stage_text()}"
        )

    def _peer(self, bench: Bench, made: Prepared, peer: Peer, rate: Rate) -> None:
        with bench.section(f"{made.workload.name}: {peer.name}, {rate}"):
            done = packing.receive(bench, made, peer, rate)
        link = {"rate_mbit": rate.mbit, "rtt_ms": rate.rtt_ms}
        for figure, seconds in (
            ("first reply", done.first_reply_s),
            ("fully resident", done.first_reply_s),
            ("download", done.downloaded_s),
            ("unpacking after download", done.unpacked_s - done.downloaded_s),
            ("resume and reply", done.first_reply_s - done.unpacked_s),
        ):
            bench.rows.add(made.workload.name, peer.name, figure, seconds, "s", **link)

    def judge(self, bench: Bench) -> None:
        rows = bench.rows
        extra_s = 0.35 if bases.chosen_accelerator(bench) == "kvm" else 0.8
        working_set = rows.find("working set", "W1", OURS)
        for mbit in RATES:
            near, far = (rows.find("first reply", "W1", OURS, mbit, rtt) for rtt in ROUND_TRIPS)
            if near is not None and working_set is not None:
                limit = 1.2 * working_set / Rate(mbit, 1).bytes_per_s + extra_s
                where = rows.stages.get((f"synthesis {Rate(mbit, 1)}", "W1"), "")
                text, explained = f"first reply at {mbit} Mbit/s", f"working set {working_set / 1e6:.2f} MB; {where}"
                rows.target(Target(self.name, "W1", text, near, limit, "s", explained=explained))
            if near is not None and far is not None:
                text = f"first reply at {mbit} Mbit/s: what RTT 50 ms adds to RTT 1 ms"
                where = rows.stages.get((f"synthesis {Rate(mbit, 50)}", "W1"), "")
                rows.target(Target(self.name, "W1", text, far - near, 1.0, "s", explained=where))
