# SPDX-License-Identifier: Apache-2.0
"""Bit-exactness of synthesis, in both placements."""

from __future__ import annotations

from benchmarks import app, exact
from benchmarks.bench import Bench
from benchmarks.figures.figure import Figure
from benchmarks.prepared import Prepared
from benchmarks.rows import OURS, Target
from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.worker import server
from cloudlet_ext.worker.starting import EARLY, MAPPED


class Exactness(Figure):
    """At the web workload: a guest that is synthesised and never ran, against the one that was captured."""

    name = "exactness"
    title = "Bit-exactness"

    def workload(self, bench: Bench, made: Prepared) -> None:
        if made.original is None:
            return
        for placement in (MAPPED, EARLY):
            answers: list[bool] = []

            def continue_guest(name: str, answers: list[bool] = answers) -> None:
                answers.append(self._answers(bench, made, name))

            with bench.section(f"W1: exactness, {placement}"):
                found = exact.compare(bench, made.original, placement, made.overlay.parent, continue_guest)
            tool = f"{OURS}, {placement}"
            rows = bench.rows
            rows.add("W1", tool, "pages compared", found.pages, "pages")
            unequal = found.differing + found.memory + (0 if found.disk else 1)
            rows.add("W1", tool, "pages and disks that differ", unequal, "pages")
            rows.add("W1", tool, "nonces not answered", 0 if all(answers) and answers else 1, "answers")

    def _answers(self, bench: Bench, made: Prepared, name: str) -> bool:
        """Whether nginx and redis know what only the captured memory knew."""
        reply = app.ask(bench, name, made.workload.probe)
        with GuestAgent(server.load_running(bench.home, name).agent_path) as agent:
            nonce = agent.run(["/usr/bin/redis-cli", "get", "nonce"], 20).output.decode().strip()
        return reply == made.expected and nonce == made.nonce

    def judge(self, bench: Bench) -> None:
        for placement in (MAPPED, EARLY):
            tool = f"{OURS}, {placement}"
            for figure in ("pages and disks that differ", "nonces not answered"):
                value = bench.rows.find(figure, "W1", tool)
                if value is not None:
                    compared = bench.rows.find("pages compared", "W1", tool) or 0
                    explained = f"{compared:.0f} pages and the disk; the VM generation id is to differ"
                    text = f"{figure}, {placement}"
                    bench.rows.target(Target(self.name, "W1", text, value, 0, "", explained=explained))
