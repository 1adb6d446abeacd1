# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay record``: put first in an overlay what a server needs until it answers."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "put first in an overlay what a server needs until it answers"
DESCRIPTION = """
Synthesises OVERLAY once in a scratch server, notes what that asks for until the probe has its answer, and
writes the overlay again with that at its front. What earlier recordings found stays. The overlay has another
identity afterwards and must be signed again. When this fails or is interrupted, OVERLAY is as it was.
"""
EXAMPLE = "cloudlet overlay record shop.cloudlet http://:80/"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_level, add_timeout

    parser.add_argument("overlay", metavar="OVERLAY", type=Path, help="overlay file")
    parser.add_argument("probe", metavar="PROBE", help="what is asked (see cloudlet base create)")
    add_level(parser)
    add_timeout(parser, 120, "the probe")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.cmd.overlay_create import recording_document, summary_document
    from cloudlet_ext.worker.recording import record

    given = call.arguments
    with call.telling(given.overlay, lambda: f"The overlay {given.overlay} was written again already, and stays so."):
        recorded = record(
            call.home, given.overlay, given.probe, level=given.level, timeout_s=given.timeout, report=call.report
        )
    document = {
        **summary_document(recorded.summary),
        "recording": recording_document(recorded),
        "total_s": call.report.elapsed_s,
    }
    pairs = (
        ("working set", text.working_set(recorded.chunks, recorded.first_reply_s)),
        ("size", text.size(recorded.summary.file_bytes)),
        ("identity", recorded.summary.overlay_id[:12]),
    )
    return Outcome(document, f"overlay {given.overlay}\n{text.fields(pairs)}")
