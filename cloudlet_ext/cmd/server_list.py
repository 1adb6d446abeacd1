# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server list``: the servers of this host."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "list the servers of this host"
DESCRIPTION = """
Lists the servers of this host. States: running; paused; starting (a command brings it up); busy (a command
has it); gone (its QEMU has ended: look at its logs, then stop it).
"""
EXAMPLE = "cloudlet server list"


def add_arguments(parser: ArgumentParser) -> None:
    """It has none."""


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.cmd.server_show import document_of
    from cloudlet_ext.worker import errors, server, server_care

    servers = []
    for name in server.names(call.home):
        try:
            servers.append(server_care.describe(server.load(call.home, name)))
        except (errors.NotFound, FileNotFoundError):
            # It was stopped meanwhile.
            continue
    rows = (
        (
            facts.name,
            facts.state,
            facts.base or "",
            facts.placement,
            text.capacity(facts.memory_bytes),
            text.seconds(facts.age_s) if facts.age_s is not None else "",
            text.forwards(facts.forwards) or "",
        )
        for facts in servers
    )
    head = ("NAME", "STATE", "BASE", "PLACEMENT", "MEMORY", "AGE", "FORWARDS")
    listing = text.table(head, rows, frozenset({4, 5})) if servers else f"no servers in {call.home.path}"
    return Outcome({"servers": [document_of(facts) for facts in servers]}, listing)
