# SPDX-License-Identifier: Apache-2.0
"""Which accelerator is used."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import accelerator, qemu
from cloudlet_ext.hypervisor.errors import AcceleratorUnknown


@pytest.fixture(autouse=True)
def _not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDLET_ACCEL", raising=False)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("forced", ["kvm", "tcg"])
def test_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("CLOUDLET_ACCEL", forced)
    assert accelerator.choose("/no/such/qemu", tmp_path / "cache") == forced
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("forced", ["", "KVM", "xen"])
def test_forced_to_what_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv("CLOUDLET_ACCEL", forced)
    with pytest.raises(AcceleratorUnknown, match=f"CLOUDLET_ACCEL is '{forced}', expected kvm or tcg"):
        accelerator.choose("qemu", tmp_path / "cache")


@pytest.mark.parametrize("remembered", ["kvm", "tcg"])
def test_remembered(tmp_path: Path, remembered: str) -> None:
    cache = tmp_path / "cache"
    cache.write_text(json.dumps({"host": {"boot": boot_id(), "binary": "/no/such"}, "accelerator": remembered}))
    assert accelerator.choose("/no/such", cache) == remembered


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "kvm",
        '{"host": 1, "accelerator": "kvm"}',
        json.dumps({"host": {"boot": "another", "binary": "/bin/false"}, "accelerator": "kvm"}),
        json.dumps({"host": {"boot": boot_id(), "binary": "/other"}, "accelerator": "kvm"}),
        json.dumps({"host": {"boot": boot_id(), "binary": "/bin/false"}, "accelerator": "xen"}),
    ],
)
def test_what_was_remembered_otherwise_is_found_out_again(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "folder" / "cache"
    cache.parent.mkdir()
    cache.write_text(text)
    assert accelerator.choose("/bin/false", cache) == "tcg"
    assert json.loads(cache.read_text())["accelerator"] == "tcg"
    assert accelerator.choose("/bin/false", cache) == "tcg"


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert accelerator.choose("/bin/false", tmp_path / "file" / "cache") == "tcg"


def test_a_machine_that_says_nothing_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that hangs is given its time, then ended; one that ends does not work either."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("without /dev/kvm nothing is started")
    monkeypatch.setattr(accelerator, "_PROBE_TIMEOUT_S", 0.3)
    hangs = tmp_path / "qemu"
    hangs.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    hangs.chmod(0o755)
    begun = time.monotonic()
    assert not accelerator.works(str(hangs))
    assert time.monotonic() - begun < 10
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
    assert not accelerator.works("/bin/false")


def test_a_machine_that_says_its_letter_works(tmp_path: Path) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("without /dev/kvm nothing is started")
    # The same machine under emulation: the boot sector is right, whatever /dev/kvm is like here.
    emulated = tmp_path / "qemu"
    emulated.write_text('#!/bin/sh\nshift 2\nexec qemu-system-x86_64 -machine pc,accel=tcg "$@"\n')
    emulated.chmod(0o755)
    assert accelerator.works(str(emulated))


def test_the_boot_sector_is_what_its_source_says(tmp_path: Path) -> None:
    source = Path(accelerator.__file__).with_name("accelerator_probe.S")
    subprocess.run(["as", "--64", source, "-o", tmp_path / "probe.o"], check=True)
    linked = ["-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary", tmp_path / "probe.o"]
    subprocess.run(["ld", *linked, "-o", tmp_path / "probe"], check=True)
    assert (tmp_path / "probe").read_bytes() == accelerator._BOOT_SECTOR


def test_emulation_runs_the_boot_sector() -> None:
    assert accelerator.works(qemu.find().binary, accelerator.TCG)
