# SPDX-License-Identifier: Apache-2.0
"""Early start from a web server that goes away in mid-air."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudlet_ext.engine.container import FIRST_READ_BYTES
from cloudlet_ext.engine.errors import Damaged
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.manifest import WORKING_SET
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.source import SourcePolicy
from cloudlet_ext.worker import errors, recording, server, synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.synthesis import SynthesisRequest, SynthesisResult
from tests.functional import guest as tools
from tests.functional.conftest import DIGESTS, Made
from tests.unit.engine.faulty_server import FaultyHandler, FaultyServer

IMPATIENT = Patience(attempts=1000, first_delay_s=0.05, longest_delay_s=0.2, give_up_s=3.0)
POLICY = SourcePolicy(timeout_s=5.0, patience=IMPATIENT)


class Source(FaultyServer):
    """Sends the bytes before ``gate`` and holds back the rest until it is told what becomes of it."""

    def __init__(self, overlay_path: Path) -> None:
        super().__init__(overlay_path.parent)
        self.down = threading.Event()
        self.up = threading.Event()
        self.refused = 0
        source = FileSource(str(overlay_path))
        overlay = OverlayFile.open(source)
        source.close()
        rest = [segment for segment in overlay.chunk_segments if segment.section != WORKING_SET]
        self.gate = rest[1].offset
        self.behaviour = self.behave

    def behave(self, handler: FaultyHandler) -> bool:
        first, last = handler.asked_range(handler.folder, len(handler.whole)) or (0, len(handler.whole) - 1)
        if self.up.is_set() or (last < self.gate and not self.down.is_set()):
            return False
        body = handler.part_header()
        if not self.down.is_set():
            handler.wfile.write(body[: max(0, self.gate - first)])
            handler.wfile.flush()
            while not (self.down.wait(0.05) or self.up.is_set() or self.ending.is_set()):
                pass
            if self.up.is_set():
                handler.wfile.write(body[max(0, self.gate - first) :])
                return True
        self.refused += 1
        handler.reset()
        return True


@pytest.fixture(scope="module")
def recorded(home: Home, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlay with a working set: what the guest's devices need when they are loaded comes first."""
    path = tmp_path_factory.mktemp("recorded") / "made.cloudlet"
    path.write_bytes(made.path.read_bytes())
    recording.record(home, path, "http://:80/nonce", level=1, timeout_s=tools.WAIT_S, report=tools.Act())
    return path


@pytest.fixture
def source(recorded: Path) -> Iterator[Source]:
    with Source(recorded) as source:
        yield source


class Watch(tools.Act):
    """Calls ``stalled`` when nothing arrives any more for the first time."""

    def __init__(self, source: Source) -> None:
        super().__init__("run", source.down.set)
        self.stalled = threading.Event()
        self.recovered = threading.Event()

    def note(self, text: str) -> None:
        super().note(text)
        if text.startswith("nothing arrives"):
            self.stalled.set()
        if "again" in text:
            self.recovered.set()


def synthesize(home: Home, source: Source, report: tools.Act, **more: object) -> SynthesisResult:
    request = SynthesisRequest(
        source.url("made.cloudlet"),
        "clone",
        **{"placement": "early", "policy": POLICY, "patience": IMPATIENT, "timeout_s": 60.0, **more},  # type: ignore[arg-type]
    )
    return synthesis.synthesize(home, request, report)


def test_the_guest_is_paused_and_goes_on_when_the_source_returns(home: Home, made: Made, source: Source) -> None:
    report = Watch(source)
    seen: list[str] = []

    def look() -> None:
        assert report.stalled.wait(tools.WAIT_S)
        guest = server.load(home, "clone")
        # The monitor is the worker's; the process is what can be looked at.
        begin = len(tools.console_text(guest))
        tools.type_line(guest, "echo typed")
        time.sleep(0.5)
        seen.append(tools.console_text(guest)[begin:])
        source.up.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    result = synthesize(home, source, report, probe="http://:80/made", patience=Patience(give_up_s=60))
    watcher.join()
    with tools.loaded(home, "clone") as guest:
        assert (result.reply, result.stalls) == (made.content, 1)
        assert report.recovered.is_set()
        assert seen == [""], "the guest went on while nothing came"
        tools.wait_until("what was typed is there", lambda: "typed" in tools.console_text(guest))
        assert tools.run(guest, DIGESTS) == made.digests


