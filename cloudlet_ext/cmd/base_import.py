# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base import``: make a base of a base file."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from urllib.parse import urlsplit

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "make a base of a file that another site exported"
DESCRIPTION = """
Makes a base of FILE, a path or an http(s) URL. Every part is checked before it is used. When the source
fails or the import is interrupted, what has arrived is kept, and the same command goes on with it; "cloudlet
base list" shows it, and "cloudlet base delete" removes it. An import of another file under that name throws
it away. When the disk gets full, nothing is kept.
"""
EXAMPLE = """
cloudlet base import debian.base
cloudlet base import https://example.org/debian.base --name debian
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("file", metavar="FILE|URL", help="base file")
    parser.add_argument("--name", help="name of the base (default: that of the file, without its ending)")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.cmd.base_show import document_of
    from cloudlet_ext.engine.source import SourcePolicy
    from cloudlet_ext.worker import base_care

    given = call.arguments
    name = given.name or Path(urlsplit(given.file).path if "://" in given.file else given.file).stem
    facts = base_care.load(call.home, given.file, name, SourcePolicy(), call.report)
    took_s = call.report.elapsed_s
    document = {**document_of(facts), "import_s": took_s}
    return Outcome(document, f"base {name} ({facts.base_id[:12]}) is ready, imported in {text.seconds(took_s)}")
