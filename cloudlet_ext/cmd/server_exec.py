# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server exec``: run a command in a server, by its guest agent."""

from __future__ import annotations

import sys
from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "run a command in a server, by its guest agent"
DESCRIPTION = """
Runs a command in the guest (which must run qemu-guest-agent), without a network. Its output is shown when
it has ended, and its exit status is ours. With --stdin it is given all of our standard input: nothing, where
that is closed.
"""
EXAMPLE = "cloudlet server exec shop -- systemctl is-active nginx"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_timeout

    parser.add_argument("name", metavar="NAME", help="name of the server")
    parser.usage = "%(prog)s NAME [--stdin] [--timeout S] -- COMMAND..."
    parser.set_defaults(command=[])
    parser.add_argument("--stdin", action="store_true", help="give it our standard input")
    add_timeout(parser, 60, "its end")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd.errors import BadUsage
    from cloudlet_ext.hypervisor.agent import GuestAgent
    from cloudlet_ext.worker import server

    given = call.arguments
    if not given.command:
        raise BadUsage(reason="say what to run, after --", command="cloudlet server exec")
    guest = server.load_running(call.home, given.name)
    stdin = sys.stdin.buffer.read() if given.stdin else b""
    with GuestAgent(guest.agent_path) as agent:
        ended = agent.run(given.command, given.timeout, stdin)
    document = {
        "name": given.name,
        "status": ended.status,
        "output": ended.output.decode(errors="replace"),
        "error": ended.error.decode(errors="replace"),
    }
    if not given.json:
        sys.stdout.buffer.write(ended.output)
        sys.stdout.flush()
        sys.stderr.buffer.write(ended.error)
        sys.stderr.flush()
    return Outcome(document, "", ended.status)