def test_what_it_stood_still_is_not_counted_against_its_probe(home: Home, source: Source, tmp_path: Path) -> None:
    """Its answer comes when the probe's time is long up, by the clock; the source is back since before that."""
    report, answer, limit_s = Watch(source), tmp_path / "answer", 16.0

    def come_back() -> None:
        assert report.stalled.wait(tools.WAIT_S)
        time.sleep(limit_s - 6)
        source.up.set()
        assert report.recovered.wait(tools.WAIT_S)
        time.sleep(8)
        answer.write_text("here")

    watcher = threading.Thread(target=come_back)
    watcher.start()
    eager = replace(IMPATIENT, give_up_s=60.0)
    result = synthesize(home, source, report, probe=f"command:cat {answer}", timeout_s=limit_s, patience=eager)
    watcher.join()
    with tools.loaded(home, "clone"):
        assert (result.reply, result.stalls) == (b"here", 1)
        assert result.first_reply_s is not None and result.first_reply_s - result.running_s > limit_s


@pytest.mark.parametrize("probe", [None, "http://:80/made", "tcp:81"])
def test_after_the_limit_it_is_told_and_all_is_gone(home: Home, source: Source, probe: str | None) -> None:
    report = Watch(source)
    with pytest.raises(errors.SourceLost) as caught:
        synthesize(home, source, report, probe=probe, timeout_s=600.0)
    assert caught.value.exit_code == 6
    assert "The server was removed" in caught.value.hint and "removed" not in str(caught.value)
    assert "gave up after" in str(caught.value)
    assert "clone" not in server.names(home)
    # The limit counts, not the probe's time.
    assert report.elapsed_s < 120
    assert source.refused > 1


@pytest.mark.parametrize("placement", ["early", "mapped"])
def test_a_source_that_dies_before_the_guest_runs(home: Home, source: Source, placement: str) -> None:
    source.gate = FIRST_READ_BYTES
    report = tools.Act("start" if placement == "early" else "fetch", source.down.set)
    with pytest.raises(errors.SourceLost):
        synthesize(home, source, report, placement=placement)


def test_a_file_that_is_damaged_is_no_lost_source(home: Home, recorded: Path, source: Source) -> None:
    """A segment that is wrong twice will be wrong again: it is named."""
    damaged = bytearray(recorded.read_bytes())
    damaged[-100] ^= 1
    path = recorded.with_name("damaged.cloudlet")
    path.write_bytes(damaged)
    source.up.set()
    try:
        for placement in ("early", "mapped"):
            request = SynthesisRequest(source.url("damaged.cloudlet"), "clone", placement=placement, policy=POLICY)
            with pytest.raises(Damaged, match=r"damaged at segment \d+ \(memory chunks\)"):
                synthesis.synthesize(home, request, tools.Act())
    finally:
        path.unlink()


def test_the_link_may_break_all_the_time(home: Home, made: Made, source: Source) -> None:
    """Every third answer is cut off; each time the rest is asked for."""
    count = [0]

    def behave(handler: FaultyHandler) -> bool:
        count[0] += 1
        if count[0] % 3:
            return False
        body = handler.part_header()
        handler.wfile.write(body[: len(body) // 2])
        handler.hang_up()
        return True

    source.behaviour = behave
    result = synthesize(home, source, tools.Act(), probe="http://:80/made", patience=Patience())
    assert result.reply == made.content
    with tools.loaded(home, "clone") as guest:
        assert tools.run(guest, DIGESTS) == made.digests
