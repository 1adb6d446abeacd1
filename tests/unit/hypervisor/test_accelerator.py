# SPDX-License-Identifier: Apache-2.0
"""Which accelerator is used, and why. A plain file stands in for /dev/kvm, and a script for QEMU under KVM."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.hypervisor import accelerator, qemu
from cloudlet_ext.hypervisor.accelerator import Choice
from cloudlet_ext.hypervisor.errors import AcceleratorUnknown
from tests.unit.hypervisor.another_user import as_nobody, open_folder

HANGS = "echo $$ >>'{log}'; exec sleep 1000"
WORKS = (
    "echo $$ >>'{log}'; shift 2; exec qemu-system-x86_64 -machine pc,accel=tcg \"$@\""  # KVM here may not be what it is
)


@pytest.fixture(autouse=True)
def _not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDLET_ACCEL", raising=False)


@dataclass(frozen=True)
class Host:
    """A host with a KVM device, where QEMU is a script. ``tries``: how often it was started."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache/accelerator.json"

    @property
    def device(self) -> Path:
        return self.folder / "kvm"

    @property
    def pids(self) -> list[int]:
        log = self.folder / "log"
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    @property
    def tries(self) -> int:
        return len(self.pids)

    @property
    def remembered(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cache.read_text())
        return found

    def qemu(self, line: str) -> None:
        script = self.folder / "qemu"
        script.write_text(f"#!/bin/sh\n{line.format(log=self.folder / 'log')}\n")
        script.chmod(0o755)

    def choose(self, timeout_s: float = 0.3) -> Choice:
        return accelerator.choose(str(self.folder / "qemu"), self.cache, self.device, timeout_s)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.device.touch()
    host.qemu(HANGS)
    return host


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now + seconds)


