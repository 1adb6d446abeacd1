# SPDX-License-Identifier: Apache-2.0
"""Overlays of running servers: what becomes of the server, what the overlay brings back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import OutputBusy, OutputExists
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.worker import (
    errors,
    overlay_care,
    overlay_creation,
    recording,
    server,
    server_care,
    synthesis,
)
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.synthesis import SynthesisRequest
from tests.functional import guest as tools
from tests.functional.conftest import DIGESTS, Made, Start
from tests.functional.test_cli import CommandLine


def create(
    home: Home, name: str, path: Path, keep: str = "running", report: Report | None = None, *, overwrite: bool = False
) -> None:
    overlay_creation.create_overlay(
        home, name, path, keep=keep, level=1, report=report or Report(), overwrite=overwrite
    )


@pytest.mark.parametrize("placement", ["mapped", "early"])
def test_what_was_in_memory_only_is_served(home: Home, made: Made, placement: str) -> None:
    request = SynthesisRequest(
        str(made.path), "clone", placement=placement, probe="http://:80/made", timeout_s=tools.WAIT_S
    )
    result = synthesis.synthesize(home, request, Report())
    with tools.loaded(home, "clone") as guest:
        assert result.reply == made.content
        assert (result.placement, result.stalls, result.overlay_id) == (placement, 0, made.overlay_id)
        assert result.first_reply_s is not None and result.running_s <= result.first_reply_s
        assert guest.record.state == "running"
        assert tools.run(guest, DIGESTS) == made.digests
        assert tools.status(guest) == "running"


def test_a_live_capture_leaves_the_guest_running(home: Home, busybox: str, start: Start, tmp_path: Path) -> None:
    guest = start(busybox, "live")
    tools.run(guest, "echo 1 >/www/number")
    for number in (1, 2):
        result = overlay_creation.create_overlay(
            home, "live", tmp_path / str(number), keep="running", level=1, report=Report()
        )
        assert 0 < result.pause_s < result.create_s
        assert tools.status(guest) == "running"
        assert tools.fetch(guest, "/number") == f"{number}\n".encode()
        tools.run(guest, f"echo {number + 1} >/www/number; dd if=/dev/urandom of=/dev/vda bs=1M count=1; sync")
    # What was written since is not in it.
    synthesis.synthesize(home, SynthesisRequest(str(tmp_path / "2"), "clone", placement="mapped"), Report())
    with tools.loaded(home, "clone") as clone:
        assert tools.fetch(clone, "/number") == b"2\n"
        assert tools.fetch(guest, "/number") == b"3\n"


@pytest.mark.parametrize(("keep", "status"), [("running", "running"), ("stopped", "postmigrate"), ("deleted", None)])
def test_what_becomes_of_the_server(
    home: Home, tiny: str, start: Start, tmp_path: Path, keep: str, status: str | None
) -> None:
    guest = start(tiny, "source")
    create(home, "source", tmp_path / "overlay", keep)
    if status is None:
        assert server.names(home) == []
        assert not guest.process.alive
        return
    assert tools.status(guest) == status
    assert tools.is_ticking(guest, 2.0 if keep == "stopped" else tools.WAIT_S) == (keep == "running")
    if keep == "stopped":
        create(home, "source", tmp_path / "again", "stopped")
        assert server_care.resume_server(home, "source")
        assert tools.is_ticking(guest)


def test_one_that_stands_still_stays_so(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    guest = start(tiny, "still")
    tools.ask(guest, "stop")
    create(home, "still", tmp_path / "overlay", "running")
    assert tools.status(guest) in {"paused", "postmigrate"}
    synthesis.synthesize(home, SynthesisRequest(str(tmp_path / "overlay"), "clone", placement="mapped"), Report())
    with tools.loaded(home, "clone") as clone:
        assert tools.is_ticking(clone)


def test_one_operation_at_a_time(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    guest = start(tiny, "shared")
    refused: list[errors.Busy] = []

    def others() -> None:
        for act in (
            lambda: create(home, "shared", tmp_path / "second"),
            lambda: server_care.stop_server(home, "shared"),
            lambda: server_care.resume_server(home, "shared"),
        ):
            with pytest.raises(errors.Busy, match="server shared is in use by another operation") as caught:
                act()
            refused.append(caught.value)

    create(home, "shared", tmp_path / "first", report=tools.Act("compare", others))
    assert len(refused) == 3
    assert not (tmp_path / "second").exists()
    assert tools.is_ticking(guest)
    create(home, "shared", tmp_path / "second")


def test_one_writer_of_an_output(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    guests = [start(tiny, name) for name in ("one", "other")]
    tried: list[str] = []

    class Second(Report):
        """Creates an overlay of the other server while the first one is written."""

        def progress(self, done: int, total: int) -> None:
            if self.stages[-1][0] == "compress" and not tried:
                tried.append("other")
                with pytest.raises(OutputBusy):
                    create(home, "other", tmp_path / "out")

    create(home, "one", tmp_path / "out", report=Second())
    assert tried
    content = (tmp_path / "out").read_bytes()
    with pytest.raises(OutputExists):
        create(home, "other", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert all(tools.is_ticking(guest) for guest in guests)


def test_one_change_of_an_overlay(home: Home, tiny: str, start: Start, tmp_path: Path) -> None:
    """While it is recorded nobody signs, records, replaces or deletes it, not from another home either."""
    start(tiny, "source")
    path, private, public = (tmp_path / name for name in ("overlay", "key.pem", "trusted.pem"))
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    create(home, "source", path)
    cloudlet = CommandLine(tmp_path)
    refused: list[str] = []

    def others() -> None:
        for words in (("overlay", "sign", path, "--key", private), ("overlay", "delete", path)):
            told = cloudlet(*words, code=9)
            refused.append(f"{told['kind']}: {told['message']}")
        for act in (lambda: record(path, Report()), lambda: create(home, "source", path, overwrite=True)):
            with pytest.raises(errors.Busy) as caught:
                act()
            refused.append(f"Busy: {caught.value}")

    def record(path: Path, report: Report) -> None:
        recording.record(home, path, "console:.", level=1, timeout_s=tools.WAIT_S, report=report)

    for stage in ("run", "reorder"):
        record(path, tools.Act(stage, others))
    expected = (
        f"Busy: The overlay {path} is in use by another operation (process {os.getpid()}). Wait for it, or end it."
    )
    assert refused == [expected] * 8
    cloudlet("overlay", "sign", path, "--key", private)
    assert cloudlet("overlay", "verify", path, "--key", public)["signer"]
    create(home, "source", path, overwrite=True)
    cloudlet("overlay", "delete", path)


def test_a_signature_is_whole_before_it_is_recorded(home: Home, made: Made, tmp_path: Path) -> None:
    """Who signs has the overlay alone, too."""
    path = tmp_path / "overlay"
    path.write_bytes(made.path.read_bytes())
    with (
        overlay_care.changing(path),
        pytest.raises(errors.Busy, match=r"The overlay .* is in use by another operation"),
    ):
        recording.record(home, path, "http://:80/nonce", level=1, timeout_s=tools.WAIT_S, report=Report())
    assert path.read_bytes() == made.path.read_bytes()


def test_recordings_merge(home: Home, made: Made, tmp_path: Path) -> None:
    path = tmp_path / "overlay"
    path.write_bytes(made.path.read_bytes())
    orders = []
    for probe in ("http://:80/nonce", "http://:80/made"):
        result = recording.record(home, path, probe, level=1, timeout_s=tools.WAIT_S, report=Report())
        assert result.chunks > 0
        source = FileSource(str(path))
        orders.append(set(OverlayFile.open(source).load_order().tolist()))
        source.close()
        assert len(orders[-1]) >= result.chunks
    assert orders[0] <= orders[1]
    request = SynthesisRequest(str(path), "clone", placement="early", probe="http://:80/made", timeout_s=tools.WAIT_S)
    assert synthesis.synthesize(home, request, Report()).reply == made.content
    with tools.loaded(home, "clone") as guest:
        assert tools.fetch(guest, "/made") == made.content
