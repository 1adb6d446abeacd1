# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base show``: one base in detail."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

from cloudlet_ext.cmd.call import Call, Outcome

if TYPE_CHECKING:
    from cloudlet_ext.worker.base_care import BaseFacts

SUMMARY = "show a base: identity, machine, content"
DESCRIPTION = "Shows a base: its identity, the machine that it needs, how much of its disk and memory is in use."
EXAMPLE = "cloudlet base show debian"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the base")


def document_of(facts: BaseFacts) -> dict[str, Any]:
    """The facts as JSON values."""
    return {
        "name": facts.name,
        "base_id": facts.base_id,
        "folder": str(facts.folder),
        "machine": facts.machine,
        "disk_bytes": facts.disk_bytes,
        "memory_bytes": facts.memory_bytes,
        "used_bytes": facts.used_bytes,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(facts.created)),
        "servers": list(facts.servers),
    }


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.worker import base_care

    facts = base_care.describe(call.home, call.arguments.name)
    content = base_care.content(call.home, facts.name)
    document = document_of(facts)
    document["disk_content_bytes"] = content.disk_bytes
    document["memory_content_bytes"] = content.memory_bytes
    machine = facts.machine
    pairs = (
        ("identity", facts.base_id),
        ("folder", document["folder"]),
        ("created", document["created"]),
        ("machine", f"{machine.get('machine_type', '?')} on {machine.get('accelerator', '?')}"),
        ("processors", f"{machine.get('vcpus', '?')} x {machine.get('cpu', '?')}"),
        ("memory", f"{text.capacity(facts.memory_bytes)}, {text.size(content.memory_bytes)} in use"),
        ("disk", f"{text.capacity(facts.disk_bytes)}, {text.size(content.disk_bytes)} in use"),
        ("kernel", machine.get("kernel_cmdline") if machine.get("direct_kernel") else "of its disk"),
        ("guest agent", "yes" if machine.get("agent") else "no: clones keep its address and clock"),
        ("takes", text.size(facts.used_bytes)),
        ("servers", ", ".join(facts.servers) or "none"),
    )
    return Outcome(document, f"base {facts.name}\n{text.fields(pairs)}")