@pytest.mark.parametrize("forced", ["kvm", "tcg"])
def test_forced(host: Host, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("CLOUDLET_ACCEL", forced)
    assert str(host.choose()) == f"{forced} (CLOUDLET_ACCEL asks for it)"
    assert not host.cache.exists() and not host.tries


@pytest.mark.parametrize("forced", ["", "KVM", "xen"])
def test_forced_to_what_is_none(host: Host, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("CLOUDLET_ACCEL", forced)
    with pytest.raises(AcceleratorUnknown, match=f"CLOUDLET_ACCEL is '{forced}', expected kvm or tcg"):
        host.choose()


def test_a_guest_that_runs(host: Host) -> None:
    """Once in a boot; where it is remembered is told."""
    host.qemu(WORKS)
    for _ in range(2):
        found = host.choose(30.0)
        assert found.name == "kvm"
        assert found.reason.startswith("a guest ran under KVM; remembered until the next boot in ")
        assert f"{host.cache}, without which KVM is tried again" in found.reason
    assert host.tries == 1
    host.cache.unlink()
    assert host.choose(30.0).name == "kvm"
    assert host.tries == 2


def test_a_guest_that_hangs(host: Host) -> None:
    """QEMU is given its time, then ended. That is remembered, for ten minutes."""
    began = time.monotonic()
    found = host.choose()
    assert time.monotonic() - began < 10
    assert found.name == "tcg"
    assert found.reason.startswith(
        f"a guest under KVM did nothing within 0.3 s; remembered for 10 min in {host.cache}, without which"
    )
    assert not Path("/proc", str(host.pids[0])).exists()
    assert host.choose() == found
    assert host.tries == 1


def test_it_is_tried_again_less_and_less_often(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    for _ in range(10):
        host.choose(0.05)
        waits.append(round(host.remembered["until"] - accelerator._now_s()))
        later(monkeypatch, waits[-1] + 1)
    assert waits == [600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, 86400, 86400]
    assert host.tries == 10
    # What did not work because the host was busy works when it is not.
    host.qemu(WORKS)
    assert host.choose(30.0).name == "kvm"
    host.qemu(HANGS)
    later(monkeypatch, 10 * 86400)
    assert host.choose().name == "kvm"


def test_a_qemu_that_ends(host: Host) -> None:
    host.qemu("echo $$ >>'{log}'; echo hm; echo 'qemu: failed to initialize kvm: No such device' >&2; echo; exit 1")
    for _ in range(2):
        found = host.choose(30.0)
        assert found.name == "tcg"
        assert found.reason.startswith(
            "QEMU ended under KVM: qemu: failed to initialize kvm: No such device; remembered"
        )
    assert host.tries == 1


def test_that_rights_are_missing_is_not_remembered(host: Host) -> None:
    """Neither when QEMU says so, nor when the device does."""
    host.qemu("echo $$ >>'{log}'; echo 'Could not access KVM kernel module: Permission denied' >&2; exit 1")
    for _ in range(2):
        assert host.choose(30.0) == Choice(
            "tcg", "QEMU ended under KVM: Could not access KVM kernel module: Permission denied"
        )
    assert host.tries == 2 and not host.cache.exists()
    host.qemu(WORKS)
    assert host.choose(30.0).name == "kvm"


def test_a_device_that_somebody_may_not_open() -> None:
    """It is remembered that KVM works, and yet this user has no use of it; when he has, he is believed at once."""
    with open_folder() as folder:
        host = Host(folder)
        host.device.touch()
        host.device.chmod(0o600)
        host.qemu(WORKS)
        assert host.choose(30.0).name == "kvm"
        host.cache.parent.chmod(0o755)
        host.device.chmod(0)
        group = host.device.group()
        said = as_nobody(lambda: str(host.choose()))
        assert said == f"tcg ({host.device} may not be opened by this user; its group is {group})"
        host.device.chmod(0o666)
        assert as_nobody(lambda: host.choose().name) == "kvm"
    assert not host.cache.exists()


def test_no_device(host: Host) -> None:
    host.device.unlink()
    assert host.choose() == Choice("tcg", f"there is no {host.device}")
    host.device.mkdir()
    assert host.choose() == Choice("tcg", f"{host.device} cannot be opened: Is a directory")
    host.device.rmdir()
    host.device.touch()
    host.qemu(WORKS)
    assert host.choose(30.0).name == "kvm"


@pytest.mark.parametrize(
    "change",
    [
        {"host": ["another boot", "{qemu}", "{device}"]},
        {"host": ["{boot}", "/other/qemu", "{device}"]},
        {"host": ["{boot}", "{qemu}", "/dev/other"]},
        {"host": 1},
        {"accelerator": "xen"},
        {"until": "tomorrow"},
        {"reason": None},
        {"failures": 10**9},
        {"failures": "many"},
    ],
)
def test_what_was_remembered_otherwise_is_found_out_again(host: Host, change: dict[str, Any]) -> None:
    host.choose()
    values = {**host.remembered, **change}
    if isinstance(values["host"], list):
        boot = host.remembered["host"][0]
        values["host"] = [
            part.format(boot=boot, qemu=host.folder / "qemu", device=host.device) for part in values["host"]
        ]
    host.cache.write_text(json.dumps(values))
    host.choose()
    assert host.tries == 2
    host.choose()
    assert host.tries == 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "kvm", '{"host": {"boot": "1", "binary": "qemu"}, "accelerator": "tcg"}']
)
def test_a_cache_that_is_none(host: Host, text: str) -> None:
    host.cache.parent.mkdir()
    host.cache.write_text(text)
    assert host.choose().name == "tcg"
    assert host.remembered["accelerator"] == "tcg"
    assert host.tries == 1


def test_a_cache_that_cannot_be_written(host: Host) -> None:
    """Then nothing is told of it."""
    host.cache.parent.touch()
    for _ in range(2):
        assert host.choose() == Choice("tcg", "a guest under KVM did nothing within 0.3 s")
    assert host.tries == 2


def test_the_boot_sector_is_what_its_source_says(tmp_path: Path) -> None:
    source = Path(accelerator.__file__).with_name("accelerator_probe.S")
    subprocess.run(["as", "--64", source, "-o", tmp_path / "probe.o"], check=True)
    linked = ["-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary", tmp_path / "probe.o"]
    subprocess.run(["ld", *linked, "-o", tmp_path / "probe"], check=True)
    assert (tmp_path / "probe").read_bytes() == accelerator._BOOT_SECTOR


def test_emulation_runs_the_boot_sector() -> None:
    assert accelerator.try_guest(qemu.find().binary, accelerator.TCG, 30.0) is None


def test_this_host(tmp_path: Path) -> None:
    """Whatever it is: with its device it is tried, without one it is told."""
    found = accelerator.choose(qemu.find().binary, tmp_path / "cache")
    assert (tmp_path / "cache").exists() == ("remembered" in found.reason)
    if not os.access(accelerator.DEVICE, os.F_OK):
        assert found == Choice("tcg", "there is no /dev/kvm")
