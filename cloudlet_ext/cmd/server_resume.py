# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server resume``: let a paused server go on."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "let a paused server go on"
DESCRIPTION = 'Lets a server go on that "cloudlet overlay create --keep stopped" left paused.'
EXAMPLE = "cloudlet server resume shop"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the server")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker import server_care

    name = call.arguments.name
    was_paused = server_care.resume_server(call.home, name)
    words = f"server {name} runs again" if was_paused else f"server {name} was running"
    return Outcome({"name": name, "was_paused": was_paused}, words)
