# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server forward``: forward a port of this host to a running server."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "forward a port of this host to a port of a server"
DESCRIPTION = "Forwards a TCP port of 127.0.0.1 to a port of a running server, for as long as it runs."
EXAMPLE = """
cloudlet server forward shop 8080:80
cloudlet server forward shop 5432
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import forward

    parser.add_argument("name", metavar="NAME", help="name of the server")
    parser.add_argument("ports", metavar="[HOST:]GUEST", type=forward, help="ports; without HOST a free one is taken")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker import server_care

    name, (guest_port, host_port) = call.arguments.name, call.arguments.ports
    host_port = server_care.forward(call.home, name, guest_port, host_port)
    document = {"name": name, "host": "127.0.0.1", "host_port": host_port, "guest_port": guest_port}
    return Outcome(document, f"127.0.0.1:{host_port} -> port {guest_port} of {name}")
