# SPDX-License-Identifier: Apache-2.0
"""The disk of a QEMU that is paused at the end of a migration is read while that QEMU lives."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloudlet_ext.engine.qcow2 import Qcow2Image, Qcow2Layers

_LIMIT_S = 30.0


class Monitor:
    """The least of QMP that this test needs."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_LIMIT_S)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        self._lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def io(self, words: str) -> None:
        told = self("human-monitor-command", **{"command-line": f'qemu-io disk "{words}"'})
        assert "error" not in told.lower() and "invalid" not in told.lower(), told

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "64M"], check=True)
    subprocess.run(["qemu-io", "-c", "write -P 1 0 32M", base], check=True, capture_output=True)
    backed: list[str | Path] = ["-b", base, "-F", "qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backed, top], check=True)
    return base, top


@pytest.fixture
def monitor(tmp_path: Path, images: tuple[Path, Path]) -> Iterator[Monitor]:
    path = tmp_path / "qmp"
    disk = f"file={images[1]},id=disk,if=none,format=qcow2,discard=unmap,detect-zeroes=unmap"
    command = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-S"]
    command += ["-drive", disk, "-qmp", f"unix:{path},server=on,wait=off"]
    process = subprocess.Popen(command)
    try:
        limit = time.monotonic() + _LIMIT_S
        while not path.exists():
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.01)
        monitor = Monitor(path)
        yield monitor
        monitor.close()
    finally:
        process.kill()
        process.wait()


def pause_for_good(monitor: Monitor) -> None:
    monitor("migrate", uri="exec:cat >/dev/null")
    limit = time.monotonic() + _LIMIT_S
    while monitor("query-migrate").get("status") != "completed":
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_top_layer_of_a_paused_machine(monitor: Monitor, images: tuple[Path, Path]) -> None:
    monitor.io("write -P 2 1M 300k")
    monitor.io("write -P 0 4M 128k")
    monitor.io("write -P 3 8M 1M")
    monitor.io("discard 8M 512k")
    monitor.io("write -z -u 40M 64k")
    pause_for_good(monitor)
    with Qcow2Image.open(images[1]) as top:
        layers = Qcow2Layers([top])
        numbers, zero = layers.changed()
        content = layers.read(numbers)
        told = np.full(layers.chunks, -1)
        told[numbers] = content[:, 100]
        assert (content == content[:, :1]).all(axis=1).sum() == len(content)
        assert (told[256:331] == 2).all()
        assert (told[331:336] == 1).all(), "copied on write from the base"
        assert (told[1024:1056] == 0).all()
        assert (told[2048:2176] == 0).all()
        assert (told[2176:2304] == 3).all()
        assert (told[10240:10256] == 0).all()
        assert (told >= 0).sum() == 80 + 32 + 256 + 16
        expected_zero = [*range(1024, 1056), *range(2048, 2176), *range(10240, 10256)]
        assert numbers[zero].tolist() == expected_zero
