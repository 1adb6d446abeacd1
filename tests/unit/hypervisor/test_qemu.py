# SPDX-License-Identifier: Apache-2.0
"""Finding QEMU: the real one, and scripts that pretend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import qemu
from cloudlet_ext.hypervisor.errors import MachineTypeUnknown, QemuMissing, QemuTooOld

TYPES = """Supported machines are:
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-8.2)
pc-i440fx-8.2        Standard PC (i440FX + PIIX, 1996) (default)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-8.2)
pc-q35-8.2           Standard PC (Q35 + ICH9, 2009)
pc-q35-8.1           Standard PC (Q35 + ICH9, 2009)
"""


def pretend(folder: Path, version: str, types: str = TYPES, status: int = 0) -> Path:
    """A program that says what QEMU would say, and notes that it was asked."""
    program = folder / "qemu"
    program.write_text(
        f'#!/bin/sh\necho "$1" >> {folder}/asked\n'
        f'case "$1" in\n--version) cat <<"END"\n{version}\nEND\n;;\n*) cat <<"END"\n{types}\nEND\n;;\nesac\n'
        f"echo went wrong >&2\nexit {status}\n"
    )
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def _not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDLET_QEMU", raising=False)


def test_the_real_one() -> None:
    found = qemu.find()
    assert found.binary == shutil.which("qemu-system-x86_64")
    assert found.version >= qemu.OLDEST
    assert found.newest_q35 in found.machine_types
    qemu.require_machine_type(found, found.newest_q35)


def test_one_that_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = pretend(tmp_path, "QEMU emulator version 8.2.0 (Debian 1:8.2.0)")
    monkeypatch.setenv("CLOUDLET_QEMU", str(program))
    found = qemu.find()
    assert (found.binary, found.version, found.version_text) == (str(program), (8, 2, 0), "8.2.0")
    assert found.machine_types == ("pc-i440fx-8.2", "pc-q35-8.2", "pc-q35-8.1")
    assert found.newest_q35 == "pc-q35-8.2"
    qemu.require_machine_type(found, "pc-q35-8.1")
    with pytest.raises(MachineTypeUnknown, match=r"pc-q35-10\.0 is needed; QEMU 8\.2\.0 here knows up to pc-q35-8\.2"):
        qemu.require_machine_type(found, "pc-q35-10.0")


@pytest.mark.parametrize("version", ["8.1.5", "2.12.0"])
def test_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("CLOUDLET_QEMU", str(pretend(tmp_path, f"QEMU emulator version {version}")))
    with pytest.raises(QemuTooOld) as caught:
        qemu.find(tmp_path / "cache")
    assert f"is QEMU {version}, 8.2 or newer is needed" in str(caught.value)
    assert caught.value.exit_code == 7
    assert not (tmp_path / "cache").exists()


def test_missing_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    plain.chmod(0o755)
    for program, reason in (
        (tmp_path / "none", "no such program"),
        (tmp_path, "no such program"),
        (plain, "Exec format error"),
        (pretend(tmp_path, "GNU Emacs 29.1"), "does not tell its version"),
    ):
        monkeypatch.setenv("CLOUDLET_QEMU", str(program))
        with pytest.raises(QemuMissing, match=reason) as caught:
            qemu.find()
        assert str(program) in str(caught.value)
    monkeypatch.setenv("CLOUDLET_QEMU", str(pretend(tmp_path, "QEMU emulator version 9.0.0", "microvm  x\n")))
    with pytest.raises(QemuMissing, match="knows no q35 machine"):
        qemu.find()
    monkeypatch.setenv("CLOUDLET_QEMU", str(pretend(tmp_path, "QEMU emulator version 9.0.0", status=1)))
    with pytest.raises(QemuMissing, match="went wrong"):
        qemu.find()


def test_nothing_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuMissing, match=r"QEMU \(qemu-system-x86_64\) cannot be used"):
        qemu.find()


def test_what_it_said_is_remembered_while_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "folder" / "cache"
    monkeypatch.setenv("CLOUDLET_QEMU", str(pretend(tmp_path, "QEMU emulator version 8.2.0")))
    found = qemu.find(cache)
    asked = (tmp_path / "asked").read_text()
    assert qemu.find(cache) == found
    assert (tmp_path / "asked").read_text() == asked
    pretend(tmp_path, "QEMU emulator version 9.0.0")
    assert qemu.find(cache).version == (9, 0, 0)
    for text in ("", "{}", "[]", '{"identity": 1}'):
        cache.write_text(text)
        assert qemu.find(cache).version == (9, 0, 0)
    cache.unlink()
    cache.mkdir()
    assert qemu.find(cache).version == (9, 0, 0)
