# SPDX-License-Identifier: Apache-2.0
"""Progress: on a terminal, as lines, as JSON, not at all."""

from __future__ import annotations

import io
import json
import os
import pty
import time

import pytest

from cloudlet_ext.cmd import progress


def work(report: progress.QuietReport, failed: bool = False) -> None:
    report.stage("capture")
    report.progress(50_000_000, 100_000_000)
    report.note("half of it")
    if not failed:
        report.progress(100_000_000, 100_000_000)
        report.stage("index")
        time.sleep(0.4)
    report.close(failed=failed)


def test_lines() -> None:
    stream = io.StringIO()
    work(progress.LineReport(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "half of it"
    assert lines[1].startswith("capture: 100 MB in 0.0")
    assert lines[2].startswith("index: 0.4")
    assert len(lines) == 3


def test_a_long_stage_has_lines_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.1)
    stream = io.StringIO()
    report = progress.LineReport(stream)
    report.stage("fetch")
    for done in range(1, 8):
        report.progress(done * 1_000_000, 20_000_000)
        time.sleep(0.05)
    report.close()
    on_the_way = [line for line in stream.getvalue().splitlines() if "so far" in line]
    assert on_the_way
    assert "% of 20.0 MB" in on_the_way[-1] and on_the_way[-1].endswith(" left")


def test_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_JSON_EVERY_S", 0.1)
    stream = io.StringIO()
    work(progress.JsonReport(stream))
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [part["stage"]["name"] for part in documents if "stage" in part] == ["capture", "index"]
    assert {"note": "half of it"} in documents
    told = [part["progress"] for part in documents if "progress" in part]
    assert told and told[-1].keys() == {"stage", "stage_s", "done_bytes", "total_bytes", "rate_bytes_per_s"}


def test_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream, os.fdopen(ours, "rb") as screen:
        report = progress.choose_report(as_json=False, quiet=False, stream=stream)
        assert isinstance(report, progress.TerminalReport)
        work(report)
        shown = os.read(screen.fileno(), 65536).decode()
    lines = [line.rpartition("\x1b[K")[2] for line in shown.split("\r\n")]
    assert [line for line in lines if "capture" in line][-1].startswith("\x1b[32m✔\x1b[0m capture      100 MB in")
    assert "  half of it" in lines
    assert any(line.endswith("s") and "index" in line for line in lines)


def test_a_failed_stage_is_not_shown_as_done() -> None:
    stream = io.StringIO()
    work(progress.LineReport(stream), failed=True)
    assert stream.getvalue() == "half of it\n"


@pytest.mark.parametrize(
    ("as_json", "quiet", "kind"),
    [
        (False, True, progress.QuietReport),
        (True, True, progress.QuietReport),
        (True, False, progress.JsonReport),
        (False, False, progress.LineReport),
    ],
)
def test_choice(as_json: bool, quiet: bool, kind: type) -> None:
    assert type(progress.choose_report(as_json=as_json, quiet=quiet, stream=io.StringIO())) is kind


def test_a_reader_that_leaves_does_not_end_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as stream:
        work(progress.LineReport(stream))
        with pytest.raises(BrokenPipeError):
            stream.write("x\n")
        # What was not written would be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
