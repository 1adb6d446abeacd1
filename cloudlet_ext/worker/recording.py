# SPDX-License-Identifier: Apache-2.0
"""Recording: which chunks a guest needs until it answers, so that an overlay can begin with them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.overlay_writer import OverlaySummary, reorder_overlay
from cloudlet_ext.worker import overlay_care, server
from cloudlet_ext.worker.errors import NotFound
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.recorder import Recorder
from cloudlet_ext.worker.report import Report, Section
from cloudlet_ext.worker.synthesis import EARLY, SynthesisRequest, synthesize


@dataclass(frozen=True)
class RecordingResult:
    """What was recorded: chunks asked for until the answer, and the overlay as it is now."""

    chunks: int
    first_reply_s: float
    summary: OverlaySummary


def record(
    home: Home, overlay: Path, probe_text: str, *, level: int | str, timeout_s: float, report: Report
) -> RecordingResult:
    """Synthesise ``overlay`` in a scratch guest and write it again with what the guest asked for at its front.

    What earlier recordings found stays in the working set. A signature is lost: the overlay is another one now.
    :class:`errors.Busy` while another recording of it runs, or somebody signs it: that would be lost.
    """
    with overlay_care.changing(overlay):
        return _record(home, overlay, probe_text, level=level, timeout_s=timeout_s, report=report)


def _record(
    home: Home, overlay: Path, probe_text: str, *, level: int | str, timeout_s: float, report: Report
) -> RecordingResult:
    source = FileSource(str(overlay))
    try:
        opened = OverlayFile.open(source)
        recorder = Recorder(opened.layout.disk_chunks)
        request = SynthesisRequest(
            overlay=str(overlay),
            name=server.new_name("recording"),
            placement=EARLY,
            probe=probe_text,
            timeout_s=timeout_s,
        )
        try:
            result = synthesize(home, request, Section(report), recorder)
        finally:
            # It may be there after an interruption that came when it was complete.
            with contextlib.suppress(NotFound):
                server.load(home, str(request.name)).destroy()
        report.stage("reorder")
        order = recorder.order
        _, base = home.find_base(opened.base_id or "none", str(overlay))
        with base:
            summary = reorder_overlay(
                opened, base, [order], overlay, home.scratch, level=level, replace=True, progress=report.progress
            )
    finally:
        source.close()
    return RecordingResult(len(order), result.first_reply_s or 0.0, summary)
