# SPDX-License-Identifier: Apache-2.0
"""Whatever ends an operation in the middle, at any stage: it is told clearly, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.exception import CloudletError
from cloudlet_ext.worker import base_creation, overlay_creation, recording, server, server_care, starting, synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.synthesis import SynthesisRequest
from tests.functional import guest as tools
from tests.functional.conftest import Start, tiny_request

STAGES = {
    "base": ["boot", "settle", "capture", "disk", "index"],
    "start": ["start", "load", "personalise"],
    "overlay": ["capture", "compare", "compress"],
    "overlay stopped": ["capture", "compare", "compress"],
    "record": ["manifest", "start", "run", "disk", "reorder"],
    "mapped": ["manifest", "fetch", "start", "load", "reply", "personalise"],
    "early": ["manifest", "start", "run", "disk", "personalise"],
}
"""Operations and the stages that they tell of."""

EVERY_STAGE = [(operation, stage) for operation, stages in STAGES.items() for stage in stages]
KILLS = [(*place, 0.0) for place in EVERY_STAGE]
KILLS += [("base", "boot", 0.1), ("base", "capture", 0.05), ("overlay", "capture", 0.05), ("start", "start", 0.1)]
KILLS += [("mapped", "start", 0.1), ("mapped", "load", 0.03), ("early", "start", 0.1), ("early", "run", 0.02)]
"""Operation, stage and seconds after its beginning."""

INTERRUPTIONS = [(*place, False) for place in EVERY_STAGE]
INTERRUPTIONS += [("base", "capture", True), ("base", "index", True), ("record", "reorder", True)]
INTERRUPTIONS += [("overlay", stage, True) for stage in STAGES["overlay"]]
INTERRUPTIONS += [("overlay stopped", stage, True) for stage in STAGES["overlay stopped"]]
"""Operation, stage, and whether it is its first progress that is interrupted, not its beginning."""

DOT = "console:."


@pytest.fixture(scope="module")
def overlay(home: Home, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "tiny.cloudlet"
    starting.start_server(home, tiny, "maker", {}, DOT, tools.WAIT_S, Report())
    overlay_creation.create_overlay(home, "maker", path, keep="deleted", level=1, report=Report())
    return path


Operate = Callable[[str, Report], None]


@pytest.fixture
def operate(home: Home, tiny: str, overlay: Path, start: Start, tmp_path: Path) -> Iterator[Operate]:
    """``operate(name, report)`` does one operation; what it leaves when it ends well goes with the test."""

    def synthesize(placement: str, report: Report) -> None:
        request = SynthesisRequest(str(overlay), "subject", placement=placement, probe=DOT, timeout_s=tools.WAIT_S)
        synthesis.synthesize(home, request, report)

    def create(keep: str, report: Report) -> None:
        if "subject" not in server.names(home):
            start(tiny, "subject")
        overlay_creation.create_overlay(home, "subject", tmp_path / "out", keep=keep, level=1, report=report)

    def record(report: Report) -> None:
        path = tmp_path / "recorded"
        shutil.copy(overlay, path)
        recording.record(home, path, DOT, level=1, timeout_s=tools.WAIT_S, report=report)

    operations: dict[str, Callable[[Report], object]] = {
        "base": lambda report: base_creation.create_base(home, tiny_request(tmp_path, "subject"), report),
        "start": lambda report: starting.start_server(home, tiny, "subject", {}, DOT, tools.WAIT_S, report),
        "overlay": lambda report: create("running", report),
        "overlay stopped": lambda report: create("stopped", report),
        "record": record,
        "mapped": lambda report: synthesize("mapped", report),
        "early": lambda report: synthesize("early", report),
    }
    yield lambda name, report: operations[name](report)
    for name in server.names(home):
        server.load(home, name).destroy()
    shutil.rmtree(home.bases / "subject", ignore_errors=True)


def results(home: Home, tmp_path: Path) -> list[str]:
    """What an operation would have made: its server, base or overlay."""
    found = [home.bases / "subject", tmp_path / "out", home.servers / "subject"]
    return [str(path) for path in found if path.exists()]


@pytest.mark.parametrize("operation", STAGES)
def test_stages_are_these(operate: Operate, operation: str) -> None:
    """The matrix below leaves none out."""
    report = Report()
    operate(operation, report)
    assert [name for name, _ in report.stages] == STAGES[operation]


class Killer:
    """Kills the first QEMU of a home that is there ``delay_s`` after it is called, as soon as there is one.

    One that is there at once is dead when the call returns: what comes next finds it so.
    """

    def __init__(self, home: Home, delay_s: float) -> None:
        self._home, self._delay_s = home, delay_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.killed: list[int] = []

    def __call__(self) -> None:
        if not self._delay_s:
            self._kill()
        if not self.killed:
            self._thread.start()

    def _kill(self) -> None:
        for running in tools.qemu_of(self._home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
                self.killed.append(running.pid)
            assert running.ended(tools.WAIT_S)

    def _run(self) -> None:
        self._over.wait(self._delay_s)
        while not self.killed and not self._over.is_set():
            self._kill()

    def close(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()


NEEDS_NO_QEMU = {
    ("base", "disk"),
    ("base", "index"),
    ("overlay", "compress"),
    ("overlay stopped", "compare"),
    ("overlay stopped", "compress"),
    ("record", "reorder"),
}
"""Stages from which on an operation has all that it needs of its guest: what it makes is whole without it."""


@pytest.mark.parametrize(("operation", "stage", "delay_s"), KILLS)
def test_qemu_is_killed(
    home: Home, operate: Operate, operation: str, stage: str, delay_s: float, tmp_path: Path
) -> None:
    killer = Killer(home, delay_s)
    began = time.monotonic()
    try:
        operate(operation, tools.Act(stage, killer))
    except CloudletError as error:
        assert killer.killed
        assert error.exit_code == 7, repr(error)
        assert "ended" in str(error), repr(error)
        assert results(home, tmp_path) == ([str(home.servers / "subject")] if "overlay" in operation else [])
        assert delay_s or (operation, stage) not in NEEDS_NO_QEMU
    else:
        killer.close()
        # One that is to be killed later may live as long as it is needed.
        assert delay_s or (operation, stage) in NEEDS_NO_QEMU, "it was killed, and nobody saw it"
        is_whole(home, operation, tmp_path)
        if killer.killed and "subject" in server.names(home):
            assert server_care.state(server.load(home, "subject")) == "gone"
    finally:
        killer.close()
    # Nobody waits for one that is gone.
    assert time.monotonic() - began < 30


def is_whole(home: Home, operation: str, tmp_path: Path) -> None:
    """What an operation that ended well has made can be used."""
    if operation == "base":
        with home.open_base("subject") as base:
            base.verify()
    elif operation in ("overlay", "overlay stopped", "record"):
        source = FileSource(tmp_path / ("recorded" if operation == "record" else "out"))
        overlay = OverlayFile.open(source)
        with home.find_base(str(overlay.base_id), overlay.path)[1] as base:
            overlay.verify(base)
        source.close()


def interrupt() -> None:
    raise KeyboardInterrupt


class ProgressInterrupted(Report):
    """Raises when the first progress of a stage is told."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def progress(self, done: int, total: int) -> None:
        if self.stages[-1][0] == self._stage and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt


