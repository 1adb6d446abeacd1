# SPDX-License-Identifier: Apache-2.0
"""First reply against the download and boot of the whole image."""

from __future__ import annotations

from benchmarks.app_image import app_image
from benchmarks.bench import USUAL, Bench
from benchmarks.figures.figure import Figure
from benchmarks.figures.first_reply import synthesize
from benchmarks.peers import whole_image
from benchmarks.prepared import Prepared
from benchmarks.rows import IMAGE, OURS, Target

_TIMES = 20
_LINK = {"rate_mbit": USUAL.mbit, "rtt_ms": USUAL.rtt_ms}


class Image(Figure):
    """At the web workload and 38 Mbit/s."""

    name = "image"
    title = "Against whole image and boot"

    def workload(self, bench: Bench, made: Prepared) -> None:
        if made.workload.name != "W1":
            return
        rows = bench.rows
        if rows.find("first reply", "W1", OURS, **_LINK) is None:
            done = [synthesize(bench, made, USUAL, whole=False) for _ in range(bench.repeats)]
            rows.add("W1", OURS, "first reply", [each.first_reply_s or 0.0 for each in done], "s", **_LINK)
        image = app_image(bench)
        with bench.section(f"W1: {IMAGE}, {USUAL}"):
            booted = whole_image.receive(bench, image, made.base, made.workload.probe, USUAL)
        rows.add("W1", IMAGE, "size", booted.size_bytes, "bytes")
        for figure, seconds in (
            ("first reply", booted.first_reply_s),
            ("fully resident", booted.first_reply_s),
            ("download", booted.downloaded_s),
            ("unpacking after download", booted.unpacked_s - booted.downloaded_s),
            ("boot and reply", booted.first_reply_s - booted.unpacked_s),
        ):
            rows.add("W1", IMAGE, figure, seconds, "s", **_LINK)

    def judge(self, bench: Bench) -> None:
        find = bench.rows.find
        ours, theirs = (find("first reply", "W1", tool, **_LINK) for tool in (OURS, IMAGE))
        if ours is None or theirs is None:
            return
        boot = find("boot and reply", "W1", IMAGE, **_LINK) or 0.0
        explained = f"{ours:.2f} s to {theirs:.2f} s, of which {boot:.2f} s are boot and reply"
        text = f"times sooner than whole image and boot at {USUAL.mbit} Mbit/s"
        bench.rows.target(Target(self.name, "W1", text, theirs / ours, _TIMES, "x", True, explained))
