# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base export``: write a base to one file."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "write a base to one file, for another site"
DESCRIPTION = "Writes a base to one compressed file that another site can import. Equal chunks are stored once."
EXAMPLE = "cloudlet base export debian debian.base"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_level

    parser.add_argument("name", metavar="NAME", help="name of the base")
    parser.add_argument("file", metavar="FILE", type=Path, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    add_level(parser)


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.worker import base_care

    given = call.arguments
    with call.telling(given.file, lambda: f"The file {given.file} is complete and stays."):
        written = base_care.export(
            call.home, given.name, given.file, level=given.level, overwrite=given.force, report=call.report
        )
    took_s = call.report.elapsed_s
    document = {"name": given.name, "file": str(given.file), "file_bytes": written, "export_s": took_s}
    return Outcome(
        document, f"base {given.name} is in {given.file}: {text.size(written)}, written in {text.seconds(took_s)}"
    )