@pytest.mark.parametrize(("operation", "stage", "within"), INTERRUPTIONS)
def test_it_is_interrupted(
    home: Home, operate: Operate, operation: str, stage: str, within: bool, tmp_path: Path
) -> None:
    report = ProgressInterrupted(stage) if within else tools.Act(stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        operate(operation, report)
    is_overlay = operation.startswith("overlay")
    assert results(home, tmp_path) == ([str(home.servers / "subject")] if is_overlay else [])
    if is_overlay:
        guest = server.load(home, "subject")
        assert tools.status(guest) == "running"
        assert tools.is_ticking(guest)
        operate(operation, Report())


WORKER = """
import sys
from pathlib import Path
from cloudlet_ext.worker import base_creation, synthesis
from cloudlet_ext.worker.base_creation import BaseRequest
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.synthesis import SynthesisRequest

class Stops(Report):
    def stage(self, name):
        super().stage(name)
        if name == sys.argv[3]:
            print(name, flush=True)
            sys.stdin.read()

home = Home(Path(sys.argv[1]))
if sys.argv[4] == "base":
    base_creation.create_base(
        home, BaseRequest(Path(sys.argv[2]), "subject", 16, wait_for="console:ready", settle_s=0.1), Stops())
else:
    synthesis.synthesize(home, SynthesisRequest(sys.argv[2], "subject", placement="early"), Stops())
"""


@pytest.mark.parametrize(("operation", "stage"), [("early", "run"), ("early", "disk"), ("base", "settle")])
def test_the_worker_is_killed(home: Home, tiny: str, overlay: Path, operation: str, stage: str, tmp_path: Path) -> None:
    """The next command that makes a server removes what can never go on."""
    source = tiny_request(tmp_path, "subject").image if operation == "base" else overlay
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(home.path), str(source), stage, operation],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == f"{stage}\n"
        (orphan,) = tools.qemu_of(home)
        worker.kill()
    assert orphan.alive
    (name,) = server.names(home)
    assert server.load(home, name).record.state == "starting"
    starting.start_server(home, tiny, "next", {}, DOT, tools.WAIT_S, Report())
    with tools.loaded(home, "next"):
        assert not orphan.alive
        assert server.names(home) == ["next"]
    if operation == "base":
        base_creation.create_base(home, tiny_request(tmp_path, "subject"), Report())
        shutil.rmtree(home.bases / "subject")


def test_a_worker_that_lives_is_left_alone(home: Home, tiny: str, overlay: Path) -> None:
    def look() -> None:
        assert server.clean_leftovers(home) == []

    request = SynthesisRequest(str(overlay), "subject", placement="early")
    synthesis.synthesize(home, request, tools.Act("run", look))
    with tools.loaded(home, "subject") as guest:
        assert guest.process.alive
