# SPDX-License-Identifier: Apache-2.0
"""Too little room, wherever something is written: it is told, and what was there goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudlet_ext.exception import CloudletError
from cloudlet_ext.hypervisor import log_keeper
from cloudlet_ext.worker import base_creation, overlay_creation, recording, server, starting, synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.synthesis import SynthesisRequest
from tests.functional import guest as tools
from tests.functional.conftest import MIB, Made, tiny_request

KIB = 1024
Small = Callable[[Path, int], Path]


@pytest.fixture
def crowded(home: Home, tiny: str, busybox: str, tmp_path: Path) -> Home:
    """A home with the same bases, of which parts can be made small."""
    crowded = Home(tmp_path / "crowded")
    for name in (tiny, busybox):
        (crowded.bases / name).symlink_to(home.bases / name)
    return crowded


def refused(operation: Callable[[], object], folder: Path) -> None:
    with pytest.raises(CloudletError) as caught:
        operation()
    assert caught.value.exit_code == 8, repr(caught.value)
    assert str(folder) in str(caught.value)
    assert "space" in str(caught.value).lower() or "room" in str(caught.value).lower()


def synthesize(home: Home, overlay: Path, placement: str) -> None:
    synthesis.synthesize(home, SynthesisRequest(str(overlay), "clone", placement=placement), Report())


def test_scratch_for_a_capture(crowded: Home, busybox: str, small: Small, tmp_path: Path) -> None:
    small(crowded.scratch, 10 * MIB)
    starting.start_server(crowded, busybox, "source", {}, None, tools.WAIT_S, Report())
    with tools.loaded(crowded, "source") as guest:
        for keep in ("running", "stopped", "deleted"):
            refused(
                lambda keep=keep: overlay_creation.create_overlay(
                    crowded, "source", tmp_path / "out", keep=keep, level=1, report=Report()
                ),
                crowded.scratch,
            )
            assert tools.status(guest) == "running"
        assert tools.run(guest, "echo lives") == "lives"
        assert not (tmp_path / "out").exists()


def test_scratch_for_what_an_overlay_stores(crowded: Home, busybox: str, small: Small, tmp_path: Path) -> None:
    """The stream has room, what is compared has none."""
    small(crowded.scratch, 100 * MIB)
    starting.start_server(crowded, busybox, "source", {}, None, tools.WAIT_S, Report())
    with tools.loaded(crowded, "source") as guest:
        tools.run(guest, "dd if=/dev/urandom of=/dev/vda bs=1M count=50 2>/dev/null; sync")
        refused(
            lambda: overlay_creation.create_overlay(
                crowded, "source", tmp_path / "out", keep="stopped", level=1, report=Report()
            ),
            crowded.scratch,
        )
        assert tools.run(guest, "echo lives") == "lives"


def test_the_overlay_itself(home: Home, tiny: str, made: Made, small: Small, tmp_path: Path) -> None:
    folder = small(tmp_path / "folder", 4 * KIB)
    starting.start_server(home, tiny, "source", {}, "console:.", tools.WAIT_S, Report())
    with tools.loaded(home, "source") as guest:
        for keep in ("running", "stopped", "deleted"):
            refused(
                lambda keep=keep: overlay_creation.create_overlay(
                    home, "source", folder / "out", keep=keep, level=1, report=Report()
                ),
                folder,
            )
            assert tools.is_ticking(guest)
    assert list(folder.iterdir()) == []


def test_an_overlay_that_is_recorded(home: Home, made: Made, small: Small, tmp_path: Path) -> None:
    """The overlay stays as it was."""
    folder = small(tmp_path / "folder", made.path.stat().st_size + MIB)
    path = folder / "made.cloudlet"
    shutil.copyfile(made.path, path)
    before = path.read_bytes()
    refused(
        lambda: recording.record(home, path, "http://:80/nonce", level=1, timeout_s=tools.WAIT_S, report=Report()),
        folder,
    )
    assert path.read_bytes() == before
    assert [entry.name for entry in folder.iterdir()] == ["made.cloudlet"]


@pytest.mark.parametrize("placement", ["mapped", "early"])
def test_slots_that_arrive(crowded: Home, made: Made, small: Small, placement: str) -> None:
    small(crowded.scratch, 4 * MIB)
    refused(lambda: synthesize(crowded, made.path, placement), crowded.scratch)


@pytest.mark.parametrize("placement", ["mapped", "early"])
def test_the_disk_of_a_synthesised_server(crowded: Home, made: Made, small: Small, placement: str) -> None:
    """Early start: the guest runs already when its own layer is to be filled."""
    small(crowded.servers, 4 * MIB)
    refused(lambda: synthesize(crowded, made.path, placement), crowded.servers)


def test_a_server(crowded: Home, tiny: str, small: Small) -> None:
    small(crowded.servers, 8 * KIB)
    refused(lambda: starting.start_server(crowded, tiny, "source", {}, None, tools.WAIT_S, Report()), crowded.servers)
    assert list(crowded.servers.iterdir()) == []


@pytest.mark.parametrize("size_bytes", [16 * KIB, 600 * KIB, 900 * KIB])
def test_a_base(crowded: Home, small: Small, tmp_path: Path, size_bytes: int) -> None:
    """There is no room for its memory (520 KiB), its disk (324 KiB), its device state (256 KiB)."""
    bases = {entry.name for entry in crowded.bases.iterdir()}
    elsewhere = Home(tmp_path / "elsewhere")
    small(elsewhere.bases, size_bytes)
    refused(lambda: base_creation.create_base(elsewhere, tiny_request(tmp_path, "new"), Report()), elsewhere.bases)
    assert list(elsewhere.bases.iterdir()) == []
    assert {entry.name for entry in crowded.bases.iterdir()} == bases
    assert server.names(elsewhere) == []


def test_a_console(home: Home, small: Small, tmp_path: Path) -> None:
    """What there is no room for is lost; when there is room, what comes is kept again."""
    folder = small(tmp_path / "folder", 64 * KIB)
    pipe = log_keeper.keep_last(folder)
    console, ballast = folder / log_keeper.CONSOLE_NAME, folder / "ballast"
    try:
        os.write(pipe, b"before\n")
        tools.wait_until("it is kept", lambda: console.exists() and console.read_bytes() == b"before\n")
        ballast.write_bytes(b"x" * 56 * KIB)
        for _ in range(200):
            os.write(pipe, b"lost" * KIB)
        ballast.unlink()

        def is_kept() -> bool:
            os.write(pipe, b"after\n")
            return b"after\n" in console.read_bytes()

        tools.wait_until("it is kept again", is_kept)
    finally:
        os.close(pipe)
    assert log_keeper.ended(folder, tools.WAIT_S)
    assert console.read_bytes().startswith(b"before\n")
