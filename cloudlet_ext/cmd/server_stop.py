# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server stop``: end servers and remove what they have."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "end servers and remove what they have"
DESCRIPTION = """
Ends servers at once, as by pulling the plug, and removes their disks and memory. To keep what a server has
become, make an overlay of it first. A server that another command has is not stopped (exit status 9); the
others are.
"""
EXAMPLE = """
cloudlet server stop shop
cloudlet server stop --all
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of the servers")
    parser.add_argument("--all", action="store_true", help="all servers of this host")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd.errors import BadUsage
    from cloudlet_ext.worker import server, server_care
    from cloudlet_ext.worker.errors import WorkerError

    given = call.arguments
    if bool(given.names) == given.all:
        raise BadUsage(reason="give names of servers, or --all", command="cloudlet server stop")
    there = set(server.names(call.home))
    names = sorted(there) if given.all else given.names
    stopped: list[str] = []
    failures = []
    try:
        for name in names:
            try:
                server_care.stop_server(call.home, name)
                stopped.append(name)
            except WorkerError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
    except BaseException:
        # Looked at: one of them may have gone and not been noted.
        gone = sorted(there.difference(server.names(call.home)).intersection(names))
        if gone:
            call.report.leaves(f"Stopped: {', '.join(gone)}.")
        raise
    words = f"stopped: {', '.join(stopped)}" if stopped else "there are no servers"
    return Outcome({"stopped": stopped}, words)
