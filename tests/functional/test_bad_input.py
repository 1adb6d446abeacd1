# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused with the reason, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloudlet_ext.cmd.cloudlet import main
from cloudlet_ext.engine import errors as engine_errors
from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.overlay_writer import write_overlay
from cloudlet_ext.engine.plan import OverlayPlan
from cloudlet_ext.engine.slots import SlotFile
from cloudlet_ext.engine.source import SourcePolicy
from cloudlet_ext.exception import CloudletError
from cloudlet_ext.hypervisor import errors as hypervisor_errors
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.worker import base_creation, errors, overlay_creation, server, starting, synthesis
from cloudlet_ext.worker.base_creation import BaseRequest
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.synthesis import SynthesisRequest
from tests.functional import guest as tools
from tests.functional.conftest import Start, tiny_request
from tests.unit.engine.faulty_server import FaultyServer, redirect

SHORT_S = 1.0


@pytest.fixture(scope="module")
def overlay(home: Home, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "tiny.cloudlet"
    starting.start_server(home, tiny, "maker", {}, "console:.", tools.WAIT_S, Report())
    overlay_creation.create_overlay(home, "maker", path, keep="deleted", level=1, report=Report())
    return path


def written_again(home: Home, overlay: Path, out: Path, *, device: bytes | None = None, **machine: Any) -> Path:
    """The overlay with another device state or machine description, by the engine's own writer."""
    source = FileSource(str(overlay))
    opened = OverlayFile.open(source)
    _, base = home.find_base(str(opened.base_id), str(overlay))
    with base, SlotFile(out.parent) as slots:
        for segment in opened.chunk_segments:
            data = opened.unpack(segment, opened.container.fetch(segment), base)
            slots.append(np.frombuffer(data, dtype=np.uint8).reshape(-1, CHUNK_BYTES))
        state = opened.load_device() if device is None else device
        write_overlay(out, OverlayPlan(base, opened.table, slots), {**opened.machine, **machine}, state, level=1)
    source.close()
    return out


def synthesize(home: Home, overlay: Path | str, placement: str = "mapped", **more: Any) -> None:
    synthesis.synthesize(home, SynthesisRequest(str(overlay), "subject", placement=placement, **more), Report())


def start(home: Home, base: str, name: str | None = "subject", wait_for: str | None = None) -> None:
    starting.start_server(home, base, name, {}, wait_for, SHORT_S, Report())


@pytest.fixture
def other_home(home: Home, tiny: str, tmp_path: Path) -> Home:
    """Another home with a copy of the tiny base that may be spoilt."""
    other = Home(tmp_path / "other")
    shutil.copytree(home.bases / tiny, other.bases / tiny)
    return other


@pytest.mark.parametrize(
    ("field", "value", "mine"),
    [
        ("cpu", "Haswell", "Nehalem"),
        ("machine_type", "pc-q35-8.2", "pc-q35-"),
        ("memory_bytes", 32 << 20, str(16 << 20)),
        ("vcpus", 2, "1"),
        ("disk_bytes", 2 << 20, str(1 << 20)),
        ("accelerator", "xen", ""),
    ],
)
@pytest.mark.parametrize("placement", ["mapped", "early"])
def test_an_overlay_of_another_machine(
    home: Home, overlay: Path, tmp_path: Path, field: str, value: Any, mine: str, placement: str
) -> None:
    other = written_again(home, overlay, tmp_path / "other", **{field: value})
    with pytest.raises(hypervisor_errors.MachineMismatch) as caught:
        synthesize(home, other, placement)
    assert caught.value.exit_code == 5
    assert f"{field} is {value}, expected {mine}" in str(caught.value)
    assert server.names(home) == []


def test_verification_sees_another_machine(
    home: Home, overlay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDLET_HOME", str(home.path))
    assert main(["overlay", "verify", str(overlay)]) == 0
    other = written_again(home, overlay, tmp_path / "other", vcpus=2)
    assert main(["overlay", "verify", str(other)]) == 5
    assert "vcpus is 2, expected 1" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "value"), [("colour", "red"), ("mac", "::"), ("vcpus", "many")])
def test_an_overlay_with_a_bad_machine(home: Home, overlay: Path, tmp_path: Path, field: str, value: Any) -> None:
    other = written_again(home, overlay, tmp_path / "other", **{field: value})
    with pytest.raises(hypervisor_errors.BadMachine, match=f"field {field}"):
        synthesize(home, other)


