# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server show``: one server in detail."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudlet_ext.cmd.call import Call, Outcome

if TYPE_CHECKING:
    from cloudlet_ext.worker.server_care import ServerFacts

SUMMARY = "show a server: state, ports, memory, files"
DESCRIPTION = "Shows a server: its state, base, forwarded ports, the memory that it uses of this host, its files."
EXAMPLE = "cloudlet server show shop"

_CONSOLE_BYTES = 4096
_CONSOLE_LINES = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the server")


def document_of(facts: ServerFacts) -> dict[str, Any]:
    """The facts as JSON values."""
    return {
        "name": facts.name,
        "state": facts.state,
        "base": facts.base,
        "base_id": facts.base_id,
        "placement": facts.placement,
        "vcpus": facts.vcpus,
        "memory_bytes": facts.memory_bytes,
        "disk_bytes": facts.disk_bytes,
        "mac": facts.mac,
        "forwards": facts.forwards,
        "folder": str(facts.folder),
        "pid": facts.pid,
        "age_s": facts.age_s,
    }


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.worker import server, server_care

    guest = server.load(call.home, call.arguments.name)
    facts = server_care.describe(guest)
    used = server_care.resident_bytes(guest) if facts.pid else None
    document = document_of(facts)
    document["host_memory_bytes"], document["host_memory_shared_bytes"] = used or (None, None)
    pairs = (
        ("state", facts.state),
        ("base", f"{facts.base} ({facts.base_id[:12]})" if facts.base and facts.base_id else None),
        ("placement", facts.placement),
        (
            "machine",
            f"{facts.vcpus} x vCPU, {text.capacity(facts.memory_bytes)}, disk {text.capacity(facts.disk_bytes)}",
        ),
        ("uses", f"{text.size(used[0])} of this host's memory ({text.size(used[1])} are shared)" if used else None),
        ("address", facts.mac),
        ("forwards", text.forwards(facts.forwards)),
        ("age", text.seconds(facts.age_s) if facts.age_s is not None else None),
        ("process", str(facts.pid) if facts.pid else None),
        ("folder", str(facts.folder)),
    )
    last = _console_tail(guest.folder)
    document["console_tail"] = last
    said = "\n".join(["  console", *(f"    {line}" for line in last)]) if last else ""
    return Outcome(document, f"server {facts.name}\n{text.fields(pairs)}\n{said}".rstrip())


def _console_tail(folder: Path) -> list[str]:
    from cloudlet_ext.worker.console import ConsoleReader

    lines = ConsoleReader(folder, _CONSOLE_BYTES).rest().decode(errors="replace").splitlines()
    printable = ("".join(letter for letter in line if letter.isprintable()).strip() for line in lines)
    return [line for line in printable if line][-_CONSOLE_LINES:]
