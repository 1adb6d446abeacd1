# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base list``: the bases of this host."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "list the bases of this host"
DESCRIPTION = """
Lists the bases of this host: identity, machine, room that they take, servers on them. Below them: imports
that have not ended well, with what they have fetched.
"""
EXAMPLE = "cloudlet base list --json"


def add_arguments(parser: ArgumentParser) -> None:
    """It has none."""


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.cmd.base_show import document_of
    from cloudlet_ext.worker import base_care

    documents: list[dict[str, Any]] = []
    rows = []
    for facts in base_care.list_bases(call.home):
        if isinstance(facts, tuple):
            documents.append({"name": facts[0], "error": str(facts[1])})
            rows.append((facts[0], "unusable", "", "", "", "", str(facts[1])))
            continue
        documents.append(document_of(facts))
        rows.append(
            (
                facts.name,
                facts.base_id[:12],
                str(facts.machine.get("vcpus", "")),
                text.capacity(facts.memory_bytes),
                text.capacity(facts.disk_bytes),
                text.size(facts.used_bytes),
                ", ".join(facts.servers),
            )
        )
    head = ("NAME", "IDENTITY", "VCPUS", "MEMORY", "DISK", "TAKES", "SERVERS")
    listing = text.table(head, rows, frozenset({2, 3, 4, 5})) if rows else f"no bases in {call.home.path}"
    unfinished = base_care.unfinished_imports(call.home)
    for left in unfinished:
        now = "goes on now" if left.is_running else "import the same file again to go on, delete it to be rid of it"
        listing += f"\nunfinished import: {left.name}, {text.size(left.kept_bytes)} are here ({now})"
    return Outcome({"bases": documents, "unfinished_imports": [asdict(left) for left in unfinished]}, listing)
