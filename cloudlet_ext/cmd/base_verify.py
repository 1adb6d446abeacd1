# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base verify``: read all of a base and compare it with its identity."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "read all of a base and compare it with its identity"
DESCRIPTION = """
Reads every chunk of a base and compares it with the digests that its identity stands for. Ends with
exit status 3 and the name of the place when something differs.
"""
EXAMPLE = "cloudlet base verify debian"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the base")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.worker import base_care

    name = call.arguments.name
    base_care.verify(call.home, name, call.report)
    facts = base_care.describe(call.home, name)
    took_s = call.report.elapsed_s
    document = {"name": name, "base_id": facts.base_id, "is_intact": True, "verify_s": took_s}
    return Outcome(document, f"base {name} ({facts.base_id[:12]}) is intact, verified in {text.seconds(took_s)}")
