# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base delete``: delete a base that no server is on."""

from __future__ import annotations

from argparse import ArgumentParser

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "delete a base that no server is on, or an unfinished import"
DESCRIPTION = """
Deletes a base, and what an unfinished import has fetched under its name. Refused (exit status 9) while
servers are on it. Overlays that were made for it cannot be synthesised on this host until it is imported
again.
"""
EXAMPLE = "cloudlet base delete debian"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the base")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.worker import base_care

    name = call.arguments.name
    was_there = (call.home.bases / name).exists()
    try:
        freed = base_care.delete(call.home, name)
    except BaseException:
        if was_there and not (call.home.bases / name).exists():
            call.report.leaves(f"The base {name} is deleted; what is left of its files goes with the next deletion.")
        raise
    what = "base" if was_there else "the unfinished import of base"
    return Outcome({"name": name, "freed_bytes": freed}, f"{what} {name} is deleted, {text.size(freed)} are free again")