def test_a_host_of_another_accelerator(home: Home, tiny: str, overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = home.open_base(tiny)
    mine = str(here.machine["accelerator"])
    here.close()
    other = {"kvm": "tcg", "tcg": "kvm"}[mine]
    monkeypatch.setenv("CLOUDLET_ACCEL", other)
    for operation in (lambda: start(home, tiny), lambda: synthesize(home, overlay)):
        with pytest.raises(hypervisor_errors.AcceleratorMismatch) as caught:
            operation()
        assert caught.value.exit_code == 5
        assert f"accelerator is {other}, expected {mine}" in str(caught.value)
        assert f"It is {other} because CLOUDLET_ACCEL asks for it" in str(caught.value)


def test_a_qemu_that_does_not_know_the_machine(other_home: Home, tiny: str) -> None:
    path = other_home.bases / tiny / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["machine"]["machine_type"] = "pc-q35-99.0"
    path.chmod(0o600)
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    with pytest.raises(hypervisor_errors.MachineTypeUnknown, match=r"pc-q35-99\.0 is needed; QEMU \d+\.\d+\.\d+ here"):
        start(other_home, tiny)


def test_an_overlay_of_another_base(home: Home, busybox: str, overlay: Path, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    with pytest.raises(errors.BaseMissing, match="Bases here: none"):
        synthesize(other, overlay)
    (other.bases / busybox).symlink_to(home.bases / busybox)
    with pytest.raises(errors.BaseMissing, match=rf"Bases here: {busybox} \(\w+\)") as caught:
        synthesize(other, overlay)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("part", ["device", "index", "memory", "disk.qcow2", "manifest.json"])
def test_a_base_without_a_part(home: Home, other_home: Home, tiny: str, overlay: Path, part: str) -> None:
    (other_home.bases / tiny / part).unlink()
    with pytest.raises(engine_errors.PartMissing, match=part):
        start(other_home, tiny)
    wanted = errors.BaseMissing if part == "manifest.json" else engine_errors.PartMissing
    with pytest.raises(wanted):
        synthesize(other_home, overlay)
    # It does not keep another one from being found.
    (other_home.bases / "whole").symlink_to(home.bases / tiny)
    if part == "manifest.json":
        synthesize(other_home, overlay)
        server.load(other_home, "subject").destroy()


def test_a_base_that_is_damaged(other_home: Home, tiny: str) -> None:
    path = other_home.bases / tiny / "device"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(engine_errors.Damaged):
        start(other_home, tiny)
    assert server.names(other_home) == []


def pretend(folder: Path, version: str) -> Path:
    program = folder / "old-qemu"
    program.write_text(f"#!/bin/sh\necho QEMU emulator version {version}\n")
    program.chmod(0o755)
    return program


def test_qemu_missing_or_too_old(
    home: Home, tiny: str, overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[Path, type[CloudletError], str]] = [
        (tmp_path / "none", hypervisor_errors.QemuMissing, "no such program"),
        (pretend(tmp_path, "7.2.0"), hypervisor_errors.QemuTooOld, r"is QEMU 7\.2\.0, 8\.2 or newer is needed"),
    ]
    for program, kind, reason in cases:
        monkeypatch.setenv("CLOUDLET_QEMU", str(program))
        for operation in (
            lambda: start(home, tiny),
            lambda: synthesize(home, overlay, "mapped"),
            lambda: synthesize(home, overlay, "early"),
            lambda: base_creation.create_base(home, tiny_request(tmp_path, "subject"), Report()),
        ):
            with pytest.raises(kind, match=reason) as caught:
                operation()
            assert caught.value.exit_code == 7
    assert server.names(home) == []
    assert "subject" not in home.base_names()


@pytest.mark.parametrize("placement", ["mapped", "early"])
def test_a_device_state_that_qemu_does_not_take(home: Home, overlay: Path, tmp_path: Path, placement: str) -> None:
    with pytest.raises(hypervisor_errors.BadDeviceState):
        synthesize(home, written_again(home, overlay, tmp_path / "none", device=b"no state"), placement)
    source = FileSource(str(overlay))
    state = DeviceState.decode(OverlayFile.open(source).load_device())
    source.close()
    for number, devices in enumerate((state.devices[:-1000], state.devices.replace(b"virtio-blk", b"virtio-bad"))):
        spoilt = DeviceState(state.configuration, devices).encode()
        other = written_again(home, overlay, tmp_path / str(number), device=spoilt)
        with pytest.raises(CloudletError) as caught:
            synthesize(home, other, placement)
        assert caught.value.exit_code == 7, repr(caught.value)


def test_what_is_no_overlay(home: Home, tiny: str, overlay: Path, tmp_path: Path) -> None:
    whole = overlay.read_bytes()
    for name, content, kind in (
        ("empty", b"", engine_errors.FormatError),
        ("text", b"GIF89a" * 1000, engine_errors.WrongMagic),
        ("cut", whole[:-1], engine_errors.Truncated),
        ("head", whole[:100], engine_errors.Truncated),
        ("more", whole + b"\0", engine_errors.Malformed),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(kind):
            synthesize(home, tmp_path / name)
    with pytest.raises(engine_errors.SourceNotFound):
        synthesize(home, tmp_path / "none")
    with pytest.raises(engine_errors.SourceError):
        synthesize(home, tmp_path)


def test_urls_that_are_refused(home: Home, overlay: Path) -> None:
    with FaultyServer(overlay.parent) as web:
        with pytest.raises(engine_errors.SourceNotFound):
            synthesize(home, web.url("none.cloudlet"))
        web.behaviour = redirect("file:///etc/passwd")
        with pytest.raises(engine_errors.SourceRefused):
            synthesize(home, web.url("tiny.cloudlet"))
    for url in (f"file://{overlay}", "ftp://127.0.0.1/x"):
        with pytest.raises(engine_errors.SourceError):
            synthesize(home, url)
    with pytest.raises(engine_errors.SourceRefused):
        synthesize(home, "http://127.0.0.1:1/x", policy=SourcePolicy(schemes=("https",)))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "x" * 65, "new\nline", "sp ace"])
def test_names_that_cannot_be(home: Home, tiny: str, overlay: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.NameInvalid) as caught:
        synthesis.synthesize(home, SynthesisRequest(str(overlay), name or "/", placement="mapped"), Report())
    assert caught.value.exit_code == 2
    with pytest.raises(errors.NameInvalid):
        base_creation.create_base(home, tiny_request(tmp_path, name), Report())
    for look in (server.load, lambda home, name: home.base_folder(name)):
        with pytest.raises(errors.NameInvalid):
            look(home, name)


def test_names_that_are_taken(home: Home, tiny: str, overlay: Path, start: Start, tmp_path: Path) -> None:
    guest = start(tiny, "subject")
    with pytest.raises(errors.NameTaken, match="a server named subject already") as caught:
        synthesize(home, overlay)
    assert caught.value.exit_code == 9
    with pytest.raises(errors.NameTaken, match=f"a base named {tiny} already"):
        base_creation.create_base(home, tiny_request(tmp_path, tiny), Report())
    assert tools.is_ticking(guest)
    with pytest.raises(errors.NotFound, match=r"There is no server other\. There are: subject"):
        server.load(home, "other")


def test_one_maker_of_a_base(home: Home, tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(errors.Busy, match="The base subject is in use"):
            base_creation.create_base(home, tiny_request(tmp_path, "subject"), Report())

    base_creation.create_base(home, tiny_request(tmp_path, "subject"), tools.Act("settle", second))
    shutil.rmtree(home.bases / "subject")


def test_images_and_kernels_that_cannot_be(home: Home, tmp_path: Path) -> None:
    image = tiny_request(tmp_path, "subject").image
    for request, reason in (
        (BaseRequest(tmp_path / "none", "subject"), "No such file"),
        (BaseRequest(tmp_path, "subject"), "Is a directory"),
        (BaseRequest(image, "subject", kernel=tmp_path / "vmlinuz"), "No such file"),
        (BaseRequest(image, "subject", kernel=image, initrd=tmp_path), "Is a directory"),
    ):
        with pytest.raises(hypervisor_errors.ImageUnusable, match=reason):
            base_creation.create_base(home, request, Report())
    with pytest.raises(CloudletError, match=r"QEMU ended while starting: .*no-such-cpu"):
        base_creation.create_base(home, BaseRequest(image, "subject", 16, cpu="no-such-cpu"), Report())
    assert "subject" not in home.base_names()


@pytest.mark.parametrize(
    ("probe", "last"),
    [
        ("console:something else", r"the console says '\.+'|the console is silent"),
        ("tcp:80", "did not accept|no attempt has ended yet"),
        ("http://:80/x?y=z", "no attempt has ended yet|timed out|reset|Remote end|refused"),
        ("command:exit 7", "the command ended with status 7"),
        ("command:sleep 1000", "no attempt has ended yet"),
    ],
)
def test_probes_that_time_out_tell_why(home: Home, tiny: str, probe: str, last: str) -> None:
    with pytest.raises(errors.ProbeTimedOut, match=last) as caught:
        start(home, tiny, wait_for=probe)
    assert caught.value.exit_code == 10
    assert f"did not answer to {probe} within 1 s" in str(caught.value)
    assert server.names(home) == []


def test_commands_of_probes_know_the_server_and_end_with_it(home: Home, tiny: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    line = (
        f'echo $$ "$CLOUDLET_SERVER" "$CLOUDLET_SERVER_DIR" "$CLOUDLET_HOME" >>{said}; test -e {said}.ok || sleep 1000'
    )
    with pytest.raises(errors.ProbeTimedOut):
        start(home, tiny, wait_for=f"command:{line}")
    lines = [entry.split() for entry in said.read_text().splitlines()]
    assert len(lines) > 1
    assert lines[0][1:] == ["subject", str(home.servers / "subject"), str(home.path)]
    for entry in lines:
        tools.wait_until("the command ends", lambda pid=entry[0]: not Path("/proc", pid).exists(), 10)
    (tmp_path / "said.ok").touch()
    start(home, tiny, wait_for=f"command:{line}")
    server.load(home, "subject").destroy()


def test_a_port_that_is_taken(home: Home, tiny: str, start: Start) -> None:
    guest = start(tiny, "one")
    try:
        port = guest.forward(80)
        assert guest.forward(80) == port
    finally:
        guest.close()
    with pytest.raises(errors.ForwardFailed, match=f"Port {port} of this host"):
        starting.start_server(home, tiny, "subject", {80: port}, None, SHORT_S, Report())
    assert server.names(home) == ["one"]
