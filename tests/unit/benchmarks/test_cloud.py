# SPDX-License-Identifier: Apache-2.0
"""The cloud's benchmarks, as far as they need no cloud."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import app, cloud_app, cloud_bench, cloud_figures, cloud_judge, cloud_main, cloud_plot, data
from benchmarks.bench import SetupFailed
from benchmarks.cloud_bench import CloudBench, Reply
from benchmarks.cloud_probe import Prober, Question, digest_of
from benchmarks.file_server import FileServer
from benchmarks.measure import ProcessFailed
from benchmarks.rows import Rows
from tests.unit.benchmarks.fake_cloud import FakeCloud, FakeProber

STATUS = """one                       pid  state          age  processes  PSS MiB
  host                    12  up           12 s          1        0
  nova-api                13  up           12 s          1        9
  all                                                   2        9
two                       pid  state          age  processes  PSS MiB
  host                     -  down
  all                                                   0        0
"""


@pytest.fixture
def cloud(tmp_path: Path) -> FakeCloud:
    folder = tmp_path / "cloud"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "nova-cpu.conf").write_text("[DEFAULT]\n")
    return FakeCloud(folder)


@pytest.fixture
def bench(cloud: FakeCloud, tmp_path: Path) -> CloudBench:
    return CloudBench(cloud, FakeProber(), tmp_path, "bench-1", quick=True)  # type: ignore[arg-type]


# ----------------------------------------------------------------------- the first reply
@pytest.fixture
def prober():
    with Prober([sys.executable]) as prober:
        yield prober


def question(address: str, digest: str, limit_s: float = 5.0) -> Question:
    host, _, port = address.rpartition(":")
    return Question(host, "/page", digest, limit_s, int(port))


def test_the_first_correct_reply_is_seen(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"right")
    with FileServer(tmp_path) as server:
        began = time.monotonic()
        assert began <= prober.ask(question(server.address, digest_of(b"right"))) <= time.monotonic()


def test_it_is_asked_until_somebody_is_there(prober: Prober, tmp_path: Path) -> None:
    with FileServer(tmp_path) as server:
        prober.begin(question(server.address, digest_of(b"late")))
        time.sleep(0.3)
        (tmp_path / "new").write_bytes(b"late")
        appeared = time.monotonic()
        (tmp_path / "new").rename(tmp_path / "page")
        assert prober.answered() >= appeared


def test_a_wrong_reply_is_no_reply(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"wrong")
    with FileServer(tmp_path) as server:
        with pytest.raises(ProcessFailed, match="5 bytes that are not the expected ones"):
            prober.ask(question(server.address, digest_of(b"right")))
        (tmp_path / "page").write_bytes(b"right")
        prober.ask(question(server.address, digest_of(b"right")))


def test_nobody_answers(prober: Prober) -> None:
    with pytest.raises(ProcessFailed, match="no answer within 0 s"):
        prober.ask(question("127.0.0.1:9", "", limit_s=0.3))


def test_an_open_question_is_forgotten(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"right")
    prober.begin(question("127.0.0.1:9", "", limit_s=60.0))
    prober.restart()
    with FileServer(tmp_path) as server:
        prober.ask(question(server.address, digest_of(b"right")))


def test_no_process_in_the_network() -> None:
    with pytest.raises(ProcessFailed, match="no process"), Prober(["false"]):
        pass


# ----------------------------------------------------------------------- the app
def test_the_app_finds_what_it_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "GUESTS", tmp_path)
    (tmp_path / "app-web-files.tar").write_bytes(b"packages")
    shared = tmp_path / "shared"
    shared.mkdir()
    app.share(tmp_path / "data", cloud_app.WEB, shared)
    assert {path.name for path in shared.iterdir()} == {"app-web-files.tar", "web.data", "web.sh"}
    command = app.set_up_command(cloud_app.WEB, "192.168.111.2", 8080, "a1")
    assert command[:4] == ["/usr/bin/env", "HOST=192.168.111.2", "PORT=8080", "NONCE=a1"]
    assert "http://192.168.111.2:8080/web.sh " in command[-1]
    for script in (command[-1], (shared / "web.sh").read_text(), cloud_app.PLAIN, cloud_app.PAGE):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_page_is_the_beginning_of_the_apps_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_app, "DATA", tmp_path)
    page = cloud_app.page()
    content = data.made(tmp_path, "web.data").read_bytes()
    assert page == Reply("/page", hashlib.sha256(content[:262144]).hexdigest())


def test_an_image_of_the_guest_boots_as_the_guest_does(bench: CloudBench, cloud: FakeCloud) -> None:
    with pytest.raises(SetupFailed, match=r"no image debian-guest\. Run: tools/minicloud up one"):
        cloud_app.image_properties(bench)
    cloud.image.known = {"a": "debian-guest"}
    shown = {"kernel_id": "k", "ramdisk_id": "", "os_hidden": False, "hw_qemu_guest_agent": "yes", "name": "x"}
    cloud.image.shown = {"a": shown}
    assert cloud_app.image_properties(bench) == {"kernel_id": "k", "hw_qemu_guest_agent": "yes"}


def test_an_upload_reads_as_it_arrives(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "image").write_bytes(content)
    with FileServer(tmp_path) as server:
        arriving = cloud_figures.Arriving(server.url("image"), len(content))
        assert len(arriving) == len(content)
        assert arriving.read(10) == content[:10]
        assert b"".join(arriving) == content[10:]
        assert arriving.read(10) == b""


# ----------------------------------------------------------------------- servers and operations
def test_a_start_is_timed(bench: CloudBench, cloud: FakeCloud) -> None:
    bench.prober.at = time.monotonic() + 1.5  # type: ignore[attr-defined]
    start = bench.start("app", "image-1", "m1.small", Reply("/page", "digest", 81), {"overlay_url": "http://x/"})
    assert cloud.compute.made[start.server] == {
        "name": "bench-1-app",
        "imageRef": "image-1",
        "flavorRef": "flavor-m1.small",
        "networks": [{"uuid": "lab-id"}],
        "metadata": {"overlay_url": "http://x/"},
    }
    (asked,) = bench.prober.asked  # type: ignore[attr-defined]
    assert (asked.address, asked.path, asked.digest, asked.port) == ("192.168.111.9", "/page", "digest", 81)
    assert 0.15 < start.active_s < 1.4 < start.first_reply_s < 1.6


def test_bringing_the_image_counts(bench: CloudBench, cloud: FakeCloud) -> None:
    def bring() -> str:
        time.sleep(0.3)
        return "brought"

    start = bench.start("app", "", "m1.small", Reply("/", ""), bring_image=bring)
    assert cloud.compute.made[start.server]["imageRef"] == "brought"
    assert start.active_s > 0.45


def test_a_server_in_error(bench: CloudBench, cloud: FakeCloud) -> None:
    cloud.compute.status = "ERROR"
    with pytest.raises(ProcessFailed, match="app: why"):
        bench.start("app", "image-1", "m1.small", Reply("/", ""))
    assert bench.prober.restarts == 1, "it asks no more"  # type: ignore[attr-defined]
    cloud.compute.refused = True
    with pytest.raises(ProcessFailed, match="app: no"):
        bench.start("app", "image-1", "m1.small", Reply("/", ""))


def test_placement_is_set_and_taken_back(bench: CloudBench, cloud: FakeCloud) -> None:
    with pytest.raises(RuntimeError), bench.placement("early"):
        raise RuntimeError
    with_it, without = cloud.restarts
    assert with_it == "restart one compute: [DEFAULT]\n\n[cloudlet]\nplacement = early\n"
    assert without == "restart one compute: [DEFAULT]\n"


OPERATION = {
    "type": "base-create",
    "state": "succeeded",
    "error": None,
    "stages": [
        {"name": "capture", "started_at": "2026-01-01T00:00:00.000Z"},
        {"name": "disk", "started_at": "2026-01-01T00:00:01.500Z"},
        {"name": "capture", "started_at": "2026-01-01T00:00:02.000Z"},
    ],
    "updated_at": "2026-01-01T00:00:02.250Z",
    "images": {"base-disk": "image-2"},
    "result": {"base_id": "b1"},
}


def test_stages() -> None:
    assert cloud_bench.stage_seconds(OPERATION) == {"capture": 1.75, "disk": 0.5}
    other = {**OPERATION, "stages": OPERATION["stages"][:2]}  # type: ignore[index]
    assert cloud_bench.stage_text([OPERATION, other]) == "capture 1.62, disk 0.62 s"


def test_a_capture(bench: CloudBench, cloud: FakeCloud) -> None:
    server = bench.start("app", "image-1", "m1.small", Reply("/", "")).server
    cloud.operations["operation-1"] = OPERATION
    _, operation = bench.capture(server, {"cloudlet-base": {"name": "x"}})
    assert operation is OPERATION
    assert (bench.images, bench.bases, bench.operations) == ({"image-2"}, {"b1"}, set())
    cloud.operations["operation-1"] = {**OPERATION, "state": "failed", "error": "because"}
    with pytest.raises(ProcessFailed, match="base-create failed: because"):
        bench.capture(server, {})


def test_all_that_was_made_goes_and_nothing_else(bench: CloudBench, cloud: FakeCloud) -> None:
    bench.start("app", "image-1", "m1.small", Reply("/", ""))
    cloud.compute.made["other"] = {"name": "bench-10-app"}
    cloud.image.known = {"a": "bench-1-base", "b": "bench-2-base", "c": "somebody's"}
    cloud.operations["begun"] = {**OPERATION, "images": {"overlay": "d"}}
    bench.operations, bench.bases = {"begun"}, {"b1"}
    state = cloud.folder / "hosts" / "one" / "state"
    ours, theirs = (state / "cloudlet" / "bases" / name for name in ("b1", "b2"))
    for folder in (ours, theirs, state / "nova" / "instances" / "_base"):
        folder.mkdir(parents=True)
    cached, kept = (
        state / "nova" / "instances" / "_base" / hashlib.sha1(name, usedforsecurity=False).hexdigest()
        for name in (b"a", b"b")
    )
    cached.touch()
    kept.touch()
    bench.clean()
    assert bench.failures == []
    assert list(cloud.compute.made) == ["other"]
    assert cloud.image.known == {"b": "bench-2-base", "c": "somebody's"}
    assert bench.images == {"a", "d"}
    assert [path.exists() for path in (ours, theirs, cached, kept)] == [False, True, False, True]


def test_what_cannot_go_is_told(bench: CloudBench, cloud: FakeCloud) -> None:
    cloud.compute.servers = None  # type: ignore[assignment]
    cloud.image.known = {"a": "bench-1-base"}
    bench.clean()
    assert len(bench.failures) == 1
    assert not cloud.image.known


# ----------------------------------------------------------------------- targets and report
def filled(early_s: float = 4.0) -> Rows:
    rows = Rows()
    link = {"rate_mbit": 38.0, "rtt_ms": 1.0}
    rows.add("web", cloud_figures.COLD, "first reply", [24.0, 26.0], "s", **link)
    rows.add("web", "synthesis, early", "first reply", [early_s, early_s], "s", **link)
    rows.add("web", "synthesis, early", "engine: guest runs", [1.5], "s", **link)
    rows.add("guest of 256 MiB", "base resume", "first reply", [3.0], "s")
    rows.add("guest of 2048 MiB", "base resume", "first reply", [3.7], "s")
    return rows


def test_targets() -> None:
    rows = filled()
    unjudged = cloud_judge.judge(rows)
    assert len(unjudged) == 2
    assert all("mapped" in text for text in unjudged)
    told = [(target.value, round(target.limit, 3), target.is_met) for target in rows.targets]
    assert told == [(4.0, 4.5, True), (6.25, 5.0, True), (3.7, 3.8, True)]
    rows = filled(early_s=6.0)
    cloud_judge.judge(rows)
    assert [target.is_met for target in rows.targets] == [False, False, True]


def test_report_and_plot() -> None:
    rows = filled()
    unjudged = cloud_judge.judge(rows)
    text = cloud_judge.write(rows, {"date": "today"}, unjudged, ["density: it broke"], quick=True)
    assert "Targets: 3 of 3 met" in text
    assert "* density: it broke" in text
    assert "25.00 (24.00 .. 26.00)" in text
    drawing = cloud_plot.draw(rows)
    assert drawing is not None
    assert len(ET.fromstring(drawing).findall("{http://www.w3.org/2000/svg}rect")) == 3
    assert cloud_plot.draw(Rows()) is None
    assert "Targets" not in cloud_judge.write(Rows(), {"date": "today"}, [], [], quick=False)


# ----------------------------------------------------------------------- the cloud's state
@pytest.mark.parametrize(("name", "running"), [("one", 2), ("two", 0), ("three", None)])
def test_services_that_run(name: str, running: int | None) -> None:
    assert cloud_main.running_services(STATUS, name) == running


@pytest.mark.parametrize(("name", "wanted"), [("one", []), ("two", ["up", "down"]), ("three", ["up", "clean"])])
def test_the_cloud_is_left_as_it_was_found(
    name: str, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, fake = tmp_path / "log", tmp_path / "minicloud"
    fake.write_text(f"#!/bin/sh\nif [ $1 = status ]; then cat <<'END'\n{STATUS}END\nelse echo $* >>{log}; fi\n")
    fake.chmod(0o755)
    monkeypatch.setattr(cloud_main, "MINICLOUD", fake)
    with pytest.raises(RuntimeError), cloud_main.cloud_up(name):
        raise RuntimeError
    said = log.read_text().splitlines() if log.exists() else []
    assert said == [f"{word} {name}" for word in wanted]
