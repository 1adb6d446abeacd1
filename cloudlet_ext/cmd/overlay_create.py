# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay create``: what a server has become, as the difference to its base."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudlet_ext.cmd.call import Call, Outcome

if TYPE_CHECKING:
    from cloudlet_ext.engine.overlay_writer import OverlaySummary
    from cloudlet_ext.worker.overlay_creation import OverlayResult
    from cloudlet_ext.worker.recording import RecordingResult

SUMMARY = "write what a server has become to a file, as the difference to its base"
DESCRIPTION = """
Captures disk and memory of a running server and writes to OUT what differs from its base. The server is
paused only while the last of its memory is copied and its disk is compared; then it goes on
(--keep running), stays paused (stopped), or is removed (deleted). When this fails or is interrupted before
OUT is complete, the server goes on as before and there is no OUT; afterwards OUT stays, and is told of.

With --record the overlay is then synthesised once in a scratch server until the probe has its answer, and
what that server asked for is put first in the file. If only this step fails, OUT is complete, without it.
"""
EXAMPLE = """
cloudlet overlay create --server shop shop.cloudlet --record http://:80/
cloudlet overlay create --server shop shop.cloudlet --keep deleted --level 19
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_level, add_timeout

    parser.add_argument("out", metavar="OUT", type=Path, help="file to write")
    parser.add_argument("--server", required=True, metavar="NAME", help="name of the server")
    parser.add_argument(
        "--keep",
        choices=("running", "stopped", "deleted"),
        default="running",
        help="what becomes of the server (default: running)",
    )
    parser.add_argument("--record", metavar="PROBE", help="put first what a server needs until this has an answer")
    parser.add_argument("--no-trim", action="store_true", help="do not ask the guest which disk blocks are free")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    add_level(parser)
    add_timeout(parser, 120, "the probe of --record")


def recording_document(recorded: RecordingResult) -> dict[str, Any]:
    """What a recording found, as JSON values."""
    return {"working_set_chunks": recorded.chunks, "first_reply_s": recorded.first_reply_s}


def summary_document(summary: OverlaySummary) -> dict[str, Any]:
    """What was written, as JSON values."""
    return {
        "file": str(summary.path),
        "overlay_id": summary.overlay_id,
        "file_bytes": summary.file_bytes,
        "level": summary.level,
        "chunks": asdict(summary.statistics),
    }


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker import probe

    given = call.arguments
    if given.record:
        # Before the server is captured, not after.
        probe.parse(given.record)
    with call.telling(given.out, lambda: _left(call)):
        return _create(call)


def _create(call: Call) -> Outcome:
    from cloudlet_ext.worker.overlay_creation import create_overlay
    from cloudlet_ext.worker.recording import record

    given = call.arguments
    made = create_overlay(
        call.home,
        given.server,
        given.out,
        keep=given.keep,
        level=given.level,
        report=call.report,
        trim=not given.no_trim,
        overwrite=given.force,
    )
    recorded = None
    if given.record:
        call.report.note(f"{given.out} is complete; recording what comes first")
        recorded = record(
            call.home, given.out, given.record, level=given.level, timeout_s=given.timeout, report=call.report
        )
    return _outcome(call, made, recorded)


def _outcome(call: Call, made: OverlayResult, recorded: RecordingResult | None) -> Outcome:
    from cloudlet_ext.cmd import text

    given, state = call.arguments, _state(call)
    summary = recorded.summary if recorded else made.summary
    document = {
        **summary_document(summary),
        "base_id": made.base_id,
        "server": given.server,
        "kept": given.keep,
        "server_state": state,
        "create_s": made.create_s,
        "pause_s": made.pause_s,
        "total_s": call.report.elapsed_s,
        "recording": recording_document(recorded) if recorded else None,
    }
    pairs = (
        ("size", f"{text.size(summary.file_bytes)} (zstd -{summary.level})"),
        ("written in", text.seconds(made.create_s)),
        ("server", f"{given.server} was paused for {text.seconds(made.pause_s)}, {_now(state)}"),
        ("content", text.sources(asdict(summary.statistics))),
        ("working set", text.working_set(recorded.chunks, recorded.first_reply_s) if recorded else None),
    )
    return Outcome(document, f"overlay {given.out}\n{text.fields(pairs)}")


def _state(call: Call) -> str:
    """What the server is doing, looked at: it may have ended since it was captured."""
    from cloudlet_ext.worker import server, server_care
    from cloudlet_ext.worker.errors import NotFound

    try:
        return server_care.state(server.load(call.home, call.arguments.server))
    except NotFound:
        return "deleted"


def _now(state: str) -> str:
    return {"running": "runs on", "paused": "is paused", "gone": "has ended"}.get(state, f"is {state}")


def _left(call: Call) -> str:
    """What is there when this does not end well after OUT was complete; the server is as far as it has come."""
    given = call.arguments
    recorded = " It may lack the working set of --record: see cloudlet overlay show." if given.record else ""
    now = _now(_state(call))
    return f"The overlay {given.out} is complete and stays; the server {given.server} {now}.{recorded}"
