# SPDX-License-Identifier: Apache-2.0
"""Commands that are interrupted when something of theirs is complete: it stays, and the message tells so."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudlet_ext.worker import server, server_care
from cloudlet_ext.worker.home import Home
from tests.functional import guest as tools
from tests.functional.conftest import Start, tiny_request
from tests.functional.test_cli import LIMIT_S, CommandLine

STOPS = """
import sys, time
from cloudlet_ext.cmd.cloudlet import main
import {module} as module
holder = module{of}
original = holder.{name}
def stops(*arguments, **more):
    if {after}:
        original(*arguments, **more)
    print("here", file=sys.stderr, flush=True)
    time.sleep(600)
holder.{name} = stops
sys.exit(main(sys.argv[1:]))
"""
"""The command line, which stops before or after a function is called, to be interrupted there."""


def interrupted(home: Home, stops: dict[str, object], *words: object) -> str:
    """Run a command up to a place, and interrupt it; what it said last."""
    script = STOPS.format(**{"of": "", "after": False, **stops})
    line = [sys.executable, "-c", script, "--home", str(home.path), "--quiet", *map(str, words)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        assert running.stderr.readline() == "here\n"
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130
    assert error.count("\n") == 1 and "Traceback" not in error
    return error.strip()


DESTROY = {"module": "cloudlet_ext.worker.server", "of": ".Server", "name": "destroy"}
RECORD = {"module": "cloudlet_ext.worker.recording", "name": "record"}
RENAMED = {"module": "cloudlet_ext.engine.output", "name": "sync_folder"}
WRITE = {"module": "cloudlet_ext.worker.overlay_creation", "name": "write_overlay"}
STAYS = "cloudlet: Interrupted. The overlay {out} is complete and stays; the server subject {now}."
UNDONE = "cloudlet: Interrupted. What was begun was undone."
LACKS = " It may lack the working set of --record: see cloudlet overlay show."


@pytest.mark.parametrize(
    ("keep", "stops", "more", "told", "state"),
    [
        ("deleted", WRITE, [], UNDONE, "running"),
        ("deleted", {**RENAMED, "after": True}, [], STAYS.format(out="{out}", now="runs on"), "running"),
        ("deleted", DESTROY, [], STAYS.format(out="{out}", now="is paused"), "paused"),
        ("deleted", {**DESTROY, "after": True}, [], STAYS.format(out="{out}", now="is deleted"), None),
        ("deleted", RECORD, ["--record", "console:."], STAYS.format(out="{out}", now="is deleted") + LACKS, None),
        ("stopped", RECORD, ["--record", "console:."], STAYS.format(out="{out}", now="is paused") + LACKS, "paused"),
        ("running", RECORD, ["--record", "console:."], STAYS.format(out="{out}", now="runs on") + LACKS, "running"),
    ],
    ids=["write", "renamed", "destroy", "destroyed", "deleted, record", "stopped, record", "running, record"],
)
def test_overlay_creation(
    home: Home,
    tiny: str,
    start: Start,
    tmp_path: Path,
    keep: str,
    stops: dict[str, object],
    more: list[str],
    told: str,
    state: str | None,
) -> None:
    out = tmp_path / "out"
    guest = start(tiny, "subject")
    words = ["overlay", "create", "--server", "subject", out, "--keep", keep, *more]
    assert interrupted(home, stops, *words) == told.format(out=out)
    assert (server_care.state(guest) if guest.folder.exists() else None) == state
    assert guest.process.alive == (state is not None)
    if state == "running":
        assert tools.is_ticking(guest)
    assert out.exists() == (told != UNDONE)
    if out.exists():
        assert CommandLine(home.path.parent)("overlay", "verify", out)["is_intact"] is True


def test_a_failure_after_the_overlay_was_complete(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    start(tiny, "subject")
    out = tmp_path / "out"
    words = ["overlay", "create", "--server", "subject", out, "--record", "console:never", "--timeout", "1"]
    told = CommandLine(home.path.parent)(*words, code=10)
    assert told["kind"] == "ProbeTimedOut"
    assert told["message"].endswith(f"The overlay {out} is complete and stays; the server subject runs on.{LACKS}")
    assert told["facts"]["left"] == [f"The overlay {out} is complete and stays; the server subject runs on.{LACKS}"]


def test_overlays_that_were_there_before(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    """One that is to be replaced, and is not, is none of the command's."""
    start(tiny, "subject")
    out = tmp_path / "out"
    out.write_text("another")
    words = ["overlay", "create", "--server", "subject", out, "--force"]
    assert interrupted(home, WRITE, *words) == UNDONE
    assert out.read_text() == "another"


def test_recording(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    start(tiny, "subject")
    out = tmp_path / "out"
    CommandLine(home.path.parent)("overlay", "create", "--server", "subject", out)
    before = out.read_bytes()
    reorder = {"module": "cloudlet_ext.worker.recording", "name": "reorder_overlay"}
    assert interrupted(home, reorder, "overlay", "record", out, "console:.") == UNDONE
    assert out.read_bytes() == before
    told = f"cloudlet: Interrupted. The overlay {out} was written again already, and stays so."
    assert interrupted(home, {**reorder, "after": True}, "overlay", "record", out, "console:.") == told
    assert out.read_bytes() != before


def test_base_creation(tmp_path: Path) -> None:
    """Complete when its folder has its name."""
    mine = Home(tmp_path / "home")
    request = tiny_request(tmp_path, "subject")
    words = ["base", "create", request.image, "--name", "subject", "--memory", "16", "--wait-for", request.wait_for]
    result = {"module": "cloudlet_ext.worker.base_creation", "name": "finish_base"}
    assert interrupted(mine, result, *words) == UNDONE
    assert mine.base_names() == []
    result["name"] = "BaseResult"
    assert interrupted(mine, result, *words) == "cloudlet: Interrupted. The base subject is complete and stays."
    assert CommandLine(tmp_path)("base", "verify", "subject")["is_intact"] is True


def test_several_servers(home: Home, tiny: str, start: Start) -> None:
    """Those that have gone do not come back."""
    for name in ("one", "two"):
        start(tiny, name)
    clean = {"module": "cloudlet_ext.worker.server_care", "name": "stop_server", "after": True}
    assert interrupted(home, clean, "server", "stop", "one", "two") == "cloudlet: Interrupted. Stopped: one."
    assert [facts["name"] for facts in CommandLine(home.path.parent)("server", "list")["servers"]] == ["two"]


@pytest.mark.parametrize("result", ["start", "synthesize"])
def test_a_server_that_nobody_was_told_of_goes(
    home: Home, tiny: str, start: Start, tmp_path: Path, result: str
) -> None:
    """Although it runs: its command has not said so, and did not end well."""
    stops = {"module": "cloudlet_ext.worker.starting", "name": "StartResult"}
    words: list[object] = ["server", "start", "--base", tiny]
    if result == "synthesize":
        start(tiny, "source")
        CommandLine(home.path.parent)("overlay", "create", "--server", "source", tmp_path / "out", "--keep", "deleted")
        stops = {"module": "cloudlet_ext.cmd.synthesize", "name": "_document"}
        words = ["synthesize", tmp_path / "out"]
    assert interrupted(home, {**stops}, *words) == UNDONE
    assert server.names(home) == []
