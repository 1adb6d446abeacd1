# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server start``: a server on a base, resumed instead of booted."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "start a server on a base: resumed, not booted"
DESCRIPTION = """
Starts a server from the captured memory of a base, which it shares with all other servers of that base
until it writes. It runs when the command ends, and until "cloudlet server stop". When the command fails or
is interrupted, nothing is left behind. Probes are those of "cloudlet base create".
"""
EXAMPLE = "cloudlet server start --base debian --name shop --forward 8080:80 --wait-for http://:80/"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_forwards, add_timeout

    parser.add_argument("--base", required=True, help="name of the base")
    parser.add_argument("--name", help="name of the server (default: the base's and a random part)")
    parser.add_argument("--wait-for", metavar="PROBE", help="wait until this has an answer")
    add_forwards(parser)
    add_timeout(parser, 60, "the probe")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.worker.starting import start_server

    given = call.arguments
    began = start_server(
        call.home, given.base, given.name, dict(given.forward), given.wait_for, given.timeout, call.report
    )
    document = {
        "name": began.name,
        "base": began.base,
        "placement": began.placement,
        "load_s": began.load_s,
        "first_reply_s": began.first_reply_s,
        "total_s": call.report.elapsed_s,
        "forwards": began.forwards,
        "clone": {"clock": began.clone.clock, "address": began.clone.address, "reason": began.clone.reason},
    }
    pairs = (
        ("state loaded in", text.seconds(began.load_s)),
        ("first reply after", text.seconds(began.first_reply_s) if began.first_reply_s is not None else None),
        ("forwards", text.forwards(began.forwards)),
        ("as captured", text.clone(began.clone.clock, began.clone.address, began.clone.reason)),
    )
    return Outcome(document, f"server {began.name} runs on base {began.base}\n{text.fields(pairs)}")
