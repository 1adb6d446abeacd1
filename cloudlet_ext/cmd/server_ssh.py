# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server ssh``: a shell in a server, by its SSH server."""

from __future__ import annotations

import os
import shutil
from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "log in to a server by SSH"
DESCRIPTION = """
Forwards a port of this host to port 22 of the server and becomes ssh, with the words after "--" as the
command. The host key is remembered per base, since all servers of a base have the same one.
"""
EXAMPLE = """
cloudlet server ssh shop
cloudlet server ssh shop --identity key --user root -- uptime
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the server")
    parser.add_argument("--identity", type=Path, metavar="FILE", help="private key to log in with")
    parser.add_argument("--user", default="root", help="user in the guest (default: root)")
    parser.usage = "%(prog)s NAME [--identity FILE] [--user USER] [-- COMMAND...]"
    parser.set_defaults(command=[])


def run(call: Call) -> Outcome:
    """Do it; does not return unless it fails."""
    from cloudlet_ext.cmd.errors import ProgramMissing
    from cloudlet_ext.worker import server, server_care

    given = call.arguments
    program = shutil.which("ssh")
    if program is None:
        raise ProgramMissing(program="ssh", package="openssh-client")
    port = server_care.forward(call.home, given.name, 22, 0)
    base_id = server.load(call.home, given.name).record.base_id or given.name
    line = [program, "-p", str(port), "-l", given.user, "-o", f"HostKeyAlias=cloudlet-{base_id[:16]}"]
    line += ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={call.home.path / 'known_hosts'}"]
    if given.quiet or given.command:
        line += ["-o", "LogLevel=ERROR"]
    if given.identity is not None:
        line += ["-o", "IdentitiesOnly=yes", "-i", str(given.identity)]
    os.execv(program, [*line, "127.0.0.1", *given.command])
    raise AssertionError("not reached")
